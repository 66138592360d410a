//! Sending: a burst's messages are planned, and the kernel gathers each from where its bytes lie.

use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::udp::{Family, Refusal, UdpError, UdpTx};

use super::plan::{Plan, SENDERS};
use crate::drivers::NativePool;
use crate::port::{Burst, TxCaps, TxLoss, TxQueue};

/// Sends tunnel packets.
pub struct SocketTx {
    v4: UdpTx,
    /// `None` on a kernel without IPv6.
    v6: Option<UdpTx>,
    /// The tunnel's, at every node.
    port: u16,
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
        }
    }
}

impl SocketTx {
    /// Opens the sockets of a tunnel whose nodes all have this port.
    pub fn open(port: u16) -> Result<Self, UdpError> {
        let v4 = UdpTx::open(Family::V4, SENDERS)?;
        let v6 = match UdpTx::open(Family::V6, SENDERS) {
            Err(error) if error.is_without_family() => None,
            other => Some(other?),
        };
        Ok(Self { v4, v6, port, plan: Plan::default(), loss: TxLoss::default() })
    }
}

impl TxQueue<NativePool> for SocketTx {
    fn caps(&self) -> TxCaps {
        TxCaps::TUNNEL
    }
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        let mut left = Left { all: self.plan.make(burst, self.port), ..Left::default() };
        for share in self.plan.shares() {
            let sockets = if share.is_v6() { self.v6.as_mut() } else { Some(&mut self.v4) };
            match sockets {
                Some(sockets) => sockets.send(share.socket(), share.messages(burst), |message, error| {
                    left.add(share.packets_of(message), error.into());
                }),
                None => left.all |= share.packets(),
            }
        }
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
        assert_eq!(left.loss(), TxLoss { refused: 1, unreachable: 1, too_long: 1 });
    }
}
