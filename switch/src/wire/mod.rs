//! Wire formats: for each a view over bytes and an owned form.
//!
//! One file per format, each in the same order: the ranges of its fields, what lengths are checked, the view, the
//! owned form, tests. A view made by `new_checked` never panics in a getter, whatever the bytes say; `new_unchecked`
//! is for bytes that were checked before, or that are about to be written. A setter that changes a length
//! (`set_header_len`, `set_total_len` …) can break what was checked: check again before trusting the getters.
//!
//! Views read and write in place and are what the switch uses for packets on their way. Owned forms are for packets
//! that the switch makes itself, and for tests.

pub mod arp;
mod bytes;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vlan;
pub mod vxlan;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod oracles;
#[cfg(test)]
pub(crate) mod samples;

use std::fmt;
use thiserror::Error;

/// A wire format, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Ethernet II.
    Ethernet,
    /// An 802.1Q tag.
    Vlan,
    /// ARP for IPv4 over Ethernet.
    Arp,
    /// IPv4 header.
    Ipv4,
    /// IPv6 fixed header.
    Ipv6,
    /// An IPv6 extension header.
    Ipv6Extension,
    /// ICMP for IPv4.
    Icmp,
    /// ICMP for IPv6.
    Icmpv6,
    /// Neighbour discovery.
    Ndp,
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// SCTP.
    Sctp,
    /// VXLAN.
    Vxlan,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ethernet => "Ethernet",
            Self::Vlan => "802.1Q",
            Self::Arp => "ARP",
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Ipv6Extension => "IPv6 extension header",
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPv6",
            Self::Ndp => "neighbour discovery",
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Sctp => "SCTP",
            Self::Vxlan => "VXLAN",
        })
    }
}

/// Bytes that are not what they should be, or room that does not suffice.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// The bytes end before the format does.
    #[error("{format} is cut off: {need} bytes are needed, {have} are there")]
    Truncated {
        /// Of what format.
        format: Format,
        /// Bytes that this header or message needs.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// A field has a value that the format does not allow, or that this switch does not take.
    #[error("{format}: the field {field} cannot be {value}")]
    BadField {
        /// Of what format.
        format: Format,
        /// The field, as the getter is called.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// The buffer is too short to write the owned form into.
    #[error("no room to write {format}: {need} bytes are needed, the buffer has {have}")]
    NoRoom {
        /// Of what format.
        format: Format,
        /// Bytes that are written.
        need: usize,
        /// Bytes that the buffer has.
        have: usize,
    },
}
