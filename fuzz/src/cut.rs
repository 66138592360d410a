//! What whoever sends an unfinished frame makes of it, from the standards alone: nothing here believes the code that it looks
//! at.

use std::net::IpAddr;

use weft_switch::offload::{Checksum, Gso, GsoKind, Offload};

use crate::sum;

/// A frame that opens or resets a connection stands for itself alone.
pub const OPENS: &str = "more than one segment that opens or resets a connection";
/// And this is more than is made of one frame.
pub const MANY: &str = "too many segments";

/// The most that one frame stands for.
const MOST: usize = 1024;

/// Where things are in a frame.
struct Places {
    ip: usize,
    upper: usize,
    v6: bool,
    protocol: u8,
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The places in a frame with at most two tags. Nothing of fragments, or of what is not IP.
fn places(frame: &[u8]) -> Option<Places> {
    let mut ip = 14;
    while matches!(word(frame, ip - 2)?, 0x8100 | 0x88a8) && ip < 22 {
        ip += 4;
    }
    match word(frame, ip - 2)? {
        0x0800 => {
            let words = frame.get(ip)? & 0x0f;
            let whole = word(frame, ip + 6)? & 0x3fff == 0;
            let upper = ip + usize::from(words) * 4;
            (whole && words >= 5 && frame[ip] >> 4 == 4 && upper <= frame.len()).then_some(Places {
                ip,
                upper,
                v6: false,
                protocol: *frame.get(ip + 9)?,
            })
        }
        0x86dd => {
            let (mut protocol, mut upper) = (*frame.get(ip + 6)?, ip + 40);
            while matches!(protocol, 0 | 43 | 60) {
                protocol = *frame.get(upper)?;
                upper += (usize::from(*frame.get(upper + 1)?) + 1) * 8;
            }
            (frame[ip] >> 4 == 6 && upper <= frame.len()).then_some(Places { ip, upper, v6: true, protocol })
        }
        _ => None,
    }
}

/// The addresses of the IP header.
fn ends(frame: &[u8], at: &Places) -> Option<(IpAddr, IpAddr)> {
    Some(if at.v6 {
        let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
        (address(at.ip + 8)?, address(at.ip + 24)?)
    } else {
        let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
        (address(at.ip + 12)?, address(at.ip + 16)?)
    })
}

/// The frames that one stands for, all of them finished.
///
/// # Errors
/// What the frame has against its state.
pub fn finished(frame: &[u8], offload: Offload) -> Result<Vec<Vec<u8>>, &'static str> {
    let Checksum::Partial { start, offset } = offload.checksum else {
        return if offload.gso.is_none() { Ok(vec![frame.to_vec()]) } else { Err("cut, but summed up") };
    };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    match offload.gso {
        Some(gso) => segments(frame, gso, start, field),
        None => {
            let mut frame = frame.to_vec();
            if field + 2 > frame.len() {
                return Err("a checksum behind the frame");
            }
            let checksum = !sum::folded(&frame[start..]);
            put(&mut frame, field, if checksum == 0 { 0xffff } else { checksum });
            Ok(vec![frame])
        }
    }
}

