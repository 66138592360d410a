//! The kernel's neighbours: what it knows of the MAC addresses behind next hops, and how it is asked to find out
//! and to keep looking.
//!
//! weft's own packets do not pass the kernel, so the kernel sees no reason to confirm the neighbours that they use.
//! A *managed* neighbour (Linux 5.16) is one that the kernel keeps resolved by itself. weft's carry its protocol
//! number, so they are found again after a restart, and another program's are never touched.

use crate::MacBytes;
use crate::error::Error;
use crate::netlink::{ENOENT, Kernel, all, failed, family};
use crate::route::WEFT_PROTOCOL;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST};
use rtnetlink::packet_utils::nla::{DefaultNla, Nla};
use std::net::IpAddr;

/// `NDA_FLAGS_EXT` and its `NTF_EXT_MANAGED` (linux/neighbour.h), which netlink-packet-route does not know.
const NDA_FLAGS_EXT: u16 = 15;
const NTF_EXT_MANAGED: u32 = 1;

/// An entry of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// The MAC address, if it may be used.
    pub(crate) mac: Option<MacBytes>,
    /// Set by hand, or needs no resolution: nobody has to keep it fresh.
    pub(crate) fixed: bool,
    /// The kernel keeps it resolved.
    pub(crate) managed: bool,
    /// It carries weft's protocol number.
    pub(crate) weft: bool,
}

impl Neighbour {
    /// Nothing has to be asked of the kernel for this neighbour.
    pub(crate) fn settled(&self) -> bool {
        self.fixed || self.managed
    }
}

/// The interface, the address and the entry of a notification or of a line of the dump.
pub(crate) fn read(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbour)> {
    // Proxy entries share the messages but say nothing about a MAC address.
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut ip = None;
    let mut mac = None;
    let mut managed = false;
    let mut weft = false;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLocalAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::Protocol(protocol) => weft = u8::from(*protocol) == WEFT_PROTOCOL,
            NeighbourAttribute::Other(nla) if nla.kind() == NDA_FLAGS_EXT => {
                let mut bytes = vec![0; nla.value_len()];
                nla.emit_value(&mut bytes);
                let flags = bytes.as_slice().try_into().map_or(0, u32::from_ne_bytes);
                managed = flags & NTF_EXT_MANAGED != 0;
            }
            _ => {}
        }
    }
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    let usable = matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp);
    let fixed = matches!(message.header.state, Permanent | Noarp);
    let entry = Neighbour { mac: mac.filter(|_| usable), fixed, managed, weft };
    Some((message.header.ifindex, ip?, entry))
}

impl Kernel {
    pub(crate) async fn neighbours(&self) -> Result<Vec<(u32, IpAddr, Neighbour)>, Error> {
        let messages = all(self.0.neighbours().get().execute(), "list the neighbours").await?;
        Ok(messages.iter().filter_map(read).collect())
    }

    /// Asks the kernel to resolve `ip` on the interface and to keep it resolved; a kernel that knows no managed
    /// neighbours is made to probe once.
    pub(crate) async fn resolve(&self, index: u32, ip: IpAddr) -> Result<(), Error> {
        let doing = format!("ask the kernel for the MAC address of {ip}");
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut managed = blank(index, ip);
        managed.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(WEFT_PROTOCOL)));
        let ext = DefaultNla::new(NDA_FLAGS_EXT, NTF_EXT_MANAGED.to_ne_bytes().to_vec());
        managed.attributes.push(NeighbourAttribute::Other(ext));
        // Older kernels ignore the attribute or refuse it, so the probe is asked for as well.
        managed.header.flags = NeighbourFlags::Use;
        match self.execute(RouteNetlinkMessage::NewNeighbour(managed), flags, &doing).await {
            Ok(()) => Ok(()),
            Err(_) => {
                let mut probe = blank(index, ip);
                probe.header.flags = NeighbourFlags::Use;
                self.execute(RouteNetlinkMessage::NewNeighbour(probe), flags, &doing).await
            }
        }
    }

    /// Sets a neighbour that never has to be resolved.
    pub(crate) async fn set_permanent_neighbour(
        &self,
        index: u32,
        ip: IpAddr,
        mac: MacBytes,
    ) -> Result<(), Error> {
        let doing = format!("set the MAC address of the neighbour {ip}");
        let request = self.0.neighbours().add(index, ip).link_local_address(&mac).replace();
        request.execute().await.map_err(failed(doing))
    }

    /// Tells the kernel of a router as if it had been heard of: it ages and is asked as others are. What the kernel knows already stays.
    pub(crate) async fn tell_router(&self, index: u32, ip: IpAddr, mac: MacBytes) -> Result<(), Error> {
        let mut message = blank(index, ip);
        message.header.state = NeighbourState::Stale;
        message.header.flags = NeighbourFlags::Router;
        message.attributes.push(NeighbourAttribute::LinkLocalAddress(mac.to_vec()));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        let doing = format!("tell of the router {ip}");
        self.execute(RouteNetlinkMessage::NewNeighbour(message), flags, &doing).await
    }

    /// Removes an entry; one that is gone already is fine.
    pub(crate) async fn delete_neighbour(&self, index: u32, ip: IpAddr) -> Result<(), Error> {
        let request = self.0.neighbours().del(blank(index, ip)).execute().await;
        match request.map_err(failed(format!("remove the neighbour {ip}"))) {
            Err(error) if error.errno() != Some(ENOENT) => Err(error),
            _ => Ok(()),
        }
    }
}

fn blank(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(match ip {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }));
    message
}
