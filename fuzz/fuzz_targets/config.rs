//! The files that an operator writes: weftd.toml and cluster.toml. Every input is read as each of them, by the functions
//! that the daemon calls. A mistake is named with a place in the file; what is found valid compiles to tables in which
//! every pod is found.
#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use weft_control::cluster;
use weft_control::compile::{
    Facts, OpenPort, PeerWays, Uplink, Way, compile, direct_routes, gateway_mac, peer_addresses,
};
use weft_control::config::Config;
use weft_control::model::{Encapsulation, Model, gateway, validate};
use weft_control::settings::FileError;
use weft_switch::ip_tunnel::address_of;
use weft_switch::limits::Limits;
use weft_switch::tables::{NO_VTEP, NextHop, Place, Role, Snapshot, SourcePorts};
use weft_switch::types::{Generation, MacAddr, PortId};

/// The node that the files are read as.
const NODE: &str = "worker-1";

thread_local! {
    /// A file without a name, written anew for every input.
    static FILE: RefCell<io::Result<File>> = RefCell::new(tempfile::tempfile());
}

fuzz_target!(|data: &[u8]| {
    let path = FILE.with_borrow(|file| {
        let file = file.as_ref().expect("a temporary file");
        file.set_len(0).expect("emptied");
        file.write_all_at(data, 0).expect("written");
        PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
    });
    match Config::load(&path) {
        Ok(config) => in_range(&config),
        Err(error) => named(&error, data),
    }
    match cluster::load(&path, NODE) {
        Ok(model) => compiled(&model),
        Err(error) => named(&error, data),
    }
});

fn in_range(config: &Config) {
    let dataplane = &config.dataplane;
    assert!((1..=64).contains(&dataplane.workers));
    assert!(dataplane.cores.is_empty() || dataplane.cores.len() == dataplane.workers);
    assert!((16 << 20..=64 << 30).contains(&dataplane.memory));
    assert!(dataplane.spin_us <= 10_000 && (10..=100_000).contains(&dataplane.poll_beat_us));
    assert!((1024..=4_194_304).contains(&dataplane.pins));
    assert!(config.control.socket.is_absolute() && config.control.socket.as_os_str().len() <= 107);
    assert!(config.state.dir.is_absolute() && config.host_port.name.len() <= 15);
}

/// Every mistake is at a place that the file has, and says what is wrong and what to do.
fn named(error: &FileError, data: &[u8]) {
    assert!(!error.to_string().is_empty());
    let FileError::Wrong { mistakes, .. } = error else { panic!("{error}") };
    assert!(!mistakes.is_empty());
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    for mistake in mistakes {
        assert!((1..=lines.len()).contains(&mistake.line), "{mistake} in {} lines", lines.len());
        let line = lines[mistake.line - 1];
        assert!((1..=line.len() + 1).contains(&mistake.column), "{mistake}");
        assert!(!mistake.reason.is_empty() && !mistake.remedy.is_empty(), "{mistake:?}");
        assert!(!mistake.reason.contains('\n'), "{mistake:?}");
    }
}

/// The node as the daemon would find it: all its ports open, the ways to every other peer known.
fn facts(model: &Model) -> Facts {
    let place = Place::Worker(0);
    let open = |index: usize| OpenPort { id: PortId::new(index % 2000).expect("below 2,048"), place };
    let own = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let way = |next_hop, mac| Way { source: own, next_hop, next_hop_mac: mac, mtu: None };
    let peers = peer_addresses(model, NODE);
    // Every third is behind a router, the way to every second is resolved.
    let ways: PeerWays = peers
        .iter()
        .enumerate()
        .map(|(n, peer)| {
            let next_hop = if n % 3 == 0 { own } else { *peer };
            (*peer, way(next_hop, (n % 2 == 0).then_some(MacAddr([2, 0, 0, 0, 0, 6]))))
        })
        .collect();
    let (direct, _) = direct_routes(model, NODE, &ways);
    Facts {
        node: NODE.to_owned(),
        vtep_macs: model.networks.iter().map(|net| (net.name.clone(), MacAddr([2, 0, 0, 0, 0, 9]))).collect(),
        uplink: Uplink {
            port: Some(open(0).id),
            mac: MacAddr([2, 0, 0, 0, 0, 8]),
            mtu: 1500,
            addresses: vec![own],
            vxlan_port: model.port,
            tunnel_gso: peers.len() % 3 == 0,
            kernel_resolves: peers.len() % 3 == 0,
            plain: peers.len() % 2 == 0,
        },
        host: Some((open(1), MacAddr([2, 0, 0, 0, 0, 7]))),
        ports: model.pods_of(NODE).enumerate().map(|(n, pod)| (pod.name.clone(), open(n + 2))).collect(),
        ways: ways.into(),
        direct: direct.into_iter().map(|route| route.subnet).collect(),
        source_ports: SourcePorts::default(),
        outer_checksum: peers.len() % 2 == 0,
        accept_unknown: false,
        learned: Vec::new(),
        path_mtus: peers.iter().take(1).map(|peer| (*peer, 576)).collect(),
        limits: Limits::default(),
        ageing: 300,
        learn_limit: 256,
        bandwidth: HashMap::new(),
    }
}

