//! Opens the ports: pods' by their attachment, the host port, the uplink. What is opened here is attached to the workers by
//! [`crate::daemon`].

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use thiserror::Error;
use weft_api::LargeFrames;
use weft_ffi::dpdk::{EthConfig, EthError, EthPort, VhostConfig, VhostError, VhostPort};
use weft_ffi::kernel::interface::{IfName, NameError};
use weft_ffi::kernel::packet::{Filter, PacketError, PacketTx, RxOptions, RxRing, TxOptions};
use weft_ffi::kernel::tap::{Tap, TapError, TapExisted, TapOptions, TapQueues};
use weft_ffi::kernel::udp::{IcmpRx, IpCarrier, UdpError, UdpRx, open_ip};
use weft_ffi::kernel::udp_claim::ClaimError;
use weft_ffi::kernel::whole::WholeTx;
use weft_ffi::kernel::xdp::{Steering, XdpError, XdpOptions, XdpPort, XskRx, XskTx};
use weft_node::{Crew, Made, PodInterface, make_pod};
use weft_switch::drivers::{
    IpTunnelRx, IpTunnelTx, PacketSocketRx, PacketSocketTx, Rx, SocketRx, SocketTx, Spreader, Tx,
    UnderlayMtu, XdpRx, XdpTx, delete_tap, tap_queues,
};
use weft_switch::ip_tunnel::Form;
use weft_switch::types::{MacAddr, Mtu};
use weft_sync::counter::Counter;

use crate::config::{TunnelGso, UplinkKind};
use crate::dataplane::{Dataplane, Device};
use crate::model::{Attachment, VhostMode};

