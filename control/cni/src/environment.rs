//! What the runtime says by the environment.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, code};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Command {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version];

    /// The variables that it can't do without.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc => &["CNI_PATH"],
            Self::Status | Self::Version => &[],
        }
    }
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) command: Command,
    /// The runtime's name of the container; empty where a call is about none.
    pub(crate) container: String,
    pub(crate) ifname: String,
    /// The container's network namespace; it may be gone when it is to be deleted.
    pub(crate) netns: Option<PathBuf>,
    /// `CNI_ARGS`, in their order.
    pub(crate) args: Vec<(String, String)>,
    /// Where plugins are, in the order in which they are looked for.
    pub(crate) path: Vec<PathBuf>,
}

impl Call {
    /// Reads the variables. Names are looked at later: an unreadable configuration is said before.
    pub(crate) fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let text = |name: &str| match get(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(Err(_)) => Err(Error::new(code::ENVIRONMENT, format!("{name} is no UTF-8"))),
        };
        let Some(name) = text("CNI_COMMAND")? else {
            return Err(missing(&["CNI_COMMAND"]));
        };
        let Some(command) = Command::ALL.into_iter().find(|command| command.name() == name) else {
            return Err(Error::new(code::ENVIRONMENT, format!("unknown CNI_COMMAND: {name}")));
        };
        let mut absent = Vec::new();
        for name in command.needs() {
            if text(name)?.is_none() {
                absent.push(*name);
            }
        }
        if !absent.is_empty() {
            return Err(missing(&absent));
        }
        let args = text("CNI_ARGS")?.unwrap_or_default();
        let pairs = args.split(';').filter(|pair| !pair.is_empty()).map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::new(code::ENVIRONMENT, format!("CNI_ARGS: {pair:?} is no KEY=VALUE"))),
        });
        Ok(Self {
            command,
            container: text("CNI_CONTAINERID")?.unwrap_or_default(),
            ifname: text("CNI_IFNAME")?.unwrap_or_default(),
            netns: text("CNI_NETNS")?.map(PathBuf::from),
            args: pairs.collect::<Result<_, _>>()?,
            path: get("CNI_PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default(),
        })
    }

    /// The value of one of `CNI_ARGS`.
    pub(crate) fn arg(&self, key: &str) -> Option<&str> {
        let found = self.args.iter().rev().find(|(there, _)| there == key);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// As a DEL of another attachment would be; none if that has names that no DEL takes.
    pub(crate) fn del_of(&self, container: &str, ifname: &str) -> Option<Self> {
        let (container, ifname) = (container.to_owned(), ifname.to_owned());
        let path = self.path.clone();
        let call = Self { command: Command::Del, container, ifname, netns: None, args: Vec::new(), path };
        call.check_names().is_ok().then_some(call)
    }

    /// Whether container and interface have names that they can have, where the call is about some.
    pub(crate) fn check_names(&self) -> Result<(), Error> {
        if !matches!(self.command, Command::Add | Command::Del | Command::Check) {
            return Ok(());
        }
        if !is_name(&self.container) {
            let msg = format!("CNI_CONTAINERID: {:?} is no container id", self.container);
            return Err(Error::new(code::ENVIRONMENT, msg));
        }
        let wrong = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
        let ifname = self.ifname.as_str();
        if ifname.len() > 15 || ifname == "." || ifname == ".." || ifname.contains(wrong) {
            let msg = format!(
                "CNI_IFNAME: {ifname:?} is no name for an interface: 1 to 15 bytes, without '/', ':' and blanks"
            );
            return Err(Error::new(code::ENVIRONMENT, msg));
        }
        Ok(())
    }
}

fn missing(names: &[&str]) -> Error {
    Error::new(code::ENVIRONMENT, format!("required env variables [{}] missing", names.join(",")))
}

/// What containers and networks may be called: it stands in paths.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Call, Error> {
        Call::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn what_is_missing_is_named_all_at_once() {
        for (pairs, says) in [
            (&[][..], "[CNI_COMMAND]"),
            (&[("CNI_COMMAND", "")], "[CNI_COMMAND]"),
            (&[("CNI_COMMAND", "add")], "unknown CNI_COMMAND: add"),
            (&[("CNI_COMMAND", "ADD")], "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]"),
            (&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "eth0")], "[CNI_CONTAINERID]"),
            (&[("CNI_COMMAND", "GC")], "[CNI_PATH]"),
        ] {
            let error = read(pairs).unwrap_err();
            assert_eq!(error.code, 4);
            assert!(error.msg.contains(says), "{error:?}");
        }
        assert!(read(&[("CNI_COMMAND", "VERSION")]).is_ok());
    }

    #[test]
    fn arguments_are_pairs_and_the_last_counts() {
        let call = [("CNI_COMMAND", "STATUS"), ("CNI_ARGS", "IgnoreUnknown=1;MAC=a;X=;MAC=b=c")];
        let call = read(&call).unwrap();
        assert_eq!((call.arg("MAC"), call.arg("X"), call.arg("IP")), (Some("b=c"), None, None));
        assert_eq!(read(&[("CNI_COMMAND", "STATUS"), ("CNI_ARGS", "MAC")]).unwrap_err().code, 4);
    }

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        let check = |container: &str, ifname: &str| {
            let call = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", container), ("CNI_IFNAME", ifname)];
            read(&call).unwrap().check_names().map_err(|error| error.code)
        };
        assert_eq!(check("c1.x_y-z", "eth0"), Ok(()));
        for (container, ifname) in [
            ("../x", "eth0"),
            ("-c", "eth0"),
            ("a/b", "eth0"),
            ("c", ".."),
            ("c", "a/b"),
            ("c", "a:b"),
            ("c", "a b"),
            ("c", "sixteen-bytes-16"),
        ] {
            assert_eq!(check(container, ifname), Err(4), "{container} {ifname}");
        }
    }
}
