//! The versions of the specification that are spoken.

use serde_json::{Value, json};

use crate::environment::Command;
use crate::error::{Error, code};

/// All of them, the oldest first.
const SUPPORTED: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(usize);

impl Version {
    pub(crate) const OLDEST: Self = Self(0);
    pub(crate) const V0_4: Self = Self(1);
    pub(crate) const V1_0: Self = Self(2);
    /// The newest.
    pub(crate) const V1_1: Self = Self(3);

    /// The version of a configuration; one that says none is older than all.
    pub(crate) fn of(text: Option<&str>) -> Result<Self, Error> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or("0.1.0");
        SUPPORTED.iter().position(|known| *known == text).map(Self).ok_or_else(|| {
            let details = format!("the configuration is {text:?}, this plugin speaks {SUPPORTED:?}");
            Error::new(code::VERSION, "incompatible CNI versions").with(details)
        })
    }

    pub(crate) fn text(self) -> &'static str {
        SUPPORTED.get(self.0).copied().unwrap_or("1.1.0")
    }

    /// Whether this version has the command.
    pub(crate) fn allows(self, command: Command) -> Result<(), Error> {
        let since = match command {
            Command::Check => Self::V0_4,
            Command::Gc | Command::Status => Self::V1_1,
            Command::Add | Command::Del | Command::Version => return Ok(()),
        };
        if self >= since {
            return Ok(());
        }
        let (command, text) = (command.name(), self.text());
        Err(Error::new(code::VERSION, format!("config version {text:?} does not allow {command}")))
    }
}

/// The answer to VERSION.
pub(crate) fn answer() -> Value {
    json!({ "cniVersion": Version::V1_1.text(), "supportedVersions": SUPPORTED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_allowed_from_its_version_on() {
        let allows = |version: &str, command| {
            Version::of(Some(version)).unwrap().allows(command).map_err(|error| error.code)
        };
        assert_eq!(allows("0.3.1", Command::Check), Err(1));
        assert_eq!(allows("0.4.0", Command::Check), Ok(()));
        assert_eq!(allows("1.0.0", Command::Gc), Err(1));
        assert_eq!(allows("1.0.0", Command::Status), Err(1));
        assert_eq!(allows("1.1.0", Command::Gc), Ok(()));
        for wrong in [None, Some(""), Some("0.2.0"), Some("1.2.0"), Some("x")] {
            assert_eq!(Version::of(wrong).unwrap_err().code, 1, "{wrong:?}");
        }
    }
}
