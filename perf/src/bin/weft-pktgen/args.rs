//! What the command line says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::engine::Mix;
use crate::frame::{GAP, OUTER, Traffic};
use crate::order::{Order, Sizes};
use crate::plan::{self, Range, Ranges, TunnelRanges, Way};
use crate::ports::Setup;

const PORTS: &str = "Ports";
const TRAFFIC: &str = "Traffic";
const TUNNEL: &str = "Tunnel (with --vxlan)";
const TRIAL: &str = "Trial";
const SEARCH: &str = "Search";

/// Sends test traffic through whatever is between two DPDK ports, and says what came out of it
#[derive(Debug, Parser)]
#[command(name = "weft-pktgen", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  weft-pktgen run --port net_ring0 --rate 100k --seconds 2
        a port that is its own other end: try this first
  weft-pktgen run --port net_memif0,role=client,id=0 --port net_memif1,role=client,id=1 --rate 50% --line-rate 10G
        in at one port of a switch and out at another
  weft-pktgen throughput --port 0000:03:00.0 --port 0000:03:00.1 --flows 1000 --frame imix --at 10,50,90
        the highest rate without loss, and the latency at a tenth, half and nine tenths of it

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but something was corrupted, more was lost than --max-loss allows,
or no rate without loss was found, 130 stopped by SIGINT and 143 by SIGTERM: what was measured until then is printed. Progress goes to stderr when that is a terminal.")]
pub(crate) struct Cli {
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs: plain numbers
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sends at one rate and receives: what was lost, what was damaged, how long it took
    #[command(after_help = "Examples:
  weft-pktgen run --port net_ring0 --rate 1M --flows 1000 --order zipf:1.1 --frame imix
  weft-pktgen run --port net_pcap0,tx_pcap=frames.pcap --send-only --rate 10k --seconds 0.1
  weft-pktgen run --port net_memif0,role=server --receive-only --seconds 60")]
    Run(Box<RunArgs>),
    /// The highest rate without loss (RFC 2544), and the latency at shares of it
    #[command(after_help = "Examples:
  weft-pktgen throughput --port net_ring0 --seconds 1
  weft-pktgen throughput --port A --port B --seconds 60 --resolution 0.1 --at 10,50,90

First as much is sent as the port takes; below that the rate is bisected.")]
    Throughput(Box<ThroughputArgs>),
    /// Print a completion script
    #[command(after_help = "Examples:
  weft-pktgen completions bash > /etc/bash_completion.d/weft-pktgen
  weft-pktgen completions zsh > /usr/share/zsh/site-functions/_weft-pktgen")]
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Packets a second, as 1500000 or 1.5M; per cent of --line-rate, as 50%; or max, as many as the port takes
    #[arg(long, help_heading = TRIAL, default_value = "max", value_parser = rate)]
    pub(crate) rate: Rate,
    /// For how long; with --receive-only at most
    #[arg(long, help_heading = TRIAL, default_value = "5", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// Send no more frames than so many, ARP requests among them
    #[arg(long, help_heading = TRIAL, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Exit code 3 if a larger share is lost, in per cent
    #[arg(long, help_heading = TRIAL, value_name = "PERCENT", value_parser = percent)]
    pub(crate) max_loss: Option<f64>,
    /// Send, and receive nothing
    #[arg(long, help_heading = PORTS, conflicts_with = "receive_only")]
    pub(crate) send_only: bool,
    /// Receive what another weft-pktgen sends with the same options of traffic
    #[arg(long, help_heading = PORTS)]
    pub(crate) receive_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ThroughputArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Length of each trial. RFC 2544 asks for 60
    #[arg(long, help_heading = SEARCH, default_value = "2", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// No rate above this is tried; as for run's --rate. max: what the port takes
    #[arg(long, help_heading = SEARCH, default_value = "max", value_parser = rate)]
    pub(crate) max_rate: Rate,
    /// How close the result is to be, in per cent of the highest rate
    #[arg(long, help_heading = SEARCH, value_name = "PERCENT", default_value = "1", value_parser = percent)]
    pub(crate) resolution: f64,
    /// Loss that counts as none, in per cent
    #[arg(long, help_heading = SEARCH, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    pub(crate) acceptable_loss: f64,
    /// Trials that a rate has before it has failed, for machines with other work to do
    #[arg(long, help_heading = SEARCH, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) tries: u32,
    /// Measure at these shares of the rate found, in per cent
    #[arg(long, help_heading = SEARCH, value_name = "PERCENT,…", value_delimiter = ',', value_parser = percent)]
    pub(crate) at: Vec<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    /// A DPDK port: a virtual device with its arguments, or a PCI address. One sends and receives; of two the first sends
    /// and the second receives
    #[arg(long = "port", visible_aliases = ["vdev", "allow"], help_heading = PORTS, value_name = "DEVICE", required = true)]
    pub(crate) ports: Vec<String>,
    /// Core to run on [default: the last]
    #[arg(long, help_heading = PORTS)]
    pub(crate) core: Option<usize>,
    /// Packet buffers
    #[arg(long, help_heading = PORTS, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(2048..=1_048_576))]
    pub(crate) buffers: u32,
    /// Descriptors of each queue, rounded to what the driver can
    #[arg(long, help_heading = PORTS, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(32..=32768))]
    pub(crate) descriptors: u16,
    /// How long to wait for the ports' links, in seconds
    #[arg(long, help_heading = PORTS, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) link_wait: Duration,
    /// Leave hugepages to others. Without them everything works, at some cost
    #[arg(long, help_heading = PORTS)]
    pub(crate) no_hugepages: bool,

