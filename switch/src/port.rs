//! What a worker sees of a port: a queue to receive from, a queue to send to, and, where there is one, a file
//! descriptor that says when there is something to receive. Drivers are in `drivers`; the in-memory twin,
//! [`MemPort`], serves tests, fuzzing and benches.
//!
//! A queue is used through `&mut` and belongs to one worker.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use arrayvec::ArrayVec;

use crate::packet::{BufPool, HeapBuf, MAX_CHAIN, PacketBuf};

/// Packets in one burst at most: enough to spread the cost of a call and of a lookup's cache misses, few enough
/// that a burst's first lines are still in the first-level cache when it is sent.
pub const BURST: usize = 64;

/// Packets on their way through the switch together.
pub type Burst<B> = ArrayVec<B, BURST>;

/// What the far side of a transmit queue takes unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxCaps {
    /// Frames whose checksum is [`crate::offload::Checksum::Partial`].
    pub partial_checksum: bool,
    /// TCP over IPv4 to be segmented.
    pub gso_tcp4: bool,
    /// TCP over IPv6 to be segmented.
    pub gso_tcp6: bool,
    /// UDP to be segmented into datagrams (USO), over IPv4 and IPv6.
    pub gso_udp: bool,
    /// Of an uplink: tunnel packets whose inner frame is unfinished, its checksum partial or itself to be segmented. Whoever
    /// sends such a packet fills in the outer lengths and the outer checksum, which is 0 in it.
    pub gso_tunnel: bool,
    /// Of how many pieces of memory a frame to be segmented may consist.
    pub segments: usize,
}

impl Default for TxCaps {
    fn default() -> Self {
        Self::NONE
    }
}

impl TxCaps {
    /// Takes every frame as it is: the in-kernel doors with a virtio-net header.
    pub const ALL: Self =
        Self { partial_checksum: true, gso_tcp4: true, gso_tcp6: true, gso_udp: true, ..Self::NONE };
    /// Takes every tunnel packet as it is: an uplink that cuts while it sends.
    pub const TUNNEL: Self = Self { partial_checksum: true, gso_tunnel: true, ..Self::NONE };
    /// Takes only finished frames of the link's size.
    pub const NONE: Self = Self {
        partial_checksum: false,
        gso_tcp4: false,
        gso_tcp6: false,
        gso_udp: false,
        gso_tunnel: false,
        segments: MAX_CHAIN,
    };
}

/// Frames that a driver had to give up at rx, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RxLoss {
    /// No buffer was free.
    pub no_buffer: u32,
    /// The virtio-net header contradicts the frame.
    pub bad_offload: u32,
    /// Longer than the switch carries, or cut off by the interface.
    pub too_long: u32,
    /// The buffer that a device or guest handed over contradicts itself.
    pub malformed: u32,
    /// The queue in front of the switch was full: the worker came too late.
    pub missed: u32,
    /// The TTL was used up by a hop of the tunnel's own.
    pub expired: u32,
    /// The way was congested, and the packet does not take part in telling so.
    pub congested: u32,
}

/// Frames that a queue has left behind for a reason that it knows. Of all others it had no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxLoss {
    /// The kernel forbids them.
    pub refused: u32,
    /// The kernel knows no way there.
    pub unreachable: u32,
    /// Longer than the way takes.
    pub too_long: u32,
    /// The TTL is used up by a hop of the tunnel's own.
    pub expired: u32,
}

/// What became of a queue that was to be armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Armed {
    /// Its descriptor will tell.
    Waits,
    /// Something has come in already: the worker must not sleep.
    Busy,
    /// Its far side cannot tell: it must be polled.
    Mute,
}

