//! weftd in flanneld's place: two nodes that meet in a real etcd.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use weft_api::{Client, PodPort, PodSpec, State, Status};

use crate::lab::http::{Answer, ask_tcp};
use crate::lab::{Lab, Namespace, Weftd, wait_for};

pub(crate) const ENDPOINT: &str = "http://172.16.0.1:2379";
const SUBNETS: &str = "/coreos.com/network/subnets/";
const CONF: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// etcd on the lab's node a.
pub(crate) struct Etcd<'a> {
    lab: &'a Lab,
    child: Option<Child>,
}

impl<'a> Etcd<'a> {
    /// Started, with the network's configuration.
    pub(crate) fn start(lab: &'a Lab) -> Self {
        let mut etcd = Self { lab, child: None };
        etcd.run();
        etcd.ctl(&["put", "/coreos.com/network/config", CONF]);
        etcd
    }

    /// Runs it with the data that it has.
    fn run(&mut self) {
        let log = File::create(self.lab.path("etcd.log")).expect("a log");
        let peer = "http://127.0.0.1:2380";
        // Whatever becomes of the test: the server ends with it.
        let child = self
            .lab
            .node
            .command("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--name", "test", "--log-level", "warn", "--data-dir"])
            .arg(self.lab.path("etcd"))
            .args(["--listen-client-urls", ENDPOINT, "--advertise-client-urls", ENDPOINT])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("iproute2 is installed");
        self.child = Some(child);
        wait_for("etcd to answer (etcd-server and etcd-client are needed)", || {
            self.try_ctl("2s", &["get", "x"])
        });
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn try_ctl(&self, patience: &str, args: &[&str]) -> Option<String> {
        let mut command = self.lab.node.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", ENDPOINT]);
        command.args(["--dial-timeout", patience, "--command-timeout", patience]).args(args);
        let output = command.output().expect("iproute2 is installed");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        self.try_ctl("30s", args).unwrap_or_else(|| panic!("etcdctl {args:?} failed"))
    }

    /// The lease of a node by its public address: the last part of the key, and the value.
    fn lease_of(&self, public_ip: &str) -> (String, String) {
        let text = self.ctl(&["get", "--prefix", SUBNETS]);
        let mut lines = text.lines();
        while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
            let json: Value = serde_json::from_str(value).expect("JSON");
            if json["PublicIP"] == public_ip {
                return (key.trim_start_matches(SUBNETS).to_owned(), value.to_owned());
            }
        }
        panic!("{public_ip} has no lease:\n{text}");
    }
}

impl Drop for Etcd<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One of the two nodes.
pub(crate) struct Node<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) name: &'static str,
    pub(crate) namespace: &'a Namespace,
}

impl Node<'_> {
    pub(crate) fn path(&self, what: &str) -> PathBuf {
        self.lab.path(&format!("{}-{what}", self.name))
    }

    /// A `[source]`, etcd, and what flanneld is told, with more of that.
    fn etcd(&self, flannel: &str) -> String {
        format!(
            "[source]\nkind = \"etcd\"\n[etcd]\nendpoints = \"{ENDPOINT}\"\n[flannel]\nsubnet_file = \"{}\"\n{flannel}\n",
            self.path("subnet.env").display()
        )
    }

    /// The same, with the address that others are to reach the node at.
    fn etcd_at(&self, public_ip: &str) -> String {
        self.etcd(&format!("public_ip = \"{public_ip}\""))
    }

    /// Starts weftd with this `[source]` and these variables, and waits until it is ready.
    pub(crate) fn start(&self, source: &str, environment: &[&str]) -> Weftd {
        self.spawn(source, environment).ready()
    }

    fn spawn(&self, source: &str, environment: &[&str]) -> Weftd {
        let [socket, state, config] = ["weftd.sock", "state", "weftd.toml"].map(|what| self.path(what));
        let text = format!(
            "[node]\nname = \"{}\"\n[dataplane]\nmemory = \"16MiB\"\n[uplink]\nkind = \"af_packet\"\n[control]\nsocket = \"{}\"\n\
             [state]\ndir = \"{}\"\n{source}",
            self.name,
            socket.display(),
            state.display()
        );
        fs::write(&config, text).expect("the configuration can be written");
        let mut before: Vec<&std::ffi::OsStr> = vec!["env".as_ref()];
        before.extend(environment.iter().map(|variable| std::ffi::OsStr::new(*variable)));
        Weftd::spawn_on(self.lab, self.namespace, &before, &config)
    }

    fn client(&self) -> Client {
        Client::new(self.path("weftd.sock"))
    }

    pub(crate) fn status(&self) -> Status {
        self.lab.wait_on(self.client().status()).expect("a status")
    }

    /// Adds a pod at the fifth address of the node's subnet, which it returns.
    pub(crate) fn add(&self, name: &str, netns: &Namespace) -> IpAddr {
        let store = self.status().source.store.expect("a store");
        let Some(IpNet::V4(subnet)) = store.subnets.first().copied() else { panic!("{store:?}") };
        let address = IpAddr::V4((subnet.network().to_bits() + 5).into());
        let port = PodPort::Tap { netns: netns.path(), ifname: "eth0".to_owned() };
        let spec = PodSpec {
            name: name.to_owned(),
            port,
            addresses: vec![address],
            mac: None,
            trusted: false,
            mtu: None,
            routes: None,
            cni: None,
            bandwidth: Default::default(),
        };
        self.lab.wait_on(self.client().add_pod(&spec)).expect("it is added");
        address
    }

    fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) {
        wait_for(what, || wanted(&self.status()).then_some(()));
    }
}