    /// Bytes of each frame with its FCS, 64 to 9216; several with weights, as 64:7,1518:1; or imix. In a tunnel the
    /// inner frame's
    #[arg(long, help_heading = TRAFFIC, value_name = "SIZES", default_value = "64")]
    pub(crate) frame: Sizes,
    /// How many flows; they go to all pairs of addresses, and differ in their UDP ports
    #[arg(long, help_heading = TRAFFIC, default_value_t = 1)]
    pub(crate) flows: u32,
    /// In which order they send: round-robin, uniform, zipf or zipf:EXPONENT
    #[arg(long, help_heading = TRAFFIC, default_value = "round-robin")]
    pub(crate) order: Order,
    /// Pairs of addresses from a JSON file instead of the options below
    #[arg(long, help_heading = TRAFFIC, value_name = "FILE", conflicts_with_all = ["src_mac", "dst_mac", "src_ip", "dst_ip", "vxlan"])]
    pub(crate) plan: Option<PathBuf>,
    /// With a plan of weft-rig: which way through its node
    #[arg(long, help_heading = TRAFFIC, requires = "plan", value_enum)]
    pub(crate) way: Option<Way>,
    /// Ethernet source; FIRST+COUNT for so many. There are as many pairs as the longest range has members
    #[arg(long, help_heading = TRAFFIC, value_name = "MAC", default_value = "02:00:00:00:00:01", value_parser = plan::macs)]
    pub(crate) src_mac: Range,
    /// Ethernet destination
    #[arg(long, help_heading = TRAFFIC, value_name = "MAC", default_value = "02:00:00:00:00:02", value_parser = plan::macs)]
    pub(crate) dst_mac: Range,
    /// IPv4 source
    #[arg(long, help_heading = TRAFFIC, value_name = "IP", default_value = "198.18.0.1", value_parser = plan::addresses)]
    pub(crate) src_ip: Range,
    /// IPv4 destination
    #[arg(long, help_heading = TRAFFIC, value_name = "IP", default_value = "198.19.0.1", value_parser = plan::addresses)]
    pub(crate) dst_ip: Range,
    /// UDP destination port of the first 60,000 flows of a pair; the next have the next
    #[arg(long, help_heading = TRAFFIC, value_name = "PORT", default_value_t = 9000, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) udp_port: u16,
    /// Share of ARP requests among the frames, in per cent: the source asks for the destination
    #[arg(long, help_heading = TRAFFIC, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    pub(crate) arp: f64,
    /// Makes one run's packets differ from another's, and its random orders
    #[arg(long, help_heading = TRAFFIC, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Send in VXLAN
    #[arg(long, help_heading = TUNNEL)]
    pub(crate) vxlan: bool,
    /// VXLAN network identifier
    #[arg(long, help_heading = TUNNEL, requires = "vxlan", default_value = "1", value_parser = plan::vnis)]
    pub(crate) vni: Range,
    /// Ethernet source
    #[arg(long, help_heading = TUNNEL, requires = "vxlan", value_name = "MAC", default_value = "02:0a:00:00:00:01", value_parser = plan::macs)]
    pub(crate) outer_src_mac: Range,
    /// Ethernet destination
    #[arg(long, help_heading = TUNNEL, requires = "vxlan", value_name = "MAC", default_value = "02:0a:00:00:00:02", value_parser = plan::macs)]
    pub(crate) outer_dst_mac: Range,
    /// IPv4 source
    #[arg(long, help_heading = TUNNEL, requires = "vxlan", value_name = "IP", default_value = "192.0.2.1", value_parser = plan::addresses)]
    pub(crate) outer_src_ip: Range,
    /// IPv4 destination
    #[arg(long, help_heading = TUNNEL, requires = "vxlan", value_name = "IP", default_value = "192.0.2.2", value_parser = plan::addresses)]
    pub(crate) outer_dst_ip: Range,
    /// UDP port by which tunnels are known, also those that come back
    #[arg(long, help_heading = TUNNEL, value_name = "PORT", default_value_t = 8472, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vxlan_port: u16,

