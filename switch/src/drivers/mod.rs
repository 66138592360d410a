//! The port drivers: DPDK's and the kernel's doors behind the engine's small port type. The only place where the engine meets
//! `weft-ffi`.

mod dpdk;
mod ip_tunnel;
mod messages;
mod missed;
mod packet;
mod pool;
mod sleep;
pub mod socket;
mod tap;
mod xdp;

use std::os::fd::BorrowedFd;

use weft_ffi::dpdk::{EthRx, EthTx, Mbuf, VhostRx, VhostTx};

pub use ip_tunnel::{IpTunnelRx, IpTunnelTx};
pub use packet::{PacketSocketRx, PacketSocketTx};
pub use pool::NativePool;
pub use sleep::{EpollSleeper, Tsc, WorkerWaker};
pub use socket::{SENDERS, SocketRx, SocketTx, UnderlayMtu};
pub use tap::{Spreader, TapRx, TapTx, delete_tap, tap_queues};
pub use xdp::{XdpRx, XdpTx};

use crate::port::{Armed, Burst, RxLoss, RxQueue, TxCaps, TxLoss, TxQueue};
use crate::worker::Platform;

/// The daemon's platform.
#[derive(Debug)]
pub enum Native {}

impl Platform for Native {
    type Pool = NativePool;
    type Rx = Rx;
    type Tx = Tx;
    type Waker = WorkerWaker;
}

/// A receive queue of any driver. One branch a burst chooses.
pub enum Rx {
    /// A pod's or the host's TAP.
    Tap(TapRx),
    /// A guest.
    Vhost(VhostRx),
    /// A DPDK device.
    Eth(EthRx),
    /// The uplink beside the kernel.
    Packet(PacketSocketRx),
    /// The uplink through the kernel.
    Socket(Box<SocketRx>),
    /// The uplink before the kernel.
    Xdp(Box<XdpRx>),
    /// A tunnel of plain packets.
    IpTunnel(Box<IpTunnelRx>),
}

/// A transmit queue of any driver.
pub enum Tx {
    /// A pod's or the host's TAP.
    Tap(TapTx),
    /// A guest.
    Vhost(VhostTx),
    /// A DPDK device.
    Eth(EthTx),
    /// The uplink beside the kernel.
    Packet(PacketSocketTx),
    /// The uplink through the kernel.
    Socket(Box<SocketTx>),
    /// The uplink before the kernel.
    Xdp(Box<XdpTx>),
    /// A tunnel of plain packets.
    IpTunnel(Box<IpTunnelTx>),
}

impl RxQueue<NativePool> for Rx {
    #[inline]
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        match self {
            Self::Tap(queue) => queue.rx(pool, burst),
            Self::Vhost(queue) => RxQueue::rx(queue, pool, burst),
            Self::Eth(queue) => RxQueue::rx(queue, pool, burst),
            Self::Packet(queue) => queue.rx(pool, burst),
            Self::Socket(queue) => queue.rx(pool, burst),
            Self::Xdp(queue) => queue.rx(pool, burst),
            Self::IpTunnel(queue) => queue.rx(pool, burst),
        }
    }
    fn rx_few(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>, few: usize) -> RxLoss {
        match self {
            Self::Tap(queue) => queue.rx_few(pool, burst, few),
            Self::Vhost(queue) => RxQueue::rx_few(queue, pool, burst, few),
            Self::Eth(queue) => RxQueue::rx_few(queue, pool, burst, few),
            // The uplink's, which no pod's limit is about.
            Self::Packet(_) | Self::Socket(_) | Self::Xdp(_) | Self::IpTunnel(_) => self.rx(pool, burst),
        }
    }
    #[inline]
    fn expect(&self) {
        if let Self::Vhost(queue) = self {
            RxQueue::expect(queue);
        }
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tap(queue) => queue.wait_fd(),
            Self::Vhost(queue) => RxQueue::wait_fd(queue),
            Self::Eth(queue) => RxQueue::wait_fd(queue),
            Self::Packet(queue) => queue.wait_fd(),
            Self::Socket(queue) => queue.wait_fd(),
            Self::Xdp(queue) => queue.wait_fd(),
            Self::IpTunnel(queue) => queue.wait_fd(),
        }
    }
    fn arm(&mut self) -> Armed {
        match self {
            Self::Vhost(queue) => RxQueue::arm(queue),
            Self::Packet(queue) => queue.arm(),
            Self::Socket(queue) => queue.arm(),
            Self::Xdp(queue) => queue.arm(),
            Self::IpTunnel(queue) => queue.arm(),
            Self::Tap(_) | Self::Eth(_) => Armed::Waits,
        }
    }
    fn disarm(&mut self) {
        if let Self::Vhost(queue) = self {
            RxQueue::disarm(queue);
        }
    }
    fn recover(&mut self) -> bool {
        match self {
            Self::Packet(queue) => queue.recover(),
            Self::Socket(queue) => queue.recover(),
            Self::IpTunnel(queue) => queue.recover(),
            Self::Vhost(_) | Self::Tap(_) | Self::Eth(_) | Self::Xdp(_) => false,
        }
    }
}

impl TxQueue<NativePool> for Tx {
    #[inline]
    fn caps(&self) -> TxCaps {
        match self {
            Self::Tap(queue) => queue.caps(),
            Self::Packet(queue) => queue.caps(),
            Self::Socket(queue) => queue.caps(),
            Self::Xdp(queue) => queue.caps(),
            Self::IpTunnel(queue) => queue.caps(),
            Self::Vhost(queue) => TxQueue::caps(queue),
            Self::Eth(queue) => TxQueue::caps(queue),
        }
    }
    #[inline]
    fn expect(&self) {
        if let Self::Vhost(queue) = self {
            TxQueue::expect(queue);
        }
    }
    #[inline]
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        match self {
            Self::Tap(queue) => queue.tx(burst),
            Self::Packet(queue) => queue.tx(burst),
            Self::Socket(queue) => queue.tx(burst),
            Self::Xdp(queue) => queue.tx(burst),
            Self::IpTunnel(queue) => queue.tx(burst),
            Self::Vhost(queue) => TxQueue::tx(queue, burst),
            Self::Eth(queue) => TxQueue::tx(queue, burst),
        }
    }
    fn take_loss(&mut self) -> TxLoss {
        match self {
            Self::Socket(queue) => queue.take_loss(),
            Self::IpTunnel(queue) => queue.take_loss(),
            Self::Tap(_) | Self::Packet(_) | Self::Xdp(_) | Self::Vhost(_) | Self::Eth(_) => {
                TxLoss::default()
            }
        }
    }
}
