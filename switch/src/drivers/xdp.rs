//! AF_XDP: the uplink on an interface whose tunnel packets an XDP program takes out, while the rest stays with the kernel. Frames are
//! finished ones both ways: the kernel tells nothing of checksums there, and takes nothing unfinished.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use weft_ffi::dpdk::Mbuf;
use weft_ffi::kernel::event::{Epoll, Interest};
use weft_ffi::kernel::xdp::{XskFrame, XskRx, XskTx};

use super::missed::Missed;
use super::{NativePool, UnderlayMtu};
use crate::offload::unfilled::state_of;
use crate::offload::{Checksum, Offload};
use crate::packet::{BufPool, MAX_PACKET, PacketBuf};
use crate::port::{Armed, Burst, RxLoss, RxQueue, TxCaps, TxQueue};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{ETHERNET_LEN, EtherType, EthernetView};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::Ipv4View;
use crate::wire::ipv6::{IPV6_LEN, Ipv6View};
use crate::wire::udp::{UDP_LEN, UdpView};
use crate::wire::vlan::VLAN_LEN;
use crate::wire::vxlan::VXLAN_LEN;

/// Both MAC addresses of an Ethernet header.
const MACS: usize = 12;

/// Receives what the program gives to the sockets of one or more of the interface's queues.
pub struct XdpRx {
    queues: Vec<XskRx>,
    /// Readable when one of several queues is.
    any: Option<Epoll>,
    /// The queue that is asked first the next time.
    first: usize,
    port: u16,
    mtu: UnderlayMtu,
    missed: Missed,
}

impl XdpRx {
    /// Receives from these queues (one at least) the packets of a tunnel on this UDP port.
    pub fn new(queues: Vec<XskRx>, port: u16, mtu: UnderlayMtu) -> io::Result<Self> {
        let any = match queues.as_slice() {
            [_] => None,
            several => {
                let any = Epoll::new()?;
                for (index, queue) in several.iter().enumerate() {
                    any.add(queue.as_fd(), index as u64, Interest::Read)?;
                }
                Some(any)
            }
        };
        Ok(Self { queues, any, first: 0, port, mtu, missed: Missed::NEW })
    }
}

/// Sends through one of the interface's queues.
pub struct XdpTx(pub XskTx);

impl RxQueue<NativePool> for XdpRx {
    fn rx(&mut self, pool: &mut NativePool, burst: &mut Burst<Mbuf>) -> RxLoss {
        let mut loss = RxLoss::default();
        let count = self.queues.len();
        for turn in 0..count {
            let index = (self.first + turn) % count;
            let Some(queue) = self.queues.get_mut(index) else { break };
            while !burst.is_full() {
                let Some(frame) = queue.next_frame() else { break };
                self.missed.came();
                match take(&frame, pool) {
                    Ok(mut packet) => {
                        let state = state(&packet, self.port, &self.mtu);
                        packet.set_offload(state);
                        burst.push(packet);
                    }
                    Err(Lost::TooLong) => loss.too_long += 1,
                    Err(Lost::NoBuffer) => loss.no_buffer += 1,
                }
            }
            queue.end_burst();
        }
        // A queue that fills every burst keeps no other waiting.
        self.first = (self.first + 1) % count.max(1);
        loss.missed = self.missed.poll(|| {
            let lost = self.queues.iter_mut().map(|queue| queue.lost().unwrap_or(0)).sum::<u64>();
            u32::try_from(lost).unwrap_or(u32::MAX)
        });
        loss
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.any {
            Some(any) => Some(any.as_fd()),
            None => self.queues.first().map(AsFd::as_fd),
        }
    }
    fn arm(&mut self) -> Armed {
        let unsent = self.queues.iter().any(XskRx::has_unsent);
        if self.missed.settle() && !unsent { Armed::Waits } else { Armed::Busy }
    }
}

enum Lost {
    TooLong,
    NoBuffer,
}

/// Copies a frame out, less a priority tag, which the program has let pass.
#[inline]
fn take(frame: &XskFrame<'_>, pool: &mut NativePool) -> Result<Mbuf, Lost> {
    let len = frame.len();
    if len > MAX_PACKET {
        return Err(Lost::TooLong);
    }
    let mut packet = pool.alloc(len).ok_or(Lost::NoBuffer)?;
    let mut at = 0;
    for piece in frame.pieces() {
        packet.write_at(at, piece);
        at += piece.len();
    }
    let head = packet.head_mut();
    if head.get(MACS..MACS + 2) == Some(&EtherType::VLAN.0.to_be_bytes()) {
        head.copy_within(..MACS, VLAN_LEN);
        packet.trim_front(VLAN_LEN);
    }
    Ok(packet)
}

/// What a kernel on the same machine (over veth) has left to do: a pod's checksum, or the outer one over a complete inner
/// packet.
#[inline]
fn state(packet: &Mbuf, port: u16, mtu: &UnderlayMtu) -> Offload {
    // A pod's, from a node that does without the tunnel.
    let plain = || state_of(packet, 0, mtu.underlay(), None);
    let Some((udp, v6, pseudo)) = outer(packet.head()) else { return plain() };
    let Ok(header) = UdpView::new_header_checked(packet.head().get(udp..).unwrap_or_default()) else {
        return plain();
    };
    if header.dst_port() != port {
        return plain();
    }
    let inner = state_of(packet, udp + UDP_LEN + VXLAN_LEN, mtu.overlay(v6), None);
    if inner != Offload::default() || header.checksum() == 0 {
        return inner;
    }
    // Never filled in: the packet was on no wire that could have changed it.
    let unfilled = header.checksum() == pseudo.add_u16(IpProtocol::UDP.0.into()).add_u16(header.len()).fold();
    Offload { checksum: if unfilled { Checksum::Verified } else { Checksum::Unverified }, gso: None }
}

/// Where the outer UDP header begins, whether IP is version 6, and the sum of its addresses. Nothing of fragments.
#[inline]
fn outer(head: &[u8]) -> Option<(usize, bool, Sum)> {
    let eth = EthernetView::new_checked(head).ok()?;
    let ip = head.get(ETHERNET_LEN..)?;
    match eth.ethertype() {
        EtherType::IPV4 => {
            let v4 = Ipv4View::new_header_checked(ip).ok()?;
            let plain = v4.protocol() == IpProtocol::UDP && !v4.is_fragment();
            let sum = Sum::new().add(&v4.src().octets()).add(&v4.dst().octets());
            plain.then(|| (ETHERNET_LEN + v4.header_len(), false, sum))
        }
        EtherType::IPV6 => {
            let v6 = Ipv6View::new_header_checked(ip).ok()?;
            let sum = Sum::new().add(&v6.src().octets()).add(&v6.dst().octets());
            (v6.next_header() == IpProtocol::UDP).then_some((ETHERNET_LEN + IPV6_LEN, true, sum))
        }
        _ => None,
    }
}

impl TxQueue<NativePool> for XdpTx {
    fn caps(&self) -> TxCaps {
        TxCaps::NONE
    }
    fn tx(&mut self, burst: &mut Burst<Mbuf>) {
        self.0.retry();
        let mut left: Burst<Mbuf> = Burst::new();
        for frame in burst.drain(..) {
            if !self.0.push(frame.len(), frame.pieces()) {
                left.push(frame);
            }
        }
        // What it cannot send now is sent by the receiving side, or with the next burst.
        let _ = self.0.flush();
        *burst = left;
    }
}
