//! Receiving: many messages with one system call, each straight into the caller's buffers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::c_int;

use super::batch::{Batch, Dropped, to_write};
use super::control::Control;
use super::{Name, UdpError, bind_to_device, failed, not_bound, share, switch_on};
use crate::kernel::interface::IfName;
use crate::kernel::sys;

/// Messages that are received with one call at most.
pub const RX_BATCH: usize = 64;

/// Bytes that may wait in the kernel, with its own overhead: some thousand small packets, or some milliseconds of a fast stream.
const RECEIVE_BUFFER: c_int = 16 << 20;

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
    dropped: Dropped,
    calls: Calls,
}

/// What the kernel reads and writes during a call.
struct Calls {
    names: Vec<Name>,
    controls: Vec<Control>,
    batch: Batch,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

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
        share(&first.socket, port)?;
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
        bound.map_err(not_bound(port, what, "bind to it"))?;
        let calls = Calls {
            names: vec![Name::NONE; RX_BATCH],
            controls: vec![Control::EMPTY; RX_BATCH],
            batch: Batch::new(RX_BATCH, RX_BATCH * 4),
        };
        Ok(Self { socket, dropped: Dropped::default(), calls })
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
        // SAFETY: the messages name live addresses, control data and pieces, the pieces bytes that the caller lends for
        // the whole of this function; nothing has moved since `gather`.
        let received = unsafe { calls.batch.receive(self.socket.as_fd()) }?;
        let heads = calls.batch.messages.iter().zip(&calls.names).zip(&calls.controls).take(received);
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
        calls.batch.forget();
        Ok(received)
    }

    /// Packets that the kernel has thrown away since this was asked last, most of them because nobody fetched them in time.
    pub fn take_dropped(&mut self) -> u32 {
        self.dropped.take(&self.socket)
    }
}

impl Calls {
    /// Lists up to [`RX_BATCH`] messages for the kernel.
    fn gather<'a, M>(&mut self, buffers: impl IntoIterator<Item = M>) -> usize
    where
        M: IntoIterator<Item = &'a mut [u8]>,
    {
        self.batch.forget();
        for pieces in buffers.into_iter().take(RX_BATCH) {
            self.batch.add(|all| all.extend(pieces.into_iter().map(to_write)));
        }
        let places = self.names.iter_mut().zip(&mut self.controls);
        self.batch.list(places, |message, (name, control)| {
            message.msg_name = name.0.as_mut_ptr().cast();
            message.msg_namelen = name.0.len() as _;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = control.0.len() as _;
        })
    }
}

impl AsFd for UdpRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
