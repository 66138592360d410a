//! A segment: pods of one node whose ends are wires, so that a test says and hears every frame itself.

use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use super::frames::{Checksum, ETHERTYPE_ARP, Ip, Mac, UDP, arp, ethernet, icmp, mac, udp};
use super::{Frame, Lab, Namespace, Weftd, Wire, wait_for};

pub(crate) const BROADCAST: Mac = [0xff; 6];
pub(crate) const NOBODY: Mac = [0; 6];
/// An ethertype that nobody knows (IEEE 802, local experiments).
pub(crate) const UNKNOWN: u16 = 0x88b5;
/// The gateway's addresses of a.
pub(crate) const GATEWAY: [&str; 2] = ["10.244.0.1", "fd00:10:244::1"];
/// The gateway's MAC address: made from its IPv4 address.
pub(crate) const GATEWAY_MAC: Mac = [0x0a, 0x58, 10, 244, 0, 1];

/// A pod of a segment.
pub(crate) enum Pod {
    /// An ordinary one.
    Plain(&'static str),
    /// One with `trusted = true`.
    Trusted(&'static str),
}

/// A pod's end of its wire.
pub(crate) struct Station {
    pub(crate) name: &'static str,
    pub(crate) wire: Wire,
    /// Its IPv4 and IPv6 address.
    pub(crate) ips: [String; 2],
    pub(crate) namespace: Namespace,
}

impl Deref for Station {
    type Target = Wire;
    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl DerefMut for Station {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

/// A running weftd whose pods and host neither say nor hear anything but by wires.
pub(crate) struct Segment {
    _weftd: Weftd,
    pub(crate) lab: Lab,
}

impl Segment {
    /// With these pods, the first of them at 10.244.0.2 and fd00:10:244::2, and so on.
    pub(crate) fn of<const N: usize>(pods: [Pod; N]) -> (Self, [Station; N]) {
        Self::with("", pods)
    }

    /// The same with further sections in `weftd.toml`.
    pub(crate) fn with<const N: usize>(sections: &str, pods: [Pod; N]) -> (Self, [Station; N]) {
        let lab = Lab::quiet();
        lab.configure("", "", sections);
        mute_host(&lab.node);
        Self::start(lab, pods)
    }

    /// The same in this lab.
    pub(crate) fn start<const N: usize>(lab: Lab, pods: [Pod; N]) -> (Self, [Station; N]) {
        let named = pods.map(|pod| {
            let (name, trusted) = match pod {
                Pod::Plain(name) => (name, false),
                Pod::Trusted(name) => (name, true),
            };
            (name, trusted, Namespace::mute(name))
        });
        let text: Vec<_> = (2..)
            .zip(&named)
            .map(|(host, (name, trusted, namespace))| pod_entry(name, host, namespace, *trusted))
            .collect();
        lab.write_cluster(&text.concat());
        let weftd = lab.start();
        let mut host = 1;
        let stations = named.map(|(name, _, namespace)| {
            host += 1;
            let wire = Wire::open(&namespace, "eth0");
            let ips = [format!("10.244.0.{host}"), format!("fd00:10:244::{host:x}")];
            Station { name, wire, ips, namespace }
        });
        (Self { _weftd: weftd, lab }, stations)
    }

    /// The host's end of its port.
    pub(crate) fn host(&self) -> Wire {
        Wire::open(&self.lab.node, "weft0")
    }

    /// `station` says this one frame, which is dropped for this reason, and nothing else happens.
    pub(crate) fn drops(&self, station: &mut Station, reason: &str, frame: &[u8]) {
        let name = station.name;
        self.lab.deltas(1, || station.send(frame)).assert_dropped(name, reason, 1);
    }

    /// The same for each of these frames.
    pub(crate) fn drops_each(&self, station: &mut Station, reason: &str, frames: &[Vec<u8>]) {
        frames.iter().for_each(|frame| self.drops(station, reason, frame));
    }

    /// `station` says this one frame, which is taken silently, and nothing else happens.
    pub(crate) fn consumes(&self, station: &mut Station, frame: &[u8]) {
        let name = station.name;
        let deltas = self.lab.deltas(1, || station.send(frame));
        deltas.assert_only(&[("consumed", 1)]).assert_ports(&[(&format!("{name}.rx"), 1)]);
    }

    /// `from` says this one frame, which leaves by exactly these ports.
    pub(crate) fn carries(&self, from: &mut Station, to: &[&str], frame: &[u8]) {
        let name = from.name;
        let deltas = self.lab.deltas(1, || from.send(frame));
        assert_copies(&deltas, name, to, 1);
    }

    /// `station` asks and gets an answer: the next frame that it gets. No other port gets anything.
    pub(crate) fn answer(&self, station: &mut Station, question: &[u8]) -> Vec<u8> {
        station.drain();
        let name = station.name;
        let deltas = self.lab.deltas(1, || station.send(question));
        deltas
            .assert_only(&[("tx", 1)])
            .assert_ports(&[(&format!("{name}.rx"), 1), (&format!("{name}.tx"), 1)]);
        let answer = station.receive("answer", |frame| Some(frame.clone()));
        assert_eq!((answer.partial, answer.gso), (None, None));
        answer.bytes
    }
}

/// So many frames from `from` have left as one copy each by each of these ports, and nothing else has happened.
pub(crate) fn assert_copies(deltas: &super::Deltas, from: &str, to: &[&str], frames: u64) {
    let copies = to.len() as u64;
    let mut totals = vec![("tx", copies * frames)];
    if copies > 1 {
        totals.push(("originated", (copies - 1) * frames));
    }
    let mut ports: Vec<_> = to.iter().map(|to| (format!("{to}.tx"), frames)).collect();
    ports.push((format!("{from}.rx"), frames));
    let ports: Vec<_> = ports.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    deltas.assert_only(&totals).assert_ports(&ports);
}

/// A pod in the cluster file, at 10.244.0.`host` and fd00:10:244::`host`.
pub(crate) fn pod_entry(name: &str, host: u8, namespace: &Namespace, trusted: bool) -> String {
    super::tap_pod(name, host, namespace) + if trusted { "trusted = true\n" } else { "" }
}

/// Keeps the kernel of a away from what comes over the host port, and from saying anything there.
fn mute_host(node: &Namespace) {
    for family in ["inet", "arp"] {
        node.nft(&format!(
            "table {family} host {{
                chain output {{ type filter hook output priority 0; oifname \"weft0\" drop; }}
                chain input {{ type filter hook input priority 0; iifname \"weft0\" drop; }}
            }}"
        ));
    }
}

/// A frame of no known protocol with this in it.
pub(crate) fn plain(dst: Mac, src: Mac, text: &str) -> Vec<u8> {
    let mut payload = text.as_bytes().to_vec();
    // Not shorter than Ethernet allows.
    payload.resize(payload.len().max(46), 0);
    ethernet(dst, src, UNKNOWN, &payload)
}

/// Bytes in which every value and every distance between equal values occurs.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8) as u8).collect()
}

/// What `at` got before this moment is exactly this, in this order. `from` is the station whose frames are in question, so that
/// the one that it sends now comes after all that they could have caused.
pub(crate) fn heard(at: &mut Wire, from: &mut Wire, expected: &[&[u8]]) {
    let frames = frames_until_marker(at, from);
    let frames: Vec<_> = frames.into_iter().map(|frame| frame.bytes).collect();
    assert_eq!(frames, expected);
}

/// All that `at` got before this moment: see [`heard`].
pub(crate) fn frames_until_marker(at: &mut Wire, from: &mut Wire) -> Vec<Frame> {
    let marker = plain(at.mac, from.mac, "the end of what is looked at");
    from.send(&marker);
    until(at, |frame| frame.bytes == marker)
}

/// The same for the host's end, to which only the router leads.
pub(crate) fn host_heard(host: &mut Wire, from: &mut Station, expected: &[&[u8]]) {
    let end = b"the end of what the host is to see";
    let marker = to_address(from, GATEWAY[0], end);
    from.send(&marker);
    let frames = until(host, |frame| contains(&frame.bytes, end));
    let frames: Vec<_> = frames.into_iter().map(|frame| frame.bytes).collect();
    assert_eq!(frames, expected);
}

fn until(at: &mut Wire, marker: impl Fn(&Frame) -> bool) -> Vec<Frame> {
    let mut frames = Vec::new();
    at.receive("marker", |frame| {
        let end = marker(frame);
        if !end {
            frames.push(frame.clone());
        }
        end.then_some(())
    });
    frames
}

/// A UDP packet of a station to an address, by way of the gateway.
fn to_address(from: &Station, address: &str, payload: &[u8]) -> Vec<u8> {
    let own = &from.ips[usize::from(address.contains(':'))];
    let ip = Ip::new(own, address);
    ip.frame(GATEWAY_MAC, from.mac, UDP, &udp(&ip, (7, 7), Checksum::Valid, payload))
}

/// Proves that nothing with `text` in it went onto the wire between the nodes, by an echo request of `from` that goes there now.
pub(crate) fn not_on_the_underlay(segment: &Segment, underlay: &mut Wire, from: &mut Station, text: &str) {
    segment.lab.peer_resolved();
    let end = b"the end of what goes over the uplink";
    let marker = to_address(from, "10.244.1.77", end);
    from.send(&marker);
    underlay.none_before(|seen| contains(&seen.bytes, end), |seen| contains(&seen.bytes, text.as_bytes()));
}

/// Whether `part` stands somewhere in `bytes`.
pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A frame with an ARP message.
pub(crate) fn arp_frame(dst: Mac, operation: u16, sender: (Mac, &str), target: (Mac, &str)) -> Vec<u8> {
    ethernet(dst, sender.0, ETHERTYPE_ARP, &arp(operation, sender, target))
}

/// A broadcast ARP request of a station.
pub(crate) fn arp_request(from: &Station, target: &str) -> Vec<u8> {
    arp_frame(BROADCAST, 1, (from.mac, &from.ips[0]), (NOBODY, target))
}

/// The answer to [`arp_request`]: exactly this, without padding.
pub(crate) fn arp_answer(to: &Station, target: &str, at: Mac) -> Vec<u8> {
    arp_frame(to.mac, 2, (at, target), (to.mac, &to.ips[0]))
}

/// The multicast group in which the owner of `address` listens (RFC 4291 section 2.7.1), with its MAC address.
pub(crate) fn solicited_node(address: &str) -> (String, Mac) {
    let [.., a, b, c] = address.parse::<Ipv6Addr>().expect("an address").octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c));
    (group.to_string(), multicast_mac(&group.to_string()))
}

/// The MAC address of a multicast group (RFC 1112 section 6.4, RFC 2464 section 7).
pub(crate) fn multicast_mac(group: &str) -> Mac {
    match group.parse().expect("an address") {
        IpAddr::V4(v4) => {
            let [_, a, b, c] = Ipv4Addr::octets(&v4);
            [1, 0, 0x5e, a & 0x7f, b, c]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = Ipv6Addr::octets(&v6);
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// A neighbour discovery message with any body, from type to options, over a hop limit of 255.
pub(crate) fn nd_frame(
    dst: Mac,
    src: Mac,
    ips: (&str, &str),
    kind: u8,
    rest: [u8; 4],
    body: &[u8],
) -> Vec<u8> {
    let mut ip = Ip::new(ips.0, ips.1);
    ip.ttl = 255;
    let message = icmp(&ip, (kind, 0), rest, body);
    ip.frame(dst, src, 58, &message)
}

/// A target and a link-layer address option of this type (1 source, 2 target).
pub(crate) fn nd_body(target: &str, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut body = target.parse::<Ipv6Addr>().expect("an address").octets().to_vec();
    if let Some((kind, mac)) = option {
        body.extend([kind, 1]);
        body.extend(mac);
    }
    body
}

/// A neighbour solicitation of a station, to the target's group.
pub(crate) fn solicitation(from: &Station, target: &str) -> Vec<u8> {
    let (group, mac) = solicited_node(target);
    let body = nd_body(target, Some((1, from.mac)));
    nd_frame(mac, from.mac, (&from.ips[1], &group), 135, [0; 4], &body)
}

/// A question whether an address is free: from `::`, without an option (RFC 4862 section 5.4.2).
pub(crate) fn dad(src: Mac, target: &str) -> Vec<u8> {
    let (group, mac) = solicited_node(target);
    nd_frame(mac, src, ("::", &group), 135, [0; 4], &nd_body(target, None))
}

/// A neighbour advertisement: flags 0x80 router, 0x40 solicited, 0x20 override.
pub(crate) fn advertisement(
    dst: Mac,
    src: Mac,
    ips: (&str, &str),
    flags: u8,
    (target, at): (&str, Mac),
) -> Vec<u8> {
    nd_frame(dst, src, ips, 136, [flags, 0, 0, 0], &nd_body(target, Some((2, at))))
}

/// A MAC address that no pod has.
pub(crate) fn stranger(number: u8) -> Mac {
    let mut stranger = mac("02:00:00:aa:00:00");
    stranger[5] = number;
    stranger
}

impl Lab {
    /// What the control socket says to `GET path`, as any client would see it.
    pub(crate) fn get(&self, path: &str) -> Value {
        let mut socket = UnixStream::connect(self.socket()).expect("the control socket");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: weftd\r\nConnection: close\r\n\r\n")
            .expect("it is taken");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer in text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        let from = body.find('{').expect("an object");
        let to = body.rfind('}').expect("its end");
        serde_json::from_str(&body[from..=to]).expect("JSON")
    }

    /// What all workers together have counted under this name beside the frames' ends.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let workers = self.get("/v1/workers");
        let workers = workers["workers"].as_array().expect("the workers");
        workers.iter().map(|worker| worker[name].as_u64().expect("a counter of this name")).sum()
    }

    /// The entries of the FDB for a MAC address.
    pub(crate) fn fdb(&self, of: Mac) -> Vec<Value> {
        entries(&self.get("/v1/fdb"), "entries", "mac", &text(of))
    }

    /// The entries of the neighbour table for an address.
    pub(crate) fn neighbours(&self, address: &str) -> Vec<Value> {
        entries(&self.get("/v1/neigh"), "entries", "address", address)
    }

    /// What is known about an address that two stations claim.
    pub(crate) fn conflicts(&self, address: &str) -> Vec<Value> {
        entries(&self.get("/v1/neigh"), "conflicts", "address", address)
    }

    /// Waits until an address is known to be at a MAC address behind a port.
    pub(crate) fn wait_for_neighbour(&self, address: &str, at: Mac, port: &str) {
        wait_for(&format!("{address} to be known behind {port}"), || {
            let entries = self.neighbours(address);
            let [entry] = &entries[..] else { return None };
            (entry["mac"] == text(at) && entry["port"] == port).then_some(())
        });
    }
}

fn entries(list: &Value, name: &str, key: &str, wanted: &str) -> Vec<Value> {
    let entries = list[name].as_array().unwrap_or_else(|| panic!("no list {name}: {list}"));
    entries.iter().filter(|entry| entry[key] == wanted).cloned().collect()
}

/// A MAC address as people write it.
pub(crate) fn text(mac: Mac) -> String {
    let bytes: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}
