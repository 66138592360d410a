//! Frames as real senders make them, drawn by lot, and what is done to spoil them. Noise alone would end at the first
//! check; these get far, and are wrong in one place or two.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use weft_switch::offload::virtio;
use weft_switch::packet::{HeapBuf, PacketBuf};
use weft_switch::types::MacAddr;

use crate::sum;

/// Whom a frame may be from and to; one or the other may be anybody.
#[derive(Debug, Clone, Default)]
pub struct Cast {
    /// The sender's MAC addresses.
    pub src_macs: Vec<MacAddr>,
    /// MAC addresses to send to.
    pub dst_macs: Vec<MacAddr>,
    /// The sender's IP addresses.
    pub src: Vec<IpAddr>,
    /// IP addresses to send to.
    pub dst: Vec<IpAddr>,
}

/// A frame with its virtio-net header, not yet sent.
#[derive(Debug, Clone)]
pub struct Frame {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Its virtio-net header.
    pub header: [u8; virtio::HEADER],
    /// It is as its sender must make it: every length and checksum is right, or left to be filled in as the header
    /// says.
    pub sound: bool,
}

const NEEDS_CSUM: u8 = 1;

/// A frame between two of the cast.
pub fn frame(u: &mut Unstructured<'_>, cast: &Cast) -> Result<Frame> {
    let dst = one(u, &cast.dst_macs)?.unwrap_or(MacAddr(u.arbitrary()?));
    let src = one(u, &cast.src_macs)?.unwrap_or(MacAddr(u.arbitrary()?));
    let mut ethernet = [dst.0, src.0].concat();
    if u.ratio(1, 8)? {
        for _ in 0..*u.choose(&[1, 1, 2, 3])? {
            let tag: u16 = if u.arbitrary()? { 0 } else { u.arbitrary()? };
            ethernet.extend(u.choose(&[[0x81, 0x00], [0x88, 0xa8]])?);
            ethernet.extend(tag.to_be_bytes());
        }
    }
    // Now and then somebody else's.
    let of = if u.ratio(1, 16)? { &cast.dst } else { &cast.src };
    let from = one(u, of)?.unwrap_or(any_address(u)?);
    let same_family: Vec<_> = cast.dst.iter().copied().filter(|to| to.is_ipv4() == from.is_ipv4()).collect();
    let to = match one(u, &same_family)? {
        Some(to) => to,
        None if from.is_ipv4() => IpAddr::V4(u.arbitrary()?),
        None => IpAddr::V6(u.arbitrary()?),
    };
    match (u.int_in_range(0..=15)?, from, to) {
        (0, IpAddr::V4(from), IpAddr::V4(to)) => arp(u, ethernet, src, from, to),
        (1, ..) => {
            ethernet.extend(u.choose(&[[0x88, 0x47], [0x88, 0xcc], [0x00, 0x40]])?);
            ethernet.extend(vec![7; length(u)?]);
            Ok(Frame { bytes: ethernet, header: [0; virtio::HEADER], sound: true })
        }
        (_, IpAddr::V4(from), IpAddr::V4(to)) => ipv4(u, ethernet, from, to),
        (_, IpAddr::V6(from), IpAddr::V6(to)) => ipv6(u, ethernet, from, to),
        _ => Err(arbitrary::Error::IncorrectFormat),
    }
}

/// One of them; seldom none, which asks for anything.
fn one<T: Copy>(u: &mut Unstructured<'_>, of: &[T]) -> Result<Option<T>> {
    if of.is_empty() || u.ratio(1, 24)? { Ok(None) } else { u.choose(of).copied().map(Some) }
}

fn any_address(u: &mut Unstructured<'_>) -> Result<IpAddr> {
    Ok(if u.arbitrary()? { IpAddr::V4(u.arbitrary()?) } else { IpAddr::V6(u.arbitrary()?) })
}

/// Lengths of payload that matter: none, odd, about an MTU, many times an MTU.
fn length(u: &mut Unstructured<'_>) -> Result<usize> {
    match u.int_in_range(0..=7)? {
        0 => Ok(0),
        1..=3 => u.int_in_range(1..=64),
        4 => u.int_in_range(500..=700),
        5 => u.int_in_range(1300..=1520),
        6 => u.int_in_range(1..=9000),
        // As long as there can be: in a tunnel that is more than 16 bits hold.
        _ => u.int_in_range(9000..=65535),
    }
}

