//! `weft-cni`: the plugin by which container runtimes attach their pods to weft (CNI 0.3.1 to 1.1.0). Installed under the name
//! `flannel`, it takes flannel's configuration and does what flannel's plugin and the bridge plugin did.
//!
//! A client of weftd that lives for some milliseconds: it reads the environment (`environment`) and the configuration (`conf`),
//! decides where addresses come from (`plan`) and how the pod is plugged in (`attach`), and asks weftd. The verbs are in files
//! of their own: `add`, `del`, `check`, `gc`. All that it leaves on disk is flannel's (`flannel`) and the notes of what was
//! deleted while weftd was away (`weftd`).

mod add;
mod attach;
mod check;
mod conf;
mod del;
mod environment;
mod error;
mod flannel;
mod gc;
mod host_local;
mod ipam;
mod netns;
mod plan;
mod result;
mod version;
mod weftd;

use std::fmt::Display;
use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::Value;

use conf::{Conf, version_of};
use environment::{Call, Command};
use error::{Error, code};
use version::Version;

/// What it says of itself.
const ABOUT: &str = concat!(
    "weft-cni ",
    env!("CARGO_PKG_VERSION"),
    ": the CNI plugin of weft; speaks CNI 0.3.1, 0.4.0, 1.0.0 and 1.1.0.\n\
     Container runtimes call it. `weft cni install` puts it where they look for it."
);

/// Says something on standard error, which runtimes may log.
pub(crate) fn say(what: Option<impl Display>) {
    if let Some(what) = what {
        // Where nobody listens, nobody has to know.
        let _ = writeln!(std::io::stderr(), "weft-cni: {what}");
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.details.is_empty() {
            true => f.write_str(&self.msg),
            false => write!(f, "{} ({})", self.msg, self.details),
        }
    }
}

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        println!("{ABOUT}");
        return ExitCode::SUCCESS;
    }
    let mut version = Version::V1_1;
    match answer(&mut version) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(answer)) => print(&answer),
        Err(error) => {
            print(&error.to_json(version.text()));
            ExitCode::FAILURE
        }
    }
}

fn print(answer: &Value) -> ExitCode {
    match writeln!(std::io::stdout(), "{answer}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Carries out the call; `version` is that of the answer, as soon as it is known.
fn answer(version: &mut Version) -> Result<Option<Value>, Error> {
    let call = match Call::read(|name| std::env::var_os(name)) {
        Ok(call) => call,
        Err(error) => {
            if std::env::var_os("CNI_COMMAND").is_none() {
                say(Some(ABOUT));
            }
            return Err(error);
        }
    };
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(conf::LIMIT + 1).read_to_end(&mut text);
    read.map_err(|error| Error::new(code::IO, format!("standard input cannot be read: {error}")))?;
    // Read to its end before, so that whoever writes it is not cut off.
    if call.command == Command::Version {
        return Ok(Some(version::answer()));
    }
    if text.len() as u64 > conf::LIMIT {
        let limit = conf::LIMIT >> 20;
        return Err(Error::new(
            code::DECODE,
            format!("the configuration on standard input is longer than {limit} MiB"),
        ));
    }
    *version = version_of(&text);
    let conf = Conf::read(&text, &call)?;
    match call.command {
        Command::Add => {
            let result = add::add(&conf, &call)?;
            let result = serde_json::to_value(result);
            return result.map(Some).map_err(|error| Error::new(code::IO, error));
        }
        Command::Del => del::del(&conf, &call)?,
        Command::Check => check::check(&conf, &call)?,
        Command::Gc => gc::gc(&conf, &call)?,
        Command::Status => gc::status(&conf, &call)?,
        Command::Version => {}
    }
    Ok(None)
}
