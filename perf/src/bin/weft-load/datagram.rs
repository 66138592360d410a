//! What a datagram of this program says: a number, or that its sender has ended.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// Bytes that a datagram has at least: its number.
pub(crate) const HEADER: usize = 8;
/// Bytes that a datagram has at most.
pub(crate) const LARGEST: usize = 1400;
/// What is sent and received by one system call, at most.
pub(crate) const BATCH: usize = 32;
/// The number that says that the sender has ended.
const END: u64 = u64::MAX;

/// Numbers a datagram.
pub(crate) fn set_number(datagram: &mut [u8], number: u64) {
    datagram[..HEADER].copy_from_slice(&number.to_be_bytes());
}

/// A datagram's number; None if it is too short to have one.
pub(crate) fn number(datagram: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*datagram.first_chunk()?))
}

/// Whether it says that the sender has ended.
pub(crate) fn is_end(datagram: &[u8]) -> bool {
    number(datagram) == Some(END)
}

/// Tells the other end that nothing follows: several times, and late enough not to be lost among what came before.
pub(crate) fn send_end(socket: &UdpSocket) -> Result<()> {
    for pause in [200, 20, 20, 100, 300] {
        thread::sleep(Duration::from_millis(pause));
        // Whoever has heard it may be gone already, which the kernel reports as an error.
        if socket.send(&END.to_be_bytes()).is_err() {
            break;
        }
    }
    Ok(())
}

/// A socket that talks to one address only.
pub(crate) fn connect(to: SocketAddr) -> Result<UdpSocket> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

/// Prints a line now, also into a pipe or a file.
pub(crate) fn say(line: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
