//! A guest and an ordinary pod of another node: what either leaves unfinished goes through the tunnel, and arrives right to the
//! last byte, finished or as whole as the far side takes it.

use weft_api::Client;

use super::{ALL, PLAIN, all_of, got, work};
use crate::bridge::unfinished::{gso_tcp, tcp_payload};
use crate::lab::frames::{Checksum, Ip, Mac, TCP, UDP, tcp, udp};
use crate::lab::guest::{Driver, Guest, guest_pod};
use crate::lab::segment::pattern;
use crate::lab::{Frame, Lab, Namespace, Weftd, Wire, wait_for};
use crate::tunnel::{GATEWAY, Setup};
use crate::uplink_socket::second_node;
use weft_ffi::dpdk::{TxWork, Upper};

const SOCKET: &str = "kind = \"socket\"";
const AF_PACKET: &str = "kind = \"af_packet\"";
/// The gateway of b's pods.
const FAR_GATEWAY: Mac = [0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x01];
/// Payload bytes of what a large frame stands for.
const SIZE: u16 = 1300;

/// a with a guest, b with a TAP.
struct Across {
    guest: Guest,
    pod: Wire,
    other: Client,
    // The daemons go before their lab.
    _nodes: [Weftd; 2],
    _far: Namespace,
    lab: Lab,
}

impl Across {
    /// With these kinds of uplink.
    fn new(kinds: [&str; 2], driver: Driver, over_v6: bool) -> Self {
        let lab = Lab::quiet();
        lab.configure("", kinds[0], "");
        let far = Namespace::mute("far");
        lab.replace_cluster(&(Setup { over_v6, ..Setup::default() }.nodes() + &guest_pod(&lab, "one", 2)));
        let a = lab.start();
        let guest = Guest::start(&lab, "one", 2, driver);
        let (b, other) = second_node(&lab, kinds[1], &far);
        lab.peer_resolved();
        wait_for("the way to a to be known", || {
            let status = lab.wait_on(other.status()).expect("b's status");
            status.peers.iter().all(|peer| peer.resolved).then_some(())
        });
        let pod = Wire::open(&far, "eth0");
        Self { guest, pod, other, _nodes: [a, b], _far: far, lab }
    }

    /// The guest sends a packet whose checksum is still to be filled in, and the pod gets it with the right one, two hops
    /// further.
    fn arrives(&mut self, ip: &Ip, protocol: u8, segment: &[u8]) {
        let mut unfinished = segment.to_vec();
        let at = if protocol == TCP { 16 } else { 6 };
        unfinished[at..at + 2].copy_from_slice(&ip.pseudo(protocol, segment.len()).to_be_bytes());
        let told = match protocol {
            TCP => work(ip, None),
            _ => TxWork { l4_len: 8, upper: Upper::Udp, ..work(ip, None) },
        };
        self.guest.send(&ip.frame(GATEWAY, self.guest.mac, protocol, &unfinished), Some(told));
        let further = Ip { ttl: ip.ttl - 2, ..ip.clone() };
        let expected = further.frame(self.pod.mac, FAR_GATEWAY, protocol, segment);
        self.pod.receive("packet of the guest's", |frame| (frame.finished() == expected).then_some(()));
    }

    /// The guest sends a large frame, and the pod gets all of it.
    fn arrives_whole(&mut self, ip: &Ip, body: &[u8]) -> Vec<Frame> {
        let (frame, _) = gso_tcp(ip, (GATEWAY, self.guest.mac), SIZE, body);
        self.guest.send(&frame, Some(work(ip, Some(SIZE))));
        let macs = [self.pod.mac, FAR_GATEWAY].concat();
        let (mut frames, mut enough) = (Vec::new(), all_of(body.len()));
        self.pod.receive("all of it", |frame| {
            frames.extend((frame.bytes[..12] == macs).then(|| frame.clone()));
            enough(&frames).then_some(())
        });
        assert!(tcp_payload(&frames, ip, 0) == body, "not what was sent");
        frames
    }

