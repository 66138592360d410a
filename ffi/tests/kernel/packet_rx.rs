//! Receiving by packet sockets.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use weft_ffi::kernel::event::{Epoll, Events, Interest};
use weft_ffi::kernel::packet::{
    Filter, PacketError, PacketTx, RxChecksum, RxOptions, RxRing, RxStats, TxOptions, VlanTag,
};

use crate::frames::{
    GSO_TCP4, NO_OFFLOAD, UDP_HEADERS, from_port, partial_udp, read_vnet, to_port, udp_to_b,
};
use crate::lab::{Cable, MAC_A, MAC_B, Namespace, eventually, name, wait_ready};

pub(crate) fn ring_on(namespace: &Namespace, interface: &str, options: &RxOptions) -> RxRing {
    namespace.within(|| RxRing::open(name(interface), options)).unwrap()
}

fn small_ring() -> RxOptions {
    RxOptions { ring_mib: 1, ..RxOptions::default() }
}

/// Sends finished or unfinished frames out of A's end of the cable.
fn send_from_a(cable: &Cable, frames: &[Vec<u8>]) {
    let mut tx = cable.a.within(|| PacketTx::open(name("a0"), TxOptions::default())).unwrap();
    let batch = frames.iter().map(|frame| (partial_udp(0), [frame.as_slice()]));
    let report = tx.send_batch(batch, |at, error| panic!("frame {at}: {error}"));
    assert_eq!(report.sent, frames.len());
}

/// The payloads that are in the ring now.
fn payloads(ring: &mut RxRing) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(frame) = ring.next_frame() {
        found.push(frame.bytes()[UDP_HEADERS..].to_vec());
    }
    found
}

#[test]
fn a_gso_frame_arrives_whole_with_its_state() {
    const BYTES: usize = 4 << 20;
    let cable = Cable::new();
    let mut ring = ring_on(&cable.b, "b0", &RxOptions::default());
    let listener = cable.b.within(|| TcpListener::bind("10.9.0.2:5001")).unwrap();
    let receiver = thread::spawn(move || {
        let mut all = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
        all.len()
    });
    let mut stream = cable.a.within(|| TcpStream::connect("10.9.0.2:5001")).unwrap();
    let sender = thread::spawn(move || stream.write_all(&vec![7; BYTES]).unwrap());

    let mut longest = 0;
    let mut payload = 0;
    eventually("all of the stream", || {
        while let Some(frame) = ring.next_frame() {
            let bytes = frame.bytes();
            assert_eq!(bytes[..12], [MAC_B, MAC_A].concat(), "only what A sent");
            assert_eq!(frame.original_len(), bytes.len());
            assert!(!frame.is_truncated());
            assert_eq!(frame.vlan(), None);
            let headers = 34 + usize::from(bytes[46] >> 4) * 4;
            if bytes.len() == headers {
                // What TCP answers without a connection's memory, as in TIME_WAIT, is finished at once.
                continue;
            }
            payload += bytes.len() - headers;
            let vnet = read_vnet(frame.vnet_hdr());
            assert!(vnet.needs_checksum, "a veth does not fill in checksums");
            assert_eq!(frame.checksum(), RxChecksum::NotReady);
            assert_eq!((vnet.csum_start, vnet.csum_offset), (34, 16));
            if bytes.len() > 1514 {
                assert_eq!(vnet.gso_type, GSO_TCP4);
                assert_eq!(usize::from(vnet.gso_size), 1514 - headers);
            }
            longest = longest.max(bytes.len());
        }
        (payload >= BYTES).then_some(())
    });
    sender.join().unwrap();
    assert_eq!(receiver.join().unwrap(), BYTES);
    assert!(longest > 32_000, "longest frame: {longest}");
    assert_eq!(ring.stats().unwrap().dropped, 0);
}

