//! What the command line says, and what it means.

mod pod;

use std::ffi::OsString;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use weft_api::{
    DEFAULT_SOCKET, FLOW_LIMIT, FLOW_LIMIT_MAX, FLOW_SECONDS, FLOW_SECONDS_MAX, Mac, PIN_LIMIT, PIN_LIMIT_MAX,
};

pub(crate) use crate::check::CheckArgs;
pub(crate) use crate::cni::CniCommand;
pub(crate) use crate::config::ConfigCommand;
pub(crate) use pod::AddArgs;

/// Options that every command takes, apart from its own.
const COMMON: &str = "Common options";

/// Talks to weftd, the virtual switch of this node.
#[derive(Debug, Parser)]
#[command(name = "weft", disable_version_flag = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  weft status                       how the node is, and what is wrong
  weft stats --watch                packets a second, until Ctrl-C
  weft route get 10.244.1.5         which way a packet takes
  weft -o json port | jq .ports     for programs

Exit codes: 0 done, 1 weftd refused or failed, 2 wrong usage, 3 weftd not reachable.
With NO_COLOR set, nothing is coloured.")]
pub(crate) struct Cli {
    /// weftd's control socket
    #[arg(long, global = true, help_heading = COMMON, env = "WEFT_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// How to print, errors included
    #[arg(short, long, global = true, help_heading = COMMON, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Ask again and again, each second or at this interval, until Ctrl-C; stats and drops then show rates
    #[arg(long, global = true, help_heading = COMMON, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "1", value_parser = parse_interval)]
    pub(crate) watch: Option<Duration>,
    /// Leave the headings of tables out
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) no_headers: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people: aligned columns, bytes in units
    Table,
    /// As table, with more columns
    Wide,
    /// For programs: plain numbers
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// How weftd is: state, source, memory, uplink, network, peers
    Status,
    /// The switch's ports: pods', the host's, the uplink
    #[command(after_help = "Examples:\n  weft port\n  weft port show web\n  weft port -o wide --watch")]
    Port {
        #[command(subcommand)]
        command: Option<PortCommand>,
    },
    /// Pods of this node
    #[command(after_help = "Examples:\n  weft pod\n  weft pod show web\n  weft pod del web")]
    Pod {
        #[command(subcommand)]
        command: Option<PodCommand>,
    },
    /// The forwarding database: MAC addresses and the ports that they are behind
    #[command(args_conflicts_with_subcommands = true)]
    #[command(
        after_help = "Examples:\n  weft fdb\n  weft fdb --port web\n  weft fdb --mac 02:00:00:00:00:01"
    )]
    Fdb {
        #[command(subcommand)]
        command: Option<FdbCommand>,
        #[command(flatten)]
        filter: FdbFilter,
    },
    /// Neighbours: IP addresses and who has them, and who claims another's
    #[command(args_conflicts_with_subcommands = true)]
    #[command(after_help = "Examples:\n  weft neigh\n  weft neigh --address 10.244.1.5")]
    Neigh {
        #[command(subcommand)]
        command: Option<NeighCommand>,
        #[command(flatten)]
        filter: NeighFilter,
    },
    /// The ends of the tunnels: this node's, and those of the others
    #[command(args_conflicts_with_subcommands = true)]
    #[command(after_help = "Examples:\n  weft vtep\n  weft vtep --node worker-2 -o wide")]
    Vtep {
        #[command(subcommand)]
        command: Option<VtepCommand>,
        #[command(flatten)]
        filter: VtepFilter,
    },
    /// Routes of the pod networks
    #[command(after_help = "Examples:\n  weft route\n  weft route get 10.244.1.5")]
    Route {
        #[command(subcommand)]
        command: Option<RouteCommand>,
    },
    /// Connections whose answers go to the node's kernel, which translates them: pods' to ClusterIPs
    #[command(args_conflicts_with_subcommands = true)]
    #[command(after_help = "Examples:\n  weft pins\n  weft pins list --address 10.244.1.5 -o json")]
    Pins {
        #[command(subcommand)]
        command: Option<PinsCommand>,
        #[command(flatten)]
        filter: PinFilter,
    },
    /// The flows of the next seconds, estimated from sampled packets: those with the most bytes first
    #[command(after_help = "Examples:\n  weft flow\n  weft flow --seconds 5 --limit 10\n  weft flow --watch")]
    Flow {
        #[arg(long, help = format!("How long to watch, 1 to {FLOW_SECONDS_MAX} seconds"), value_name = "SECONDS", default_value_t = FLOW_SECONDS, value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOW_SECONDS_MAX)))]
        seconds: u32,
        #[arg(long, help = format!("How many to list at most, 1 to {FLOW_LIMIT_MAX}"), value_name = "COUNT", default_value_t = FLOW_LIMIT as u32, value_parser = clap::value_parser!(u32).range(1..=FLOW_LIMIT_MAX as i64))]
        limit: u32,
    },
    /// Counters of ports and workers
    #[command(
        after_help = "Examples:\n  weft stats\n  weft stats --watch=5      rates over five seconds each"
    )]
    Stats,
    /// Dropped packets by reason
    #[command(
        after_help = "Examples:\n  weft drops\n  weft drops --all          every reason there is, with its meaning"
    )]
    Drops {
        /// The reasons too that never happened
        #[arg(long)]
        all: bool,
    },
    /// Workers: the threads that forward packets, and the ports that they have
    Worker {
        #[command(subcommand)]
        command: Option<WorkerCommand>,
    },
    /// The two files: check them, and see which settings are in force
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Whether this node is fit for weft: cores, memory, uplink, port, kernel, and what other networks have left
    #[command(after_help = "Examples:
  weft check                        before weftd is started, and later
  weft -o json check

