//! What goes wrong, in CNI's words: a code for programs, and a message that says what to do.

use std::fmt::Display;

use serde_json::{Map, Value, json};

/// The codes of the specification (CNI 1.1.0, section 5), and from 100 on this plugin's own.
pub(crate) mod code {
    /// The configuration's version is not spoken here.
    pub(crate) const VERSION: u64 = 1;
    /// A key, or its value, is not supported.
    pub(crate) const UNSUPPORTED: u64 = 2;
    /// A variable of the environment is missing or wrong.
    pub(crate) const ENVIRONMENT: u64 = 4;
    /// A file could not be read or written.
    pub(crate) const IO: u64 = 5;
    /// What is no JSON, or of other types than it should be.
    pub(crate) const DECODE: u64 = 6;
    /// The configuration is wrong.
    pub(crate) const CONFIG: u64 = 7;
    /// The network namespace is the caller's own.
    pub(crate) const NETNS: u64 = 8;
    /// It may be well in a moment.
    pub(crate) const TRY_AGAIN: u64 = 11;
    /// Nothing can be attached now.
    pub(crate) const NOT_AVAILABLE: u64 = 50;
    /// Nothing can be attached now, and what is attached may not be reachable.
    pub(crate) const NOT_AVAILABLE_LIMITED: u64 = 51;
    /// weftd refused, or failed.
    pub(crate) const WEFTD: u64 = 100;
    /// Another plugin that this one calls is missing, or gave no answer that can be understood.
    pub(crate) const DELEGATE: u64 = 101;
    /// What should be there is not, or not as it was made.
    pub(crate) const NOT_AS_MADE: u64 = 102;
}

/// Why a call has no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) code: u64,
    pub(crate) msg: String,
    pub(crate) details: String,
}

impl Error {
    pub(crate) fn new(code: u64, msg: impl Display) -> Self {
        Self { code, msg: msg.to_string(), details: String::new() }
    }

    pub(crate) fn with(self, details: impl Display) -> Self {
        Self { details: details.to_string(), ..self }
    }

    /// As it is printed.
    pub(crate) fn to_json(&self, version: &str) -> Value {
        let mut fields = Map::new();
        fields.insert("cniVersion".to_owned(), version.into());
        fields.insert("code".to_owned(), self.code.into());
        fields.insert("msg".to_owned(), json!(self.msg));
        if !self.details.is_empty() {
            fields.insert("details".to_owned(), json!(self.details));
        }
        Value::Object(fields)
    }
}

/// A file that could not be read or written.
pub(crate) fn io(doing: &str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
    let what = format!("cannot {doing} {}", path.display());
    move |error| Error::new(code::IO, format!("{what}: {error}"))
}
