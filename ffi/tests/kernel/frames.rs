//! Frames to send and what is read from frames.

use weft_ffi::kernel::VnetHdr;

use crate::lab::{MAC_A, MAC_B};

pub(crate) const NO_OFFLOAD: VnetHdr = [0; 10];
pub(crate) const IP_A: [u8; 4] = [10, 9, 0, 1];
pub(crate) const IP_B: [u8; 4] = [10, 9, 0, 2];
/// Ethernet, IPv4 and UDP headers.
pub(crate) const UDP_HEADERS: usize = 14 + 20 + 8;

/// The fields of a virtio-net header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vnet {
    pub(crate) needs_checksum: bool,
    pub(crate) gso_type: u8,
    pub(crate) gso_size: u16,
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
}

pub(crate) const GSO_TCP4: u8 = 1;
pub(crate) const GSO_UDP: u8 = 5;

pub(crate) fn read_vnet(header: VnetHdr) -> Vnet {
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    Vnet {
        needs_checksum: header[0] & 1 != 0,
        gso_type: header[1] & 0x7f,
        gso_size: field(4),
        csum_start: field(6),
        csum_offset: field(8),
    }
}

/// The header of a UDP frame whose checksum is not filled in, to be cut into `gso_size` if that is not 0.
pub(crate) fn partial_udp(gso_size: u16) -> VnetHdr {
    let mut header = NO_OFFLOAD;
    header[0] = 1;
    if gso_size > 0 {
        header[1] = GSO_UDP;
        header[2..4].copy_from_slice(&(UDP_HEADERS as u16).to_ne_bytes());
        header[4..6].copy_from_slice(&gso_size.to_ne_bytes());
    }
    header[6..8].copy_from_slice(&34u16.to_ne_bytes());
    header[8..10].copy_from_slice(&6u16.to_ne_bytes());
    header
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A UDP datagram from A to B; in its checksum is the pseudo-header's sum.
pub(crate) fn udp_to_b(from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    udp((MAC_A, IP_A, from_port), (MAC_B, IP_B, to_port), payload)
}

pub(crate) type Address = ([u8; 6], [u8; 4], u16);

pub(crate) fn udp(from: Address, to: Address, payload: &[u8]) -> Vec<u8> {
    let udp_len = 8 + payload.len() as u16;
    let mut frame = Vec::new();
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + udp_len).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(from.1);
    frame.extend(to.1);
    let checksum = !fold(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(from.2.to_be_bytes());
    frame.extend(to.2.to_be_bytes());
    frame.extend(udp_len.to_be_bytes());
    let pseudo = fold(sum(&from.1) + sum(&to.1) + 17 + u32::from(udp_len));
    frame.extend(pseudo.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The destination port of an IPv4 frame without options.
pub(crate) fn to_port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[36], frame[37]])
}

/// The source port of an IPv4 frame without options.
pub(crate) fn from_port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}
