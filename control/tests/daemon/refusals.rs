//! What weftd can't start with: code 1, one message that names the thing, and nothing left behind.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;

use crate::lab::{Lab, Namespace, VTEP_MACS, Weftd, nodes, tap_pod};

/// `said` has all of these in it.
fn assert_names(said: &str, names: &[&str]) {
    for name in names {
        assert!(said.contains(name), "{name:?} is not in the message:\n{said}");
    }
}

#[test]
fn a_configuration_that_is_not_there() {
    let lab = Lab::new();
    let said = lab.fails_with(&lab.path("nowhere.toml"));
    assert_names(&said, &["nowhere.toml", "there is no such file"]);
    lab.assert_clean();
    assert!(!lab.state_dir().exists());
}

#[test]
fn a_configuration_with_an_unknown_setting() {
    let lab = Lab::new();
    let wrong = lab.path("wrong.toml");
    fs::write(&wrong, "[node]\nname = \"a\"\n[dataplane]\nworker = 2\n").unwrap();
    assert_names(&lab.fails_with(&wrong), &["wrong.toml:4:1: ", "worker"]);
    lab.assert_clean();
    assert!(!lab.state_dir().exists());
}

#[test]
fn a_cluster_file_that_is_missing_or_wrong_or_of_others() {
    let lab = Lab::new();
    lab.replace_cluster(&nodes(&[0]).replace("10.244.0.0/24", "10.244.0.0/33"));
    assert_names(&lab.fails(), &["cluster.toml:6:", "subnets", "10.244.0.0/33"]);

    lab.replace_cluster(&nodes(&[1]));
    assert_names(&lab.fails(), &["cluster.toml", "\"a\""]);

    fs::remove_file(lab.path("cluster.toml")).unwrap();
    assert_names(&lab.fails(), &["cluster.toml", "there is no such file"]);
    lab.assert_clean();
    assert!(!lab.state_dir().exists());
}

#[test]
fn an_uplink_that_is_not_there() {
    let lab = Lab::new();
    lab.node.ip("link del up0");
    assert_names(&lab.fails(), &["\"up0\"", "lo"]);
    lab.assert_clean();
    assert!(!lab.state_dir().join("state.json").exists());
}

#[test]
fn rights_that_are_not_enough() {
    let lab = Lab::new();
    let words = |text: &'static str| text.split(' ').map(OsStr::new).collect::<Vec<_>>();
    let pod = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &pod));

    // Root without the rights of root, as in a container.
    let none = words("setpriv --bounding-set=-all --inh-caps=-all");
    let said = Weftd::spawn(&lab, &none, &lab.path("weftd.toml")).failed();
    assert_names(&said, &["CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN"]);
    lab.assert_clean();

    // Another user, to whom all files belong.
    let nobody = 65534;
    fs::set_permissions(lab.dir.path(), Permissions::from_mode(0o755)).unwrap();
    chown(lab.dir.path(), Some(nobody), Some(nobody)).unwrap();
    let other =
        words("setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all");
    let said = Weftd::spawn(&lab, &other, &lab.path("weftd.toml")).failed();
    assert_names(&said, &["CAP_NET_ADMIN"]);

    // One right alone is missing.
    chown(lab.dir.path(), Some(0), Some(0)).unwrap();
    let raw = words("setpriv --bounding-set=-net_raw");
    let said = Weftd::spawn(&lab, &raw, &lab.path("weftd.toml")).failed();
    assert_names(&said, &["lacks CAP_NET_RAW:"]);
    lab.assert_clean();
    assert!(!lab.state_dir().exists());
    assert_eq!(pod.interfaces(), Vec::<String>::new());
}

#[test]
fn the_tunnels_port_in_the_hands_of_the_kernel() {
    let lab = Lab::new();
    lab.node.ip(&format!(
        "link add flannel.1 address {} type vxlan id 1 local 172.16.0.1 dev up0 dstport 8472 nolearning",
        VTEP_MACS[0]
    ));
    lab.node.ip("link set flannel.1 up");
    let said = lab.fails();
    assert_names(&said, &["UDP port 8472 is in use", "stop flanneld, then `ip link delete flannel.1`"]);
    lab.assert_clean();
    assert!(!lab.state_dir().join("state.json").exists());
    assert!(lab.node.has_interface("flannel.1"));
}

