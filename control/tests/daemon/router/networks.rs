//! Several subnets and several networks on one node.

use crate::lab::frames::{Checksum, Ip, UDP, echo, ethernet, icmp, mac, udp, vxlan};
use crate::lab::routed::{BOTH, GATEWAY_MAC, Net, Packet, Routed, Side, V4, V6};
use crate::lab::{Namespace, VTEP_MACS, tap_pod};

/// A pod of a with these addresses.
fn pod(name: &str, addresses: [&str; 2], netns: &Namespace) -> String {
    let [v4, v6] = addresses;
    tap_pod(name, 2, netns).replace("\"10.244.0.2\", \"fd00:10:244::2\"", &format!("\"{v4}\", \"{v6}\""))
}

fn node(name: &str, subnets: &[&str], host: u8, more: &str) -> String {
    let list: Vec<_> = subnets.iter().map(|subnet| format!("\"{subnet}\"")).collect();
    let own = VTEP_MACS[usize::from(host) - 1];
    format!(
        "[[node]]\nname = \"{name}\"\nsubnets = [{}]\npublic_ip = \"172.16.0.{host}\"\nvtep_mac = \"{own}\"\n{more}",
        list.join(", ")
    )
}

fn datagram(ip: &Ip) -> Vec<u8> {
    ip.with(UDP, &udp(ip, (1000, 2000), Checksum::Valid, b"across"))
}

/// web in the first subnets and db in others of the same network.
fn two_subnets() -> Routed {
    let cluster = |[web, db]: [&Namespace; 2]| {
        let own = ["10.244.0.0/24", "fd00:10:244::/64", "10.244.9.0/26", "fd00:10:244:9::/64"];
        "[network]\nipv4 = \"10.244.0.0/16\"\nipv6 = \"fd00:10:244::/48\"\n".to_owned()
            + &node("a", &own, 1, "")
            + &node("b", &["10.244.1.0/24", "fd00:10:244:1::/64"], 2, "")
            + &pod("web", [V4.web, V6.web], web)
            + &pod("db", DB, db)
    };
    Routed::with_cluster("", cluster, |_| ())
}

const DB: [&str; 2] = ["10.244.9.3", "fd00:10:244:9::3"];
const DB_GATEWAY: [&str; 2] = ["10.244.9.1", "fd00:10:244:9::1"];

/// Two networks, with web in the first and db in the second.
fn two_networks() -> Routed {
    let cluster = |[web, db]: [&Namespace; 2]| {
        let macs = |mac: &str| format!("vtep_macs = {{ blue = \"{mac}\" }}\n");
        "[[network]]\nipv4 = \"10.244.0.0/16\"\nipv6 = \"fd00:10:244::/48\"\n\
         [[network]]\nname = \"blue\"\nvni = 77\nipv4 = \"10.99.0.0/16\"\nipv6 = \"fd00:10:99::/48\"\n"
            .to_owned()
            + &node(
                "a",
                &["10.244.0.0/24", "fd00:10:244::/64", "10.99.0.0/24", "fd00:10:99::/64"],
                1,
                &macs(BLUE_MACS[0]),
            )
            + &node(
                "b",
                &["10.244.1.0/24", "fd00:10:244:1::/64", "10.99.1.0/24", "fd00:10:99:1::/64"],
                2,
                &macs(BLUE_MACS[1]),
            )
            + &pod("web", [V4.web, V6.web], web)
            + &pod("db", BLUE, db)
    };
    Routed::with_cluster("", cluster, |_| ())
}

const BLUE: [&str; 2] = ["10.99.0.3", "fd00:10:99::3"];
const BLUE_GATEWAY: [&str; 2] = ["10.99.0.1", "fd00:10:99::1"];
const BLUE_FAR: [&str; 2] = ["10.99.1.3", "fd00:10:99:1::3"];
const BLUE_MACS: [&str; 2] = ["02:00:5e:00:77:01", "02:00:5e:00:77:02"];

