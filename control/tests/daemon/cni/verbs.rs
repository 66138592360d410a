//! Each verb in each version, and what a pod then has.

use serde_json::{Value, json};

use super::{Container, Runtime};
use crate::lab::{Lab, Namespace};

#[test]
fn a_pod_has_what_flannels_bridge_gave_it_in_every_version() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let [one, two] = [Container { id: "c-1", netns: &web }, Container { id: "c-2", netns: &db }];
    runtime.add(&runtime.conf("1.0.0"), two);
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut conf = runtime.conf(version);
        let result = runtime.add(&conf, one);
        assert_eq!(result["cniVersion"], version);
        let interface = &result["interfaces"][0];
        let link = web.json("link show dev eth0").remove(0);
        assert_eq!((&interface["name"], &interface["mac"]), (&json!("eth0"), &link["address"]));
        assert_eq!(interface["sandbox"], web.path().to_str().unwrap());
        let mtu = if version == "1.1.0" { json!(1450) } else { Value::Null };
        assert_eq!((&link["mtu"], &interface["mtu"]), (&json!(1450), &mtu));
        for (ip, family) in result["ips"].as_array().unwrap().iter().zip(["4", "6"]) {
            let wanted = if version < "1.0.0" { json!(family) } else { Value::Null };
            assert_eq!((&ip["version"], &ip["interface"]), (&wanted, &json!(0)), "{ip}");
            let (address, length) = ip["address"].as_str().unwrap().split_once('/').unwrap();
            assert!(web.identity("eth0").2.contains(&format!("\"{address}\"/{length}")), "{ip}");
        }
        assert_eq!(
            result["routes"],
            json!([{"dst": "10.244.0.0/16", "gw": "10.244.0.1"}, {"dst": "fd00:10:244::/48", "gw": "fd00:10:244::1"},
                {"dst": "0.0.0.0/0", "gw": "10.244.0.1"}, {"dst": "::/0", "gw": "fd00:10:244::1"}])
        );
        let routes = web.ip("route show") + &web.ip("-6 route show");
        for route in result["routes"].as_array().unwrap() {
            let text = format!("{} via {}", route["dst"].as_str().unwrap(), route["gw"].as_str().unwrap());
            let text = text.replace("0.0.0.0/0", "default").replace("::/0", "default");
            assert!(
                routes.contains(text.trim_start_matches("fd00:10:244default")),
                "{text} is not in {routes}"
            );
        }
        for address in ["10.244.0.1", "10.244.0.2", "fd00:10:244::1", "fd00:10:244::2", "172.16.0.1"] {
            assert!(web.reaches_by_one_packet(address), "{version}: {address}");
        }

        conf["prevResult"] = result;
        let check = runtime.call("CHECK", &conf, one);
        match version {
            "0.3.1" => check.fails_with(1, "does not allow CHECK"),
            _ => assert_eq!(check.result(), Value::Null),
        }
        runtime.del(&conf, one);
        runtime.del(&conf, one);
        assert_eq!(web.interfaces(), Vec::<String>::new());
        assert_eq!(
            (lab.pods().pods.len(), runtime.reserved()),
            (1, vec!["10.244.0.2".to_owned(), "fd00:10:244::2".to_owned()])
        );
    }
    // When its namespace is gone already, and without one.
    db.delete();
    runtime.del(&runtime.conf("1.0.0"), two);
    runtime.assert_clean(&[&web]);
    lab.counters_balance();
}

#[test]
fn limits_of_bandwidth_are_weftds() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let one = Container { id: "c-1", netns: &web };
    let mut conf = runtime.conf("1.0.0");
    // As a runtime says it where nobody has said a burst.
    let given = json!({"ingressRate": 10_000_000, "ingressBurst": i32::MAX, "egressRate": 5_000_000, "egressBurst": 80_000});
    conf["runtimeConfig"] = json!({"bandwidth": given});
    runtime.add(&conf, one);
    let bandwidth = lab.pods().pods.remove(0).bandwidth;
    assert_eq!((bandwidth.ingress_rate, bandwidth.ingress_burst), (Some(10_000_000), None));
    assert_eq!((bandwidth.egress_rate, bandwidth.egress_burst), (Some(5_000_000), Some(80_000)));
    runtime.del(&conf, one);
    conf["runtimeConfig"] = json!({"bandwidth": {"ingressRate": 0, "ingressBurst": 0}});
    runtime.add(&conf, one);
    assert!(lab.pods().pods.remove(0).bandwidth.is_unlimited());
}