/// What the DaemonSet's container runs in weftd's place, with the weftd of this test.
fn manifests_command() -> String {
    let manifest = include_str!("../../../deploy/kubernetes/weft.yaml");
    let container = manifest.lines().map(str::trim).skip_while(|line| *line != "- name: kube-flannel");
    let text = container.skip_while(|line| *line != "- |").skip(1).take_while(|line| *line != "- weftd");
    let text: Vec<_> = text.collect();
    assert_eq!(text.last(), Some(&"exec /usr/sbin/weftd \"$@\""), "{text:?}");
    text.join("\n").replace("/usr/sbin/weftd", env!("CARGO_BIN_EXE_weftd"))
}

#[test]
fn the_manifests_command_gives_weftd_the_tunnels_port() {
    let lab = Lab::new();
    for device in [
        "flannel.1 type vxlan id 1 local 172.16.0.1 dev up0 dstport 8472 nolearning",
        "flannel-v6.1 type vxlan id 1 local fd00::1 dev up0 dstport 8472 nolearning",
        // Others', by their names or kinds.
        "flannel.2 type bridge",
        "other.1 type vxlan id 1 dev up0 dstport 4789",
    ] {
        lab.node.ip(&format!("link add {device}"));
        lab.node.ip(&format!("link set {} up", device.split(' ').next().unwrap()));
    }
    let command = manifests_command();
    let before = ["sh", "-c", &command].map(OsStr::new);
    let _weftd = Weftd::spawn(&lab, &before, &lab.path("weftd.toml")).ready();
    let left = ["flannel.1", "flannel-v6.1", "flannel.2", "other.1"].map(|name| lab.node.has_interface(name));
    assert_eq!(left, [false, false, true, true]);
}

#[test]
fn a_second_weftd_with_the_same_state_or_the_same_socket() {
    let lab = Lab::new();
    let pod = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &pod));
    let mut first = lab.start();
    let (state, device) = (fs::read(lab.state_dir().join("state.json")).unwrap(), pod.identity("eth0"));

    let text = fs::read_to_string(lab.path("weftd.toml")).unwrap();
    let second = |from: &str, to: &str| {
        let path = lab.path("second.toml");
        fs::write(&path, text.replace(from, to)).unwrap();
        lab.fails_with(&path)
    };
    let pid = format!("pid {}", lab.status().pid);
    let state_dir = lab.state_dir().display().to_string();
    assert_names(&second("weftd.sock", "other.sock"), &["already runs", &pid, &state_dir]);
    assert!(!lab.path("other.sock").exists());
    assert_names(&second("/state\"", "/other\""), &["already running", "weftd.sock"]);
    assert!(!lab.path("other/state.json").exists());

    first.assert_alive();
    assert_eq!(fs::read(lab.state_dir().join("state.json")).unwrap(), state);
    assert_eq!(pod.identity("eth0"), device);
    UnixStream::connect(lab.socket()).unwrap();
    assert!(pod.pings("10.244.0.1"));
}

#[test]
fn a_state_directory_that_cannot_be_made() {
    let lab = Lab::new();
    // Root may write everywhere, but not under a file.
    fs::write(lab.state_dir(), "in the way").unwrap();
    let said = lab.fails();
    assert_names(&said, &[&lab.state_dir().display().to_string()]);
    lab.assert_clean();
    assert_eq!(fs::read(lab.state_dir()).unwrap(), b"in the way");
}

#[test]
fn a_file_where_the_socket_should_be() {
    let lab = Lab::new();
    fs::write(lab.socket(), "precious").unwrap();
    assert_names(&lab.fails(), &["weftd.sock", "no socket"]);
    assert_eq!(fs::read(lab.socket()).unwrap(), b"precious");
    assert!(!lab.node.has_interface("weft0"));
    assert!(!lab.state_dir().join("state.json").exists());
}

#[test]
fn a_host_port_whose_name_is_taken() {
    let lab = Lab::new();
    let pod = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &pod));
    lab.node.ip("link add weft0 type bridge");
    assert_names(&lab.fails(), &["weft0", "no TAP"]);
    assert!(!lab.socket().exists());
    assert_eq!(pod.interfaces(), Vec::<String>::new(), "a device was left in the pod");
}
