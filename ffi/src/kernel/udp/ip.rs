//! Sockets of a tunnel of plain IPv4 packets: each is a datagram between two UDP ports of the same number, or the payload of an IPv4
//! packet (RFC 2003) whose header the caller makes.
//!
//! Datagrams are sent from the socket that they come in by, so their source port is the tunnel's. Of packets in packets every raw
//! socket gets a copy: only one receives.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::c_int;

use super::batch::{Batch, Dropped, to_read, to_write};
use super::{Name, PMTUDISC_INTERFACE, UdpError, bind_to_device, failed, not_bound, share, switch_on};
use crate::kernel::interface::IfName;
use crate::kernel::sys;

/// Messages that go to or come from the kernel with one call at most.
pub const IP_BATCH: usize = 64;

/// Bytes that may wait in the kernel each way, with its own overhead.
const BUFFER: c_int = 8 << 20;
/// IPv4 in IPv4.
const IPPROTO_IPIP: c_int = 4;

/// What the packets are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpCarrier {
    /// Datagrams between ports of this number.
    Udp(u16),
    /// IPv4 packets: what comes in has its outer header, and what is sent must have it.
    Ipip,
}

/// A message that has come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpReceived {
    /// Who sent it.
    pub from: Ipv4Addr,
    /// Bytes that are in the buffers.
    pub len: usize,
    /// The buffers were too short for it; the rest is lost.
    pub truncated: bool,
}

/// Receives what comes for this node by one interface.
#[derive(Debug)]
pub struct IpRx {
    socket: OwnedFd,
    dropped: Dropped,
    calls: Calls,
}

/// Sends to other nodes by one interface.
#[derive(Debug)]
pub struct IpTx {
    socket: OwnedFd,
    /// The receivers'; 0 where there are no ports.
    port: u16,
    calls: Calls,
}

/// What the kernel reads and writes during a call.
struct Calls {
    names: Vec<Name>,
    batch: Batch,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

/// The queues of so many workers (one at least) at this node's address `own`, by `interface`. Needs CAP_NET_RAW.
///
/// # Errors
/// Somebody has the port, or the kernel refuses a step.
pub fn open_ip(
    interface: IfName,
    own: Ipv4Addr,
    carrier: IpCarrier,
    count: usize,
) -> Result<Vec<(Option<IpRx>, IpTx)>, UdpError> {
    match carrier {
        IpCarrier::Udp(port) => {
            let first = datagrams(interface, own, port, false)?;
            share(&first, port)?;
            let others = (1..count).map(|_| datagrams(interface, own, port, true));
            let both = |socket: OwnedFd| -> Result<_, UdpError> {
                let sender =
                    socket.try_clone().map_err(failed(format_args!("UDP port {port}"), "have it twice"))?;
                Ok((Some(IpRx::new(socket)), IpTx::new(sender, port)))
            };
            std::iter::once(Ok(first)).chain(others).map(|socket| both(socket?)).collect()
        }
        IpCarrier::Ipip => {
            let mut receiver = Some(IpRx::new(raw(interface, own, IPPROTO_IPIP)?));
            let sender = |_| -> Result<_, UdpError> {
                Ok((receiver.take(), IpTx::new(raw(interface, own, libc::IPPROTO_RAW)?, 0)))
            };
            (0..count.max(1)).map(sender).collect()
        }
    }
}

fn datagrams(interface: IfName, own: Ipv4Addr, port: u16, shared: bool) -> Result<OwnedFd, UdpError> {
    let what = format!("UDP port {port} on {interface}");
    let what = what.as_str();
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(failed(what, "open a socket"))?;
    bind_to_device(&socket, interface).map_err(failed(what, "bind to the interface"))?;
    if shared {
        switch_on(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT).map_err(failed(what, "share it"))?;
    }
    sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &PMTUDISC_INTERFACE)
        .map_err(failed(what, "go by the interface's MTU"))?;
    set_buffers(&socket, what)?;
    bind(&socket, own, port).map_err(not_bound(port, what, "bind to this node's address"))?;
    Ok(socket)
}

/// A socket of IPv4 packets of this protocol. Those of `IPPROTO_RAW` receive nothing, and the caller makes what they send, from the IP
/// header on (raw(7)).
fn raw(interface: IfName, own: Ipv4Addr, protocol: c_int) -> Result<OwnedFd, UdpError> {
    let what = format!("IPv4 in IPv4 on {interface}");
    let what = what.as_str();
    let socket = sys::socket(libc::AF_INET, libc::SOCK_RAW, protocol)
        .map_err(failed(what, "open a socket (this needs CAP_NET_RAW)"))?;
    bind_to_device(&socket, interface).map_err(failed(what, "bind to the interface"))?;
    set_buffers(&socket, what)?;
    bind(&socket, own, 0).map_err(failed(what, "bind to this node's address"))?;
    Ok(socket)
}

