//! What becomes of a message in the buffers that were guessed for it.

use std::net::Ipv6Addr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::*;
use crate::drivers::pool::SMALL;
use crate::drivers::socket::shape::LONGEST;
use crate::packet::{HeapBuf, HeapPool};
use crate::port::BURST;

const PORT: u16 = 8472;

fn received(v6: bool, len: usize, segment: Option<u16>) -> Received {
    let (from, to) = if v6 { ("[fd00::1]:40000", "fd00::2") } else { ("192.0.2.1:40000", "192.0.2.2") };
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    Received { from, to, tos: 3, len, segment, truncated: false }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 31 + index / 251) as u8).collect()
}

/// What the packets are that come out, in order, when `held` places of the burst are taken.
fn delivered(shape: Shape, received: &Received, held: usize) -> (Vec<HeapBuf>, RxLoss) {
    let mut pool = HeapPool::default();
    let (size, packets) = shape.message();
    let mut buffers: Vec<Option<HeapBuf>> = (0..packets).map(|_| pool.alloc(shape.room())).collect();
    // As the kernel does it.
    let message = bytes(received.len);
    let mut spill = vec![0; LONGEST];
    let mut rest = message.as_slice();
    for buffer in buffers.iter_mut().flatten() {
        let (here, behind) = rest.split_at(rest.len().min(size));
        assert!(buffer.write_at(0, here));
        rest = behind;
    }
    spill[..rest.len()].copy_from_slice(rest);

    let mut burst: Burst<HeapBuf> = (0..held).map(|_| HeapBuf::from_bytes(&[])).collect();
    let (mut waiting, mut loss) = (VecDeque::new(), RxLoss::default());
    let mtu = UnderlayMtu::new(1500);
    let mut delivery =
        Delivery { port: PORT, mtu: &mtu, burst: &mut burst, waiting: &mut waiting, loss: &mut loss };
    let filled = Filled { size, buffers: &mut buffers, spill: &spill };
    delivery.deliver(&mut pool, Some(*received), filled);
    (burst.drain(held..).chain(waiting).collect(), loss)
}

/// The packet's payload, whose outer headers are right.
fn payload_of(packet: &HeapBuf, v6: bool) -> Vec<u8> {
    let bytes = packet.to_vec();
    let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
    match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) if !v6 => {
            let header = ip.header().to_header();
            assert_eq!((header.source, header.destination), ([192, 0, 2, 1], [192, 0, 2, 2]));
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), bytes.len() - ETHERNET_LEN);
            assert_eq!(bytes[ETHERNET_LEN + 1], 3);
        }
        NetSlice::Ipv6(ip) if v6 => {
            let header = ip.header();
            assert_eq!(header.source_addr(), "fd00::1".parse::<Ipv6Addr>().unwrap());
            assert_eq!(header.destination_addr(), "fd00::2".parse::<Ipv6Addr>().unwrap());
            assert_eq!(header.traffic_class(), 3);
            assert_eq!(usize::from(header.payload_length()), bytes.len() - ETHERNET_LEN - IPV6_LEN);
        }
        other => panic!("{other:?}"),
    }
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
    assert_eq!((udp.source_port(), udp.destination_port()), (40_000, PORT));
    assert_eq!(usize::from(udp.length()), UDP_LEN + udp.payload().len());
    udp.payload().to_vec()
}

#[test]
fn every_packet_comes_out_whole_whatever_was_guessed() {
    let shapes = [Shape::SINGLE, Shape::LARGE, Shape::JUMBO, Shape::together(1398), Shape::together(99)];
    for shape in shapes {
        for (len, segment) in [
            (1, None),
            (99, None),
            (1398, None),
            (SMALL + 1, None),
            (9000, None),
            (60_000, None),
            (99, Some(99)),
            (4 * 99, Some(99)),
            (4 * 99 + 1, Some(99)),
            (46 * 1398, Some(1398)),
            (46 * 1398 + 7, Some(1398)),
            (64 * 50, Some(50)),
            (7 * 8948 + 11, Some(8948)),
        ] {
            for v6 in [false, true] {
                let received = received(v6, len, segment);
                let (packets, loss) = delivered(shape, &received, 0);
                assert_eq!(loss, RxLoss::default());
                let all = bytes(len);
                let expected: Vec<_> = all.chunks(segment.map_or(len, usize::from)).collect();
                let seen: Vec<_> = packets.iter().map(|packet| payload_of(packet, v6)).collect();
                assert_eq!(seen, expected, "{shape:?} {len} {segment:?}");
            }
        }
    }
}

#[test]
fn what_has_no_room_in_the_burst_waits_in_order() {
    let received = received(false, 64 * 50, Some(50));
    let (packets, _) = delivered(Shape::SINGLE, &received, BURST - 3);
    let seen: Vec<_> = packets.iter().map(|packet| payload_of(packet, false)).collect();
    assert_eq!(seen.concat(), bytes(64 * 50));
}

#[test]
fn what_is_too_long_for_its_headers_is_counted() {
    let (packets, loss) = delivered(Shape::LARGE, &received(false, 65_508, None), 0);
    assert!(packets.is_empty());
    assert_eq!(loss, RxLoss { too_long: 1, ..RxLoss::default() });
}

#[test]
fn what_nothing_can_be_made_of_is_counted() {
    let mixed = Received { to: "fd00::2".parse().unwrap(), ..received(false, 100, None) };
    assert!(Headers::new(&mixed, PORT).is_none());
    let (packets, loss) = delivered(Shape::SINGLE, &mixed, 0);
    assert_eq!((packets, loss), (vec![], RxLoss { malformed: 1, ..RxLoss::default() }));
    let cut_off = Received { truncated: true, ..received(false, 100, None) };
    let (packets, loss) = delivered(Shape::SINGLE, &cut_off, 0);
    assert_eq!((packets, loss), (vec![], RxLoss { too_long: 1, ..RxLoss::default() }));
}

#[test]
fn one_packet_that_is_called_several_is_known_by_its_inner_length() {
    for (inner_len, one) in [(3000, true), (1400 - 22, false)] {
        let mut head = vec![0; VXLAN_LEN + ETHERNET_LEN + 20];
        head[20..22].copy_from_slice(&[0x08, 0x00]);
        head[24..26].copy_from_slice(&u16::to_be_bytes(inner_len));
        let spares = [Some(HeapBuf::from_bytes(&head))];
        assert_eq!(is_one(&spares, &received(false, 3022, Some(1400))), one);
    }
    let none: [Option<HeapBuf>; 0] = [];
    assert!(is_one(&none, &received(false, 1400, None)));
}
