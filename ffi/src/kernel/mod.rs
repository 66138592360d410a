//! The kernel's own doors for packets, as small safe types over its system calls.
//!
//! - [`tap`]: an interface that the kernel (or a pod) uses and weft serves.
//! - [`packet`]: frames of an interface that the kernel keeps (`AF_PACKET`), with its checksum and GSO states.
//! - [`xdp`]: a NIC that stays with the kernel, whose tunnel packets an XDP program takes out (`AF_XDP`).
//! - [`udp`]: datagrams in batches and large pieces, for a tunnel that is sockets in the kernel.
//! - [`whole`]: packets of a tunnel that stand for many, into the kernel as they are.
//! - [`udp_claim`]: keeps the kernel quiet about a UDP port that weft serves through `AF_PACKET`.
//! - [`netns`]: runs code in another network namespace.
//! - [`event`]: sleeping until one of many descriptors has something, and waking a sleeper.
//! - [`thread`]: what the kernel counts for a thread.
//! - [`clock`]: the processor's cycle counter.
//!
//! Nothing here knows a packet buffer: frames are byte slices, so that a driver copies straight from and to its own
//! buffers. No call allocates memory per packet. Everything works in the network namespace of the calling thread,
//! unless it takes a namespace as an argument.

pub mod clock;
pub mod event;
pub mod interface;
pub mod netns;
pub mod packet;
pub mod tap;
pub mod thread;
pub mod udp;
pub mod udp_claim;
pub mod whole;
pub mod xdp;

mod bpf;
mod sys;
mod tun_link;

/// Bytes of the virtio-net header that goes before each frame of a TAP and a packet socket: `struct virtio_net_hdr`
/// of linux/virtio_net.h, without the count of merged buffers, which only guests use. Every kernel's packet socket
/// has this size. Its 16-bit fields are in the byte order of the machine.
pub const VNET_HDR_LEN: usize = 10;

/// A virtio-net header as the kernel reads and writes it.
pub type VnetHdr = [u8; VNET_HDR_LEN];