fn payload(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let (len, first) = (length(u)?, u.arbitrary::<u8>()?);
    Ok((0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(first)).collect())
}

fn arp(
    u: &mut Unstructured<'_>,
    ethernet: Vec<u8>,
    mac: MacAddr,
    from: Ipv4Addr,
    to: Ipv4Addr,
) -> Result<Frame> {
    let op = *u.choose(&[1u8, 1, 1, 2, 3])?;
    let from = if u.ratio(1, 8)? { Ipv4Addr::UNSPECIFIED } else { from };
    let to = if u.ratio(1, 8)? { from } else { to };
    let head = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, op];
    let mac = if u.ratio(1, 16)? { MacAddr([2, 0, 0, 0, 5, 0]) } else { mac };
    let mut bytes = [&ethernet[..], &head, &mac.0, &from.octets(), &[0; 6], &to.octets()].concat();
    if u.arbitrary()? {
        bytes.resize(bytes.len().max(60), 0);
    }
    Ok(Frame { bytes, header: [0; virtio::HEADER], sound: true })
}

/// An upper-layer header and its payload, its checksum still 0.
struct Upper {
    protocol: u8,
    bytes: Vec<u8>,
    /// Bytes of its header.
    header: usize,
}

fn upper(u: &mut Unstructured<'_>, v6: bool) -> Result<Upper> {
    let ports: [u8; 4] = u
        .choose(&[[0x9c, 0x40, 0, 53], [0, 68, 0, 67], [0, 67, 0, 68], [2, 35, 2, 34], [0x80, 0, 0x21, 0x18]])
        .copied()?;
    let payload = payload(u)?;
    Ok(match u.int_in_range(0..=9)? {
        0..=2 => {
            let bytes = [&ports[..], &[0; 4], &payload].concat();
            Upper { protocol: 17, bytes, header: 8 }
        }
        3..=5 => {
            let words = *u.choose(&[0u8, 0, 3, 5, 10])?;
            let (flags, sequence) = (u.arbitrary::<u8>()?, u.arbitrary::<u32>()?);
            let flags = if u.arbitrary()? { 0x18 } else { flags };
            let head = [
                &ports[..],
                &sequence.to_be_bytes(),
                &[0, 0, 0, 9, (5 + words) << 4, flags, 4, 0, 0, 0, 0, 0],
            ];
            let options = vec![1; usize::from(words) * 4];
            let bytes = [&head.concat()[..], &options, &payload].concat();
            Upper { protocol: 6, bytes, header: 20 + options.len() }
        }
        6 | 7 if v6 => {
            let kind = *u.choose(&[128u8, 128, 129, 1, 2, 3, 133, 134, 137])?;
            let bytes = [&[kind, 0, 0, 0, 0, 0, 5, 0xdc][..], &payload].concat();
            Upper { protocol: 58, bytes, header: 8 }
        }
        6 | 7 => {
            let kind = *u.choose(&[8u8, 8, 0, 3, 5, 11, 12])?;
            let code = *u.choose(&[0u8, 0, 1, 4])?;
            let bytes = [&[kind, code, 0, 0, 0, 7, 0, 1][..], &payload].concat();
            Upper { protocol: 1, bytes, header: 8 }
        }
        8 => Upper { protocol: 132, bytes: [&ports[..], &[1; 8], &payload].concat(), header: 12 },
        _ => Upper { protocol: *u.choose(&[2u8, 47, 50, 59, 253])?, bytes: payload, header: 0 },
    })
}