#[test]
fn the_port_forwards_when_add_returns() {
    let lab = Lab::new();
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    let mut conf = runtime.conf("1.1.0");
    conf["ipam"] = json!({});
    for host in 10..20 {
        let pod = Namespace::new("pod");
        let id = format!("c{host}");
        conf["runtimeConfig"] = json!({"ips": [format!("10.244.0.{host}/24")]});
        runtime.add(&conf, Container { id: &id, netns: &pod });
        assert!(lab.node.reaches_by_one_packet(&format!("10.244.0.{host}")), "10.244.0.{host}");
    }
}

#[test]
fn what_the_runtime_asks_for_is_given() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    let one = Container { id: "c-1", netns: &web };
    let mut conf = runtime.conf("1.1.0");
    conf["ipam"] = json!({});
    conf["mtu"] = json!(1400);
    conf["isDefaultGateway"] = json!(false);
    conf["args"] = json!({"cni": {"ips": ["10.244.0.9/24"], "mac": "02:00:00:00:00:09"}});
    conf["dns"] = json!({"nameservers": ["10.96.0.10"]});
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;MAC=02:00:00:00:00:08";
    let result = super::Answer::of(runtime.start("ADD", &conf, one, args)).result();
    assert_eq!(
        result,
        json!({"cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:09", "mtu": 1400, "sandbox": web.path()}],
            "ips": [{"address": "10.244.0.9/24", "gateway": "10.244.0.1", "interface": 0}],
            "dns": {"nameservers": ["10.96.0.10"]}})
    );
    let link = web.json("link show dev eth0").remove(0);
    assert_eq!((&link["mtu"], &link["address"]), (&json!(1400), &json!("02:00:00:00:00:09")));
    assert!(!web.ip("route show").contains("default"));
    let pod = lab.pods().pods.remove(0);
    let cni = pod.cni.clone().unwrap();
    assert_eq!((cni.namespace.as_deref(), cni.pod.as_deref()), (Some("shop"), Some("web-0")));
    assert_eq!((cni.network.as_str(), cni.container.as_str(), cni.ifname.as_str()), ("cbr0", "c-1", "eth0"));
    assert_eq!(pod.mtu, 1400);

    // A second time it is there already, and nothing of it is touched.
    runtime.call("ADD", &conf, one).fails_with(7, "has an interface eth0 already");
    assert!(web.reaches_by_one_packet("10.244.0.1"));
    runtime.del(&conf, one);
    // Nor is one of somebody else's.
    web.ip("link add eth0 type bridge");
    runtime.call("ADD", &conf, one).fails_with(7, "has an interface eth0 already");
    assert!(web.has_interface("eth0"));
    runtime.del(&conf, one);
    assert!(web.has_interface("eth0"));

    conf["args"] = Value::Null;
    runtime.call("ADD", &conf, Container { id: "c-2", netns: &lab.peer }).fails_with(7, "gets no address");
    conf["runtimeConfig"] = json!({"ips": ["10.244.1.9/24"]});
    runtime
        .call("ADD", &conf, Container { id: "c-2", netns: &lab.peer })
        .fails_with(7, "outside the subnets");
    conf["runtimeConfig"] = json!({"bandwidth": {"ingressBurst": 1_000_000}});
    runtime
        .call("ADD", &conf, Container { id: "c-2", netns: &lab.peer })
        .fails_with(7, "ingressRate is missing");
    assert_eq!(lab.pods().pods, Vec::new());
}

#[test]
fn check_says_what_is_not_as_it_was_made() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let one = Container { id: "c-1", netns: &web };
    let mut conf = runtime.conf("1.0.0");
    runtime.call("CHECK", &conf, one).fails_with(7, "prevResult");
    conf["prevResult"] = runtime.add(&conf, one);
    let check = || runtime.call("CHECK", &conf, one);
    check().result();
    // Later plugins may add what they like.
    web.ip("addr add 192.0.2.1/32 dev eth0");
    check().result();
    for (break_it, says, mend_it) in [
        (
            "route del 10.244.0.0/16",
            "the route to 10.244.0.0/16 is missing",
            "route add 10.244.0.0/16 via 10.244.0.1",
        ),
        ("link set eth0 down", "the interface is down", "link set eth0 up"),
    ] {
        web.ip(break_it);
        check().fails_with(102, says);
        web.ip(mend_it);
    }
    let _ = web.exec("ip route add default via 10.244.0.1");
    let _ = web.exec("ip route add 10.244.0.0/16 via 10.244.0.1");
    let _ = web.exec("ip -6 route add default via fd00:10:244::1");
    let _ = web.exec("ip -6 route add fd00:10:244::/48 via fd00:10:244::1");
    web.ip("addr del 10.244.0.2/24 dev eth0");
    check().fails_with(102, "10.244.0.2 is missing");
    lab.delete("c-1-eth0").unwrap();
    check().fails_with(102, "weftd does not know of it");
    runtime.del(&conf, one);
    let answer = check();
    assert!(!answer.success, "{answer:?}");
}
