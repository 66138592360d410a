//! Nodes that say nonsense, or claim what is another's: each costs one line, and at most itself.

use serde_json::{Value, json};

use crate::lab::{DUAL, Lab, Log, PREFIX, VXLAN, annotate, backend_data, mac, node, public_ip};

/// Node 4, changed so.
fn wrong(change: impl FnOnce(&mut Value)) -> Value {
    let mut node = node(4);
    change(&mut node);
    node
}

fn note(name: &str, value: &str) -> Value {
    wrong(|node| annotate(node, name, value))
}

#[tokio::test]
async fn a_node_that_says_nonsense_costs_one_line_and_itself() {
    let long = "x".repeat(100_000);
    let nonsense = [
        ("garbage data", note("backend-data", "garbage")),
        ("a list", note("backend-data", "[1]")),
        ("no data", note("backend-data", "null")),
        ("no MAC address", note("backend-data", r#"{"VNI":1}"#)),
        ("a wrong MAC address", note("backend-data", &backend_data("02:00"))),
        ("a group's MAC address", note("backend-data", &backend_data("01:00:5e:00:00:01"))),
        ("the zero MAC address", note("backend-data", &backend_data("00:00:00:00:00:00"))),
        ("a wrong VNI", note("backend-data", r#"{"VNI":-1,"VtepMAC":"02:00:00:00:00:04"}"#)),
        ("long data", note("backend-data", &long)),
        ("deep data", note("backend-data", &"[".repeat(100_000))),
        ("a wrong address", note("public-ip", "300.1.1.1")),
        ("a name for an address", note("public-ip", "node4.example")),
        ("no address", note("public-ip", "")),
        ("the unspecified address", note("public-ip", "0.0.0.0")),
        ("a group's address", note("public-ip", "224.0.0.1")),
        ("loopback", note("public-ip", "127.0.0.1")),
        ("broadcast", note("public-ip", "255.255.255.255")),
        ("a pod's address", note("public-ip", "10.0.9.9")),
        ("a subnet outside", wrong(|node| node["spec"] = json!({"podCIDR": "192.168.4.0/24"}))),
        ("a subnet around", wrong(|node| node["spec"] = json!({"podCIDR": "8.0.0.0/6"}))),
        ("a subnet that is none", wrong(|node| node["spec"] = json!({"podCIDR": "10.0.4.0/33"}))),
        (
            "many subnets",
            wrong(|node| node["spec"] = json!({"podCIDRs": ["10.0.4.0/24", "10.0.5.0/24", "10.0.6.0/24"]})),
        ),
        ("no subnet", wrong(|node| node["spec"] = json!({}))),
        ("only the other family", wrong(|node| node["spec"] = json!({"podCIDR": "fd00::/64"}))),
        ("annotations of another kind", wrong(|node| node["metadata"]["annotations"] = json!([1, 2]))),
        ("a number", wrong(|node| node["metadata"]["annotations"][format!("{PREFIX}/public-ip")] = json!(7))),
        ("a subnet of another kind", wrong(|node| node["spec"]["podCIDRs"] = json!({"a": 1}))),
        ("conditions of another kind", wrong(|node| node["status"]["conditions"] = json!("none"))),
        ("the subnet of n2", wrong(|node| node["spec"] = json!({"podCIDR": "10.0.2.0/24"}))),
        ("a subnet within that of n2", wrong(|node| node["spec"] = json!({"podCIDR": "10.0.2.128/25"}))),
        ("a subnet around that of n2", wrong(|node| node["spec"] = json!({"podCIDR": "10.0.2.0/23"}))),
        ("our subnet", wrong(|node| node["spec"] = json!({"podCIDR": "10.0.1.0/24"}))),
        ("the whole network", wrong(|node| node["spec"] = json!({"podCIDR": "10.0.0.0/8"}))),
        ("the address of n2", note("public-ip", &public_ip(2))),
        ("our address", note("public-ip", &public_ip(1))),
        ("the MAC address of n2", note("backend-data", &backend_data(&mac(2)))),
        ("our MAC address", note("backend-data", &backend_data(&mac(1)))),
    ];
    let lab = Lab::new(VXLAN);
    let log = Log::begin();
    let mut running = lab.run().await;
    for (what, nonsense) in nonsense {
        let before = log.about("n4").len();
        lab.server.put("nodes", nonsense);
        lab.server.put("nodes", node(9));
        running.until(what, |r| r.names() == ["n2", "n3", "n9"]).await;
        // Again, and with other news beside it.
        lab.server.change("nodes", "n4", |node| node["status"]["beat"] = json!(1));
        lab.server.remove("nodes", "n9");
        running.until(what, |r| r.names() == ["n2", "n3"]).await;
        let lines = log.about("n4").split_off(before);
        assert_eq!(lines.len(), 1, "{what}: {lines:?}");
        assert!(lines[0].len() < 400, "{what}: {}", lines[0]);
        assert_eq!(*running.last, lab.fresh().await, "{what}");
        lab.server.put("nodes", node(4));
        running.until("a good one", |r| r.names() == ["n2", "n3", "n4"]).await;
    }
}

#[tokio::test]
async fn of_two_that_claim_the_same_the_older_one_keeps_it_whoever_came_first() {
    let made = |index: u16, at: &str| {
        let mut node = node(index);
        node["metadata"]["creationTimestamp"] = json!(at);
        node["spec"] = json!({"podCIDR": "10.0.77.0/24"});
        node
    };
    for order in [[4, 5, 6], [6, 5, 4], [5, 4, 6]] {
        let lab = Lab::new(VXLAN);
        let mut running = lab.run().await;
        for index in order {
            let at = format!("2025-06-0{}T00:00:00Z", 9 - index);
            lab.server.put("nodes", made(index, &at));
        }
        running.until("the oldest", |r| r.names() == ["n2", "n3", "n6"]).await;
        lab.server.remove("nodes", "n6");
        running.until("the next", |r| r.names() == ["n2", "n3", "n5"]).await;
        assert_eq!(*running.last, lab.fresh().await);
    }
}

#[tokio::test]
async fn a_node_that_was_left_over_does_not_keep_its_successors_address() {
    let lab = Lab::new(VXLAN);
    let mut running = lab.run().await;
    let dead = |node: &mut Value| {
        node["status"]["conditions"] =
            json!([{"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-03-01T00:00:00Z"}]);
    };
    // Another name, the same machine.
    let mut successor = node(4);
    annotate(&mut successor, "public-ip", &public_ip(2));
    lab.server.put("nodes", successor);
    lab.server.put("nodes", node(5));
    running.until("the living one keeps it", |r| r.names() == ["n2", "n3", "n5"]).await;
    lab.server.change("nodes", "n2", dead);
    running.until("the successor has it", |r| r.names() == ["n3", "n4", "n5"]).await;
    // All are taken for dead while the control plane is cut off; the one that was seen last keeps it.
    lab.server.change("nodes", "n4", |node| {
        dead(node);
        node["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-03-09T00:00:00Z");
    });
    lab.server.remove("nodes", "n5");
    running.until("the news", |r| !r.names().contains(&"n5")).await;
    assert_eq!(running.names(), ["n3", "n4"]);
}

#[tokio::test]
async fn a_peer_of_one_family_is_reached_by_that_one() {
    let log = Log::begin();
    let lab = Lab::new(DUAL);
    lab.server
        .change("nodes", "n1", |node| node["spec"]["podCIDRs"] = json!(["10.0.1.0/24", "fd00:10:0:1::/64"]));
    let both = |index: u16| {
        let mut node = node(index);
        node["spec"]["podCIDRs"] = json!([format!("10.0.{index}.0/24"), format!("fd00:10:0:{index}::/64")]);
        annotate(&mut node, "public-ipv6", &format!("fd01::{index}"));
        annotate(&mut node, "backend-v6-data", &backend_data(&format!("02:00:00:00:60:{index:02}")));
        node
    };
    let mut running = lab.run().await;
    let subnets = |r: &crate::lab::Running, name: &str| r.peer(name).map(|peer| peer.subnets.to_string());
    assert_eq!(subnets(&running, "n2").as_deref(), Some("10.0.2.0/24"), "it speaks no IPv6");
    lab.server.put("nodes", both(4));
    running.until("both", |r| subnets(r, "n4").as_deref() == Some("10.0.4.0/24 and fd00:10:0:4::/64")).await;
    let data = running.peer("n4").unwrap().attributes.backend_v6_data.clone();
    assert_eq!(data, Some(backend_data("02:00:00:00:60:04")));
    assert_eq!(log.about("n4"), Vec::<String>::new());

    lab.server.change("nodes", "n4", |node| annotate(node, "backend-v6-data", "nonsense"));
    running.until("IPv4 alone", |r| subnets(r, "n4").as_deref() == Some("10.0.4.0/24")).await;
    assert_eq!(running.peer("n4").unwrap().attributes.public_ipv6, None);
    assert_eq!(log.about("n4").len(), 1, "{:?}", log.about(""));
    lab.server.put("nodes", both(4));
    running.until("both", |r| subnets(r, "n4").as_deref() == Some("10.0.4.0/24 and fd00:10:0:4::/64")).await;
    lab.server.change("nodes", "n4", |node| annotate(node, "public-ip", "nonsense"));
    running.until("IPv6 alone", |r| subnets(r, "n4").as_deref() == Some("fd00:10:0:4::/64")).await;
}
