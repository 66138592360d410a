//! The `socket` uplink without its sockets. What has come in as a message becomes the packets that were sent, whatever was
//! guessed of it, each with a state that fits it; and a burst of tunnel packets is sent as the datagrams that its packets stand
//! for, in order, within what the kernel takes.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use weft_fuzz::frames::{Cast, Frame, frame, spoil};
use weft_fuzz::look::{self, SeenIp};
use weft_fuzz::{cut, sum};
use weft_switch::drivers::socket::{Delivery, Filled, Plan, Received, SENDERS, Shape, UnderlayMtu};
use weft_switch::offload::{Checksum, Offload, virtio};
use weft_switch::packet::{BufPool, HeapBuf, HeapPool, PacketBuf};
use weft_switch::port::{BURST, Burst, RxLoss};
use weft_switch::types::MacAddr;

const PORT: u16 = 8472;
/// What an IPv4 packet carries behind its header and UDP's.
const LONGEST_MESSAGE: usize = 65_507;
/// The kernel's `UDP_MAX_SEGMENTS` and `UIO_MAXIOV`.
const MOST_DATAGRAMS: usize = 64;
const MOST_PIECES: usize = 1024;

fuzz_target!(|data: &[u8]| {
    // Whatever the lot can't be made of ends there.
    let _ = run(&mut Unstructured::new(data));
});

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut plan = Plan::default();
    for _ in 0..4 {
        if u.is_empty() {
            break;
        }
        if u.arbitrary()? {
            received(u)?;
        } else {
            sent(u, &mut plan)?;
        }
    }
    Ok(())
}

/// The pods at both ends.
fn cast() -> Cast {
    let six = |net: u16, host: u16| Ipv6Addr::new(0xfd00, 0x10, 0x244, net, 0, 0, 0, host).into();
    Cast {
        src_macs: vec![MacAddr([2, 0xf, 0, 0, 0, 1])],
        dst_macs: vec![MacAddr([2, 0xf, 0, 0, 0, 2])],
        src: vec![Ipv4Addr::new(10, 244, 0, 5).into(), six(0, 5)],
        dst: vec![Ipv4Addr::new(10, 244, 1, 7).into(), six(1, 7)],
    }
}

/// An underlay address.
fn node(v6: bool, host: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0x172, 0x16, 0, 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(172, 16, 0, host).into()
    }
}

/// A datagram: to whom, from which address, with which TOS byte, and its bytes.
type Datagram = (SocketAddr, IpAddr, u8, Vec<u8>);

/// Where a packet is to go, read from its first segment as far as weft's own headers go.
struct Lane {
    v6: bool,
    socket: usize,
    from: IpAddr,
    to: SocketAddr,
    tos: u8,
    vxlan: usize,
}

fn lane(head: &[u8]) -> Option<Lane> {
    let v6 = match head.get(12..14)? {
        [0x08, 0x00] => false,
        [0x86, 0xdd] => true,
        _ => return None,
    };
    let vxlan = if v6 { 62 } else { 42 };
    head.get(vxlan..vxlan + 8)?;
    let ip = &head[14..];
    let plain = if v6 { (ip[0] >> 4, ip[6]) == (6, 17) } else { (ip[0], ip[9]) == (0x45, 17) };
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    if !plain || word(vxlan - 6) != PORT {
        return None;
    }
    let address = |at: usize| {
        if v6 {
            <[u8; 16]>::try_from(&ip[at..at + 16]).map(IpAddr::from)
        } else {
            <[u8; 4]>::try_from(&ip[at..at + 4]).map(IpAddr::from)
        }
    };
    let (from, to) = if v6 { (address(8), address(24)) } else { (address(12), address(16)) };
    let tos = if v6 { ip[0] << 4 | ip[1] >> 4 } else { ip[1] };
    let socket = usize::from(word(vxlan - 8)) % SENDERS;
    Some(Lane { v6, socket, from: from.ok()?, to: SocketAddr::new(to.ok()?, PORT), tos, vxlan })
}

