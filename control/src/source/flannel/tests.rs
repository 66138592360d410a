use super::*;
use weft_flannel::lease::Attributes;

fn config(text: &str) -> NetConf {
    NetConf::parse(text).unwrap()
}

fn own() -> Own {
    Own {
        name: "a".to_owned(),
        ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        ipv6: Some("2001:db8::1".parse().unwrap()),
        vtep_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
    }
}

fn peer(key: &str, value: &str) -> Peer {
    Peer {
        name: key.to_owned(),
        subnets: Subnets::from_key(key).unwrap(),
        attributes: Attributes::from_json(value).unwrap(),
    }
}

fn cluster(config_text: &str, own_key: &str, peers: Vec<Peer>) -> Cluster {
    let peers = peers.into_iter().map(Arc::new).collect();
    Cluster { config: config(config_text), own: Subnets::from_key(own_key).unwrap(), peers }
}

fn good(host: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.{host}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":7,"VtepMAC":"02:00:00:00:00:{host:02x}"}}}}"#
    )
}

const VXLAN: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":7,"Port":4789}}"#;

#[test]
fn a_cluster_becomes_a_model() {
    let cluster =
        cluster(VXLAN, "10.5.1.0-24", vec![peer("10.5.2.0-24", &good(2)), peer("10.5.3.0-24", &good(3))]);
    let model = Translation::new(own()).model(&cluster).unwrap();
    let network = &model.networks[0];
    assert_eq!((model.port, network.vni.get(), network.mtu.map(Mtu::get)), (4789, 7, Some(1450)));
    let names: Vec<_> = model.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "10.5.2.0-24", "10.5.3.0-24"]);
    assert_eq!(model.nodes[2].public_ip, Some(Ipv4Addr::new(192, 0, 2, 3)));
    assert_eq!(model.nodes[2].vtep_mac, Some(MacAddr([2, 0, 0, 0, 0, 3])));
    let text =
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    assert_eq!(Translation::new(own()).leaves(&cluster, true).env.to_text(), text);
}

#[test]
fn both_families_and_a_peer_with_one() {
    let text = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan","MTU":1400}}"#;
    let dual = r#"{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:02"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:02"}}"#;
    let single = r#"{"PublicIP":"192.0.2.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:03"}}"#;
    let peers = vec![peer("10.5.2.0-24&fd00:5:0:2::-64", dual), peer("10.5.3.0-24&fd00:5:0:3::-64", single)];
    let model = Translation::new(own()).model(&cluster(text, "10.5.1.0-24&fd00:5:0:1::-64", peers)).unwrap();
    assert_eq!(model.networks[0].mtu.map(Mtu::get), Some(1350));
    assert_eq!(model.nodes[1].vtep_mac_v6, Some(MacAddr([2, 0, 0, 0, 6, 2])));
    assert_eq!((model.nodes[1].subnets.len(), model.nodes[2].subnets.len()), (2, 1));
}

#[test]
fn whatever_peers_say_the_model_is_valid() {
    let changed = |from: &str, to: &str| good(9).replace(from, to);
    let hostile = vec![
        peer("10.5.2.0-24", &good(2)),
        peer("10.5.10.0-24", &changed("vxlan", "host-gw")),
        peer("10.5.11.0-24", &changed("VNI\":7", "VNI\":8")),
        peer("10.5.12.0-24", &changed("02:00:00:00:00:09", "nobody")),
        peer("10.5.13.0-24", &changed("192.0.2.9", "127.0.0.1")),
        peer("10.5.14.0-24", &changed("192.0.2.9", "224.0.0.1")),
        peer("10.5.15.0-24", &changed("192.0.2.9", "10.5.77.1")),
        peer("10.5.16.0-24", &changed("192.0.2.9", "192.0.2.1")),
        peer("10.5.17.0-24", &changed("192.0.2.9", "192.0.2.2")),
        peer("10.5.18.0-24", &changed("02:00:00:00:00:09", "02:00:00:00:00:01")),
        peer("10.5.19.0-24", r#"{"PublicIP":"192.0.2.10","BackendType":"vxlan"}"#),
        peer("10.5.2.128-25", &good(11)),
        peer("10.5.20.0-32", &good(12)),
        peer("10.6.0.0-24", &good(13)),
        peer("10.5.1.0-25", &good(14)),
    ];
    let mut translation = Translation::new(own());
    let model = translation.model(&cluster(VXLAN, "10.5.1.0-24", hostile)).unwrap();
    let names: Vec<_> = model.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "10.5.2.0-24"]);
    assert_eq!(translation.complaints.count(), 14);
}

