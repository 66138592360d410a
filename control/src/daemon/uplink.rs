//! The uplink's port: sockets on an ordinary interface, and the claim on the tunnel's UDP port where these are beside the kernel.
//!
//! An XDP program asks something of the interface. Where that is not to be had, the default kind takes its place, and the
//! status says why. It is tried again when the interface is another one or has changed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Weak};

use tracing::{info, warn};
use weft_api::LargeFrames;
use weft_ffi::kernel::interface;
use weft_ffi::kernel::udp::IpCarrier;
use weft_ffi::kernel::udp_claim::{ClaimError, UdpClaim};
use weft_ffi::kernel::xdp::{Side, Steering};
use weft_node::Uplink;
use weft_switch::drivers::UnderlayMtu;
use weft_switch::tables::{NextHop, Snapshot};
use weft_switch::types::PortId;
use weft_sync::counter::Counter;

use super::Daemon;
use crate::compile::gateway_mac;
use crate::config::UplinkKind;
use crate::dataplane::Closing;
use crate::model::{Encapsulation, Model};
use crate::ports::{Besides, IpTunnel, OpenError, OpenUplink, open_uplink};

/// Where the kernel tells of its interfaces.
const INTERFACES: &str = "/sys/class/net";

/// The uplink's port while it is open.
pub(super) struct UplinkPort {
    pub(super) id: PortId,
    /// How: the kind that was asked for, or the default in its place.
    kind: UplinkKind,
    /// What is worth knowing about that.
    notes: Vec<String>,
    /// The interface's number: one that was deleted and made again has another.
    index: u32,
    vxlan_port: u16,
    /// In place of VXLAN.
    tunnel: Option<IpTunnel>,
    /// The kernel's device that took the same packets when it was last looked.
    beside: Option<String>,
    /// What the queues go by.
    mtu: UnderlayMtu,
    /// What they cannot follow.
    shape: Option<Shape>,
    /// What becomes of large frames.
    large_frames: LargeFrames,
    went_whole: Vec<Arc<Counter>>,
    /// The program, where there is one: it goes with the queues.
    steering: Weak<Steering>,
}

/// What XDP sockets are made for: when it changes they have to be made anew.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    mtu: u32,
    mac: [u8; 6],
    queues: u32,
    /// Pods' packets come and go without a tunnel too: the program looks for them.
    plain: bool,
}

impl Shape {
    fn of(uplink: &Uplink, plain: bool) -> Option<Self> {
        let queues = uplink.name.parse().ok().and_then(|name| interface::rx_queues(name).ok())?;
        Some(Self { mtu: uplink.mtu, mac: uplink.mac, queues, plain })
    }
}

impl UplinkPort {
    /// It carries what the model asks for.
    pub(super) fn fits(&self, model: &Model) -> bool {
        self.tunnel.is_some() != model.encapsulation.is_vxlan()
    }

    /// Pods' packets come and go by it without a tunnel too.
    pub(super) fn is_plain(&self) -> bool {
        self.kind == UplinkKind::AfXdp && self.shape.is_some_and(|shape| shape.plain)
    }
}

/// Between which prefixes packets come to weft without a tunnel. The host's own addresses stay the kernel's.
pub(super) fn plain_prefixes(tables: &Snapshot) -> Vec<(IpAddr, u8, Side)> {
    if tables.links.is_empty() {
        return Vec::new();
    }
    let side = |len: u8, longest: u8, next_hop| match next_hop {
        NextHop::Local => Some(Side::Here),
        NextHop::OnLink(_) => Some(Side::There),
        NextHop::Host if len == longest => Some(Side::Host),
        _ => None,
    };
    let v4 = tables.routes4.iter().filter_map(|(to, len, hop)| Some((to.into(), len, side(len, 32, hop)?)));
    let v6 = tables.routes6.iter().filter_map(|(to, len, hop)| Some((to.into(), len, side(len, 128, hop)?)));
    v4.chain(v6).collect()
}

/// A device of the kernel's that is up and takes IPv4 in IPv4 to this address: flanneld leaves its own behind. The kernel would
/// deliver to it what weft delivers too, and its routes to the other nodes come before weft's.
fn ipip_device(interfaces: &Path, own: Ipv4Addr) -> Option<String> {
    /// ARPHRD_TUNNEL (linux/if_arp.h): its addresses are the ends of the tunnel.
    const TUNNEL: &str = "768";
    /// IFF_UP.
    const UP: u32 = 1;
    let [a, b, c, d] = own.octets();
    let own = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    let takes = |device: &Path| {
        let read = |file: &str| std::fs::read_to_string(device.join(file)).unwrap_or_default();
        let is = |file: &str, value: &str| read(file).trim() == value;
        let flags = read("flags");
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        is("type", TUNNEL) && flags & UP != 0 && (is("address", &own) || is("address", "00:00:00:00"))
    };
    let mut devices = std::fs::read_dir(interfaces).ok()?.flatten().map(|entry| entry.path());
    devices.find(|device| takes(device))?.file_name()?.to_str().map(str::to_owned)
}

