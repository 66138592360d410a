//! Control data: what goes with a message beside its bytes (cmsg(3)), read and written as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::c_int;

/// Bytes of control data for one message; more than is ever asked for.
const ROOM: usize = 128;
/// Length, level and type.
const HEADER: usize = size_of::<libc::cmsghdr>();
/// Each entry begins at a multiple of this.
const ALIGN: usize = size_of::<usize>();

/// The control data of one message.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; ROOM]);

/// What the kernel says of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    /// The address that it was sent to.
    pub(super) to: Option<IpAddr>,
    /// The TOS byte, or the traffic class.
    pub(super) tos: u8,
    /// The size of the datagrams that it was made of.
    pub(super) segment: Option<u16>,
}

impl Control {
    pub(super) const EMPTY: Self = Self([0; ROOM]);

    /// Writes an entry at `at`, and says where the next one goes. There must be room.
    fn put(&mut self, at: usize, level: c_int, kind: c_int, data: &[u8]) -> usize {
        let end = at + HEADER + data.len();
        let entry = &mut self.0[at..end];
        entry[..ALIGN].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        entry[ALIGN..ALIGN + 4].copy_from_slice(&level.to_ne_bytes());
        entry[ALIGN + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        entry[HEADER..].copy_from_slice(data);
        end.next_multiple_of(ALIGN)
    }

    /// To be sent from this address with this TOS byte or traffic class; how many bytes that takes.
    pub(super) fn sender(&mut self, from: IpAddr, tos: u8) -> usize {
        let (at, level, kind) = match from {
            // `struct in_pktinfo`: the interface's number, which the route gives, the source address, and one that only the
            // kernel writes.
            IpAddr::V4(v4) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&v4.octets());
                (self.put(0, libc::IPPROTO_IP, libc::IP_PKTINFO, &info), libc::IPPROTO_IP, libc::IP_TOS)
            }
            // `struct in6_pktinfo`: the address and the interface's number.
            IpAddr::V6(v6) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&v6.octets());
                let at = self.put(0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
                (at, libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            }
        };
        self.put(at, level, kind, &c_int::from(tos).to_ne_bytes())
    }

    /// And to be cut into datagrams of this size; `at` is what [`Self::sender`] said.
    pub(super) fn segments(&mut self, at: usize, size: u16) -> usize {
        self.put(at, libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes())
    }

    /// Reads what the kernel has written, `len` bytes of it.
    pub(super) fn read(&self, len: usize) -> Told {
        let mut told = Told::default();
        let mut rest = &self.0[..len.min(ROOM)];
        while let Some((header, _)) = rest.split_at_checked(HEADER) {
            let length = header.first_chunk().map_or(0, |bytes| usize::from_ne_bytes(*bytes));
            let [level, kind] = [ALIGN, ALIGN + 4].map(|at| number(&header[at..]));
            let Some(data) = rest.get(HEADER..length) else { break };
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let to = data.get(8..12).and_then(|bytes| bytes.first_chunk::<4>());
                    told.to = to.map(|octets| Ipv4Addr::from(*octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let to = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
                    told.to = to.map(|to| to.to_ipv4_mapped().map_or(to.into(), IpAddr::V4));
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => told.tos = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => told.tos = number(data) as u8,
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    told.segment = u16::try_from(number(data)).ok().filter(|size| *size > 0);
                }
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        }
        told
    }
}

/// The first four bytes as a number of the machine's; 0 where there are fewer.
fn number(bytes: &[u8]) -> c_int {
    bytes.first_chunk().map_or(0, |bytes| c_int::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells() {
        let mut control = Control::EMPTY;
        let mut info = [0; 20];
        info[..16].copy_from_slice(&"::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets());
        let at = control.put(0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        let at = control.put(at, libc::IPPROTO_IP, libc::IP_TOS, &[3]);
        let end = control.put(at, libc::SOL_UDP, libc::UDP_GRO, &1398i32.to_ne_bytes());
        let told = Told { to: Some([192, 0, 2, 1].into()), tos: 3, segment: Some(1398) };
        assert_eq!(control.read(end), told);
        assert_eq!(control.read(at), Told { segment: None, ..told });
        // Cut off anywhere: what is whole counts.
        for len in 0..end {
            control.read(len);
        }
        assert_eq!(control.read(usize::MAX), told);
        assert_eq!(Control([0xff; ROOM]).read(ROOM), Told::default());
    }

    #[test]
    fn what_a_sender_says_is_laid_out_as_the_kernels() {
        let mut control = Control::EMPTY;
        let end = control.sender([192, 0, 2, 1].into(), 2);
        assert_eq!((end, control.segments(end, 1398)), (32 + 24, 32 + 24 + 24));
        assert_eq!(control.read(end).tos, 2);
        let end = control.sender("2001:db8::1".parse().unwrap(), 1);
        assert_eq!(end, 40 + 24);
        assert_eq!(control.read(end), Told { to: Some("2001:db8::1".parse().unwrap()), tos: 1, segment: None });
    }
}
