//! What can go wrong between weft and its node.

use std::io;
use std::path::{Path, PathBuf};

/// Something about the node is not as weft needs it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No interface has this name.
    #[error("there is no interface {name:?}; this network namespace has: {existing}")]
    NoInterface {
        /// The name that was asked for.
        name: String,
        /// The names there are, with commas.
        existing: String,
    },
    /// Neither IPv4 nor IPv6 has a default route, so the uplink must be named.
    #[error(
        "there is no default route, for IPv4 or IPv6, that would say which interface is the uplink; \
         name the interface in the configuration"
    )]
    NoDefaultRoute,
    /// No interface is as the uplink was described.
    #[error("no interface is {wanted}; this network namespace has: {existing}")]
    NoMatch {
        /// What was asked for.
        wanted: String,
        /// The names there are, with commas.
        existing: String,
    },
    /// What is to describe the uplink can't be read.
    #[error("{pattern:?} is no regular expression: {reason}")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The interface has no MAC address.
    #[error("interface {name:?} is no Ethernet interface: it has no 6-byte MAC address")]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// The interface is not one that weft may delete.
    #[error("interface {name:?} is no TAP, so weft did not make it and leaves it alone")]
    NotTap {
        /// The interface.
        name: String,
    },
    /// A program has the TAP open.
    #[error(
        "TAP {name:?}{} is held open by a program, most likely a weftd that runs: end it first; nothing was removed",
        .netns.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default()
    )]
    Held {
        /// The interface.
        name: String,
        /// Its network namespace; none: the current one.
        netns: Option<PathBuf>,
    },
    /// The kernel refused a request.
    #[error("cannot {doing}: {source}")]
    Kernel {
        /// What was asked for, with the names of things.
        doing: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A network namespace cannot be entered.
    #[error("cannot enter the network namespace {}: {source}; is the pod gone?", path.display())]
    Namespace {
        /// The namespace's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no network namespace.
    #[error(
        "{} is no network namespace: give a path such as /run/netns/NAME or /proc/PID/ns/net (a plain file is left \
         there when a namespace has been unmounted)",
        path.display()
    )]
    NotANamespace {
        /// The path that was given.
        path: PathBuf,
    },
    /// A file or directory cannot be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was attempted, such as "write".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A kernel setting does not have the form that it is documented to have.
    #[error("{} holds {content:?}, not {expected}", path.display())]
    Setting {
        /// The file under `/proc/sys`.
        path: PathBuf,
        /// What it holds.
        content: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A program is needed that is not there.
    #[error("the program {program} is not there: install it{}", if program == "nft" {
        " (nftables), or set EnableNFTables to false where the network is configured"
    } else {
        " (iptables), or set EnableNFTables to true where the network is configured, and install nftables"
    })]
    NoProgram {
        /// Its name.
        program: String,
    },
    /// A program has had no success.
    #[error("{program} refuses: {complaint}")]
    Program {
        /// Its name.
        program: String,
        /// What it said.
        complaint: String,
    },
    /// Another weftd owns the state directory.
    #[error(
        "weftd ({}) already runs with state directory {}; stop it, or give this one another directory",
        pid.map_or_else(|| "of unknown pid".to_owned(), |pid| format!("pid {pid}")),
        dir.display()
    )]
    Locked {
        /// Its process id, if it could be read.
        pid: Option<u32>,
        /// The state directory.
        dir: PathBuf,
    },
    /// The state file was written by a newer weftd.
    #[error(
        "{} has version {found}, this weftd knows {known}; run the newer weftd, or `weft purge` with it first",
        path.display()
    )]
    StateVersion {
        /// The state file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version that this build writes.
        known: u64,
    },
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { doing, path: path.to_owned(), source }
    }

    /// The kernel's error number, if this is an answer of the kernel.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