    /// The pod sends a large frame, and the guest gets all of it.
    fn comes_back_whole(&mut self, ip: &Ip, body: &[u8]) -> Vec<Frame> {
        let (frame, header) = gso_tcp(ip, (FAR_GATEWAY, self.pod.mac), SIZE, body);
        self.pod.send_unfinished(&frame, header);
        let frames = got(&mut self.guest, ip, body);
        let macs = [self.guest.mac, GATEWAY].concat();
        assert!(frames.iter().all(|frame| frame.bytes[..12] == macs));
        frames
    }

    fn assert_nothing_lost(&self) {
        self.lab.counters_balance();
        let there = self.lab.wait_on(self.other.drops(true)).expect("the drops");
        for reason in [
            "rx_bad_offload",
            "gso_malformed",
            "checksum_place",
            "mtu_exceeded",
            "tx_not_taken",
            "tx_too_long",
        ] {
            let far = there.total.iter().find(|drop| drop.reason == reason).expect("a reason of this name");
            assert_eq!((self.lab.drops(reason), far.count), (0, 0), "{reason}");
        }
    }
}

/// There and back.
fn ways() -> [(Ip, Ip); 2] {
    let way = |near: &str, far: &str| (Ip::new(near, far), Ip::new(far, near));
    [way("10.244.0.2", "10.244.1.2"), way("fd00:10:244::2", "fd00:10:244:1::2")]
}

/// One frame again. Its size of segments is the sender's, or the largest that the tunnel carries where the kernel has taken the frame whole and
/// forgotten it.
fn is_one(frames: &[Frame]) {
    let sizes: Vec<_> = frames.iter().map(|frame| frame.gso).collect();
    assert!(matches!(sizes[..], [Some(SIZE..=1410)]), "{sizes:?}");
}

fn through(kinds: [&str; 2], driver: Driver, over_v6: bool) {
    let mut across = Across::new(kinds, driver, over_v6);
    for (there, back) in ways() {
        if driver.offloads {
            for payload in [&b"even"[..], b"odd", &pattern(1300)] {
                across.arrives(&there, TCP, &tcp(&there, (11, 12), (1000, 0x10), payload));
                across.arrives(&there, UDP, &udp(&there, (13, 14), Checksum::Valid, payload));
            }
            for len in [1301, 20_000, 64_000] {
                let frames = across.arrives_whole(&there, &pattern(len));
                // What one message brings is put together again.
                if kinds == [SOCKET; 2] && len == 20_000 {
                    is_one(&frames);
                }
            }
        }
        for len in [500, 20_000, 64_000] {
            let frames = across.comes_back_whole(&back, &pattern(len));
            if driver.offloads && kinds == [SOCKET; 2] && len == 20_000 {
                is_one(&frames);
            }
            // Nothing that such a guest has not said it takes.
            let finished = |frame: &Frame| frame.gso.is_none() && frame.partial.is_none();
            assert!(driver.offloads || frames.iter().all(finished));
        }
    }
    across.assert_nothing_lost();
}

#[test]
fn by_sockets() {
    through([SOCKET; 2], ALL, false);
}

#[test]
fn by_sockets_over_ipv6() {
    through([SOCKET; 2], ALL, true);
}

#[test]
fn by_packet_sockets() {
    through([AF_PACKET; 2], ALL, false);
}

#[test]
fn by_packet_sockets_over_ipv6() {
    through([AF_PACKET; 2], ALL, true);
}

#[test]
fn from_sockets_to_packet_sockets_and_back() {
    through([SOCKET, AF_PACKET], ALL, false);
}

#[test]
fn to_a_guest_that_takes_nothing_unfinished() {
    through([SOCKET; 2], PLAIN, false);
    through([AF_PACKET; 2], PLAIN, false);
}
