//! What the kernel's connection tracking knows when weftd starts: connections that it translates for pods, so that their answers go on coming to
//! it ([`weft_switch::pins`]). Without it, the first answer after a restart would get to its pod untranslated, and the pod would reset the connection.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use weft_switch::pins::{Kind, Pin, Pins};

/// Where the kernel lists them, for the network namespace of who reads.
pub(crate) const LIST: &str = "/proc/thread-self/net/nf_conntrack";

/// How long the reading may take. The kernel gives the list in pages, and before 2025 looked for the start of each from the beginning: of
/// some hundred thousand connections that is the work of a minute.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the list on a thread of its own, beside whatever else starts: nothing waits for it. `is_own`: whether an address is of this node's
/// pods, so that what outsiders have asked for does not fill the table. `second` tells the time by which pins live.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn read_beside(
    pins: Pins,
    is_own: impl Fn(IpAddr) -> bool + Send + 'static,
    second: fn() -> u32,
) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let body = move || match translated(Path::new(LIST), deadline, is_own, |pin| pins.add(pin, second())) {
        Ok(Read { count: 0, whole: true }) => {}
        Ok(Read { count, whole: true }) => info!("{count} connections of before that the kernel translates"),
        Ok(Read { count, whole: false }) => warn!(
            "the kernel takes too long to list its connections: {count} of those that it translates were read in {PATIENCE:?}; \
             to services whose servers speak next, others may be reset"
        ),
        Err(error) => debug!("the kernel lists no connections: {error}"),
    };
    std::thread::Builder::new().name("weft-conntrack".to_owned()).spawn(body).map(drop)
}

/// What has come of the list.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    /// Connections that were handed over.
    count: usize,
    /// Whether the list was read to its end.
    whole: bool,
}

/// Hands over the answers' flow of every connection in the list that the kernel translates without changing who has asked, where that is one
/// of this node's pods.
///
/// # Errors
/// The list cannot be read: the kernel may have been built without it, or tracks nothing.
fn translated(
    list: &Path,
    deadline: Instant,
    is_own: impl Fn(IpAddr) -> bool,
    mut take: impl FnMut(&Pin),
) -> io::Result<Read> {
    let mut count = 0;
    for line in BufReader::new(File::open(list)?).lines() {
        let line = line?;
        if Instant::now() >= deadline {
            return Ok(Read { count, whole: false });
        }
        if let Some(pin) = read(&line).filter(|pin| is_own(pin.dst)) {
            take(&pin);
            count += 1;
        }
    }
    Ok(Read { count, whole: true })
}

