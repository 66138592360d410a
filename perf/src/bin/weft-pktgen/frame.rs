//! Test frames: their headers, prepared once for each pair and size, and the traffic that is made of them.

use anyhow::{Result, bail, ensure};
use weft_switch::types::MacAddr;

use crate::plan::{Pair, Tunnel};
use crate::stamp::{MOST_FLOWS, PATTERN, Stamp};

/// Bytes of the frame check sequence, which no buffer has.
pub(crate) const FCS: usize = 4;
/// Beside the frame with its FCS a wire is taken for preamble and gap (IEEE 802.3).
pub(crate) const GAP: usize = 20;
/// The smallest frame, with FCS.
pub(crate) const SHORTEST: usize = 64;
/// The longest frame, with FCS.
pub(crate) const LONGEST: usize = 9216;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const VXLAN: usize = 8;
/// What a tunnel puts in front.
pub(crate) const OUTER: usize = ETHERNET + IPV4 + UDP + VXLAN;
const HEADERS: usize = ETHERNET + IPV4 + UDP;

const _: () = assert!(HEADERS + Stamp::LEN + FCS == SHORTEST);

/// UDP source ports that flows have.
const FIRST_PORT: u16 = 1024;
const PORTS: u32 = 60_000;
/// The ephemeral source ports of the tunnel (RFC 7348, section 5).
const TUNNEL_PORTS: u16 = 0xc000;

/// What is sent, apart from when.
pub(crate) struct Traffic {
    pub(crate) flows: u32,
    pub(crate) pairs: Vec<Pair>,
    /// Lengths with FCS, of inner frames where there is a tunnel.
    pub(crate) sizes: Vec<usize>,
    /// UDP destination port of the first flow.
    pub(crate) port: u16,
    /// UDP destination port of tunnels.
    pub(crate) vxlan_port: u16,
    /// Common to sender and receiver.
    pub(crate) key: u64,
}

/// Prepared headers, up to the inner UDP header.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Template {
    bytes: [u8; OUTER + HEADERS],
    headers: u8,
    /// The whole frame, without FCS.
    len: u16,
}

impl Traffic {
    /// Checks that it can be made.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!((1..=MOST_FLOWS).contains(&self.flows), "--flows must be 1 to {MOST_FLOWS}");
        let ports = self.port_numbers();
        if u32::from(self.port) + ports - 1 > u16::MAX.into() {
            let most = u32::from(u16::MAX) - ports + 1;
            bail!(
                "{} flows between {} pairs need {ports} destination ports: --udp-port must be {most} or less",
                self.flows,
                self.pairs.len()
            );
        }
        let taken = self.port..=self.port + (ports - 1) as u16;
        ensure!(
            !taken.contains(&self.vxlan_port),
            "--udp-port: flows would have port {}, by which tunnels are known; choose another, or another --vxlan-port",
            self.vxlan_port
        );
        Ok(())
    }

    /// How many UDP destination ports its flows have.
    fn port_numbers(&self) -> u32 {
        (self.flows - 1) / self.pairs.len() as u32 / PORTS + 1
    }

    /// The pair of a flow, and its UDP ports.
    #[inline]
    pub(crate) fn flow(&self, flow: u32) -> (usize, u16, u16) {
        let pairs = self.pairs.len() as u32;
        let (pair, number) = (flow % pairs, flow / pairs);
        (pair as usize, FIRST_PORT + (number % PORTS) as u16, self.port + (number / PORTS) as u16)
    }

    /// Whether flows have these UDP ports.
    #[inline]
    pub(crate) fn has_ports(&self, src: u16, dst: u16) -> bool {
        let sources = u32::from(src.wrapping_sub(FIRST_PORT)) < PORTS;
        sources && u32::from(dst.wrapping_sub(self.port)) < self.port_numbers()
    }

    /// The longest frame as it is sent, without FCS.
    pub(crate) fn longest(&self) -> usize {
        let outer = if self.pairs.iter().any(|pair| pair.tunnel.is_some()) { OUTER } else { 0 };
        self.sizes.iter().max().map_or(0, |size| size - FCS) + outer
    }

    /// The headers of every pair in every size: those of one pair follow each other.
    pub(crate) fn templates(&self) -> Vec<Template> {
        let each =
            |pair: &Pair| self.sizes.iter().map(|size| Template::new(self, pair, *size)).collect::<Vec<_>>();
        self.pairs.iter().flat_map(each).collect()
    }
}

