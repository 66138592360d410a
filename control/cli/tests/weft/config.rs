//! `weft config`: files with and without mistakes, and a daemon's settings.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use weft_api::{ConfigReport, Pending, Sections};

use crate::daemon::{Answers, Daemon, Ran, weft};

const CLUSTER: &str = "[network]
ipv4 = \"10.244.0.0/16\"
[[node]]
name = \"a\"
subnets = [\"10.244.1.0/24\"]
public_ip = \"192.0.2.1\"
vtep_mac = \"02:00:00:00:01:01\"
[[pod]]
name = \"web\"
node = \"a\"
addresses = [\"10.244.1.5\"]
kind = \"tap\"
netns = \"/run/netns/web\"
";

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

fn check(args: &[&str]) -> Ran {
    weft(&[&["config", "check"], args].concat())
}

#[test]
fn a_right_file_is_0_and_says_which_it_is() {
    let folder = Folder::new();
    let cluster = folder.write("cluster.toml", CLUSTER);
    let own = folder.write("weftd.toml", &format!("[node]\nname = \"a\"\n[source]\npath = {cluster:?}\n"));
    let ran = check(&[&cluster]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, format!("{cluster}: no mistakes (cluster.toml)\n").as_str(), "")
    );
    // And the other way the cluster file is checked too, once.
    for args in [vec![own.as_str()], vec![&own, &cluster]] {
        let ran = check(&args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert_eq!(
            ran.out,
            format!("{own}: no mistakes (weftd.toml)\n{cluster}: no mistakes (cluster.toml)\n")
        );
    }
    assert_eq!(check(&["--only", &own]).out, format!("{own}: no mistakes (weftd.toml)\n"));
}

/// Five mistakes that happen: each is told with file, line, setting and remedy.
#[test]
fn a_mistake_is_1_with_file_line_setting_and_remedy() {
    let folder = Folder::new();
    #[rustfmt::skip]
    let table = [
        ("weftd.toml", "[dataplane]\nworker = 2\n".to_owned(), "2:1: dataplane.worker: unknown setting; did you mean workers?"),
        ("weftd.toml", "[log]\nlevel = \"info\"\n[bridge]\nageing_s = 5\n".to_owned(), "4:12: bridge.ageing_s: 5 is not within 10 to 1000000; choose a number in that range"),
        ("cluster.toml", CLUSTER.replace("10.244.1.5", "10.244.1.1"), "11:14: pod[0].addresses[0]: 10.244.1.1 is the gateway of 10.244.1.0/24; use another address"),
        ("cluster.toml", CLUSTER.replace("10.244.1.0/24", "10.245.1.0/24"), "5:12: node[0].subnets[0]: 10.245.1.0/24 is outside the network 10.244.0.0/16; use a part of"),
        ("cluster.toml", CLUSTER.replace("kind = \"tap\"", "kind = \"tap"), "12:"),
    ];
    for (name, text, says) in table {
        let path = folder.write(name, &text);
        let ran = check(&["--only", &path]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
        assert!(
            ran.err.lines().any(|line| line.starts_with(&format!("{path}:{says}"))),
            "{}\nnot {says}",
            ran.err
        );

        let ran = weft(&["-o", "json", "config", "check", "--only", &path]);
        assert_eq!((ran.code, ran.err.as_str()), (1, ""));
        let json: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(json["files"][0]["ok"], false);
        let (line, _) = says.split_once(':').unwrap();
        assert_eq!(json["files"][0]["mistakes"][0]["line"].to_string(), line);
    }
}

#[test]
fn what_is_neither_file_or_both_is_explained() {
    let folder = Folder::new();
    let empty = folder.write("empty.toml", "");
    let ran = check(&[&empty]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.starts_with(&format!("{empty}:1:1: nothing here tells which file it is; say --kind weftd")),
        "{}",
        ran.err
    );
    assert_eq!(check(&["--only", "--kind", "weftd", &empty]).code, 0, "all defaults");
    assert!(check(&["--kind", "cluster", &empty]).err.contains("network: missing; add [network]"));

    let both = folder.write("both.toml", &format!("[log]\nlevel = \"info\"\n{CLUSTER}"));
    assert!(check(&[&both]).err.contains("[log] belongs into weftd.toml and [network] into cluster.toml"));
    let missing = folder.path("missing.toml");
    let ran = check(&[missing.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("missing.toml: there is no such file"), "{}", ran.err);
    assert_eq!(check(&[]).code, 2);
}

#[test]
fn a_cluster_file_is_checked_as_a_node_sees_it() {
    let folder = Folder::new();
    let cluster = folder.write("cluster.toml", CLUSTER);
    assert_eq!(check(&["--node", "a", &cluster]).code, 0);
    let ran = check(&["--node", "z", &cluster]);
    assert!(ran.code == 1 && ran.err.contains("this node, \"z\", is not among the 1 listed"), "{}", ran.err);
}

/// The settings of an invented daemon, which lacks what an older one would.
fn daemon() -> Daemon {
    let sections = |ageing: i64, cores: Value| -> Sections {
        let text = json!({
            "dataplane": { "workers": 1, "cores": cores, "memory": "48MiB" },
            "bridge": { "ageing_s": ageing },
            "metrics": { "listen": "" },
        });
        serde_json::from_value(text).unwrap()
    };
    let report = ConfigReport {
        path: "/etc/weft/weftd.toml".into(),
        running: sections(20, json!([3])),
        file: sections(20, json!([4])),
        error: None,
        restart_needed: vec![Pending {
            setting: "dataplane.cores".into(),
            running: json!([3]),
            file: json!([4]),
        }],
    };
    Daemon::start(Answers::default().with("GET /v1/config", 200, &report))
}

#[test]
fn what_runs_is_shown_as_a_file() {
    let ran = daemon().weft(&["config", "show"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for line in [
        "ageing_s = 20                       # default: 300",
        "listen = \"\"                         # default: \"127.0.0.1:9477\"",
        "workers = 1",
    ] {
        assert!(ran.out.lines().any(|there| there == line), "{}\nnot {line:?}", ran.out);
    }
    let json = daemon().weft(&["-o", "json", "config", "show"]).json();
    assert_eq!(json["dataplane"]["cores"], json!([3]));
}

#[test]
fn the_defaults_are_a_right_file() {
    let folder = Folder::new();
    let ran = weft(&["config", "show", "--defaults"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(check(&["--only", &folder.write("weftd.toml", &ran.out)]).code, 0);
    assert_eq!(weft(&["-o", "json", "config", "show", "--defaults"]).json()["bridge"]["ageing_s"], 300);
}

#[test]
fn differences_are_1_and_none_is_0() {
    let daemon = daemon();
    let ran = daemon.weft(&["config", "diff"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [
            vec!["SETTING", "RUNNING", "FILE", "TAKES", "EFFECT"],
            vec!["dataplane.cores", "[3]", "[4]", "restart"]
        ]
    );

    let folder = Folder::new();
    let same = "[dataplane]\ncores = [3]\n[bridge]\nageing_s = 20\n[metrics]\nlisten = \"\"\n";
    let other = folder.write("other.toml", &same.replace("20", "30"));
    let ran = daemon.weft(&["-o", "json", "config", "diff", &other]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    let ageing =
        json["differences"].as_array().unwrap().iter().find(|one| one["setting"] == "bridge.ageing_s");
    assert_eq!(
        ageing,
        Some(&json!({ "setting": "bridge.ageing_s", "running": 20, "file": 30, "takes_effect": "live" }))
    );
    let wrong = folder.write("wrong.toml", "[log]\nlevel = 1\n");
    let ran = daemon.weft(&["config", "diff", &wrong]);
    assert!(ran.code == 1 && ran.err.contains("wrong.toml:2:9: log.level"), "{}", ran.err);
    let nodes = folder.write("nodes.toml", "[network]\nipv4 = \"10.244.0.0/16\"\n");
    let ran = daemon.weft(&["config", "diff", &nodes]);
    assert!(ran.code == 1 && ran.err.contains("nodes.toml is a cluster.toml"), "{}", ran.err);
    assert_eq!(weft(&["--socket", folder.path("none").to_str().unwrap(), "config", "diff"]).code, 3);
}
