//! From the nodes to the cluster. The whole set of nodes decides, never the order of events: two nodes that claim the
//! same are told apart by what stands in them.

use super::follow::Said;
use super::object::Node;
use crate::complaints::Complaints;
use crate::go_json::shorten;
use crate::lease::{Attributes, Subnets, VxlanData};
use crate::net_conf::{Backend, NetConf};
use crate::store::{Cluster, Own, Peer};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use weft_types::MacAddr;

/// The nodes of the cluster, as far as they concern us.
pub(super) struct Nodes {
    own_name: String,
    config: NetConf,
    own: Option<Node>,
    peers: BTreeMap<String, Entry>,
    complaints: Complaints,
}

/// A peer as its node says it.
#[derive(PartialEq)]
struct Entry {
    rank: Rank,
    peer: Option<Arc<Peer>>,
    /// The addresses of its VTEP.
    macs: [Option<MacAddr>; 2],
    complaint: Option<String>,
}

/// Who keeps what two nodes claim, the least first: who is ready; then who was ready last; then who was there first.
/// So a node that was left over does not keep its successor's address, and a newcomer takes nothing from the living.
type Rank = (bool, Reverse<Option<Box<str>>>, Box<str>);

/// Why this node has no subnets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSubnets {
    /// The kubelet registers it.
    #[error("it is not registered yet: the kubelet does that, under the name in NODE_NAME")]
    NoNode,
    /// The controller assigns them.
    #[error(
        "it has no podCIDR yet: kube-controller-manager assigns it, if it runs with --allocate-node-cidrs and --cluster-cidr"
    )]
    NotYet,
    /// It has some that do not do.
    #[error("{0}")]
    Wrong(String),
}

impl Nodes {
    pub(super) fn new(own_name: String, config: NetConf) -> Self {
        Self { own_name, config, own: None, peers: BTreeMap::new(), complaints: Complaints::default() }
    }

    /// This node, if it is there.
    pub(super) fn own(&self) -> Option<&Node> {
        self.own.as_ref()
    }

    /// Takes over what was said; whether anything is different now.
    pub(super) fn take(&mut self, said: Said<Node>) -> bool {
        match said {
            Said::All(mut all) => {
                let own = all.remove(&self.own_name);
                let peers: BTreeMap<_, _> =
                    all.into_iter().map(|(name, node)| (name.clone(), self.entry(name, node))).collect();
                let changed = own != self.own || peers != self.peers;
                (self.own, self.peers) = (own, peers);
                changed
            }
            Said::One(name, node) if name == self.own_name => {
                let changed = self.own.as_ref() != Some(&node);
                self.own = Some(node);
                changed
            }
            Said::One(name, node) => {
                let entry = self.entry(name.clone(), node);
                let changed = self.peers.get(&name) != Some(&entry);
                if changed {
                    self.peers.insert(name, entry);
                }
                changed
            }
            Said::Gone(name) if name == self.own_name => self.own.take().is_some(),
            Said::Gone(name) => self.peers.remove(&name).is_some(),
            Said::At(_) | Said::Lost(_) | Said::Back => false,
        }
    }

    fn entry(&self, name: String, node: Node) -> Entry {
        let (peer, complaint) = match read_peer(name, &node, &self.config) {
            Ok((peer, complaint)) => (Some(Arc::new(peer)), complaint),
            Err(complaint) => (None, Some(complaint)),
        };
        let rank = (node.not_ready_since.is_some(), Reverse(node.not_ready_since), node.created);
        let macs = peer.as_ref().map(|peer| vtep_macs(&peer.attributes)).unwrap_or_default();
        Entry { rank, peer, macs, complaint }
    }

    /// The subnets that this node has.
    pub(super) fn own_subnets(&self) -> Result<Subnets, NoSubnets> {
        let node = self.own.as_ref().ok_or(NoSubnets::NoNode)?;
        if node.subnets.is_empty() {
            return Err(NoSubnets::NotYet);
        }
        let subnets = read_subnets(node).map_err(NoSubnets::Wrong)?;
        let v4 = within(subnets.v4, self.config.network, "Network").map_err(NoSubnets::Wrong)?;
        let v6 = within(subnets.v6, self.config.ipv6_network, "IPv6Network").map_err(NoSubnets::Wrong)?;
        for (asked, has, family) in [
            (self.config.network.is_some(), v4.is_some(), "IPv4"),
            (self.config.ipv6_network.is_some(), v6.is_some(), "IPv6"),
        ] {
            if asked && !has {
                return Err(NoSubnets::Wrong(format!(
                    "it has no podCIDR of {family}, which net-conf.json asks for"
                )));
            }
        }
        Ok(Subnets { v4, v6 })
    }

