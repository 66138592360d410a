//! GC and STATUS.

use std::fs;

use serde_json::{Value, json};

use super::{Container, Runtime};
use crate::lab::{Lab, Namespace, tap_spec};

#[test]
fn gc_removes_what_nobody_knows_of() {
    let lab = Lab::new();
    let pods: Vec<_> = (0..4).map(|_| Namespace::new("pod")).collect();
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let conf = runtime.conf("1.1.0");
    let containers = ["c-0", "c-1", "c-2"].into_iter().zip(&pods).map(|(id, netns)| Container { id, netns });
    let containers: Vec<_> = containers.collect();
    // What has a network stack of its own, of the same network.
    let apps = Namespace::new("app");
    let mut sockets = conf.clone();
    (sockets["attach"], sockets["sharedDir"]) = (json!("vhost-user"), json!(lab.path("shared")));
    let mut memif = sockets.clone();
    memif["attach"] = json!("memif");
    let left = || {
        let names = |folder: &str| fs::read_dir(lab.path(folder)).into_iter().flatten();
        let names = names("pods").chain(names("shared"));
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        for container in &containers {
            runtime.add(&conf, *container);
        }
        // Of another network, and by hand.
        let mut other = conf.clone();
        (other["name"], other["ipam"]) = (json!("other"), json!({}));
        other["runtimeConfig"] = json!({"ips": ["10.244.0.200/24"]});
        let foreign = Container { id: "x-0", netns: &pods[3] };
        runtime.add(&other, foreign);
        lab.add(&tap_spec("by-hand", 201, &lab.peer.path())).unwrap();
        for (id, conf) in [("s-0", &sockets), ("s-1", &memif), ("s-2", &sockets), ("s-3", &memif)] {
            runtime.add(conf, Container { id, netns: &apps });
        }
        assert_eq!(left().len(), 8, "{:?}", left());
        // weftd forgets what has lost its namespace.
        lab.delete("s-2-eth0").unwrap();
        // An address of a container that is long gone.
        fs::write(lab.path("ipam/cbr0/10.244.0.99"), "gone\r\neth0").unwrap();

        let mut gc = sockets.clone();
        gc[key] = json!([{"containerID": "c-1", "ifname": "eth0"}, {"containerID": "c-0", "ifname": "net1"},
            {"containerID": "s-3", "ifname": "eth0"}]);
        assert_eq!(runtime.whole("GC", &gc).result(), Value::Null);
        let names: Vec<_> = lab.pods().pods.into_iter().map(|pod| pod.name).collect();
        assert_eq!(names, ["by-hand", "c-1-eth0", "s-3-eth0", "x-0-eth0"]);
        assert_eq!(left(), ["configData-s-3-eth0.json", "s-3"]);
        assert_eq!(runtime.reserved().len(), 4, "{:?}", runtime.reserved());
        assert!(pods[1].pings("10.244.0.1"));

        gc[key] = json!([]);
        runtime.whole("GC", &gc).result();
        lab.delete("by-hand").unwrap();
        runtime.del(&other, foreign);
        assert_eq!(left(), Vec::<String>::new());
        runtime.assert_clean(&[&pods[0], &pods[1], &pods[2]]);
    }
    runtime.whole("GC", &conf).fails_with(7, "cni.dev/valid-attachments is missing");
}

#[test]
fn what_a_container_has_put_in_its_sockets_place_holds_up_neither_del_nor_gc() {
    let lab = Lab::new();
    let apps = Namespace::new("app");
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let mut conf = runtime.conf("1.1.0");
    (conf["attach"], conf["sharedDir"]) = (json!("vhost-user"), json!(lab.path("shared")));
    let [first, second, third] = ["s-0", "s-1", "s-2"].map(|id| Container { id, netns: &apps });
    for container in [first, second, third] {
        runtime.add(&conf, container);
        let id = container.id;
        for file in [format!("pods/{id}/eth0.sock"), format!("shared/configData-{id}-eth0.json")] {
            let _ = fs::remove_file(lab.path(&file));
            fs::create_dir(lab.path(&file)).expect("a directory");
        }
    }
    runtime.del(&conf, first);
    // Of both families.
    assert_eq!(runtime.reserved().len(), 4, "{:?}", runtime.reserved());
    // One that weftd has forgotten, and one that it has.
    lab.delete("s-1-eth0").unwrap();
    conf["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(runtime.whole("GC", &conf).result(), Value::Null);
    assert!(runtime.reserved().is_empty() && lab.pods().pods.is_empty(), "{:?}", runtime.reserved());
}

#[test]
fn status_says_what_an_add_would_lack() {
    let lab = Lab::new();
    let weftd = lab.start();
    let mut runtime = Runtime::new(&lab);
    let conf = runtime.conf("1.1.0");
    runtime.whole("STATUS", &conf).fails_with(50, "subnet.env");
    runtime.write_subnet_env();
    assert_eq!(runtime.whole("STATUS", &conf).result(), Value::Null);
    let path = std::mem::replace(&mut runtime.path, "/nowhere".to_owned());
    runtime.whole("STATUS", &conf).fails_with(50, "host-local");
    runtime.path = path;
    weftd.stop();
    runtime.whole("STATUS", &conf).fails_with(51, "does not listen");
    let mut gc = conf;
    gc["cni.dev/valid-attachments"] = json!([]);
    runtime.whole("GC", &gc).fails_with(11, "does not listen");
}
