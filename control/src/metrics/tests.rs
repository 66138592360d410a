//! Metrics and health without a daemon: what is written, and what is said when nobody answers.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_api::{Drop as DropCount, Total};

use super::*;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn scrape() -> Scrape {
    let port = weft_api::PortStats {
        id: 1,
        name: "quoted \"a\\b\"\nc".to_owned(),
        kind: "tap".to_owned(),
        rx_packets: 1,
        rx_bytes: 2,
        tx_packets: 3,
        tx_bytes: u64::MAX,
        rx_drops: 5,
        tx_drops: 6,
        delayed: 7,
        paused: 8,
    };
    let worker = weft_api::WorkerStats {
        id: 0,
        busy_seconds: 1.5,
        asleep_seconds: 2.5,
        wakes: 9,
        icmp_sent: 7,
        ..Default::default()
    };
    let drop = DropCount { reason: "fdb_miss".to_owned(), count: 9, explain: String::new() };
    Scrape {
        node: "n1".to_owned(),
        started_at: 1_000_000,
        generation: 12,
        problems: 0,
        ready: true,
        source: "file",
        source_in_force: false,
        source_loaded: None,
        memory: weft_api::Memory {
            hugepages: false,
            packet_buffers_total: 20,
            packet_buffers_free: 10,
            rss_bytes: 4096,
        },
        pods: [1, 2, 3],
        peers: 5000,
        peers_resolved: 4999,
        peers_direct: 17,
        whole_frames: 23,
        learned: 8,
        conflicts: 0,
        pins: (12, 131_072),
        stats: weft_api::Stats { ports: vec![port], workers: vec![worker], total: Total::default() },
        drops: weft_api::Drops { total: vec![drop] },
    }
}

#[test]
fn what_is_written() {
    let text = scrape().into_text().unwrap();
    for line in [
        r#"weft_build_info{version="VERSION",node="n1"} 1"#,
        "process_start_time_seconds 1000000",
        "process_resident_memory_bytes 4096",
        "# UNIT process_resident_memory_bytes bytes",
        "weft_ready 1",
        r#"weft_source_in_force{kind="file"} 0"#,
        r#"weft_pods{state="failed"} 3"#,
        "weft_peers_resolved 4999",
        "weft_peers_direct 17",
        "weft_uplink_whole_frames_total 23",
        "weft_pins 12",
        "weft_pins_capacity 131072",
        r#"weft_port_rx_packets_total{port="quoted \"a\\b\"\nc",kind="tap"} 1"#,
        r#"weft_port_tx_bytes_total{port="quoted \"a\\b\"\nc",kind="tap"} 18446744073709551615"#,
        "# TYPE weft_port_tx_bytes counter",
        r#"weft_worker_busy_seconds_total{worker="0"} 1.5"#,
        r#"weft_worker_asleep_seconds_total{worker="0"} 2.5"#,
        r#"weft_worker_wakes_total{worker="0"} 9"#,
        r#"weft_icmp_errors_sent_total{worker="0"} 7"#,
        r#"weft_drops_total{reason="fdb_miss"} 9"#,
    ] {
        let line = line.replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("weft_source_loaded_timestamp_seconds{"), "it was never loaded");
}

/// Sends these bytes and reads until the end.
async fn raw(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it hangs").unwrap();
    answer
}

async fn status_of(address: SocketAddr, method: &str, path: &str) -> u16 {
    let answer = raw(address, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    answer[9..12].parse().unwrap()
}

/// An address of this machine that was free just now.
async fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

async fn until(problem: &mut watch::Receiver<Option<String>>, has: bool) -> Option<String> {
    let there = problem.wait_for(|problem| problem.is_some() == has);
    timeout(PATIENCE, there).await.expect("in time").unwrap().clone()
}

async fn listening(address: SocketAddr) {
    let there = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, there).await.expect("nobody listens");
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_not_healthy() {
    let address = free_address().await;
    let (client, _unanswered) = Client::of_nobody();
    let (_setting, listen) = watch::channel(Some(address));
    let (problem, _) = watch::channel(None);
    let server = tokio::spawn(serve(Served::Metrics, listen, client, problem));
    listening(address).await;
    for path in ["/healthz", "/readyz"] {
        let answer = raw(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("within 1 s"), "{answer}");
    }
    // What needs no daemon is answered all the same.
    assert_eq!(status_of(address, "GET", "/").await, 404);
    assert_eq!(status_of(address, "GET", "/metrics/").await, 404);
    let refused = raw(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 405"), "{refused}");
    assert!(refused.to_lowercase().contains("allow: get, head\r\n"), "{refused}");
    server.abort();
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_not_healthy() {
    let address = free_address().await;
    let (client, requests) = Client::of_nobody();
    drop(requests);
    let (_setting, listen) = watch::channel(Some(address));
    let server = tokio::spawn(serve(Served::Metrics, listen, client, watch::channel(None).0));
    listening(address).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(status_of(address, "GET", path).await, 503, "{path}");
        assert_eq!(status_of(address, "HEAD", path).await, 503, "{path}");
    }
    server.abort();
}

#[tokio::test]
async fn the_address_follows_the_setting_and_one_that_is_taken_is_a_problem_until_it_is_free() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (first, second) = (taken.local_addr().unwrap(), free_address().await);
    let (client, _unanswered) = Client::of_nobody();
    let (setting, listen) = watch::channel(Some(first));
    let (report, mut problem) = watch::channel(None);
    let server = tokio::spawn(serve(Served::Metrics, listen, client, report));

    let text = until(&mut problem, true).await.unwrap();
    assert!(text.contains(&first.to_string()) && text.contains("metrics.listen"), "{text}");
    drop(taken);
    until(&mut problem, false).await;
    listening(first).await;

    setting.send(Some(second)).unwrap();
    listening(second).await;
    assert!(TcpStream::connect(first).await.is_err(), "the old address is still listened on");

    setting.send(None).unwrap();
    let gone = async {
        while TcpStream::connect(second).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it is switched off");
    // Nobody may set it any more, and it goes on.
    drop(setting);
    tokio::task::yield_now().await;
    assert!(!server.is_finished());
    server.abort();
}