    /// The cluster, with a warning for each new trouble.
    pub(super) fn cluster(&mut self, own: Subnets, me: &Own) -> Cluster {
        let Self { peers, complaints, .. } = self;
        let mut say = |name: &str, what: &str| complaints.say(&format!("node {name}"), what);
        for (name, entry) in peers.iter() {
            if let Some(complaint) = &entry.complaint {
                say(name, complaint);
            }
        }
        let mut order: Vec<_> =
            peers.values().filter_map(|entry| Some((entry, entry.peer.as_ref()?))).collect();
        order.sort_unstable_by(|(a, x), (b, y)| (&a.rank, &x.name).cmp(&(&b.rank, &y.name)));
        let mut taken = Taken::default();
        taken.own(&own, me);
        let mut kept = Vec::with_capacity(order.len());
        for (entry, peer) in order {
            match taken.by(peer, entry.macs) {
                Ok(()) => kept.push(peer),
                Err(complaint) => say(&peer.name, &complaint),
            }
        }
        kept.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let peers = kept.into_iter().cloned().collect();
        self.complaints.end();
        Cluster { config: self.config.clone(), own, peers }
    }
}

/// A peer, and what is wrong with one of its families; or why it is none.
fn read_peer(name: String, node: &Node, config: &NetConf) -> Result<(Peer, Option<String>), String> {
    let notes = &node.notes;
    if node.subnets.is_empty() {
        return Err("it has no podCIDR yet".to_owned());
    }
    let subnets = read_subnets(node)?;
    let kind = notes.backend_type.as_deref().unwrap_or_default();
    let vxlan = kind == "vxlan" && matches!(config.backend, Backend::Vxlan(_));
    let v4 =
        family(subnets.v4, config.network, "Network", &notes.public_ip, "public-ip", |address: Ipv4Addr| {
            check_address(address.into(), config)?;
            check_data(vxlan, &notes.backend_data, "backend-data")
        });
    let v6 = family(
        subnets.v6,
        config.ipv6_network,
        "IPv6Network",
        &notes.public_ipv6,
        "public-ipv6",
        |address: Ipv6Addr| {
            check_address(address.into(), config)?;
            check_data(vxlan, &notes.backend_v6_data, "backend-v6-data")
        },
    );
    let (v4, v6, complaint) = match (v4, v6) {
        (Ok(None), Ok(None)) => {
            return Err("nothing says how it is reached: no podCIDR with its public-ip".to_owned());
        }
        (Ok(v4), Ok(v6)) => (v4, v6, None),
        (Err(complaint), Ok(Some(v6))) => (None, Some(v6), Some(complaint)),
        (Ok(Some(v4)), Err(complaint)) => (Some(v4), None, Some(complaint)),
        (Err(complaint), Ok(None)) | (Ok(None), Err(complaint)) => return Err(complaint),
        (Err(one), Err(other)) => return Err(format!("{one}; {other}")),
    };
    let data = |text: &Option<Box<str>>| text.as_deref().filter(|text| *text != "null").map(str::to_owned);
    let attributes = Attributes {
        public_ip: v4.map(|(_, address)| address),
        public_ipv6: v6.map(|(_, address)| address),
        backend_type: kind.to_owned(),
        backend_data: data(&notes.backend_data).filter(|_| v4.is_some()),
        backend_v6_data: data(&notes.backend_v6_data).filter(|_| v6.is_some()),
    };
    let subnets = Subnets { v4: v4.map(|(subnet, _)| subnet), v6: v6.map(|(subnet, _)| subnet) };
    Ok((Peer { name, subnets, attributes }, complaint))
}

/// What a peer has of one family: its subnet and its address. Both, or it takes no part in that family.
fn family<N, A>(
    subnet: Option<N>,
    network: Option<N>,
    key: &str,
    address: &Option<Box<str>>,
    note: &str,
    check: impl FnOnce(A) -> Result<(), String>,
) -> Result<Option<(N, A)>, String>
where
    N: Copy + fmt::Display + Into<IpNet>,
    A: Copy + FromStr<Err: fmt::Display>,
{
    let (Some(_), Some(subnet)) = (network, subnet) else { return Ok(None) };
    // It may be a node of the other family only.
    let Some(text) = address.as_deref() else { return Ok(None) };
    let subnet = within(Some(subnet), network, key)?.unwrap_or(subnet);
    let address =
        text.parse::<A>().map_err(|error| format!("annotation {note} is {:?}: {error}", shorten(text)))?;
    check(address)?;
    Ok(Some((subnet, address)))
}

fn check_address(address: IpAddr, config: &NetConf) -> Result<(), String> {
    let what = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "multicast",
        _ if address.is_loopback() => "loopback",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "broadcast",
        IpAddr::V6(address) if address.is_unicast_link_local() => "link-local",
        IpAddr::V4(address) if config.network.is_some_and(|net| net.contains(&address)) => "a pod's",
        IpAddr::V6(address) if config.ipv6_network.is_some_and(|net| net.contains(&address)) => "a pod's",
        _ => return Ok(()),
    };
    Err(format!("its public address {address} is {what}"))
}

