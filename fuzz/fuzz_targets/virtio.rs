//! The virtio-net header with its frame: what a guest's says is believed only as far as the frame bears it out. What is
//! accepted can be finished for every kind of way out: the pieces add up to the payload, their checksums are right, what
//! was checked before stays what it was, and the state can be written as a header again.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use weft_fuzz::frames::{Cast, Frame, frame, received, spoil};
use weft_fuzz::{look, sum};
use weft_switch::offload::finish::{finish, takes};
use weft_switch::offload::segment::MAX_FRAMES;
use weft_switch::offload::{Checksum, Gso, GsoKind, Offload, virtio};
use weft_switch::packet::{HeapBuf, HeapPool, PacketBuf};
use weft_switch::parse::{L3, parse};
use weft_switch::port::TxCaps;
use weft_switch::types::MacAddr;
use weft_switch::wire::ip::IpProtocol;

fuzz_target!(|data: &[u8]| {
    noise(data);
    // Whatever the lot can't be made of ends there.
    let _ = made(&mut Unstructured::new(data));
});

/// The bytes as they are: header, then frame.
fn noise(data: &[u8]) {
    for len in [0, 9, virtio::HEADER, virtio::HEADER_MRG] {
        let Some((header, frame)) = data.split_at_checked(len) else { return };
        let mut packet = HeapBuf::from_bytes(frame);
        if let Ok(offload) = virtio::parse(header, &packet) {
            packet.set_offload(offload);
            finished(&packet, false);
        }
    }
    if let Some((number, _)) = data.split_first_chunk() {
        let offload = Offload::unpack(u64::from_le_bytes(*number));
        assert_eq!(Offload::unpack(offload.pack()), offload);
        for delta in [0, 1, -1, 50, -50, isize::MAX, isize::MIN] {
            let _ = offload.shift(delta);
        }
    }
}

/// A frame as a guest sends it, or nearly so.
fn made(u: &mut Unstructured<'_>) -> Result<()> {
    let (src, dst) = (Ipv4Addr::new(10, 244, 0, 5), Ipv4Addr::new(10, 244, 1, 7));
    let (src6, dst6) = (Ipv6Addr::from(0xfd00_u128 << 112 | 5), Ipv6Addr::from(0xfd00_u128 << 112 | 7));
    let cast = Cast {
        src_macs: vec![MacAddr([2, 0, 0, 0, 5, 0])],
        dst_macs: vec![MacAddr([0x0a, 0x58, 10, 244, 0, 1])],
        src: vec![IpAddr::V4(src), IpAddr::V6(src6)],
        dst: vec![IpAddr::V4(dst), IpAddr::V6(dst6)],
    };
    let mut made: Frame = frame(u, &cast)?;
    spoil(u, &mut made)?;
    let Some(packet) = received(u, &made)? else { return Ok(()) };
    finished(&packet, made.sound);
    Ok(())
}

/// Finishes a copy for every kind of way out.
fn finished(packet: &HeapBuf, sound: bool) {
    written_again(packet);
    let only = |gso: fn(&mut TxCaps)| {
        let mut caps = TxCaps { partial_checksum: true, ..TxCaps::NONE };
        gso(&mut caps);
        caps
    };
    let all_caps = [
        TxCaps::NONE,
        TxCaps::ALL,
        only(|_| {}),
        only(|caps| caps.gso_tcp4 = true),
        only(|caps| caps.gso_tcp6 = true),
        only(|caps| caps.gso_udp = true),
    ];
    for caps in all_caps {
        let mut pieces = Vec::new();
        let result = finish(&mut HeapPool::default(), packet.clone(), caps, |_, piece| pieces.push(piece));
        assert_eq!(result.unwrap_or_else(|unfinished| unfinished.given), pieces.len());
        assert!(pieces.iter().all(|piece| takes(caps, piece)));
        if takes(caps, packet) {
            assert_eq!(pieces, std::slice::from_ref(packet));
            continue;
        }
        match packet.offload().gso {
            None => completed(packet, &pieces),
            Some(gso) if result.is_ok() => segmented(packet, gso, &pieces),
            Some(_) => assert!(pieces.is_empty() && !sound_gso(packet, sound), "{result:?}"),
        }
        pieces.iter().for_each(written_again);
    }
    // A pool that runs dry gives what it had before, and says so.
    let mut given = 0;
    let mut pool = HeapPool { left: 2, ..HeapPool::default() };
    let result = finish(&mut pool, packet.clone(), TxCaps::NONE, |_, _| given += 1);
    assert_eq!(result.unwrap_or_else(|unfinished| unfinished.given), given);
}

/// A frame as its sender must make it can be cut, unless that would be too many, or it opens or resets a connection.
fn sound_gso(packet: &HeapBuf, sound: bool) -> bool {
    let Some(gso) = packet.offload().gso.filter(|_| sound) else { return false };
    let bytes = packet.to_vec();
    let Some(ip) = look::read(&bytes).ip else { return false };
    let flags = bytes.get(ip.upper.start + 13).copied().unwrap_or_default();
    let opens = gso.kind != GsoKind::Udp && flags & 6 != 0;
    !opens && ip.upper.len() / usize::from(gso.size) < MAX_FRAMES - 1
}

