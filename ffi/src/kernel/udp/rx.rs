//! Receiving: many messages with one system call, each straight into the caller's buffers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use libc::c_int;

use super::control::Control;
use super::{Name, UdpError, bind_to_device, failed, switch_on};
use crate::kernel::interface::IfName;
use crate::kernel::sys;

/// Messages that are received with one call at most.
pub const RX_BATCH: usize = 64;

/// Bytes that may wait in the kernel, with its own overhead: some thousand small packets, or some milliseconds of a fast stream.
const RECEIVE_BUFFER: c_int = 16 << 20;
/// `SO_MEMINFO` and the place of the drops in what it says (linux/sock_diag.h).
const SO_MEMINFO: c_int = 55;
const MEMINFO_DROPS: usize = 8;

/// A message that has come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Who sent it.
    pub from: SocketAddr,
    /// The address that it was sent to.
    pub to: IpAddr,
    /// The TOS byte, or the traffic class.
    pub tos: u8,
    /// Bytes that are in the buffers.
    pub len: usize,
    /// It is several datagrams of this many bytes each, but for the last, which may be shorter, one behind the other.
    pub segment: Option<u16>,
    /// The buffers were too short for it; the rest is lost.
    pub truncated: bool,
}

/// Receives what comes for one UDP port by one interface, over IPv4 and, where the kernel has it, IPv6.
#[derive(Debug)]
pub struct UdpRx {
    socket: OwnedFd,
    /// What the kernel had dropped when it was asked last.
    dropped: u32,
    calls: Calls,
}

/// What the kernel reads and writes during a call. The pointers in it are valid only within `recv`.
struct Calls {
    names: Vec<Name>,
    controls: Vec<Control>,
    pieces: Vec<libc::iovec>,
    piece_counts: Vec<usize>,
    messages: Vec<libc::mmsghdr>,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

// SAFETY: the pointers are followed only within `recv`, which fills the lists anew and needs `&mut self`.
unsafe impl Send for Calls {}

impl UdpRx {
    /// So many sockets (one at least) on `port`, among which the kernel spreads the flows that come in by `interface`.
    pub fn open(interface: IfName, port: u16, count: usize) -> Result<Vec<Self>, UdpError> {
        let first = match Self::bind(libc::AF_INET6, interface, port, false) {
            Err(error) if error.is_without_family() => None,
            other => Some(other?),
        };
        let family = if first.is_some() { libc::AF_INET6 } else { libc::AF_INET };
        let first = match first {
            Some(first) => first,
            None => Self::bind(family, interface, port, false)?,
        };
        // Only now: the first one found that nobody has the port, not even one who would share it.
        switch_on(&first.socket, libc::SOL_SOCKET, libc::SO_REUSEPORT)
            .map_err(failed(format_args!("UDP port {port}"), "share it among the workers"))?;
        let others = (1..count).map(|_| Self::bind(family, interface, port, true));
        std::iter::once(Ok(first)).chain(others).collect()
    }