/// `opened`: packets go already, and that device has come up since.
fn in_the_way_of_ipip(uplink: &str, device: &str, opened: bool) -> String {
    // The module's own device comes with it and goes with it.
    let remedy = match device {
        "tunl0" => "ip link set tunl0 down".to_owned(),
        _ => format!("ip link delete {device}"),
    };
    let so = match opened {
        true => "pods may get each of them twice, and the host sends its own by that device's routes",
        false => "there is no ipip tunnel",
    };
    format!(
        "uplink {uplink}: the kernel's tunnel device {device} takes the same packets, so {so} until it is gone: {remedy}"
    )
}

/// Whether somebody else has to have the tunnel's port, so that the kernel answers nothing that comes for it.
pub(super) fn needs_claim(kind: UplinkKind) -> bool {
    kind != UplinkKind::Socket
}

/// Claims the tunnel's port before others are told of this node. Sockets that want it for themselves get it when they are opened.
pub(super) fn claim_first(encapsulation: Encapsulation, port: u16) -> Result<Option<UdpClaim>, ClaimError> {
    (encapsulation != Encapsulation::Ipip).then(|| UdpClaim::bind(port)).transpose()
}

impl Daemon {
    /// How weft is joined to the underlay; as long as it is not, how it is to be.
    pub(super) fn uplink_kind(&self) -> UplinkKind {
        self.uplink.as_ref().map_or(self.config.uplink.kind, |open| open.kind)
    }

    /// The tunnel's port that is in force. Another one that cannot be had yet changes nothing for the traffic with nodes that
    /// are on the old one too.
    pub(super) fn vxlan_port(&self, model: &Model) -> u16 {
        self.uplink.as_ref().map_or(model.port, |open| open.vxlan_port)
    }

    /// The tunnel has these addresses, and without it packets go between these prefixes: a program before the kernel takes only
    /// what is for them.
    pub(super) fn steer(&self, addresses: &[IpAddr], prefixes: Vec<(IpAddr, u8, Side)>) {
        let Some(steering) = self.uplink.as_ref().and_then(|open| open.steering.upgrade()) else { return };
        if let Err(error) = steering.set_own(addresses.iter().copied()) {
            warn!(
                "uplink: the XDP program cannot be told the node's addresses, the kernel gets what comes for some of them: {error}"
            );
        }
        if let Err(error) = steering.set_prefixes(prefixes) {
            warn!(
                "uplink: the XDP program cannot be told the pods' prefixes, the kernel gets what comes for some of them: {error}"
            );
        }
    }

    /// What becomes of large frames on the uplink, and how many have gone whole since it was opened.
    pub(super) fn large_frames(&self) -> (LargeFrames, u64) {
        let open = self.uplink.as_ref();
        let whole = open.iter().flat_map(|open| &open.went_whole).map(|count| count.get()).sum();
        (open.map_or(LargeFrames::Cut, |open| open.large_frames), whole)
    }

