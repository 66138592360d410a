//! What pins which flow, and for how long.

use super::*;
use crate::parse::{Brief, parse};
use crate::wire::checksum::Sum;

const P: [u8; 4] = [10, 244, 0, 5];
const R: [u8; 4] = [10, 244, 1, 7];

fn v4(src: [u8; 4], dst: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 0, 0, 9, 0, 0, 64, protocol, 0, 0];
    ip[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip.extend(src);
    ip.extend(dst);
    let checksum = Sum::new().add(&ip).checksum();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    ip.extend(payload);
    ip
}

fn v6(src: [u8; 4], dst: [u8; 4], next: u8, payload: &[u8]) -> Vec<u8> {
    let address = |v4: [u8; 4]| [&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &v4].concat();
    let mut ip = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
    ip.extend(address(src));
    ip.extend(address(dst));
    ip.extend(payload);
    ip
}

/// What the packet in a frame has to do with which flow.
fn of(packet: &[u8]) -> Option<Subject> {
    let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype, packet].concat();
    let parsed = parse(&frame, frame.len(), 0).unwrap();
    subject(&frame, &Brief::of(&parsed, None))
}

fn flow(packet: &[u8]) -> Flow {
    match of(packet) {
        Some(Subject::Packet(flow)) => flow,
        other => panic!("{other:?}"),
    }
}

fn ports(src: u16, dst: u16) -> Vec<u8> {
    [src.to_be_bytes(), dst.to_be_bytes()].concat()
}

fn tcp(src: u16, dst: u16, flags: u8) -> Vec<u8> {
    [ports(src, dst), vec![0; 8], vec![0x50, flags, 0, 0, 0, 0, 0, 0]].concat()
}

fn udp(src: u16, dst: u16) -> Vec<u8> {
    [ports(src, dst), vec![0, 12, 0, 0, 1, 2, 3, 4]].concat()
}

fn has(pins: &Pins, flow: &Flow, now: u32) -> bool {
    pins.has(&pins.prepare(flow), Some(flow.sign), now)
}

#[test]
fn the_answer_and_nothing_else_is_pinned() {
    for build in [
        |src, dst, bytes: &[u8]| v4(src, dst, 17, 0, bytes),
        |src, dst, bytes: &[u8]| v6(src, dst, 17, bytes),
    ] {
        let pins = Pins::new(64);
        let question = flow(&build(P, R, &udp(40_000, 53)));
        assert_eq!(pins.pin(&question, 1), Change { pinned: 2, evicted: 0 }, "and the fragments");
        assert_eq!(pins.pin(&question, 1), Change::default());
        assert!(has(&pins, &flow(&build(R, P, &udp(53, 40_000))), 2));
        for (src, dst, bytes) in [
            (P, R, udp(40_000, 53)),
            (R, P, udp(53, 40_001)),
            (R, P, udp(40_000, 53)),
            ([10, 244, 1, 8], P, udp(53, 40_000)),
            (R, [10, 244, 0, 6], udp(53, 40_000)),
        ] {
            assert!(!has(&pins, &flow(&build(src, dst, &bytes)), 2), "{src:?} {dst:?} {bytes:?}");
        }
        let listed: Vec<_> = pins.iter(2).filter(|pin| pin.kind != Kind::Fragments).collect();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].protocol, listed[0].ports, listed[0].kind), (17, (53, 40_000), Kind::Answered));
        assert_eq!((listed[0].src, listed[0].dst), (question.dst, question.src));
    }
}

#[test]
fn the_families_and_the_protocols_are_apart() {
    let pins = Pins::new(64);
    pins.pin(&flow(&v4(P, R, 17, 0, &udp(1, 2))), 1);
    assert!(!has(&pins, &flow(&v6(R, P, 17, &udp(2, 1))), 1));
    assert!(!has(&pins, &flow(&v4(R, P, 6, 0, &tcp(2, 1, 0x10))), 1));
    assert!(!has(&pins, &flow(&v4(R, P, 132, 0, &udp(2, 1))), 1));
}