fn route(tables: &Snapshot, to: IpAddr) -> Option<NextHop> {
    match to {
        IpAddr::V4(v4) => tables.routes4.lookup(v4),
        IpAddr::V6(v6) => tables.routes6.lookup(v6),
    }
}

fn compiled(model: &Model) {
    assert_eq!(validate(model, NODE), Ok(()));
    let facts = facts(model);
    let tables = compile(model, &facts, Generation(1));
    let own = model.node(NODE).expect("a model without the own node is not valid");
    let uplink = facts.uplink.port.and_then(|id| tables.ports.get(id)).expect("the uplink's port");
    let (role, gso) = match model.encapsulation {
        Encapsulation::Vxlan => (Role::Uplink, facts.uplink.tunnel_gso),
        Encapsulation::Udp | Encapsulation::Ipip => (Role::IpTunnel(model.networks[0].vni), false),
    };
    assert_eq!((&uplink.role, uplink.tunnel_gso), (&role, gso));
    // Where the kernel resolves, no far end waits for a MAC address of the next hop.
    let other = Facts { uplink: Uplink { kernel_resolves: true, ..facts.uplink.clone() }, ..facts.clone() };
    let other = compile(model, &other, Generation(1));
    assert_eq!(tables.vteps.len(), other.vteps.len());
    for (far, resolved) in tables.vteps.iter().zip(other.vteps.iter()) {
        assert!(far.encap.is_none() || resolved.encap.is_some());
        assert!(!facts.uplink.kernel_resolves || far.encap.is_some() == resolved.encap.is_some());
    }
    assert_eq!(tables.gateway.mac, gateway_mac(own));
    assert!(tables.gateway.mac.is_unicast());
    for gateway in own.subnets.iter().filter_map(gateway) {
        assert_eq!(route(&tables, gateway), Some(NextHop::Host), "{gateway}");
    }
    for pod in model.pods_of(NODE) {
        let port = facts.ports[&pod.name].id;
        assert!(pod.mac_or_derived().is_unicast());
        let trusted = matches!(tables.ports.get(port).map(|port| &port.role), Some(Role::Trusted));
        assert_eq!(trusted, pod.trusted, "{}", pod.name);
        assert_eq!(trusted, tables.trusted.contains(&port), "{}", pod.name);
        assert!(tables.segment.contains(&port), "{}", pod.name);
        assert_eq!(tables.fdb.get(&pod.mac_or_derived()), Some(&port), "{}", pod.name);
        for address in pod.addresses.iter().map(IpNet::addr) {
            assert_eq!(tables.neighbour(address).map(|found| found.port), Some(port), "{address}");
            assert_eq!(route(&tables, address), Some(NextHop::Local), "{address}");
        }
    }
    for group in tables.groups.iter() {
        assert!(group.len() > 1 && !group.iter().any(|hop| matches!(hop, NextHop::Group(_))));
    }
    for peer in model.nodes.iter().filter(|peer| peer.name != NODE) {
        for subnet in &peer.subnets {
            match route(&tables, subnet.broadcast()) {
                Some(NextHop::Vtep(index)) => assert!((index as usize) < tables.vteps.len()),
                Some(NextHop::Hop(index)) => {
                    let node = tables.hops.get(index as usize).and_then(|hop| address_of(hop.mac));
                    assert!(
                        !model.encapsulation.is_vxlan() && node.is_some() && node == peer.public_ip,
                        "{subnet}"
                    );
                }
                Some(NextHop::Direct(index)) => {
                    assert!(index == NO_VTEP || (index as usize) < tables.vteps.len());
                    assert!(facts.direct.contains(subnet), "{subnet}");
                }
                Some(NextHop::OnLink(link)) => {
                    assert!((link as usize) < tables.links.len());
                    assert!(facts.direct.contains(subnet) && facts.uplink.plain, "{subnet}");
                }
                Some(NextHop::Unreachable) => {}
                other => panic!("{subnet} leads to {other:?}"),
            }
        }
    }
}