/// The state as a header reads as the same state.
fn written_again(packet: &HeapBuf) {
    let mut header = [0xff; virtio::HEADER_MRG];
    for len in [virtio::HEADER, virtio::HEADER_MRG] {
        match virtio::emit(packet.offload(), packet, &mut header[..len]) {
            Ok(()) => assert_eq!(virtio::parse(&header[..len], packet), Ok(packet.offload())),
            Err(error) => panic!("{error} of {:?}", packet.offload()),
        }
    }
}

/// One checksum was filled in, and nothing else is different.
fn completed(packet: &HeapBuf, pieces: &[HeapBuf]) {
    let Checksum::Partial { start, offset } = packet.offload().checksum else { panic!("nothing to do") };
    let [piece] = pieces else { panic!("{} pieces", pieces.len()) };
    let (before, after) = (packet.to_vec(), piece.to_vec());
    let place = usize::from(start) + usize::from(offset);
    let mut expected = before.clone();
    let checksum = !sum::folded(&before[start.into()..]);
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    expected[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(after, expected);
    assert_eq!(piece.offload(), Offload::default());
    assert_eq!(checked(&before), checked(&after), "what was checked has been written over");
}

/// What the switch decides by before a frame's checksum is filled in: its headers, and the type of an ICMP message. SCTP's
/// ports only spread the flows.
fn checked(frame: &[u8]) -> Option<(L3, Option<u8>)> {
    let mut l3 = parse(frame, frame.len(), 0).ok()?.l3;
    let (protocol, l4, ports) = match &mut l3 {
        L3::V4(ip) => (ip.protocol, ip.l4, &mut ip.ports),
        L3::V6(ip) => (ip.protocol, ip.l4, &mut ip.ports),
        L3::Arp | L3::Other => return Some((l3, None)),
    };
    if protocol == IpProtocol::SCTP {
        *ports = 0;
    }
    let icmp = matches!(protocol, IpProtocol::ICMP | IpProtocol::ICMPV6);
    Some((l3, frame.get(usize::from(l4)).copied().filter(|_| icmp)))
}

/// The pieces are frames of their own, and together what the whole was.
fn segmented(packet: &HeapBuf, gso: Gso, pieces: &[HeapBuf]) {
    assert!((1..=MAX_FRAMES).contains(&pieces.len()));
    let bytes = packet.to_vec();
    let plain = look::untagged(&bytes);
    if parse(&plain, plain.len(), 0).is_err() {
        // It is dropped before it gets here.
        return;
    }
    let l4 = upper_start(&bytes);
    let header = |frame: &[u8]| match gso.kind {
        GsoKind::Udp => 8,
        GsoKind::Tcp4 | GsoKind::Tcp6 => usize::from(frame[l4 + 12] >> 4) * 4,
    };
    let header = header(&bytes);
    let mut payload = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        assert_eq!(piece.offload(), Offload::default());
        let frame = piece.to_vec();
        assert_eq!(upper_start(&frame), l4);
        assert_eq!(frame[..12], bytes[..12]);
        assert_ip(&frame, gso.kind);
        let part = &frame[l4 + header..];
        let last = index + 1 == pieces.len();
        assert!(part.len() == usize::from(gso.size) || (last && part.len() < usize::from(gso.size)));
        if gso.kind != GsoKind::Udp {
            let sequence = |frame: &[u8]| {
                u32::from_be_bytes([frame[l4 + 4], frame[l4 + 5], frame[l4 + 6], frame[l4 + 7]])
            };
            assert_eq!(sequence(&frame), sequence(&bytes).wrapping_add(payload.len() as u32));
            let (flags, whole) = (frame[l4 + 13], bytes[l4 + 13]);
            assert_eq!(flags & 0x09, if last { whole & 0x09 } else { 0 }, "FIN and PSH");
            assert_eq!(flags & 0x80, if index == 0 { whole & 0x80 } else { 0 }, "CWR");
        }
        payload.extend_from_slice(part);
    }
    assert_eq!(payload, bytes[l4 + header..]);
}

/// Where the upper layer of an IP packet with at most one tag is.
fn upper_start(frame: &[u8]) -> usize {
    look::read(frame).ip.expect("what is cut is IP").upper.start
}

/// Lengths and checksums of a finished piece.
fn assert_ip(frame: &[u8], kind: GsoKind) {
    // Without its tags, so that it is judged.
    let frame = look::untagged(frame);
    let ip = look::read(&frame).ip.expect("IP");
    assert_eq!(ip.len, frame.len() - 14, "nothing behind the packet");
    assert_eq!(ip.protocol, if kind == GsoKind::Udp { 17 } else { 6 });
    if kind == GsoKind::Udp {
        let length = &frame[ip.upper.start + 4..ip.upper.start + 6];
        assert_eq!(usize::from(u16::from_be_bytes([length[0], length[1]])), ip.upper.len());
    }
    assert_ne!(ip.checksum_right(&frame), Some(false));
}
