//! Metrics and health, as Prometheus and a supervisor see them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_api::State;

use crate::lab::http::{Answer, ask_tcp};
use crate::lab::{Lab, Namespace, tap_pod, wait_for};

/// Where weftd listens by default, in its own namespace.
fn address() -> SocketAddr {
    "127.0.0.1:9477".parse().unwrap()
}

fn get(lab: &Lab, path: &str) -> Answer {
    ask_tcp(&lab.node, address(), "GET", path)
}

/// A label's name and its value.
type Label = (String, String);

/// A family of metrics: its kind, and its samples by their labels.
struct Family {
    kind: String,
    samples: BTreeMap<Vec<Label>, f64>,
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// `a="x",b="y"`, with `\\`, `\"` and `\n` as escapes.
fn labels(mut text: &str) -> Vec<Label> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").expect("a label");
        assert!(is_name(name), "{name}");
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next().expect("the end of a label's value") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("an escape").1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    other => panic!("\\{other} is no escape"),
                },
                (_, c) => value.push(c),
            }
        };
        found.push((name.to_owned(), value));
        text = &rest[end + 1..];
        if let Some(rest) = text.strip_prefix(',') {
            assert!(!rest.is_empty(), "a comma at the end");
            text = rest;
        } else {
            assert!(text.is_empty(), "{text:?} after a label");
        }
    }
    let names: BTreeSet<_> = found.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), found.len(), "a label is there twice");
    found
}

/// Reads OpenMetrics text, and takes nothing that the standard does not.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    let mut current = String::new();
    let mut help = None;
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, meaning) = rest.split_once(' ').expect("a meaning");
            assert!(is_name(name) && meaning.len() > 10 && meaning.ends_with('.'), "{line}");
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert_eq!(help.take().as_deref(), Some(name), "{line}: no help in front");
            assert!(["counter", "gauge"].contains(&kind) && !name.ends_with("_total"), "{line}");
            let family = Family { kind: kind.to_owned(), samples: BTreeMap::new() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} is there twice");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect("a unit");
            assert!(name == current && name.ends_with(&format!("_{unit}")), "{line}");
            assert!(["bytes", "seconds"].contains(&unit), "{line}: no base unit");
        } else {
            let (what, value) = line.rsplit_once(' ').expect("a value");
            let (name, labelled) = match what.split_once('{') {
                Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect("the end of the labels"))),
                None => (what, Vec::new()),
            };
            let family = families.get_mut(&current).expect("a family");
            let suffix = if family.kind == "counter" { "_total" } else { "" };
            assert_eq!(name, format!("{current}{suffix}"), "{line}");
            let value: f64 = value.parse().expect("a number");
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(family.samples.insert(labelled, value).is_none(), "{line} is there twice");
        }
    }
    families
}

fn scrape(lab: &Lab) -> BTreeMap<String, Family> {
    let answer = get(lab, "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        answer.head
    );
    parse(&answer.body)
}

fn sample(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<_> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let family = families.get(name).unwrap_or_else(|| panic!("there is no {name}"));
    *family.samples.get(&wanted).unwrap_or_else(|| panic!("{name} has no {labels:?}"))
}

