//! `weft-pktgen`: test traffic on DPDK ports. It sends packets that it knows again, through whatever is between its two ports,
//! and says what was lost, damaged or delayed.
//!
//! Read `args` for what it can, `engine` for how it does it: one pinned thread sends and receives in turn. `frame` and
//! `stamp` say what a test packet is, `check` how it is known again, `search` how the highest rate is found.

mod args;
mod check;
mod engine;
mod frame;
mod order;
mod pace;
mod plan;
mod ports;
mod progress;
mod report;
mod search;
mod stamp;
mod tracker;

use std::io::Write;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{CommandFactory, Parser};
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, CommonArgs, Output, RunArgs, ThroughputArgs};
use engine::{Engine, Live, Tally, Trial};
use frame::Traffic;
use ports::Ports;
use report::{DriverReport, ShareReport, ThroughputReport, TrialReport};
use search::{Found, Outcome, Search};

/// Done, but what was measured is not what was allowed.
const NOT_PASSED: u8 = 3;
/// Of a rate that was asked for so much must have been sent, or the trial says nothing about the rate.
const LEAST_OFFERED: f64 = 0.99;
/// The number of trials that do not count.
const WARM_UP: u8 = u8::MAX;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    let outcome = match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weft-pktgen", &mut script);
            print(&script).map(|()| ExitCode::SUCCESS)
        }
        Command::Run(args) => checked(&args.common, |traffic| run(&args, traffic, cli.output)),
        Command::Throughput(args) => checked(&args.common, |traffic| throughput(&args, traffic, cli.output)),
    };
    outcome.unwrap_or_else(|error| fail(&error, cli.output))
}

/// Help is no failure.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// What is wrong with the options is found before anything is opened.
fn checked(common: &CommonArgs, work: impl FnOnce(Arc<Traffic>) -> Result<ExitCode>) -> Result<ExitCode> {
    match common.traffic() {
        Ok(traffic) => work(Arc::new(traffic)),
        Err(error) => Err(error.context(Usage)),
    }
}

/// Marks errors of usage.
#[derive(Debug)]
struct Usage;

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("wrong usage")
    }
}

/// A signal has ended it before it was through.
#[derive(Debug)]
struct Stopped(Signal);

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stopped by {}", self.0)
    }
}

fn fail(error: &anyhow::Error, output: Output) -> ExitCode {
    let (word, code) = match error.downcast_ref::<Stopped>() {
        Some(Stopped(signal)) => ("stopped", 128 + *signal as u8),
        None if error.downcast_ref::<Usage>().is_some() => ("usage", 2),
        None => ("failed", 1),
    };
    let text = format!("{error:#}");
    let text = match output {
        Output::Table => format!("weft-pktgen: {text}\n"),
        Output::Json => format!("{}\n", json!({ "error": text, "code": word })),
    };
    // Nobody is left to be told.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("cannot write the result to standard output")
}

fn print_json(value: &Value) -> Result<()> {
    print(format!("{value:#}\n").as_bytes())
}

/// The ports, and the thread that works on them.
struct Bench {
    trials: Option<Sender<Trial>>,
    tallies: Receiver<Result<Tally>>,
    live: Arc<Live>,
    signals: Arc<Signals>,
    thread: Option<JoinHandle<()>>,
    wire_bits: f64,
    settle: f64,
    sends: bool,
    receives: bool,
    next: u8,
    // Closed when the thread has ended.
    ports: Ports,
}

