//! Sending: many messages with one system call, each one datagram or many of one size.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use libc::c_int;

use super::batch::{Batch, to_read};
use super::way::{Prepared, Way, Ways};
use super::{Name, PMTUDISC_INTERFACE, UdpError, failed, switch_on};
use crate::kernel::packet::Filter;
use crate::kernel::sys;

/// Messages that go to the kernel with one call at most.
pub const TX_BATCH: usize = 64;
/// Datagrams that one message stands for at most (`UDP_MAX_SEGMENTS`; newer kernels take more).
pub const MAX_DATAGRAMS: usize = 64;
/// Bytes of one message at most: what an IPv4 packet carries behind its header and UDP's.
pub const MAX_MESSAGE: usize = 65535 - 20 - 8;
/// Pieces of one message at most (`UIO_MAXIOV`).
pub const MAX_PIECES: usize = 1024;

/// Bytes that may wait in the kernel for each socket, with its own overhead.
const SEND_BUFFER: c_int = 8 << 20;
/// linux/in6.h.
const IPV6_AUTOFLOWLABEL: c_int = 70;

/// The family of a set of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Message<P> {
    /// To whom; of the sockets' family.
    pub to: SocketAddr,
    /// From which of this host's addresses.
    pub from: IpAddr,
    /// The TOS byte, or the traffic class.
    pub tos: u8,
    /// Cut into datagrams of so many bytes, the last one of what is left; `None`: one datagram. At most [`MAX_DATAGRAMS`] of
    /// them.
    pub segment: Option<u16>,
    /// Shows the bytes, in at most [`MAX_PIECES`] pieces and [`MAX_MESSAGE`] bytes. No piece belongs to two datagrams.
    pub pieces: P,
}

/// Why the kernel did not take a message, as far as its answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its packet filter drops such packets.
    Filtered,
    /// There is no way to the destination, or not from that address.
    Unreachable,
    /// The datagrams are longer than the way takes.
    TooLong,
    /// No room, most of the time.
    Other,
}

impl From<&io::Error> for Refusal {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Filtered,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL | libc::ENETDOWN) => {
                Self::Unreachable
            }
            Some(libc::EMSGSIZE) => Self::TooLong,
            _ => Self::Other,
        }
    }
}

/// Sockets of one family to send from, each with a port that the kernel has chosen. They receive nothing.
#[derive(Debug)]
pub struct UdpTx {
    sockets: Vec<OwnedFd>,
    ports: Vec<u16>,
    apart: Apart,
    calls: Calls,
}

/// Destinations for which the kernel has said that it does not cut: the interface makes no checksums, or what goes there is
/// encrypted on its way out. Both may change, so it is asked again after a time.
#[derive(Debug, Default)]
struct Apart {
    to: Vec<IpAddr>,
    /// When the first of them was listed.
    since: Option<Instant>,
}

impl Apart {
    /// With so many listed, it is likely to be the interface: then nothing is cut by the kernel.
    const MANY: usize = 16;
    const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

    fn forget_old(&mut self) {
        // No clock is read while there is none.
        if self.since.is_some_and(|since| since.elapsed() > Self::FORGOTTEN_AFTER) {
            self.to.clear();
            self.since = None;
        }
    }

    fn add(&mut self, to: IpAddr) {
        self.since.get_or_insert_with(Instant::now);
        if !self.has(to) {
            self.to.push(to);
        }
    }

    #[inline]
    fn has(&self, to: IpAddr) -> bool {
        self.to.len() >= Self::MANY || self.to.contains(&to)
    }
}

