//! A node with two untrusted pods and two trusted ports, which tells for every frame what came of it: what went out where, which
//! counters moved, which events were told.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_switch::drop_reason::DropReason;
use weft_switch::event::Event;
use weft_switch::packet::HeapBuf;
use weft_switch::port::{MemPort, TxCaps};
use weft_switch::tables::{NextHop, Place, Port, Role, Snapshot};
use weft_switch::types::{MacAddr, Mtu, PortId};

use crate::world::{Node, Underlay};

/// Where frames come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    Uplink,
    Host,
    /// 10.244.0.5, untrusted.
    Pod,
    /// 10.244.0.6, untrusted, on the second worker.
    Other,
    /// 10.244.0.8, trusted.
    Vm,
    /// 10.244.0.9, trusted, on the second worker.
    Router,
}

impl At {
    pub const ALL: [Self; 6] = [Self::Uplink, Self::Host, Self::Pod, Self::Other, Self::Vm, Self::Router];
    pub fn id(self) -> PortId {
        PortId::new(self as usize).unwrap()
    }
}

pub const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];
pub const VM_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// A station behind a trusted port that nobody has configured.
pub const STATION: [u8; 6] = [2, 0, 0, 0, 0x5a, 1];
pub const POD: [u8; 4] = [10, 244, 0, 5];
pub const OTHER: [u8; 4] = [10, 244, 0, 6];
pub const VM: [u8; 4] = [10, 244, 0, 8];
pub const ROUTER: [u8; 4] = [10, 244, 0, 9];

/// What came of a frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Came {
    pub out: Vec<(At, Vec<u8>)>,
    /// By name, those that moved.
    pub drops: BTreeMap<&'static str, u64>,
    pub consumed: u64,
    pub originated: u64,
    pub events: Vec<Event>,
}

impl Came {
    /// Nothing but this drop.
    pub fn dropped(reason: DropReason) -> Self {
        Self { drops: [(reason.name(), 1)].into(), ..Self::default() }
    }
    /// The frame as it is to these ports, and nothing else.
    pub fn carried(frame: &[u8], to: &[At]) -> Self {
        let out: Vec<_> = to.iter().map(|to| (*to, frame.to_vec())).collect();
        Self { originated: out.len() as u64 - 1, out, ..Self::default() }
    }
    pub fn consumed() -> Self {
        Self { consumed: 1, ..Self::default() }
    }
    pub fn and(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }
    /// Where it went.
    pub fn to(&self) -> Vec<At> {
        self.out.iter().map(|(to, _)| *to).collect()
    }
    /// The only frame that went out.
    pub fn only(&self) -> &[u8] {
        assert_eq!(self.out.len(), 1, "{self:?}");
        &self.out[0].1
    }
}

pub struct Room {
    pub node: Node,
    pub other: MemPort,
    pub vm: MemPort,
    pub router: MemPort,
    pub now: u64,
}

impl Room {
    pub fn new() -> Self {
        Self::with(TxCaps::NONE, |_| {})
    }

    /// `change` is done to the tables; `caps` are all pods'.
    pub fn with(caps: TxCaps, change: impl FnOnce(&mut Snapshot)) -> Self {
        let mut node = Node::new(0, Underlay::V4, 2, caps);
        let [other, vm, router] = std::array::from_fn(|_| MemPort::with_caps(caps));
        node.add_pod(1, OTHER, OTHER_MAC, &other);
        let mut room = Self { node, other, vm, router, now: 1_000_000 };
        room.publish(change);
        room.node.switch.attach(0, At::Vm.id(), &room.vm);
        room.node.switch.attach(1, At::Router.id(), &room.router);
        room.node.switch.set_time(room.now);
        room.node.switch.step();
        room
    }

