//! weftd.toml that changes while weftd runs, and what cluster.toml says of networks, trusted pods and routes.

use std::ffi::OsStr;
use std::fs;

use nix::sys::signal::Signal;
use weft_api::{ConfigReport, RouteKind, State, Vteps};

use crate::lab::{Lab, Namespace, Weftd, nodes, tap_pod, tap_spec, wait_for};

fn report(lab: &Lab) -> ConfigReport {
    lab.ask(async |weftd| weftd.config().await).expect("the settings")
}

fn vteps(lab: &Lab) -> Vteps {
    lab.ask(async |weftd| weftd.vteps(None).await).expect("the ends of the tunnels")
}

/// Waits until a setting is in force.
fn in_force(lab: &Lab, section: &str, name: &str, value: impl Into<serde_json::Value>) {
    let value = value.into();
    wait_for(&format!("{section}.{name} = {value}"), || {
        (report(lab).running[section][name] == value).then_some(())
    });
}

#[test]
fn an_edit_of_the_settings_takes_effect_and_what_needs_a_restart_says_so() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &web));
    let weftd = lab.start();
    let stream = web.stream("10.244.0.1");
    lab.flows_from("web");
    assert_eq!(lab.status().notes, Vec::<String>::new());

    lab.configure("workers = 2", "", "[bridge]\nageing_s = 20\nlearn_limit = 7\n[router]\nicmp_rate = 5");
    in_force(&lab, "bridge", "ageing_s", 20);
    let status = lab.status();
    let note = "dataplane.workers: needs a restart: 1 -> 2";
    assert_eq!((status.state, status.notes, status.problems), (State::Ready, vec![note.to_owned()], vec![]));
    let report = report(&lab);
    assert_eq!(report.path, lab.path("weftd.toml"));
    assert_eq!(
        (&report.running["dataplane"]["workers"], &report.file["dataplane"]["workers"]),
        (&1.into(), &2.into())
    );
    assert_eq!(report.restart_needed.len(), 1);
    assert_eq!(report.running["bridge"]["learn_limit"], 7);
    weftd.says(note);
    weftd.says("bridge.ageing_s: 300 -> 20");

    // Put back, nothing waits any more.
    lab.configure("", "", "[bridge]\nageing_s = 20");
    wait_for("no note", || lab.status().notes.is_empty().then_some(()));
    stream.assert_unbroken();
    lab.counters_balance();
    weftd.stop();

    lab.configure("workers = 2", "", "");
    let _weftd = lab.start();
    let status = lab.status();
    assert_eq!((status.workers, status.notes), (2, vec![]), "a restart takes it over");
}

#[test]
fn wrong_settings_are_refused_whole() {
    let lab = Lab::new();
    let weftd = lab.start();
    lab.configure("", "", "[bridge]\nageing_s = 20\nlearn_limt = 7");
    let problem =
        wait_for("the refusal", || lab.status().problems.into_iter().find(|p| p.contains("learn_limt")));
    assert!(problem.contains("weftd.toml:") && problem.contains("did you mean learn_limit?"), "{problem}");
    assert_eq!(lab.status().state, State::Degraded);
    let now = report(&lab);
    assert_eq!(now.running["bridge"]["ageing_s"], 300, "nothing of it is taken over");
    assert!(now.error.is_some_and(|error| error.contains("bridge.learn_limt")));
    weftd.says("the new settings are refused, the old ones stay in force");

    fs::remove_file(lab.path("weftd.toml")).unwrap();
    wait_for("the missing file to be told", || {
        lab.status().problems.iter().any(|problem| problem.contains("there is no such file")).then_some(())
    });
    lab.configure("", "", "");
    wait_for("a status without a problem", || (lab.status().state == State::Ready).then_some(()));
    assert_eq!(report(&lab).error, None);
}

#[test]
fn sighup_has_the_settings_read_again() {
    let lab = Lab::new();
    // Behind a link, changes are not seen at once: the link's folder has none.
    let folder = lab.path("elsewhere");
    fs::create_dir(&folder).unwrap();
    let (here, there) = (lab.path("weftd.toml"), folder.join("weftd.toml"));
    fs::rename(&here, &there).unwrap();
    std::os::unix::fs::symlink(&there, &here).unwrap();
    let weftd = lab.start();
    let text = fs::read_to_string(&there).unwrap() + "[bridge]\nflood_rate = 77\n";
    fs::write(&there, text).unwrap();
    weftd.signal(Signal::SIGHUP);
    in_force(&lab, "bridge", "flood_rate", 77);
    weftd.says("weftd.toml is read again on demand");
}

