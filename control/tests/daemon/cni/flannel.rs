//! In the place of flannel's plugin: its configuration, the pods that it made, and the way back.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use super::{Container, Runtime, plugin};
use crate::lab::{Lab, Namespace};

/// The list that flannel ships, less portmap; weft's own keys say where the lab has its things.
fn conf(runtime: &Runtime<'_>) -> Value {
    let lab = runtime.lab;
    json!({"cniVersion": "0.3.1", "name": "cbr0", "type": "flannel",
        "subnetFile": lab.path("subnet.env"), "dataDir": lab.path("flannel"),
        "ipam": {"dataDir": lab.path("ipam")},
        "delegate": {"hairpinMode": true, "isDefaultGateway": true,
            "weftdSocket": lab.socket(), "stateDir": lab.state_dir()}})
}

/// Has the plugin under its other name, and the reference plugins, in one folder.
fn as_flannel(runtime: &mut Runtime<'_>, without: &[&str]) {
    let bin = runtime.lab.path("bin");
    let _ = fs::remove_dir_all(&bin);
    fs::create_dir(&bin).unwrap();
    symlink(plugin(), bin.join("flannel")).unwrap();
    for entry in fs::read_dir(super::PLUGINS).expect("the reference plugins are installed") {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if !without.iter().any(|without| name == *without) {
            symlink(&path, bin.join(name)).unwrap();
        }
    }
    runtime.path = bin.display().to_string();
}

/// What flannel's plugin makes of its configuration on this node.
fn delegate(runtime: &Runtime<'_>) -> Value {
    json!({"cniVersion": "0.3.1", "name": "cbr0", "type": "bridge", "hairpinMode": true, "isDefaultGateway": true,
        "isGateway": true, "ipMasq": false, "mtu": 1450,
        "ipam": {"type": "host-local", "dataDir": runtime.lab.path("ipam"),
            "ranges": [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00:10:244::/64"}]],
            "routes": [{"dst": "10.244.0.0/16"}, {"dst": "fd00:10:244::/48"}]}})
}

/// Makes a pod as flannel's plugin does: what it keeps, then the bridge plugin.
fn bridged(runtime: &Runtime<'_>, container: Container<'_>) {
    let folder = runtime.lab.path("flannel");
    fs::create_dir_all(&folder).unwrap();
    let delegate = delegate(runtime);
    fs::write(folder.join(container.id), delegate.to_string()).unwrap();
    runtime.add(&delegate, container);
}

#[test]
fn flannels_configuration_goes_on_working() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    let weftd = lab.start();
    let mut runtime = Runtime::new(&lab);
    as_flannel(&mut runtime, &[]);
    let conf = conf(&runtime);
    let [one, two] = [Container { id: "c-1", netns: &web }, Container { id: "c-2", netns: &db }];
    runtime.call("ADD", &conf, one).fails_with(11, "failed to load flannel 'subnet.env' file");
    assert!(!lab.path("flannel/c-1").exists());
    runtime.write_subnet_env();
    let result = runtime.add(&conf, one);
    runtime.add(&conf, two);
    assert_eq!((&result["cniVersion"], &result["ips"][0]["version"]), (&json!("0.3.1"), &json!("4")));
    assert!(web.pings("10.244.0.3") && db.pings("fd00:10:244::2") && web.pings("172.16.0.1"));
    assert_eq!(web.json("link show dev eth0")[0]["mtu"], 1450);

    // What is kept is what flannel's plugin would keep, and says whose it is.
    let kept = lab.path("flannel/c-1");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o600);
    let mut text: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    let own = text.as_object_mut().unwrap();
    assert_eq!(own.remove("madeByWeft"), Some(json!(true)));
    own.remove("weftdSocket");
    own.remove("stateDir");
    assert_eq!(text, delegate(&runtime));

    // Even when the node has no subnet any more.
    let kept_text: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    fs::remove_file(lab.path("subnet.env")).unwrap();
    runtime.del(&conf, two);
    runtime.del(&conf, two);
    assert_eq!(db.interfaces(), Vec::<String>::new());
    assert_eq!(runtime.reserved(), ["10.244.0.2", "fd00:10:244::2"].map(str::to_owned));

    // The way back: flannel's plugin has the bridge plugin delete what is kept.
    weftd.stop();
    runtime.del(&kept_text, one);
    assert_eq!(web.interfaces(), Vec::<String>::new());
    assert_eq!(runtime.reserved(), Vec::<String>::new());
    runtime.del(&conf, one);
    assert_eq!(fs::read_dir(lab.path("flannel")).unwrap().count(), 0);
    let _weftd = lab.start();
    runtime.assert_clean(&[&web, &db]);
}