fn set_buffers(socket: &OwnedFd, what: &str) -> Result<(), UdpError> {
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, option, &(BUFFER / 2))
            .map_err(failed(what, "set the size of the buffers"))?;
    }
    Ok(())
}

fn bind(socket: &OwnedFd, own: Ipv4Addr, port: u16) -> io::Result<()> {
    let mut address = sys::zeroed::<libc::sockaddr_in>();
    address.sin_family = libc::AF_INET as _;
    address.sin_port = port.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes(own.octets());
    sys::bind(socket.as_fd(), &address)
}

impl IpRx {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, dropped: Dropped::default(), calls: Calls::new() }
    }

    /// Receives into these buffers, a list of pieces for each message ([`IP_BATCH`] messages at most), without waiting. Tells
    /// what has come in, message by message in the order of `buffers`, and returns how many that was. `None` is a message of nobody.
    ///
    /// # Errors
    /// Only of the socket itself; nothing to receive is 0.
    pub fn recv<'a, M>(
        &mut self,
        buffers: impl IntoIterator<Item = M>,
        mut each: impl FnMut(Option<IpReceived>),
    ) -> io::Result<usize>
    where
        M: IntoIterator<Item = &'a mut [u8]>,
    {
        let calls = &mut self.calls;
        calls.forget();
        for pieces in buffers.into_iter().take(IP_BATCH) {
            calls.batch.add(|all| all.extend(pieces.into_iter().map(to_write)));
            calls.names.push(Name::NONE);
        }
        if calls.list(size_of_val(&Name::NONE.0) as libc::socklen_t) == 0 {
            return Ok(0);
        }
        // SAFETY: the messages name live addresses and pieces, the pieces bytes that the caller lends for the whole of this
        // function; nothing has moved since `list`.
        let received = unsafe { calls.batch.receive(self.socket.as_fd()) }?;
        for (message, name) in calls.batch.messages.iter().zip(&calls.names).take(received) {
            let from = match name.read().map(|from| from.ip()) {
                Some(IpAddr::V4(from)) => Some(from),
                _ => None,
            };
            let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            each(from.map(|from| IpReceived { from, len: message.msg_len as usize, truncated }));
        }
        calls.forget();
        Ok(received)
    }

    /// Packets that the kernel has thrown away since this was asked last, most of them because nobody fetched them in time.
    pub fn take_dropped(&mut self) -> u32 {
        self.dropped.take(&self.socket)
    }
}

impl AsFd for IpRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl IpTx {
    fn new(socket: OwnedFd, port: u16) -> Self {
        Self { socket, port, calls: Calls::new() }
    }

    /// Sends messages in order ([`IP_BATCH`] at most), each as the pieces of it and the node that it goes to. One that the kernel refuses is
    /// told to `refused` with its place and the others go on; once it takes no more, all the rest are refused.
    pub fn send<'a, M>(
        &mut self,
        messages: impl IntoIterator<Item = (Ipv4Addr, M)>,
        mut refused: impl FnMut(usize, &io::Error),
    ) where
        M: IntoIterator<Item = &'a [u8]>,
    {
        let calls = &mut self.calls;
        calls.forget();
        let mut name_len = 0;
        for (to, pieces) in messages.into_iter().take(IP_BATCH) {
            calls.batch.add(|all| all.extend(pieces.into_iter().map(to_read)));
            let (name, len) = Name::of(SocketAddr::new(to.into(), self.port));
            name_len = len;
            calls.names.push(name);
        }
        let count = calls.list(name_len);
        let mut done = 0;
        while done < count {
            let rest = &mut calls.batch.messages[done..];
            // SAFETY: the messages name addresses in this value's lists, and pieces that name bytes which the caller lends for the
            // whole of `send`; none of them has moved since `list`. The kernel reads them and writes lengths only.
            let sent = sys::check(unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            });
            match sent {
                Ok(sent) => done += (sent as usize).max(1),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => {
                        (done..count).for_each(|index| refused(index, &error));
                        break;
                    }
                    _ => {
                        refused(done, &error);
                        done += 1;
                    }
                },
            }
        }
        calls.forget();
    }
}

impl Calls {
    fn new() -> Self {
        Self { names: Vec::with_capacity(IP_BATCH), batch: Batch::new(IP_BATCH, IP_BATCH * 4) }
    }

    /// Lists the messages for the kernel, whose names and pieces are complete: these move while they grow.
    fn list(&mut self, name_len: libc::socklen_t) -> usize {
        self.batch.list(&mut self.names, |message, name| {
            message.msg_name = name.0.as_mut_ptr().cast();
            message.msg_namelen = name_len;
        })
    }

    fn forget(&mut self) {
        self.batch.forget();
        self.names.clear();
    }
}