#[test]
fn metrics_are_well_formed_and_say_what_the_control_socket_says() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    lab.configure("workers = 2", "", "");
    lab.write_cluster(&(tap_pod("web", 2, &web) + &tap_pod("db", 3, &db)));
    let _weftd = lab.start();
    lab.peer_resolved();
    assert!(web.pings("10.244.0.3"));
    assert!(!web.reaches("10.244.0.77"), "nobody has this address");

    // Packets come and go by themselves (neighbour discovery): the three are of one moment if nothing moved meanwhile.
    let (stats, drops, metrics, status) = wait_for("a moment without a packet", || {
        let (before, status) = (lab.stats(), lab.status());
        let metrics = scrape(&lab);
        let drops = lab.ask(async |weftd| weftd.drops(true).await).expect("the drops");
        let same = lab.stats().ports == before.ports && lab.status().generation == status.generation;
        same.then_some((before, drops, metrics, status))
    });
    for port in &stats.ports {
        let labels = [("port", port.name.as_str()), ("kind", port.kind.as_str())];
        for (name, value) in [
            ("weft_port_rx_packets", port.rx_packets),
            ("weft_port_rx_bytes", port.rx_bytes),
            ("weft_port_rx_drops", port.rx_drops),
            ("weft_port_tx_packets", port.tx_packets),
            ("weft_port_tx_bytes", port.tx_bytes),
            ("weft_port_tx_drops", port.tx_drops),
            ("weft_port_delayed_packets", port.delayed),
            ("weft_port_pauses", port.paused),
        ] {
            assert_eq!(sample(&metrics, name, &labels), value as f64, "{name} of {}", port.name);
        }
    }
    assert_eq!(metrics["weft_port_rx_packets"].samples.len(), stats.ports.len());
    for worker in &stats.workers {
        let id = worker.id.to_string();
        let of = |name: &str| sample(&metrics, name, &[("worker", &id)]);
        assert_eq!(of("weft_worker_rx_packets"), worker.rx_packets as f64);
        assert_eq!(of("weft_worker_tx_packets"), worker.tx_packets as f64);
        assert_eq!(of("weft_worker_consumed_packets"), worker.consumed as f64);
        assert_eq!(of("weft_worker_originated_packets"), worker.originated as f64);
        assert_eq!(of("weft_worker_dropped_packets"), worker.drops as f64);
        assert!(of("weft_worker_busy_seconds") > 0.0);
    }
    assert!(drops.total.iter().any(|drop| drop.count > 0), "nothing was dropped, so nothing is proved");
    for drop in &drops.total {
        let counted = sample(&metrics, "weft_drops", &[("reason", &drop.reason)]);
        assert_eq!(counted, drop.count as f64, "{}", drop.reason);
    }
    assert_eq!(metrics["weft_drops"].samples.len(), drops.total.len());

    let one = |name: &str| sample(&metrics, name, &[]);
    assert_eq!(one("weft_snapshot_generation"), status.generation as f64);
    assert_eq!(one("process_start_time_seconds"), status.started_at as f64);
    assert!(one("process_resident_memory_bytes") > 1e6);
    assert_eq!(one("weft_packet_buffers"), status.memory.packet_buffers_total as f64);
    assert!(one("weft_packet_buffers_free") > 0.0);
    assert_eq!((one("weft_peers"), one("weft_peers_resolved"), one("weft_ready")), (1.0, 1.0, 1.0));
    assert_eq!(sample(&metrics, "weft_pods", &[("state", "up")]), 2.0);
    assert_eq!(sample(&metrics, "weft_source_in_force", &[("kind", "file")]), 1.0);
    let build = [("version", status.version.as_str()), ("node", "a")];
    assert_eq!(sample(&metrics, "weft_build_info", &build), 1.0);

    // A source that is refused is seen from here.
    lab.replace_cluster("rubbish");
    wait_for("the refusal", || {
        (sample(&scrape(&lab), "weft_source_in_force", &[("kind", "file")]) == 0.0).then_some(())
    });
    assert_eq!(sample(&scrape(&lab), "weft_problems", &[]), 1.0);
}

#[test]
fn health_and_readiness_follow_the_uplink() {
    let lab = Lab::new();
    let _weftd = lab.start();
    // One who has no time for a second is said to be stuck, with right.
    let says = |path: &str, status: u16, body: &str| {
        wait_for(&format!("{path} to say {body:?}"), || {
            let answer = get(&lab, path);
            (answer.status == status && answer.body == body).then_some(())
        });
    };
    says("/healthz", 200, "ok\n");
    says("/readyz", 200, "ready\n");

    lab.node.ip("link set up0 down");
    says("/readyz", 503, "not ready\nuplink up0 is down\n");
    says("/healthz", 200, "ok\n");
    assert_eq!(sample(&scrape(&lab), "weft_ready", &[]), 0.0);
    lab.node.ip("link set up0 up");
    wait_for("it to be ready again", || (get(&lab, "/readyz").status == 200).then_some(()));
}