fn of(net: Net, both: [&'static str; 2]) -> &'static str {
    net.pick(both[0], both[1])
}

/// web and db, which has these addresses, reach each other by one hop.
fn reach_each_other(router: &mut Routed, db: [&'static str; 2]) {
    for net in BOTH {
        for (from, to, src, dst) in
            [(Side::Web, Side::Db, net.web, of(net, db)), (Side::Db, Side::Web, of(net, db), net.web)]
        {
            let ip = Ip::new(src, dst);
            let further = Ip { ttl: 63, ..ip.clone() };
            router.forwards(from, to, &datagram(&ip), &datagram(&further));
        }
    }
}

/// Each of the gateways answers the echo of each pod.
fn gateways_answer(router: &mut Routed, db: [&'static str; 2], gateway: [&'static str; 2]) {
    for net in BOTH {
        for (side, src) in [(Side::Web, net.web), (Side::Db, of(net, db))] {
            for to in [net.gateway, of(net, gateway)] {
                let ip = Ip::new(src, to);
                let (protocol, message) = echo(&ip, 1, 2, b"gateway");
                router.send(side, &ip.with(protocol, &message)).assert_only(&[("tx", 1)]);
                let back = Ip::new(to, src);
                let reply = icmp(&back, (net.pick(0, 129), 0), [0, 1, 0, 2], b"gateway");
                router.receive_packet(side, &back.with(protocol, &reply));
            }
        }
    }
}

/// Each pod is told by the gateway of its own subnet; who is in none of them, by the first.
fn told_by_the_own_gateway(router: &mut Routed, db: [&'static str; 2], gateway: [&'static str; 2]) {
    for net in BOTH {
        for (side, src, dst, told_by) in [
            (Side::Web, net.web, of(net, db), net.gateway),
            (Side::Db, of(net, db), net.web, of(net, gateway)),
            (Side::Far, net.far, of(net, db), net.gateway),
        ] {
            let packet = datagram(&Ip { ttl: 1, ..Ip::new(src, dst) });
            router.tells_from(told_by, side, &packet, "ttl_exceeded", net.time_exceeded());
        }
        let packet = datagram(&Ip::new(of(net, db), net.no_node));
        router.tells_from(of(net, gateway), Side::Db, &packet, "route_unreachable", net.host_unreachable());
    }
}

#[test]
fn pods_of_two_subnets_reach_each_other() {
    reach_each_other(&mut two_subnets(), DB);
}

#[test]
fn the_gateways_of_both_subnets_answer() {
    gateways_answer(&mut two_subnets(), DB, DB_GATEWAY);
}

#[test]
fn errors_come_from_the_gateway_of_the_senders_subnet() {
    told_by_the_own_gateway(&mut two_subnets(), DB, DB_GATEWAY);
}

#[test]
fn both_subnets_are_reached_by_the_tunnel() {
    let mut router = two_subnets();
    for net in BOTH {
        for (side, address) in [(Side::Web, net.web), (Side::Db, of(net, DB))] {
            for (from, to, src, dst) in
                [(Side::Far, side, net.far, address), (side, Side::Far, address, net.far)]
            {
                let ip = Ip::new(src, dst);
                let further = Ip { ttl: 63, ..ip.clone() };
                router.forwards(from, to, &datagram(&ip), &datagram(&further));
            }
        }
    }
}

#[test]
fn what_is_beside_a_small_subnet_is_no_nodes() {
    let mut router = two_subnets();
    // 10.244.9.0/26 ends at 63.
    for (address, reason) in [("10.244.9.62", "no_pod"), ("10.244.9.64", "route_unreachable")] {
        let packet = datagram(&Ip::new(V4.web, address));
        router.tells(Side::Web, &packet, reason, V4.host_unreachable());
    }
    // The broadcast address of that one.
    router.drops(Side::Web, &datagram(&Ip::new(V4.web, "10.244.9.63")), "no_pod");
}

#[test]
fn pods_of_two_networks_reach_each_other() {
    reach_each_other(&mut two_networks(), BLUE);
}

#[test]
fn the_gateways_of_both_networks_answer() {
    gateways_answer(&mut two_networks(), BLUE, BLUE_GATEWAY);
}

#[test]
fn errors_come_from_the_gateway_of_the_senders_network() {
    told_by_the_own_gateway(&mut two_networks(), BLUE, BLUE_GATEWAY);
}

#[test]
fn each_network_has_its_own_tunnel() {
    let mut router = two_networks();
    let [near, far] = BLUE_MACS.map(mac);
    for net in BOTH {
        // Out: the destination's network counts, whichever pod sends.
        for (side, src) in [(Side::Db, of(net, BLUE)), (Side::Web, net.web)] {
            let ip = Ip::new(src, of(net, BLUE_FAR));
            let further = Ip { ttl: 63, ..ip.clone() };
            router.send(side, &datagram(&ip)).assert_only(&[("tx", 1)]);
            let inner = router.far.receive("tunnel packet", |frame| {
                frame.bytes.get(36..38).filter(|port| **port == 8472u16.to_be_bytes())?;
                Some(frame.bytes[42..].to_vec())
            });
            assert_eq!(inner[..8], vxlan(77));
            assert_eq!(
                (&inner[8..14], &inner[14..20], &inner[22..]),
                (&far[..], &near[..], &datagram(&further)[..])
            );
        }
        // In: to that network's VTEP.
        let ip = Ip::new(of(net, BLUE_FAR), of(net, BLUE));
        let further = Ip { ttl: 63, ..ip.clone() };
        let tunnel = crate::lab::frames::Tunnel { vxlan: vxlan(77), ..router.tunnel() };
        let inner = ethernet(near, far, ip.ethertype(), &datagram(&ip));
        let deltas = router.send_frame(Side::Far, &tunnel.with(&inner));
        deltas.assert_only(&[("tx", 1)]).assert_ports(&[("up0.rx", 1), ("db.tx", 1)]);
        router.receive_packet(Side::Db, &datagram(&further));

        // One network's VTEP is nobody in the other.
        let inner = ethernet(mac(VTEP_MACS[0]), far, ip.ethertype(), &datagram(&ip));
        router.send_frame(Side::Far, &tunnel.with(&inner)).assert_dropped("up0", "inner_mac_wrong", 1);
        let other = crate::lab::frames::Tunnel { vxlan: vxlan(78), ..router.tunnel() };
        let inner = ethernet(near, far, ip.ethertype(), &datagram(&ip));
        router.send_frame(Side::Far, &other.with(&inner)).assert_dropped("up0", "vni_unknown", 1);
    }
}

#[test]
fn an_error_goes_back_by_the_tunnel_of_its_receivers_network() {
    let mut router = two_networks();
    let [near, far] = BLUE_MACS.map(mac);
    for net in BOTH {
        let ip = Ip { ttl: 1, ..Ip::new(of(net, BLUE_FAR), of(net, BLUE)) };
        let packet = datagram(&ip);
        let tunnel = crate::lab::frames::Tunnel { vxlan: vxlan(77), ..router.tunnel() };
        let inner = ethernet(near, far, ip.ethertype(), &packet);
        let deltas = router.send_frame(Side::Far, &tunnel.with(&inner));
        deltas.assert_only(&[("ttl_exceeded", 1), ("originated", 1), ("tx", 1)]);
        let inner = router.far.receive("tunnel packet", |frame| {
            frame.bytes.get(36..38).filter(|port| **port == 8472u16.to_be_bytes())?;
            Some(frame.bytes[42..].to_vec())
        });
        assert_eq!((&inner[..8], &inner[8..14], &inner[14..20]), (&vxlan(77)[..], &far[..], &near[..]));
        let error = &inner[22..];
        assert_eq!(Packet::read(error).dst, ip.src);
        assert_eq!(error[net.pick(20, 40)], net.time_exceeded().0);
    }
}

#[test]
fn one_mac_address_is_the_gateway_of_all() {
    let mut router = two_networks();
    for net in BOTH {
        let ip = Ip::new(of(net, BLUE), net.web);
        let frame = ip.frame(mac(GATEWAY_MAC), router.db.mac, UDP, &udp(&ip, (1, 2), Checksum::Valid, b"x"));
        router.send_frame(Side::Db, &frame).assert_only(&[("tx", 1)]);
    }
}
