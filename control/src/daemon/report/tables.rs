//! The bridge's tables: ports, forwarding database, neighbours.

use std::collections::HashMap;
use std::net::IpAddr;

use weft_api::{
    Conflict, Fdb, FdbEntry, FdbKind, Mac, Neighbour, NeighbourKind, NeighbourState, Neighbours, Port,
    PortRole, Ports,
};
use weft_switch::tables::{Place, Role, Snapshot};
use weft_switch::types::{MacAddr, PortId};

use crate::config::UplinkKind;
use crate::daemon::{Daemon, attachments};
use crate::dataplane::Device;

/// A port that is open, by the name that people know it by.
pub(in crate::daemon) struct Named {
    pub(in crate::daemon) id: PortId,
    pub(in crate::daemon) name: String,
    pub(in crate::daemon) kind: &'static str,
    pub(in crate::daemon) connected: bool,
}

impl Daemon {
    /// Every port that is open, in the order of their numbers.
    pub(in crate::daemon) fn named_ports(&self) -> Vec<Named> {
        let uplink = self.mirror.uplink();
        let connected = uplink.up;
        let uplink = self.uplink.as_ref().map(|port| Named {
            id: port.id,
            name: uplink.name,
            kind: "uplink",
            connected,
        });
        let host = self.host.as_ref().map(|host| Named {
            id: host.port.id,
            name: self.config.host_port.name.clone(),
            kind: "host",
            connected: true,
        });
        let pods = self.pods.values().map(|open| Named {
            id: open.port.id,
            name: open.pod.name.clone(),
            kind: attachments::kind(&open.pod.attachment),
            connected: self.is_connected(open.port.id),
        });
        let mut ports: Vec<_> = uplink.into_iter().chain(host).chain(pods).collect();
        ports.sort_unstable_by_key(|port| port.id);
        ports
    }

    /// Whether the other side of a pod's port is there.
    pub(super) fn is_connected(&self, id: PortId) -> bool {
        match self.dataplane.device(id) {
            Some(Device::Vhost(port)) => port.connected(),
            _ => true,
        }
    }

    /// The names of the ports that are open.
    pub(in crate::daemon) fn port_names(&self) -> HashMap<PortId, String> {
        self.named_ports().into_iter().map(|port| (port.id, port.name)).collect()
    }

    /// The ports that are in force; only those called `name`, if one is given.
    pub(in crate::daemon) fn list_ports(&self, name: Option<&str>) -> Ports {
        let tables = self.dataplane.snapshot();
        let mut learned: HashMap<PortId, u32> = HashMap::new();
        for station in self.stations() {
            *learned.entry(station.port).or_default() += 1;
        }
        let wanted = self.named_ports().into_iter().filter(|port| name.is_none_or(|name| port.name == name));
        let ports = wanted.filter_map(|port| {
            let there = tables.ports.get(port.id)?;
            let totals = self.dataplane.port_totals(port.id);
            Some(Port {
                id: port.id.index() as u16,
                name: port.name,
                kind: port.kind.to_owned(),
                role: role(&there.role),
                mtu: there.mtu.get() as u32,
                worker: match there.place {
                    Place::Each => None,
                    Place::Worker(worker) => Some(worker),
                },
                connected: port.connected,
                rx_packets: totals.rx.0,
                rx_bytes: totals.rx.1,
                tx_packets: totals.tx.0,
                tx_bytes: totals.tx.1,
                rx_drops: totals.drops.0,
                tx_drops: totals.drops.1,
                delayed: totals.held.0,
                paused: totals.held.1,
                learned: learned.get(&port.id).copied().unwrap_or(0),
            })
        });
        Ports { ports: ports.collect() }
    }

    /// Where frames go; only to the port called `port`, or to `mac`, if one is given.
    pub(in crate::daemon) fn list_fdb(&self, port: Option<&str>, mac: Option<Mac>) -> Fdb {
        let tables = self.dataplane.snapshot();
        let names = self.port_names();
        let entry = |mac: MacAddr, at: Option<PortId>, kind, age_s| FdbEntry {
            mac: Mac(mac.0),
            port_id: at.map(|id| id.index() as u16),
            port: at.and_then(|id| names.get(&id).cloned()),
            kind,
            age_s,
        };
        let mut entries: Vec<_> =
            tables.fdb.iter().map(|(mac, id)| entry(*mac, Some(*id), FdbKind::Static, None)).collect();
        let learned = self.stations().into_iter().filter(|station| !tables.fdb.contains_key(&station.mac));
        entries.extend(learned.map(|s| entry(s.mac, Some(s.port), FdbKind::Learned, Some(s.age_s))));
        entries
            .extend(tables.gateway.host.map(|host| entry(host.mac, Some(host.port), FdbKind::Static, None)));
        if tables.gateway.mac != MacAddr::ZERO {
            entries.push(entry(tables.gateway.mac, None, FdbKind::Gateway, None));
        }
        entries.retain(|entry| {
            port.is_none_or(|port| entry.port.as_deref() == Some(port))
                && mac.is_none_or(|mac| entry.mac == mac)
        });
        entries.sort_unstable_by_key(|entry| entry.mac);
        Fdb { entries }
    }

