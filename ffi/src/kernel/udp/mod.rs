//! UDP through the kernel: datagrams many at a time and in large pieces, for a tunnel whose outer headers are the
//! kernel's to make.
//!
//! - [`UdpRx`]: what comes for one port by one interface; packets that the kernel has put together stay so ([`Received::segment`]).
//! - [`UdpTx`]: a set of sockets to send from, so that flows can have different source ports; one message may stand for many
//!   datagrams of one size.
//! - [`open_ip`]: sockets of a tunnel whose packets are IPv4 packets with nothing before them, or an IPv4 header.
//! - [`IcmpRx`]: what routers say of packets that were too big for them.
//!
//! The kernel routes, resolves, filters and checks; path MTUs are not its business here: what is larger than the
//! interface takes is refused, and nothing is cut.

mod batch;
mod control;
mod icmp;
mod ip;
mod rx;
mod tx;
mod way;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};

use libc::c_int;
use thiserror::Error;

use super::interface::IfName;
use super::sys;

pub use icmp::{IcmpMessage, IcmpRx};
pub use ip::{IP_BATCH, IpCarrier, IpReceived, IpRx, IpTx, open_ip};
pub use rx::{RX_BATCH, Received, UdpRx};
pub use tx::{Family, MAX_DATAGRAMS, MAX_MESSAGE, MAX_PIECES, Message, Refusal, TX_BATCH, UdpTx};

/// Why a socket could not be made.
#[derive(Debug, Error)]
pub enum UdpError {
    /// Somebody has the port.
    #[error(
        "UDP port {0} is in use: most likely by the kernel's VXLAN device of flanneld (see `ip -d link show type vxlan`; \
         stop flanneld, then `ip link delete flannel.1`, and flannel-v6.1 where it is) or by another weftd (see `ss -ulnp`)"
    )]
    InUse(u16),
    /// The kernel refused a step.
    #[error("{what}: cannot {step}: {source}")]
    Step {
        /// The port or the interface.
        what: String,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn failed(what: impl ToString, step: &'static str) -> impl FnOnce(io::Error) -> UdpError {
    move |source| UdpError::Step { what: what.to_string(), step, source }
}

impl UdpError {
    /// True for the answer of a kernel that has no IPv6.
    pub fn is_without_family(&self) -> bool {
        matches!(self, Self::Step { source, .. } if source.raw_os_error() == Some(libc::EAFNOSUPPORT))
    }
}

/// Only what comes by this interface, from now on.
fn bind_to_device(socket: &OwnedFd, interface: IfName) -> io::Result<()> {
    let mut name = [0u8; libc::IFNAMSIZ];
    name[..interface.as_str().len()].copy_from_slice(interface.as_str().as_bytes());
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)
}

/// Lets others have this socket's port too. The first socket of a port is given this only once it is bound: so it has found that nobody
/// has the port, not even one who would share it.
fn share(first: &OwnedFd, port: u16) -> Result<(), UdpError> {
    switch_on(first, libc::SOL_SOCKET, libc::SO_REUSEPORT)
        .map_err(failed(format_args!("UDP port {port}"), "share it among the workers"))
}

/// Why a socket could not be bound to a port.
fn not_bound(port: u16, what: &str, step: &'static str) -> impl FnOnce(io::Error) -> UdpError {
    move |source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => UdpError::InUse(port),
        _ => failed(what, step)(source),
    }
}

fn switch_on(socket: &OwnedFd, level: c_int, option: c_int) -> io::Result<()> {
    sys::set_option(socket.as_fd(), level, option, &(1 as c_int))
}

/// Takes the interface's MTU, sets no don't-fragment flag, and believes nothing that routers say (linux/in.h, linux/in6.h).
const PMTUDISC_INTERFACE: c_int = 4;

/// Bytes of the longest address that the kernel writes or reads here.
const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();

/// An address as the kernel has it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Name([u8; NAME_LEN]);

impl Name {
    const NONE: Self = Self([0; NAME_LEN]);

    /// With how many bytes of it count.
    fn of(address: SocketAddr) -> (Self, u32) {
        let mut name = Self::NONE;
        let bytes = &mut name.0;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(v4) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&v4.octets());
                (name, size_of::<libc::sockaddr_in>() as u32)
            }
            IpAddr::V6(v6) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                bytes[8..24].copy_from_slice(&v6.octets());
                (name, NAME_LEN as u32)
            }
        }
    }

    /// An IPv4 address in an IPv6 one is an IPv4 address.
    fn read(&self) -> Option<SocketAddr> {
        let [f0, f1, p0, p1, rest @ ..] = &self.0;
        let port = u16::from_be_bytes([*p0, *p1]);
        match c_int::from(u16::from_ne_bytes([*f0, *f1])) {
            libc::AF_INET => {
                let octets = *rest.first_chunk::<4>()?;
                Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(octets), port)))
            }
            libc::AF_INET6 => {
                let octets = *rest.get(4..)?.first_chunk::<16>()?;
                let v6 = Ipv6Addr::from(octets);
                Some(match v6.to_ipv4_mapped() {
                    Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, port)),
                    None => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, 0)),
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_were_written() {
        for text in ["192.0.2.7:8472", "[2001:db8::7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Name::of(address).0.read(), Some(address));
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:8472".parse().unwrap();
        assert_eq!(Name::of(mapped).0.read(), Some("192.0.2.7:8472".parse().unwrap()));
        assert_eq!(Name::NONE.read(), None);
    }
}
