//! In a list with other plugins, as runtimes run one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use super::{Answer, Container, Runtime};
use crate::lab::{Lab, Namespace, once_free};

/// Runs a list of plugins as libcni does: the result of each is told to the next.
fn add_all(runtime: &Runtime<'_>, list: &[Value], container: Container<'_>) -> Answer {
    let mut answer = Answer { success: true, out: Value::Null };
    for conf in list {
        let mut conf = conf.clone();
        if !answer.out.is_null() {
            conf["prevResult"] = answer.out;
        }
        answer = runtime.call("ADD", &conf, container);
        if !answer.success {
            break;
        }
    }
    answer
}

fn del_all(runtime: &Runtime<'_>, list: &[Value], container: Container<'_>, result: &Value) {
    for conf in list.iter().rev() {
        let mut conf = conf.clone();
        conf["prevResult"] = result.clone();
        runtime.del(&conf, container);
    }
}

#[test]
fn portmap_tuning_and_firewall_follow() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    lab.node.must("sysctl -q -w net.ipv4.ip_forward=1");
    let one = Container { id: "c-1", netns: &web };
    let list = [
        runtime.conf("1.0.0"),
        json!({"cniVersion": "1.0.0", "name": "cbr0", "type": "tuning", "sysctl": {"net.core.somaxconn": "777"}}),
        json!({"cniVersion": "1.0.0", "name": "cbr0", "type": "portmap", "runtimeConfig":
            {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}}),
        json!({"cniVersion": "1.0.0", "name": "cbr0", "type": "firewall", "backend": "iptables"}),
    ];
    let result = add_all(&runtime, &list, one).result();
    assert_eq!(result["interfaces"][0]["name"], "eth0");
    assert_eq!(web.must("sysctl -n net.core.somaxconn").trim(), "777");
    // Debian's portmap misses rules of its own.
    for conf in list.iter().filter(|conf| conf["type"] != "portmap") {
        let mut conf = conf.clone();
        conf["prevResult"] = result.clone();
        runtime.call("CHECK", &conf, one).result();
    }

    // From another node to a port of this one, which is the pod's.
    let server = web.enter(|| {
        let listener = once_free(|| TcpListener::bind("0.0.0.0:80"));
        let (mut stream, from) = listener.accept().expect("a client");
        stream.write_all(b"hello").expect("it listens");
        from.ip().to_string()
    });
    let client = lab.peer.enter(|| {
        let mut text = String::new();
        for _ in 0..50 {
            if let Ok(mut stream) = TcpStream::connect("172.16.0.1:8080") {
                stream.read_to_string(&mut text).expect("an answer");
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        text
    });
    assert_eq!(client.join().unwrap(), "hello");
    assert_eq!(server.join().unwrap(), "172.16.0.2");

    del_all(&runtime, &list, one, &result);
    let left = lab.node.must("iptables-save");
    assert!(!left.contains("8080") && !left.contains("10.244.0.2"), "{left}");
    runtime.assert_clean(&[&web]);
}

#[test]
fn what_another_plugin_made_before_stays_in_the_result() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let mut conf = runtime.conf("1.1.0");
    conf["prevResult"] = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "lo", "sandbox": "/n", "pciID": "x"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}], "dns": {"domain": "a"}});
    let one = Container { id: "c-1", netns: &web };
    let result = runtime.add(&conf, one);
    assert_eq!(result["interfaces"][0], json!({"name": "lo", "sandbox": "/n", "pciID": "x"}));
    assert_eq!((&result["interfaces"][1]["name"], &result["dns"]), (&json!("eth0"), &json!({"domain": "a"})));
    let of: Vec<_> =
        result["ips"].as_array().unwrap().iter().map(|ip| ip["interface"].as_u64().unwrap()).collect();
    assert_eq!(of, [0, 1, 1]);
    runtime.del(&conf, one);
    runtime.assert_clean(&[&web]);
}