    /// Who has which IP address; only what is known of `address`, if one is given.
    pub(in crate::daemon) fn list_neighbours(&self, address: Option<IpAddr>) -> Neighbours {
        let tables = self.dataplane.snapshot();
        let names = self.port_names();
        let mut entries = self.on_segment(tables, &names);
        entries.extend(gateway(tables));
        entries.extend(self.on_underlay());
        entries.retain(|entry| address.is_none_or(|address| entry.address == address));
        entries.sort_unstable_by_key(|entry| (entry.address, entry.kind.name()));
        let claims = self.claims().into_iter().filter(|claim| address.is_none_or(|a| claim.address == a));
        let conflicts = claims.map(|claim| Conflict {
            address: claim.address,
            mac: Mac(claim.mac.0),
            port: names.get(&claim.port).cloned().unwrap_or_else(|| claim.port.to_string()),
            count: claim.count,
            last_seen: claim.last_seen,
        });
        Neighbours { entries, conflicts: conflicts.collect() }
    }

    fn on_segment(&self, tables: &Snapshot, names: &HashMap<PortId, String>) -> Vec<Neighbour> {
        let told = self.told_neighbours();
        let v4 = tables.neighbours4.iter().map(|(address, there)| (IpAddr::V4(*address), there));
        let v6 = tables.neighbours6.iter().map(|(address, there)| (IpAddr::V6(*address), there));
        v4.chain(v6)
            .map(|(address, there)| {
                // A pod that came after the station has the address now.
                let learned = tables.learned.contains_key(&address);
                let age_s = learned.then(|| told.get(&address).copied().unwrap_or_default());
                Neighbour {
                    address,
                    mac: Some(Mac(there.mac.0)),
                    port_id: Some(there.port.index() as u16),
                    port: names.get(&there.port).cloned(),
                    kind: if learned { NeighbourKind::Learned } else { NeighbourKind::Static },
                    state: None,
                    age_s,
                }
            })
            .collect()
    }

    /// The next hops of the ways to the other nodes, each once.
    fn on_underlay(&self) -> Vec<Neighbour> {
        let uplink = self.uplink.as_ref().map(|uplink| uplink.id.index() as u16);
        let name = self.mirror.uplink().name;
        let kernel = self.uplink_kind() == UplinkKind::Socket;
        let hops: HashMap<_, _> =
            self.ways.by_peer.values().map(|way| (way.next_hop, way.next_hop_mac)).collect();
        hops.into_iter()
            .map(|(address, mac)| Neighbour {
                address,
                mac: mac.map(|mac| Mac(mac.0)),
                port_id: uplink,
                port: Some(name.clone()),
                kind: NeighbourKind::Underlay,
                state: Some(match mac {
                    Some(_) => NeighbourState::Resolved,
                    None if kernel => NeighbourState::Kernel,
                    None => NeighbourState::Unresolved,
                }),
                age_s: None,
            })
            .collect()
    }
}

/// The addresses that the switch answers for itself.
fn gateway(tables: &Snapshot) -> impl Iterator<Item = Neighbour> + '_ {
    let gateway = &tables.gateway;
    let v4 = gateway.v4.iter().copied().map(IpAddr::V4);
    v4.chain(gateway.v6.iter().copied().map(IpAddr::V6)).map(|address| Neighbour {
        address,
        mac: Some(Mac(gateway.mac.0)),
        port_id: None,
        port: None,
        kind: NeighbourKind::Gateway,
        state: None,
        age_s: None,
    })
}

fn role(role: &Role) -> PortRole {
    match role {
        Role::Pod(_) => PortRole::Pod,
        Role::Trusted => PortRole::Trusted,
        Role::Host => PortRole::Host,
        Role::Uplink | Role::IpTunnel(_) => PortRole::Uplink,
    }
}