/// Peers that were read before are not read again, whoever comes, goes or changes beside them.
#[test]
fn what_was_read_before_changes_nothing() {
    let mut used = Translation::new(own());
    let mut peers: Vec<Arc<Peer>> = Vec::new();
    let mut state = 7_u32;
    for step in 0..300 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let host = (state >> 16) as u8 % 20 + 2;
        let key = format!("10.5.{host}.0-24");
        let value = match state >> 28 {
            0..8 => good(host),
            8..11 => good(host).replace("192.0.2.", "192.0.3."),
            11 => good(host).replace("vxlan", "host-gw"),
            _ => String::new(),
        };
        peers.retain(|old| old.name != key);
        if !value.is_empty() {
            peers.push(Arc::new(peer(&key, &value)));
            peers.sort_by(|a, b| a.name.cmp(&b.name));
        }
        // Now and then all nodes speak another VNI.
        let text = if step % 50 == 49 { VXLAN.replace("VNI\":7", "VNI\":8") } else { VXLAN.to_owned() };
        let cluster = Cluster { peers: peers.clone(), ..cluster(&text, "10.5.1.0-24", Vec::new()) };
        assert_eq!(used.model(&cluster).unwrap(), Translation::new(own()).model(&cluster).unwrap());
    }
}

#[test]
fn without_a_backend_nobody_is_reached() {
    let text = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#;
    let alone = Translation::new(own())
        .model(&cluster(text, "10.5.1.0-24", vec![peer("10.5.2.0-24", "{}")]))
        .unwrap();
    assert_eq!((alone.nodes.len(), alone.networks[0].mtu.map(Mtu::get)), (1, Some(1500)));
}

/// What is published says neither VNI nor MAC address, and `udp` not even its name.
#[test]
fn plain_packets_go_in_datagrams_or_in_packets() {
    let udp = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;
    let ipip = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"ipip"}"#;
    let (never, on_link) = (DirectRouting::Never, DirectRouting::OnLink);
    for (backend, value, wanted, mtu, direct) in [
        (r#"{"Type":"udp"}"#, udp, (Encapsulation::Udp, 8285), 1472, never),
        (r#"{"Type":"udp","Port":9000}"#, udp, (Encapsulation::Udp, 9000), 1472, never),
        // Somebody else's backend: flannel's `udp` does not ask.
        (r#"{"Type":"udp"}"#, ipip, (Encapsulation::Udp, 8285), 1472, never),
        (r#"{"Type":"ipip"}"#, ipip, (Encapsulation::Ipip, 8472), 1480, never),
        (r#"{"Type":"ipip","DirectRouting":true}"#, ipip, (Encapsulation::Ipip, 8472), 1480, on_link),
    ] {
        let text = format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#);
        let cluster = cluster(&text, "10.5.1.0-24", vec![peer("10.5.2.0-24", value)]);
        assert_eq!(Translation::new(own()).leaves(&cluster, true).env.mtu, mtu, "{backend}");
        let model = Translation::new(own()).model(&cluster).unwrap();
        let network = &model.networks[0];
        assert_eq!((model.encapsulation, model.port), wanted, "{backend}");
        assert_eq!(
            (network.direct_routing, network.mtu.map(Mtu::get)),
            (direct, Some(mtu as usize)),
            "{backend}"
        );
        assert_eq!((model.nodes.len(), model.nodes[1].public_ip), (2, "192.0.2.2".parse().ok()), "{backend}");
    }
    let text = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}"#;
    let model =
        Translation::new(own()).model(&cluster(text, "10.5.1.0-24", vec![peer("10.5.2.0-24", udp)])).unwrap();
    assert_eq!(model.nodes.len(), 1, "ipip does ask");
}

#[test]
fn what_needs_no_tunnel_is_routed_directly() {
    let gateway = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"host-gw"}"#;
    let vxlan = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}}"#;
    for (backend, value, wanted, mtu) in [
        (r#"{"Type":"host-gw"}"#, gateway, DirectRouting::Always, 1500),
        (r#"{"Type":"vxlan","DirectRouting":true}"#, vxlan, DirectRouting::OnLink, 1450),
        (r#"{"Type":"vxlan"}"#, vxlan, DirectRouting::Never, 1450),
    ] {
        let text = format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#);
        let cluster = cluster(&text, "10.5.1.0-24", vec![peer("10.5.2.0-24", value)]);
        let model = Translation::new(own()).model(&cluster).unwrap();
        let network = &model.networks[0];
        assert_eq!((network.direct_routing, network.mtu.map(Mtu::get)), (wanted, Some(mtu)), "{backend}");
        assert_eq!(model.nodes.len(), 2, "{backend}");
    }
}
