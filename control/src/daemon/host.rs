//! The host port: a TAP in the node's own namespace, with the gateway's and the node's addresses and the pods' routes.

use ipnet::IpNet;
use weft_node::{HostPort, configure_host_port};
use weft_switch::tables::Place;
use weft_switch::types::MacAddr;

use super::Daemon;
use crate::compile::{Mtus, OpenPort, gateway_mac};
use crate::model::{Model, gateway};
use crate::ports::open_host_tap;

/// The host port while it is open.
pub(super) struct HostSide {
    pub(super) port: OpenPort,
    pub(super) mac: MacAddr,
    /// The kernel's device was made by this weftd.
    pub(super) created: bool,
    /// What its interface was configured with last.
    configured: Option<HostPort>,
}

impl Daemon {
    /// Opens the host port and brings its addresses and routes into line.
    pub(super) async fn open_host_port(&mut self, model: &Model) {
        let Some(wanted) = self.wanted_host_port(model) else { return };
        if self.host.is_none() {
            if let Err(problem) = self.make_host_port(&wanted).await {
                return self.problems.push(problem);
            }
        }
        if self.host.as_ref().is_some_and(|host| host.configured.as_ref() != Some(&wanted)) {
            self.configure_host(wanted).await;
        }
    }

    /// Puts back what somebody else has taken from the host port.
    pub(super) async fn check_host_port(&mut self) {
        if let (Some(_), Some(wanted)) = (&self.host, self.wanted_host_port(&self.model)) {
            self.configure_host(wanted).await;
        }
    }

    async fn configure_host(&mut self, wanted: HostPort) {
        let outcome = configure_host_port(wanted.clone()).await;
        if let Some(host) = &mut self.host {
            host.configured = outcome.is_ok().then_some(wanted);
        }
        if let Err(error) = outcome {
            self.problems.push(format!("host port: {error}"));
        }
    }

    fn wanted_host_port(&self, model: &Model) -> Option<HostPort> {
        let own = model.node(&self.node)?;
        Some(HostPort {
            name: self.config.host_port.name.clone(),
            mac: host_mac(gateway_mac(own)).0,
            mtu: Mtus::new(model, self.mirror.uplink().mtu).of_host(own),
            zero_addresses: own.subnets.iter().map(IpNet::network).collect(),
            gateway_addresses: own.subnets.iter().filter_map(gateway).collect(),
            local_subnets: own.subnets.clone(),
            networks: model.networks.iter().flat_map(|network| network.nets()).collect(),
            gateway_mac: gateway_mac(own).0,
        })
    }

    async fn make_host_port(&mut self, wanted: &HostPort) -> Result<(), String> {
        let mac = MacAddr(wanted.mac);
        let workers = self.dataplane.workers().len();
        let opened = open_host_tap(&wanted.name, mac, workers).await;
        let opened = opened.map_err(|e| format!("host port: {e}"))?;
        let Some(id) = self.dataplane.new_port() else {
            opened.discard();
            return Err("host port: the switch has no free port number; remove a pod".to_owned());
        };
        let created = opened.created;
        self.dataplane.attach_tx(0, id, opened.tx);
        self.fresh.push((0, id, opened.rx));
        self.spread.add(id, opened.further, 0, workers);
        let port = OpenPort { id, place: Place::Worker(0) };
        self.host = Some(HostSide { port, mac, created, configured: None });
        Ok(())
    }
}

/// The MAC address of the host's side of the host port, made from the gateway's.
fn host_mac(gateway: MacAddr) -> MacAddr {
    let [_, _, a, b, c, d] = gateway.0;
    MacAddr([0x0a, 0x59, a, b, c, d])
}