/// The receiving side of a port.
pub trait RxQueue<P: BufPool> {
    /// Appends what has come in, as far as `burst` has room, and reports what it had to give up since last time.
    fn rx(&mut self, pool: &mut P, burst: &mut Burst<P::Buf>) -> RxLoss;
    /// As [`Self::rx`] of a port that may not bring much now: what is more than `few` frames is left where it is, as far as the
    /// driver can.
    fn rx_few(&mut self, pool: &mut P, burst: &mut Burst<P::Buf>, few: usize) -> RxLoss {
        let _ = few;
        self.rx(pool, burst)
    }
    /// [`Self::rx`] comes in a moment: has the processor fetch what it will look at first. A hint.
    #[inline]
    fn expect(&self) {}
    /// Readable when there is something to receive, once armed. `None` for a queue that must be polled.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;
    /// Asks the far side to make [`Self::wait_fd`] readable from now on.
    fn arm(&mut self) -> Armed {
        Armed::Waits
    }
    /// The worker is awake again and polls; clears the descriptor.
    fn disarm(&mut self) {}
    /// The descriptor reports an error, of this queue or of the port's other direction where both share it. Takes what is pending, and
    /// says whether the queue can still bring frames; if not, the worker leaves it alone until it is removed. An error
    /// that stays is reported again.
    fn recover(&mut self) -> bool {
        false
    }
}

/// The sending side of a port.
pub trait TxQueue<P: BufPool> {
    /// What may be sent unfinished. May change while the port lives (a guest that comes back with other features).
    fn caps(&self) -> TxCaps;
    /// [`Self::tx`] comes in a moment: has the processor fetch what it will look at first. A hint.
    #[inline]
    fn expect(&self) {}
    /// Sends from the front of `burst`; what it leaves there the port did not take.
    fn tx(&mut self, burst: &mut Burst<P::Buf>);
    /// Why frames were left by the last [`Self::tx`]. Asked only where there are some.
    fn take_loss(&mut self) -> TxLoss {
        TxLoss::default()
    }
}

#[derive(Debug, Default)]
struct Wire {
    to_switch: VecDeque<HeapBuf>,
    from_switch: Vec<HeapBuf>,
    caps: TxCaps,
    room: Option<usize>,
}

/// A port in memory: what a test injects the switch receives, what the switch sends the test takes. Its clones are
/// the same port; one serves as the rx queue, one as the tx queue, one stays with the test.
#[derive(Debug, Clone, Default)]
pub struct MemPort(Arc<Mutex<Wire>>);

impl MemPort {
    /// A port whose far side takes what `caps` says.
    pub fn with_caps(caps: TxCaps) -> Self {
        let port = Self::default();
        port.wire().caps = caps;
        port
    }

    /// From now on the far side takes this unfinished, as a guest that comes back with other features.
    pub fn set_caps(&self, caps: TxCaps) {
        self.wire().caps = caps;
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The switch will receive this.
    pub fn inject(&self, packet: HeapBuf) {
        self.wire().to_switch.push_back(packet);
    }

    /// What the switch has sent since last time.
    pub fn take(&self) -> Vec<HeapBuf> {
        std::mem::take(&mut self.wire().from_switch)
    }

    /// How many frames wait to be received.
    pub fn waiting(&self) -> usize {
        self.wire().to_switch.len()
    }

    /// Whether something waits to be received.
    pub fn waits(&self) -> bool {
        !self.wire().to_switch.is_empty()
    }

    /// From now on the far side takes this many packets more (`None`: no limit).
    pub fn limit(&self, room: Option<usize>) {
        self.wire().room = room;
    }
}

impl<P: BufPool<Buf = HeapBuf>> RxQueue<P> for MemPort {
    fn rx(&mut self, pool: &mut P, burst: &mut Burst<HeapBuf>) -> RxLoss {
        self.rx_few(pool, burst, BURST)
    }
    fn rx_few(&mut self, _pool: &mut P, burst: &mut Burst<HeapBuf>, few: usize) -> RxLoss {
        let mut wire = self.wire();
        for _ in 0..few.min(burst.remaining_capacity()) {
            let Some(packet) = wire.to_switch.pop_front() else { break };
            burst.push(packet);
        }
        RxLoss::default()
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl<P: BufPool<Buf = HeapBuf>> TxQueue<P> for MemPort {
    fn caps(&self) -> TxCaps {
        self.wire().caps
    }
    fn tx(&mut self, burst: &mut Burst<HeapBuf>) {
        let mut wire = self.wire();
        let take = wire.room.map_or(burst.len(), |room| room.min(burst.len()));
        if let Some(room) = &mut wire.room {
            *room -= take;
        }
        wire.from_switch.extend(burst.drain(..take));
    }
}

/// A packet as a test sees it: bytes and state.
impl PartialEq for HeapBuf {
    fn eq(&self, other: &Self) -> bool {
        self.to_vec() == other.to_vec() && self.offload() == other.offload()
    }
}