    /// Speed of the wire in bit/s, as 10G, for rates in per cent
    #[arg(long, help_heading = TRIAL, value_name = "BITS", value_parser = bits)]
    pub(crate) line_rate: Option<f64>,
    /// Silence after which no more packets are waited for, in seconds; with --send-only so long the port stays open for those
    /// that are still in its ring
    #[arg(long, help_heading = TRIAL, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    pub(crate) settle: Duration,
    /// Send for so long at first, without counting: for switches that learn
    #[arg(long, help_heading = TRIAL, value_name = "SECONDS", default_value = "0", value_parser = seconds_or_none)]
    pub(crate) warm_up: Duration,
}

/// How many packets a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    /// As many as the port takes.
    Max,
    /// So many.
    Pps(f64),
    /// Of the line rate.
    Percent(f64),
}

impl CommonArgs {
    /// What is to be sent.
    pub(crate) fn traffic(&self) -> Result<Traffic> {
        ensure!(
            self.ports.len() <= 2,
            "--port: there are {}, of which one sends and one receives: give one or two",
            self.ports.len()
        );
        if let [one, other] = &self.ports[..] {
            ensure!(one != other, "--port: {one} is given twice: give it once, and it sends and receives");
        }
        let pairs = match &self.plan {
            Some(file) => plan::read(file, self.way)?,
            None => self.ranges().pairs()?,
        };
        let traffic = Traffic {
            flows: self.flows,
            pairs,
            sizes: self.frame.0.iter().map(|(size, _)| *size).collect(),
            port: self.udp_port,
            vxlan_port: self.vxlan_port,
            key: self.seed,
        };
        traffic.check()?;
        Ok(traffic)
    }

    fn ranges(&self) -> Ranges {
        Ranges {
            src_mac: self.src_mac,
            dst_mac: self.dst_mac,
            src: self.src_ip,
            dst: self.dst_ip,
            tunnel: self.vxlan.then_some(TunnelRanges {
                src_mac: self.outer_src_mac,
                dst_mac: self.outer_dst_mac,
                src: self.outer_src_ip,
                dst: self.outer_dst_ip,
                vni: self.vni,
            }),
        }
    }

    pub(crate) fn mix(&self) -> Result<Mix> {
        ensure!(self.arp < 100.0, "--arp: with {} % of ARP there would be nothing to measure", self.arp);
        Ok(Mix { order: self.order, sizes: self.frame.sequence(), arp: self.arp / 100.0, seed: self.seed })
    }

    pub(crate) fn setup(&self, traffic: &Arc<Traffic>) -> Setup {
        Setup {
            devices: self.ports.clone(),
            buffers: self.buffers,
            descriptors: self.descriptors,
            longest: traffic.longest(),
            link_wait: self.link_wait,
            hugepages: !self.no_hugepages,
        }
    }

    /// Bits that a packet takes on the wire, on average.
    pub(crate) fn wire_bits(&self, traffic: &Traffic) -> f64 {
        let outer = if traffic.pairs.iter().any(|pair| pair.tunnel.is_some()) { OUTER } else { 0 };
        8.0 * (self.frame.mean() + (GAP + outer) as f64)
    }

    /// A rate in packets a second; `None` for as many as the port takes.
    pub(crate) fn pps(&self, rate: Rate, traffic: &Traffic) -> Result<Option<f64>> {
        match (rate, self.line_rate) {
            (Rate::Max, _) => Ok(None),
            (Rate::Pps(pps), _) => Ok(Some(pps)),
            (Rate::Percent(percent), Some(line)) => {
                Ok(Some(percent / 100.0 * line / self.wire_bits(traffic)))
            }
            (Rate::Percent(percent), None) => {
                bail!("a rate of {percent}% of what? Say --line-rate, such as 10G")
            }
        }
    }
}