#[test]
fn sees_what_comes_in_and_not_what_goes_out() {
    let cable = Cable::new();
    let mut ring = ring_on(&cable.b, "b0", &small_ring());
    let (epoll, mut events) = (Epoll::new().unwrap(), Events::with_capacity(4));
    epoll.add(ring.as_fd(), 1, Interest::Read).unwrap();
    let at_b = cable.b.within(|| UdpSocket::bind("10.9.0.2:5000")).unwrap();
    let at_a = cable.a.within(|| UdpSocket::bind("10.9.0.1:4000")).unwrap();
    at_b.send_to(b"out", "10.9.0.1:4000").unwrap();
    at_a.recv(&mut [0; 8]).unwrap();
    epoll.wait(Some(Duration::ZERO), &mut events).unwrap();
    assert!(events.is_empty(), "what B sent has reached A, and the ring has nothing");

    at_a.send_to(b"in", "10.9.0.2:5000").unwrap();
    let seen = wait_ready(&epoll);
    assert!(seen.iter().all(|ready| ready.token == 1 && ready.readable && !ready.error), "{seen:?}");
    assert_eq!(payloads(&mut ring), [b"in"]);
    epoll.wait(Some(Duration::ZERO), &mut events).unwrap();
    assert!(events.is_empty(), "the ring has been emptied");
    // The kernel had its own copy all the same.
    at_b.recv(&mut [0; 8]).unwrap();
    assert_eq!(ring.stats().unwrap(), RxStats { received: 1, dropped: 0 });
    assert_eq!(ring.stats().unwrap(), RxStats::default(), "counted once");
}

#[test]
fn the_tunnels_filter_and_vlan_tags() {
    let cable = Cable::new();
    let options = RxOptions { filter: Some(Filter::udp_to(8472)), ..small_ring() };
    let mut filtered = ring_on(&cable.b, "b0", &options);
    let mut all = ring_on(&cable.b, "b0", &small_ring());
    let tagged = |tci: u16, payload: &[u8]| {
        let mut frame = udp_to_b(1, 8472, payload);
        frame.splice(12..12, [0x81, 0x00, (tci >> 8) as u8, tci as u8]);
        frame
    };
    let mut elsewhere = udp_to_b(1, 8472, b"not B's MAC");
    elsewhere[5] = 0x77;
    let finished =
        [tagged(5, b"VLAN 5"), tagged(0xe000, b"priority tag"), elsewhere, udp_to_b(1, 8473, b"port")];
    let mut tx = cable.a.within(|| PacketTx::open(name("a0"), TxOptions::default())).unwrap();
    let batch = finished.iter().map(|frame| (NO_OFFLOAD, [frame.as_slice()]));
    assert_eq!(tx.send_batch(batch, |at, error| panic!("{at}: {error}")).sent, finished.len());
    send_from_a(&cable, &[udp_to_b(1, 8472, b"tunnel")]);

    // Both sockets get their copies in one go, so when the last frame is in one, everything is in both.
    let mut tags = HashMap::new();
    eventually("the last frame", || {
        while let Some(frame) = all.next_frame() {
            tags.insert(frame.bytes()[UDP_HEADERS..].to_vec(), frame.vlan());
        }
        tags.contains_key(&b"tunnel"[..]).then_some(())
    });
    assert_eq!(tags.len(), 5);
    assert_eq!(tags[&b"VLAN 5"[..]], Some(VlanTag { tci: 5, tpid: 0x8100 }));
    assert_eq!(tags[&b"priority tag"[..]], Some(VlanTag { tci: 0xe000, tpid: 0x8100 }));
    assert_eq!(tags[&b"tunnel"[..]], None);
    let passed = eventually("the filtered frames", || {
        let found = payloads(&mut filtered);
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(passed, [&b"priority tag"[..], b"tunnel"]);
    assert_eq!(filtered.stats().unwrap(), RxStats { received: 2, dropped: 0 });
}

#[test]
fn a_fanout_group_shares_flows() {
    const FLOWS: u16 = 64;
    let cable = Cable::new();
    let mut rings = cable.b.within(|| RxRing::open_fanout(name("b0"), &RxOptions::default(), 2)).unwrap();
    let frames: Vec<_> = (0..4 * FLOWS).map(|n| udp_to_b(2000 + n % FLOWS, 8472, &n.to_be_bytes())).collect();
    // A group has its own switch for what goes out.
    let at_a = cable.a.within(|| UdpSocket::bind("10.9.0.1:4000")).unwrap();
    let at_b = cable.b.within(|| UdpSocket::bind("10.9.0.2:8472")).unwrap();
    at_b.send_to(b"out", "10.9.0.1:4000").unwrap();
    at_a.recv(&mut [0; 8]).unwrap();
    send_from_a(&cable, &frames);

    let mut flows = [HashSet::new(), HashSet::new()];
    let mut seen = Vec::new();
    eventually("all frames", || {
        for (ring, flows) in rings.iter_mut().zip(&mut flows) {
            while let Some(frame) = ring.next_frame() {
                flows.insert(from_port(frame.bytes()));
                seen.push(frame.bytes()[UDP_HEADERS..].to_vec());
            }
        }
        (seen.len() >= frames.len()).then_some(())
    });
    assert_eq!(seen.len(), frames.len());
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), frames.len(), "each frame once");
    assert!(flows.iter().all(|flows| !flows.is_empty()), "both have a share");
    assert_eq!(flows[0].intersection(&flows[1]).count(), 0, "a flow stays with one");

    // Another group on the same interface is another group.
    let mut other = cable.b.within(|| RxRing::open_fanout(name("b0"), &small_ring(), 1)).unwrap();
    send_from_a(&cable, &[udp_to_b(1, 9, b"x")]);
    eventually("the frame in both groups", || {
        (other[0].next_frame().is_some() && rings.iter_mut().any(|ring| ring.next_frame().is_some()))
            .then_some(())
    });
}