fn vtep_macs(attributes: &Attributes) -> [Option<MacAddr>; 2] {
    let of = |data: &Option<String>| Some(VxlanData::from_json(data.as_deref()?).ok()?.vtep_mac);
    match attributes.backend_type.as_str() {
        "vxlan" => [of(&attributes.backend_data), of(&attributes.backend_v6_data)],
        _ => [None; 2],
    }
}

fn check_data(vxlan: bool, text: &Option<Box<str>>, note: &str) -> Result<(), String> {
    if !vxlan {
        return Ok(());
    }
    let text = text.as_deref().unwrap_or("null");
    match VxlanData::from_json(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("annotation {note} is {:?}: {error}", shorten(text))),
    }
}

/// The pod subnets of a node: one, or one of each family.
fn read_subnets(node: &Node) -> Result<Subnets, String> {
    let mut subnets = Subnets::default();
    for text in &node.subnets {
        let net: IpNet =
            text.parse().map_err(|error| format!("its podCIDR {:?} is none: {error}", shorten(text)))?;
        let twice = match net {
            IpNet::V4(net) => subnets.v4.replace(net.trunc()).is_some(),
            IpNet::V6(net) => subnets.v6.replace(net.trunc()).is_some(),
        };
        if twice {
            return Err("it has several podCIDRs of one family".to_owned());
        }
    }
    Ok(subnets)
}

/// The subnet, if the configuration has that family; an error if it is no part of the network.
fn within<N: Copy + fmt::Display + Into<IpNet>>(
    subnet: Option<N>,
    network: Option<N>,
    key: &str,
) -> Result<Option<N>, String> {
    let (Some(subnet), Some(network)) = (subnet, network) else { return Ok(None) };
    let (inner, outer): (IpNet, IpNet) = (subnet.into(), network.into());
    match outer.contains(&inner) {
        true => Ok(Some(subnet)),
        false => Err(format!("its podCIDR {subnet} is outside of {key} {network} in net-conf.json")),
    }
}

/// What is taken already, and by whom.
#[derive(Default)]
struct Taken<'a> {
    /// By first address: last address and owner. They do not overlap.
    subnets: BTreeMap<IpAddr, (IpAddr, &'a str)>,
    addresses: HashMap<IpAddr, &'a str>,
    macs: HashMap<MacAddr, &'a str>,
}

impl<'a> Taken<'a> {
    fn own(&mut self, own: &Subnets, me: &Own) {
        const OWN: &str = "this node";
        for net in nets(own) {
            self.subnets.insert(net.network(), (net.broadcast(), OWN));
        }
        let addresses = [me.public_ip.map(IpAddr::V4), me.public_ipv6.map(IpAddr::V6)];
        self.addresses.extend(addresses.into_iter().flatten().map(|address| (address, OWN)));
        self.macs.extend([me.vtep_mac, me.vtep_mac_v6].into_iter().flatten().map(|mac| (mac, OWN)));
    }

    /// Takes what the peer has, or says who has some of it.
    fn by(&mut self, peer: &'a Peer, macs: [Option<MacAddr>; 2]) -> Result<(), String> {
        for net in nets(&peer.subnets) {
            let before = self.subnets.range(..=net.broadcast()).next_back();
            if let Some((_, (_, owner))) = before.filter(|(_, (last, _))| *last >= net.network()) {
                return Err(format!("its podCIDR {net} overlaps one of {owner}, and is left out"));
            }
        }
        let attributes = &peer.attributes;
        let addresses = [attributes.public_ip.map(IpAddr::V4), attributes.public_ipv6.map(IpAddr::V6)];
        for address in addresses.into_iter().flatten() {
            if let Some(owner) = self.addresses.get(&address) {
                return Err(format!(
                    "its public address {address} is that of {owner} too, and the node is left out: delete the node \
                     that is no more, or correct the annotation"
                ));
            }
        }
        for mac in macs.iter().flatten() {
            if let Some(owner) = self.macs.get(mac) {
                return Err(format!(
                    "its VTEP's address {mac} is that of {owner} too, and the node is left out"
                ));
            }
        }
        for net in nets(&peer.subnets) {
            self.subnets.insert(net.network(), (net.broadcast(), &peer.name));
        }
        self.addresses.extend(addresses.into_iter().flatten().map(|address| (address, peer.name.as_str())));
        self.macs.extend(macs.into_iter().flatten().map(|mac| (mac, peer.name.as_str())));
        Ok(())
    }
}

fn nets(subnets: &Subnets) -> impl Iterator<Item = IpNet> {
    let (v4, v6): (Option<Ipv4Net>, Option<Ipv6Net>) = (subnets.v4, subnets.v6);
    [v4.map(IpNet::V4), v6.map(IpNet::V6)].into_iter().flatten()
}
