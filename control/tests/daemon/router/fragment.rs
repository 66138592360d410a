//! IPv4 packets that are too big and may be cut: each fragment by its bytes.

use super::too_big::{narrow, wide};
use crate::lab::frames::{Checksum, ICMP, Ip, UDP, echo, udp};
use crate::lab::routed::{Routed, Side, V4};

const MORE: u16 = 0x2000;

/// What `payload` behind `ip`'s header becomes on a link of `mtu` bytes, by RFC 791, section 3.2: the first fragment with all
/// options, the others with `copied`.
fn fragments(ip: &Ip, protocol: u8, payload: &[u8], mtu: usize, copied: &[u8]) -> Vec<Vec<u8>> {
    let (mut pieces, mut rest, mut ip) = (Vec::new(), payload, ip.clone());
    loop {
        let room = mtu - 20 - ip.options.len();
        if rest.len() <= room {
            pieces.push(ip.with(protocol, rest));
            return pieces;
        }
        let (piece, after) = rest.split_at(room / 8 * 8);
        let part = Ip { fragment: ip.fragment | MORE, ..ip.clone() };
        pieces.push(part.with(protocol, piece));
        ip.fragment += (piece.len() / 8) as u16;
        ip.options = copied.to_vec();
        rest = after;
    }
}

/// The packet is cut for a way out of `mtu` bytes, exactly as it should be.
fn cuts(
    router: &mut Routed,
    (from, to): (Side, Side),
    (ip, protocol, payload): (&Ip, u8, &[u8]),
    (mtu, copied): (usize, &[u8]),
) -> usize {
    let hop = u8::from(from != Side::Host);
    let further = Ip { ttl: ip.ttl - hop, ..ip.clone() };
    let expected = fragments(&further, protocol, payload, mtu, copied);
    let count = expected.len() as u64;
    assert!(count > 1, "nothing to cut");
    let deltas = router.send(from, &ip.with(protocol, payload));
    deltas.assert_only(&[("originated", count - 1), ("tx", count)]);
    deltas.assert_ports(&[(&format!("{}.rx", from.port()), 1), (&format!("{}.tx", to.port()), count)]);
    for piece in &expected {
        let arrived = router.receive(to, "fragment", |packet| Some(packet.to_vec()));
        assert_eq!(arrived, *piece, "of {expected:02x?}");
    }
    expected.len()
}

fn datagram(ip: &Ip, length: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..length).map(|byte| (byte ^ byte >> 8) as u8).collect();
    udp(ip, (1000, 2000), Checksum::Valid, &payload)
}

#[test]
fn a_datagram_is_cut_for_the_tunnel() {
    let mut router = Routed::with("", "", narrow(1450));
    for ident in [0x1234, 0, 0xffff] {
        let ip = Ip { ident, ..Ip::new(V4.web, V4.far) };
        // From one byte too long to as long as the pod can: the last piece may be of a single byte.
        for length in [1373, 1374, 1377, 1422] {
            let payload = datagram(&ip, length);
            cuts(&mut router, (Side::Web, Side::Far), (&ip, UDP, &payload), (1400, &[]));
        }
    }
}

#[test]
fn a_datagram_of_the_hosts_is_cut_for_the_tunnel() {
    let mut router = Routed::with("", "", narrow(1450));
    let ip = Ip { ident: 7, ..Ip::new(V4.zero, V4.far) };
    cuts(&mut router, (Side::Host, Side::Far), (&ip, UDP, &datagram(&ip, 1400)), (1400, &[]));
}

#[test]
fn a_datagram_is_cut_for_a_pods_port() {
    let mut router = wide();
    let ip = Ip { ident: 7, ..Ip::new(V4.web, V4.db) };
    for length in [1423, 1430, 1472] {
        let payload = datagram(&ip, length);
        cuts(&mut router, (Side::Web, Side::Db), (&ip, UDP, &payload), (1450, &[]));
    }
}

#[test]
fn a_narrow_way_makes_many_pieces() {
    let mut router = Routed::with("", "", narrow(626));
    let ip = Ip { ident: 9, ..Ip::new(V4.web, V4.far) };
    for (length, pieces) in [(549, 2), (1100, 2), (1101, 3), (1422, 3)] {
        let payload = datagram(&ip, length);
        let count = cuts(&mut router, (Side::Web, Side::Far), (&ip, UDP, &payload), (576, &[]));
        assert_eq!(count, pieces, "{length} bytes");
    }
}