#[test]
fn the_level_of_the_log_changes_while_it_runs() {
    let lab = Lab::new();
    lab.configure("", "", "[log]\nlevel = \"warn\"");
    // The tests' own level would go before it.
    let without: Vec<&OsStr> = ["env", "-u", "WEFT_LOG"].map(OsStr::new).to_vec();
    let weftd = Weftd::spawn(&lab, &without, &lab.path("weftd.toml")).ready();
    let changed = "/cluster.toml has changed";
    let web = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &web));
    wait_for("the pod", || (lab.status().pods == 1).then_some(()));
    assert!(!weftd.said().contains(changed), "{}", weftd.said());

    lab.configure("", "", "[log]\nlevel = \"debug\"");
    in_force(&lab, "log", "level", "debug");
    lab.write_cluster("");
    weftd.says(changed);
}

#[test]
fn the_metrics_move_to_another_address() {
    let lab = Lab::new();
    let weftd = lab.start();
    let asked = |port: u16| {
        let ask = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3"
        );
        let output = lab.node.command("bash").args(["-c", &ask]).output().expect("bash is installed");
        String::from_utf8_lossy(&output.stdout).contains(" 200 ")
    };
    wait_for("the usual address", || asked(9477).then_some(()));
    lab.configure("", "", "[metrics]\nlisten = \"127.0.0.1:9500\"");
    wait_for("the new address", || asked(9500).then_some(()));
    wait_for("the old one to be left", || (!asked(9477)).then_some(()));
    lab.configure("", "", "[metrics]\nlisten = \"\"");
    wait_for("silence", || (!asked(9500)).then_some(()));
    drop(weftd);
}

#[test]
fn a_checksum_and_strangers_are_taken_up_while_it_runs() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    lab.replace_cluster(&(nodes(&[0]) + &tap_pod("web", 2, &web)));
    let _weftd = lab.start();
    let send = || {
        let sender = lab.peer.enter(|| {
            let socket = std::net::UdpSocket::bind("172.16.0.2:0").expect("a socket");
            let mut packet = vec![0x08, 0, 0, 0, 0, 0, 1, 0];
            packet.resize(8 + 60, 0);
            socket.send_to(&packet, "172.16.0.1:8472").expect("it is sent");
        });
        sender.join().expect("the sender");
    };
    send();
    wait_for("a stranger's packet to be dropped", || (lab.drops("vtep_unknown") == 1).then_some(()));
    lab.configure("", "known_vteps_only = false\nouter_checksum = \"valid\"", "");
    in_force(&lab, "uplink", "known_vteps_only", false);
    in_force(&lab, "uplink", "outer_checksum", "valid");
    let total = lab.stats().total.drops;
    send();
    wait_for("the next to be looked into", || (lab.stats().total.drops > total).then_some(()));
    assert_eq!(lab.drops("vtep_unknown"), 1);
    lab.counters_balance();
}

/// A second network beside that of [`nodes`], with a part for each of the two.
fn blue() -> String {
    let text = nodes(&[0, 1]).replacen("[network]", "[[network]]", 1);
    let (head, rest) = text.split_once("[[node]]").expect("a node");
    let second = "[[network]]\nname = \"blue\"\nipv4 = \"10.99.0.0/16\"\nvni = 7\nmtu = 1300\n";
    let text = format!("{head}{second}[[node]]{rest}");
    let text = text.replacen("\"10.244.0.0/24\"", "\"10.244.0.0/24\", \"10.99.0.0/24\"", 1);
    text.replacen("\"10.244.1.0/24\"", "\"10.244.1.0/24\", \"10.99.1.0/24\"", 1)
        + "vtep_macs = { blue = \"02:00:5e:00:07:02\" }\n"
}

/// The kernel's end of one network on b, as flannel has it, with an address to be asked.
fn kernel_end(lab: &Lab, vni: u32, own: &str, near: &str, pods: &str, subnet: &str, address: &str) {
    let b = &lab.peer;
    b.ip(&format!(
        "link add v{vni} address {own} mtu 1300 type vxlan id {vni} local 172.16.0.2 dev up0 dstport 8472 nolearning"
    ));
    b.ip(&format!("addr add {address}/32 dev v{vni}"));
    b.ip(&format!("link set v{vni} up"));
    b.ip(&format!("neigh add {pods} lladdr {near} dev v{vni} nud permanent"));
    b.ip(&format!("route add {subnet} via {pods} dev v{vni} onlink src {address}"));
    b.must(&format!("bridge fdb append {near} dev v{vni} dst 172.16.0.1 self permanent"));
}