/// A tunnel packet as the engine makes it, which may be unfinished, or nearly so. And whether all about it is right.
fn packet(u: &mut Unstructured<'_>) -> Result<Option<(HeapBuf, bool)>> {
    let mut made: Frame = frame(u, &cast())?;
    if u.ratio(1, 4)? {
        spoil(u, &mut made)?;
    }
    let Ok(state) = virtio::parse(&made.header, &HeapBuf::from_bytes(&made.bytes)) else { return Ok(None) };
    let (v6, tos) = (u.arbitrary()?, *u.choose(&[0u8, 2, 3, 0xfe])?);
    let source = 40_000 + u16::from(*u.choose(&[0u8, 0, 0, 1, 16])?);
    let udp_len = (made.bytes.len() + 16) as u16;
    let (own, far) = (node(v6, 1), node(v6, u.int_in_range(2..=3)?));
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match (own, far) {
        (IpAddr::V4(own), IpAddr::V4(far)) => {
            bytes.extend([8, 0, 0x45, tos]);
            bytes.extend(udp_len.wrapping_add(20).to_be_bytes());
            bytes.extend([0, 7, 0, 0, 64, 17, 0, 0]);
            bytes.extend(own.octets());
            bytes.extend(far.octets());
            sum::mend_ipv4(&mut bytes, 14);
        }
        (IpAddr::V6(own), IpAddr::V6(far)) => {
            bytes.extend([0x86, 0xdd, 0x60 | tos >> 4, tos << 4, 0, 0]);
            bytes.extend(udp_len.to_be_bytes());
            bytes.extend([17, 64]);
            bytes.extend(own.octets());
            bytes.extend(far.octets());
        }
        _ => return Ok(None),
    }
    for word in [source, PORT, udp_len, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend([8, 0, 0, 0, 0, 0, 1, 0]);
    let Some(offload) = state.shift(bytes.len() as isize) else { return Ok(None) };
    let outer = bytes.len();
    bytes.extend(&made.bytes);
    let mut sound = made.sound;
    if u.ratio(1, 16)? {
        bytes[u.int_in_range(0..=outer - 1)?] = u.arbitrary()?;
        sound = false;
    }
    let mut segments = Vec::new();
    let mut rest = bytes.as_slice();
    if u.ratio(1, 2)? {
        for _ in 0..u.int_in_range(1..=6)? {
            let least = if segments.is_empty() && !u.ratio(1, 16)? { outer } else { 0 };
            let (segment, behind) = rest.split_at(u.int_in_range(least..=least + 2000)?.min(rest.len()));
            segments.push(segment);
            rest = behind;
        }
    }
    segments.push(rest);
    let mut packet = HeapBuf::from_segments(&segments);
    packet.set_offload(offload);
    // The engine has its headers in one piece.
    sound &= packet.head().len() >= outer;
    Ok(Some((packet, sound)))
}

/// The datagrams that a packet stands for.
fn datagrams(packet: &HeapBuf, lane: &Lane) -> std::result::Result<Vec<Vec<u8>>, &'static str> {
    let (bytes, offload, inner) = (packet.to_vec(), packet.offload(), lane.vxlan + 8);
    if offload.gso.is_some() {
        let state = cut::inner_state(offload, inner).ok_or("the state of another packet")?;
        let frames = cut::finished(&bytes[inner..], state)?;
        return Ok(frames.into_iter().map(|frame| [&bytes[lane.vxlan..inner], &frame].concat()).collect());
    }
    // The outer checksum is the kernel's.
    let inside =
        matches!(offload.checksum, Checksum::Partial { start, .. } if usize::from(start) > lane.vxlan);
    let state = if inside { offload } else { Offload::default() };
    Ok(cut::finished(&bytes, state)?.into_iter().map(|bytes| bytes[lane.vxlan..].to_vec()).collect())
}

