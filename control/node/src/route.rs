//! The kernel's routes: the dump, changes of it, and its answer to "how is this address reached".

use crate::error::Error;
use crate::netlink::{ESRCH, Kernel, all, failed, family};
use futures_util::StreamExt;
use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkPayload};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The protocol number ("proto 87" in iproute2) that weft gives to its routes and neighbours, so that it finds
/// them again. No routing daemon uses it.
pub const WEFT_PROTOCOL: u8 = 87;

/// A unicast route of the main table with one next hop.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
    /// The first next hop's interface.
    pub(crate) oif: u32,
    pub(crate) priority: u32,
    pub(crate) protocol: RouteProtocol,
    message: RouteMessage,
}

/// What the kernel says about one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) source: IpAddr,
    pub(crate) oif: u32,
    pub(crate) next_hop: IpAddr,
    pub(crate) mtu: Option<u32>,
    /// The destination is an address of this node, or no single host's.
    pub(crate) unicast: bool,
}

/// A route as weft wants it: on one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) destination: IpNet,
    /// `None`: the destination is on the link itself.
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
    /// The gateway is on the link though no address of the interface says so.
    pub(crate) onlink: bool,
}

impl Wanted {
    /// True if `route`, of the interface `oif`, is this one.
    pub(crate) fn is(&self, route: &Route, oif: u32) -> bool {
        route.oif == oif
            && route.destination == self.destination
            && route.gateway == self.gateway
            && (self.source.is_none() || route.source == self.source)
    }
}

/// The metric that the kernel gives to a route without one.
fn usual_priority(net: &IpNet) -> u32 {
    match net {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1024,
    }
}

impl Route {
    /// True if a wanted route with the same destination would take this route's place.
    pub(crate) fn collides(&self, wanted: &Wanted) -> bool {
        self.destination == wanted.destination && self.priority == usual_priority(&wanted.destination)
    }

    pub(crate) fn is_kernel(&self) -> bool {
        self.protocol == RouteProtocol::Kernel
    }

    pub(crate) fn is_weft(&self) -> bool {
        self.protocol == RouteProtocol::Other(WEFT_PROTOCOL)
    }

    fn read(message: RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
            return None;
        }
        let unspecified = unspecified(header.address_family)?;
        let facts = Facts::read(&message.attributes);
        let destination =
            IpNet::new(facts.destination.unwrap_or(unspecified), header.destination_prefix_length).ok()?;
        Some(Self {
            destination,
            gateway: facts.gateway,
            source: facts.source,
            oif: facts.oif?,
            priority: facts.priority,
            protocol: header.protocol,
            message,
        })
    }
}

/// The attributes of a route that weft reads.
#[derive(Default)]
struct Facts {
    destination: Option<IpAddr>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    oif: Option<u32>,
    priority: u32,
    mtu: Option<u32>,
}

impl Facts {
    fn read(attributes: &[RouteAttribute]) -> Self {
        let mut facts = Self::default();
        for attribute in attributes {
            match attribute {
                RouteAttribute::Destination(ip) => facts.destination = address(ip),
                RouteAttribute::Gateway(ip) => facts.gateway = address(ip),
                RouteAttribute::Via(RouteVia::Inet(ip)) => facts.gateway = Some((*ip).into()),
                RouteAttribute::Via(RouteVia::Inet6(ip)) => facts.gateway = Some((*ip).into()),
                RouteAttribute::PrefSource(ip) => facts.source = address(ip),
                RouteAttribute::Oif(index) => facts.oif = Some(*index),
                RouteAttribute::Priority(priority) => facts.priority = *priority,
                RouteAttribute::Metrics(metrics) => {
                    facts.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                RouteAttribute::MultiPath(hops) => {
                    if let Some(first) = hops.first() {
                        let hop = Self::read(&first.attributes);
                        facts.gateway = hop.gateway;
                        facts.oif = Some(first.interface_index);
                    }
                }
                _ => {}
            }
        }
        facts
    }
}

/// What a route, of whichever kind and table, leads to. None where that cannot be read.
pub(crate) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let header = &message.header;
    let unspecified = unspecified(header.address_family)?;
    let given = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(ip) => Some(address(ip)),
        _ => None,
    });
    IpNet::new(given.unwrap_or(Some(unspecified))?, header.destination_prefix_length).ok()
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// A route to nowhere. By its metric it comes after whatever leads somewhere.
fn blackhole(net: IpNet) -> RouteMessage {
    const METRIC: u32 = u32::MAX;
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(net.addr());
    header.destination_prefix_length = net.prefix_len();
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::Other(WEFT_PROTOCOL);
    header.kind = RouteType::BlackHole;
    message.attributes =
        vec![RouteAttribute::Destination(net.network().into()), RouteAttribute::Priority(METRIC)];
    message
}

