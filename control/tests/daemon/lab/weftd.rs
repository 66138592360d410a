//! A running weftd.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Lab, Namespace, wait_for};

/// A process of weftd. It is killed when the test is done with it.
pub(crate) struct Weftd {
    child: Child,
    log: PathBuf,
    started: Instant,
}

impl Weftd {
    /// Starts it on the lab's node by way of `before`, a command that becomes it.
    pub(crate) fn spawn(lab: &Lab, before: &[&OsStr], config: &Path) -> Self {
        Self::spawn_on(lab, &lab.node, before, config)
    }

    /// The same on another node.
    pub(crate) fn spawn_on(lab: &Lab, node: &Namespace, before: &[&OsStr], config: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let log = lab.path(&format!("weftd-{}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&log).expect("a log");
        let mut words: Vec<&OsStr> = before.to_vec();
        words.extend([OsStr::new(env!("CARGO_BIN_EXE_weftd")), OsStr::new("--config"), config.as_os_str()]);
        let mut command = node.command(words[0]);
        command
            .args(&words[1..])
            .env("RUNTIME_DIRECTORY", lab.dir.path())
            .env("WEFT_LOG", "info,weft_control=debug");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let started = Instant::now();
        // `ip netns exec` becomes the program: the child is weftd itself.
        Self { child: command.spawn().expect("iproute2 is installed"), log, started }
    }

    /// Waits until it says so.
    pub(crate) fn ready(mut self) -> Self {
        wait_for("weftd to be ready", || {
            if let Some(code) = self.ended() {
                panic!("weftd has ended, {code}:\n{}", self.said());
            }
            self.said().contains("weftd: ready").then_some(())
        });
        println!("weftd: ready after {:?}", self.started.elapsed());
        self
    }

    /// Waits for a failure. What it said, less its log's information, is one message.
    pub(crate) fn failed(mut self) -> String {
        let code = wait_for("weftd to end", || self.ended());
        let said = self.said();
        assert_eq!(code.code(), Some(1), "weftd does not end by itself with code 1:\n{said}");
        let level = |line: &str, level: &str| line.split_whitespace().nth(1) == Some(level);
        let told: Vec<_> =
            said.lines().filter(|line| !level(line, "INFO") && !level(line, "DEBUG")).collect();
        assert_eq!(told.len(), 1, "one message:\n{said}");
        println!("{}", told[0]);
        told[0].strip_prefix("weftd: ").expect("it says who speaks").to_owned()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child's state")
    }

    /// All that it has written to standard error.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("the log")
    }

    /// Waits until it has written this: what a line tells of may be seen before the line.
    pub(crate) fn says(&self, text: &str) {
        wait_for(&format!("the log to say {text:?}"), || self.said().contains(text).then_some(()));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it can be signalled");
    }

    /// SIGTERM; how long it took to end, with success.
    pub(crate) fn stop(mut self) -> Duration {
        let begin = Instant::now();
        self.signal(Signal::SIGTERM);
        let code = wait_for("weftd to end", || self.ended());
        let took = begin.elapsed();
        assert!(code.success(), "{code}:\n{}", self.said());
        println!("weftd: ended after {took:?}");
        took
    }

    /// SIGKILL, as a crash.
    pub(crate) fn crash(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("its end");
    }

    pub(crate) fn assert_alive(&mut self) {
        if let Some(code) = self.ended() {
            panic!("weftd has ended, {code}:\n{}", self.said());
        }
    }

    /// Leaves it one descriptor that it can open.
    pub(crate) fn starve(&self) {
        let open: BTreeSet<u64> = fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .expect("its descriptors")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let free = (0..).find(|number| !open.contains(number)).expect("a free number");
        self.limit_files(free + 1);
    }

    /// As many as anybody needs.
    pub(crate) fn feed(&self) {
        self.limit_files(4096);
    }

    fn limit_files(&self, limit: u64) {
        let pid = self.child.id().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status();
        assert!(status.expect("util-linux is installed").success());
    }

    /// Alive, and as idle as before, once it has looked at what has happened.
    pub(crate) fn assert_calm(&mut self) {
        let busy = wait_for("weftd to take less than 0.1 of a core while nothing goes on", || {
            self.assert_alive();
            Some(self.busy()).filter(|busy| *busy < 0.1)
        });
        println!("{busy:.2} of a core");
    }

    /// The share of one core that it takes over a second.
    pub(crate) fn busy(&self) -> f64 {
        let ticks = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("its figures");
            // After the name, which ends with the last parenthesis: utime and stime are the 12th and 13th.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum::<u64>()
        };
        let (begin, before) = (Instant::now(), ticks());
        // Nothing is waited for: this is the time over which is measured.
        std::thread::sleep(Duration::from_secs(1));
        (ticks() - before) as f64 / 100.0 / begin.elapsed().as_secs_f64()
    }
}

impl Drop for Weftd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{}:\n{}", self.log.display(), fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