fn sent(u: &mut Unstructured<'_>, plan: &mut Plan) -> Result<()> {
    let mut made: Vec<(HeapBuf, bool)> = Vec::new();
    for _ in 0..u.int_in_range(1..=8)? {
        let Some(packet) = packet(u)? else { continue };
        let copies = if u.ratio(1, 4)? { u.int_in_range(2..=BURST)? } else { 1 };
        made.extend(std::iter::repeat_n(packet, copies).take(BURST - made.len()));
    }
    let mut burst: Burst<HeapBuf> = made.iter().map(|(packet, _)| packet.clone()).collect();
    let left = plan.make(&mut burst, PORT, |_, _, _| false);

    // By socket, what is to leave through it.
    let mut expected: BTreeMap<(bool, usize), Vec<Datagram>> = BTreeMap::new();
    let mut all = 0;
    for (index, (packet, sound)) in made.iter().enumerate() {
        let lane = lane(packet.head());
        let found = lane.as_ref().ok_or("no tunnel packet").and_then(|lane| datagrams(packet, lane));
        let is_left = left >> index & 1 == 1;
        match (found, &lane) {
            (Ok(datagrams), Some(lane)) if !is_left => {
                all |= 1 << index;
                let whole = datagrams.into_iter().map(|bytes| (lane.to, lane.from, lane.tos, bytes));
                expected.entry((lane.v6, lane.socket)).or_default().extend(whole);
            }
            (Ok(datagrams), _) => {
                let fit = datagrams.iter().all(|bytes| bytes.len() <= LONGEST_MESSAGE);
                assert!(!sound || !fit, "left: {:?} of {} bytes", packet.offload(), packet.len());
            }
            (Err(why), _) => {
                assert!(is_left, "{why}, but sent: {:?}", packet.offload());
                assert!(!sound || matches!(why, cut::OPENS | cut::MANY), "{why}: {:?}", packet.offload());
            }
        }
    }
    let mut planned = 0;
    for share in plan.shares() {
        let mut there = Vec::new();
        for (index, message) in share.messages(&burst).enumerate() {
            assert_ne!(share.packets_of(index), 0);
            let (to, from, tos, segment) = (message.to, message.from, message.tos, message.segment);
            let mut pieces = Vec::new();
            (message.pieces)(&mut |piece| pieces.push(piece.to_vec()));
            assert!(pieces.len() <= MOST_PIECES, "{} pieces", pieces.len());
            let bytes = pieces.concat();
            let size = segment.map_or(bytes.len(), usize::from);
            // What is longer than there can be is the kernel's to refuse, by itself.
            assert!(segment.is_none() || bytes.len() <= LONGEST_MESSAGE, "{} bytes", bytes.len());
            let mut at = 0;
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                assert_eq!(at / size, (at + piece.len() - 1) / size, "a piece of two datagrams");
                at += piece.len();
            }
            let datagrams: Vec<_> = bytes.chunks(size).map(|bytes| (to, from, tos, bytes.to_vec())).collect();
            assert!(datagrams.len() <= MOST_DATAGRAMS && (datagrams.len() > 1) == segment.is_some());
            there.extend(datagrams);
        }
        assert_eq!(planned & share.packets(), 0, "sent twice");
        planned |= share.packets();
        assert_eq!(expected.remove(&(share.is_v6(), share.socket())), Some(there));
    }
    assert!(expected.is_empty(), "not sent: {expected:?}");
    assert_eq!((planned, planned & left), (all, 0));
    Ok(())
}

/// A datagram as a VTEP sends it; its inner checksum may not be filled in, as a kernel on this machine leaves it.
fn datagram(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut made = frame(u, &cast())?;
    spoil(u, &mut made)?;
    Ok([&[8, 0, 0, 0, 0, 0, 1, 0][..], &made.bytes].concat())
}

/// Bytes of a message and the size of the datagrams that the kernel says it is.
fn message(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Option<u16>)> {
    let first = datagram(u)?;
    let mut bytes = first.clone();
    let segment = match u.int_in_range(0..=3)? {
        0 => None,
        1 => Some(u.int_in_range(1..=2000)?),
        _ => {
            for _ in 0..u.int_in_range(0..=63)? {
                bytes.extend(&first);
            }
            let last = u.int_in_range(0..=first.len())?;
            bytes.extend(&first[..last]);
            Some(first.len() as u16)
        }
    };
    // No message is longer, or of more datagrams.
    let most = segment.map_or(usize::MAX, |size| usize::from(size) * MOST_DATAGRAMS);
    bytes.truncate(65_535.min(most));
    Ok((bytes, segment.filter(|size| *size > 0)))
}

/// The inner packet of the first datagram goes on behind that: all of it is one.
fn is_one(bytes: &[u8], segment: u16) -> bool {
    let word =
        |at: usize| bytes.get(at..at + 2).map_or(0, |two| usize::from(u16::from_be_bytes([two[0], two[1]])));
    let inner = match word(20) {
        0x0800 => word(24),
        0x86dd => 40 + word(26),
        _ => 0,
    };
    22 + inner > usize::from(segment)
}