Exit codes: 0 no problem, 1 problems. Warnings are none.")]
    Check(CheckArgs),
    /// The plugin by which container runtimes attach pods
    #[command(subcommand)]
    Cni(CniCommand),
    /// What weft leaves on a node
    #[command(subcommand)]
    Node(NodeCommand),
    /// Print a completion script
    #[command(after_help = "Examples:
  weft completions bash > /etc/bash_completion.d/weft
  weft completions zsh > /usr/share/zsh/site-functions/_weft
  weft completions fish > /etc/fish/completions/weft.fish")]
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// The versions of this program and of weftd
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// List the ports; without any command too
    List,
    /// All about one port
    Show {
        /// The pod, or the interface
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PodCommand {
    /// List the pods; without any command too
    List,
    /// All about one pod
    Show {
        /// The pod
        name: String,
    },
    /// Attach a pod
    Add(Box<AddArgs>),
    /// Detach a pod that was attached with add
    Del {
        /// The pod
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FdbCommand {
    /// List the entries; without any command too
    List(FdbFilter),
}

#[derive(Debug, Args)]
pub(crate) struct FdbFilter {
    /// Only what is behind this port
    #[arg(long, value_name = "NAME")]
    pub(crate) port: Option<String>,
    /// Only this MAC address
    #[arg(long)]
    pub(crate) mac: Option<Mac>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NeighCommand {
    /// List the neighbours; without any command too
    List(NeighFilter),
}

#[derive(Debug, Args)]
pub(crate) struct NeighFilter {
    /// Only this address
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PinsCommand {
    /// List the connections; without any command too
    List(PinFilter),
}

#[derive(Debug, Args)]
pub(crate) struct PinFilter {
    /// Only those from or to this address
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<IpAddr>,
    #[arg(long, help = format!("How many to list at most, the youngest, 1 to {PIN_LIMIT_MAX}"), value_name = "COUNT", default_value_t = PIN_LIMIT as u32, value_parser = clap::value_parser!(u32).range(1..=PIN_LIMIT_MAX as i64))]
    pub(crate) limit: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VtepCommand {
    /// List the ends; without any command too
    List(VtepFilter),
}

#[derive(Debug, Args)]
pub(crate) struct VtepFilter {
    /// Only the far ends of this node
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// List the routes; without any command too
    List,
    /// The route that a packet to this address takes
    Get {
        /// The destination
        #[arg(value_name = "IP")]
        address: IpAddr,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// List the workers; without any command too
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Take away what weft made on this node: devices, neighbours, state. Only while weftd does not run
    #[command(after_help = "Examples:\n  weft node purge\n  weft node purge --config /srv/weftd.toml --yes")]
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// The weftd.toml that says what is where [default: /etc/weft/weftd.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where weftd keeps its state [default: its weftd.toml's state.dir]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The host's own port [default: its weftd.toml's host_port.name]
    #[arg(long, value_name = "NAME")]
    pub(crate) host_port: Option<String>,
    /// Don't ask
    #[arg(long)]
    pub(crate) yes: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "no number of seconds, such as 2 or 0.5".to_owned())?;
    if (0.1..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not within 0.1 to 86400 seconds".to_owned())
    }
}

/// What an error of usage does not say by itself: an interval behind `--watch` belongs to it with `=`.
pub(crate) fn hint(error: &clap::Error, words: &[OsString]) -> Option<String> {
    let unexpected = matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand);
    let interval = words.windows(2).find_map(|pair| {
        let interval = pair[1].to_str()?;
        (pair[0] == "--watch" && parse_interval(interval).is_ok()).then_some(interval)
    });
    interval.filter(|_| unexpected).map(|interval| format!("hint: write --watch={interval}"))
}

/// An error of usage, printed as clap prints its own.
pub(crate) fn usage(kind: ErrorKind, message: impl Display) -> clap::Error {
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
    fn every_command_that_has_its_like_elsewhere_says_it_by_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter_map(|line| line.trim().strip_prefix("weft ")) {
                let words = line.split("  ").next().unwrap().split('>').next().unwrap();
                let words = std::iter::once("weft").chain(words.split_whitespace());
                assert!(Cli::try_parse_from(words).is_ok(), "an example that is none: weft {line}");
            }
        }
    }

    #[test]
    fn an_interval_without_its_sign_is_hinted_at() {
        let hinted = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            hint(&Cli::try_parse_from(&words).err()?, &words)
        };
        for line in ["weft stats --watch 2", "weft --watch 2 stats", "weft port show a --watch 2"] {
            assert_eq!(hinted(line).as_deref(), Some("hint: write --watch=2"), "{line}");
        }
        assert_eq!(hinted("weft stats --watch=2"), None);
        assert_eq!(hinted("weft stats --watch often"), None);
        assert_eq!(hinted("weft stats --wotch 2"), None);
    }

    #[test]
    fn an_interval_has_bounds() {
        assert_eq!(parse_interval("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "1e9", "nan", "inf", "fast", ""] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
    }
}