/// What the kernel reads during a call.
struct Calls {
    ways: Ways,
    /// Which of them each message goes.
    numbers: Vec<usize>,
    batch: Batch,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl UdpTx {
    /// So many sockets.
    pub fn open(family: Family, count: usize) -> Result<Self, UdpError> {
        let sockets: Result<Vec<_>, _> = (0..count).map(|_| sender(family)).collect();
        let sockets = sockets?;
        let what = "a socket to send from";
        let ports =
            sockets.iter().map(port).collect::<Result<_, _>>().map_err(failed(what, "ask for its port"))?;
        let calls = Calls {
            ways: Ways::new(TX_BATCH),
            numbers: Vec::with_capacity(TX_BATCH),
            batch: Batch::new(TX_BATCH, MAX_PIECES),
        };
        Ok(Self { sockets, ports, apart: Apart { to: Vec::with_capacity(Apart::MANY), since: None }, calls })
    }

    /// How many sockets there are.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// False if the kernel has said lately that it does not cut what goes there.
    pub fn cuts(&self, to: IpAddr) -> bool {
        !self.apart.has(to)
    }

    /// The port of each.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Sends messages in order through the socket of this number. One that the kernel refuses is told to `refused` with its
    /// place in `messages` and the others go on; once it takes no more, all the rest are refused.
    ///
    /// Takes no memory, once it has seen a batch of as many pieces.
    pub fn send<'a, P>(
        &mut self,
        socket: usize,
        messages: impl IntoIterator<Item = Message<P>>,
        mut refused: impl FnMut(usize, &io::Error),
    ) where
        P: FnOnce(&mut dyn FnMut(&'a [u8])),
    {
        let Some(socket) = self.sockets.get(socket).map(AsRawFd::as_raw_fd) else { return };
        self.apart.forget_old();
        let mut messages = messages.into_iter();
        let mut before = 0;
        loop {
            let count = self.calls.gather(&mut messages);
            if count == 0 {
                return;
            }
            self.calls.flush(socket, &mut self.apart, |index, error| refused(before + index, error));
            self.calls.forget();
            before += count;
            if count < TX_BATCH {
                return;
            }
        }
    }
}

/// The port that a socket is bound to.
fn port(socket: &OwnedFd) -> io::Result<u16> {
    let mut name = Name::NONE;
    let mut len = name.0.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a live value that may hold any bits.
    sys::check(unsafe { libc::getsockname(socket.as_raw_fd(), name.0.as_mut_ptr().cast(), &mut len) })?;
    Ok(name.read().map_or(0, |address| address.port()))
}

/// A socket on a port of the kernel's choice.
fn sender(family: Family) -> Result<OwnedFd, UdpError> {
    let what = "a socket to send from";
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let socket = sys::socket(domain, libc::SOCK_DGRAM, 0).map_err(failed(what, "open it"))?;
    let fd = socket.as_fd();
    // Whoever finds the port gets nothing in.
    Filter::nothing().attach(fd).map_err(failed(what, "attach a filter"))?;
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &(SEND_BUFFER / 2))
        .map_err(failed(what, "set the size of the send buffer"))?;
    match family {
        Family::V4 => {
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &PMTUDISC_INTERFACE)
                .map_err(failed(what, "go by the interface's MTU"))?;
            let mut any = sys::zeroed::<libc::sockaddr_in>();
            any.sin_family = libc::AF_INET as _;
            sys::bind(fd, &any).map_err(failed(what, "bind to a port"))?;
        }
        Family::V6 => {
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &PMTUDISC_INTERFACE)
                .map_err(failed(what, "go by the interface's MTU"))?;
            sys::set_option(fd, libc::IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, &(0 as c_int))
                .map_err(failed(what, "leave the flow label out"))?;
            switch_on(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)
                .map_err(failed(what, "keep IPv4 out"))?;
            let mut any = sys::zeroed::<libc::sockaddr_in6>();
            any.sin6_family = libc::AF_INET6 as _;
            sys::bind(fd, &any).map_err(failed(what, "bind to a port"))?;
        }
    }
    Ok(socket)
}