/// How long etcd is away.
const LOST_FOR: Duration = Duration::from_secs(60);

#[test]
fn two_nodes_meet_in_etcd_and_do_not_need_it_for_traffic() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    let mut etcd = Etcd::start(&lab);
    let [a, b] =
        [("a", &lab.node), ("b", &lab.peer)].map(|(name, namespace)| Node { lab: &lab, name, namespace });
    let env_file = |node: &Node| node.path("subnet.env");
    // One by its own settings, the other by flanneld's variables.
    let source = a.etcd_at("172.16.0.1");
    let a_weftd = a.start(&source, &[]);
    let file = format!("FLANNELD_SUBNET_FILE={}", env_file(&b).display());
    let endpoints = format!("FLANNELD_ETCD_ENDPOINTS=http://172.16.0.1:1,{ENDPOINT}");
    let variables =
        [&file, endpoints.as_str(), "FLANNELD_IFACE_REGEX=^172[.]16[.]", "FLANNELD_HEALTHZ_PORT=8081"];
    let b_weftd = b.start("", &variables);

    // What flannel's nodes see of them, and what CNI plugins do.
    for (node, ip) in [(&a, "172.16.0.1"), (&b, "172.16.0.2")] {
        let (key, value) = etcd.lease_of(ip);
        let mac = value.split("VtepMAC\":\"").nth(1).and_then(|rest| rest.get(..17)).expect("a MAC address");
        let wanted = format!(
            r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        );
        assert_eq!(value, wanted);
        let first = key.replace(".0-24", ".1/24");
        assert_eq!(
            fs::read_to_string(env_file(node)).expect("the subnet file"),
            format!(
                "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={first}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
            )
        );
        node.until("the other node", |status| status.peers.len() == 1 && status.peers[0].resolved);
        assert_eq!(node.status().state, State::Ready, "{:?}", node.status().problems);
    }
    let health = SocketAddr::from(([172, 16, 0, 2], 8081));
    for path in ["/healthz", "/readyz"] {
        wait_for(path, || (ask_tcp(&lab.peer, health, "GET", path).status == 200).then_some(()));
    }
    assert_eq!(ask_tcp(&lab.peer, health, "GET", "/metrics").status, 404);

    let (_, target) = (a.add("web", &web), b.add("db", &db).to_string());
    wait_for("the pods to reach each other", || web.pings(&target).then_some(()));
    let stream = web.stream(&target);

    // The store is lost under traffic.
    etcd.kill();
    for node in [&a, &b] {
        node.until("the loss", |status| status.source.store.as_ref().is_some_and(|store| !store.connected));
        assert_eq!(node.status().state, State::Degraded);
    }
    std::thread::sleep(LOST_FOR);
    etcd.run();
    for node in [&a, &b] {
        node.until("it is back", |status| status.source.store.as_ref().is_some_and(|store| store.connected));
        node.until("nothing is wrong", |status| status.state == State::Ready);
    }

    // A node whose lease runs out is gone, with its routes.
    let lease = etcd.ctl(&["lease", "grant", "10"]);
    let id = lease.split_whitespace().nth(1).expect("its number");
    let value = r#"{"PublicIP":"172.16.0.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}"#;
    etcd.ctl(&["put", "--lease", id, &format!("{SUBNETS}10.244.250.0-24"), value]);
    a.until("the third node", |status| status.peers.iter().any(|peer| peer.name == "10.244.250.0-24"));
    a.until("its end", |status| status.peers.len() == 1);
    stream.assert_unbroken();

    // A restarted node is who it was.
    let before = etcd.lease_of("172.16.0.1");
    a_weftd.stop();
    let _a_weftd = a.start(&source, &[]);
    assert_eq!(etcd.lease_of("172.16.0.1"), before);
    wait_for("the pods to reach each other again", || web.pings(&target).then_some(()));
    b_weftd.stop();
    assert!(
        env_file(&b).exists() && etcd.lease_of("172.16.0.2").1.contains("VtepMAC"),
        "nothing is given back"
    );
}

