//! Internet checksums word by word, as RFC 1071 writes them down.

use std::net::IpAddr;

/// The folded sum of all bytes, an odd one at the end padded with zero. 0xffff over bytes whose checksum is right.
pub fn folded(bytes: &[u8]) -> u16 {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The bytes of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) before `len` bytes of `protocol`.
/// Empty where the addresses are of two families.
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let len = (len as u32).to_be_bytes();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            [&src.octets()[..], &dst.octets(), &[0, protocol], &len[2..]].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            [&src.octets()[..], &dst.octets(), &len, &[0, 0, 0, protocol]].concat()
        }
        _ => Vec::new(),
    }
}

/// True when the checksum in `message`, an upper-layer header with its payload, is right.
pub fn is_right(src: IpAddr, dst: IpAddr, protocol: u8, message: &[u8]) -> bool {
    let before = if protocol == 1 { Vec::new() } else { pseudo(src, dst, protocol, message.len()) };
    folded(&[&before[..], message].concat()) == 0xffff
}

/// Where the checksum of an upper-layer protocol stands, from its header's start. `None` for one without, or with
/// another kind of sum.
pub fn field(protocol: u8) -> Option<usize> {
    match protocol {
        1 | 58 => Some(2),
        6 => Some(16),
        17 => Some(6),
        _ => None,
    }
}

/// Makes the checksum of the IPv4 header at `at` right, so that whatever else is wrong in it is looked at. Nothing
/// happens where there is no such header.
pub fn mend_ipv4(bytes: &mut [u8], at: usize) {
    let Some(header) = bytes.get_mut(at..) else { return };
    let Some(len) = header.first().filter(|first| **first >> 4 == 4).map(|first| usize::from(first & 15) * 4)
    else {
        return;
    };
    let Some(header) = header.get_mut(..len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let checksum = !folded(header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}