fn segments(frame: &[u8], gso: Gso, start: usize, field: usize) -> Result<Vec<Vec<u8>>, &'static str> {
    let at = places(frame).ok_or("not a whole IP packet")?;
    let (protocol, v6) = match gso.kind {
        GsoKind::Tcp4 => (6, false),
        GsoKind::Tcp6 => (6, true),
        GsoKind::Udp => (17, at.v6),
    };
    let own = if protocol == 6 { 16 } else { 6 };
    if (at.protocol, at.v6) != (protocol, v6) || (start, field) != (at.upper, at.upper + own) {
        return Err("another packet than the state says");
    }
    let length = if v6 {
        word(frame, at.ip + 4).map(|len| 40 + usize::from(len))
    } else {
        word(frame, at.ip + 2).map(usize::from)
    };
    if length != Some(frame.len() - at.ip) {
        return Err("another length than the header says");
    }
    let upper = match protocol {
        6 => usize::from(frame.get(at.upper + 12).ok_or("no TCP header")? >> 4) * 4,
        _ => 8,
    };
    let (least, headers) = (if protocol == 6 { 20 } else { 8 }, at.upper + upper);
    if upper < least || headers > frame.len() {
        return Err("no whole transport header");
    }
    if protocol == 6 && frame[at.upper + 13] & 6 != 0 {
        return Err(OPENS);
    }
    let payload = &frame[headers..];
    let mut parts: Vec<&[u8]> = payload.chunks(gso.size.into()).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    if parts.len() > MOST {
        return Err(MANY);
    }
    let (src, dst) = ends(frame, &at).ok_or("no addresses")?;
    let segment = |(index, part): (usize, &&[u8])| {
        let mut segment = [&frame[..headers], part].concat();
        let ip_len = (segment.len() - at.ip) as u16;
        if v6 {
            put(&mut segment, at.ip + 4, ip_len - 40);
        } else {
            put(&mut segment, at.ip + 2, ip_len);
            let ident = u16::from_be_bytes([frame[at.ip + 4], frame[at.ip + 5]]);
            put(&mut segment, at.ip + 4, ident.wrapping_add(index as u16));
            sum::mend_ipv4(&mut segment, at.ip);
        }
        if protocol == 6 {
            let number = &mut segment[at.upper + 4..at.upper + 8];
            let first = u32::from_be_bytes([number[0], number[1], number[2], number[3]]);
            let done = (index * usize::from(gso.size)) as u32;
            number.copy_from_slice(&first.wrapping_add(done).to_be_bytes());
            // FIN and PSH are the last one's, CWR the first one's (RFC 3168, section 6.1.2).
            let keep =
                if index + 1 == parts.len() { 0xff } else { !0x09 } & if index == 0 { 0xff } else { !0x80 };
            segment[at.upper + 13] &= keep;
        } else {
            let udp_len = (segment.len() - at.upper) as u16;
            put(&mut segment, at.upper + 4, udp_len);
        }
        put(&mut segment, field, 0);
        let before = sum::pseudo(src, dst, protocol, segment.len() - at.upper);
        let checksum = !sum::folded(&[&before[..], &segment[at.upper..]].concat());
        put(&mut segment, field, if checksum == 0 && protocol == 17 { 0xffff } else { checksum });
        segment
    };
    Ok(parts.iter().enumerate().map(segment).collect())
}

/// Where the inner frame of a tunnel packet begins, whose outer headers are as weft makes them.
pub fn inner_of(packet: &[u8]) -> Option<usize> {
    match word(packet, 12)? {
        0x0800 => Some(14 + 20 + 8 + 8),
        0x86dd => Some(14 + 40 + 8 + 8),
        _ => None,
    }
}

/// Whether something is left to be done about the inner frame, which begins at `inner`.
pub fn is_unfinished(offload: Offload, inner: usize) -> bool {
    let inside = matches!(offload.checksum, Checksum::Partial { start, .. } if usize::from(start) >= inner);
    offload.gso.is_some() || inside
}

/// The state of the inner frame, which begins at `inner`, by itself.
pub fn inner_state(offload: Offload, inner: usize) -> Option<Offload> {
    let Checksum::Partial { start, offset } = offload.checksum else { return None };
    let start = usize::from(start).checked_sub(inner)? as u16;
    Some(Offload { checksum: Checksum::Partial { start, offset }, ..offload })
}

/// The tunnel packets that one stands for whose inner frame is unfinished, with the outer checksum that IPv6 demands and
/// none over IPv4.
///
/// # Errors
/// What the packet has against its state.
pub fn tunnel_packets(packet: &[u8], offload: Offload) -> Result<Vec<Vec<u8>>, &'static str> {
    let inner = inner_of(packet).ok_or("no tunnel packet")?;
    let state = inner_state(offload, inner).ok_or("the state of another packet")?;
    let (udp, v6) = (inner - 16, inner > 50);
    let frames = finished(packet.get(inner..).ok_or("no inner frame")?, state)?;
    let wrapped = frames.into_iter().map(|frame| {
        let mut packet = [&packet[..inner], &frame].concat();
        let udp_len = u16::try_from(packet.len() - udp).map_err(|_| "longer than a packet can be")?;
        put(&mut packet, udp + 4, udp_len);
        if v6 {
            put(&mut packet, 14 + 4, udp_len);
            put(&mut packet, udp + 6, 0);
            let outer = Places { ip: 14, upper: udp, v6, protocol: 17 };
            let (src, dst) = ends(&packet, &outer).ok_or("no addresses")?;
            let before = sum::pseudo(src, dst, 17, udp_len.into());
            let checksum = !sum::folded(&[&before[..], &packet[udp..]].concat());
            put(&mut packet, udp + 6, if checksum == 0 { 0xffff } else { checksum });
        } else {
            put(&mut packet, 14 + 2, udp_len.checked_add(20).ok_or("longer than a packet can be")?);
            sum::mend_ipv4(&mut packet, 14);
        }
        Ok(packet)
    });
    wrapped.collect()
}