/// Fills the checksum in, or leaves it to be filled in and says so in the header; then the frame may also be one
/// that stands for several.
fn finished(
    u: &mut Unstructured<'_>,
    upper: &mut Upper,
    ends: (IpAddr, IpAddr),
    l4: usize,
) -> Result<[u8; virtio::HEADER]> {
    let mut header = [0; virtio::HEADER];
    let Upper { protocol, bytes, header: header_len } = upper;
    if *protocol == 17 {
        // It may have been cut to what a packet holds.
        let length = bytes.len() as u16;
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
    }
    let Some(field) = sum::field(*protocol) else { return Ok(header) };
    let before =
        if *protocol == 1 { Vec::new() } else { sum::pseudo(ends.0, ends.1, *protocol, bytes.len()) };
    if !matches!(protocol, 6 | 17) || u.arbitrary()? {
        let checksum = !sum::folded(&[&before[..], bytes].concat());
        let checksum = if checksum == 0 && *protocol == 17 { 0xffff } else { checksum };
        bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        header[0] = *u.choose(&[0u8, 0, 2])?;
        return Ok(header);
    }
    bytes[field..field + 2].copy_from_slice(&sum::folded(&before).to_be_bytes());
    header[0] = NEEDS_CSUM;
    header[6..8].copy_from_slice(&(l4 as u16).to_le_bytes());
    header[8..10].copy_from_slice(&(field as u16).to_le_bytes());
    if u.arbitrary()? {
        let kind = match (*protocol, ends.0.is_ipv4()) {
            (17, _) => 5,
            (_, true) => 1,
            (_, false) => 4,
        };
        header[1] = if u.ratio(1, 8)? { kind | 0x80 } else { kind };
        let size = *u.choose(&[1448u16, 1400, 1000, 536, 64, 1, 9000, 0xffff])?;
        header[2..4].copy_from_slice(&((l4 + *header_len) as u16).to_le_bytes());
        header[4..6].copy_from_slice(&size.to_le_bytes());
    }
    Ok(header)
}

fn hops(u: &mut Unstructured<'_>) -> Result<u8> {
    u.choose(&[64u8, 64, 64, 255, 2, 1, 0]).copied()
}

fn ipv4(u: &mut Unstructured<'_>, mut ethernet: Vec<u8>, from: Ipv4Addr, to: Ipv4Addr) -> Result<Frame> {
    ethernet.extend([0x08, 0x00]);
    let mut upper = upper(u, false)?;
    let options = if u.ratio(1, 8)? { u.int_in_range(1..=10usize)? * 4 } else { 0 };
    let fragment = if u.ratio(1, 8)? { u.arbitrary::<u16>()? & 0x7fff } else { *u.choose(&[0u16, 0x4000])? };
    upper.bytes.truncate(65535 - 20 - options);
    let l4 = ethernet.len() + 20 + options;
    let header = finished(u, &mut upper, (from.into(), to.into()), l4)?;
    let mut ip = vec![0; 20 + options];
    (ip[0], ip[1]) = (0x45 + (options / 4) as u8, u.arbitrary()?);
    let total = (ip.len() + upper.bytes.len()) as u16;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[4..6].copy_from_slice(&u.arbitrary::<u16>()?.to_be_bytes());
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    (ip[8], ip[9]) = (hops(u)?, upper.protocol);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    if options > 0 {
        let first = *u.choose(&[1u8, 0, 7, 68, 131, 148])?;
        ip[20..].fill(first);
        ip[21] = options as u8;
    }
    sum::mend_ipv4(&mut ip, 0);
    // Whoever fragments has filled the checksum in before.
    let sound = fragment & 0x3fff == 0 || header[0] & NEEDS_CSUM == 0;
    padded(u, [ethernet, ip, upper.bytes].concat(), header, sound)
}

