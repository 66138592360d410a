//! What routers say of packets that were too big for them: Fragmentation Needed and Packet Too Big.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::c_int;

use super::control::Control;
use super::{Name, UdpError, bind_to_device, failed, switch_on};
use crate::kernel::interface::IfName;
use crate::kernel::packet::Filter;
use crate::kernel::sys;

/// Socket options of a raw socket: linux/icmp.h and linux/icmpv6.h.
const ICMP_FILTER: c_int = 1;
const ICMPV6_FILTER: c_int = 1;
/// Types (RFC 792, RFC 4443).
const DESTINATION_UNREACHABLE: u32 = 3;
const PACKET_TOO_BIG: usize = 2;
/// A code.
const FRAGMENTATION_NEEDED: u8 = 4;
/// Bytes that may wait in the kernel: a few dozen messages. Routers repeat what was lost.
const RECEIVE_BUFFER: c_int = 64 << 10;

/// Messages of another code that are passed over at a time.
const TRIES: usize = 8;

/// A message about a packet that was too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpMessage {
    /// Of an IPv4 packet, in so many bytes from its IP header on.
    V4(usize),
    /// Of an ICMPv6 message, in so many bytes without IP header, whose addresses these are.
    V6 {
        /// Bytes.
        len: usize,
        /// Who says so.
        from: Ipv6Addr,
        /// To which of this host's addresses.
        to: Ipv6Addr,
    },
}

/// Receives such messages that come in by one interface. The kernel hears them too.
#[derive(Debug)]
pub struct IcmpRx {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
}

impl IcmpRx {
    /// Needs CAP_NET_RAW.
    pub fn open(interface: IfName) -> Result<Self, UdpError> {
        let v4 = raw(libc::AF_INET, libc::IPPROTO_ICMP, interface)?;
        let what = "a socket for ICMP";
        // The other codes are far more frequent where somebody scans.
        Filter::fragmentation_needed().attach(v4.as_fd()).map_err(failed(what, "attach a filter"))?;
        sys::set_option(v4.as_fd(), libc::SOL_RAW, ICMP_FILTER, &!(1u32 << DESTINATION_UNREACHABLE))
            .map_err(failed(what, "choose the messages"))?;
        let v6 = match raw(libc::AF_INET6, libc::IPPROTO_ICMPV6, interface) {
            Err(error) if error.is_without_family() => None,
            other => Some(other?),
        };
        if let Some(v6) = &v6 {
            // A set bit blocks.
            let mut block = [u32::MAX; 8];
            block[PACKET_TOO_BIG / 32] &= !(1 << (PACKET_TOO_BIG % 32));
            sys::set_option(v6.as_fd(), libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &block)
                .map_err(failed(what, "choose the messages"))?;
            switch_on(v6, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
                .map_err(failed(what, "ask for the address"))?;
        }
        Ok(Self { v4, v6 })
    }

    /// What is readable when there is a message.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten().map(|socket| socket.as_fd())
    }

    /// The next message, into `buffer`, whose rest is left as it is; what does not fit is cut off. Does not wait.
    pub fn next(&mut self, buffer: &mut [u8]) -> Option<IcmpMessage> {
        // What the filter does not pass may be there from before it was attached.
        for _ in 0..TRIES {
            let Ok((len, ..)) = receive(&self.v4, buffer) else { break };
            let at = buffer.first().map_or(0, |first| usize::from(first & 0xf) * 4);
            if buffer[..len].get(at + 1) == Some(&FRAGMENTATION_NEEDED) {
                return Some(IcmpMessage::V4(len));
            }
        }
        match receive(self.v6.as_ref()?, buffer) {
            Ok((len, Some(IpAddr::V6(from)), Some(IpAddr::V6(to)))) => {
                Some(IcmpMessage::V6 { len, from, to })
            }
            // Of ICMPv6 the kernel passes the one type, and tells both addresses.
            _ => None,
        }
    }
}

fn raw(family: c_int, protocol: c_int, interface: IfName) -> Result<OwnedFd, UdpError> {
    let what = "a socket for ICMP";
    let socket = sys::socket(family, libc::SOCK_RAW, protocol)
        .map_err(failed(what, "open it (this needs CAP_NET_RAW)"))?;
    bind_to_device(&socket, interface).map_err(failed(interface, "bind to the interface"))?;
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(RECEIVE_BUFFER / 2))
        .map_err(failed(what, "set the size of the receive buffer"))?;
    Ok(socket)
}

/// How many bytes, from whom and, over IPv6, to whom.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<IpAddr>, Option<IpAddr>)> {
    let (mut name, mut control) = (Name::NONE, Control::EMPTY);
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a C struct of pointers and numbers, for which zero is a value.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    message.msg_name = name.0.as_mut_ptr().cast();
    message.msg_namelen = name.0.len() as _;
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the message names live values of this function's, and the buffer that the caller lends.
    let len =
        sys::check_len(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })?;
    let told = control.read(message.msg_controllen);
    Ok((len, name.read().map(|from| from.ip()), told.to))
}
