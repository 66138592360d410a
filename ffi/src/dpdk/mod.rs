//! DPDK: the environment ([`Eal`]), the packet buffer ([`Mempool`], [`Mbuf`]), and the two kinds of port that it
//! drives: devices ([`EthPort`]) and vhost-user sockets ([`VhostPort`]). Read [`Eal`] first.
//!
//! Who may do what: ports are made and closed on control threads. The queues that a port is split into belong to one
//! worker each and are used through `&mut`; no call on them locks, allocates from the heap or makes a system call
//! unless it says so. A thread that moves packets first calls [`Eal::register_thread`].

mod eal;
mod ethdev;
mod layout;
mod log;
#[cfg(feature = "lookup")]
mod lookup;
mod mbuf;
mod mempool;
mod offload;
mod sys;
mod vhost;

use arrayvec::ArrayVec;

pub use eal::{Eal, EalConfig, EalError, MemoryKind, RegisteredThread};
pub use ethdev::{EthConfig, EthError, EthLink, EthOffloads, EthPort, EthRx, EthStats, EthTx};
#[cfg(feature = "lookup")]
pub use lookup::{Fib, MacHash};
pub use mbuf::{MAX_SEGMENTS, Mbuf};
pub use mempool::{DATA_ROOM, HEADROOM, LARGE_ROOM, Mempool, PoolError};
pub use offload::{RxChecksum, TxWork, Upper};
pub use vhost::{Guest, VhostConfig, VhostError, VhostMode, VhostPort, VhostRx, VhostTx};

/// Packets in one burst at most.
pub const BURST: usize = 64;

/// Packets on their way together. An [`Mbuf`] is a pointer, so DPDK fills and empties a burst in place.
pub type Burst = ArrayVec<Mbuf, BURST>;

/// Asks the processor to fetch the line at this address, which may lead anywhere. Nothing happens on processors other than x86-64.
#[inline(always)]
fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program can see and faults for no address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The text of a DPDK or C error number, positive or negative.
fn error_text(number: i32) -> String {
    // SAFETY: rte_strerror returns a NUL-terminated text, static or of this thread, which is copied before this thread
    // calls it again.
    let text = unsafe { std::ffi::CStr::from_ptr(sys::rte_strerror(number.abs())) };
    text.to_string_lossy().into_owned()
}

/// The calling thread's DPDK error number, as text.
fn last_error() -> String {
    // SAFETY: reads a thread-local variable.
    error_text(unsafe { sys::weft_errno() })
}