/// A connection from its beginning to its end, by what both sides send.
#[test]
fn tcp_lives_by_what_was_seen() {
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    const FIN: u8 = 1;
    const RST: u8 = 4;
    let pins = Pins::new(64);
    let kind = |now| pins.iter(now).find(|pin| pin.kind != Kind::Fragments).map(|pin| pin.kind);
    let asks = |flags, now| pins.pin(&flow(&v4(P, R, 6, 0, &tcp(40_000, 80, flags))), now);
    let answers = |flags, now| has(&pins, &flow(&v4(R, P, 6, 0, &tcp(80, 40_000, flags))), now);
    assert_eq!((asks(RST, 1), kind(1)), (Change::default(), None), "nobody answers a reset");
    asks(SYN, 1);
    assert_eq!(kind(1), Some(Kind::Opening));
    assert!(answers(SYN | ACK, 1) && !answers(SYN | ACK, 121));
    assert_eq!(kind(1), Some(Kind::Opened));
    asks(ACK, 2);
    assert_eq!(kind(2), Some(Kind::Established), "also if the server says nothing for long");
    assert!(answers(ACK, 80_000) && answers(ACK, 160_000), "a day");
    assert!(answers(FIN | ACK, 160_001));
    assert_eq!(kind(160_001), Some(Kind::ClosedByOther));
    asks(ACK, 160_002);
    asks(FIN | ACK, 160_003);
    assert_eq!(kind(160_003), Some(Kind::Closed));
    assert!(answers(ACK, 160_100) && !answers(ACK, 160_220));
    asks(SYN, 160_230);
    assert!(answers(RST, 160_231) && kind(160_231) == Some(Kind::Reset) && !answers(ACK, 160_241));
    // It was somebody else's word: the kernel still translates.
    asks(SYN, 160_250);
    assert!(answers(SYN | ACK, 160_250));
    asks(ACK, 160_250);
    assert!(answers(RST, 160_250));
    asks(ACK, 160_251);
    assert_eq!(kind(160_251), Some(Kind::Unanswered));
    assert!(answers(ACK, 160_252));
    assert_eq!(kind(160_252), Some(Kind::Established));
    // An answer to a SYN that has come another way.
    asks(FIN, 160_253);
    assert!(!answers(SYN | ACK, 160_254) && kind(160_254).is_none() && !answers(ACK, 160_254));
}

/// What a pod sends makes no connection of itself, whatever it sends.
#[test]
fn tcp_is_established_by_an_answer_only() {
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    const FIN: u8 = 1;
    for sent in [&[ACK, ACK][..], &[SYN, ACK], &[SYN | ACK, ACK], &[FIN | ACK, ACK], &[ACK, FIN, FIN, ACK]] {
        let pins = Pins::new(64);
        let kind = |now| pins.iter(now).find(|pin| pin.kind != Kind::Fragments).map(|pin| pin.kind);
        for flags in sent {
            pins.pin(&flow(&v4(P, R, 6, 0, &tcp(40_000, 80, *flags))), 1);
        }
        assert_eq!((kind(300), kind(301)), (Some(Kind::Unanswered), None), "{sent:?}");
        // As the kernel takes up a connection that it has not seen begin.
        assert!(has(&pins, &flow(&v4(R, P, 6, 0, &tcp(80, 40_000, ACK))), 300));
        assert_eq!(kind(80_000), Some(Kind::Established), "{sent:?}");
    }
}

#[test]
fn the_others_live_as_the_kernel_has_it() {
    for (packet, answer, asked, answered) in [
        (v4(P, R, 17, 0, &udp(1, 2)), v4(R, P, 17, 0, &udp(2, 1)), 30, 120),
        (v4(P, R, 1, 0, &[8, 0, 0, 0, 7, 7, 0, 1]), v4(R, P, 1, 0, &[0, 0, 0, 0, 7, 7, 0, 1]), 30, 30),
        (v6(P, R, 58, &[128, 0, 0, 0, 7, 7, 0, 1]), v6(R, P, 58, &[129, 0, 0, 0, 7, 7, 0, 1]), 30, 30),
        (v4(P, R, 132, 0, &ports(1, 2)), v4(R, P, 132, 0, &ports(2, 1)), 600, 600),
        (v4(P, R, 47, 0, &[0; 8]), v4(R, P, 47, 0, &[0; 8]), 600, 600),
    ] {
        let pins = Pins::new(64);
        pins.pin(&flow(&packet), 10);
        let answer = flow(&answer);
        assert!(!has(&pins, &answer, 10 + asked));
        pins.pin(&flow(&packet), 1000);
        assert!(has(&pins, &answer, 1000) && has(&pins, &answer, 1000 + answered - 1));
        assert!(!has(&pins, &answer, 1000 + 2 * answered - 1));
    }
}

