//! Packet sockets (`AF_PACKET`): frames of an interface that stays with the kernel, with the kernel's knowledge of
//! their checksums and GSO, which no poll-mode driver keeps.
//!
//! The kernel gives us copies and goes on with the frame itself. What weft takes over, the kernel must be told to leave alone: see
//! [`super::udp_claim`]. Receiving ([`RxRing`]) and sending ([`PacketTx`]) are sockets of their own, so that each
//! belongs to one worker.

mod filter;
mod rx;
mod tx;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use thiserror::Error;

use super::interface::IfName;
use super::sys;

pub use filter::Filter;
pub use rx::{LinkState, RingFrame, RxChecksum, RxOptions, RxRing, RxStats, VlanTag};
pub use tx::{PacketTx, TX_BATCH, TxOptions, TxReport, TxStop};

/// Why a packet socket could not be opened.
#[derive(Debug, Error)]
pub enum PacketError {
    /// There is no such interface.
    #[error("interface {interface}: there is none of that name in this network namespace")]
    NoInterface {
        /// The name that was given.
        interface: IfName,
    },
    /// The options contradict each other.
    #[error("packet socket on {interface}: {reason}")]
    Options {
        /// The interface.
        interface: IfName,
        /// What is wrong with them.
        reason: &'static str,
    },
    /// The kernel refused a step.
    #[error("packet socket on {interface}: cannot {step}: {source}")]
    Step {
        /// The interface.
        interface: IfName,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Number of the interface, or the error that says there is none.
fn index_of(interface: IfName) -> Result<u32, PacketError> {
    super::interface::index(interface).map_err(|source| match source.raw_os_error() {
        Some(libc::ENODEV) => PacketError::NoInterface { interface },
        _ => PacketError::Step { interface, step: "find its number", source },
    })
}

/// Turns a failed step into an error that names it.
fn failed(interface: IfName, step: &'static str) -> impl FnOnce(io::Error) -> PacketError {
    move |source| PacketError::Step { interface, step, source }
}

/// Ties the socket to an interface. `protocol` 0: it receives nothing.
fn bind(fd: BorrowedFd<'_>, index: u32, protocol: u16) -> io::Result<()> {
    let mut address = sys::zeroed::<libc::sockaddr_ll>();
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    sys::bind(fd, &address)
}

/// The interface that the socket is tied to; `None` once it has been deleted.
fn bound_index(fd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut address = sys::zeroed::<libc::sockaddr_ll>();
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a live address.
    let asked = unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &mut len) };
    sys::check(asked)?;
    Ok(u32::try_from(address.sll_ifindex).ok().filter(|index| *index != 0))
}