#[test]
fn pods_of_wefts_own_list_can_be_deleted_by_flannels_plugin() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    let weftd = lab.start();
    let mut runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    as_flannel(&mut runtime, &[]);
    let own = runtime.conf("1.0.0");
    let [one, two] = [Container { id: "c-1", netns: &web }, Container { id: "c-2", netns: &db }];
    runtime.add(&own, one);
    let kept = fs::read(lab.path("flannel/c-1")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!((&kept["type"], &kept["madeByWeft"]), (&json!("bridge"), &json!(true)));
    // Weft forgets it with the pod, and when the pod comes to nothing.
    runtime.add(&own, two);
    runtime.del(&own, two);
    let mut refused = own.clone();
    refused["ipam"]["subnet"] = json!("10.250.0.0/24");
    runtime.call("ADD", &refused, two).fails_with(7, "outside the subnets");
    assert!(!lab.path("flannel/c-2").exists());

    weftd.stop();
    runtime.del(&kept, one);
    assert_eq!(web.interfaces(), Vec::<String>::new());
    assert_eq!(runtime.reserved(), Vec::<String>::new());
    runtime.del(&conf(&runtime), one);
    let _weftd = lab.start();
    runtime.assert_clean(&[&web, &db]);
}

#[test]
fn pods_that_flannels_bridge_made_are_deleted_with_its_plugin_and_without() {
    let lab = Lab::new();
    let _weftd = lab.start();
    let mut runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    for (without, kind) in [
        (&[][..], "flannel"),
        (&["bridge"][..], "flannel"),
        (&["bridge", "host-local"][..], "flannel"),
        (&[][..], "weft-cni"),
    ] {
        let (web, new) = (Namespace::new("web"), Namespace::new("new"));
        let [one, two] = [Container { id: "c-1", netns: &web }, Container { id: "c-2", netns: &new }];
        as_flannel(&mut runtime, &[]);
        bridged(&runtime, one);
        assert_eq!(runtime.reserved(), ["10.244.0.2", "fd00:10:244::2"].map(str::to_owned), "{without:?}");
        let conf = if kind == "flannel" { conf(&runtime) } else { runtime.conf("1.0.0") };
        // The new pod gets another address than the old one has.
        let result = runtime.add(&conf, two);
        assert_ne!(result["ips"][0]["address"], "10.244.0.2/24");
        runtime.del(&conf, two);

        as_flannel(&mut runtime, without);
        runtime.del(&conf, one);
        runtime.del(&conf, one);
        runtime.assert_clean(&[&web, &new]);
        assert!(!lab.path("flannel/c-1").exists());
        let left: Vec<_> =
            lab.node.interfaces().into_iter().filter(|name| name.starts_with("veth")).collect();
        assert_eq!(left, Vec::<String>::new());
        lab.node.ip("link del cni0");
        let _ = fs::remove_dir_all(lab.path("ipam"));
    }

    // A second interface of such a pod is another's, whatever is kept of the first.
    let web = Namespace::new("web");
    let one = Container { id: "c-1", netns: &web };
    as_flannel(&mut runtime, &[]);
    bridged(&runtime, one);
    let mut other = runtime.conf("1.0.0");
    other["name"] = json!("other");
    let second = |command: &str| {
        let netns = web.path();
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c-1"),
            ("CNI_NETNS", netns.to_str().unwrap()),
            ("CNI_IFNAME", "net1"),
            ("CNI_PATH", &runtime.path),
        ];
        runtime.raw(&variables, other.to_string().as_bytes()).result()
    };
    second("ADD");
    second("DEL");
    assert_eq!(web.interfaces(), ["eth0"]);
    // The network's name is another one since.
    runtime.del(&other, one);
    runtime.assert_clean(&[&web]);
    lab.node.ip("link del cni0");

    // What can't be read is nothing, as it is to flannel's plugin.
    as_flannel(&mut runtime, &[]);
    let web = Namespace::new("web");
    fs::write(lab.path("flannel/c-9"), "{").unwrap();
    runtime.del(&conf(&runtime), Container { id: "c-9", netns: &web });
}

#[test]
fn gc_deletes_what_flannels_bridge_has_left() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    let _weftd = lab.start();
    let mut runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    as_flannel(&mut runtime, &[]);
    bridged(&runtime, Container { id: "c-1", netns: &web });
    bridged(&runtime, Container { id: "c-2", netns: &db });
    let mut conf = runtime.conf("1.1.0");
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "c-2", "ifname": "eth0"}]);
    runtime.whole("GC", &conf).result();
    assert_eq!(runtime.reserved(), ["10.244.0.3", "fd00:10:244::3"].map(str::to_owned));
    assert!(!lab.path("flannel/c-1").exists() && lab.path("flannel/c-2").exists());
    assert!(db.has_interface("eth0"));
    assert!(Path::new(&runtime.path).is_dir());
}