    /// Publishes the tables anew, with `change` done to them.
    pub fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        let mut tables = self.node.tables();
        (tables.ageing, tables.learn_limit) = (300, 256);
        let mtu = Mtu::new(1450).unwrap();
        for (at, mac, v4, place) in [(At::Vm, VM_MAC, VM, 0), (At::Router, ROUTER_MAC, ROUTER, 1)] {
            tables.ports.insert(
                at.id(),
                Port { role: Role::Trusted, mtu, place: Place::Worker(place), tunnel_gso: false },
            );
            let v6 = format!("fd00:10:244::{}", v4[3]).parse().unwrap();
            tables.add_pod(at.id(), MacAddr(mac), &[IpAddr::from(v4), v6]);
            tables.segment.push(at.id());
            tables.trusted.push(at.id());
        }
        tables.routes6.insert("fd00:10:244::".parse().unwrap(), 48, NextHop::Unreachable);
        change(&mut tables);
        self.node.switch.publish(tables);
    }

    /// Without trusted ports, and what that means.
    pub fn untrusting() -> Self {
        let mut room = Self::new();
        room.publish(forget_trusted);
        room.node.switch.step();
        room
    }

    pub fn port(&self, at: At) -> &MemPort {
        match at {
            At::Uplink => &self.node.uplink,
            At::Host => &self.node.host,
            At::Pod => &self.node.pod,
            At::Other => &self.other,
            At::Vm => &self.vm,
            At::Router => &self.router,
        }
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now += seconds * 1000;
        self.node.switch.set_time(self.now);
    }

    pub fn send(&mut self, from: At, frame: &[u8]) -> Came {
        self.send_buf(from, HeapBuf::from_bytes(frame))
    }

    pub fn send_buf(&mut self, from: At, frame: HeapBuf) -> Came {
        let came = self.send_all(from, vec![frame]);
        came.0
    }

    /// What came of a burst, and the frames with their state.
    pub fn send_all(&mut self, from: At, frames: Vec<HeapBuf>) -> (Came, Vec<(At, HeapBuf)>) {
        let before = self.counts();
        for frame in frames {
            self.port(from).inject(frame);
        }
        while self.node.switch.step() > 0 {}
        self.node.assert_balanced();
        let after = self.counts();
        let out: Vec<_> =
            At::ALL.iter().flat_map(|at| self.port(*at).take().into_iter().map(move |f| (*at, f))).collect();
        let events = self.node.switch.handles().flat_map(|h| std::iter::from_fn(|| h.events().take()));
        let came = Came {
            out: out.iter().map(|(at, frame)| (*at, frame.to_vec())).collect(),
            drops: DropReason::ALL
                .iter()
                .map(|reason| (reason.name(), after.0[reason.index()] - before.0[reason.index()]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            consumed: after.1 - before.1,
            originated: after.2 - before.2,
            events: events.collect(),
        };
        (came, out)
    }

    fn counts(&self) -> (Vec<u64>, u64, u64) {
        let drops = DropReason::ALL.iter().map(|reason| self.node.drops(*reason)).collect();
        let originated = self.node.switch.handles().map(|h| h.counters().originated.get()).sum();
        (drops, self.node.consumed(), originated)
    }

    /// The sum over the workers.
    pub fn counter(
        &self,
        read: impl Fn(&weft_switch::counters::WorkerCounters) -> &weft_sync::counter::Counter,
    ) -> u64 {
        self.node.switch.handles().map(|handle| read(handle.counters()).get()).sum()
    }
}

/// No port is trusted any more: those that were are pods with the addresses that they had.
pub fn forget_trusted(tables: &mut Snapshot) {
    for (at, mac, v4) in [(At::Vm, VM_MAC, VM), (At::Router, ROUTER_MAC, ROUTER)] {
        let mut port = tables.ports.get(at.id()).unwrap().clone();
        let v6 = format!("fd00:10:244::{}", v4[3]).parse().unwrap();
        let guard = weft_switch::tables::PodGuard::new(MacAddr(mac), &[IpAddr::from(v4), v6]);
        port.role = Role::Pod(guard);
        tables.ports.insert(at.id(), port);
    }
    tables.trusted.clear();
}
