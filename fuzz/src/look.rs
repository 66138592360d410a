//! A frame as etherparse reads it. Of a frame that the switch has sent, this is a judgement too: what it let through as
//! IP must be IP.

use std::net::IpAddr;
use std::ops::Range;

use etherparse::{Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice};
use weft_switch::types::MacAddr;

use crate::sum;

/// A frame.
#[derive(Debug, Clone)]
pub struct Seen {
    /// To whom.
    pub dst: MacAddr,
    /// From whom.
    pub src: MacAddr,
    /// What it carries, behind its tags.
    pub ethertype: u16,
    /// How many 802.1Q and 802.1ad tags it has.
    pub tags: usize,
    /// Where what it carries begins.
    pub l3: usize,
    /// The IP packet in it.
    pub ip: Option<SeenIp>,
}

/// An IP packet.
#[derive(Debug, Clone)]
pub struct SeenIp {
    /// From whom.
    pub src: IpAddr,
    /// To whom.
    pub dst: IpAddr,
    /// Bytes of it.
    pub len: usize,
    /// TTL or hop limit.
    pub hops: u8,
    /// What is behind all headers of IP.
    pub protocol: u8,
    /// It has a fragment header or is a fragment.
    pub fragment: bool,
    /// Where the upper layer is in the frame. Ends with the packet.
    pub upper: Range<usize>,
}

impl SeenIp {
    /// ICMP's or ICMPv6's type, where the packet is such a message.
    pub fn icmp(&self, frame: &[u8]) -> Option<u8> {
        let own = if self.src.is_ipv4() { 1 } else { 58 };
        if self.protocol == own && !self.fragment { frame[self.upper.clone()].first().copied() } else { None }
    }

    /// Whether the upper layer's checksum is right; `None` for fragments, for what has no such sum, for UDP over IPv4
    /// without one, and where the header is cut off.
    pub fn checksum_right(&self, frame: &[u8]) -> Option<bool> {
        let upper = &frame[self.upper.clone()];
        let field = sum::field(self.protocol).filter(|_| !self.fragment)?;
        let value = upper.get(field..field + 2)?;
        if self.protocol == 17 && self.src.is_ipv4() && value == [0, 0] {
            return None;
        }
        // UDP says itself how long it is.
        let end =
            if self.protocol == 17 { u16::from_be_bytes([upper[4], upper[5]]).into() } else { upper.len() };
        Some(upper.get(..end).is_some_and(|upper| sum::is_right(self.src, self.dst, self.protocol, upper)))
    }
}

/// Reads a frame that the switch has sent. Panics where its headers contradict themselves, each other or the frame.
/// Behind tags it only reads: the switch carries what it does not look into.
pub fn read(frame: &[u8]) -> Seen {
    try_read(frame).unwrap_or_else(|why| panic!("{why}"))
}

/// The same of a frame that may be anything.
pub fn try_read(frame: &[u8]) -> Result<Seen, String> {
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).map_err(|error| error.to_string())?;
    let (ethertype, l3) = behind_tags(frame);
    let tags = (l3 - 14) / 4;
    let ip = match ip(frame, l3, ethertype) {
        Ok(ip) => ip,
        Err(why) if tags == 0 => return Err(why),
        Err(_) => None,
    };
    let (dst, src) = (MacAddr(ethernet.destination()), MacAddr(ethernet.source()));
    Ok(Seen { dst, src, ethertype, tags, l3, ip })
}

/// What a frame carries behind its tags, and where that begins. The frame has an Ethernet header.
fn behind_tags(frame: &[u8]) -> (u16, usize) {
    let ethertype = |l3: usize| u16::from_be_bytes([frame[l3 - 2], frame[l3 - 1]]);
    let mut l3 = 14;
    while matches!(ethertype(l3), 0x8100 | 0x88a8) && frame.len() >= l3 + 4 {
        l3 += 4;
    }
    (ethertype(l3), l3)
}

/// The frame, which has an Ethernet header, without its tags.
pub fn untagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &frame[behind_tags(frame).1 - 2..]].concat()
}

fn ip(frame: &[u8], l3: usize, ethertype: u16) -> Result<Option<SeenIp>, String> {
    let packet = &frame[l3..];
    match ethertype {
        0x0800 => {
            let ip = Ipv4HeaderSlice::from_slice(packet).map_err(|error| error.to_string())?;
            let len = usize::from(ip.total_len());
            if len > packet.len() || len < ip.slice().len() {
                return Err(format!("an IPv4 packet of {len} bytes in {}", packet.len()));
            }
            // Over the bytes: etherparse's own sum forgets the reserved flag.
            if sum::folded(ip.slice()) != 0xffff {
                return Err("the IPv4 header's checksum is wrong".to_owned());
            }
            Ok(Some(SeenIp {
                src: ip.source_addr().into(),
                dst: ip.destination_addr().into(),
                len,
                hops: ip.ttl(),
                protocol: ip.protocol().0,
                fragment: ip.is_fragmenting_payload(),
                upper: l3 + ip.slice().len()..l3 + len,
            }))
        }
        0x86dd => {
            let ip = Ipv6HeaderSlice::from_slice(packet).map_err(|error| error.to_string())?;
            let len = 40 + usize::from(ip.payload_length());
            if len > packet.len() {
                return Err(format!("an IPv6 packet of {len} bytes in {}", packet.len()));
            }
            let (extensions, protocol, rest, _) =
                Ipv6ExtensionsSlice::from_slice_lax(ip.next_header(), &packet[40..len]);
            Ok(Some(SeenIp {
                src: ip.source_addr().into(),
                dst: ip.destination_addr().into(),
                len,
                hops: ip.hop_limit(),
                protocol: protocol.0,
                fragment: extensions.is_fragmenting_payload(),
                upper: l3 + len - rest.len()..l3 + len,
            }))
        }
        _ => Ok(None),
    }
}
