//! What messages are made of a burst, and what the kernel is shown of them.

use super::*;
use crate::drivers::socket::whole::{Ports, ready};
use crate::offload::segment::segment;
use crate::offload::tests::frames::{KINDS, Recipe, look_at};
use crate::offload::{GsoKind, Offload};
use crate::packet::{HeapBuf, HeapPool};
use crate::wire::checksum::Sum;

const PORT: u16 = 8472;

/// As the engine puts it before an inner frame. The source port chooses the socket.
fn outer(v6: bool, source: u16) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0x10, 0, 0, 0, 0, 17, 64]);
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    } else {
        bytes.extend([0x08, 0x00, 0x45, 1, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    }
    for word in [source, PORT, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend([8, 0, 0, 0, 0, 0, 1, 0]);
    bytes
}

/// A frame that stands for several of `size` bytes of payload, in pieces that have nothing to do with where it is cut: some of
/// odd lengths, one without a byte.
fn inner(kind: GsoKind, v6: bool, len: usize, size: u16) -> HeapBuf {
    let recipe = Recipe::new(kind, v6, len, size);
    let headers = recipe.bytes().0.len() - len;
    let mut split = vec![headers + 3, 0];
    split.resize(2 + len / 1021, 1021);
    Recipe { split, ..recipe }.frame()
}

/// In the tunnel, with its state.
fn encapsulated(v6: bool, source: u16, inner: &HeapBuf) -> HeapBuf {
    let mut packet = inner.clone();
    let before = outer(v6, source);
    packet.prepend(before.len()).expect("there is headroom")[..before.len()].copy_from_slice(&before);
    let offload = inner.offload();
    packet.set_offload(match offload.checksum {
        Checksum::Partial { start, offset } => {
            Offload { checksum: Checksum::Partial { start: start + before.len() as u16, offset }, ..offload }
        }
        _ => offload,
    });
    packet
}

/// An ordinary packet, of `len` bytes behind the outer headers.
fn plain(source: u16, len: usize) -> HeapBuf {
    let mut bytes = outer(false, source);
    bytes.extend((0..len - VXLAN_LEN).map(|index| (index * 31 + index / 251) as u8));
    HeapBuf::from_bytes(&bytes)
}

struct Planned {
    plan: Plan,
    burst: Burst<HeapBuf>,
    left: u64,
}

fn planned(packets: impl IntoIterator<Item = HeapBuf>) -> Planned {
    planned_with(packets, |_, _, _| false)
}

/// `whole` says which frames that stand for several go as they are.
fn planned_with(
    packets: impl IntoIterator<Item = HeapBuf>,
    whole: impl FnMut(&mut HeapBuf, &Lane, usize) -> bool,
) -> Planned {
    let (mut plan, mut burst) = (Plan::default(), packets.into_iter().collect());
    let left = plan.make(&mut burst, PORT, whole);
    Planned { plan, burst, left }
}

impl Planned {
    /// What the kernel sends for each message: the datagrams that it cuts the shown bytes into.
    fn datagrams(&self) -> Vec<Vec<Vec<u8>>> {
        let messages = self.plan.shares().flat_map(|share| share.messages(&self.burst));
        let shown = messages.map(|message| {
            let (mut pieces, size) = (Vec::new(), message.segment.map(usize::from));
            (message.pieces)(&mut |piece| pieces.push(piece.to_vec()));
            let bytes = pieces.concat();
            assert!(bytes.len() <= MAX_MESSAGE && pieces.len() <= MAX_PIECES);
            let size = size.unwrap_or(bytes.len());
            // No piece belongs to two datagrams.
            let mut at = 0;
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                assert_eq!(at / size, (at + piece.len() - 1) / size);
                at += piece.len();
            }
            let datagrams: Vec<_> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            assert!(datagrams.len() <= MAX_DATAGRAMS);
            datagrams
        });
        shown.collect()
    }
}

#[test]
fn a_frame_that_stands_for_several_is_shown_as_its_segments() {
    for (kind, inner_v6) in KINDS {
        // The last two are more than one message: by its datagrams, and by its bytes.
        for (len, size) in
            [(10, 9), (1398, 1398), (4000, 1398), (4194, 1398), (130 * 9 + 1, 9), (65_400, 1398)]
        {
            for outer_v6 in [false, true] {
                let frame = inner(kind, inner_v6, len, size);
                let planned = planned([encapsulated(outer_v6, 40_000, &frame)]);
                assert_eq!(planned.left, 0, "{kind:?} {len} {size}");
                let messages = planned.datagrams();
                let mut expected = Vec::new();
                segment(&mut HeapPool::default(), frame, |_, segment| {
                    let mut datagram = vec![8, 0, 0, 0, 0, 0, 1, 0];
                    datagram.extend(segment.to_vec());
                    expected.push(datagram);
                })
                .unwrap();
                assert_eq!(messages.concat(), expected, "{kind:?} {len} {size}");
                let several = expected.len() > MAX_DATAGRAMS || expected.concat().len() > MAX_MESSAGE;
                assert_eq!(messages.len() > 1, several, "{kind:?} {len} {size}");
            }
        }
    }
}

#[test]
fn what_contradicts_its_state_is_left() {
    let mut frame = inner(GsoKind::Tcp4, false, 4000, 1000);
    frame.write_at(23, &[17]);
    let planned = planned([plain(40_000, 100), encapsulated(false, 40_000, &frame), plain(40_000, 100)]);
    assert_eq!(planned.left, 0b10);
    assert_eq!(planned.datagrams().concat().len(), 2);
}

#[test]
fn packets_of_one_way_and_size_go_together_and_the_last_may_be_shorter() {
    let lens = [500, 500, 400, 500, 600];
    let planned = planned(lens.map(|len| plain(40_000, len)));
    assert_eq!(planned.left, 0);
    let messages = planned.datagrams();
    let shown: Vec<Vec<usize>> =
        messages.iter().map(|datagrams| datagrams.iter().map(Vec::len).collect()).collect();
    assert_eq!(shown, [vec![500, 500, 400], vec![500], vec![600]]);
    for datagram in messages.concat() {
        assert_eq!(datagram, plain(40_000, datagram.len()).to_vec()[VXLAN_V4..]);
    }
    assert_eq!(planned.plan.shares().map(|share| share.packets_of(0)).collect::<Vec<_>>(), [0b111]);
}

#[test]
fn packets_of_another_way_go_apart_and_each_flow_keeps_its_order() {
    // The second has another socket, the third the same one, though its own port is another: 16 sockets.
    let mut marked = plain(40_000, 500);
    marked.write_at(15, &[2]);
    let there = |source, len| plain(source, len);
    let Planned { plan, burst, .. } =
        planned([there(40_000, 500), there(40_001, 500), there(40_016, 500), marked, there(40_000, 500)]);
    let shares: Vec<(usize, Vec<u64>)> = plan
        .shares()
        .map(|share| {
            let count = share.messages(&burst).count();
            (share.socket(), (0..count).map(|message| share.packets_of(message)).collect())
        })
        .collect();
    assert_eq!(shares, [(0, vec![0b101, 0b1000, 0b10000]), (1, vec![0b10])]);
    assert_eq!(plan.shares().map(|share| share.packets()).collect::<Vec<_>>(), [0b11101, 0b10]);
}

#[test]
fn a_full_burst_of_long_packets_is_no_longer_message_than_there_can_be() {
    let planned = planned((0..BURST).map(|_| plain(40_000, 1450)));
    let messages = planned.datagrams();
    assert_eq!(messages.iter().map(Vec::len).sum::<usize>(), BURST);
    assert_eq!(messages.len(), (BURST * 1450).div_ceil(MAX_MESSAGE / 1450 * 1450));
}

#[test]
fn an_inner_checksum_is_filled_in() {
    for (kind, v6) in KINDS {
        let mut frame = inner(kind, v6, 99, 1000);
        frame.set_offload(Offload { gso: None, ..frame.offload() });
        let planned = planned([encapsulated(v6, 40_000, &frame)]);
        let datagram = planned.datagrams().concat().concat();
        look_at(&HeapBuf::from_bytes(&datagram[VXLAN_LEN..]));
    }
}

#[test]
fn what_is_no_packet_of_the_tunnel_is_not_sent() {
    let change = |at: usize, byte: u8| {
        let mut packet = plain(40_000, 100);
        packet.write_at(at, &[byte]);
        packet
    };
    let mut v6 = encapsulated(true, 40_000, &inner(GsoKind::Tcp4, false, 100, 1000));
    v6.write_at(ETHERNET_LEN + 6, &[6]);
    let others = [
        change(13, 6),
        change(ETHERNET_LEN, 0x46),
        change(ETHERNET_LEN + 9, 6),
        change(VXLAN_V4 - 5, 0),
        v6,
        HeapBuf::from_bytes(&plain(40_000, 100).to_vec()[..VXLAN_V4 + 7]),
        HeapBuf::from_bytes(&[]),
    ];
    let count = others.len();
    let planned = planned(others.into_iter().chain([plain(40_000, 100)]));
    assert_eq!(planned.left, (1 << count) - 1);
    assert_eq!(planned.datagrams().concat().len(), 1);
}

#[test]
fn a_frame_that_goes_whole_keeps_its_place_among_the_others() {
    let large = encapsulated(false, 40_000, &inner(GsoKind::Tcp4, false, 4000, 1000));
    let elsewhere = encapsulated(true, 40_000, &inner(GsoKind::Tcp4, false, 4000, 1000));
    // Of one packet's length it is finished here: the kernel would not fill in its outer checksum.
    let single = encapsulated(false, 40_000, &inner(GsoKind::Tcp4, false, 1000, 1000));
    let packets = [plain(40_000, 500), large, plain(40_000, 500), elsewhere, single];
    let Planned { plan, left, .. } = planned_with(packets, |_, lane, count| {
        assert_eq!(count, 4);
        lane.from.is_ipv4()
    });
    assert_eq!(left, 0);
    let bits: Vec<u64> = plan.messages.iter().map(|(_, content)| plan.packets_of(content)).collect();
    assert_eq!(bits, [0b1, 0b10, 0b100, 0b1000, 0b10000], "nothing is joined over it");
    let whole: Vec<bool> =
        plan.messages.iter().map(|(_, content)| matches!(content, Content::Whole { .. })).collect();
    assert_eq!(whole, [false, true, false, false, false]);
}

#[test]
fn what_goes_whole_has_the_headers_of_its_socket() {
    let mut ports = Ports::default();
    (ports.v4[40_000 % SENDERS], ports.v6[40_001 % SENDERS]) = (50_000, 50_001);
    for (v6, source, port) in [(false, 40_000, 50_000u16), (true, 40_001, 50_001)] {
        let before = encapsulated(v6, source, &inner(GsoKind::Tcp6, true, 4000, 1000));
        let lane = Lane::of(before.head(), PORT).unwrap();
        let mut packet = before.clone();
        assert!(ready(&mut packet, &lane, &ports, 0xfff0));
        let udp = lane.vxlan() - UDP_LEN;
        let (before, after) = (before.to_vec(), packet.to_vec());
        assert_eq!(after[udp..udp + 2], port.to_be_bytes());
        // A receiver's sum over all of it, with the checksum field as it is, is what is left to be filled in: only the payload's.
        let len = after.len() - udp;
        let pseudo = match (lane.from, lane.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [&from.octets()[..], &to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [&from.octets()[..], &to.octets()].concat(),
            _ => unreachable!("of one family"),
        };
        let pseudo = Sum::new().add(&pseudo).add_u16(17).add_u16(len as u16).fold();
        assert_eq!(after[udp + 6..udp + 8], pseudo.to_be_bytes());
        if !v6 {
            assert_eq!(after[18..20], [0xff, 0xf0]);
            assert_eq!(Sum::new().add(&after[14..34]).checksum(), 0, "the header's checksum");
        }
        let others = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes[udp..udp + 2].fill(0);
            bytes[udp + 6..udp + 8].fill(0);
            if !v6 {
                bytes[18..20].fill(0);
                bytes[24..26].fill(0);
            }
            bytes
        };
        assert_eq!(others(&after), others(&before), "nothing else is touched");
    }
}

#[test]
fn what_is_longer_than_a_packet_does_not_go_whole() {
    let frame = |len| encapsulated(false, 40_000, &inner(GsoKind::Tcp4, false, len, 1000));
    let outer = ETHERNET_LEN + frame(1000).len() - ETHERNET_LEN - 1000;
    let most = usize::from(u16::MAX) + ETHERNET_LEN - outer;
    for (len, fits) in [(most.min(65_495), true), (65_495, false)] {
        let mut packet = frame(len);
        let lane = Lane::of(packet.head(), PORT).unwrap();
        assert_eq!(ready(&mut packet, &lane, &Ports::default(), 0), fits, "{len}");
    }
}
