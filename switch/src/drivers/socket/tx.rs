//! Sending: a burst's messages are planned, and the kernel gathers each from where its bytes lie.

use std::sync::Arc;
use std::time::Instant;

use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::udp::{Family, Refusal, UdpError, UdpTx};
use weft_ffi::kernel::whole::WholeTx;
use weft_sync::counter::Counter;

use super::plan::{Lane, Plan, SENDERS};
use super::whole::{Ports, Whole};
use crate::drivers::NativePool;
use crate::port::{Burst, TxCaps, TxLoss, TxQueue};

/// Sends tunnel packets.
pub struct SocketTx {
    v4: UdpTx,
    /// `None` on a kernel without IPv6.
    v6: Option<UdpTx>,
    /// The tunnel's, at every node.
    port: u16,
    /// Takes frames that stand for several as they are, where the kernel has such a way.
    whole: Option<Whole>,
    /// How many frames went that way.
    went_whole: Arc<Counter>,
    plan: Plan,
    loss: TxLoss,
}

/// The packets of a burst that are not sent, a bit each, by the first reason that there was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Left {
    all: u64,
    refused: u64,
    unreachable: u64,
    too_long: u64,
}

impl Left {
    /// The kernel has said this about these packets.
    fn add(&mut self, packets: u64, why: Refusal) {
        let new = packets & !self.all;
        self.all |= new;
        match why {
            Refusal::Filtered => self.refused |= new,
            Refusal::Unreachable => self.unreachable |= new,
            Refusal::TooLong => self.too_long |= new,
            Refusal::Other => {}
        }
    }

    fn loss(self) -> TxLoss {
        TxLoss {
            refused: self.refused.count_ones(),
            unreachable: self.unreachable.count_ones(),
            too_long: self.too_long.count_ones(),
            expired: 0,
        }
    }
}

impl SocketTx {
    /// Opens the sockets of a tunnel whose nodes all have this port; `whole` takes frames that stand for several.
    pub fn open(port: u16, whole: Option<WholeTx>) -> Result<Self, UdpError> {
        let v4 = UdpTx::open(Family::V4, SENDERS)?;
        let v6 = match UdpTx::open(Family::V6, SENDERS) {
            Err(error) if error.is_without_family() => None,
            other => Some(other?),
        };
        let ports = Ports { v4: ports(&v4), v6: v6.as_ref().map(ports).unwrap_or_default() };
        let whole = whole.map(|tx| Whole::new(tx, ports));
        let went_whole = Arc::default();
        Ok(Self { v4, v6, port, whole, went_whole, plan: Plan::default(), loss: TxLoss::default() })
    }

    /// How many frames that stand for several have gone as they are.
    pub fn went_whole(&self) -> Arc<Counter> {
        Arc::clone(&self.went_whole)
    }

    /// Notes which destinations the kernel has cut frames for, so that the next ones may go whole.
    fn prove(&mut self, left: Left) {
        let Self { v4, v6, whole: Some(whole), plan, .. } = self else { return };
        let mut now = None;
        for (lane, packet) in plan.cuts() {
            let (to, now) = (lane.to.ip(), *now.get_or_insert_with(Instant::now));
            let cuts = if to.is_ipv4() { v4.cuts(to) } else { v6.as_ref().is_some_and(|v6| v6.cuts(to)) };
            if left.all >> packet & 1 == 0 && cuts && !whole.is_open(to, now) {
                whole.prove(to, now);
            }
        }
    }
}

/// The ports of a family's sockets, by their numbers.
fn ports(tx: &UdpTx) -> [u16; SENDERS] {
    let mut ports = [0; SENDERS];
    ports.iter_mut().zip(tx.ports()).for_each(|(to, port)| *to = *port);
    ports
}

impl TxQueue<NativePool> for SocketTx {
    fn caps(&self) -> TxCaps {
        TxCaps::TUNNEL
    }
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        // Read once a burst, and only if there is a frame that it matters for.
        let mut now = None;
        let whole = |packet: &mut Mbuf, lane: &Lane, count: usize| {
            let Some(whole) = &mut self.whole else { return false };
            whole.is_open(lane.to.ip(), *now.get_or_insert_with(Instant::now))
                && whole.ready(packet, lane, count)
        };
        let mut left = Left { all: self.plan.make(burst, self.port, whole), ..Left::default() };
        for share in self.plan.shares() {
            if let Some((packet, lane)) = share.whole() {
                if self.whole.as_mut().is_some_and(|whole| whole.send(&burst[packet], lane)) {
                    self.went_whole.add(1);
                } else {
                    left.add(share.packets(), Refusal::Other);
                }
                continue;
            }
            let sockets = if share.is_v6() { self.v6.as_mut() } else { Some(&mut self.v4) };
            match sockets {
                Some(sockets) => sockets.send(share.socket(), share.messages(burst), |message, error| {
                    left.add(share.packets_of(message), error.into());
                }),
                None => left.all |= share.packets(),
            }
        }
        self.prove(left);
        if left.all == 0 {
            Mbuf::free_burst(burst);
            return;
        }
        self.loss = left.loss();
        let mut index = 0;
        burst.retain(|_| {
            index += 1;
            left.all >> (index - 1) & 1 == 1
        });
    }
    fn take_loss(&mut self) -> TxLoss {
        std::mem::take(&mut self.loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_left_for_the_first_reason() {
        let mut left = Left { all: 0b1, ..Left::default() };
        left.add(0b11, Refusal::Filtered);
        left.add(0b110, Refusal::TooLong);
        left.add(0b1000, Refusal::Other);
        left.add(0b11000, Refusal::Unreachable);
        assert_eq!(left, Left { all: 0b11111, refused: 0b10, too_long: 0b100, unreachable: 0b10000 });
        assert_eq!(left.loss(), TxLoss { refused: 1, unreachable: 1, too_long: 1, expired: 0 });
    }
}
