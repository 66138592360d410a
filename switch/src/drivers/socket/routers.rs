//! What routers say of packets that were too big for them, as frames like others that come in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::event::{Epoll, Interest};
use weft_ffi::kernel::udp::{IcmpMessage, IcmpRx};

use super::{MACS, TTL, put_addresses};
use crate::drivers::NativePool;
use crate::packet::BufPool;
use crate::port::RxLoss;
use crate::wire::ethernet::ETHERNET_LEN;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv6::IPV6_LEN;

/// Messages that are taken at a time.
const HEARD_AT_ONCE: usize = 4;
/// An ICMP message quotes no more than this.
const ICMP_LONGEST: usize = 1500;

/// What they say is one worker's to hear.
pub(super) struct Routers {
    icmp: IcmpRx,
    /// Stands for its sockets and the tunnel's.
    any: Epoll,
    /// To be looked at in the next poll.
    look: bool,
}

impl Routers {
    /// Heard by these sockets, beside the tunnel's own.
    pub(super) fn new(icmp: IcmpRx, tunnel: BorrowedFd<'_>) -> io::Result<Self> {
        let any = Epoll::new()?;
        for fd in icmp.fds().chain([tunnel]) {
            any.add(fd, 0, Interest::Read)?;
        }
        Ok(Self { icmp, any, look: true })
    }

    /// Has them be listened to in the next poll.
    pub(super) fn look(&mut self) {
        self.look = true;
    }

    /// Takes what they say, if it is time to.
    pub(super) fn hear(&mut self, pool: &mut NativePool, loss: &mut RxLoss, mut give: impl FnMut(Mbuf)) {
        if !std::mem::take(&mut self.look) {
            return;
        }
        let mut buffer = [0; ICMP_LONGEST];
        for _ in 0..HEARD_AT_ONCE {
            let Some(message) = self.icmp.next(&mut buffer) else { return };
            let (headers, len) = headers_of(message);
            let Some(mut packet) = pool.alloc(headers.len() + len) else {
                loss.no_buffer += 1;
                continue;
            };
            packet.write_at(0, &headers);
            packet.write_at(headers.len(), &buffer[..len]);
            give(packet);
        }
        // There may be more.
        self.look = true;
    }
}

impl AsFd for Routers {
    /// Readable when there is something of theirs or of the tunnel's.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }
}

/// What goes before a router's message to make a frame of it, and how long the message is.
fn headers_of(message: IcmpMessage) -> (ArrayVec<u8, { ETHERNET_LEN + IPV6_LEN }>, usize) {
    let mut headers = ArrayVec::from([0; ETHERNET_LEN + IPV6_LEN]);
    headers[..12].copy_from_slice(&MACS);
    match message {
        IcmpMessage::V4(len) => {
            headers[12..14].copy_from_slice(&[0x08, 0x00]);
            headers.truncate(ETHERNET_LEN);
            (headers, len)
        }
        IcmpMessage::V6 { len, from, to } => {
            headers[12..14].copy_from_slice(&[0x86, 0xdd]);
            let ip = &mut headers[ETHERNET_LEN..];
            (ip[0], ip[6], ip[7]) = (0x60, IpProtocol::ICMPV6.0, TTL);
            ip[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            put_addresses(ip, from, to);
            (headers, len)
        }
    }
}
