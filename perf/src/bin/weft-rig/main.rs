//! weft as a subject of the benchmark rigs, and the frames that all subjects get.
//!
//! `frames` and `plan` are for every subject: what comes in, and what a switch must know to do this node's work. `core` is one
//! worker of weft between two DPDK devices; `scale` is the engine in memory, cost against size.

mod core;
mod machine;
mod scale;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use weft_perf::capture;
use weft_perf::scene::{FrameSize, Scene, Sizes, Way};

#[derive(Parser)]
#[command(name = "weft-rig", about = "weft under load, and the load for other switches")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the frames of one way into a capture
    Frames(FramesArgs),
    /// Says what another switch must be told to do this node's work, as JSON
    Plan,
    /// Runs workers between DPDK devices: from a capture that is sent again and again to a sink that counts
    Core(CoreArgs),
    /// Measures cost against size in memory
    Scale(ScaleArgs),
}

#[derive(Args)]
struct FramesArgs {
    /// The way that they take: bridge, route, encap, decap, decap-valid
    #[arg(long)]
    way: Way,
    /// The outer UDP checksum of decap
    #[arg(long, default_value = "zero")]
    outer_checksum: OuterChecksum,
    /// How many flows, in turn
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_000_000))]
    flows: u32,
    /// Bytes of the (inner) frame with the frame check sequence, or imix
    #[arg(long, default_value = "64")]
    frame: FrameSize,
    /// The file
    #[arg(long)]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum OuterChecksum {
    Zero,
    Valid,
}

#[derive(Args)]
struct CoreArgs {
    /// The way that the capture's frames take
    #[arg(long)]
    way: Way,
    /// The frames
    #[arg(long)]
    pcap: PathBuf,
    /// For how long to measure, after the warm-up
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// How long the load runs before that
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    warm_up: Duration,
    /// The CPU of the worker; of each worker where it is given several times
    #[arg(long, required = true)]
    core: Vec<usize>,
    /// Where hugetlbfs is mounted that DPDK should use, where it must not choose itself
    #[arg(long)]
    huge_dir: Option<PathBuf>,
    /// Ordinary pages, even where there are hugepages
    #[arg(long)]
    no_huge: bool,
    /// Bytes of a packet buffer behind its headroom; by default a node's, but for very many frames only what the longest needs
    #[arg(long)]
    buffer: Option<u16>,
    /// Sends the capture once, into this capture, and measures nothing
    #[arg(long)]
    sink_pcap: Option<PathBuf>,
    /// With --sink-pcap: only the first so many frames
    #[arg(long, requires = "sink_pcap")]
    count: Option<u32>,
}

#[derive(Args)]
struct ScaleArgs {
    /// What grows; everything where it is not given
    #[arg(long)]
    what: Vec<scale::What>,
    /// The CPUs to measure on: the first, and both for two workers
    #[arg(long, default_values_t = [0, 1])]
    core: Vec<usize>,
    /// How often each point is measured, in turn
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// One line of JSON for each point, instead of a table
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

fn write_frames(args: &FramesArgs) -> Result<()> {
    let way = match (args.way, args.outer_checksum) {
        (Way::Decap, OuterChecksum::Valid) => Way::DecapValid,
        (Way::DecapValid, _) | (_, OuterChecksum::Zero) => args.way,
        (way, OuterChecksum::Valid) => bail!("{} has no outer checksum", way.name()),
    };
    let frames = Scene::new(Sizes::default())?.frames(way, args.flows, args.frame);
    capture::write(&args.out, frames).with_context(|| format!("cannot write {}", args.out.display()))?;
    Ok(())
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Frames(args) => write_frames(&args),
        Command::Plan => {
            println!("{}", Scene::new(Sizes::default())?.plan());
            Ok(())
        }
        Command::Core(args) => core::run(&args),
        Command::Scale(args) => {
            ensure!(args.rounds > 0, "--rounds must be 1 at least");
            scale::run(&args)
        }
    }
}