impl Kernel {
    /// The unicast routes of the main table, of both families; only those of one interface if `oif` is given.
    pub(crate) async fn routes(&self, oif: Option<u32>) -> Result<Vec<Route>, Error> {
        let mut routes = self.routes_of(AddressFamily::Inet, oif).await?;
        routes.append(&mut self.routes_of(AddressFamily::Inet6, oif).await?);
        Ok(routes)
    }

    /// Those of one family.
    pub(crate) async fn routes_of(
        &self,
        family: AddressFamily,
        oif: Option<u32>,
    ) -> Result<Vec<Route>, Error> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = family;
        filter.header.table = RouteHeader::RT_TABLE_MAIN;
        filter.attributes.extend(oif.map(RouteAttribute::Oif));
        let messages = all(self.0.route().get(filter).execute(), "list the routes").await?;
        let wanted = |route: &Route| oif.is_none_or(|oif| route.oif == oif);
        Ok(messages.into_iter().filter_map(Route::read).filter(wanted).collect())
    }

    /// How the kernel reaches `destination` now ("ip route get").
    pub(crate) async fn route_to(&self, destination: IpAddr) -> Result<Answer, Error> {
        let doing = format!("find the route to {destination}");
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = IpNet::from(destination).prefix_len();
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        let mut answers = self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST, &doing)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    let facts = Facts::read(&route.attributes);
                    if let (Some(source), Some(oif)) = (facts.source, facts.oif) {
                        return Ok(Answer {
                            source,
                            oif,
                            next_hop: facts.gateway.unwrap_or(destination),
                            mtu: facts.mtu,
                            unicast: route.header.kind == RouteType::Unicast,
                        });
                    }
                }
                NetlinkPayload::Error(error) => {
                    return Err(failed(doing)(rtnetlink::Error::NetlinkError(error)));
                }
                _ => {}
            }
        }
        let source = io::Error::other("the kernel's answer names no interface or no source address");
        Err(Error::Kernel { doing, source })
    }

    /// Adds a route of weft's, in place of one with the same destination and metric.
    pub(crate) async fn put_route(&self, oif: u32, wanted: &Wanted) -> Result<(), Error> {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(wanted.destination.addr());
        header.destination_prefix_length = wanted.destination.prefix_len();
        header.table = RouteHeader::RT_TABLE_MAIN;
        header.protocol = RouteProtocol::Other(WEFT_PROTOCOL);
        header.kind = RouteType::Unicast;
        if wanted.onlink {
            header.flags = RouteFlags::Onlink;
        }
        if wanted.gateway.is_none() {
            header.scope = RouteScope::Link;
        }
        message.attributes =
            vec![RouteAttribute::Destination(wanted.destination.network().into()), RouteAttribute::Oif(oif)];
        message.attributes.extend(wanted.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
        message.attributes.extend(wanted.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        let via = wanted.gateway.map(|ip| format!(" via {ip}")).unwrap_or_default();
        let doing = format!("add the route to {}{via}", wanted.destination);
        self.0.route().add(message).replace().execute().await.map_err(failed(doing))
    }

    /// The destinations of weft's routes to nowhere, of both families.
    pub(crate) async fn blackholes(&self) -> Result<Vec<IpNet>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            filter.header.table = RouteHeader::RT_TABLE_MAIN;
            let messages = all(self.0.route().get(filter).execute(), "list the routes").await?;
            let ours = messages.iter().filter(|message| {
                message.header.kind == RouteType::BlackHole
                    && message.header.protocol == RouteProtocol::Other(WEFT_PROTOCOL)
            });
            found.extend(ours.filter_map(destination));
        }
        Ok(found)
    }

    /// Adds a route to nowhere that every other one to the same destination goes before.
    pub(crate) async fn put_blackhole(&self, net: IpNet) -> Result<(), Error> {
        let doing = format!("add the blackhole route to {net}");
        self.0.route().add(blackhole(net)).replace().execute().await.map_err(failed(doing))
    }

    /// Removes such a route; one that is gone already is fine.
    pub(crate) async fn delete_blackhole(&self, net: IpNet) -> Result<(), Error> {
        match self.0.route().del(blackhole(net)).execute().await {
            Ok(()) => Ok(()),
            Err(error) => match failed(format!("remove the blackhole route to {net}"))(error) {
                gone if gone.errno() == Some(ESRCH) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Removes a route; one that is gone already is fine.
    pub(crate) async fn delete_route(&self, route: &Route) -> Result<(), Error> {
        match self.0.route().del(route.message.clone()).execute().await {
            Ok(()) => Ok(()),
            Err(error) => match failed(format!("remove the route to {}", route.destination))(error) {
                gone if gone.errno() == Some(ESRCH) => Ok(()),
                error => Err(error),
            },
        }
    }
}
