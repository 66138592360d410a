//! Direct routing: the kernel's routes to pods of other nodes that need no tunnel.
//!
//! They are there before a snapshot hands packets to the kernel for them, and go after one that no longer does. What the tables
//! say goes by what is in force: where the kernel refuses a route, the peer keeps its tunnel, if it may have one.

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::IpNet;
use weft_node::{DirectRoute, drop_direct_routes, forwarding_to_set, put_direct_routes};

use super::Daemon;
use crate::compile::direct_routes;
use crate::model::Model;

/// What the kernel has.
#[derive(Default)]
pub(super) struct Direct {
    /// The routes in force.
    routes: Vec<DirectRoute>,
    /// Their destinations.
    subnets: HashSet<IpNet>,
    /// The uplink's number when they were made.
    interface: u32,
    /// Something has happened on the underlay: they may not be there any more.
    doubted: bool,
    /// Nothing else is there: what an earlier weftd has left may be, at first.
    settled: bool,
}

impl Direct {
    /// The subnets that they lead to.
    pub(super) fn subnets(&self) -> &HashSet<IpNet> {
        &self.subnets
    }

    /// Has them looked at with the next chance.
    pub(super) fn doubt(&mut self) {
        self.doubted = !self.routes.is_empty();
    }
}

impl Daemon {
    /// Has the kernel have the routes that are wanted by the ways to the peers. Those that are not wanted any more stay for now.
    pub(super) async fn put_direct_routes(&mut self, model: &Model) {
        // Without a host port nothing could be handed to the kernel.
        let (wanted, problems) = match self.host {
            Some(_) => direct_routes(model, &self.node, &self.ways.by_peer),
            None => Default::default(),
        };
        let interface = self.mirror.uplink().index;
        problems.into_iter().for_each(|problem| self.tell(problem));
        self.check_forwarding(&wanted);
        if self.direct.doubted || self.direct.routes != wanted || self.direct.interface != interface {
            self.make_direct_routes(wanted, interface).await;
        }
    }

    /// Removes those that the snapshot in force does not need.
    pub(super) async fn drop_direct_routes(&mut self) {
        if self.direct.settled {
            return;
        }
        let Direct { routes, interface, .. } = &self.direct;
        match drop_direct_routes(&self.config.host_port.name, *interface, routes).await {
            Ok(()) => self.direct.settled = true,
            Err(error) => self.tell(format!("direct routing: {error}")),
        }
    }

    /// Puts back what somebody else has taken away.
    pub(super) async fn check_direct_routes(&mut self) {
        if self.direct.routes.is_empty() {
            return;
        }
        let (wanted, interface) = (self.direct.routes.clone(), self.direct.interface);
        self.check_forwarding(&wanted);
        self.make_direct_routes(wanted, interface).await;
        if !self.direct.settled {
            self.publish(&Arc::clone(&self.model));
            self.drop_direct_routes().await;
        }
    }

    async fn make_direct_routes(&mut self, mut wanted: Vec<DirectRoute>, interface: u32) {
        match put_direct_routes(interface, &wanted).await {
            Ok(refused) => {
                let failed: HashSet<IpNet> = refused.iter().map(|(route, _)| route.subnet).collect();
                wanted.retain(|route| !failed.contains(&route.subnet));
                refused.iter().for_each(|(_, error)| self.tell(format!("direct routing: {error}")));
            }
            // The kernel was not asked: what it has stays as it is, and the next try comes with the next retry.
            Err(error) => return self.tell(format!("direct routing: {error}")),
        }
        let changed = self.direct.routes != wanted || self.direct.interface != interface;
        let subnets = wanted.iter().map(|route| route.subnet).collect();
        self.direct = Direct {
            routes: wanted,
            subnets,
            interface,
            doubted: false,
            settled: self.direct.settled && !changed,
        };
    }

    fn check_forwarding(&mut self, routes: &[DirectRoute]) {
        let (host_port, uplink) = (self.config.host_port.name.clone(), self.mirror.uplink().name);
        for v6 in [false, true] {
            let needed = routes.iter().any(|route| route.via.is_ipv6() == v6);
            if let Some(setting) = needed.then(|| forwarding_to_set([&host_port, &uplink], v6)).flatten() {
                self.tell(format!(
                    "direct routing: the kernel does not forward between {host_port} and {uplink}; set {setting} to 1"
                ));
            }
        }
    }

    /// A problem, once.
    fn tell(&mut self, problem: String) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}
