//! `weft` from outside, against an invented daemon.

mod check;
mod cni;
mod config;
mod daemon;
mod lists;
mod watch;

use std::process::Stdio;

use daemon::{Answers, Daemon, command, weft};
use serde_json::{Value, json};
use weft_api::{
    ApiError, Drop, Drops, Index, Memory, Network, Origin, Peer, Pod, PodPort, PodState, Pods, PortStats,
    Source, State, Stats, Status, Total, Uplink, WorkerState, WorkerStats,
};

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 17,
        node: "n1".into(),
        state: State::Degraded,
        problems: vec!["pod b: no such namespace\x1b[2J".into()],
        started_at: 1_000_000,
        notes: vec!["dataplane.workers: needs a restart: 1 -> 2".into()],
        uptime_s: 3_720,
        generation: 12,
        source: Source {
            kind: "file".into(),
            path: Some("/etc/weft/nodes.toml".into()),
            last_loaded: Some(1_003_690),
            last_error: None,
            store: None,
        },
        memory: Memory {
            hugepages: true,
            packet_buffers_total: 4096,
            packet_buffers_free: 4000,
            rss_bytes: 130 << 20,
        },
        uplink: Uplink {
            interface: "eth0".into(),
            kind: "af_packet".into(),
            mtu: 1500,
            addresses: vec!["192.0.2.1".parse().unwrap()],
            large_frames: weft_api::LargeFrames::Whole,
            whole_frames: 17,
        },
        network: Network {
            ipv4: Some("10.244.0.0/16".parse().unwrap()),
            ipv6: None,
            vni: 1,
            port: 8472,
            pod_mtu: 1450,
        },
        workers: 2,
        host_port: Some("weft0".into()),
        peers: vec![Peer {
            name: "n2".into(),
            subnets: vec!["10.244.2.0/24".parse().unwrap()],
            direct: Vec::new(),
            public_ips: vec!["192.0.2.2".parse().unwrap()],
            vtep_mac: Some("02:00:00:00:00:02".parse().unwrap()),
            resolved: true,
            next_hop: None,
        }],
        pods: 2,
    }
}

fn pod(name: &str) -> Pod {
    Pod {
        name: name.into(),
        node: "n1".into(),
        port: PodPort::Tap { netns: "/run/netns/blue".into(), ifname: "eth0".into() },
        addresses: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        mac: "02:00:0a:f4:01:05".parse().unwrap(),
        trusted: false,
        port_id: Some(3),
        mtu: 1450,
        origin: Origin::Api,
        state: PodState::Up,
        error: None,
        cni: None,
        bandwidth: Default::default(),
    }
}

fn stats() -> Stats {
    Stats {
        ports: vec![PortStats {
            id: 3,
            name: "web".into(),
            kind: "tap".into(),
            rx_packets: 1000,
            rx_bytes: 1_500_000,
            tx_packets: 900,
            tx_bytes: 60_000,
            rx_drops: 7,
            tx_drops: 0,
            delayed: 0,
            paused: 0,
        }],
        workers: vec![WorkerStats {
            id: 0,
            core: Some(1),
            rx_packets: 1000,
            tx_packets: 990,
            consumed: 5,
            originated: 7,
            merged: 3,
            drops: 7,
            bursts: 100,
            cycles_per_packet: 241.6,
            busy: 0.125,
            state: WorkerState::Sleeping,
            asleep: 0.75,
            sleeps: 4,
            ..WorkerStats::default()
        }],
        total: Total { rx: 1000, originated: 7, tx: 990, consumed: 5, merged: 3, drops: 7 },
    }
}

fn drops() -> Drops {
    let fdb_miss = Drop { reason: "fdb_miss".into(), count: 7, explain: "No port has the address.".into() };
    Drops { total: vec![fdb_miss] }
}

fn daemon() -> Daemon {
    let (none, everything) = (Drops { total: vec![] }, drops());
    Daemon::start(
        Answers::default()
            .with("GET /v1", 200, &Index { version: "0.9.0".into(), resources: vec![] })
            .with("GET /v1/status", 200, &status())
            .with("GET /v1/pods", 200, &Pods { pods: vec![pod("a"), pod("web")] })
            .with("POST /v1/pods", 201, &pod("web"))
            .with("DELETE /v1/pods/web", 200, &pod("web"))
            .with(
                "DELETE /v1/pods/file",
                409,
                &ApiError::conflict("pod file is from the file: remove it there"),
            )
            .with("GET /v1/stats", 200, &stats())
            .with("GET /v1/drops", 200, &none)
            .with("GET /v1/drops?all=true", 200, &everything),
    )
}

