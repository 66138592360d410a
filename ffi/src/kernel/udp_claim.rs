//! Keeps the kernel quiet about a UDP port that weft serves through a packet socket.
//!
//! The kernel sees the tunnel's packets too. If nobody has the port it answers each with "port unreachable", and the sender
//! believes it. A claim is a socket on that port that throws everything away before it is queued: it costs no
//! memory and nobody reads it. What it throws away the kernel counts as `UdpInErrors`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use libc::c_int;
use thiserror::Error;

use super::packet::Filter;
use super::sys;

/// Why a port could not be claimed.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// Somebody has it.
    #[error(
        "UDP port {port} is in use on {address}: most likely by the kernel's VXLAN device of flanneld (see `ip -d link \
         show type vxlan`; stop flanneld, then `ip link delete flannel.1`, and flannel-v6.1 where it is) or by another weftd \
         (see `ss -ulnp`)"
    )]
    InUse {
        /// The port.
        port: u16,
        /// Which of the two wildcard addresses.
        address: &'static str,
    },
    /// The kernel refused a step.
    #[error("UDP port {port} on {address}: cannot {step}: {source}")]
    Step {
        /// The port.
        port: u16,
        /// Which of the two wildcard addresses.
        address: &'static str,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A UDP port on every address of this network namespace, for as long as it lives.
#[derive(Debug)]
pub struct UdpClaim {
    port: u16,
    v6: Option<OwnedFd>,
    _v4: OwnedFd,
}

impl UdpClaim {
    /// Claims `port` (1 to 65,535) for IPv4, and for IPv6 where the kernel has it.
    pub fn bind(port: u16) -> Result<Self, ClaimError> {
        let mut v4 = sys::zeroed::<libc::sockaddr_in>();
        v4.sin_family = libc::AF_INET as _;
        v4.sin_port = port.to_be();
        let mut v6 = sys::zeroed::<libc::sockaddr_in6>();
        v6.sin6_family = libc::AF_INET6 as _;
        v6.sin6_port = port.to_be();

        let claimed_v4 = claim(port, "0.0.0.0", libc::AF_INET, &v4)?;
        let claimed_v6 = match claim(port, "[::]", libc::AF_INET6, &v6) {
            Ok(socket) => Some(socket),
            Err(ClaimError::Step { source, .. }) if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { port, _v4: claimed_v4, v6: claimed_v6 })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// True if the port is claimed for IPv6 too: false on a kernel without IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.v6.is_some()
    }
}

fn claim<T: sys::Plain>(
    port: u16,
    address: &'static str,
    family: c_int,
    sockaddr: &T,
) -> Result<OwnedFd, ClaimError> {
    let failed = |step| move |source| ClaimError::Step { port, address, step, source };
    if port == 0 {
        let source = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(failed("claim port 0, which stands for any")(source));
    }
    let socket = sys::socket(family, libc::SOCK_DGRAM, 0).map_err(failed("open a socket"))?;
    // Before it is bound, so that not even the first packet is queued.
    Filter::nothing().attach(socket.as_fd()).map_err(failed("attach a filter"))?;
    if family == libc::AF_INET6 {
        let one: c_int = 1;
        sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &one)
            .map_err(failed("keep IPv4 out"))?;
    }
    sys::bind(socket.as_fd(), sockaddr).map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => ClaimError::InUse { port, address },
        _ => failed("bind to it")(source),
    })?;
    Ok(socket)
}