fn received(u: &mut Unstructured<'_>) -> Result<()> {
    let (v6, other) = (u.arbitrary::<bool>()?, u.ratio(1, 32)?);
    let (bytes, segment) = message(u)?;
    let told = Received {
        from: SocketAddr::new(node(v6, 2), 40_000),
        to: node(v6 != other, 1),
        tos: u.arbitrary()?,
        len: bytes.len(),
        segment,
        truncated: u.ratio(1, 32)?,
    };
    let underlay = *u.choose(&[1500u32, 1500, 9000, 1280, 65_535, 60])?;
    let shape = match u.int_in_range(0..=4)? {
        0 => Shape::SINGLE,
        1 => Shape::LARGE,
        2 => Shape::JUMBO,
        3 => Shape::together(usize::from(segment.unwrap_or(1400)).max(64)),
        _ => Shape::together(u.int_in_range(64..=9000)?),
    };
    let (size, most) = shape.message();
    let count = if u.ratio(1, 8)? { u.int_in_range(1..=most)? } else { most };

    // As the kernel does it.
    let mut full = HeapPool { segment: *u.choose(&[2048, 65_535, 700])?, left: usize::MAX };
    let mut buffers: Vec<Option<HeapBuf>> = (0..count).map(|_| full.alloc(shape.room())).collect();
    let mut rest = bytes.as_slice();
    for buffer in buffers.iter_mut().flatten() {
        let (here, behind) = rest.split_at(rest.len().min(size));
        assert!(buffer.write_at(0, here));
        rest = behind;
    }
    let mut spill = vec![0x5a; 65_535];
    spill[..rest.len()].copy_from_slice(rest);

    let held = u.int_in_range(0..=BURST)?;
    let mut burst: Burst<HeapBuf> = (0..held).map(|_| HeapBuf::from_bytes(&[])).collect();
    let (mut waiting, mut loss) = (VecDeque::new(), RxLoss::default());
    let mtu = UnderlayMtu::new(underlay);
    let mut pool = HeapPool { left: *u.choose(&[usize::MAX, usize::MAX, 0, 1, 7])?, ..HeapPool::default() };
    let mut delivery =
        Delivery { port: PORT, mtu: &mtu, burst: &mut burst, waiting: &mut waiting, loss: &mut loss };
    let whole = !u.ratio(1, 32)?;
    let filled = Filled { size, buffers: &mut buffers, spill: &spill };
    let seen = delivery.deliver(&mut pool, Some(told).filter(|_| whole), filled);
    assert!(burst.is_full() || waiting.is_empty());
    let packets: Vec<HeapBuf> = burst.drain(held..).chain(waiting).collect();

    if other || !whole || told.truncated {
        let malformed = other || !whole;
        let expected =
            RxLoss { malformed: malformed.into(), too_long: (!malformed).into(), ..RxLoss::default() };
        assert_eq!((packets, loss, seen), (Vec::new(), expected, None));
        return Ok(());
    }
    let one = segment.is_none_or(|size| usize::from(size) >= bytes.len() || is_one(&bytes, size));
    let sent: Vec<&[u8]> = match segment.filter(|_| !one) {
        Some(size) => bytes.chunks(size.into()).collect(),
        None => vec![&bytes],
    };
    let longest = if v6 { 65_535 - 8 } else { LONGEST_MESSAGE };
    let too_long = sent.iter().filter(|bytes| bytes.len() > longest).count();
    assert!(seen.is_some() && loss.too_long as usize <= too_long);
    let gone = (loss.too_long + loss.no_buffer) as usize;
    assert_eq!((packets.len() + gone, loss.malformed), (sent.len(), 0), "{loss:?}");
    assert!(gone == too_long || pool.left == 0, "{loss:?}");
    let carried = (underlay as usize).saturating_sub(if v6 { 70 } else { 50 });
    // In order, each whole, with nothing missing but what was given up.
    let mut sent = sent.into_iter();
    for packet in &packets {
        let payload = assert_headers(packet, &told);
        assert!(sent.by_ref().any(|bytes| bytes == payload), "not what was sent");
        assert_state(packet, &payload, carried, segment.filter(|_| one));
    }
    Ok(())
}