#[test]
fn a_weftd_that_waits_for_its_store_says_that_it_lives() {
    let lab = Lab::new();
    let a = Node { lab: &lab, name: "a", namespace: &lab.node };
    let source = a.etcd("public_ip = \"172.16.0.1\"\nhealthz = \"172.16.0.1:8081\"");
    let weftd = a.spawn(&source, &[]);
    weftd.says("it is tried again");
    let ask = |path| ask_tcp(&lab.node, SocketAddr::from(([172, 16, 0, 1], 8081)), "GET", path);
    wait_for("it to live", || (ask("/healthz").status == 200).then_some(()));
    let waiting = |ready: Answer| ready.status == 503 && ready.body.contains("waiting for etcd");
    wait_for("it to say what for", || waiting(ask("/readyz")).then_some(()));

    let _etcd = Etcd::start(&lab);
    let _weftd = weftd.ready();
    wait_for("it to be ready", || (ask("/readyz").status == 200).then_some(()));
    assert!(a.path("subnet.env").exists());
}

#[test]
fn a_killed_weftd_starts_without_its_store_and_follows_it_again() {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    let mut etcd = Etcd::start(&lab);
    let [a, b] =
        [("a", &lab.node), ("b", &lab.peer)].map(|(name, namespace)| Node { lab: &lab, name, namespace });
    let source = |node: &Node| node.etcd_at(if node.name == "a" { "172.16.0.1" } else { "172.16.0.2" });
    let a_weftd = a.start(&source(&a), &[]);
    let _b_weftd = b.start(&source(&b), &[]);
    let (_, target) = (a.add("web", &web), b.add("db", &db).to_string());
    wait_for("the pods to reach each other", || web.pings(&target).then_some(()));
    let kept = a.path("state").join("cluster.json");
    wait_for("what the store says to be kept", || {
        fs::read_to_string(&kept).ok().filter(|text| text.contains("172.16.0.2"))
    });

    let lease = etcd.lease_of("172.16.0.1");
    etcd.kill();
    a_weftd.crash();
    let a_weftd = a.start(&source(&a), &[]);
    wait_for("the pods to reach each other without the store", || web.pings(&target).then_some(()));
    let store = a.status().source.store.expect("a store");
    assert!(!store.connected && store.error.is_some_and(|error| error.contains("etcd")));
    assert_eq!(store.subnets[0].to_string(), lease.0.replace('-', "/"));
    assert_eq!(a.status().state, State::Degraded);

    // It is followed again, and knows this node by its lease.
    etcd.run();
    a.until("the store", |status| status.source.store.as_ref().is_some_and(|store| store.connected));
    let value = r#"{"PublicIP":"172.16.0.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}"#;
    etcd.ctl(&["put", &format!("{SUBNETS}10.244.250.0-24"), value]);
    a.until("the third node", |status| status.peers.iter().any(|peer| peer.name == "10.244.250.0-24"));
    assert_eq!(etcd.lease_of("172.16.0.1"), lease);
    a.until("nothing is wrong", |status| status.state == State::Ready);

    // A store that refuses ends nobody who knows what it said before, and what it says then is left on the node as ever.
    a_weftd.stop();
    etcd.ctl(&["put", "/coreos.com/network/config", "{"]);
    let a_weftd = a.start(&source(&a), &[]);
    wait_for("the pods to reach each other in spite of the store", || web.pings(&target).then_some(()));
    a.until("why it is not followed", |status| {
        status.problems.iter().any(|problem| problem.contains("/coreos.com/network/config"))
    });
    etcd.ctl(&["put", "/coreos.com/network/config", &CONF.replace(r#""vxlan""#, r#""vxlan","MTU":1400"#)]);
    let env = a.path("subnet.env");
    wait_for("what it says now", || fs::read_to_string(&env).ok().filter(|text| text.contains("MTU=1350")));
    a.until("nothing is wrong", |status| status.state == State::Ready);
    wait_for("that to be kept", || fs::read_to_string(&kept).ok().filter(|text| text.contains("MTU=1350")));

    // What is damaged is waited for.
    a_weftd.stop();
    fs::write(&kept, "{").expect("it can be damaged");
    let _a_weftd = a.start(&source(&a), &[]);
    wait_for("the pods to reach each other again", || web.pings(&target).then_some(()));
}

#[test]
fn a_flanneld_s_node_is_taken_over_with_its_mac_address() {
    let lab = Lab::new();
    let mut etcd = Etcd::start(&lab);
    let a = Node { lab: &lab, name: "a", namespace: &lab.node };
    let lease = |ip: &str, mac: &str| {
        format!(
            r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        )
    };
    let left = lease("172.16.0.1", "02:00:00:00:00:99");
    etcd.ctl(&["put", &format!("{SUBNETS}10.244.77.0-24"), &left]);
    let source = a.etcd_at("172.16.0.1");
    let weftd = a.start(&source, &[]);
    assert_eq!(etcd.lease_of("172.16.0.1"), ("10.244.77.0-24".to_owned(), left.clone()));

    // What is news at the end is kept too, however soon after the last time: unless the disk takes longer than an end may.
    let kept = a.path("state").join("cluster.json");
    let mut weftd = Some(weftd);
    let at_the_end = (1..=3).any(|turn| {
        let weftd = weftd.take().unwrap_or_else(|| a.start(&source, &[]));
        wait_for("what the store says to be kept", || kept.exists().then_some(()));
        let other = lease(&format!("172.16.0.7{turn}"), "02:00:00:00:00:77");
        etcd.ctl(&["put", &format!("{SUBNETS}10.244.25{turn}.0-24"), &other]);
        a.until("the other node", |status| status.peers.len() == turn);
        weftd.stop();
        let text = fs::read_to_string(&kept).expect("it is kept");
        assert!(text.contains("02:00:00:00:00:99"), "{text}");
        text.contains(&format!("172.16.0.7{turn}"))
    });
    assert!(at_the_end, "what was news at the end is not kept");

    // The address is this node's own from now on.
    etcd.ctl(&["del", &format!("{SUBNETS}10.244.77.0-24")]);
    fs::remove_file(&kept).expect("it is there");
    let weftd = a.start(&source, &[]);
    let (key, value) = etcd.lease_of("172.16.0.1");
    assert_eq!(value, left);
    wait_for("what the store says to be kept", || kept.exists().then_some(()));
    weftd.stop();

    // A flanneld that ran in between has made another, which the others know now.
    let left = lease("172.16.0.1", "02:00:00:00:00:98");
    etcd.ctl(&["put", &format!("{SUBNETS}{key}"), &left]);
    let weftd = a.start(&source, &[]);
    assert_eq!(etcd.lease_of("172.16.0.1").1, left);
    weftd.stop();

    // While the store is away nobody says so: packets go by the remembered address, and the others are told that one.
    etcd.ctl(&["put", &format!("{SUBNETS}{key}"), &lease("172.16.0.1", "02:00:00:00:00:97")]);
    etcd.kill();
    let weftd = a.start(&source, &[]);
    weftd.says("weftd starts with what it said last");
    etcd.run();
    wait_for("the lease to say so", || (etcd.lease_of("172.16.0.1").1 == left).then_some(()));
}

#[test]
fn what_the_store_said_is_written_once_that_is_possible() {
    let lab = Lab::new();
    let _etcd = Etcd::start(&lab);
    let a = Node { lab: &lab, name: "a", namespace: &lab.node };
    let source = a.etcd_at("172.16.0.1");
    let kept = a.path("state").join("cluster.json");
    let complaints = |weftd: &Weftd| weftd.said().matches("has to wait for it").count();
    let delayed = || {
        fs::create_dir_all(&kept).expect("something in the way");
        let weftd = a.start(&source, &[]);
        wait_for("a complaint", || (complaints(&weftd) == 1).then_some(()));
        fs::remove_dir(&kept).expect("it is empty");
        weftd
    };
    let is_written = || fs::read_to_string(&kept).is_ok_and(|text| text.contains("172.16.0.1"));
    // There is no more news: by itself after a while, and at the end at once, unless the disk takes longer than an end may.
    let weftd = delayed();
    wait_for("it to be written", || is_written().then_some(()));
    assert_eq!(complaints(&weftd), 1);
    weftd.stop();
    fs::remove_file(&kept).expect("it is there");
    let at_the_end = (0..3).any(|_| {
        delayed().stop();
        is_written()
    });
    assert!(at_the_end, "it is not written at the end");
}

#[test]
fn a_lease_of_a_live_flanneld_is_not_touched() {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    let a = Node { lab: &lab, name: "a", namespace: &lab.node };
    let source = a.etcd_at("172.16.0.1");
    let weftd = a.start(&source, &[]);
    let (key, _) = etcd.lease_of("172.16.0.1");
    weftd.stop();

    // Then flanneld takes over, with a MAC address and a device of its own.
    let key = format!("{SUBNETS}{key}");
    let value = r#"{"PublicIP":"172.16.0.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}}"#;
    etcd.ctl(&["put", &key, value]);
    lab.node.ip(
        "link add flannel.1 address 02:00:00:00:00:99 type vxlan id 1 local 172.16.0.1 dev up0 dstport 8472 nolearning",
    );
    lab.node.ip("link set flannel.1 up");
    let written = || {
        let json: Value = serde_json::from_str(&etcd.ctl(&["get", "-w", "json", &key])).expect("JSON");
        json["kvs"][0]["mod_revision"].clone()
    };
    let before = written();
    let config = a.path("weftd.toml");
    let mut text = fs::read_to_string(&config).expect("the configuration");
    // With what was remembered and without, beside the kernel and in it.
    for (from, to) in [("", ""), ("/a-state", "/other"), ("af_packet", "socket")] {
        text = text.replace(from, to);
        fs::write(&config, &text).expect("the configuration can be written");
        let said = lab.fails_with(&config);
        assert!(said.contains("UDP port 8472 is in use"), "{said}");
        assert_eq!((written(), etcd.lease_of("172.16.0.1").1.as_str()), (before.clone(), value));
    }

    // Only the port that the store names now is wanted, whatever is remembered.
    let other_port = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","Port":8473}}"#;
    etcd.ctl(&["put", "/coreos.com/network/config", other_port]);
    let weftd = a.start(&source, &[]);
    assert_eq!(a.status().state, State::Ready, "{:?}", a.status().problems);
    weftd.stop();
}

#[test]
fn host_gw_by_an_address_that_the_uplink_does_not_have_is_told() {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    etcd.ctl(&["put", "/coreos.com/network/config", &CONF.replace("vxlan", "host-gw")]);
    let a = Node { lab: &lab, name: "a", namespace: &lab.node };
    for (published, wanted) in [("172.16.0.1", 0), ("203.0.113.7", 1)] {
        let source = a.etcd_at(published);
        // The uplink is given: flanneld would look for it by the published address.
        let variables = ["FLANNELD_IFACE=up0"];
        let weftd = a.start(&source, &variables);
        if wanted > 0 {
            weftd.says("host-gw: this node publishes");
        }
        assert_eq!(weftd.said().matches("host-gw: this node publishes").count(), wanted, "{published}");
        let told = |status: &Status| {
            status.problems.iter().filter(|problem| problem.contains("host-gw: this node publishes")).count()
        };
        assert_eq!(told(&a.status()), wanted);
        if wanted > 0 {
            lab.node.ip(&format!("addr add {published}/32 dev up0"));
            a.until("it to be mended", |status| told(status) == 0);
        }
        weftd.stop();
    }
}

#[test]
fn what_weftd_cannot_carry_is_refused_at_the_start() {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    let config = lab.path("refused.toml");
    let text = format!(
        "[node]\nname = \"a\"\n[dataplane]\nmemory = \"16MiB\"\n[uplink]\ninterface = \"up0\"\n[source]\nkind = \"etcd\"\n[etcd]\n\
         endpoints = \"{ENDPOINT}\"\n[control]\nsocket = \"{at}/weftd.sock\"\n[state]\ndir = \"{at}/state\"\n\
         [flannel]\nsubnet_file = \"{at}/subnet.env\"\n",
        at = lab.dir.path().display()
    );
    fs::write(&config, text).expect("the configuration can be written");
    for (conf, wanted) in [
        (
            r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":{"Type":"ipip"}}"#,
            "carries only IPv4",
        ),
        (r#"{"Network":"10.244.0.0/16","Backend":{"Type":"wireguard"}}"#, "does not encrypt"),
        (r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","GBP":true}}"#, "Backend.GBP"),
        (r#"{"Network":"10.244.0.0/33"}"#, "Network is"),
    ] {
        etcd.ctl(&["put", "/coreos.com/network/config", conf]);
        let said = lab.fails_with(&config);
        assert!(said.contains(wanted), "{conf}: {said}");
    }
    assert!(!lab.path("subnet.env").exists());
    lab.assert_clean();
}

/// Two nodes by the backend that the store names, with pods of this MTU.
fn two_nodes_by(backend: &str, mtu: u32, reach_each_other: bool) {
    let lab = Lab::new();
    let (web, db) = (Namespace::new("web"), Namespace::new("db"));
    let etcd = Etcd::start(&lab);
    etcd.ctl(&[
        "put",
        "/coreos.com/network/config",
        &format!(r#"{{"Network":"10.244.0.0/16","Backend":{backend}}}"#),
    ]);
    let [a, b] =
        [("a", &lab.node), ("b", &lab.peer)].map(|(name, namespace)| Node { lab: &lab, name, namespace });
    let weftds = [&a, &b].map(|node| {
        let weftd = node.start(&node.etcd(""), &["FLANNELD_IFACE=up0"]);
        let left = fs::read_to_string(node.path("subnet.env")).expect("the subnet file");
        assert!(left.contains(&format!("FLANNEL_MTU={mtu}\n")), "{left}");
        weftd
    });
    let json: Value = serde_json::from_str(backend).expect("JSON");
    for ip in ["172.16.0.1", "172.16.0.2"] {
        let (_, lease) = etcd.lease_of(ip);
        // As flannel's do, these two say no more than the address.
        match json["Type"].as_str() {
            Some("udp" | "alloc") => {
                assert_eq!(lease, format!(r#"{{"PublicIP":"{ip}","PublicIPv6":null}}"#))
            }
            _ => assert!(lease.contains(&format!("\"BackendType\":{}", json["Type"])), "{lease}"),
        }
    }
    let (_, target) = (a.add("web", &web), b.add("db", &db).to_string());
    if reach_each_other {
        wait_for("the pods to reach each other", || web.pings(&target).then_some(()));
    } else {
        assert!((0..3).all(|_| !web.reaches(&target)));
    }
    assert!(web.ip("link show eth0").contains(&format!("mtu {mtu}")));
    for weftd in weftds {
        weftd.stop();
    }
}

#[test]
fn direct_routing_is_carried_as_the_store_says() {
    two_nodes_by(r#"{"Type":"vxlan","DirectRouting":true}"#, 1450, true);
}

#[test]
fn host_gw_is_carried_as_the_store_says() {
    two_nodes_by(r#"{"Type":"host-gw"}"#, 1500, true);
}

#[test]
fn udp_is_carried_as_the_store_says() {
    two_nodes_by(r#"{"Type":"udp"}"#, 1472, true);
}

#[test]
fn ipip_is_carried_as_the_store_says() {
    two_nodes_by(r#"{"Type":"ipip"}"#, 1480, true);
}

#[test]
fn alloc_gives_subnets_and_carries_nothing() {
    two_nodes_by(r#"{"Type":"alloc"}"#, 1500, false);
}