fn ipv6(u: &mut Unstructured<'_>, mut ethernet: Vec<u8>, from: Ipv6Addr, to: Ipv6Addr) -> Result<Frame> {
    ethernet.extend([0x86, 0xdd]);
    let neighbour = u.ratio(1, 6)?;
    let mut upper = if neighbour { neighbour_message(u, &ethernet, from, to)? } else { upper(u, true)? };
    let hop_limit = if neighbour { 255 } else { hops(u)? };
    let mut extensions: Vec<(u8, Vec<u8>)> = Vec::new();
    if u.ratio(1, 6)? {
        for _ in 0..u.int_in_range(1..=3)? {
            let kind = *u.choose(&[0u8, 60, 43, 44, 51])?;
            let units = if u.ratio(1, 8)? { 30 } else { u.int_in_range(1..=2usize)? };
            let mut bytes = vec![0; if kind == 44 { 8 } else { units * 8 }];
            bytes[1] = match kind {
                44 => 0,
                51 => (bytes.len() / 4 - 2).max(1) as u8,
                _ => (bytes.len() / 8 - 1) as u8,
            };
            if kind == 51 {
                bytes.resize((usize::from(bytes[1]) + 2) * 4, 0);
            }
            if kind == 44 && u.arbitrary()? {
                bytes[2..4].copy_from_slice(&u.arbitrary::<u16>()?.to_be_bytes());
            }
            extensions.push((kind, bytes));
        }
    }
    let mut next = upper.protocol;
    for (kind, bytes) in extensions.iter_mut().rev() {
        bytes[0] = std::mem::replace(&mut next, *kind);
    }
    let chain: Vec<u8> = extensions.into_iter().flat_map(|(_, bytes)| bytes).collect();
    upper.bytes.truncate(65535 - chain.len());
    let l4 = ethernet.len() + 40 + chain.len();
    let header = finished(u, &mut upper, (from.into(), to.into()), l4)?;
    let first_word = 6 << 28 | u.arbitrary::<u32>()? >> 4;
    let length = (chain.len() + upper.bytes.len()) as u16;
    let ip = [
        &first_word.to_be_bytes()[..],
        &length.to_be_bytes(),
        &[next, hop_limit],
        &from.octets(),
        &to.octets(),
    ];
    let sound = chain.is_empty() || header[0] & NEEDS_CSUM == 0;
    padded(u, [ethernet, ip.concat(), chain, upper.bytes].concat(), header, sound)
}

/// A neighbour solicitation or advertisement (RFC 4861), with options.
fn neighbour_message(
    u: &mut Unstructured<'_>,
    ethernet: &[u8],
    from: Ipv6Addr,
    to: Ipv6Addr,
) -> Result<Upper> {
    let kind = *u.choose(&[135u8, 135, 136])?;
    let target = if u.arbitrary()? { to } else { from };
    let mut bytes = [&[kind, 0, 0, 0, u.arbitrary()?, 0, 0, 0][..], &target.octets()].concat();
    for _ in 0..u.int_in_range(0..=2)? {
        bytes.extend([*u.choose(&[1u8, 2, 5])?, 1]);
        bytes.extend(&ethernet[6..12]);
    }
    Ok(Upper { protocol: 58, header: bytes.len(), bytes })
}

fn padded(
    u: &mut Unstructured<'_>,
    mut bytes: Vec<u8>,
    header: [u8; virtio::HEADER],
    sound: bool,
) -> Result<Frame> {
    // Nobody pads a frame that is larger than one on a wire.
    if header[1] == 0 && u.arbitrary()? {
        bytes.resize(bytes.len().max(60), 0);
    }
    Ok(Frame { bytes, header, sound })
}

/// Where a frame for a tunnel's receiver is wrapped: all that the outer headers say.
#[derive(Debug, Clone, Copy)]
pub struct Wrap {
    /// Outer MAC addresses, destination first.
    pub macs: [MacAddr; 2],
    /// The sender.
    pub src: IpAddr,
    /// The receiver, of the same family.
    pub dst: IpAddr,
    /// The UDP port.
    pub port: u16,
    /// The network.
    pub vni: u32,
}

