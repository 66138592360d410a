//! Which subnet a node gets, and what it writes.

use crate::lab::{CONF, Ctl, Follower, PREFIX, SOON, Server, free_port, node, settings, value};
use std::collections::BTreeSet;
use weft_flannel::etcd::Etcd;
use weft_flannel::lease::Subnets;
use weft_flannel::store::{Cluster, Own, Store, StoreError};

async fn acquire(server: &Server, own: &Own) -> Result<Cluster, StoreError> {
    let mut store = Store::Etcd(Etcd::new(server.settings()).expect("right settings"));
    tokio::time::timeout(SOON, store.acquire(own)).await.expect("in time")
}

fn subnets(text: &str) -> Subnets {
    Subnets { v4: Some(text.parse().expect("a subnet")), v6: None }
}

#[tokio::test]
async fn the_bytes_and_the_lease_are_flannels() {
    let server = Server::start(CONF);
    let first = acquire(&server, &node(7)).await.expect("a lease");
    let key = first.own.key().expect("a key");
    assert_eq!(server.ctl.get(&key), value(7));
    let (granted, left) = server.ctl.time_to_live(&key);
    assert_eq!(granted, 86_400);
    assert!(left > 86_000, "{left}");

    // The same node again: the same subnet, and what is new about it.
    let again = Own { vtep_mac: Some("02:00:00:00:00:08".parse().expect("a MAC")), ..node(7) };
    let second = acquire(&server, &again).await.expect("a lease");
    assert_eq!((second.own, second.peers.len()), (first.own, 0));
    assert_eq!(server.ctl.get(&key), value(8).replace("192.0.2.8", "192.0.2.7"));
    assert_eq!(server.ctl.keys(), [key]);
}

#[tokio::test]
async fn who_takes_over_is_known_by_the_mac_address_of_before() {
    let server = Server::start(CONF);
    // As flanneld has left it.
    let before = value(9).replace("192.0.2.9", "192.0.2.7");
    server.ctl.put("10.5.33.0-24", &before);
    let mut store = Store::Etcd(Etcd::new(server.settings()).expect("right settings"));
    let one = node(7).vtep_mac;
    let own = Own { inherits: true, vtep_mac_v6: one, ..node(7) };
    store.acquire(&own).await.expect("a lease");
    assert_eq!(server.ctl.get("10.5.33.0-24"), before);
    assert_eq!(store.inherited_mac(), node(9).vtep_mac);
    // Of another backend there is none, and what is no address of a station is none.
    for left in [
        before.replace("vxlan", "host-gw"),
        before.replace("02:00:00:00:00:09", "ff:ff:ff:ff:ff:ff"),
        before.replace(",\"BackendData\":{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:09\"}", ""),
    ] {
        server.ctl.put("10.5.33.0-24", &left);
        store.acquire(&own).await.expect("a lease");
        assert_eq!((server.ctl.get("10.5.33.0-24"), store.inherited_mac()), (value(7), None), "{left}");
    }
}

#[tokio::test]
async fn both_families() {
    let server = Server::start(
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","SubnetMin":"10.5.34.0",
            "IPv6SubnetMin":"fd00:5:0:34::","IPv6SubnetMax":"fd00:5:0:34::","SubnetMax":"10.5.34.0","Backend":{"Type":"vxlan"}}"#,
    );
    let lacking = acquire(&server, &node(7)).await.expect_err("it has no IPv6 address");
    assert!(lacking.to_string().contains("no IPv6 address to publish"), "{lacking}");
    let own = Own { public_ipv6: Some("2001:db8::7".parse().expect("an address")), ..node(7) };
    let cluster = acquire(&server, &own).await.expect("a lease");
    assert_eq!(cluster.own.to_string(), "10.5.34.0/24 and fd00:5:0:34::/64");
    assert_eq!(
        server.ctl.get("10.5.34.0-24&fd00:5:0:34::-64"),
        r#"{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::7","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:07"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:07"}}"#
    );
    // There was but one of each family.
    let other = Own { public_ipv6: Some("2001:db8::8".parse().expect("an address")), ..node(8) };
    let full = acquire(&server, &other).await.expect_err("nothing is left");
    assert!(full.to_string().contains("10.5.34.0 to 10.5.34.0 are taken"), "{full}");
}

#[tokio::test]
async fn host_gw_and_alloc_publish_no_data() {
    for (kind, value) in [
        ("host-gw", r#"{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"host-gw"}"#),
        ("alloc", r#"{"PublicIP":"192.0.2.7","PublicIPv6":null}"#),
    ] {
        let server = Server::start(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"{kind}"}}}}"#));
        let cluster = acquire(&server, &node(7)).await.expect("a lease");
        assert_eq!(server.ctl.get(&cluster.own.key().expect("a key")), value);
    }
}

