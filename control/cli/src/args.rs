//! What the command line says, and what it means.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use weft_api::{
    DEFAULT_HOST_PORT, DEFAULT_IFNAME, DEFAULT_SOCKET, DEFAULT_STATE_DIR, Mac, PodPort, PodSpec, VhostMode,
};

/// Where `ip netns` keeps the namespaces that have names.
const NAMED_NETNS: &str = "/run/netns";

/// Talks to weftd, the virtual switch of this node.
#[derive(Debug, Parser)]
#[command(name = "weft", disable_version_flag = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 weftd refused or failed, 2 wrong usage, 3 weftd not reachable."
)]
pub(crate) struct Cli {
    /// weftd's control socket
    #[arg(long, global = true, env = "WEFT_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// How to print, errors included
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people: aligned columns, bytes in units
    Table,
    /// For programs: plain numbers
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// How weftd is: state, source, memory, uplink, network, peers
    Status,
    /// Pods of this node
    #[command(subcommand)]
    Pod(PodCommand),
    /// Counters of ports and workers
    Stats,
    /// Dropped packets by reason
    Drops {
        /// The reasons too that never happened
        #[arg(long)]
        all: bool,
    },
    /// What weft leaves on a node
    #[command(subcommand)]
    Node(NodeCommand),
    /// Print a completion script
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// The versions of this program and of weftd
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PodCommand {
    /// Attach a pod
    Add(AddArgs),
    /// Detach a pod that was attached with add
    Del {
        /// The pod
        name: String,
    },
    /// List the pods
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Take away what weft made on this node: devices, neighbours, state. Only while weftd does not run
    Purge {
        /// Where weftd keeps its state
        #[arg(long, default_value = DEFAULT_STATE_DIR, value_name = "DIR")]
        state_dir: PathBuf,
        /// The host's own port
        #[arg(long, default_value = DEFAULT_HOST_PORT, value_name = "NAME")]
        host_port: String,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// An ordinary pod: an interface in its network namespace
    Tap,
    /// A virtual machine: a vhost-user socket
    VhostUser,
    /// A DPDK device, such as memif
    Dpdk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The virtual machine monitor listens
    Client,
    /// weft listens
    Server,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Unique on the node
    name: String,
    /// How it is attached
    #[arg(long, value_enum)]
    kind: Kind,
    /// tap: the network namespace, a file or a name in /run/netns
    #[arg(long, value_name = "PATH|NAME", required_if_eq("kind", "tap"))]
    netns: Option<PathBuf>,
    /// tap: the interface's name in the namespace [default: eth0]
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// vhost-user: the socket
    #[arg(long, value_name = "PATH", required_if_eq("kind", "vhost-user"))]
    socket_path: Option<PathBuf>,
    /// vhost-user: who listens on it
    #[arg(long, value_enum, required_if_eq("kind", "vhost-user"))]
    mode: Option<Mode>,
    /// dpdk: the device, as DPDK takes it
    #[arg(long, required_if_eq("kind", "dpdk"))]
    devargs: Option<String>,
    /// The pod's address; again for another
    #[arg(long = "address", value_name = "IP", required = true, value_parser = parse_address)]
    addresses: Vec<IpAddr>,
    /// The pod's MAC address; otherwise weftd derives one
    #[arg(long)]
    mac: Option<Mac>,
    /// Let it send from any MAC and IP address, such as a virtual machine that bridges or routes for others
    #[arg(long)]
    trusted: bool,
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| match text.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
            format!("give {address} alone: the prefix length is the network's")
        }
        _ => "no IPv4 or IPv6 address".to_owned(),
    })
}

/// A word without a slash is a name that `ip netns add` made; a path is made absolute, because weftd has another
/// working directory.
fn netns_path(netns: &Path) -> PathBuf {
    if netns.as_os_str().as_encoded_bytes().contains(&b'/') {
        std::path::absolute(netns).unwrap_or_else(|_| netns.to_owned())
    } else {
        Path::new(NAMED_NETNS).join(netns)
    }
}

impl AddArgs {
    /// What to ask for, or how the arguments contradict each other.
    pub(crate) fn into_spec(self) -> Result<PodSpec, clap::Error> {
        let Self { name, kind, netns, ifname, socket_path, mode, devargs, addresses, mac, trusted } = self;
        let given = [
            ("--netns", netns.is_some(), Kind::Tap),
            ("--ifname", ifname.is_some(), Kind::Tap),
            ("--socket-path", socket_path.is_some(), Kind::VhostUser),
            ("--mode", mode.is_some(), Kind::VhostUser),
            ("--devargs", devargs.is_some(), Kind::Dpdk),
        ];
        if let Some((option, _, owner)) = given.into_iter().find(|(_, given, owner)| *given && *owner != kind)
        {
            let [owner, kind] = [owner, kind].map(word);
            let message = format!("{option} is for --kind {owner}, not for --kind {kind}");
            return Err(usage(ErrorKind::ArgumentConflict, message));
        }
        let port = match (kind, netns, socket_path, mode, devargs) {
            (Kind::Tap, Some(netns), ..) => PodPort::Tap {
                netns: netns_path(&netns),
                ifname: ifname.unwrap_or_else(|| DEFAULT_IFNAME.to_owned()),
            },
            (Kind::VhostUser, _, Some(path), Some(mode), _) => PodPort::VhostUser {
                socket: std::path::absolute(&path).unwrap_or(path),
                mode: match mode {
                    Mode::Client => VhostMode::Client,
                    Mode::Server => VhostMode::Server,
                },
            },
            (Kind::Dpdk, .., Some(devargs)) => PodPort::Dpdk { devargs },
            // clap has seen to it.
            _ => {
                let message = format!("--kind {} needs more options", word(kind));
                return Err(usage(ErrorKind::MissingRequiredArgument, message));
            }
        };
        let spec = PodSpec { name, port, addresses, mac, trusted };
        spec.check().map_err(|error| usage(ErrorKind::ValueValidation, error.to_string()))?;
        Ok(spec)
    }
}

fn word(kind: Kind) -> String {
    kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// An error of usage, printed as clap prints its own.
pub(crate) fn usage(kind: ErrorKind, message: impl std::fmt::Display) -> clap::Error {
    Cli::command().error(kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bare_word_is_a_named_namespace() {
        assert_eq!(netns_path(Path::new("blue")), Path::new("/run/netns/blue"));
        assert_eq!(netns_path(Path::new("/proc/7/ns/net")), Path::new("/proc/7/ns/net"));
        assert!(netns_path(Path::new("./blue")).is_absolute());
    }

    #[test]
    fn a_prefix_length_is_explained() {
        assert!(parse_address("10.0.0.1").is_ok() && parse_address("fd00::1").is_ok());
        assert!(parse_address("10.0.0.1/24").unwrap_err().contains("give 10.0.0.1 alone"));
        assert_eq!(parse_address("x/24").unwrap_err(), "no IPv4 or IPv6 address");
    }
}
