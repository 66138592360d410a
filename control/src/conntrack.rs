//! What the kernel's connection tracking knows when weftd starts: connections that it translates for pods, so that their answers go on coming to
//! it ([`weft_switch::pins`]). Without it, the first answer after a restart would get to its pod untranslated, and the pod would reset the connection.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;

use weft_switch::pins::{Kind, Pin};

/// Where the kernel lists them, for the network namespace of who reads.
pub(crate) const LIST: &str = "/proc/thread-self/net/nf_conntrack";

/// Hands over the answers' flow of every connection in the list that the kernel translates without changing who has asked; how many these
/// are.
///
/// # Errors
/// The list cannot be read: the kernel may have been built without it, or tracks nothing.
pub(crate) fn translated(list: &Path, mut take: impl FnMut(&Pin)) -> io::Result<usize> {
    let mut count = 0;
    for line in BufReader::new(File::open(list)?).lines() {
        if let Some(pin) = read(&line?) {
            take(&pin);
            count += 1;
        }
    }
    Ok(count)
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
        6 if says("SYN_SENT") || says("SYN_SENT2") || says("SYN_RECV") => ((sport, dport), Kind::Opening),
        6 if says("FIN_WAIT") || says("CLOSE_WAIT") => ((sport, dport), Kind::ClosedByOther),
        6 if says("LAST_ACK") || says("TIME_WAIT") => ((sport, dport), Kind::Closed),
        6 if says("CLOSE") => ((sport, dport), Kind::Reset),
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
}