/// One line: the question's addresses and ports, then the answer's.
fn read(line: &str) -> Option<Pin> {
    let protocol = line.split_whitespace().nth(3)?.parse().ok()?;
    let all = |name: &'static str| {
        line.split_whitespace().filter_map(move |word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let address = |name, nth| all(name).nth(nth)?.parse::<IpAddr>().ok();
    let number = |name, nth| all(name).nth(nth).map_or(Some(0), |number| number.parse::<u16>().ok());
    let (src, dst) = (address("src", 1)?, address("dst", 1)?);
    let asked = (address("src", 0)?, number("sport", 0)?, address("dst", 0)?, number("dport", 0)?);
    let (sport, dport) = (number("sport", 1)?, number("dport", 1)?);
    // Else the answer leads to the node's own address, or needs no translation.
    if asked.0 != dst || (asked.2, asked.3) == (src, sport) && asked.1 == dport {
        return None;
    }
    let says = |word| line.split_whitespace().any(|there| there == word);
    let ident = number("id", 1)?;
    let (ports, kind) = match protocol {
        6 if says("SYN_SENT") || says("SYN_SENT2") => ((sport, dport), Kind::Opening),
        6 if says("SYN_RECV") => ((sport, dport), Kind::Opened),
        6 if says("FIN_WAIT") || says("CLOSE_WAIT") => ((sport, dport), Kind::ClosedByOther),
        6 if says("LAST_ACK") || says("TIME_WAIT") => ((sport, dport), Kind::Closed),
        6 if says("CLOSE") => ((sport, dport), Kind::Reset),
        6 if says("[UNREPLIED]") => ((sport, dport), Kind::Unanswered),
        6 => ((sport, dport), Kind::Established),
        17 if says("[UNREPLIED]") => ((sport, dport), Kind::Asked),
        17 => ((sport, dport), Kind::Answered),
        1 | 58 => ((ident, ident), Kind::Echo),
        _ => ((sport, dport), Kind::Other),
    };
    Some(Pin { src, dst, protocol, ports, kind, age: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_translated_for_a_pod_is_told_from_the_rest() {
        let service = "ipv4     2 tcp      6 86399 ESTABLISHED src=10.244.0.2 dst=10.96.0.11 sport=40000 dport=80 \
                       src=10.244.1.2 dst=10.244.0.2 sport=8080 dport=40000 [ASSURED] mark=0 zone=0 use=2";
        let (src, dst) = ([10, 244, 1, 2].into(), [10, 244, 0, 2].into());
        let pin = Pin { src, dst, protocol: 6, ports: (8080, 40_000), kind: Kind::Established, age: 0 };
        assert_eq!(read(service), Some(pin));
        assert_eq!(
            read(&service.replace("ESTABLISHED", "TIME_WAIT")).map(|pin| pin.kind),
            Some(Kind::Closed)
        );
        // Masqueraded, and not translated.
        assert_eq!(read(&service.replace("dst=10.244.0.2 ", "dst=10.244.0.1 ")), None);
        assert_eq!(read(&service.replace("10.96.0.11", "10.244.1.2").replace("=80 ", "=8080 ")), None);
        let query = "ipv6     10 udp      17 29 src=fd00:0010:0244:0000:0000:0000:0000:0002 dst=fd00:0096:0000:0000:0000:0000:0000:000a \
                     sport=5000 dport=53 [UNREPLIED] src=fd00:0010:0244:0000:0000:0000:0000:0003 \
                     dst=fd00:0010:0244:0000:0000:0000:0000:0002 sport=5353 dport=5000 mark=0 zone=0 use=2";
        let pin = read(query).expect("a query");
        assert_eq!(
            (pin.src, pin.kind, pin.ports),
            ("fd00:10:244::3".parse().expect("an address"), Kind::Asked, (5353, 5000))
        );
        let ping = "ipv4     2 icmp     1 29 src=10.244.0.2 dst=10.96.0.11 type=8 code=0 id=7 src=10.244.1.2 dst=10.244.0.2 \
                    type=0 code=0 id=7 mark=0 zone=0 use=2";
        assert_eq!(read(ping).map(|pin| (pin.ports, pin.kind)), Some(((7, 7), Kind::Echo)));
        for line in ["", "ipv4", "ipv4 2 tcp x", "ipv4 2 tcp 6 5 src=1 dst=2", &service[..100]] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    /// A client outside has its address left alone as well where a node port is Local, or by a host port: its answers lead to the host anyway.
    #[test]
    fn only_what_this_nodes_pods_have_asked_for_is_taken_and_only_in_time() {
        let line = |client| {
            format!(
                "ipv4     2 tcp      6 86399 ESTABLISHED src={client} dst=172.16.0.1 sport=40000 dport=30080 \
                 src=10.244.0.3 dst={client} sport=8080 dport=40000 [ASSURED] mark=0 zone=0 use=2\n"
            )
        };
        let folder = tempfile::tempdir().expect("a folder");
        let list = folder.path().join("list");
        std::fs::write(&list, line("192.0.2.9") + &line("10.244.0.2") + &line("10.244.1.2")).expect("a list");
        let own = "10.244.0.0/24".parse::<ipnet::IpNet>().expect("a subnet");
        let taken = |deadline| {
            let mut taken = Vec::new();
            let read =
                translated(&list, deadline, |address| own.contains(&address), |pin| taken.push(pin.dst));
            (read.expect("a list"), taken)
        };
        let now = Instant::now();
        let asker = [10, 244, 0, 2].into();
        assert_eq!(taken(now + PATIENCE * 100), (Read { count: 1, whole: true }, vec![asker]));
        assert_eq!(taken(now), (Read { count: 0, whole: false }, vec![]), "cut short");
        assert!(translated(&folder.path().join("none"), now, |_| true, |_| {}).is_err());
    }
}
