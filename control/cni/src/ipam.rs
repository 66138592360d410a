//! Addresses, which other plugins give: how those are called, and what they are told.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::environment::{Call, Command};
use crate::error::{Error, code};
use crate::version::Version;

/// A plugin that this one calls.
pub(crate) struct Delegate<'a> {
    name: &'a str,
    program: PathBuf,
    call: &'a Call,
}

/// The error that a plugin prints.
#[derive(Deserialize)]
struct Printed {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// For whom a plugin is called, if not for the container of this call.
#[derive(Clone, Copy)]
pub(crate) struct For<'a> {
    pub(crate) container: &'a str,
    pub(crate) ifname: &'a str,
}

impl<'a> Delegate<'a> {
    /// Looks for the plugin; none if there is none of this name.
    pub(crate) fn find(name: &'a str, call: &'a Call) -> Result<Option<Self>, Error> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(Error::new(code::CONFIG, format!("{name:?} is no name of a plugin")));
        }
        let program = call.path.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
        Ok(program.map(|program| Self { name, program, call }))
    }

    /// The same; there must be one.
    pub(crate) fn get(name: &'a str, call: &'a Call) -> Result<Self, Error> {
        Self::find(name, call)?.ok_or_else(|| {
            let path = std::env::join_paths(&call.path).unwrap_or_default();
            let msg = format!("there is no plugin {name:?} in CNI_PATH ({})", Path::new(&path).display());
            Error::new(code::DELEGATE, msg)
        })
    }

    /// Calls it, and gives what it printed. If it does not know the configuration's version, then with the newest that has
    /// the same calls: IPAM plugins may be older than the runtime.
    pub(crate) fn run(
        &self,
        command: Command,
        conf: &Map<String, Value>,
        other: Option<For<'_>>,
    ) -> Result<Vec<u8>, Error> {
        match self.run_once(command, conf, other) {
            Err(error) if error.code == code::VERSION => {
                let mut older = conf.clone();
                older.insert("cniVersion".to_owned(), Version::V1_0.text().into());
                self.run_once(command, &older, other)
            }
            outcome => outcome,
        }
    }

    fn run_once(
        &self,
        command: Command,
        conf: &Map<String, Value>,
        other: Option<For<'_>>,
    ) -> Result<Vec<u8>, Error> {
        let failed =
            |what: &str| Error::new(code::DELEGATE, format!("plugin {}: {what}", self.program.display()));
        let mut process = Process::new(&self.program);
        process.env("CNI_COMMAND", command.name());
        if let Some(For { container, ifname }) = other {
            process.env("CNI_CONTAINERID", container).env("CNI_IFNAME", ifname).env("CNI_NETNS", "");
            process.env_remove("CNI_ARGS");
        } else if self.call.netns.is_none() {
            process.env("CNI_NETNS", "");
        }
        let spawned = process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| failed(&error.to_string()))?;
        let text = Value::Object(conf.clone()).to_string();
        // A plugin that ends without having read says why by its answer.
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(text.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed(&error.to_string()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        match serde_json::from_slice::<Printed>(&output.stdout) {
            Ok(Printed { code, msg, details }) => {
                Err(Error { code, msg: format!("plugin {}: {msg}", self.name), details })
            }
            Err(_) => Err(failed(&format!("it failed without saying why ({})", output.status))),
        }
    }

    /// The same, for commands that came with version 1.1.0: a plugin that is older is not asked. How it would refuse depends on
    /// its age.
    pub(crate) fn run_if_known(&self, command: Command, conf: &Map<String, Value>) -> Result<(), Error> {
        let answer = self.run_once(Command::Version, conf, None)?;
        let versions: Spoken = serde_json::from_slice(&answer).unwrap_or_default();
        if !versions.supported.iter().any(|version| version == Version::V1_1.text()) {
            return Ok(());
        }
        self.run_once(command, conf, None).map(|_| ())
    }
}

/// The answer to VERSION.
#[derive(Default, Deserialize)]
struct Spoken {
    #[serde(rename = "supportedVersions", default)]
    supported: Vec<String>,
}