#[test]
fn only_what_there_is_is_answered_and_head_has_no_body() {
    let lab = Lab::new();
    let _weftd = lab.start();
    for path in ["/metrics", "/healthz", "/readyz"] {
        let head = ask_tcp(&lab.node, address(), "HEAD", path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        for method in ["POST", "PUT", "DELETE"] {
            let refused = ask_tcp(&lab.node, address(), method, path);
            assert_eq!(refused.status, 405, "{method} {path}");
            assert!(refused.head.contains("allow: get, head"), "{}", refused.head);
        }
    }
    // The control API is not here.
    for path in ["/", "/metrics/x", "/v1/status", "/v1/pods", "/%2e%2e/metrics"] {
        assert_eq!(get(&lab, path).status, 404, "{path}");
    }
}

#[test]
fn an_address_that_is_taken_is_a_problem_and_no_reason_not_to_start() {
    let lab = Lab::new();
    let taken = lab.node.enter(|| TcpListener::bind(address()).expect("a free port")).join().unwrap();
    let _weftd = lab.start();
    wait_for("the problem to be told", || {
        let status = lab.status();
        let told =
            status.problems.iter().any(|problem| problem.contains("metrics: can't listen on 127.0.0.1:9477"));
        (told && status.state == State::Degraded).then_some(())
    });
    drop(taken);
    wait_for("the problem to be over", || lab.status().problems.is_empty().then_some(()));
    assert_eq!(get(&lab, "/healthz").status, 200);
}

#[test]
fn clients_that_hold_every_place_do_not_keep_the_next_one_out() {
    let lab = Lab::new();
    let mut weftd = lab.start();
    let over = Arc::new(AtomicBool::new(false));
    let crowd: Vec<_> = (0..40)
        .map(|number| {
            let over = Arc::clone(&over);
            // Some say nothing at all, some begin and never end. All come again as soon as they are sent away.
            let begun = if number % 2 == 0 { "" } else { "GET /metrics HTTP/1.1\r\nX: " };
            lab.node.enter(move || {
                let mut sent_away = 0u32;
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(address()) else { continue };
                    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a time above zero");
                    // It may be sent away at any moment.
                    let _ = stream.write_all(begun.as_bytes());
                    while !over.load(Ordering::Relaxed) {
                        match stream.read(&mut [0; 512]) {
                            Ok(1..) => {}
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                            Ok(0) | Err(_) => {
                                sent_away += 1;
                                break;
                            }
                        }
                    }
                }
                sent_away
            })
        })
        .collect();
    // Not even one of many is to wait as long as a silent client may keep a place that nobody else wants.
    for round in 0..8 {
        for path in ["/healthz", "/readyz", "/metrics"] {
            // A machine that is busy otherwise may take one's patience.
            let answered = (0..2).any(|_| answered_within(&lab, path, Duration::from_secs(4)));
            assert!(answered, "{path} has no answer in round {round}");
        }
    }
    over.store(true, Ordering::Relaxed);
    let sent_away: u32 = crowd.into_iter().map(|one| one.join().unwrap()).sum();
    assert!(sent_away >= 24, "{sent_away} of 40 on 16 places were sent away");
    weftd.assert_alive();
}

/// Whether a probe of this patience is answered, whatever the answer is.
fn answered_within(lab: &Lab, path: &'static str, patience: Duration) -> bool {
    let probe = lab.node.enter(move || {
        let mut stream = TcpStream::connect_timeout(&address(), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: weft\r\n\r\n").as_bytes())?;
        let mut begun = [0; 9];
        stream.read_exact(&mut begun)?;
        Ok::<_, std::io::Error>(begun)
    });
    probe.join().unwrap().is_ok_and(|begun| begun == *b"HTTP/1.1 ")
}
