//! What can be wrong with networks.

use super::super::Model;
use super::names::name_part;
use super::{Entity, Findings, Seen, unusable};
use ipnet::IpNet;
use weft_types::Vni;

pub(super) fn check(model: &Model, to: &mut Findings) {
    if model.networks.is_empty() {
        let remedy = "add [network] with ipv4, ipv6 or both, such as ipv4 = \"10.244.0.0/16\"";
        to.add(Entity::Cluster, "", ("network", None), "missing".to_owned(), remedy.to_owned());
    }
    if model.port == 0 {
        let name = model.networks.first().map_or("", |n| &n.name);
        let remedy = "use 8472, as flannel does, or another within 1 to 65535";
        to.add(Entity::Network(0), name, ("port", None), "0 is no UDP port".to_owned(), remedy.to_owned());
    }
    let mut names = Seen::of(model.networks.len());
    let mut vnis: Seen<Vni> = Seen::of(model.networks.len());
    for (index, network) in model.networks.iter().enumerate() {
        let mut add = |field: &'static str, reason: String, remedy: String| {
            to.add(Entity::Network(index), &network.name, (field, None), reason, remedy);
        };
        if let Err(why) = name_part(&network.name) {
            add("name", why, "give it a short name, such as \"blue\"".to_owned());
        } else if names.before(network.name.as_str(), index).is_some() {
            let reason = format!("another network has the name {:?} too", network.name);
            add("name", reason, "give each network one name of its own".to_owned());
        }
        if let Some(first) = vnis.before(network.vni, index) {
            let reason = format!("network {:?} has VNI {} too", model.networks[first].name, network.vni);
            add("vni", reason, "give each network a VNI of its own".to_owned());
        }
        if network.ipv4.is_none() && network.ipv6.is_none() {
            add(
                "ipv4",
                "neither ipv4 nor ipv6 is set".to_owned(),
                "set at least one, such as ipv4 = \"10.244.0.0/16\", the cluster's pod network".to_owned(),
            );
        }
        for net in network.nets() {
            let field = field_of(&net);
            if net.trunc() != net {
                let reason = format!("{net} has bits set after the prefix");
                add(field, reason, format!("write {}", net.trunc()));
            } else if let Some(what) = unusable(net.network()) {
                let reason = format!("{net} is {what}, no pod can have such an address");
                let remedy = "use a private range, such as 10.244.0.0/16 or fd00:10:244::/56";
                add(field, reason, remedy.to_owned());
            }
        }
        if let (Some(mtu), Some(_)) = (network.mtu, network.ipv6) {
            if mtu.get() < 1280 {
                let reason = format!("{} is less than IPv6 needs (1280, RFC 8200)", mtu.get());
                add("mtu", reason, "raise it to 1280 at least, or leave ipv6 out".to_owned());
            }
        }
    }
    check_overlaps(model, to);
}

pub(super) fn field_of(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "ipv4",
        IpNet::V6(_) => "ipv6",
    }
}

/// Two prefixes are either disjoint or one holds the other: sorted by their first address, the wider one first, an overlap
/// is with the last one that was not inside another.
fn check_overlaps(model: &Model, to: &mut Findings) {
    let of_one = |(index, network): (usize, &super::super::Network)| network.nets().map(move |n| (n, index));
    let mut nets: Vec<_> = model.networks.iter().enumerate().flat_map(of_one).collect();
    nets.sort_by_key(|(net, index)| (net.network(), net.prefix_len(), *index));
    let mut outer: Option<(IpNet, usize)> = None;
    for (net, index) in nets {
        let Some((wider, owner)) = outer.filter(|(wider, _)| wider.contains(&net)) else {
            outer = Some((net, index));
            continue;
        };
        let reason = format!("{net} overlaps {wider} of network {:?}", model.networks[owner].name);
        let remedy = "give each network addresses that no other has".to_owned();
        to.add(Entity::Network(index), &model.networks[index].name, (field_of(&net), None), reason, remedy);
    }
}
