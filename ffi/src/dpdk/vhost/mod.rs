//! vhost-user ports: the network card of a guest, which may be a virtual machine or a process with `virtio-user`,
//! behind a UNIX socket. DPDK's vhost library is used directly; `net_vhost` hides offloads and reconnects.
//!
//! Frames of the usual kind are moved here, in the guest's rings (`lane`); the library does the rest, and all talking.
//!
//! Three threads meet here. Control registers and closes a port. The library's own thread talks with the guests and
//! reports what comes and goes (`state`). A worker moves packets (`queue`). What they share is in `state`, and no
//! lock of it is on the packets' way.
//!
//! Guests are offered checksums and TCP segmentation in both directions, the same set whenever weftd starts: a guest keeps
//! what it has negotiated over a restart. UDP segmentation (USO) is not known to the library of DPDK 22.11, and the old
//! UFO makes IP fragments of datagrams: it is not offered.
//!
//! What the library makes of a guest's virtio-net header is less than what was in it: flags and a size. It believes no place
//! of a checksum: one in TCP or UDP is reported as missing, whatever place the guest has named in front of their end; any other it
//! fills in itself (in tunnel packets, ICMP), before anybody here has looked at the frame; one beyond the frame it ignores. (The
//! second byte of such a field may fall behind a full buffer, where a pool has padding in front of the next one.) To
//! guests it writes the header from flags and lengths, and may write the pseudo-header's sum anew: without the length where
//! TCP is to be segmented, which is the rule of some NICs and breaks guests that forward. [`VhostTx::keep_sum`] is the remedy.

mod lane;
mod queue;
mod state;

use std::ffi::CString;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;

use super::{Eal, sys};
pub use queue::{VhostRx, VhostTx};
use state::PortState;

/// The longest path that fits into a UNIX socket's address with its NUL (unix(7)).
const PATH_ROOM: usize = 107;

/// Queue pairs that a port has at most.
const MAX_PAIRS: u16 = 8;

/// Feature bits (virtio 1.2, sections 5.1.3 and 6) of segmentation that guests are not offered: GSO (any kind, from before
/// the standard), GUEST_UFO, HOST_UFO.
const UNKNOWN_SEGMENTATION: u64 = 1 << 6 | 1 << 10 | 1 << 14;
/// VIRTIO_NET_F_GUEST_CSUM: the guest takes frames whose checksum is missing.
const GUEST_CSUM: u64 = 1 << 1;
/// VIRTIO_NET_F_GUEST_TSO4: the guest takes TCP over IPv4 to be segmented.
const GUEST_TSO4: u64 = 1 << 7;
/// VIRTIO_NET_F_GUEST_TSO6: the same over IPv6.
const GUEST_TSO6: u64 = 1 << 8;
/// VIRTIO_NET_F_MRG_RXBUF: a frame may span several of the guest's buffers.
const MRG_RXBUF: u64 = 1 << 15;
/// VIRTIO_NET_F_MQ, offered only by a port of several pairs.
const MQ: u64 = 1 << 22;
/// VIRTIO_F_RING_PACKED: the library can't say for a packed ring whether packets are waiting, which sleeping needs.
const RING_PACKED: u64 = 1 << 34;
/// VHOST_USER_PROTOCOL_F_MQ.
const PROTOCOL_MQ: u64 = 1 << 0;

/// Which side makes the socket. Seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VhostMode {
    /// The guest listens, and this side connects, again and again: a restart of either side heals by itself.
    Client,
    /// This side listens; the guest must know how to reconnect.
    Server,
}

/// The guest that is connected, and what it has agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    connect: u32,
    features: u64,
}

impl Guest {
    /// Takes frames whose TCP or UDP checksum is missing.
    #[inline]
    pub fn takes_partial(self) -> bool {
        self.features & GUEST_CSUM != 0
    }

    /// Takes TCP over IPv4 to be segmented.
    #[inline]
    pub fn takes_tso4(self) -> bool {
        self.takes_segmented() && self.features & GUEST_TSO4 != 0
    }

    /// Takes TCP over IPv6 to be segmented.
    #[inline]
    pub fn takes_tso6(self) -> bool {
        self.takes_segmented() && self.features & GUEST_TSO6 != 0
    }

