//! Transport checksums in software, over chains.

use std::net::Ipv6Addr;

use super::layout::{UDP, bytes_at};
use super::{Checksum, Offload, sum_of};
use crate::drop_reason::DropReason;
use crate::packet::PacketBuf;
use crate::wire::checksum::{Sum, udp_never_zero};
use crate::wire::ip::IpProtocol;

/// Fills in a [`Checksum::Partial`] and sets the state to [`Checksum::Unverified`]; leaves every other state as it is.
/// A result of 0 is written as 0xffff, which means the same to a sum and is what UDP demands (RFC 768); the kernel
/// does so for every protocol (`skb_checksum_help`).
///
/// A GSO frame is left as it is: [`super::segment`] fills in the checksums of what it is cut into.
///
/// # Errors
/// [`DropReason::ChecksumPlace`] when the field is not in the packet.
pub fn complete(buf: &mut impl PacketBuf) -> Result<(), DropReason> {
    let Offload { checksum: Checksum::Partial { start, offset }, gso: None } = buf.offload() else {
        return Ok(());
    };
    let start = usize::from(start);
    let place = start + usize::from(offset);
    if place + 2 > buf.len() {
        return Err(DropReason::ChecksumPlace);
    }
    let checksum = udp_never_zero(sum_of(buf, start, buf.len() - start).checksum());
    if !buf.write_at(place, &checksum.to_be_bytes()) {
        return Err(DropReason::ChecksumPlace);
    }
    buf.set_offload(Offload { checksum: Checksum::Unverified, gso: None });
    Ok(())
}

/// Whether the checksum of the UDP packet is right, whose IP header begins at `ip` and whose UDP header at `udp`. 0 is
/// right over IPv4, where it means that there is none (RFC 768), and wrong over IPv6 (RFC 8200, section 8.1). False also
/// when the headers or the UDP length do not fit the frame.
///
/// Looks at the bytes only in state [`Checksum::Unverified`]. `Verified` means that the interface has looked. A
/// frame in state `Partial` comes from this machine's memory; its checksums, inner and outer, are not filled in.
pub fn udp_checksum_ok(buf: &impl PacketBuf, ip: usize, udp: usize) -> bool {
    buf.offload().checksum != Checksum::Unverified || sums_up(buf, ip, udp).unwrap_or(false)
}

/// Whether the checksum of the ICMP message between `start` and `end` is right; ICMPv6's is also over the addresses. Always
/// looks: interfaces check TCP and UDP, and who sends ICMP fills it in.
pub fn icmp_checksum_ok(
    buf: &impl PacketBuf,
    start: usize,
    end: usize,
    v6: Option<(Ipv6Addr, Ipv6Addr)>,
) -> bool {
    let len = end.saturating_sub(start);
    let pseudo = v6.map_or(Sum::new(), |(src, dst)| Sum::pseudo_v6(src, dst, IpProtocol::ICMPV6, len));
    end <= buf.len() && pseudo.add_sum(sum_of(buf, start, len)).fold() == 0xffff
}

fn sums_up(buf: &impl PacketBuf, ip: usize, udp: usize) -> Option<bool> {
    let header: [u8; 8] = bytes_at(buf, udp)?;
    let length = u16::from_be_bytes([header[4], header[5]]);
    if length < 8 || udp + usize::from(length) > buf.len() {
        return None;
    }
    let v6 = match bytes_at::<1>(buf, ip)?[0] >> 4 {
        4 => false,
        6 => true,
        _ => return None,
    };
    if header[6..8] == [0, 0] {
        return Some(!v6);
    }
    let mut sum = sum_of(buf, udp, length.into());
    if length % 2 == 1 {
        // The last word is filled up with a zero byte.
        sum = sum.add(&[0]);
    }
    sum = if v6 { sum.add(&bytes_at::<32>(buf, ip + 8)?) } else { sum.add(&bytes_at::<8>(buf, ip + 12)?) };
    Some(sum.add_u16(UDP.into()).add_u16(length).fold() == 0xffff)
}
