//! flannel's tunnels of plain packets, without their sockets: whatever comes in is refused or becomes a frame whose bytes are those that
//! came but for what the tunnel changes, and what goes out comes in again at the other end.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use weft_switch::ip_tunnel::{Form, Unfit, address_of, mac_of};
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::types::MacAddr;

const A: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const GATEWAY: MacAddr = MacAddr([0xa, 0x58, 10, 244, 1, 1]);
const ETHERNET: usize = 14;
const MTU: usize = 1480;

// The first byte says which form, and where the first segment ends.
fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else { return };
    let form = if how & 1 == 0 { Form::Udp } else { Form::Ipip };
    comes_in(form, usize::from(how >> 1), bytes);
    goes_out(form, bytes);
});

fn buffer(bytes: &[u8], cut: usize) -> HeapBuf {
    let (first, rest) = bytes.split_at(cut.min(bytes.len()));
    HeapBuf::from_segments(&[first, rest])
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The sum of a header's words, its checksum among them: it says whether that is right.
fn sum(header: &[u8]) -> u16 {
    let all: u32 = (0..header.len() / 2).map(|index| u32::from(word(header, 2 * index))).sum();
    let folded = (all & 0xffff) + (all >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

/// A header's length, if there is one with lengths that go together.
fn header_len(bytes: &[u8]) -> Option<usize> {
    let len = usize::from(bytes.first()? & 0xf) * 4;
    (bytes[0] >> 4 == 4 && len >= 20 && bytes.len() >= len && usize::from(word(bytes, 2)) >= len)
        .then_some(len)
}

/// The packet inside, and the outer ECN field.
fn inside(form: Form, bytes: &[u8]) -> Option<(&[u8], u8)> {
    if form == Form::Udp {
        return Some((bytes, 0));
    }
    let (len, total) = (header_len(bytes)?, usize::from(word(bytes, 2)));
    let whole = word(bytes, 6) & 0x3fff == 0;
    (bytes[9] == 4 && whole && total <= bytes.len() && total >= len + 20)
        .then(|| (&bytes[len..total], bytes[1] & 3))
}

fn comes_in(form: Form, cut: usize, bytes: &[u8]) {
    let room = vec![0x5a; form.front()];
    let mut packet = buffer(&[&room[..], bytes].concat(), cut);
    let done = form.leave(&mut packet, A, GATEWAY, MTU);
    let inside = inside(form, bytes).filter(|(inner, _)| header_len(inner).is_some());
    let Some((inner, outer_ecn)) = inside else { return assert_eq!(done, Err(Unfit::Malformed)) };
    let (ttl, ecn) = (inner[8], inner[1] & 3);
    match done {
        // A header with options may end behind the first segment.
        Err(Unfit::Malformed) => assert!(packet.segments() > 1 && inner[0] & 0xf > 5, "{inner:02x?}"),
        Err(Unfit::Expired) => assert!(form == Form::Udp && ttl <= 1),
        Err(Unfit::Congested) => assert!(form == Form::Ipip && (outer_ecn, ecn) == (3, 0)),
        Ok(()) => {
            let frame = packet.to_vec();
            let (ethernet, got) = frame.split_at(ETHERNET);
            let macs = [&GATEWAY.0[..], &mac_of(A).0, &[8, 0]].concat();
            assert_eq!((ethernet, got.len()), (&macs[..], inner.len()));
            let mut expected = inner.to_vec();
            if form == Form::Udp {
                assert!(ttl > 1);
                expected[8] = ttl - 1;
            } else {
                let mark = match (outer_ecn, ecn) {
                    (3, 1 | 2) => 3,
                    (1, 2) => 1,
                    _ => ecn,
                };
                expected[1] = inner[1] & !3 | mark;
            }
            expected[10..12].copy_from_slice(&got[10..12]);
            assert_eq!(got, expected);
            // A right checksum stays right and a wrong one wrong: 0 and 0xffff are one sum.
            let len = header_len(inner).expect("it was there");
            assert_eq!(sum(&got[..len]) % 0xffff, sum(&inner[..len]) % 0xffff);
        }
    }
}

fn goes_out(form: Form, bytes: &[u8]) {
    let frame = [&mac_of(B).0[..], &GATEWAY.0, &[8, 0], bytes].concat();
    let mut packet = buffer(&frame, 256);
    let entry = match form.enter(&mut packet, A) {
        Ok(entry) => entry,
        Err(Unfit::Expired) => return assert!(form == Form::Udp && bytes[8] <= 1),
        Err(Unfit::Malformed) => {
            let fits = header_len(bytes).is_some() && usize::from(word(bytes, 2)) == bytes.len();
            // With a header of its own it would be longer than a packet can be.
            return assert!(!fits || form == Form::Ipip && bytes.len() > 65_515);
        }
        Err(Unfit::Congested) => panic!("nothing is congested before it is sent"),
    };
    assert_eq!((entry.to, address_of(mac_of(B)), packet.len()), (B, Some(B), frame.len()));
    assert_eq!(usize::from(word(bytes, 2)), bytes.len());
    let outer = entry.outer.map_or(Vec::new(), |outer| outer.to_vec());
    assert_eq!(outer.is_empty(), form == Form::Udp);
    if let [_, rest @ ..] = outer.as_slice() {
        assert_eq!((sum(&outer), rest.len()), (0xffff, 19));
    }
    // At the other end.
    let sent = [&vec![0; form.front()][..], &outer, &packet.to_vec()[ETHERNET..]].concat();
    let mut arrived = buffer(&sent, 300);
    match form.leave(&mut arrived, A, GATEWAY, MTU) {
        Ok(()) => assert_eq!(arrived.len(), frame.len()),
        Err(Unfit::Expired) => assert!(form == Form::Udp && bytes[8] == 2),
        Err(other) => panic!("{other:?} of what was sent"),
    }
}
