//! Kernels as pods: their own ARP, neighbour discovery and duplicate address detection judge what weft says.

use crate::lab::segment::{
    BROADCAST, GATEWAY, GATEWAY_MAC, NOBODY, advertisement, arp_frame, multicast_mac, pod_entry, text,
};
use crate::lab::{Lab, Namespace, VTEP_MACS, Weftd, Wire, tap_pod, wait_for};

/// Two ordinary pods with their kernels.
fn two() -> (Lab, Weftd, [Namespace; 2]) {
    let (lab, pods) = (Lab::new(), ["left", "right"].map(Namespace::new));
    lab.write_cluster(&(tap_pod("left", 2, &pods[0]) + &tap_pod("right", 3, &pods[1])));
    let weftd = lab.start();
    (lab, weftd, pods)
}

fn mac_of(pod: &Namespace) -> String {
    pod.json("link show dev eth0")[0]["address"].as_str().expect("a MAC address").to_owned()
}

/// What a kernel has found out about an address.
fn found(pod: &Namespace, address: &str) -> (String, bool) {
    let entry = pod.json(&format!("neigh show {address} dev eth0")).remove(0);
    let mac =
        entry["lladdr"].as_str().unwrap_or_else(|| panic!("{address} is not known: {entry}")).to_owned();
    (mac, entry.get("router").is_some())
}

#[test]
fn kernels_find_the_gateway_and_each_other() {
    let (lab, _weftd, [left, right]) = two();
    for address in [GATEWAY[0], GATEWAY[1], "10.244.0.3", "fd00:10:244::3"] {
        assert!(left.pings(address), "{address}");
    }
    assert_eq!(found(&left, GATEWAY[0]).0, text(GATEWAY_MAC));
    assert_eq!(found(&left, GATEWAY[1]), (text(GATEWAY_MAC), true));
    assert_eq!(found(&left, "10.244.0.3").0, mac_of(&right));
    assert_eq!(found(&left, "fd00:10:244::3"), (mac_of(&right), false));
    // And nobody where nobody is.
    assert!(!left.reaches("10.244.0.99") && !left.reaches("fd00:10:244::99"));
    lab.counters_balance();
}

/// Gives an address to a pod as its kernel does by itself, and waits for what it finds out: whether it is free.
fn takes(pod: &Namespace, address: &str) -> bool {
    pod.ip(&format!("addr add {address} dev eth0"));
    let plain = address.split('/').next().expect("an address");
    let free = wait_for("the end of duplicate address detection", || {
        let link = pod.json("addr show dev eth0").remove(0);
        let all = link["addr_info"].as_array().expect("addresses").clone();
        let entry = all.into_iter().find(|entry| entry["local"] == plain).expect("the address");
        if entry.get("dadfailed").is_some() {
            return Some(false);
        }
        entry.get("tentative").is_none().then_some(true)
    });
    pod.ip(&format!("addr del {address} dev eth0"));
    free
}

#[test]
fn a_kernel_that_looks_for_duplicates_finds_those_that_are_there() {
    let (lab, _weftd, [left, right]) = two();
    // weft spares its pods the wait; one that insists may do it. It asks often enough for an answer that is late to be heard.
    left.must("sysctl -qw net.ipv6.conf.eth0.accept_dad=1 net.ipv6.conf.eth0.dad_transmits=4");
    left.ip("addr del fd00:10:244::2/64 dev eth0");
    assert!(takes(&left, "fd00:10:244::2/64"), "its own address is free");
    assert!(takes(&left, "fe80::5678/64"), "a link-local address that nobody has is free");
    for taken in ["fd00:10:244::3/128", "fd00:10:244::1/128", "fd00:10:244::/128"] {
        assert!(!takes(&left, taken), "{taken} is somebody's");
    }
    assert!(right.pings(GATEWAY[1]));
    lab.counters_balance();
}

#[test]
fn a_kernel_that_announces_itself_goes_on_being_heard() {
    let (lab, _weftd, [left, right]) = two();
    left.must("sysctl -qw net.ipv4.conf.eth0.arp_notify=1 net.ipv6.conf.eth0.ndisc_notify=1");
    assert!(right.pings("10.244.0.2") && right.pings("fd00:10:244::2"));
    left.ip("link set eth0 down");
    left.ip("link set eth0 up");
    // The kernel drops an interface's IPv6 addresses when it goes down.
    left.ip("addr replace fd00:10:244::2/64 dev eth0 nodad");
    wait_for("both families", || {
        (right.reaches("10.244.0.2") && right.reaches("fd00:10:244::2")).then_some(())
    });
    assert_eq!(found(&right, "10.244.0.2").0, mac_of(&left));
    let conflicts = lab.get("/v1/neigh");
    assert_eq!(conflicts["conflicts"].as_array().map(Vec::len), Some(0), "{conflicts}");
    lab.counters_balance();
}