impl Bench {
    fn open(common: &CommonArgs, traffic: Arc<Traffic>, sends: bool, receives: bool) -> Result<Self> {
        let mix = common.mix().context(Usage)?;
        let setup = common.setup(&traffic);
        let queues = 2 * u32::from(setup.descriptors) + 1024;
        ensure!(
            setup.buffers >= queues,
            "--buffers: with {} descriptors there must be {queues} at least",
            setup.descriptors
        );
        let core = core(common.core).context(Usage)?;
        let signals = Arc::new(Signals::default());
        watch(&signals)?;
        // Measured while nobody waits for it.
        weft_ffi::kernel::clock::tsc_hz();
        let (ports, tx, rx) = Ports::open(&setup)?;
        signals.heeded.store(true, Ordering::Relaxed);
        ports.wait_for_links(setup.link_wait, || signals.check("nothing was sent"))?;
        let (live, wire_bits) = (Arc::new(Live::default()), common.wire_bits(&traffic));
        let queues = (Some(tx).filter(|_| sends), Some(rx).filter(|_| receives));
        let mut engine = Engine::new(
            traffic,
            mix,
            queues,
            ports.pool.clone(),
            Arc::clone(&live),
            Arc::clone(&signals.stop),
        );
        let (trials, orders) = mpsc::channel();
        let (answers, tallies) = mpsc::channel();
        let eal = ports.eal.clone();
        let work = move || {
            let pinned = core.is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id }));
            if !pinned {
                tracing::warn!("not pinned to core {core:?}");
            }
            // Without it packets still move, only without a cache of buffers.
            let _registered = eal.register_thread().inspect_err(|error| tracing::warn!("{error}"));
            for trial in orders {
                if answers.send(engine.run(&trial)).is_err() {
                    break;
                }
            }
            drop(engine);
        };
        let thread =
            thread::Builder::new().name("pktgen".to_owned()).spawn(work).context("no thread to send from")?;
        Ok(Self {
            trials: Some(trials),
            tallies,
            live,
            signals,
            thread: Some(thread),
            wire_bits,
            settle: common.settle.as_secs_f64(),
            sends,
            receives,
            next: 0,
            ports,
        })
    }

    /// Sends for a while without counting.
    fn warm_up(&mut self, pps: Option<f64>, lasts: Duration) -> Result<()> {
        if self.sends && !lasts.is_zero() {
            self.ask("warming up", Trial { number: WARM_UP, ..self.trial(pps, lasts) })?;
        }
        Ok(())
    }

    fn trial(&self, pps: Option<f64>, lasts: Duration) -> Trial {
        Trial { number: self.next, pps, seconds: lasts.as_secs_f64(), count: u64::MAX, settle: self.settle }
    }

    /// Runs a trial that is bounded by time alone.
    fn run(&mut self, what: &str, pps: Option<f64>, lasts: Duration) -> Result<TrialReport> {
        self.report(what, self.trial(pps, lasts))
    }

    fn report(&mut self, what: &str, trial: Trial) -> Result<TrialReport> {
        self.next = (self.next + 1) % WARM_UP;
        let tally = self.ask(what, trial)?;
        Ok(TrialReport::new(&trial, &tally, self.wire_bits, self.sends, self.receives))
    }

    fn ask(&mut self, what: &str, trial: Trial) -> Result<Tally> {
        let gone = || anyhow!("the sending thread has ended");
        self.trials.as_ref().ok_or_else(gone)?.send(trial).map_err(|_| gone())?;
        let lasts = Duration::from_secs_f64(trial.seconds);
        progress::wait(&self.tallies, what, lasts, &self.live).ok_or_else(gone)?
    }

    fn is_stopped(&self) -> bool {
        self.signals.stop.load(Ordering::Relaxed)
    }

    /// What the drivers say; then the ports are closed.
    fn close(mut self) -> DriverReport {
        self.end();
        DriverReport::new(self.ports.stats())
    }

    fn end(&mut self) {
        self.trials = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.end();
    }
}

/// The core to run on: the one that was asked for, or the last of several.
fn core(asked: Option<usize>) -> Result<Option<usize>> {
    let there: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    match asked {
        Some(core) if there.contains(&core) => Ok(Some(core)),
        Some(core) => Err(anyhow!(
            "--core: there is no core {core}, or this process may not use it; it may use {there:?}"
        )),
        None => Ok(there.last().copied().filter(|_| there.len() > 1)),
    }
}

/// What signals have asked for.
#[derive(Default)]
struct Signals {
    /// Somebody looks at `stop`. Until then the program waits for a driver, which does not: a signal ends it.
    heeded: AtomicBool,
    stop: Arc<AtomicBool>,
    /// Which it was.
    number: AtomicI32,
}

impl Signals {
    /// An error if it is to stop, which says what became of the result.
    fn check(&self, result: &'static str) -> Result<()> {
        if !self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let signal = Signal::try_from(self.number.load(Ordering::Relaxed)).unwrap_or(Signal::SIGINT);
        Err(anyhow!(result).context(Stopped(signal)))
    }
}