#[test]
fn fragments_go_by_their_addresses_and_errors_by_what_they_quote() {
    let pins = Pins::new(64);
    let first = of(&v4(P, R, 17, 0x2000, &udp(40_000, 53)));
    let Some(Subject::First(whole)) = first else { panic!("{first:?}") };
    pins.pin(&whole, 1);
    let later = flow(&v4(R, P, 17, 3, &[1; 16]));
    assert_eq!(later.sign, Sign::Fragment);
    assert!(has(&pins, &later, 1) && has(&pins, &flow(&v4(R, P, 17, 0, &udp(53, 40_000))), 1));
    assert!(!has(&pins, &flow(&v4(P, R, 17, 3, &[1; 16])), 1));
    // Over IPv6 too; a whole packet with a fragment header is no fragment.
    let header =
        |offset: u16, more: bool| [&[17, 0][..], &(offset | u16::from(more)).to_be_bytes(), &[0; 4]].concat();
    let piece = |offset, more| v6(R, P, 44, &[header(offset, more), udp(53, 40_000)].concat());
    assert!(matches!(of(&piece(0, true)), Some(Subject::First(_))));
    assert_eq!(flow(&piece(64, false)).sign, Sign::Fragment);
    assert_eq!(flow(&piece(0, false)).sign, Sign::Datagram);

    // R's node says that nobody listens there.
    let about = |quoted: &[u8], to| {
        of(&v4([192, 0, 2, 1], to, 1, 0, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], quoted].concat()))
    };
    let quoted = v4(P, R, 17, 0, &udp(40_000, 53));
    let Some(Subject::About(answers)) = about(&quoted[..28], P) else { panic!("a message about a flow") };
    assert!(pins.has(&pins.prepare(&answers), None, 1));
    assert_eq!(about(&quoted[..28], [10, 244, 0, 9]), None, "told to another");
    assert_eq!(about(&quoted[..20], P), None, "without ports");
    let Some(Subject::About(answers)) = about(&v4(P, R, 17, 3, &[1; 8]), P) else { panic!("a fragment's") };
    assert!(pins.has(&pins.prepare(&answers), None, 1));
    let message = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &v6(P, R, 17, &udp(40_000, 53))].concat();
    assert!(matches!(of(&v6(R, P, 58, &message)), Some(Subject::About(_))));
    // Neighbour discovery, and what asks for a time stamp.
    assert_eq!(of(&v6(R, P, 58, &[135, 0, 0, 0, 0, 0, 0, 0])), None);
    assert_eq!(of(&v4(R, P, 1, 0, &[13, 0, 0, 0, 0, 0, 0, 0])), None);
}

#[test]
fn what_is_cut_off_is_no_flow() {
    assert_eq!(of(&v4(P, R, 6, 0, &tcp(1, 2, 2)[..13])), None, "no flags");
    assert_eq!(of(&v4(P, R, 17, 0, &[0, 1, 0])), None);
    assert_eq!(of(&v4(P, R, 1, 0, &[])), None);
    assert_eq!(of(&v4(P, R, 1, 0, &[3, 0, 0, 0, 0, 0, 0, 0, 0x45])), None);
}

#[test]
fn what_the_kernel_knew_before_is_added() {
    let pins = Pins::new(64);
    let kind = Kind::Established;
    let pin = Pin { src: R.into(), dst: P.into(), protocol: 6, ports: (80, 40_000), kind, age: 0 };
    pins.add(&pin, 5);
    assert!(has(&pins, &flow(&v4(R, P, 6, 0, &tcp(80, 40_000, 0x10))), 5));
    assert_eq!(pins.iter(5).find(|there| there.kind == kind), Some(pin));
    assert!(pins.iter(5).any(|there| there.kind == Kind::Fragments));
    // It may be told of late.
    assert!(has(&pins, &flow(&v4(R, P, 6, 0, &tcp(80, 40_000, 0x11))), 5));
    pins.add(&pin, 5);
    assert!(pins.iter(5).any(|there| there.kind == Kind::ClosedByOther), "the FIN was seen");
}

#[test]
fn pods_that_are_gone_lose_their_pins() {
    let pins = Pins::new(64);
    pins.pin(&flow(&v4(P, R, 6, 0, &tcp(1, 2, 0x10))), 1);
    let sweep = |now, here: &[[u8; 4]]| -> usize {
        let is_here = |address| here.iter().any(|pod| address == IpAddr::from(*pod));
        (3..3 + PARTS).map(|turn| pins.sweep(turn, now, is_here)).sum()
    };
    assert_eq!(sweep(100, &[P]), 0);
    assert_eq!((sweep(60, &[]), pins.count()), (0, 2));
    assert_eq!((sweep(61, &[]), pins.count()), (2, 0));
}
