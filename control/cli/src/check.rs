//! `weft check`: whether a node is fit for weft, before weftd starts or beside it. Each line says what was found, and what to do
//! where that is not as it should be. Nothing is changed, and what can't be seen is no failure.
//!
//! What the kernel's files say is read below a folder, `/` but for tests; the rest are functions of what was read.

mod machine;
mod network;
mod others;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use weft_api::{Client, DEFAULT_SOCKET, State, Status};
use weft_config::config::{Config, DEFAULT_PATH};

use crate::Failure;
use crate::cni::Places;
use crate::table::printable;
use crate::view::{Form, Show};

/// The tunnel's UDP port on flannel's nodes.
const TUNNEL_PORT: u16 = 8472;

/// What becomes of what is flannel's: nothing that it needs is to be stopped for a check's sake while its pods run.
const FLANNELS: &str =
    "flannel's; weft takes it over, node by node: docs/install.md says how. Until then nothing is to be done";

/// How long weftd is waited for, which may hang: that would be one more thing to say.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The weftd.toml to check for [default: /etc/weft/weftd.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The tunnel's UDP port [default: that of the weftd that runs, or else flannel's, 8472]
    #[arg(long)]
    port: Option<u16>,
    #[command(flatten)]
    places: Places,
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// weftd works, but something is worse than it could be, or will be in the way.
    Warning,
    /// weftd does not start, or pods do not reach each other.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do.
    remedy: Option<String>,
}

impl Line {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn problem(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Problem, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// All that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    checks: Vec<Line>,
    warnings: usize,
    problems: usize,
}

impl Report {
    fn of(checks: Vec<Line>) -> Self {
        let count = |verdict| checks.iter().filter(|line| line.verdict == verdict).count();
        Self { warnings: count(Verdict::Warning), problems: count(Verdict::Problem), checks }
    }

    /// Whether there is no problem.
    pub(crate) fn is_fit(&self) -> bool {
        self.problems == 0
    }
}

impl Show for Report {
    fn show(&self, _: Form) -> String {
        let mut text = String::new();
        for Line { check, verdict, found, remedy } in &self.checks {
            let word = match verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Problem => "problem",
            };
            text += &format!("{word:<8} {check:<11} {}\n", printable(found));
            if let Some(remedy) = remedy {
                text += &format!("{:20} -> {}\n", "", printable(remedy));
            }
        }
        let counted = |count: usize, what: &str| match count {
            0 => format!("no {what}s"),
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        let end = if self.is_fit() { ": this node is fit for weft" } else { "" };
        text + &format!("{}, {}{end}\n", counted(self.problems, "problem"), counted(self.warnings, "warning"))
    }
}

/// The kernel's files, below a folder.
struct Machine {
    root: PathBuf,
}

impl Machine {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read(self.at(path)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A file with one number.
    fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.trim().parse().ok()
    }

    fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// What is in a folder, in order.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The processes that can be seen, with their programs' names.
    fn processes(&self) -> Vec<(String, String)> {
        let numbers = self.names("proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
        let named = |pid: String| {
            let name = self.read(&format!("proc/{pid}/comm"))?.trim().to_owned();
            Some((pid, name))
        };
        numbers.filter_map(named).collect()
    }

    fn is_root(&self) -> bool {
        let status = self.read("proc/self/status").unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        // The second is the one in force.
        ids.split_whitespace().nth(1) == Some("0")
    }
}

/// Looks at everything.
pub(crate) async fn run(client: Client, args: CheckArgs) -> Result<Report, Failure> {
    let mut lines = Vec::new();
    let read = match &args.config {
        Some(path) => Config::load(path),
        None => Config::load_or_default(Path::new(DEFAULT_PATH)),
    };
    let config = read.unwrap_or_else(|error| {
        let remedy = "mend the file (weft config check says more); the rest is checked for the defaults";
        lines.push(Line::problem("settings", error.to_string().replace('\n', "; "), remedy));
        Config::default()
    });
    let client = match client.socket() == Path::new(DEFAULT_SOCKET) {
        true => Client::new(config.control.socket.clone()),
        false => client,
    };
    let machine = Machine { root: "/".into() };
    let (line, status) = weftd(&client.timeout(ANSWER_WITHIN)).await;
    lines.push(line);
    if !machine.is_root() {
        let remedy = "run it as root, to see who holds the tunnel's port and which rules there are";
        lines.push(Line::warning("rights", "this is not root, so not everything can be seen", remedy));
    }
    lines.extend(machine::lines(&machine, &config));
    let port = args.port.or(status.as_ref().map(|status| status.network.port)).unwrap_or(TUNNEL_PORT);
    lines.extend(network::lines(&machine, &config, status.as_ref(), port).await);
    lines.extend(others::lines(&machine, &config, &args.places));
    Ok(Report::of(lines))
}

/// The daemon, if there is one.
async fn weftd(client: &Client) -> (Line, Option<Status>) {
    const CHECK: &str = "weftd";
    match client.status().await {
        Ok(status) => {
            let line = match status.state {
                State::Ready => Line::ok(CHECK, format!("it runs ({}), and all is well", status.version)),
                State::Degraded => Line::problem(CHECK, status.problems.join("; "), "weft status says more"),
            };
            (line, Some(status))
        }
        Err(error) if error.is_unreachable() => (Line::ok(CHECK, "it does not run"), None),
        Err(error) => (Line::problem(CHECK, error.to_string(), "see its log; restart it"), None),
    }
}

/// For tests: a machine with these files.
#[cfg(test)]
fn machine_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine { root: folder.path().to_owned() };
    for (path, content) in files {
        fs::create_dir_all(machine.at(path).parent().unwrap()).unwrap();
        fs::write(machine.at(path), content).unwrap();
    }
    (folder, machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_was_found_and_what_to_do() {
        let report = Report::of(vec![
            Line::ok("tun", "it is there"),
            Line::warning("cores", "few", "buy some"),
            Line::problem("port", "taken", "give it back"),
        ]);
        assert!(!report.is_fit());
        let form = Form { wide: false, headings: true };
        assert_eq!(
            report.show(form),
            "ok       tun         it is there\n\
             warning  cores       few\n                     -> buy some\n\
             problem  port        taken\n                     -> give it back\n\
             1 problem, 1 warning\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["checks"][2]["verdict"], "problem");
        assert_eq!(json["checks"][0]["remedy"], serde_json::Value::Null);
    }

    #[test]
    fn processes_and_rights_are_read() {
        let (_folder, machine) = machine_with(&[
            ("proc/7/comm", "flanneld\n"),
            ("proc/self/status", "Name:\tweft\nUid:\t1000\t0\t0\t0\n"),
            ("proc/meminfo", "x"),
        ]);
        assert_eq!(machine.processes(), [("7".to_owned(), "flanneld".to_owned())]);
        assert!(machine.is_root());
    }
}