    fn bind(family: c_int, interface: IfName, port: u16, shared: bool) -> Result<Self, UdpError> {
        let what = format!("UDP port {port} on {interface}");
        let what = what.as_str();
        let socket = sys::socket(family, libc::SOCK_DGRAM, 0).map_err(failed(what, "open a socket"))?;
        let fd = socket.as_fd();
        bind_to_device(&socket, interface).map_err(failed(what, "bind to the interface"))?;
        if shared {
            switch_on(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT).map_err(failed(what, "share it"))?;
        }
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(RECEIVE_BUFFER / 2))
            .map_err(failed(what, "set the size of the receive buffer"))?;
        switch_on(&socket, libc::SOL_UDP, libc::UDP_GRO)
            .map_err(failed(what, "have packets put together (Linux 5.0)"))?;
        switch_on(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS)
            .map_err(failed(what, "ask for the TOS byte"))?;
        let bound = if family == libc::AF_INET6 {
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &(0 as c_int))
                .map_err(failed(what, "take IPv4 in"))?;
            switch_on(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
                .map_err(failed(what, "ask for the address"))?;
            switch_on(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)
                .map_err(failed(what, "ask for the traffic class"))?;
            let mut any = sys::zeroed::<libc::sockaddr_in6>();
            any.sin6_family = libc::AF_INET6 as _;
            any.sin6_port = port.to_be();
            sys::bind(fd, &any)
        } else {
            switch_on(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO)
                .map_err(failed(what, "ask for the address"))?;
            let mut any = sys::zeroed::<libc::sockaddr_in>();
            any.sin_family = libc::AF_INET as _;
            any.sin_port = port.to_be();
            sys::bind(fd, &any)
        };
        bound.map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => UdpError::InUse(port),
            _ => failed(what, "bind to it")(source),
        })?;
        let calls = Calls {
            names: vec![Name::NONE; RX_BATCH],
            controls: vec![Control::EMPTY; RX_BATCH],
            pieces: Vec::with_capacity(RX_BATCH * 4),
            piece_counts: Vec::with_capacity(RX_BATCH),
            messages: Vec::with_capacity(RX_BATCH),
        };
        Ok(Self { socket, dropped: 0, calls })
    }

    /// Receives into these buffers, a list of pieces for each message ([`RX_BATCH`] messages at most), without waiting. Tells
    /// what has come in message by message, with its place in `buffers`, and returns how many that was. `None` is a message
    /// that the kernel did not say all of.
    ///
    /// # Errors
    /// Only of the socket itself; nothing to receive is 0.
    pub fn recv<'a, M>(
        &mut self,
        buffers: impl IntoIterator<Item = M>,
        mut each: impl FnMut(usize, Option<Received>),
    ) -> io::Result<usize>
    where
        M: IntoIterator<Item = &'a mut [u8]>,
    {
        let count = self.calls.gather(buffers);
        if count == 0 {
            return Ok(0);
        }
        let calls = &mut self.calls;
        let received = loop {
            // SAFETY: the messages name live addresses, control data and pieces, the pieces bytes that the caller lends for
            // the whole of this function; nothing has moved since `gather`. No timeout is given.
            let received = sys::check(unsafe {
                libc::recvmmsg(
                    self.socket.as_raw_fd(),
                    calls.messages.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            });
            match received {
                Ok(received) => break received as usize,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => break 0,
                    _ => {
                        calls.forget();
                        return Err(error);
                    }
                },
            }
        };
        let heads = calls.messages.iter().zip(&calls.names).zip(&calls.controls).take(received);
        for (index, ((message, name), control)) in heads.enumerate() {
            let told = control.read(message.msg_hdr.msg_controllen);
            let addresses = name.read().zip(told.to);
            let received = addresses.map(|(from, to)| Received {
                from,
                to,
                tos: told.tos,
                len: message.msg_len as usize,
                segment: told.segment,
                truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            });
            each(index, received);
        }
        calls.forget();
        Ok(received)
    }

    /// Packets that the kernel has thrown away since this was asked last, most of them because nobody fetched them in time.
    pub fn take_dropped(&mut self) -> u32 {
        let info: io::Result<[u32; 9]> = sys::get_option(self.socket.as_fd(), libc::SOL_SOCKET, SO_MEMINFO);
        let now = info.map_or(self.dropped, |info| info[MEMINFO_DROPS]);
        let dropped = now.wrapping_sub(self.dropped);
        self.dropped = now;
        dropped
    }
}

impl Calls {
    /// Lists up to [`RX_BATCH`] messages for the kernel.
    fn gather<'a, M>(&mut self, buffers: impl IntoIterator<Item = M>) -> usize
    where
        M: IntoIterator<Item = &'a mut [u8]>,
    {
        // A panic of the caller's may have left something behind.
        self.forget();
        for pieces in buffers.into_iter().take(RX_BATCH) {
            let before = self.pieces.len();
            self.pieces.extend(
                pieces
                    .into_iter()
                    .map(|piece| libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() }),
            );
            self.piece_counts.push(self.pieces.len() - before);
        }
        // Only now, since the list of pieces may have moved while it grew.
        let mut rest = self.pieces.as_mut_slice();
        let places = self.piece_counts.iter().zip(&mut self.names).zip(&mut self.controls);
        for ((count, name), control) in places {
            let (mine, others) = rest.split_at_mut(*count);
            rest = others;
            // SAFETY: a C struct of pointers and numbers, for which zero is a value.
            let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
            message.msg_name = name.0.as_mut_ptr().cast();
            message.msg_namelen = name.0.len() as _;
            message.msg_iov = mine.as_mut_ptr();
            message.msg_iovlen = mine.len() as _;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = control.0.len() as _;
            self.messages.push(libc::mmsghdr { msg_hdr: message, msg_len: 0 });
        }
        self.messages.len()
    }

    /// No pointer outlives the borrow of the buffers.
    fn forget(&mut self) {
        self.messages.clear();
        self.pieces.clear();
        self.piece_counts.clear();
    }
}

impl AsFd for UdpRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
