//! Which network something belongs to.

use super::Model;
use ipnet::IpNet;
use std::net::IpAddr;

/// The networks of a model, to be asked often: each answer takes a binary search, because networks do not overlap.
pub struct NetworkIndex(Vec<(IpNet, usize)>);

impl NetworkIndex {
    /// Of the model's networks.
    pub fn new(model: &Model) -> Self {
        let of_one = |(index, network): (usize, &super::Network)| network.nets().map(move |net| (net, index));
        let mut nets: Vec<_> = model.networks.iter().enumerate().flat_map(of_one).collect();
        nets.sort_by_key(|(net, index)| (net.network(), net.prefix_len(), *index));
        Self(nets)
    }

    /// The network that holds all of `subnet`: its addresses of that family, and its index in the model.
    pub fn of(&self, subnet: &IpNet) -> Option<(IpNet, usize)> {
        let after = self.0.partition_point(|(net, _)| net.network() <= subnet.network());
        let (net, index) = self.0.get(after.checked_sub(1)?)?;
        net.contains(subnet).then_some((*net, *index))
    }

    /// The same for one address.
    pub fn of_address(&self, address: IpAddr) -> Option<(IpNet, usize)> {
        self.of(&IpNet::from(address))
    }
}
