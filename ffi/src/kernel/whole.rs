//! A way into the kernel for tunnel packets that stand for many: the kernel takes them whole, and cuts them as late as it can, or has the
//! NIC do it.
//!
//! It is a TAP of our own, of which nothing is ever read. Each packet comes with a header that says where the tunnel's and the inner
//! headers are (`struct virtio_net_hdr_v1_hash_tunnel` of linux/virtio_net.h; TAPs take it since Linux 6.17), and a BPF program of
//! a few instructions sends it on through the underlay's interface, with the kernel's own route and neighbour
//! (`bpf_redirect_neigh`). A packet filter behind the interface does not see it, and nothing says whether it went out: who sends has
//! to find that out in other ways.
//!
//! The device goes when its last queue is closed, however the process ends.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use libc::{c_int, c_ulong};

use super::bpf::insn::{Insn, Reg, Size};
use super::bpf::{self, ProgramKind};
use super::interface::{self, IfName};
use super::{sys, tap};

/// Bytes of the header before each packet.
pub const TUNNEL_HDR_LEN: usize = 24;

/// Bytes that may wait in the kernel for each queue, with its own overhead: as much as for a socket of the tunnel.
const SEND_BUFFER: c_int = 8 << 20;
/// What the device is called; the kernel puts a number in.
const TEMPLATE: &str = "weft-out%d";

/// One queue into the kernel: a thread's.
#[derive(Debug)]
pub struct WholeTx {
    file: File,
    _link: Arc<OwnedFd>,
}

impl WholeTx {
    /// Makes the device with so many queues. What they are given leaves through `underlay`.
    ///
    /// # Errors
    /// `Unsupported` on a kernel whose TAPs do not know tunnels.
    pub fn open(underlay: IfName, queues: usize) -> io::Result<Vec<Self>> {
        let underlay = interface::index(underlay)?;
        let mut name = None;
        let files: io::Result<Vec<File>> = (0..queues).map(|_| queue(&mut name)).collect();
        let files = files?;
        let Some(name) = name else { return Ok(Vec::new()) };
        // Nothing of the kernel's own is to come out of it. Where it has no IPv6 there is nothing to switch off.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        interface::set_up_without_arp(name)?;
        let program = bpf::load(ProgramKind::Classifier, "weft_out", &onward(underlay))?;
        let link = Arc::new(bpf::attach_ingress(program.as_fd(), interface::index(name)?)?);
        Ok(files.into_iter().map(|file| Self { file, _link: link.clone() }).collect())
    }

    /// Sends one packet: its header, then the bytes of `pieces`. False if the kernel takes no more just now.
    ///
    /// # Errors
    /// `EINVAL` for a header that contradicts the packet; `InvalidInput` for more than [`crate::dpdk::MAX_SEGMENTS`] pieces.
    pub fn send(&self, header: &[u8; TUNNEL_HDR_LEN], pieces: &[IoSlice<'_>]) -> io::Result<bool> {
        tap::write_frame(&self.file, header, pieces)
    }
}

/// Opens a queue: the first makes the device.
fn queue(name: &mut Option<IfName>) -> io::Result<File> {
    const CSUM: c_ulong = 1;
    const TSO: c_ulong = 2 | 4 | 8;
    const USO: c_ulong = 0x20 | 0x40;
    const TUNNEL: c_ulong = 0x80 | 0x100;
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut ifreq = match name {
        Some(name) => name.to_ifreq(),
        None => {
            let mut ifreq = sys::zeroed::<libc::ifreq>();
            for (to, from) in ifreq.ifr_name.iter_mut().zip(TEMPLATE.bytes()) {
                *to = from as libc::c_char;
            }
            ifreq
        }
    };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    ifreq.ifr_ifru.ifru_flags = flags as libc::c_short;
    sys::ioctl_ifreq(file.as_fd(), libc::TUNSETIFF as _, &mut ifreq)?;
    sys::ioctl_int(file.as_fd(), libc::TUNSETVNETHDRSZ as _, TUNNEL_HDR_LEN as c_int)?;
    let offloads = sys::ioctl_value(file.as_fd(), libc::TUNSETOFFLOAD as _, CSUM | TSO | USO | TUNNEL);
    offloads.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => io::ErrorKind::Unsupported.into(),
        _ => error,
    })?;
    sys::ioctl_int(file.as_fd(), libc::TUNSETSNDBUF as _, SEND_BUFFER)?;
    if name.is_none() {
        *name = Some(interface::name_in(&ifreq)?);
    }
    Ok(file)
}

/// The program: `skb->queue_mapping = 0; return bpf_redirect_neigh(underlay, NULL, 0, 0)`. Without the first, a NIC's queue would be chosen by
/// the TAP's and not as for what sockets send, and a flow could overtake itself.
fn onward(underlay: u32) -> [Insn; 7] {
    const REDIRECT_NEIGH: i32 = 152;
    /// In `struct __sk_buff` of linux/bpf.h.
    const QUEUE_MAPPING: i16 = 12;
    [
        Insn::store_value(Size::Word, Reg::R1, QUEUE_MAPPING, 0),
        Insn::set(Reg::R1, underlay as i32),
        Insn::set(Reg::R2, 0),
        Insn::set(Reg::R3, 0),
        Insn::set(Reg::R4, 0),
        Insn::call(REDIRECT_NEIGH),
        Insn::exit(),
    ]
}