#[test]
fn any_protocol_is_cut() {
    let mut router = Routed::with("", "", narrow(1450));
    let ip = Ip { ident: 3, tos: 0xba, ..Ip::new(V4.web, V4.far) };
    let (protocol, message) = echo(&ip, 1, 2, &[0x42; 1400]);
    assert_eq!(protocol, ICMP);
    cuts(&mut router, (Side::Web, Side::Far), (&ip, protocol, &message), (1400, &[]));
    cuts(&mut router, (Side::Web, Side::Far), (&ip, 253, &[0x11; 1430]), (1400, &[]));
}

#[test]
fn options_go_into_all_fragments_or_into_the_first() {
    let mut router = Routed::with("", "", narrow(626));
    let ip = Ip { ident: 3, ..Ip::new(V4.web, V4.far) };
    let record = vec![7, 7, 4, 0, 0, 0, 0];
    for (options, copied) in [
        // Record route is for the first, the end of the list fills up.
        ([record.clone(), vec![0]].concat(), vec![]),
        // Router alert and security are for all.
        (vec![148, 4, 0, 0], vec![148, 4, 0, 0]),
        // Both, the alignment between them for nobody.
        ([record.clone(), vec![1], vec![148, 4, 0, 0]].concat(), vec![148, 4, 0, 0]),
        // Three bytes that are copied have to be filled up again.
        ([record, vec![1, 1, 136, 3, 5, 0]].concat()[..12].to_vec(), vec![136, 3, 5, 0]),
        (vec![1, 1, 1, 1], vec![]),
    ] {
        assert_eq!(options.len() % 4, 0, "no options: {options:?}");
        let ip = Ip { options, ..ip.clone() };
        cuts(&mut router, (Side::Web, Side::Far), (&ip, UDP, &datagram(&ip, 1400)), (576, &copied));
    }
}

#[test]
fn a_fragment_is_cut_further() {
    let mut router = Routed::with("", "", narrow(1450));
    // The first, one from the middle, the last; and one at the end of what there can be.
    for fragment in [MORE, MORE | 180, 360, 8191 - 180] {
        let ip = Ip { ident: 0xabcd, fragment, ..Ip::new(V4.web, V4.far) };
        let length = if fragment & MORE == 0 { 1421 } else { 1424 };
        cuts(&mut router, (Side::Web, Side::Far), (&ip, UDP, &vec![0x33; length]), (1400, &[]));
    }
}

#[test]
fn a_fragment_that_ends_where_no_datagram_can() {
    let mut router = Routed::with("", "", narrow(1450));
    let ip = Ip { fragment: 8191, ..Ip::new(V4.web, V4.far) };
    router.drops(Side::Web, &ip.with(UDP, &[0x33; 1424]), "fragment_overflow");
}

#[test]
fn a_packet_that_fits_is_not_cut() {
    let mut router = Routed::with("", "", narrow(1450));
    let ip = Ip { ident: 5, ..Ip::new(V4.web, V4.far) };
    let further = Ip { ttl: 63, ..ip.clone() };
    let segment = datagram(&ip, 1372);
    router.forwards(Side::Web, Side::Far, &ip.with(UDP, &segment), &further.with(UDP, &segment));
}

#[test]
fn all_fragments_take_one_source_port() {
    let mut router = Routed::with("", "", narrow(1450));
    let ip = Ip { ident: 5, ..Ip::new(V4.web, V4.far) };
    for protocol in [UDP, 6, 253] {
        let packet = ip.with(protocol, &datagram(&ip, 1422));
        router.send(Side::Web, &packet).assert_only(&[("originated", 1), ("tx", 2)]);
        let mut ports = Vec::new();
        while ports.len() < 2 {
            let port = router.far.receive("tunnel packet", |frame| {
                let udp = frame.bytes.get(34..38)?;
                (udp[2..] == 8472u16.to_be_bytes()).then(|| u16::from_be_bytes([udp[0], udp[1]]))
            });
            ports.push(port);
        }
        assert_eq!(ports[0], ports[1], "protocol {protocol}");
    }
}