impl Template {
    fn new(traffic: &Traffic, pair: &Pair, size: usize) -> Self {
        let inner = size - FCS;
        let mut bytes = [0; OUTER + HEADERS];
        let start = match &pair.tunnel {
            None => 0,
            Some(Tunnel { src_mac, dst_mac, src, dst, vni }) => {
                let udp = inner + VXLAN;
                udp_headers(&mut bytes, (*src_mac, *dst_mac), (src.octets(), dst.octets()), udp);
                bytes[36..38].copy_from_slice(&traffic.vxlan_port.to_be_bytes());
                // "The VNI is there", and it.
                bytes[42] = 8;
                bytes[46..49].copy_from_slice(&vni.get().to_be_bytes()[1..]);
                OUTER
            }
        };
        let ips = (pair.src.octets(), pair.dst.octets());
        udp_headers(&mut bytes[start..], (pair.src_mac, pair.dst_mac), ips, inner - HEADERS);
        Self { bytes, headers: (start + HEADERS) as u8, len: (start + inner) as u16 }
    }

    /// The frame's length, without FCS.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len.into()
    }

    /// Makes a flow's frame in a buffer of [`Self::len`] bytes.
    #[inline]
    pub(crate) fn fill(&self, frame: &mut [u8], ports: (u16, u16), stamp: &Stamp, key: u64) {
        let headers = usize::from(self.headers);
        let Some((head, payload)) = frame.split_at_mut_checked(headers) else { return };
        head.copy_from_slice(&self.bytes[..headers]);
        if headers > HEADERS {
            head[34..36].copy_from_slice(&(TUNNEL_PORTS | stamp.flow as u16).to_be_bytes());
        }
        let [.., a, b, c, d, _, _, _, _] = head else { return };
        [*a, *b] = ports.0.to_be_bytes();
        [*c, *d] = ports.1.to_be_bytes();
        let Some((words, rest)) = payload.split_first_chunk_mut() else { return };
        stamp.write(key, words);
        rest.copy_from_slice(&PATTERN[..rest.len()]);
    }
}

/// Ethernet, IPv4 (TTL 64, don't fragment) and UDP without ports and without a checksum, before `payload` bytes.
fn udp_headers(bytes: &mut [u8], macs: (MacAddr, MacAddr), ips: ([u8; 4], [u8; 4]), payload: usize) {
    let (ethernet, rest) = bytes.split_at_mut(ETHERNET);
    ethernet[0..6].copy_from_slice(&macs.1.0);
    ethernet[6..12].copy_from_slice(&macs.0.0);
    ethernet[12..14].copy_from_slice(&[0x08, 0x00]);
    let (ip, udp) = rest.split_at_mut(IPV4);
    ip.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[2..4].copy_from_slice(&((IPV4 + UDP + payload) as u16).to_be_bytes());
    ip[12..16].copy_from_slice(&ips.0);
    ip[16..20].copy_from_slice(&ips.1);
    let sum = !sum16(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    udp[4..6].copy_from_slice(&((UDP + payload) as u16).to_be_bytes());
}

/// The ones' complement sum over whole words (RFC 1071): 0xffff over a header with a right checksum.
#[inline]
pub(crate) fn sum16(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Bytes of an ARP request, without FCS.
pub(crate) const ARP: usize = SHORTEST - FCS;

/// A question of the pair's sender for its receiver (RFC 826).
#[inline]
pub(crate) fn fill_arp(frame: &mut [u8; ARP], pair: &Pair) {
    *frame = [0; ARP];
    frame[0..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&pair.src_mac.0);
    frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&pair.src_mac.0);
    frame[28..32].copy_from_slice(&pair.src.octets());
    frame[38..42].copy_from_slice(&pair.dst.octets());
}