/// b's kernel behind its VTEP: it answers by its own stack.
fn far(lab: &Lab) {
    let [near, own] = VTEP_MACS;
    let b = &lab.peer;
    b.ip(&format!(
        "link add flannel.1 address {own} mtu 1450 type vxlan id 1 local 172.16.0.2 dev up0 dstport 8472 nolearning"
    ));
    b.ip("addr add 10.244.1.2/32 dev flannel.1");
    b.ip("addr add fd00:10:244:1::2/128 dev flannel.1 nodad");
    b.ip("link set flannel.1 up");
    for (via, subnet) in [("10.244.0.0", "10.244.0.0/24"), ("fd00:10:244::", "fd00:10:244::/64")] {
        b.ip(&format!("neigh add {via} lladdr {near} dev flannel.1 nud permanent"));
        b.ip(&format!("route add {subnet} via {via} dev flannel.1 onlink"));
    }
    b.must(&format!("bridge fdb append {near} dev flannel.1 dst 172.16.0.1 self permanent"));
}

#[test]
fn a_pod_whose_mask_covers_the_network_reaches_other_nodes() {
    let (lab, left) = (Lab::new(), Namespace::new("left"));
    far(&lab);
    let entry = tap_pod("left", 2, &left)
        .replace("\"10.244.0.2\"", "\"10.244.0.2/16\"")
        .replace("\"fd00:10:244::2\"", "\"fd00:10:244::2/48\"");
    lab.write_cluster(&entry);
    let _weftd = lab.start();
    lab.peer_resolved();
    for (address, route) in [("10.244.1.2", "10.244.0.0/16"), ("fd00:10:244:1::2", "fd00:10:244::/48")] {
        let family = if address.contains(':') { "-6" } else { "-4" };
        let routes = left.json(&format!("{family} route show {route}"));
        assert_eq!(routes.len(), 1, "{route} is on the link: {routes:?}");
        assert!(routes[0].get("gateway").is_none(), "{routes:?}");
        assert!(left.pings(address), "{address}");
        // The kernel has asked for the far pod itself, and takes weft for it.
        assert_eq!(found(&left, address), (text(GATEWAY_MAC), false));
    }
    assert!(lab.peer.pings("10.244.0.2") && lab.peer.pings("fd00:10:244::2"));
    lab.counters_balance();
}

#[test]
fn kernels_behind_trusted_ports_have_addresses_of_their_own() {
    let lab = Lab::new();
    let [left, one, two] = ["left", "one", "two"].map(Namespace::new);
    lab.write_cluster(
        &[
            pod_entry("left", 2, &left, false),
            pod_entry("one", 4, &one, true),
            pod_entry("two", 5, &two, true),
        ]
        .concat(),
    );
    let _weftd = lab.start();
    let vip = [("10.244.0.50/32", "10.244.0.50"), ("fd00:10:244::50/128", "fd00:10:244::50")];
    let mut before: Option<&Namespace> = None;
    for holder in [&one, &two, &one] {
        let mut wire = Wire::open(holder, "eth0");
        for (address, plain) in vip {
            if let Some(before) = before {
                before.ip(&format!("addr del {address} dev eth0"));
            }
            holder.ip(&format!("addr add {address} dev eth0"));
            // Who takes over an address says so, as VRRP has it.
            let announcement = if plain.contains(':') {
                let all = multicast_mac("ff02::1");
                advertisement(all, wire.mac, (plain, "ff02::1"), 0x20, (plain, wire.mac))
            } else {
                arp_frame(BROADCAST, 1, (wire.mac, plain), (NOBODY, plain))
            };
            wire.send(&announcement);
        }
        before = Some(holder);
        for (_, plain) in vip {
            lab.wait_for_neighbour(plain, wire.mac, if std::ptr::eq(holder, &one) { "one" } else { "two" });
            wait_for("traffic to the address", || left.reaches(plain).then_some(()));
            assert!(left.pings(plain), "{plain}");
            assert_eq!(found(&left, plain).0, text(wire.mac));
            assert!(lab.node.pings(plain), "from the node to {plain}");
        }
    }
    lab.counters_balance();
}