/// Puts a frame into a tunnel packet, as a kernel VTEP does it: the checksum is right, absent, or left to be filled in,
/// and the inner frame may be unfinished too.
pub fn tunnelled(u: &mut Unstructured<'_>, wrap: &Wrap, inner: Frame) -> Result<Frame> {
    let ecn: u8 = u.int_in_range(0..=3)?;
    let vni = wrap.vni.to_be_bytes();
    let mut udp =
        [&[0x9c, 0x40][..], &wrap.port.to_be_bytes(), &[0; 4], &[8, 0, 0, 0], &vni[1..], &[0]].concat();
    udp.extend(&inner.bytes);
    let room = if wrap.src.is_ipv4() { 65515 } else { 65535 };
    let cut = udp.len() > room;
    udp.truncate(room);
    let len = udp.len() as u16;
    udp[4..6].copy_from_slice(&len.to_be_bytes());
    let l4 = if wrap.src.is_ipv4() { 34 } else { 54 };
    let mut header = inner.header;
    let before = sum::pseudo(wrap.src, wrap.dst, 17, udp.len());
    let inner_partial = header[0] & NEEDS_CSUM != 0;
    if inner_partial {
        let start = u16::from_le_bytes([header[6], header[7]]).saturating_add(l4 as u16 + 16);
        header[6..8].copy_from_slice(&start.to_le_bytes());
    } else if u.ratio(1, 4)? {
        udp[6..8].copy_from_slice(&sum::folded(&before).to_be_bytes());
        header = [NEEDS_CSUM, 0, 0, 0, 0, 0, l4, 0, 6, 0];
    } else if !wrap.src.is_ipv4() || u.arbitrary()? {
        let checksum = !sum::folded(&[&before[..], &udp].concat());
        let checksum = if checksum == 0 { 0xffff } else { checksum };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    let ethernet = [wrap.macs[0].0, wrap.macs[1].0].concat();
    let outer = match (wrap.src, wrap.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = vec![0x45, ecn, 0, 0, 0, 7, 0, 0, 64, 17, 0, 0];
            ip[2..4].copy_from_slice(&(len + 20).to_be_bytes());
            ip.extend(src.octets());
            ip.extend(dst.octets());
            sum::mend_ipv4(&mut ip, 0);
            [&[8, 0][..], &ip].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let first = [0x60, ecn << 4, 0, 0];
            [&[0x86, 0xdd][..], &first, &len.to_be_bytes(), &[17, 64], &src.octets(), &dst.octets()].concat()
        }
        _ => return Err(arbitrary::Error::IncorrectFormat),
    };
    Ok(Frame { bytes: [ethernet, outer, udp].concat(), header, sound: inner.sound && !cut })
}

/// Spoils a frame in a few places; half of all frames stay as they are, and those for which nothing is left to draw from.
pub fn spoil(u: &mut Unstructured<'_>, frame: &mut Frame) -> Result<()> {
    let spoilt: bool = u.arbitrary()?;
    if !spoilt {
        return Ok(());
    }
    frame.sound = false;
    for _ in 0..u.int_in_range(1..=3)? {
        let len = frame.bytes.len();
        match u.int_in_range(0..=9)? {
            0..=4 => {
                let near = if u.arbitrary()? { 64 } else { 200 };
                let at = u.int_in_range(0..=near)?;
                let value =
                    u.choose(&[None, None, Some(0), Some(1), Some(58), Some(60), Some(135), Some(0xff)])?;
                let value = value.map_or_else(|| u.arbitrary(), Ok)?;
                if let Some(place) = frame.bytes.get_mut(at) {
                    *place = value;
                }
            }
            5 => frame.bytes.truncate(u.int_in_range(0..=len)?),
            6 => frame.bytes.extend(vec![0x87; u.int_in_range(1..=3000)?]),
            7 => {
                let at = u.choose_index(virtio::HEADER)?;
                frame.header[at] = u.arbitrary()?;
            }
            _ => {
                // Where headers begin, or anywhere.
                let near =
                    *u.choose(&[None, Some(14u8), Some(34), Some(54), Some(62), Some(70), Some(84)])?;
                let start = near.map_or_else(|| u.int_in_range(0..=160), Ok)?;
                let place = [start, 0, u.int_in_range(0..=20)?, 0];
                frame.header[0] |= NEEDS_CSUM;
                frame.header[6..10].copy_from_slice(&place);
            }
        }
    }
    if u.arbitrary()? {
        sum::mend_ipv4(&mut frame.bytes, 14);
        if frame.bytes.get(23) == Some(&17) {
            sum::mend_ipv4(&mut frame.bytes, 64);
        }
    }
    Ok(())
}

/// The frame as the switch receives it, in segments by lot. `None` when its virtio-net header contradicts it: then
/// every door drops it.
pub fn received(u: &mut Unstructured<'_>, frame: &Frame) -> Result<Option<HeapBuf>> {
    let mut segments = Vec::new();
    let mut rest = frame.bytes.as_slice();
    if u.ratio(1, 4)? {
        for _ in 0..u.int_in_range(1..=4)? {
            let (segment, after) = rest.split_at(u.int_in_range(0..=400)?.min(rest.len()));
            segments.push(segment);
            rest = after;
        }
    }
    segments.push(rest);
    let mut packet = HeapBuf::from_segments(&segments);
    let Ok(offload) = virtio::parse(&frame.header, &packet) else { return Ok(None) };
    packet.set_offload(offload);
    Ok(Some(packet))
}