#[test]
fn a_frame_longer_than_its_slot_is_cut_and_says_so() {
    let cable = Cable::new();
    let mut ring = ring_on(&cable.b, "b0", &RxOptions { slot: 512, ..small_ring() });
    assert_eq!(ring.capacity(), 2048);
    send_from_a(&cable, &[udp_to_b(1, 9, &[7; 1000]), udp_to_b(1, 10, &[8; 100])]);
    eventually("the long frame", || {
        let frame = ring.next_frame()?;
        assert!(frame.is_truncated());
        assert_eq!(frame.original_len(), UDP_HEADERS + 1000);
        assert!((300..512).contains(&frame.bytes().len()), "{}", frame.bytes().len());
        assert_eq!(to_port(frame.bytes()), 9);
        Some(())
    });
    eventually("the short frame", || {
        let frame = ring.next_frame()?;
        assert!(!frame.is_truncated());
        assert_eq!(frame.bytes(), udp_to_b(1, 10, &[8; 100]));
        Some(())
    });
}

#[test]
fn a_full_ring_counts_what_it_loses_and_goes_on() {
    let cable = Cable::new();
    let mut ring = ring_on(&cable.b, "b0", &small_ring());
    assert_eq!(ring.capacity(), 15);
    let numbered =
        |from: u16, to: u16| -> Vec<_> { (from..to).map(|n| udp_to_b(1, 9, &n.to_be_bytes())).collect() };
    send_from_a(&cable, &numbered(0, 40));
    let mut total = RxStats::default();
    eventually("the losses", || {
        let more = ring.stats().unwrap();
        total.received += more.received;
        total.dropped += more.dropped;
        (total.received + total.dropped == 40).then_some(())
    });
    assert_eq!(total, RxStats { received: 15, dropped: 25 });
    let expected = |range: std::ops::Range<u16>| range.map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(payloads(&mut ring), expected(0..15), "the oldest are kept");

    // A few times around, with the ring emptied in between.
    for round in 0..5u16 {
        let (from, to) = (100 + round * 11, 111 + round * 11);
        send_from_a(&cable, &numbered(from, to));
        let mut found = Vec::new();
        eventually("the next frames", || {
            found.append(&mut payloads(&mut ring));
            (found.len() >= 11).then_some(())
        });
        assert_eq!(found, expected(from..to));
    }
    assert_eq!(ring.stats().unwrap().dropped, 0);
}

#[test]
fn options_and_names_that_are_wrong() {
    let namespace = Namespace::new();
    let open = |interface: &str, options: RxOptions| {
        namespace.within(|| RxRing::open(name(interface), &options)).unwrap_err()
    };
    let error = open("nosuch0", RxOptions::default());
    assert!(matches!(error, PacketError::NoInterface { .. }), "{error:?}");
    assert!(error.to_string().contains("nosuch0"), "{error}");
    for options in [
        RxOptions { slot: 100, ..RxOptions::default() },
        RxOptions { slot: 1001, ..RxOptions::default() },
        RxOptions { slot: 2 << 20, ..RxOptions::default() },
        RxOptions { ring_mib: 0, ..RxOptions::default() },
        RxOptions { ring_mib: 5000, ..RxOptions::default() },
    ] {
        let error = open("lo", options);
        assert!(matches!(error, PacketError::Options { .. }), "{error:?}");
    }
}
