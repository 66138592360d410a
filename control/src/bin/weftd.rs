//! weftd: the daemon.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use weft_control::api::serve;
use weft_control::config::{DEFAULT_PATH, LogLevel};
use weft_control::daemon::settings::SetLogLevel;
use weft_control::daemon::{Setup, Started, start};
use weft_control::reload::{ConfigFile, Reload};
use weft_control::supervisor::Supervisor;
use weft_flannel::flags::{Flags, with_two_dashes};

/// How long ending may take after a signal.
const END_WITHIN: Duration = Duration::from_millis(800);

/// Lines of the log that wait to be written at most.
const LINES: usize = 4096;

/// A virtual switch for Kubernetes nodes with high packet rates.
///
/// weftd runs in the foreground, logs to standard error, and says `weftd: ready` there once traffic flows. SIGTERM and
/// SIGINT end it; the pods' devices and its state stay, and the next weftd takes them up. SIGHUP has it read
/// both its files again, which an edit does as well.
///
/// Any of flanneld's options, each with one dash or two and also as a variable FLANNELD_…, has weftd take the place of this
/// node's flanneld: the cluster is then what flannel's nodes have in etcd.
#[derive(Parser)]
#[command(name = "weftd", version)]
struct Args {
    /// The daemon's configuration [default: /etc/weft/weftd.toml, or all defaults where that is missing]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    flannel: Flags,
}

fn main() -> ExitCode {
    let args = Args::parse_from(with_two_dashes(std::env::args_os()));
    let flags = args.flannel;
    let file = match args.config {
        Some(path) => ConfigFile { path, optional: false, flags },
        None => ConfigFile { path: DEFAULT_PATH.into(), optional: true, flags },
    };
    let config = match file.load() {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    let (set_log_level, _flush) = log_to_stderr(config.log.level);
    let supervisor = Supervisor::from_environment();
    let setup = Setup { config, file, reload: Reload::default(), set_log_level, supervisor };
    // Two threads: control work is seldom, and the cores are the workers'.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(setup)),
        Err(error) => fail(&format!("cannot start the control side's threads: {error}")),
    }
}

/// Begins to log, and returns what sets the level later, and what writes the rest when it is dropped. Whoever has set
/// `WEFT_LOG` keeps what it says. A thread of its own writes: nobody who reads standard error too slowly holds the daemon up,
/// only lines are lost then.
fn log_to_stderr(level: LogLevel) -> (SetLogLevel, WorkerGuard) {
    let given = EnvFilter::try_from_env("WEFT_LOG").ok();
    let fixed = given.is_some();
    let (writer, flush) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES).lossy(true).finish(std::io::stderr());
    let log = tracing_subscriber::fmt()
        .with_env_filter(given.unwrap_or_else(|| EnvFilter::new(level.as_str())))
        .with_writer(writer)
        .with_target(false)
        .with_filter_reloading();
    let handle = log.reload_handle();
    log.init();
    let set = move |level: LogLevel| {
        if !fixed {
            // It fails once the log is gone, and with it who could be told.
            let _ = handle.reload(EnvFilter::new(level.as_str()));
        }
    };
    (Box::new(set), flush)
}

async fn run(setup: Setup) -> ExitCode {
    let signals =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        return fail("cannot install the signal handlers");
    };
    let (reload, supervisor) = (setup.reload.clone(), setup.supervisor.clone());
    let ending = supervisor.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        ending.stopping();
        // Whatever the daemon is at (it may still be starting): it ends in time. What the kernel holds stays as it is.
        std::thread::spawn(|| {
            std::thread::sleep(END_WITHIN);
            // Nothing is said: whatever kept the rest may keep standard error too.
            std::process::exit(0);
        });
        drop(stop);
    });
    let Started { daemon, inputs, client, listener, socket } = match start(setup).await {
        Ok(started) => started,
        Err(error) => return fail(&error.to_string()),
    };
    let reloading = supervisor.clone();
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reloading.reloading();
            reload.ask();
        }
    });
    let (end, ended) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, Arc::new(client), async move {
        // The sender's end is dropped with the daemon.
        let _ = ended.await;
    }));
    say("ready");
    supervisor.ready();
    daemon.run(inputs, async { drop(stopped.await) }).await;
    drop(end);
    // Requests that are under way find the daemon gone; the server gives them a moment to hear it.
    let _ = tokio::time::timeout(Duration::from_millis(300), server).await;
    drop(socket);
    ExitCode::SUCCESS
}

fn say(message: &str) {
    // Standard error is all there is to tell; where it is closed, the exit code remains.
    let _ = writeln!(std::io::stderr(), "weftd: {message}");
}

fn fail(message: &str) -> ExitCode {
    say(message);
    ExitCode::FAILURE
}