/// A number above 0, with or without k, M or G behind it.
fn number(text: &str) -> Option<f64> {
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'k') => (&text[..at], 1e3),
        (at, 'M') => (&text[..at], 1e6),
        (at, 'G') => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    digits
        .parse::<f64>()
        .ok()
        .map(|number| number * unit)
        .filter(|number| number.is_finite() && *number > 0.0)
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.strip_suffix('%') {
        Some(share) => percent(share).map(Rate::Percent).and_then(|rate| match rate {
            Rate::Percent(0.0) => Err("nothing would be sent".to_owned()),
            rate => Ok(rate),
        }),
        None => match number(text) {
            Some(pps) if pps <= 1e9 => Ok(Rate::Pps(pps)),
            _ => {
                Err("write packets a second up to 1G, such as 1.5M, per cent, such as 50%, or max".to_owned())
            }
        },
    }
}

fn bits(text: &str) -> Result<f64, String> {
    number(text).ok_or_else(|| "write bits a second, such as 10G".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let text = text.strip_suffix('%').unwrap_or(text);
    text.parse()
        .ok()
        .filter(|share| (0.0..=100.0).contains(share))
        .ok_or_else(|| "write per cent, 0 to 100".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    seconds_or_none(text).and_then(|duration| match duration {
        Duration::ZERO => Err("it must be more than 0 seconds".to_owned()),
        duration => Ok(duration),
    })
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write seconds, up to 86400, such as 2 or 0.5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn common(line: &str) -> CommonArgs {
        let words = ["weft-pktgen", "run", "--port", "net_ring0"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(args) => args.common,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_holds_together_and_its_examples_too() {
        let command = Cli::command();
        command.clone().debug_assert();
        let helps = std::iter::once(&command).chain(command.get_subcommands());
        let helps: Vec<String> = helps.filter_map(|c| c.get_after_help().map(ToString::to_string)).collect();
        let examples =
            helps.iter().flat_map(|help| help.lines()).filter(|line| line.trim().starts_with("weft-pktgen "));
        let mut count = 0;
        for line in examples {
            let words = line.split('>').next().unwrap().split_whitespace();
            assert!(Cli::try_parse_from(words).is_ok(), "an example that is none: {line}");
            count += 1;
        }
        assert!(count >= 8, "{count} examples");
    }

    #[test]
    fn rates_have_units() {
        assert_eq!(rate("1500000"), Ok(Rate::Pps(1.5e6)));
        assert_eq!(rate("1.5M"), Ok(Rate::Pps(1.5e6)));
        assert_eq!(rate("2k"), Ok(Rate::Pps(2000.0)));
        assert_eq!(rate("50%"), Ok(Rate::Percent(50.0)));
        for wrong in ["", "0", "-1", "nan", "inf", "1e99", "M", "%", "0%", "101%", "-1%", "fast", "1 M"] {
            assert!(rate(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "0", "-1", "nan", "1e9", "inf"] {
            assert!(seconds(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn per_cent_is_of_the_line_rate() {
        let args = common("--frame 64 --line-rate 10G");
        let traffic = args.traffic().unwrap();
        let pps = args.pps(Rate::Percent(100.0), &traffic).unwrap().unwrap();
        assert!((pps - 14_880_952.4).abs() < 1.0, "{pps}");
        let args = common("--frame 64 --vxlan --line-rate 10G");
        let pps = args.pps(Rate::Percent(100.0), &args.traffic().unwrap()).unwrap().unwrap();
        assert!((pps - 1e10 / 8.0 / 134.0).abs() < 1.0, "{pps}");
        assert!(
            common("").pps(Rate::Percent(5.0), &traffic).unwrap_err().to_string().contains("--line-rate")
        );
    }

    #[test]
    fn what_can_not_be_sent_is_refused() {
        let refused =
            |line: &str| common(line).traffic().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused("--flows 0").contains("--flows"));
        assert!(refused("--flows 20000000").contains("--flows"));
        assert!(refused("--flows 1000000 --udp-port 65530").contains("--udp-port must be"));
        assert!(refused("--udp-port 8472").contains("--vxlan-port"));
        assert!(refused("--port net_ring0").contains("twice"));
        assert!(refused("--port a --port b").contains("give one or two"));
        assert!(refused("--plan /nowhere").contains("/nowhere"));
        assert_eq!(refused("--flows 1000000"), "");
    }
}