    /// Has buffers that a frame may span, so that each frame fits while there are enough of them.
    #[inline]
    pub fn spans_buffers(self) -> bool {
        self.features & MRG_RXBUF != 0
    }

    /// Without buffers to be spanned, a guest that takes 64 KiB must post such buffers (virtio 1.2, section 5.1.6.3.1); one that does not
    /// would block its port.
    fn takes_segmented(self) -> bool {
        self.takes_partial() && self.spans_buffers()
    }
}

/// How a vhost-user port is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostConfig {
    /// Pairs of queues, 1 (the default) to 8. With more than one the guest is offered multiqueue and must not use more
    /// than these: the library of DPDK 22.11 can't tell it.
    pub queue_pairs: u16,
}

impl Default for VhostConfig {
    fn default() -> Self {
        Self { queue_pairs: 1 }
    }
}

/// Why there is no vhost-user port.
#[derive(Debug, Error)]
pub enum VhostError {
    /// Too long for a UNIX socket, or not text.
    #[error("the socket path {0:?} does not fit: at most {PATH_ROOM} bytes, without NUL, in UTF-8")]
    Path(PathBuf),
    /// Out of range.
    #[error("vhost-user port {path:?}: {pairs} queue pairs are not within 1 to {MAX_PAIRS}")]
    QueuePairs {
        /// The socket.
        path: String,
        /// What was asked for.
        pairs: u16,
    },
    /// This process has such a port.
    #[error("vhost-user port {0:?} exists already")]
    Exists(String),
    /// Another process serves the socket, or a file is in the way.
    #[error("the socket path {path:?} is in use: {reason}")]
    InUse {
        /// The socket.
        path: String,
        /// By what.
        reason: String,
    },
    /// The system refused a file descriptor.
    #[error("vhost-user port {path:?}: {source}")]
    System {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// DPDK refused.
    #[error(
        "vhost-user port {path:?} could not be made ({step}): check that its folder exists and may be written to"
    )]
    Refused {
        /// The socket.
        path: String,
        /// Which step.
        step: &'static str,
    },
}

/// A vhost-user port: a socket and whoever is connected to it. Made, asked and closed on control threads; its queues
/// live on without it and then find nobody connected.
pub struct VhostPort {
    state: Arc<PortState>,
    queues: Option<(Vec<VhostRx>, Vec<VhostTx>)>,
    c_path: CString,
    _eal: Eal,
}

impl VhostPort {
    /// Makes the port. As a server, a socket that a dead process has left is replaced, any other file is not.
    pub fn register(
        eal: &Eal,
        path: &Path,
        mode: VhostMode,
        config: &VhostConfig,
    ) -> Result<Self, VhostError> {
        let too_long = || VhostError::Path(path.to_owned());
        let text = path.to_str().filter(|text| (1..=PATH_ROOM).contains(&text.len())).ok_or_else(too_long)?;
        let c_path = CString::new(text).map_err(|_| too_long())?;
        let text = text.to_owned();
        if !(1..=MAX_PAIRS).contains(&config.queue_pairs) {
            return Err(VhostError::QueuePairs { path: text, pairs: config.queue_pairs });
        }
        let state = PortState::new(&text, config.queue_pairs)
            .map_err(|source| VhostError::System { path: text.clone(), source })?;
        let state = Arc::new(state);
        if !state::announce(&state) {
            return Err(VhostError::Exists(text));
        }
        let made = clear_the_way(&text, mode).and_then(|()| {
            // Two that start at once would each find no thread for the guests' messages, and make one: both would read them.
            let _one_at_a_time = eal.control();
            start(&text, &c_path, mode, config)
        });
        if let Err(error) = made {
            state::withdraw(&text);
            return Err(error);
        }
        let rx = (0..config.queue_pairs).map(|pair| VhostRx::new(&state, pair)).collect();
        let tx = (0..config.queue_pairs).map(|pair| VhostTx::new(&state, pair)).collect();
        Ok(Self { state, queues: Some((rx, tx)), c_path, _eal: eal.clone() })
    }