#[test]
fn tables() {
    let daemon = daemon();
    for (args, expected) in [
        (
            &["status"][..],
            "\
state         degraded
problem       pod b: no such namespace?[2J
note          dataplane.workers: needs a restart: 1 -> 2
node          n1
weftd         0.1.0, pid 17, up 1h 2m
generation    12
source        file /etc/weft/nodes.toml, loaded 30s ago
memory        4000 of 4096 packet buffers free (huge pages), 130.0 MiB resident
uplink        eth0 (af_packet), MTU 1500, 192.0.2.1
large frames  whole where that works, 17 so far
network       10.244.0.0/16, VNI 1, UDP port 8472, pod MTU 1450
workers       2
host port     weft0
pods          2
peers         1

PEER  SUBNETS        PUBLIC IPS  VTEP MAC           WAY     NEXT HOP  RESOLVED
n2    10.244.2.0/24  192.0.2.2   02:00:00:00:00:02  tunnel  -         yes
",
        ),
        (
            &["pod", "list"],
            "\
NAME  STATE  KIND  ADDRESSES            MAC                PORT   MTU  IN/OUT  ORIGIN  ATTACHED TO              ERROR
a     up     tap   10.244.1.5, fd00::5  02:00:0a:f4:01:05     3  1450  -       api     eth0 in /run/netns/blue
web   up     tap   10.244.1.5, fd00::5  02:00:0a:f4:01:05     3  1450  -       api     eth0 in /run/netns/blue
",
        ),
        (&["pod", "del", "web"], "removed pod web\n"),
        (
            &["stats"],
            "\
PORT  NAME  KIND  RX PACKETS  RX BYTES  RX DROPS  TX PACKETS  TX BYTES  TX DROPS
   3  web   tap         1000   1.4 MiB         7         900  58.6 KiB         0

WORKER  CORE  RX PACKETS  TX PACKETS  CONSUMED  ORIGINATED  MERGED  DROPS  BURSTS  CYCLES/PACKET   BUSY  ASLEEP  SLEEPS  HANDED OVER
     0     1        1000         990         5           7       3      7     100            242  12.5%   75.0%       4            0

balance: rx 1000 + originated 7 = tx 990 + consumed 5 + merged 3 + drops 7 + in flight 2
",
        ),
        (&["drops"], "no drops\n"),
        (
            &["drops", "--all"],
            "\
REASON    COUNT  MEANING
fdb_miss      7  No port has the address.
",
        ),
        (&["version"], concat!("weft   ", env!("CARGO_PKG_VERSION"), "\nweftd  0.9.0\n")),
    ] {
        let ran = daemon.weft(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
        assert_eq!(ran.out, expected, "{args:?}");
    }
}

#[test]
fn json_is_what_the_daemon_said() {
    let daemon = daemon();
    let value = |answer| -> Value { answer };
    for (args, expected) in [
        (&["status", "-o", "json"][..], value(json!(status()))),
        (&["-o", "json", "pod", "list"], json!(Pods { pods: vec![pod("a"), pod("web")] })),
        (&["pod", "del", "web", "--output=json"], json!(pod("web"))),
        (&["stats", "-ojson"], json!(stats())),
        (&["drops", "--all", "-o", "json"], json!(drops())),
        (&["version", "-o", "json"], json!({ "weft": env!("CARGO_PKG_VERSION"), "weftd": "0.9.0" })),
    ] {
        assert_eq!(daemon.weft(args).json(), expected, "{args:?}");
    }
}

#[test]
fn a_pod_is_asked_for_as_the_options_say() {
    let daemon = daemon();
    let asked = |options: &[&str]| -> Value {
        let ran = daemon.weft(&[&["pod", "add", "web"], options].concat());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{options:?}");
        assert!(ran.out.contains("eth0 in /run/netns/blue"), "{}", ran.out);
        let (request, body) = daemon.asked().pop().unwrap();
        assert_eq!(request, "POST /v1/pods");
        serde_json::from_str(&body).unwrap()
    };
    assert_eq!(
        asked(&["--kind", "tap", "--netns", "blue", "--address", "10.244.1.5"]),
        json!({"name":"web","kind":"tap","netns":"/run/netns/blue","ifname":"eth0","addresses":["10.244.1.5"]})
    );
    assert_eq!(
        asked(&[
            "--kind=tap",
            "--netns=/proc/7/ns/net",
            "--ifname=net1",
            "--address=10.244.1.5",
            "--address=fd00::5",
            "--mac=02:00:00:00:00:AA",
        ]),
        json!({"name":"web","kind":"tap","netns":"/proc/7/ns/net","ifname":"net1",
               "addresses":["10.244.1.5","fd00::5"],"mac":"02:00:00:00:00:aa"})
    );
    assert_eq!(
        asked(&[
            "--kind",
            "vhost-user",
            "--socket-path",
            "/run/vm.sock",
            "--mode",
            "server",
            "--address",
            "10.244.1.5"
        ]),
        json!({"name":"web","kind":"vhost-user","socket":"/run/vm.sock","mode":"server","addresses":["10.244.1.5"]})
    );
    assert_eq!(
        asked(&["--kind", "dpdk", "--devargs", "net_null0", "--address", "10.244.1.5"]),
        json!({"name":"web","kind":"dpdk","devargs":"net_null0","addresses":["10.244.1.5"]})
    );
}

#[test]
fn wrong_usage_is_2_and_asks_nothing() {
    let daemon = daemon();
    for (args, says) in [
        (&[][..], "Usage"),
        (&["bogus"], "bogus"),
        (&["pod", "add", "a", "--kind", "tap", "--address", "10.0.0.1"], "--netns"),
        (&["pod", "add", "a", "--kind", "dpdk", "--address", "10.0.0.1"], "--devargs"),
        (&["pod", "add", "a", "--kind", "vhost-user", "--address", "10.0.0.1"], "--socket-path"),
        (&["pod", "add", "a", "--kind", "tap", "--netns", "b"], "--address"),
        (
            &["pod", "add", "a", "--kind", "tap", "--netns", "b", "--address", "10.0.0.1/24"],
            "give 10.0.0.1 alone",
        ),
        (&["pod", "add", "a/b", "--kind", "tap", "--netns", "b", "--address", "10.0.0.1"], "no pod name"),
        (
            &["pod", "add", "a", "--kind", "tap", "--netns", "b", "--address", "10.0.0.1", "--mac", "1"],
            "no MAC address",
        ),
        (
            &[
                "pod",
                "add",
                "a",
                "--kind",
                "tap",
                "--netns",
                "b",
                "--mode",
                "client",
                "--address",
                "10.0.0.1",
            ],
            "--mode is for --kind vhost-user, not for --kind tap",
        ),
    ] {
        let ran = daemon.weft(args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}");
        assert!(ran.err.contains(says), "{args:?}: {}", ran.err);
        let ran = daemon.weft(&[&["-o", "json"], args].concat());
        // Without any command there is only the help to show.
        if !args.is_empty() {
            let error: Value = serde_json::from_str(&ran.err).unwrap();
            assert_eq!((ran.code, &error["code"]), (2, &json!("usage")), "{args:?}");
        }
    }
    assert_eq!(daemon.asked(), vec![]);
}

#[test]
fn what_the_daemon_refuses_is_1() {
    let daemon = daemon();
    let ran = daemon.weft(&["pod", "del", "file"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(ran.err, "weft: pod file is from the file: remove it there\n");
    let ran = daemon.weft(&["pod", "del", "file", "-o", "json"]);
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error, json!({"error":"pod file is from the file: remove it there","code":"conflict"}));
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    // The name is one segment of the path, whatever is in it.
    assert_eq!(daemon.weft(&["pod", "del", "../stats"]).code, 1);
    assert_eq!(daemon.asked().pop().unwrap().0, "DELETE /v1/pods/..%2Fstats");
}

#[test]
fn no_daemon_is_3() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none").display().to_string();
    let dead = folder.path().join("dead").display().to_string();
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    for (socket, says) in [(&missing, "is weftd running?"), (&dead, "nobody listens")] {
        let ran = weft(&["--socket", socket, "status"]);
        assert_eq!((ran.code, ran.out.as_str()), (3, ""));
        assert!(ran.err.contains(says) && ran.err.contains(socket.as_str()), "{}", ran.err);
        let ran = weft(&["status", "--socket", socket, "-o", "json"]);
        let error: Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!((ran.code, &error["code"]), (3, &json!("unreachable")));
        // It knows its own version all the same.
        assert_eq!(weft(&["version", "--socket", socket, "-o", "json"]).json()["weftd"], Value::Null);
    }
    let ran = command(&["status"]).env("WEFT_SOCKET", &missing).output().unwrap();
    assert!(String::from_utf8_lossy(&ran.stderr).contains(&missing));
}

#[test]
fn purge_refuses_while_a_daemon_runs_and_asks_otherwise() {
    let daemon = daemon();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    std::fs::write(folder.path().join("mine"), "x").unwrap();
    let ran = daemon.weft(&["node", "purge", "--yes", "--state-dir", state, "--host-port", "weft-t-none"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("weftd is running"), "{}", ran.err);
    // One that answers badly is one too.
    let broken = Daemon::start(Answers::default());
    assert!(broken.weft(&["node", "purge", "--yes", "--state-dir", state]).err.contains("weftd is running"));
    // Without a daemon, and without anybody to ask.
    let socket = folder.path().join("none").display().to_string();
    let ran =
        weft(&["--socket", &socket, "node", "purge", "--state-dir", state, "--host-port", "weft-t-none"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--yes"), "{}", ran.err);
    assert!(folder.path().join("mine").exists());
}

#[test]
fn purge_looks_into_the_configuration_for_what_the_command_line_leaves_out() {
    let daemon = daemon();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::create_dir(path("state")).unwrap();
    std::fs::write(path("state/state.json"), "{}").unwrap();
    let write = |socket: &str| {
        let text = format!(
            "[control]\nsocket = {socket:?}\n[state]\ndir = {:?}\n[host_port]\nname = \"weft-t-none\"\n",
            path("state")
        );
        std::fs::write(path("weftd.toml"), text).unwrap();
    };
    let purge = ["node", "purge", "--yes", "--config", &path("weftd.toml")];
    // Its daemon runs.
    write(&daemon.socket.display().to_string());
    let ran = weft(&purge);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("weftd is running"), "{}", ran.err);
    // A configuration that can't be read is no reason to purge by the defaults.
    for (text, said) in [("[state", "weftd.toml:1:"), ("[state]\ndir = 5", "state.dir")] {
        std::fs::write(path("weftd.toml"), text).unwrap();
        let ran = weft(&purge);
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains(said) && ran.err.contains("nothing was removed"), "{}", ran.err);
    }
    assert!(weft(&["node", "purge", "--yes", "--config", &path("none")]).err.contains("nothing was removed"));
    assert!(folder.path().join("state/state.json").exists());
    // Nobody has the socket; that somebody has the state directory shows which one was meant.
    write(&path("none"));
    std::fs::create_dir(path("other")).unwrap();
    let _locks = ["state", "other"].map(|dir| weft_node::Lock::take(&folder.path().join(dir)).unwrap());
    let other = path("other");
    for (more, dir) in [(&[][..], "state"), (&["--state-dir", &other][..], "other")] {
        let ran = weft(&[&purge[..], more].concat());
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains(&path(dir)) && ran.err.contains("already runs"), "{}", ran.err);
    }
}

#[test]
fn completions_need_no_daemon() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = weft(&["--socket", "/nonexistent", "completions", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        for word in ["purge", "neigh", "watch", "no-headers", "wide"] {
            assert!(ran.out.contains(word), "{shell}: {word}");
        }
    }
    // The one that is sure to be there takes it.
    let bash = "source <(\"$WEFT\" completions bash) && complete -p weft";
    let taken = std::process::Command::new("bash")
        .args(["-c", bash])
        .env("WEFT", env!("CARGO_BIN_EXE_weft"))
        .output();
    let taken = taken.unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    assert!(String::from_utf8_lossy(&taken.stdout).contains("_weft"));
    assert_eq!(weft(&["--help"]).code, 0);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child =
        command(&["completions", "zsh"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}
