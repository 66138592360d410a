//! A setting's value, whatever its type.

use serde::Serialize;
use std::fmt::{self, Write};

/// A setting's value. It prints as TOML; as JSON it is a number, a text, a list, or null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Nothing is set, and something else decides.
    Unset,
    /// `true` or `false`.
    Boolean(bool),
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// A list of numbers.
    List(Vec<i64>),
}

impl Value {
    pub(super) fn of_text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn of_option(text: Option<String>) -> Self {
        text.map_or(Self::Unset, Self::Text)
    }

    pub(super) fn of_number(number: impl TryInto<i64>) -> Self {
        Self::Integer(number.try_into().unwrap_or(i64::MAX))
    }

    /// Bytes in the largest unit that they are a multiple of.
    pub(crate) fn of_bytes(bytes: u64) -> Self {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units.into_iter().find(|(shift, _)| bytes != 0 && bytes % (1 << shift) == 0);
        unit.map_or_else(
            || Self::of_number(bytes),
            |(shift, unit)| Self::Text(format!("{}{unit}", bytes >> shift)),
        )
    }

    /// The number; 0 for what is none.
    pub(super) fn number(&self) -> u32 {
        match self {
            Self::Integer(number) => u32::try_from(*number).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    /// The text, as far as there is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("unset"),
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::List(values) => write!(f, "{values:?}"),
            Self::Text(text) => {
                f.write_char('"')?;
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(f, "\\{c}")?,
                        c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                        c => f.write_char(c)?,
                    }
                }
                f.write_char('"')
            }
        }
    }
}