    /// The queues, each pair for one worker. Empty the second time.
    pub fn split(&mut self) -> (Vec<VhostRx>, Vec<VhostTx>) {
        self.queues.take().unwrap_or_default()
    }

    /// The socket.
    pub fn path(&self) -> &str {
        self.state.path()
    }

    /// Whether a guest is there and its driver has started the queues.
    pub fn connected(&self) -> bool {
        self.state.device().is_some()
    }

    /// What the guest that is there has agreed to (virtio feature bits); 0 without one.
    pub fn features(&self) -> u64 {
        if self.connected() { self.state.features.load(Ordering::Acquire) } else { 0 }
    }

    /// How many guests have come so far: a reconnect is one more.
    pub fn connects(&self) -> u32 {
        self.state.connects()
    }

    /// Cuts the guest off and removes the socket that this side made. The same as dropping it.
    pub fn close(self) {}
}

impl Drop for VhostPort {
    fn drop(&mut self) {
        // SAFETY: EAL runs; the path is the one that was registered. Returns after the guest's departure was reported, and
        // with it after the last worker has left the library.
        if unsafe { sys::rte_vhost_driver_unregister(self.c_path.as_ptr()) } != 0 {
            tracing::warn!("vhost-user port {}: DPDK does not know it any more", self.state.path());
        }
        state::withdraw(self.state.path());
    }
}

impl std::fmt::Debug for VhostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostPort").field("path", &self.path()).field("connected", &self.connected()).finish()
    }
}

/// Removes a socket at `path` that nobody listens on.
fn clear_the_way(path: &str, mode: VhostMode) -> Result<(), VhostError> {
    if mode == VhostMode::Client {
        return Ok(());
    }
    let in_use = |reason: &str| VhostError::InUse { path: path.to_owned(), reason: reason.to_owned() };
    let system = |source| VhostError::System { path: path.to_owned(), source };
    let file = match std::fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
    };
    if !file.file_type().is_socket() {
        return Err(in_use("a file that is no socket is there; remove it or take another path"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("{path}: removing the socket of a process that is gone");
            std::fs::remove_file(path).map_err(system)
        }
        Err(error) => Err(system(error)),
        Ok(_) => Err(in_use("another process listens on it; stop it or take another path")),
    }
}

fn start(path: &str, c_path: &CString, mode: VhostMode, config: &VhostConfig) -> Result<(), VhostError> {
    let refused = |step| VhostError::Refused { path: path.to_owned(), step };
    // The compliant flags keep the library from parsing a guest's packets. External and linear buffers stay off: a long
    // frame then arrives as a chain, without an allocation from the heap.
    let mut flags = sys::WEFT_VHOST_COMPLIANT_OL_FLAGS;
    if mode == VhostMode::Client {
        flags |= sys::WEFT_VHOST_CLIENT;
    }
    let single = config.queue_pairs == 1;
    let off = UNKNOWN_SEGMENTATION | RING_PACKED | if single { MQ } else { 0 };
    // SAFETY: EAL runs, and the path is NUL-terminated and copied.
    if unsafe { sys::rte_vhost_driver_register(c_path.as_ptr(), flags) } != 0 {
        return Err(refused("register"));
    }
    // SAFETY: the path is registered; the callbacks are static.
    let step = unsafe {
        let mut protocol = 0;
        if sys::rte_vhost_driver_disable_features(c_path.as_ptr(), off) != 0 {
            Err("features")
        } else if single
            && (sys::rte_vhost_driver_get_protocol_features(c_path.as_ptr(), &mut protocol) != 0
                || sys::rte_vhost_driver_set_protocol_features(c_path.as_ptr(), protocol & !PROTOCOL_MQ) != 0)
        {
            Err("protocol features")
        } else if sys::rte_vhost_driver_callback_register(c_path.as_ptr(), state::callbacks()) != 0 {
            Err("callbacks")
        } else if sys::rte_vhost_driver_start(c_path.as_ptr()) != 0 {
            Err(if mode == VhostMode::Server { "listen" } else { "connect" })
        } else {
            Ok(())
        }
    };
    step.map_err(|step| {
        // SAFETY: registered above.
        unsafe { sys::rte_vhost_driver_unregister(c_path.as_ptr()) };
        refused(step)
    })
}