/// The first SIGINT or SIGTERM ends the trial, which is reported as far as it went; the second ends the program.
fn watch(signals: &Arc<Signals>) -> Result<()> {
    let watched = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    watched.thread_block().context("cannot block signals")?;
    let signals = Arc::clone(signals);
    let watch = move || {
        while let Ok(signal) = watched.wait() {
            signals.number.store(signal as i32, Ordering::Relaxed);
            if signals.stop.swap(true, Ordering::Relaxed) || !signals.heeded.load(Ordering::Relaxed) {
                eprintln!("weft-pktgen: {}", Stopped(signal));
                process::exit(128 + signal as i32);
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).context("no thread for signals")?;
    Ok(())
}

fn run(args: &RunArgs, traffic: Arc<Traffic>, output: Output) -> Result<ExitCode> {
    let pps = args.common.pps(args.rate, &traffic).context(Usage)?;
    let flows = traffic.flows;
    let mut bench = Bench::open(&args.common, traffic, !args.receive_only, !args.send_only)?;
    let memory = bench.ports.memory();
    bench.warm_up(pps, args.common.warm_up)?;
    let count = args.count.unwrap_or(u64::MAX);
    let report = bench.report("running", Trial { count, ..bench.trial(pps, args.seconds) })?;
    let stopped = bench.signals.check("what is reported was measured until then");
    let drivers = bench.close();
    match output {
        Output::Table => print((report.table() + &drivers.table()).as_bytes())?,
        Output::Json => {
            let mut value = json!({ "command": "run", "flows": flows, "memory": memory, "drivers": drivers });
            merge(&mut value, serde_json::to_value(&report)?);
            print_json(&value)?;
        }
    }
    stopped?;
    let lost = args.max_loss.is_some_and(|most| 100.0 * report.loss() > most || nothing_came(&report));
    Ok(verdict(report.corrupted() == 0 && !lost))
}

/// A receiver that has seen nothing has seen no loss either.
fn nothing_came(report: &TrialReport) -> bool {
    report.received.as_ref().is_some_and(|received| received.received == 0)
}

fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

fn verdict(passed: bool) -> ExitCode {
    if passed { ExitCode::SUCCESS } else { ExitCode::from(NOT_PASSED) }
}

fn throughput(args: &ThroughputArgs, traffic: Arc<Traffic>, output: Output) -> Result<ExitCode> {
    let most = args.common.pps(args.max_rate, &traffic).context(Usage)?;
    ensure!(args.resolution > 0.0, anyhow!("--resolution must be more than 0 %").context(Usage));
    let flows = traffic.flows;
    let mut bench = Bench::open(&args.common, traffic, true, true)?;
    let memory = bench.ports.memory();
    bench.warm_up(most, args.common.warm_up)?;
    let mut report = ThroughputReport {
        zero_loss_pps: None,
        at_zero_loss: None,
        flood: None,
        at: Vec::new(),
        trials: Vec::new(),
    };
    let most = match most {
        Some(most) => most,
        None => {
            let flood = bench.run("as much as the port takes", None, args.seconds)?;
            let most = flood.sent.as_ref().map_or(0.0, |sent| sent.sent_pps);
            report.flood = Some(flood);
            most
        }
    };
    ensure!(most > 0.0, "nothing could be sent: the port takes no packets");
    let search = Search { most, resolution: args.resolution / 100.0, tries: args.tries };
    let trials = &mut report.trials;
    let found = search.run(|pps| {
        let trial = bench.run(
            &format!("trial {}, {:.3} Mpps", trials.len() + 1, pps / 1e6),
            Some(pps),
            args.seconds,
        )?;
        let passed = 100.0 * trial.loss() <= args.acceptable_loss
            && trial.offered() >= LEAST_OFFERED
            && trial.corrupted() == 0
            && !nothing_came(&trial);
        trials.push(trial);
        Ok::<_, anyhow::Error>(match passed {
            _ if bench.is_stopped() => Outcome::Stopped,
            true => Outcome::Passed,
            false => Outcome::Failed,
        })
    })?;
    if let Found::Rate(pps) = found {
        report.zero_loss_pps = Some(pps);
        report.at_zero_loss = report.trials.iter().rev().find(|trial| trial.asked_pps == Some(pps)).cloned();
        for percent in &args.at {
            let trial = bench.run(&format!("{percent} %"), Some(pps * percent / 100.0), args.seconds)?;
            if bench.is_stopped() {
                break;
            }
            report.at.push(ShareReport { percent: *percent, trial });
        }
    }
    let stopped = bench.signals.check(match found {
        Found::Stopped => "no rate was found until then",
        Found::Rate(_) | Found::Nothing(_) => "what is reported was measured until then",
    });
    let drivers = bench.close();
    match output {
        Output::Table => print((report.table() + &drivers.table()).as_bytes())?,
        Output::Json => {
            let mut value =
                json!({ "command": "throughput", "flows": flows, "memory": memory, "drivers": drivers });
            merge(&mut value, serde_json::to_value(&report)?);
            print_json(&value)?;
        }
    }
    stopped?;
    let corrupted: u64 = report.trials.iter().map(TrialReport::corrupted).sum();
    Ok(verdict(report.zero_loss_pps.is_some() && corrupted == 0))
}
