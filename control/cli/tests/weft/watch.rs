//! `--watch`: rounds until somebody has enough, rates, and a daemon that comes and goes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weft_api::{Drop, Drops, Stats};

use crate::daemon::{Answers, Daemon, command};
use crate::{drops, stats, status};

/// A `weft` that watches.
struct Watching {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Watching {
    fn start(daemon: &Daemon, args: &[&str]) -> Self {
        let socket = daemon.socket.to_str().unwrap();
        let mut child = command(&[&["--socket", socket], args].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it has ended: {}", self.said());
        line
    }

    /// A block without its first line, which is the time.
    fn block(&mut self, lines: usize) -> String {
        let time = self.line();
        assert!(time.starts_with("--- 20") && time.ends_with("Z\n"), "{time}");
        (0..lines).map(|_| self.line()).collect()
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    /// Ctrl-C; what it has said on standard error.
    fn interrupt(mut self) -> String {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
        let code = self.child.wait().unwrap().code();
        let said = self.said();
        assert_eq!(code, Some(0), "{said}");
        said
    }
}

impl std::ops::Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cells of a line that are more than a space apart.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// The same counters with more packets from the port.
fn more() -> Stats {
    let mut more = stats();
    more.ports[0].rx_packets += 5_000_000;
    more.workers[0].rx_packets += 5_000_000;
    more
}

#[test]
fn counters_are_shown_once_and_then_their_rates() {
    let daemon = Daemon::start(Answers::default().with("GET /v1/stats", 200, &stats()).with(
        "GET /v1/stats",
        200,
        &more(),
    ));
    let mut weft = Watching::start(&daemon, &["stats", "--watch=0.1"]);
    let first = weft.block(7);
    assert!(first.contains("RX PACKETS") && !first.contains("/S") && first.contains("balance"), "{first}");
    let second = weft.block(5);
    let lines: Vec<_> = second.lines().map(cells).collect();
    assert_eq!(lines[0][3..5], ["RX PACKETS/S", "RX BITS/S"], "{second}");
    let (rate, unchanged) = (lines[1][3], lines[1][6]);
    assert!(rate.ends_with('M') || rate.ends_with('k'), "{second}");
    assert_eq!(unchanged, "0", "{second}");
    // Nothing more has happened after that.
    let third = weft.block(5);
    assert_eq!(cells(third.lines().nth(1).unwrap())[3], "0", "{third}");
    assert_eq!(weft.interrupt(), "");
}

#[test]
fn drops_have_rates_and_a_reason_that_is_new_has_come_from_nothing() {
    let mut later = drops();
    let miss = Drop { reason: "new".into(), count: 1_000_000, explain: "For the first time.".into() };
    later.total.push(miss);
    let none = Drops { total: vec![] };
    let daemon = Daemon::start(
        Answers::default().with("GET /v1/drops", 200, &none).with("GET /v1/drops", 200, &drops()).with(
            "GET /v1/drops",
            200,
            &later,
        ),
    );
    let mut weft = Watching::start(&daemon, &["drops", "--watch=0.1", "--no-headers"]);
    assert_eq!(weft.block(1), "no drops\n");
    let second = weft.block(1);
    assert_eq!(cells(&second)[..2], ["fdb_miss", "7"], "{second}");
    assert_ne!(cells(&second)[2], "-");
    let third = weft.block(2);
    let lines: Vec<_> = third.lines().map(cells).collect();
    assert_eq!(lines[0][2], "0", "{third}");
    assert!(lines[1][2].ends_with(['k', 'M']), "{third}");
    weft.interrupt();
}

#[test]
fn programs_get_a_line_of_json_each_round() {
    let daemon = Daemon::start(Answers::default().with("GET /v1/status", 200, &status()));
    let mut weft = Watching::start(&daemon, &["status", "-o", "json", "--watch=0.1"]);
    for _ in 0..3 {
        let answer: Value = serde_json::from_str(&weft.line()).unwrap();
        assert_eq!(answer["node"], "n1");
    }
    assert_eq!(weft.interrupt(), "");
}

#[test]
fn a_daemon_that_restarts_is_waited_for_and_its_counters_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("weftd.sock");
    let answers = |stats: &Stats| Answers::default().with("GET /v1/stats", 200, stats);
    let daemon = Daemon::start_at(&socket, answers(&more()));
    let mut weft = Watching::start(&daemon, &["stats", "--watch=0.1"]);
    weft.block(7);
    weft.block(5);
    drop(daemon);
    let mut said = BufReader::new(weft.child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(
        line.contains("there is no socket") || line.contains("nobody listens") || line.contains("broke"),
        "{line}"
    );
    assert!(line.ends_with("; waiting for it\n"), "{line}");
    let _daemon = Daemon::start_at(&socket, answers(&stats()));
    line.clear();
    said.read_line(&mut line).unwrap();
    assert!(line.ends_with("weftd is back\n"), "{line}");
    // What was shown of the old daemon has been read in part; the new one's counters come first, then their rates.
    let block = loop {
        let line = weft.line();
        if line.contains("TX DROPS") && !line.contains("/S") {
            break weft.line();
        }
    };
    assert_eq!(cells(&block)[3], "1000", "{block}");
    weft.child.stderr = Some(said.into_inner());
    weft.interrupt();
}

#[test]
fn what_is_wrong_from_the_beginning_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none").display().to_string();
    let ran = crate::daemon::weft(&["--socket", &socket, "status", "--watch"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, ""));
    let daemon = Daemon::start(Answers::default());
    assert_eq!(daemon.weft(&["status", "--watch"]).code, 1);
    assert_eq!(daemon.weft(&["route", "get", "::1", "--watch"]).code, 1);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let daemon = Daemon::start(Answers::default().with("GET /v1/status", 200, &status()));
    let mut weft = Watching::start(&daemon, &["status", "--watch=0.1"]);
    weft.line();
    // Its end of the pipe.
    drop(std::mem::replace(&mut weft.out, {
        let mut other = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
        other.wait().unwrap();
        BufReader::new(other.stdout.take().unwrap())
    }));
    assert_eq!(weft.child.wait().unwrap().code(), Some(0));
    assert_eq!(weft.said(), "");
}

#[test]
fn on_a_terminal_each_round_is_drawn_over_the_last() {
    let daemon = Daemon::start(Answers::default().with("GET /v1/status", 200, &status()));
    let line =
        format!("{} --socket {} status --watch=0.1", env!("CARGO_BIN_EXE_weft"), daemon.socket.display());
    let mut script = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux is there");
    let (mut out, mut shown) = (script.stdout.take().unwrap(), Vec::new());
    let mut chunk = [0; 4096];
    let redraw = b"\x1b[2J\x1b[H";
    while shown.windows(redraw.len()).filter(|window| window == redraw).count() < 2 {
        let count = out.read(&mut chunk).unwrap();
        assert!(count > 0, "it has ended: {}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&chunk[..count]);
    }
    assert!(shown.starts_with(redraw), "{}", String::from_utf8_lossy(&shown));
    script.kill().unwrap();
    script.wait().unwrap();
}

#[test]
fn without_colour_a_terminal_gets_no_escapes() {
    for (set, coloured) in [("", true), ("NO_COLOR=1", false)] {
        let line = format!("env {set} TERM=xterm {} --help", env!("CARGO_BIN_EXE_weft"));
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env_remove("NO_COLOR").stdin(Stdio::null());
        let shown = script.output().expect("script of util-linux is there").stdout;
        assert!(String::from_utf8_lossy(&shown).contains("Usage"));
        assert_eq!(shown.contains(&0x1b), coloured, "{line}");
    }
}
