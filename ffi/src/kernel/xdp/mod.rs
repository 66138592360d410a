//! AF_XDP: an XDP program takes the tunnel's packets off an interface before the kernel sees them, and leaves everything else, and
//! the interface itself, to the kernel.
//!
//! Read first [`program`]'s head: which packets. One socket for each receive queue of the interface ([`XskRx`], [`XskTx`]); each belongs
//! to one worker. The program is attached by a link that lives as long as the sockets do: however the process ends, the
//! kernel detaches it.
//!
//! Frames are copied once, between the sockets' memory and the caller's. Lending the buffers out instead would save
//! that copy where the driver makes none, at the price of packets that hold a queue's buffers for as long as they live.

mod program;
mod ring;
mod rx;
mod socket;
mod tx;

use std::fmt;
use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::interface::{self, IfName};
use socket::{Failed, Mode, Sizes, Xsk};

pub use super::bpf::Attach;
pub use program::{Side, Steering, Target};
pub use rx::{MAX_PIECES, XskFrame, XskRx};
pub use tx::XskTx;

/// What a driver, or the kernel, keeps free in front of a received frame: `XDP_PACKET_HEADROOM`.
const HEADROOM: u32 = 256;
/// Ethernet header and two tags.
const LINK_HEADERS: u32 = 14 + 8;
/// The sizes of a buffer that every driver takes.
const SMALL: u32 = 2048;
const PAGE: u32 = 4096;

/// Why an interface cannot be used so.
#[derive(Debug, Error)]
pub enum XdpError {
    /// There is no such interface.
    #[error("interface {interface}: there is none of that name in this network namespace")]
    NoInterface {
        /// The name that was given.
        interface: IfName,
    },
    /// Somebody else's program is there.
    #[error(
        "XDP on {interface}: another XDP program is attached to it, and an interface takes one (`ip link show dev {interface}` \
         shows it; end the program that it belongs to, or detach it by `ip link set dev {interface} xdp off`, for one in \
         the kernel's stack by `xdpgeneric off`)"
    )]
    Taken {
        /// The interface.
        interface: IfName,
    },
    /// The kernel refused a step.
    #[error("XDP on {interface}: cannot {step}: {source}")]
    Step {
        /// The interface.
        interface: IfName,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// How to open an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpOptions {
    /// The tunnel's UDP port.
    pub port: u16,
    /// Receive buffers of each queue, a power of two. Default: 2048. More lets a worker be away longer before frames are lost;
    /// each is pinned memory of 2 KiB, or of 4 KiB for an MTU above 1770.
    pub rx_buffers: u32,
    /// Send buffers of a queue, a power of two. Default: 1024.
    pub tx_buffers: u32,
    /// The queues that are sent through: so many, from the first on. The others have next to no send buffers. Default: all.
    pub senders: u32,
    /// Prefixes between which packets are taken besides, at most; see [`Steering::set_prefixes`]. Default: 0, which costs
    /// nothing. For direct routing, which has no tunnel: then two look-ups for each packet that is the kernel's.
    pub prefixes: u32,
}

impl Default for XdpOptions {
    fn default() -> Self {
        Self { port: 8472, rx_buffers: 2048, tx_buffers: 1024, senders: u32::MAX, prefixes: 0 }
    }
}

/// How an interface was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpMode {
    /// Where the program runs.
    pub attach: Attach,
    /// The driver itself writes into the sockets' memory, on every queue.
    pub zero_copy: bool,
    /// Frames may be longer than a buffer.
    pub multi_buffer: bool,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.attach {
            Attach::Native => "native XDP",
            Attach::Generic => "generic XDP",
        })?;
        f.write_str(if self.zero_copy { ", zero copy" } else { ", with a copy" })?;
        f.write_str(if self.multi_buffer { ", multi-buffer" } else { "" })
    }
}

/// An open interface.
#[derive(Debug)]
pub struct XdpPort {
    /// The two sides of each queue, by the queue's number. They are used and closed independently.
    pub queues: Vec<(XskRx, XskTx)>,
    /// The program. The queues hold it too: it is detached when the last of them is closed.
    pub steering: Arc<Steering>,
    /// How it works.
    pub mode: XdpMode,
    /// Why it is not attached in the driver, if it is not.
    pub not_native: Option<String>,
}

