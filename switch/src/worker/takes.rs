//! Which ports take frames that stand for several. Kept by the worker that has a port's queue, and read by all, since any of them
//! may merge what goes there. Only a hint: whatever is in a frame that reaches the queue, the outbox finishes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::offload::GsoKind;
use crate::port::TxCaps;
use crate::types::{MAX_PORTS, PortId};

/// Shared by the workers of a switch.
#[derive(Debug, Clone)]
pub(super) struct Takes(Arc<[AtomicU8]>);

impl Default for Takes {
    fn default() -> Self {
        Self((0..MAX_PORTS).map(|_| AtomicU8::new(0)).collect())
    }
}

/// The kinds that a port takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    fn of(caps: TxCaps) -> Self {
        let kinds =
            [(caps.gso_tcp4, GsoKind::Tcp4), (caps.gso_tcp6, GsoKind::Tcp6), (caps.gso_udp, GsoKind::Udp)];
        let taken = kinds.into_iter().filter(|(takes, _)| *takes && caps.partial_checksum);
        Self(taken.fold(0, |bits, (_, kind)| bits | bit(kind)))
    }

    #[inline]
    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(super) fn has(self, kind: GsoKind) -> bool {
        self.0 & bit(kind) != 0
    }
}

fn bit(kind: GsoKind) -> u8 {
    match kind {
        GsoKind::Tcp4 => 1,
        GsoKind::Tcp6 => 2,
        GsoKind::Udp => 4,
    }
}

impl Takes {
    /// What the port's queue says now.
    pub(super) fn set(&self, port: PortId, caps: TxCaps) {
        self.0[port.index()].store(Kinds::of(caps).0, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn of(&self, port: PortId) -> Kinds {
        Kinds(self.0[port.index()].load(Ordering::Relaxed))
    }
}