/// The headers in front are the message's; what is behind them.
fn assert_headers(packet: &HeapBuf, told: &Received) -> Vec<u8> {
    let bytes = packet.to_vec();
    let seen = look::read(&bytes);
    let ip = seen.ip.expect("IP");
    assert_eq!((ip.src, ip.dst, ip.protocol, ip.len), (told.from.ip(), told.to, 17, bytes.len() - 14));
    let tos = if ip.src.is_ipv4() { bytes[15] } else { bytes[14] << 4 | bytes[15] >> 4 };
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let udp = ip.upper.start;
    assert_eq!((tos, ip.fragment, ip.upper.end), (told.tos, false, bytes.len()));
    assert_eq!((word(udp), word(udp + 2)), (told.from.port(), PORT));
    assert_eq!((usize::from(word(udp + 4)), word(udp + 6)), (ip.upper.len(), 0));
    bytes[udp + 8..].to_vec()
}

/// What is said to be left to be done about the inner frame is left to be done, and nothing else is.
fn assert_state(packet: &HeapBuf, payload: &[u8], carried: usize, told: Option<u16>) {
    let (offload, at) = (packet.offload(), packet.len() - payload.len() + 8);
    let Checksum::Partial { .. } = offload.checksum else {
        assert_eq!(offload, Offload { checksum: Checksum::Verified, gso: None });
        if let Some((frame, ip)) = inner(payload) {
            let never_filled = field(frame, &ip).is_some_and(|value| value == pseudo(&ip));
            let right = sum::is_right(ip.src, ip.dst, ip.protocol, &frame[ip.upper.clone()]);
            assert!(!never_filled || right, "left unfilled: {ip:?}");
        }
        return;
    };
    let Some((frame, ip)) = inner(payload) else { return };
    let state = cut::inner_state(offload, at).expect("of the inner frame");
    let place = sum::field(ip.protocol).expect("a protocol with a checksum");
    let expected = Checksum::Partial { start: ip.upper.start as u16, offset: place as u16 };
    assert_eq!((state.checksum, field(frame, &ip)), (expected, Some(pseudo(&ip))));
    let right = sum::is_right(ip.src, ip.dst, ip.protocol, &frame[ip.upper.clone()]);
    assert!(state.gso.is_some() || !right, "right as it was: {ip:?}");
    if let Some(gso) = state.gso {
        assert!(gso.size > 0 && if ip.protocol == 6 { ip.len > carried } else { told == Some(gso.size) });
    }
    // What follows the packet is cut off before it is finished.
    let frame = &frame[..ip.upper.end];
    for finished in cut::finished(frame, state).unwrap_or_default() {
        let seen = look::read(&finished);
        let ip = seen.ip.expect("still IP");
        let message = &finished[ip.upper.clone()];
        assert!(sum::is_right(ip.src, ip.dst, ip.protocol, message), "finished, and wrong: {ip:?}");
        assert!(state.gso.is_none_or(|_| ip.protocol == 17 || ip.len <= carried.max(1)), "{ip:?}");
    }
}

/// The inner frame and its packet, if it is a whole one of TCP or UDP.
fn inner(payload: &[u8]) -> Option<(&[u8], SeenIp)> {
    let frame = payload.get(8..)?;
    let ip = look::try_read(frame).ok()?.ip?;
    // etherparse looks behind an authentication header, and through any number of tags.
    (matches!(ip.protocol, 6 | 17) && !ip.fragment && is_plain(frame)).then_some((frame, ip))
}

/// No tags, and nothing between the IP header and the upper layer but what every sender may put there.
fn is_plain(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00]))
        || (matches!(frame.get(12..14), Some([0x86, 0xdd])) && matches!(frame.get(20), Some(6 | 17)))
}

fn field(frame: &[u8], ip: &SeenIp) -> Option<u16> {
    let at = ip.upper.start + sum::field(ip.protocol)?;
    let bytes = frame[..ip.upper.end].get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn pseudo(ip: &SeenIp) -> u16 {
    sum::folded(&sum::pseudo(ip.src, ip.dst, ip.protocol, ip.upper.len()))
}
