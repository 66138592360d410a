//! Frames by bytes, with every field settable. They know nothing of weft's own wire formats, so that the two cannot
//! agree on a mistake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) type Mac = [u8; 6];

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_LEN: usize = 14;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(crate) fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a MAC address")).collect();
    bytes.try_into().expect("six bytes")
}

/// The sum of 16-bit words, folded (RFC 1071).
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// A frame of these fields.
pub(crate) fn ethernet(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat()
}

/// The frame with a VLAN tag in front of its ethertype: `tpid` 0x8100 or 0x88a8.
pub(crate) fn tagged(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    [&frame[..12], &tpid.to_be_bytes(), &tci.to_be_bytes(), &frame[12..]].concat()
}

/// An IP header of either family.
#[derive(Debug, Clone)]
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// DSCP and ECN: type of service or traffic class.
    pub(crate) tos: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// IPv4: the identification.
    pub(crate) ident: u16,
    /// IPv4: flags and offset as they stand in the header; 0x4000 is "don't fragment".
    pub(crate) fragment: u16,
    /// IPv4: the options, a multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6: the flow label.
    pub(crate) flow: u32,
}

impl Ip {
    /// With a TTL of 64 and all else 0.
    pub(crate) fn new(src: &str, dst: &str) -> Self {
        let (src, dst) = (src.parse().expect("an address"), dst.parse().expect("an address"));
        Self { src, dst, tos: 0, ttl: 64, ident: 0, fragment: 0, options: Vec::new(), flow: 0 }
    }

    /// The packet. In IPv6 the payload begins with the extension headers, if there are any.
    pub(crate) fn with(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let words = 5 + self.options.len() / 4;
                let mut header = vec![0x40 | words as u8, self.tos];
                header.extend(((words * 4 + payload.len()) as u16).to_be_bytes());
                header.extend(self.ident.to_be_bytes());
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.ttl, protocol, 0, 0]);
                header.extend(src.octets());
                header.extend(dst.octets());
                header.extend(&self.options);
                let checksum = !sum(&[&header]);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                [&header, payload].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let first = 6 << 28 | u32::from(self.tos) << 20 | self.flow;
                let mut header = first.to_be_bytes().to_vec();
                header.extend((payload.len() as u16).to_be_bytes());
                header.extend([protocol, self.ttl]);
                header.extend(src.octets());
                header.extend(dst.octets());
                [&header, payload].concat()
            }
            _ => panic!("addresses of two families"),
        }
    }

    /// The same in a frame.
    pub(crate) fn frame(&self, dst: Mac, src: Mac, protocol: u8, payload: &[u8]) -> Vec<u8> {
        ethernet(dst, src, self.ethertype(), &self.with(protocol, payload))
    }

    pub(crate) fn ethertype(&self) -> u16 {
        if self.src.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }
    }

    /// The sum of the pseudo header (RFC 768, RFC 8200 section 8.1).
    pub(crate) fn pseudo(&self, protocol: u8, length: usize) -> u16 {
        let octets = |ip| match ip {
            IpAddr::V4(v4) => Ipv4Addr::octets(&v4).to_vec(),
            IpAddr::V6(v6) => Ipv6Addr::octets(&v6).to_vec(),
        };
        sum(&[&octets(self.src), &octets(self.dst), &[0, protocol], &(length as u32).to_be_bytes()])
    }

    /// Puts the checksum of `segment` in its place in it.
    fn fill_in(&self, protocol: u8, segment: &mut [u8], at: usize) {
        let checksum = match !sum(&[&self.pseudo(protocol, segment.len()).to_be_bytes(), segment]) {
            0 => 0xffff,
            other => other,
        };
        segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// What stands in a UDP header's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// 0: there is none.
    Absent,
    Valid,
    /// The valid one with a bit turned over.
    Wrong,
}

/// A UDP header with its payload.
pub(crate) fn udp(ip: &Ip, ports: (u16, u16), checksum: Checksum, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut segment =
        [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload]
            .concat();
    if checksum != Checksum::Absent {
        ip.fill_in(UDP, &mut segment, 6);
    }
    if checksum == Checksum::Wrong {
        segment[6] ^= 0x10;
    }
    segment
}

/// A TCP header with its payload: `flags` as in its byte 13, 0x02 for SYN, 0x10 for ACK.
pub(crate) fn tcp(ip: &Ip, ports: (u16, u16), (sequence, flags): (u32, u8), payload: &[u8]) -> Vec<u8> {
    let mut segment = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    ip.fill_in(TCP, &mut segment, 16);
    segment
}

/// An ICMP or ICMPv6 message, as the addresses are.
pub(crate) fn icmp(ip: &Ip, (kind, code): (u8, u8), rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], &rest, body].concat();
    if ip.src.is_ipv4() {
        let checksum = !sum(&[&message]);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    } else {
        ip.fill_in(ICMPV6, &mut message, 2);
    }
    message
}

/// An echo request with its protocol number.
pub(crate) fn echo(ip: &Ip, ident: u16, sequence: u16, body: &[u8]) -> (u8, Vec<u8>) {
    let [a, b] = ident.to_be_bytes();
    let [c, d] = sequence.to_be_bytes();
    let (protocol, kind) = if ip.src.is_ipv4() { (ICMP, 8) } else { (ICMPV6, 128) };
    (protocol, icmp(ip, (kind, 0), [a, b, c, d], body))
}

/// An ARP message, from its hardware type on: operation 1 asks, 2 answers.
pub(crate) fn arp(operation: u16, sender: (Mac, &str), target: (Mac, &str)) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv4Addr>().expect("an address").octets();
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        message.extend(mac);
        message.extend(address(ip));
    }
    message
}

/// A neighbour solicitation (135) or advertisement (136) about `target`, with a link-layer address option. `ip` must
/// have a hop limit of 255 to be valid.
pub(crate) fn neighbour(ip: &Ip, kind: u8, flags: u8, target: &str, link_layer: Option<Mac>) -> Vec<u8> {
    let mut body = target.parse::<Ipv6Addr>().expect("an address").octets().to_vec();
    if let Some(mac) = link_layer {
        body.extend([if kind == 135 { 1 } else { 2 }, 1]);
        body.extend(mac);
    }
    icmp(ip, (kind, 0), [flags, 0, 0, 0], &body)
}

/// The outer headers of a VXLAN packet.
#[derive(Debug, Clone)]
pub(crate) struct Tunnel {
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    pub(crate) ip: Ip,
    /// UDP, source and destination.
    pub(crate) ports: (u16, u16),
    pub(crate) checksum: Checksum,
    /// The VXLAN header.
    pub(crate) vxlan: [u8; 8],
}

impl Tunnel {
    /// The frame with `inner` in it.
    pub(crate) fn with(&self, inner: &[u8]) -> Vec<u8> {
        let payload = [&self.vxlan[..], inner].concat();
        let segment = udp(&self.ip, self.ports, self.checksum, &payload);
        self.ip.frame(self.dst, self.src, UDP, &segment)
    }
}

/// The VXLAN header of a network.
pub(crate) fn vxlan(vni: u32) -> [u8; 8] {
    let [a, b, c, d] = (vni << 8).to_be_bytes();
    [0x08, 0, 0, 0, a, b, c, d]
}