impl Calls {
    /// Lists up to [`TX_BATCH`] messages for the kernel.
    fn gather<'a, P>(&mut self, messages: &mut impl Iterator<Item = Message<P>>) -> usize
    where
        P: FnOnce(&mut dyn FnMut(&'a [u8])),
    {
        self.forget();
        self.ways.begin();
        for message in messages.take(TX_BATCH) {
            let Message { to, from, tos, segment, pieces } = message;
            self.batch.add(|all| pieces(&mut |piece| all.push(to_read(piece))));
            self.numbers.push(self.ways.number(Way { to, from, tos, segment }));
        }
        // Only now: the list of ways may have moved while it grew, too.
        self.batch.list(self.numbers.iter().map(|number| self.ways.get(*number)), |message, way| {
            // The kernel only reads what it is told.
            message.msg_name = way.name.0.as_ptr().cast_mut().cast();
            message.msg_namelen = way.name_len;
            message.msg_control = way.control.0.as_ptr().cast_mut().cast();
            message.msg_controllen = way.all as _;
        })
    }

    /// No pointer outlives the borrow of the messages.
    fn forget(&mut self) {
        self.batch.forget();
        self.numbers.clear();
    }

    /// The way of the message of this place.
    fn way(&self, message: usize) -> &Prepared {
        self.ways.get(self.numbers[message])
    }

    /// Whether the message of this place is more than one datagram.
    fn is_several(&self, message: usize) -> bool {
        self.way(message).way.segment.is_some()
    }

    fn flush(&mut self, socket: c_int, apart: &mut Apart, mut refused: impl FnMut(usize, &io::Error)) {
        let mut done = 0;
        while done < self.batch.messages.len() {
            // Up to the next message that has to be cut here.
            let whole =
                |message: &usize| !self.is_several(*message) || !apart.has(self.way(*message).way.to.ip());
            let count = (done..self.batch.messages.len()).take_while(whole).count();
            let rest = self.batch.messages.get_mut(done..done + count).unwrap_or_default();
            let error = if rest.is_empty() {
                match self.send_apart(socket, done) {
                    Ok(()) => {
                        done += 1;
                        continue;
                    }
                    Err(error) => error,
                }
            } else {
                // SAFETY: the messages name addresses and control data in this value's lists, and pieces that name bytes which
                // the caller lends for the whole of `send`; none of them has moved since `gather`. The kernel reads them and
                // writes only each message's `msg_len`.
                let taken = sys::check(unsafe {
                    libc::sendmmsg(
                        socket,
                        rest.as_mut_ptr(),
                        rest.len() as libc::c_uint,
                        libc::MSG_DONTWAIT as _,
                    )
                });
                match taken {
                    Ok(taken) => {
                        // Fewer than asked: the next one has failed, and the next call says why.
                        done += taken as usize;
                        continue;
                    }
                    Err(error) => error,
                }
            };
            let error = match error.raw_os_error() {
                // Its datagrams may be too long for the way, or the way leads nowhere: one by one, they are told which.
                Some(libc::EINVAL) if count > 0 && self.is_several(done) => {
                    match self.send_apart(socket, done) {
                        Ok(()) => {
                            done += 1;
                            continue;
                        }
                        Err(error) => error,
                    }
                }
                _ => error,
            };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Before Linux 6.11 an interface that does not make checksums takes none that are to be cut; nor does, in any
                // Linux, a way through IPsec.
                Some(libc::EIO) if count > 0 && self.is_several(done) => {
                    apart.add(self.way(done).way.to.ip());
                }
                Some(libc::EAGAIN) => {
                    (done..self.batch.messages.len()).for_each(|index| refused(index, &error));
                    return;
                }
                _ => {
                    refused(done, &error);
                    done += 1;
                }
            }
        }
    }

    /// Sends the datagrams of a message one by one.
    #[cold]
    fn send_apart(&mut self, socket: c_int, index: usize) -> io::Result<()> {
        let (mut message, prepared) = (self.batch.messages[index].msg_hdr, self.way(index));
        message.msg_controllen = prepared.sender as _;
        let size = usize::from(prepared.way.segment.unwrap_or(u16::MAX));
        let mut pieces = self.batch.pieces_of(index);
        while !pieces.is_empty() {
            let mut left = size;
            let of_this = |piece: &&libc::iovec| {
                let fits = piece.iov_len <= left;
                left = left.saturating_sub(piece.iov_len);
                fits
            };
            // A piece longer than a datagram would be of two: then the kernel says that it is too long.
            let count = pieces.iter().take_while(of_this).count().max(1);
            let (mine, others) = std::mem::take(&mut pieces).split_at_mut(count);
            pieces = others;
            message.msg_iov = mine.as_mut_ptr();
            message.msg_iovlen = mine.len() as _;
            // Again here and not by the caller, who would begin with the first once more.
            while let Err(error) = {
                // SAFETY: as in `flush`; `message` is a copy that names the same live lists.
                sys::check_len(unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_DONTWAIT) })
            } {
                if error.raw_os_error() != Some(libc::EINTR) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    /// Three datagrams as one message, whether or not the kernel cuts.
    fn arrives(apart: Apart) -> Vec<(Vec<u8>, SocketAddr)> {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut tx = UdpTx { apart, ..UdpTx::open(Family::V4, 2).unwrap() };
        let to = receiver.local_addr().unwrap();
        let message = |segment, pieces: &'static [&'static [u8]]| Message {
            to,
            from: [127, 0, 0, 1].into(),
            tos: 0,
            segment,
            pieces: move |show: &mut dyn FnMut(&'static [u8])| pieces.iter().for_each(|piece| show(piece)),
        };
        let messages = [message(Some(6), &[b"aaaa", b"bb", b"cccc", b"dd", b"e"]), message(None, &[b"f"])];
        tx.send(1, messages, |index, error| panic!("message {index}: {error}"));
        let mut buffer = [0; 64];
        (0..4)
            .map(|_| {
                let (len, from) = receiver.recv_from(&mut buffer).unwrap();
                (buffer[..len].to_vec(), from)
            })
            .collect()
    }

    #[test]
    fn datagrams_are_cut_by_the_kernel_or_here() {
        for cut_here in [false, true] {
            let mut apart = Apart::default();
            if cut_here {
                apart.add([127, 0, 0, 1].into());
            }
            let arrived = arrives(apart);
            let bytes: Vec<&[u8]> = arrived.iter().map(|(bytes, _)| bytes.as_slice()).collect();
            assert_eq!(bytes, [&b"aaaabb"[..], b"ccccdd", b"e", b"f"], "cut here: {cut_here}");
        }
    }

    #[test]
    fn one_destination_that_is_not_cut_for_leaves_the_others_alone_and_is_forgotten() {
        let to = |last| IpAddr::from([192, 0, 2, last]);
        let mut apart = Apart::default();
        apart.add(to(1));
        apart.add(to(1));
        apart.forget_old();
        assert_eq!((apart.has(to(1)), apart.has(to(2)), apart.to.len()), (true, false, 1));
        (2..=Apart::MANY as u8).for_each(|last| apart.add(to(last)));
        assert!(apart.has(to(200)), "it is the interface");
        apart.since = Instant::now().checked_sub(Apart::FORGOTTEN_AFTER + Duration::from_secs(1));
        assert!(apart.since.is_some(), "the machine has run for longer than that");
        apart.forget_old();
        assert!(!apart.has(to(1)));
        assert_eq!(apart.since, None);
    }
}