#[test]
fn two_networks_have_a_tunnel_each_and_their_macs_stay() {
    let lab = Lab::new();
    let (web, other) = (Namespace::new("web"), Namespace::new("blue"));
    let pod = tap_pod("other", 3, &other).replace("\"10.244.0.3\", \"fd00:10:244::3\"", "\"10.99.0.3\"");
    lab.replace_cluster(&(blue() + &tap_pod("web", 2, &web) + &pod));
    let weftd = lab.start();
    let of = |network: &str| {
        let local = vteps(&lab).local.into_iter().find(|end| end.network == network && end.address.is_ipv4());
        local.map(|end| (end.vni, end.mac.to_string())).expect("an end")
    };
    let [(first, first_mac), (second, second_mac)] = [of("default"), of("blue")];
    assert_eq!((first, second), (1, 7));
    assert!(first_mac != second_mac);
    kernel_end(&lab, 1, "02:00:5e:00:04:02", &first_mac, "10.244.0.0", "10.244.0.0/24", "10.244.1.0");
    kernel_end(&lab, 7, "02:00:5e:00:07:02", &second_mac, "10.99.0.0", "10.99.0.0/24", "10.99.1.0");
    lab.peer_resolved();
    let carried = |vni: u32| {
        let link = lab.peer.json(&format!("-s link show dev v{vni}")).remove(0);
        link["stats64"]["rx"]["packets"].as_u64().expect("a count")
    };
    for (from, to, vni, not) in [(&web, "10.244.1.0", 1, 7), (&other, "10.99.1.0", 7, 1)] {
        let (before, untouched) = (carried(vni), carried(not));
        assert!(from.pings(to), "{} does not reach {to}", from.name());
        assert!(carried(vni) >= before + 5, "by its own tunnel");
        assert_eq!(carried(not), untouched, "and by no other");
    }
    // What comes back goes into the sender's network, so the way out is that of the destination: the router joins both.
    assert!(web.pings("10.99.0.3") && other.pings("10.244.0.2"));
    assert!(lab.peer.pings("10.99.0.3"));
    let mtu = |pod: &Namespace| pod.json("link show dev eth0").remove(0)["mtu"].as_u64();
    assert_eq!((mtu(&web), mtu(&other)), (Some(1450), Some(1300)));
    lab.counters_balance();

    weftd.stop();
    let _weftd = lab.start();
    assert_eq!(of("blue").1, second_mac, "peers keep sending to it");
}

#[test]
fn trusted_pods_and_routes_of_each_kind() {
    let lab = Lab::new();
    let (web, router) = (Namespace::new("web"), Namespace::new("router"));
    let trusted = tap_pod("router", 3, &router) + "trusted = true\n";
    let routes = "[[route]]\nto = \"192.0.2.0/24\"\nvia = [\"10.244.0.3\"]\n\
                  [[route]]\nto = \"198.51.100.0/24\"\nvia = [\"10.244.0.3\", \"10.244.1.9\"]\n\
                  [[route]]\nto = \"203.0.113.0/26\"\nkind = \"prohibit\"\n\
                  [[route]]\nto = \"203.0.113.64/26\"\nkind = \"unreachable\"\n\
                  [[route]]\nto = \"203.0.113.128/26\"\nkind = \"blackhole\"\n\
                  [[route]]\nto = \"2001:db8::/32\"\nvia = [\"fd00:10:244:1::9\"]\n";
    lab.write_cluster(&(tap_pod("web", 2, &web) + &trusted + routes));
    let weftd = lab.start();
    let kind = |address: &str| {
        let address = address.parse().expect("an address");
        let routes = lab.ask(async |weftd| weftd.route_to(address).await).expect("a route");
        routes.routes.first().map(|route| route.kind)
    };
    for (address, expected) in [
        ("192.0.2.1", RouteKind::Hop),
        ("198.51.100.1", RouteKind::Group),
        ("203.0.113.1", RouteKind::Prohibit),
        ("203.0.113.65", RouteKind::Unreachable),
        ("203.0.113.129", RouteKind::Blackhole),
        ("2001:db8::1", RouteKind::Vtep),
    ] {
        assert_eq!(kind(address), Some(expected), "{address}");
    }
    let is_trusted = |name: &str| lab.pods().pods.iter().any(|pod| pod.name == name && pod.trusted);
    assert!(is_trusted("router") && !is_trusted("web"));

    // One that was added stays trusted over a restart.
    let more = Namespace::new("more");
    let spec = weft_api::PodSpec { trusted: true, ..tap_spec("more", 9, &more.path()) };
    assert!(lab.add(&spec).expect("it is added").trusted);
    weftd.stop();
    let _weftd = lab.start();
    assert!(is_trusted("more"));
    assert!(web.pings("10.244.0.3") && web.pings("10.244.0.9"));
    lab.counters_balance();
}

#[test]
fn an_address_may_have_the_mask_of_the_network() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    lab.write_cluster(&tap_pod("web", 2, &web).replace("\"10.244.0.2\"", "\"10.244.0.2/16\""));
    let _weftd = lab.start();
    let (_, _, addresses) = web.identity("eth0");
    assert!(
        addresses.iter().any(|address| address.contains("10.244.0.2") && address.ends_with("/16")),
        "{addresses:?}"
    );
    assert!(web.pings("10.244.0.1"));
}