impl XdpPort {
    /// Opens all queues of `interface` for frames of its present MTU. Everything stays the kernel's until [`Steering::set_own`]
    /// has said which addresses the tunnel has. May take half a second, where the interface was let go of
    /// only just now.
    ///
    /// It must be opened anew when the interface's MAC address, MTU or number of queues changes.
    pub fn open(interface: IfName, options: &XdpOptions) -> Result<Self, XdpError> {
        let step = |step| move |source| XdpError::Step { interface, step, source };
        let index = interface::index(interface).map_err(|source| match source.raw_os_error() {
            Some(libc::ENODEV) => XdpError::NoInterface { interface },
            _ => step("find its number")(source),
        })?;
        let mac = interface::mac(interface).map_err(step("read its MAC address"))?;
        let mtu = interface::mtu(interface).map_err(step("read its MTU"))?;
        let queues = interface::rx_queues(interface).map_err(step("count its queues"))?;

        let target = Target { port: options.port, mac, prefixes: options.prefixes };
        let mut steering = Steering::load(&target, queues)
            .map_err(step("load the XDP program (this needs CAP_BPF and CAP_NET_ADMIN, and Linux 5.9)"))?;
        // First of all, since this is what fails when the interface cannot.
        let (attach, not_native) =
            attach(&mut steering, index).map_err(|source| match source.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => XdpError::Taken { interface },
                _ => step("attach the XDP program")(source),
            })?;

        let steering = Arc::new(steering);
        let refused = |(step, source): Failed| XdpError::Step { interface, step, source };
        let sizes = |queue| sizes(mtu, options, queue);
        let mut open = Vec::new();
        let mut last = None;
        for mode in modes(mtu, attach) {
            let socket = |queue| Xsk::open(index, queue, mode, sizes(queue), &steering);
            match (0..queues).map(socket).collect() {
                Ok(sockets) => {
                    open = sockets;
                    last = Some(Ok(mode));
                    break;
                }
                Err(failed) => last = Some(Err(failed)),
            }
        }
        let mode = match last {
            Some(outcome) => outcome.map_err(refused)?,
            None => return Err(refused(("open a socket", io::ErrorKind::Unsupported.into()))),
        };
        let mode = XdpMode { attach, zero_copy: mode.zero_copy, multi_buffer: mode.multi_buffer };
        Ok(Self { queues: open, steering, mode, not_native })
    }
}

/// Attaches in the driver, or where it cannot, in the stack, and says why not in the driver.
fn attach(steering: &mut Steering, interface: u32) -> io::Result<(Attach, Option<String>)> {
    let Err(error) = steering.attach(interface, Attach::Native) else { return Ok((Attach::Native, None)) };
    if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::ENODEV)) {
        return Err(error);
    }
    steering.attach(interface, Attach::Generic)?;
    Ok((Attach::Generic, Some(error.to_string())))
}

/// Room for a received frame of an interface with this MTU.
fn room(mtu: u32) -> u32 {
    mtu + LINK_HEADERS + HEADROOM
}

fn sizes(mtu: u32, options: &XdpOptions, queue: u32) -> Sizes {
    let buffer = if room(mtu) <= SMALL { SMALL } else { PAGE };
    // A socket has both directions, used or not.
    let tx = if queue < options.senders { options.tx_buffers } else { 1 };
    Sizes { buffer, rx: options.rx_buffers, tx }
}

/// What to try, the best first.
fn modes(mtu: u32, attach: Attach) -> impl Iterator<Item = Mode> {
    let fits = room(mtu) <= PAGE;
    let zero_copy = attach == Attach::Native;
    let mode = |zero_copy, multi_buffer| Mode { zero_copy, multi_buffer };
    [
        // A driver may be able to go without copies only if frames fit.
        (zero_copy && fits).then_some(mode(true, false)),
        (zero_copy && !fits).then_some(mode(true, true)),
        // Several buffers cost nothing here, and take what has grown (a veth's GSO frames) too: Linux 6.6.
        Some(mode(false, true)),
        fits.then_some(mode(false, false)),
    ]
    .into_iter()
    .flatten()
}
