//! `weft pod add`: a pod in options.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use weft_api::{Bandwidth, DEFAULT_IFNAME, Mac, PodPort, PodSpec, VhostMode};
use weft_types::BitRate;

use super::usage;

/// Where `ip netns` keeps the namespaces that have names.
const NAMED_NETNS: &str = "/run/netns";

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
#[command(after_help = "Examples:
  weft pod add web --kind tap --netns blue --address 10.244.1.5
  weft pod add vm --kind vhost-user --socket-path /run/vm.sock --mode client --address 10.244.1.6
  weft pod add app --kind dpdk --devargs net_memif0,role=server --address 10.244.1.7 --trusted")]
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
    /// How fast it may receive, in bits a second, such as 100M or 1.5G
    #[arg(long, value_name = "RATE")]
    ingress: Option<BitRate>,
    /// How much of that at once after a pause, in bits
    #[arg(long, value_name = "BITS", requires = "ingress")]
    ingress_burst: Option<u64>,
    /// How fast it may send, in bits a second
    #[arg(long, value_name = "RATE")]
    egress: Option<BitRate>,
    /// How much of that at once after a pause, in bits
    #[arg(long, value_name = "BITS", requires = "egress")]
    egress_burst: Option<u64>,
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
        let bandwidth = Bandwidth {
            ingress_rate: self.ingress.map(BitRate::get),
            ingress_burst: self.ingress_burst,
            egress_rate: self.egress.map(BitRate::get),
            egress_burst: self.egress_burst,
        };
        let Self { name, kind, netns, ifname, socket_path, mode, devargs, addresses, mac, trusted, .. } =
            self;
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
        let (mtu, routes, cni) = (None, None, None);
        let spec = PodSpec { name, port, addresses, mac, trusted, mtu, routes, cni, bandwidth };
        spec.check().map_err(|error| usage(ErrorKind::ValueValidation, error.to_string()))?;
        Ok(spec)
    }
}

fn word(kind: Kind) -> String {
    kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