    /// What is worth knowing about the uplink.
    pub(super) fn uplink_notes(&self) -> impl Iterator<Item = String> + '_ {
        self.uplink.iter().flat_map(|open| open.notes.iter().cloned())
    }

    /// The tunnel of plain packets that the model asks for.
    ///
    /// # Errors
    /// It can't be had now, a sentence.
    fn ip_tunnel(&self, model: &Model, uplink: &Uplink) -> Result<Option<IpTunnel>, String> {
        let carrier = match model.encapsulation {
            Encapsulation::Vxlan => return Ok(None),
            Encapsulation::Udp => IpCarrier::Udp(model.port),
            Encapsulation::Ipip => IpCarrier::Ipip,
        };
        let Some(node) = model.node(&self.node) else { return Ok(None) };
        let v4 = |net: &ipnet::IpNet| match net.addr() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let addresses: Vec<Ipv4Addr> = uplink.addresses.iter().filter_map(v4).collect();
        // Where the published one is translated on the way, the interface has another.
        let published = node.public_ip.filter(|ip| addresses.contains(ip));
        let own = published.or(addresses.first().copied()).ok_or_else(|| {
            format!(
                "uplink {}: it has no IPv4 address, so there is no {} tunnel",
                uplink.name,
                model.encapsulation.as_str()
            )
        })?;
        Ok(Some(IpTunnel { carrier, own, gateway: gateway_mac(node) }))
    }

    /// What a device of the kernel's does that has come up beside the open ipip tunnel.
    fn ipip_problem(&self) -> Option<String> {
        let device = self.uplink.as_ref()?.beside.as_ref()?;
        Some(in_the_way_of_ipip(&self.mirror.uplink().name, device, true))
    }

    /// Looks whether there is such a device now: the mirror follows the uplink alone. Reconciling goes by what was found here.
    pub(super) async fn check_ipip_device(&mut self) {
        let Some(open) = &mut self.uplink else { return };
        let ipip = open.tunnel.filter(|tunnel| tunnel.carrier == IpCarrier::Ipip);
        let found = ipip.and_then(|tunnel| ipip_device(Path::new(INTERFACES), tunnel.own));
        if std::mem::replace(&mut open.beside, found.clone()) != found {
            self.ipip_problem().iter().for_each(|problem| warn!("{problem}"));
            self.reconcile().await;
        }
    }

    /// Opens the uplink's sockets; opens them anew when the interface or the tunnel's port is another one than before.
    pub(super) async fn open_uplink_port(&mut self, model: &Model) {
        let uplink = self.mirror.uplink();
        let port = model.port;
        let tunnel = match self.ip_tunnel(model, &uplink) {
            Ok(tunnel) => tunnel,
            Err(problem) => return self.problems.push(problem),
        };
        let asked = if tunnel.is_some() { UplinkKind::Socket } else { self.config.uplink.kind };
        let plain = model.networks.iter().any(|network| !network.direct_routing.is_never());
        let shape = (asked == UplinkKind::AfXdp).then(|| Shape::of(&uplink, plain)).flatten();
        if let Some(open) = &self.uplink {
            // One that is gone has no shape, and nothing can be made of it.
            let shape = shape.or(open.shape);
            open.mtu.set(uplink.mtu);
            let same = open.vxlan_port == port && open.tunnel == tunnel;
            if open.index == uplink.index && same && open.shape == shape {
                // Packet sockets tell when their interface goes; others hear nothing any more, and of nothing.
                let gone =
                    !uplink.up && uplink.name.parse().is_ok_and(|name| interface::index(name).is_err());
                if gone && open.kind != UplinkKind::AfPacket {
                    self.problems.push(format!("uplink {}: there is no such interface", uplink.name));
                }
                self.problems.extend(self.ipip_problem());
                return;
            }
        }
        // Before anything is closed: the old uplink is better than none.
        let reserved = match tunnel.map(|tunnel| tunnel.carrier) {
            // There is no port, but a device of the kernel's may be in the way.
            Some(IpCarrier::Ipip) => {
                let own = tunnel.map_or(Ipv4Addr::UNSPECIFIED, |tunnel| tunnel.own);
                if let Some(name) = ipip_device(Path::new(INTERFACES), own) {
                    return self.problems.push(in_the_way_of_ipip(&uplink.name, &name, false));
                }
                Ok(None)
            }
            _ => self.reserve(port),
        };
        let reserved = match reserved {
            Ok(reserved) => reserved,
            Err(error) => return self.problems.push(error.to_string()),
        };
        // An interface takes one XDP program and a queue one socket, so these have to go first; so does what is in their place,
        // which may have the tunnel's port.
        let in_the_way = |open: &mut UplinkPort| match open.kind {
            UplinkKind::AfXdp => open.index == uplink.index,
            other => other != asked || open.tunnel != tunnel,
        };
        let closed = self.uplink.take_if(in_the_way);
        if let Some(old) = &closed {
            self.publish(model);
            self.close_ports(&[Closing { id: old.id, delete: false }]).await;
        }
        let besides = Besides { plain, tunnel };
        let mtu = UnderlayMtu::new(uplink.mtu);
        let (mut kind, mut served, mut in_force) = (asked, port, tunnel);
        let mut opened = self.open_as(kind, &uplink, port, &mtu, reserved, besides).await;
        let mut why = None;
        if let (Err(error), UplinkKind::AfXdp) = (&opened, asked) {
            kind = UplinkKind::default();
            let instead = kind.as_str();
            why = Some(format!(
                "uplink {}: it is {instead} in place of af_xdp, which is tried again when the interface changes or weftd \
                 restarts: {error}",
                uplink.name
            ));
            opened = self.open_as(kind, &uplink, port, &mtu, None, besides).await;
        }
        // What the tables speak of now is the new form: the old one would be of no use.
        let closed = closed.filter(|old| old.tunnel.is_some() == tunnel.is_some());
        if let (Err(error), Some(old)) = (&opened, closed) {
            // What had to go for it comes back, until the next try.
            self.problems.push(error.to_string());
            (kind, served, in_force, why) = (old.kind, old.vxlan_port, old.tunnel, None);
            let besides = Besides { plain, tunnel: in_force };
            opened = self.open_as(kind, &uplink, served, &mtu, None, besides).await;
        }
        let (OpenUplink { queues, how, mut notes, large_frames, went_whole, steering }, claim) = match opened
        {
            Ok(opened) => opened,
            Err(error) => return self.problems.push(error.to_string()),
        };
        let Some(id) = self.dataplane.new_port() else {
            return self.problems.push("uplink: the switch has no free port number; remove a pod".to_owned());
        };
        for (worker, (rx, tx)) in queues.into_iter().enumerate() {
            self.dataplane.attach_tx(worker, id, tx);
            self.fresh.extend(rx.map(|rx| (worker, id, rx)));
        }
        if claim.is_some() {
            self.claim = claim;
        }
        match in_force {
            None => info!("uplink {} ({how}): MTU {}, VXLAN port {served}", uplink.name, uplink.mtu),
            Some(_) => info!("uplink {} ({how}): MTU {}", uplink.name, uplink.mtu),
        }
        notes.extend(why);
        notes.iter().for_each(|note| warn!("{note}"));
        let opened = UplinkPort {
            id,
            kind,
            notes,
            index: uplink.index,
            vxlan_port: served,
            tunnel: in_force,
            beside: None,
            mtu,
            shape,
            large_frames,
            went_whole,
            steering,
        };
        let old = self.uplink.replace(opened);
        if let Some(old) = old {
            self.publish(model);
            self.close_ports(&[Closing { id: old.id, delete: false }]).await;
        }
    }

    /// Makes sure of the tunnel's port, unless weft has it already.
    fn reserve(&self, port: u16) -> Result<Option<UdpClaim>, ClaimError> {
        let has_port = |open: &UplinkPort| open.tunnel.is_none_or(|tunnel| tunnel.carrier != IpCarrier::Ipip);
        let sockets =
            |open: &UplinkPort| !needs_claim(open.kind) && open.vxlan_port == port && has_port(open);
        let claimed = self.claim.as_ref().is_some_and(|claim| claim.port() == port);
        if claimed || self.uplink.as_ref().is_some_and(sockets) {
            Ok(None)
        } else {
            UdpClaim::bind(port).map(Some)
        }
    }

    /// Opens the uplink in this way, with a claim on the tunnel's port where that is needed and not there: the reserved one, if
    /// there is one.
    async fn open_as(
        &mut self,
        kind: UplinkKind,
        uplink: &Uplink,
        port: u16,
        mtu: &UnderlayMtu,
        reserved: Option<UdpClaim>,
        besides: Besides,
    ) -> Result<(OpenUplink, Option<UdpClaim>), OpenError> {
        let claim = match (&self.claim, reserved) {
            (_, reserved) if !needs_claim(kind) => {
                // The sockets have the port themselves, and could not if it was claimed.
                drop(reserved);
                self.claim = None;
                None
            }
            (Some(claim), _) if claim.port() == port => None,
            (_, Some(reserved)) => Some(reserved),
            // The sockets that had it are closed by now.
            (_, None) => Some(UdpClaim::bind(port)?),
        };
        let (name, workers, mtu) = (uplink.name.clone(), self.dataplane.workers().len(), mtu.clone());
        let tunnel_gso = self.config.uplink.tunnel_gso;
        let open = move || open_uplink(kind, &name, port, workers, &mtu, tunnel_gso, besides);
        let opening = tokio::task::spawn_blocking(open);
        Ok((opening.await??, claim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_the_kernels_that_takes_ipip_is_found() {
        let interfaces = tempfile::tempdir().expect("a folder");
        let device = |name: &str, kind: &str, flags: &str, address: &str| {
            let at = interfaces.path().join(name);
            std::fs::create_dir_all(&at).expect("a folder");
            for (file, text) in [("type", kind), ("flags", flags), ("address", address)] {
                std::fs::write(at.join(file), format!("{text}\n")).expect("a file");
            }
        };
        let found = || ipip_device(interfaces.path(), Ipv4Addr::new(172, 16, 0, 1));
        device("eth0", "1", "0x1003", "ac:10:00:01:00:00");
        device("tunl0", "768", "0x80", "00:00:00:00");
        device("other", "768", "0xc1", "ac:10:00:02");
        device("flannel.ipip", "768", "0xc0", "ac:10:00:01");
        assert_eq!(found(), None, "down, of another kind or another address");
        device("flannel.ipip", "768", "0xc1", "ac:10:00:01");
        assert_eq!(found().as_deref(), Some("flannel.ipip"));
        let problem = in_the_way_of_ipip("eth0", "flannel.ipip", false);
        assert!(problem.contains("ip link delete flannel.ipip"), "{problem}");
        device("flannel.ipip", "768", "0xc1", "00:00:00:00");
        assert!(found().is_some());
    }
}
