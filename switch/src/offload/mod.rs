//! Checksum and GSO as states of a packet, and what finishes them in software.
//!
//! A frame enters with a known state (from a TAP's or guest's virtio-net header, or a NIC). Every way out either takes
//! the state as it is or gets the frame finished: its checksum filled in, its payload cut into frames.

/// What is known of, or still to be done about, the packet's transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Filled in by the sender; nobody has checked it.
    #[default]
    Unverified,
    /// Filled in, and checked by the interface.
    Verified,
    /// Not filled in: the field at `start + offset` holds the pseudo-header's sum; the sum of everything from `start`
    /// to the end of the packet, folded and inverted, is to be put there. Both count from the packet's first byte
    /// (`start`) and from `start` (`offset`). Such a packet has not been on a wire, so its data is as the sender
    /// made it.
    Partial {
        /// Where the sum begins, in bytes from the start of the frame.
        start: u16,
        /// Where the field is, in bytes from `start`.
        offset: u16,
    },
}

/// What kind of packet a GSO frame is to be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams (USO), over IPv4 or IPv6.
    Udp,
}

/// A frame that stands for several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gso {
    /// Into what.
    pub kind: GsoKind,
    /// Payload bytes of each packet but the last; at least 1.
    pub size: u16,
    /// The TCP sender uses ECN: CWR belongs to the first packet only.
    pub ecn: bool,
}

/// The state of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Its transport checksum.
    pub checksum: Checksum,
    /// Set if the packet stands for several.
    pub gso: Option<Gso>,
}