/// Why a port could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Not an interface name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A packet socket.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The tunnel's sockets.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// What stands for several of them.
    #[error("the uplink's sockets cannot be waited for: {0}")]
    Wait(std::io::Error),
    /// An XDP program and its sockets.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// The tunnel's UDP port.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// A vhost-user socket.
    #[error(transparent)]
    Vhost(#[from] VhostError),
    /// A DPDK device.
    #[error(transparent)]
    Eth(#[from] EthError),
    /// A device without queues.
    #[error("{0:?} has no queue to receive from or to send to")]
    NoQueue(String),
    /// An interface in a pod.
    #[error(transparent)]
    Node(#[from] weft_node::Error),
    /// What is to be made is there.
    #[error("its namespace has an interface of this name already")]
    Taken,
    /// A task of the daemon broke off.
    #[error("opening broke off: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// An open port: a queue each way, and what they belong to.
pub struct Opened {
    /// Receives.
    pub rx: Rx,
    /// Sends.
    pub tx: Tx,
    /// To be closed after them.
    pub device: Device,
    /// The kernel's device did not exist before.
    pub created: bool,
    /// Opens further queues, of a TAP that has room for them.
    pub further: Option<FurtherQueues>,
}

/// Opens the queues of a TAP behind the first, one at a time.
#[derive(Clone)]
pub struct FurtherQueues {
    queues: TapQueues,
    netns: Option<PathBuf>,
}

impl FurtherQueues {
    /// Opens one, and gives what is to be called when the last one has its worker. Blocks for some milliseconds.
    pub fn open(&self) -> Result<(Rx, Tx, Spreader), TapError> {
        let (rx, tx) = tap_queues(self.queues.open(self.netns.as_deref())?);
        let spreader = tx.spreader();
        Ok((Rx::Tap(rx), Tx::Tap(tx), spreader))
    }
}

impl Opened {
    /// Closes the port again, and deletes the kernel's device if it was made for it.
    pub fn discard(self) {
        if let (Rx::Tap(rx), Tx::Tap(tx), true) = (self.rx, self.tx, self.created) {
            // It fails for a device that is gone already, and then there is nothing left to do.
            let _ = delete_tap(vec![rx], vec![tx]);
        }
    }
}

/// The interface of an ordinary pod.
pub struct PodTap {
    /// What it is to look like.
    pub interface: PodInterface,
    /// One that is there already is another's.
    pub must_be_new: bool,
}

/// Opens a pod's port. An ordinary pod's interface, `tap` of its name, has its state then; the others configure themselves.
pub async fn open_pod(
    dataplane: &Dataplane,
    attachment: &Attachment,
    tap: impl FnOnce(&str) -> PodTap,
    mtu: Mtu,
    crew: &Crew,
) -> Result<Opened, OpenError> {
    match attachment {
        Attachment::Tap { netns, ifname } => {
            open_pod_tap(crew, netns, ifname.parse()?, dataplane.workers().len(), tap(ifname)).await
        }
        Attachment::VhostUser { socket, mode } => {
            let mode = match mode {
                VhostMode::Client => weft_ffi::dpdk::VhostMode::Client,
                VhostMode::Server => weft_ffi::dpdk::VhostMode::Server,
            };
            let (eal, socket) = (dataplane.eal().clone(), socket.clone());
            let port = tokio::task::spawn_blocking(move || {
                VhostPort::register(&eal, &socket, mode, &VhostConfig::default())
            });
            let mut port = port.await??;
            let (mut rx, mut tx) = port.split();
            match (rx.pop(), tx.pop()) {
                (Some(rx), Some(tx)) => {
                    let device = Device::Vhost(port);
                    Ok(Opened { rx: Rx::Vhost(rx), tx: Tx::Vhost(tx), device, created: false, further: None })
                }
                _ => Err(OpenError::NoQueue(port.path().to_owned())),
            }
        }
        Attachment::Dpdk { devargs } => {
            let (eal, pool, args) = (dataplane.eal().clone(), dataplane.pool().clone(), devargs.clone());
            let port = tokio::task::spawn_blocking(move || {
                EthPort::attach(
                    &eal,
                    &args,
                    &pool,
                    &EthConfig { mtu: mtu.get() as u16, ..EthConfig::default() },
                )
            });
            let mut port = port.await??;
            let (mut rx, mut tx) = port.split();
            match (rx.pop(), tx.pop()) {
                (Some(rx), Some(tx)) => {
                    let device = Device::Eth(port);
                    Ok(Opened { rx: Rx::Eth(rx), tx: Tx::Eth(tx), device, created: false, further: None })
                }
                _ => Err(OpenError::NoQueue(devargs.clone())),
            }
        }
    }
}

/// Opens the TAP of the host port in weftd's own namespace, as [`first_queue`] says. Its interface has `mac` if it is new.
pub async fn open_host_tap(ifname: &str, mac: MacAddr, workers: usize) -> Result<Opened, OpenError> {
    let name: IfName = ifname.parse()?;
    let options = TapOptions { mac: Some(mac.0), ..tap_options(workers) };
    let opened = tokio::task::spawn_blocking(move || Tap::open(None, name, options)).await??;
    Ok(first_queue(opened, None))
}

/// Opens the TAP of a pod and configures its interface, which has its state when this returns. What was made for it goes if that fails.
async fn open_pod_tap(
    crew: &Crew,
    netns: &Path,
    name: IfName,
    workers: usize,
    PodTap { interface, must_be_new }: PodTap,
) -> Result<Opened, OpenError> {
    let place = netns.to_owned();
    let make = move || {
        let (tap, existed) = Tap::open_inside(&place, name, tap_options(workers))?;
        let new = (existed == TapExisted::Created).then(|| tap.index());
        match must_be_new && new.is_none() {
            true => Err(OpenError::Taken),
            false => Ok(Made { what: first_queue((tap, existed), Some(place)), new }),
        }
    };
    make_pod(crew, netns, interface, make, Opened::discard).await
}

fn tap_options(workers: usize) -> TapOptions {
    TapOptions {
        persist: true,
        multi_queue: true,
        hold: workers > 1,
        offloads: true,
        ..TapOptions::default()
    }
}

/// The first queue of a TAP, of as many as there are workers; one that was there before has been taken up again.
fn first_queue((tap, existed): (Tap, TapExisted), netns: Option<PathBuf>) -> Opened {
    let further = tap.queues().map(|queues| FurtherQueues { queues, netns });
    let (rx, tx) = tap_queues(tap);
    let created = existed == TapExisted::Created;
    Opened { rx: Rx::Tap(rx), tx: Tx::Tap(tx), device: Device::Queues, created, further }
}

/// The open uplink.
pub struct OpenUplink {
    /// For each worker a queue to send to, and one to receive from unless there are fewer of these than workers.
    pub queues: Vec<(Option<Rx>, Tx)>,
    /// In words, for the log.
    pub how: String,
    /// What the operator should know, a sentence each.
    pub notes: Vec<String>,
    /// What becomes of large frames.
    pub large_frames: LargeFrames,
    /// How many of them went whole, worker by worker.
    pub went_whole: Vec<Arc<Counter>>,
    /// The program that has to be told the tunnel's addresses, as long as the queues are open.
    pub steering: Weak<Steering>,
}

impl OpenUplink {
    /// Of queues that are the same for each worker.
    fn plain(kind: UplinkKind, queues: Vec<(Rx, Tx)>) -> Self {
        let queues = queues.into_iter().map(|(rx, tx)| (Some(rx), tx)).collect();
        Self {
            queues,
            how: kind.as_str().to_owned(),
            notes: Vec::new(),
            large_frames: LargeFrames::Cut,
            went_whole: Vec::new(),
            steering: Weak::new(),
        }
    }
}

/// What comes and goes by the uplink beside VXLAN packets, or in their place.
#[derive(Debug, Clone, Copy, Default)]
pub struct Besides {
    /// Pods' packets without a tunnel, if the kind can have that.
    pub plain: bool,
    /// A tunnel of plain packets, in place of VXLAN.
    pub tunnel: Option<IpTunnel>,
}

/// A tunnel of plain packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpTunnel {
    /// What they are in.
    pub carrier: IpCarrier,
    /// This node's underlay address.
    pub own: Ipv4Addr,
    /// The MAC address of the gateway that weft is.
    pub gateway: MacAddr,
}

/// Opens the uplink for so many workers. `mtu` is followed where a queue has to know it. A tunnel of plain packets is the kernel's
/// sockets, whatever the kind is.
pub fn open_uplink(
    kind: UplinkKind,
    interface: &str,
    vxlan_port: u16,
    workers: usize,
    mtu: &UnderlayMtu,
    tunnel_gso: TunnelGso,
    Besides { plain, tunnel }: Besides,
) -> Result<OpenUplink, OpenError> {
    let name: IfName = interface.parse()?;
    if let Some(tunnel) = tunnel {
        return open_ip_tunnel(name, tunnel, workers, mtu);
    }
    match kind {
        UplinkKind::Socket => open_sockets(name, vxlan_port, workers, mtu, tunnel_gso),
        UplinkKind::AfPacket => Ok(OpenUplink::plain(kind, open_packet_sockets(name, vxlan_port, workers)?)),
        UplinkKind::AfXdp => open_xdp(name, vxlan_port, workers, mtu, plain),
    }
}

/// The interface's queues go round the workers, each of which sends by the first of its own. A worker without one sends by a
/// packet socket, since a queue's socket is one thread's.
fn open_xdp(
    name: IfName,
    vxlan_port: u16,
    workers: usize,
    mtu: &UnderlayMtu,
    plain: bool,
) -> Result<OpenUplink, OpenError> {
    /// Subnets of nodes, and the host's addresses within the own ones.
    const PREFIXES: u32 = 1 << 16;
    /// Receive buffers of a worker, over all of its queues, and the least that one of these has.
    const BUFFERS: u32 = 4096;
    const LEAST: u32 = 512;
    let count = weft_ffi::kernel::interface::rx_queues(name).unwrap_or(1);
    let senders = u32::try_from(workers).unwrap_or(1).max(1);
    let share = count.div_ceil(senders).next_power_of_two();
    let rx_buffers = (BUFFERS / share.min(BUFFERS)).clamp(LEAST, BUFFERS / 2);
    let prefixes = if plain { PREFIXES } else { 0 };
    let options = XdpOptions { port: vxlan_port, rx_buffers, senders, prefixes, ..XdpOptions::default() };
    let XdpPort { queues, mode, not_native, steering } = XdpPort::open(name, &options)?;

    let mut notes = Vec::new();
    if let Some(why) = not_native {
        notes.push(format!(
            "uplink {name}: its driver takes no XDP program ({why}), so it runs in the kernel's stack, where it saves little"
        ));
    }
    let how = format!("af_xdp, {mode}, queues: {}", queues.len());
    let mut shares: Vec<Vec<(XskRx, XskTx)>> = (0..workers).map(|_| Vec::new()).collect();
    for (queue, sockets) in queues.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(queue % workers.max(1)) {
            share.push(sockets);
        }
    }
    let queues = shares.into_iter().map(|share| {
        let (rx, tx): (Vec<_>, Vec<_>) = share.into_iter().unzip();
        Ok(match tx.into_iter().next() {
            Some(tx) => {
                let rx = XdpRx::new(rx, vxlan_port, mtu.clone()).map_err(OpenError::Wait)?;
                (Some(Rx::Xdp(Box::new(rx))), Tx::Xdp(Box::new(XdpTx(tx))))
            }
            None => (None, Tx::Packet(PacketSocketTx(PacketTx::open(name, TxOptions::default())?))),
        })
    });
    let queues = queues.collect::<Result<_, OpenError>>()?;
    let (large_frames, went_whole) = (LargeFrames::Cut, Vec::new());
    Ok(OpenUplink { queues, how, notes, large_frames, went_whole, steering: Arc::downgrade(&steering) })
}

fn open_sockets(
    name: IfName,
    vxlan_port: u16,
    workers: usize,
    mtu: &UnderlayMtu,
    tunnel_gso: TunnelGso,
) -> Result<OpenUplink, OpenError> {
    let sockets = UdpRx::open(name, vxlan_port, workers)?;
    let wanted = match tunnel_gso {
        TunnelGso::Auto => !weft_ffi::kernel::interface::has_nic(name),
        TunnelGso::Always => true,
        TunnelGso::Never => false,
    };
    let whole = wanted.then(|| WholeTx::open(name, workers)).transpose();
    // One worker is enough for what routers say.
    let mut icmp = Some(IcmpRx::open(name)?);
    let (mut whole, refused) = match whole {
        Ok(whole) => (whole.unwrap_or_default(), None),
        // An older kernel: nothing that could be mended.
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => (Vec::new(), None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let (how, large_frames) = match whole.is_empty() {
        true => ("socket", LargeFrames::Kernel),
        false => ("socket, with large frames cut behind it", LargeFrames::Whole),
    };
    let mut went_whole = Vec::new();
    let queues = sockets.into_iter().map(|socket| {
        let rx = SocketRx::new(socket, icmp.take(), vxlan_port, mtu.clone()).map_err(OpenError::Wait)?;
        let tx = SocketTx::open(vxlan_port, whole.pop())?;
        went_whole.push(tx.went_whole());
        Ok((Rx::Socket(Box::new(rx)), Tx::Socket(Box::new(tx))))
    });
    let uplink = OpenUplink::plain(UplinkKind::Socket, queues.collect::<Result<_, OpenError>>()?);
    let note = refused.map(|error| {
        format!("uplink {name}: large frames are cut before they are sent, as the kernel does not take them whole: {error}")
    });
    let (how, notes) = (how.to_owned(), note.into_iter().collect());
    Ok(OpenUplink { how, notes, large_frames, went_whole, ..uplink })
}

fn open_ip_tunnel(
    name: IfName,
    tunnel: IpTunnel,
    workers: usize,
    mtu: &UnderlayMtu,
) -> Result<OpenUplink, OpenError> {
    let IpTunnel { carrier, own, gateway } = tunnel;
    let (form, how) = match carrier {
        IpCarrier::Udp(port) => (Form::Udp, format!("IPv4 in UDP, port {port}")),
        IpCarrier::Ipip => (Form::Ipip, "IPv4 in IPv4".to_owned()),
    };
    let queues = open_ip(name, own, carrier, workers)?.into_iter().map(|(rx, tx)| {
        let rx = rx.map(|rx| Rx::IpTunnel(Box::new(IpTunnelRx::new(rx, form, gateway, mtu.clone()))));
        (rx, Tx::IpTunnel(Box::new(IpTunnelTx::new(tx, form, own))))
    });
    let queues = queues.collect();
    Ok(OpenUplink { queues, how, ..OpenUplink::plain(UplinkKind::Socket, Vec::new()) })
}

fn open_packet_sockets(name: IfName, vxlan_port: u16, workers: usize) -> Result<Vec<(Rx, Tx)>, OpenError> {
    let options = RxOptions { filter: Some(Filter::udp_to(vxlan_port)), ..RxOptions::default() };
    let rings = match workers {
        1 => vec![RxRing::open(name, &options)?],
        more => RxRing::open_fanout(name, &options, more)?,
    };
    rings
        .into_iter()
        .map(|ring| {
            let tx = PacketTx::open(name, TxOptions::default())?;
            Ok((Rx::Packet(PacketSocketRx::new(ring)), Tx::Packet(PacketSocketTx(tx))))
        })
        .collect()
}