async fn at_once(server: &Server, count: u8) {
    let nodes: Vec<_> = (1..=count)
        .map(|number| {
            let settings = server.settings();
            tokio::spawn(async move {
                let mut store = Store::Etcd(Etcd::new(settings).expect("right settings"));
                store.acquire(&node(number)).await.expect("a lease").own
            })
        })
        .collect();
    let mut got = BTreeSet::new();
    for node in nodes {
        let own = tokio::time::timeout(SOON * 2, node).await.expect("in time").expect("it ends");
        assert!(got.insert(own.key().expect("a key")), "{own} twice");
    }
    assert_eq!(BTreeSet::from_iter(server.ctl.keys()), got);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_at_once_get_different_subnets() {
    for count in [2, 10, 100] {
        at_once(&Server::start(CONF), count).await;
    }
    // As many subnets as nodes: everybody must lose a race or find the last one.
    at_once(
        &Server::start(r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.10.0","Backend":{"Type":"alloc"}}"#),
        10,
    )
    .await;
}

#[tokio::test]
async fn a_reservation_stays_one() {
    let server = Server::start(CONF);
    server.ctl.put("10.5.99.0-24", r#"{"PublicIP":"192.0.2.7"}"#);
    let cluster = acquire(&server, &node(7)).await.expect("a lease");
    assert_eq!(cluster.own, subnets("10.5.99.0/24"));
    assert_eq!(server.ctl.get("10.5.99.0-24"), value(7));
    assert_eq!(server.ctl.number("10.5.99.0-24", "lease"), 0);
}

#[tokio::test]
async fn the_previous_subnet_if_nobody_has_it() {
    let server = Server::start(CONF);
    let own = Own { previous: Some(subnets("10.5.200.0/24")), ..node(7) };
    assert_eq!(acquire(&server, &own).await.expect("a lease").own, subnets("10.5.200.0/24"));
    let other = Own { previous: Some(subnets("10.5.200.0/24")), ..node(8) };
    assert_ne!(acquire(&server, &other).await.expect("a lease").own, subnets("10.5.200.0/24"));
    // Of two leases of a node, the one that its pods have addresses of.
    server.ctl.put("10.5.100.0-24", &value(9));
    server.ctl.put("10.5.101.0-24", &value(9));
    let own = Own { previous: Some(subnets("10.5.101.0/24")), ..node(9) };
    assert_eq!(acquire(&server, &own).await.expect("a lease").own, subnets("10.5.101.0/24"));
}

#[tokio::test]
async fn a_lease_that_does_not_fit_any_more_is_given_back() {
    let server =
        Server::start(r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.0","Backend":{"Type":"vxlan"}}"#);
    server.ctl.put("10.5.3.0-24", &value(7));
    let id = server.ctl.run(&["lease", "grant", "1000"]);
    let id = id.split_whitespace().nth(1).expect("its number");
    server.ctl.run(&["put", "--lease", id, &format!("{PREFIX}/subnets/10.5.4.0-24"), &value(7)]);
    let cluster = acquire(&server, &node(7)).await.expect("a lease");
    let key = cluster.own.key().expect("a key");
    assert!(!["10.5.3.0-24", "10.5.4.0-24"].contains(&key.as_str()));
    // The reservation was made by hand and is left to whoever made it.
    assert_eq!(BTreeSet::from_iter(server.ctl.keys()), BTreeSet::from(["10.5.3.0-24".to_owned(), key]));
}

#[tokio::test]
async fn what_an_operator_must_mend_is_said() {
    let cases = [
        (r#"{"Network":"10.5.0.0/29","Backend":{"Type":"vxlan"}}"#, "/config: SubnetLen is not set"),
        (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#, "does not encrypt"),
        ("garbage", "no JSON object"),
        (r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48"}"#, "EnableIPv4 must be true"),
        (r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.1.0","Backend":{"Type":"vxlan"}}"#, "are taken"),
    ];
    let server = Server::start(CONF);
    server.ctl.put("10.5.1.0-24", &value(1));
    for (config, wanted) in cases {
        server.ctl.run(&["put", &format!("{PREFIX}/config"), config]);
        let error = acquire(&server, &node(7)).await.expect_err(config).to_string();
        assert!(error.contains(wanted), "{config}: {error}");
    }
}

#[tokio::test]
async fn a_configuration_and_a_server_may_come_later() {
    let mut server = Server::start_with("http", &[]);
    // Killed before it has written down who its members are, it would have none for ever.
    server.ctl.run(&["endpoint", "health"]);
    server.kill();
    // The first endpoint never answers.
    let mut settings = settings(&format!("http://127.0.0.1:{}", free_port()));
    settings.endpoints.push(server.ctl.endpoint.clone());
    let starting = tokio::spawn(async move { Follower::start(settings, &node(7)).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    server.run();
    let ctl: Ctl = server.ctl.clone();
    ctl.run(&["put", &format!("{PREFIX}/config"), CONF]);
    let follower = starting.await.expect("it starts");
    assert_eq!(ctl.get(&follower.key()), value(7));
}
