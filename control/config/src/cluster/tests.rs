use super::*;
use crate::settings::FILE_MAX;
use proptest::prelude::*;
use weft_types::MacAddr;

/// The lines are counted on below.
const GOOD: &str = r#"[network]
ipv4 = "10.244.0.0/16"
ipv6 = "fd00:10:244::/56"
vni = 7
mtu = 1400

[[node]]
name = "a"
subnets = ["10.244.1.0/24", "fd00:10:244:1::/64"]
public_ip = "192.0.2.1"

[[node]]
name = "b"
subnets = ["10.244.2.0/24"]
public_ip = "192.0.2.2"
vtep_mac = "02:00:00:00:02:01"

[[pod]]
name = "default/web"
node = "a"
addresses = ["10.244.1.5", "fd00:10:244:1::5"]
kind = "tap"
netns = "/run/netns/web"

[[pod]]
name = "vm"
node = "a"
addresses = ["10.244.1.6/32"]
mac = "02:00:00:00:05:01"
kind = "vhost-user"
socket = "/run/vm.sock"
"#;

fn parse_text(text: &str) -> Result<Model, FileError> {
    parse(Path::new("cluster.toml"), text.to_owned(), "a")
}

#[test]
fn a_good_file_is_read_as_it_stands() {
    let model = parse_text(GOOD).unwrap();
    assert_eq!(model.networks[0].vni.get(), 7);
    assert_eq!(model.port, 8472);
    assert_eq!(model.networks[0].mtu.unwrap().get(), 1400);
    assert_eq!(model.nodes.len(), 2);
    let [web, vm] = &model.pods[..] else { panic!("two pods") };
    let lengths: Vec<_> = web.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(lengths, ["10.244.1.5/24", "fd00:10:244:1::5/64"], "the subnet's prefix length");
    assert_eq!(
        web.attachment,
        Attachment::Tap { netns: "/run/netns/web".into(), ifname: "eth0".to_owned() },
        "eth0 unless something else is given"
    );
    assert_eq!(vm.addresses[0].to_string(), "10.244.1.6/32");
    assert_eq!(vm.mac, Some(MacAddr([2, 0, 0, 0, 5, 1])));
    assert_eq!(
        vm.attachment,
        Attachment::VhostUser { socket: "/run/vm.sock".into(), mode: VhostMode::Client }
    );
    // The same in the other ways of TOML, and with Windows' line ends.
    let inline = GOOD.replacen("[[node]]\nname = \"b\"", "[[node]]\n\"name\" = 'b'", 1).replace('\n', "\r\n");
    assert_eq!(parse_text(&inline).unwrap(), model);
    let flow = r#"network = { ipv4 = "10.244.0.0/16" }
        node = [{ name = "a", subnets = ["10.244.1.0/24"], public_ip = "192.0.2.1" }]"#;
    assert_eq!(parse_text(flow).unwrap().nodes[0].name, "a");
}

#[test]
fn which_nodes_are_reached_without_the_tunnel() {
    let with = |setting: &str| parse_text(&GOOD.replace("vni = 7", setting));
    for (word, expected) in [
        ("never", DirectRouting::Never),
        ("on-link", DirectRouting::OnLink),
        ("always", DirectRouting::Always),
    ] {
        let model = with(&format!("direct_routing = \"{word}\"")).unwrap();
        assert_eq!(model.networks[0].direct_routing, expected);
    }
    assert_eq!(parse_text(GOOD).unwrap().networks[0].direct_routing, DirectRouting::Never);
}

#[test]
fn the_example_is_right_for_both_of_its_nodes() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/cluster.toml"));
    for node in ["worker-1", "worker-2"] {
        let model = load(path, node).unwrap();
        assert_eq!((model.nodes.len(), model.pods.len()), (2, 3));
    }
    let text = load(path, "worker-3").unwrap_err().to_string();
    assert!(
        text.contains("cluster.toml:20:1: node: this node, \"worker-3\", is not among the 2 listed"),
        "{text}"
    );
}

/// One change to the good file, and the one mistake that it makes: line, setting, and part of the rest.
#[test]
fn each_mistake_is_told_with_its_line() {
    #[rustfmt::skip]
    let table: &[(&str, &str, usize, &str, &str)] = &[
        // No TOML.
        ("vni = 7", "vni = ", 4, "", "correct the TOML here"),
        ("[network]", "[network", 1, "", "correct the TOML here"),
        ("vni = 7", "vni = 7\nvni = 8", 5, "", "duplicate key `vni`"),
        ("name = \"b\"", "name = \"b", 13, "", "correct the TOML here"),
        // Wrong types and unknown settings.
        ("vni = 7", "vni = \"7\"", 4, "network.vni", "a string is given; write an integer within 0 to 16777215"),
        ("vni = 7", "vni = 7.5", 4, "network.vni", "a float is given"),
        ("mtu = 1400", "mtu = 1979-05-27", 5, "network.mtu", "a datetime is given"),
        ("vni = 7", "vnid = 7", 4, "network.vnid", "unknown setting; did you mean vni?"),
        ("vni = 7", "colour = 7", 4, "network.colour", "unknown setting; remove it. Known here: name, vni, ipv4, ipv6, mtu, direct_routing, port, encapsulation"),
        ("[[pod]]\nname = \"vm\"", "[[pods]]\nname = \"vm\"", 25, "pods", "did you mean pod?"),
        ("[network]", "network = 1\n[other]", 1, "network", "an integer is given; write one table, [network]"),
        ("subnets = [\"10.244.2.0/24\"]", "subnets = \"10.244.2.0/24\"", 14, "node[1].subnets", "a string is given; write a list such as"),
        ("subnets = [\"10.244.2.0/24\"]", "subnets = [5]", 14, "node[1].subnets[0]", "an integer is given"),
        ("netns =", "socket =", 23, "pod[0].socket", "unknown setting"),
        // Ranges and forms.
        ("vni = 7", "vni = 16777216", 4, "network.vni", "16777216 is not within 0 to 16777215; choose"),
        ("vni = 7", "port = 0", 4, "network.port", "0 is not within 1 to 65535"),
        ("vni = 7", "direct_routing = \"sometimes\"", 4, "network.direct_routing", "\"sometimes\" is not among the choices; write \"never\" or \"on-link\" or \"always\""),
        ("vni = 7", "encapsulation = \"gre\"", 4, "network.encapsulation", "\"gre\" is not among the choices; write \"vxlan\" or \"udp\" or \"ipip\""),
        ("vni = 7", "direct_routing = true", 4, "network.direct_routing", "a boolean is given"),
        ("mtu = 1400", "mtu = 575", 5, "network.mtu", "575 is not within 576 to 65535"),
        ("\"10.244.0.0/16\"", "\"10.244.0.0\"", 2, "network.ipv4", "\"10.244.0.0\": invalid IP address syntax; write an IPv4 network"),
        ("\"192.0.2.2\"", "\"192.0.2\"", 15, "node[1].public_ip", "\"192.0.2\": invalid IPv4 address syntax; write an IPv4 address"),
        ("\"02:00:00:00:02:01\"", "\"02-00\"", 16, "node[1].vtep_mac", "\"02-00\" is no MAC address"),
        ("\"10.244.1.6/32\"", "\"10.244.1.6/33\"", 28, "pod[1].addresses[0]", "\"10.244.1.6/33\" is no IP address"),
        ("kind = \"tap\"", "kind = \"veth\"", 22, "pod[0].kind", "\"veth\" is not among the choices; write \"tap\" or \"vhost-user\" or \"dpdk\""),
        ("kind = \"vhost-user\"", "kind = \"vhost-user\"\nmode = \"both\"", 31, "pod[1].mode", "write \"client\" or \"server\""),
        ("mac = \"02:00:00:00:05:01\"", "trusted = 1", 29, "pod[1].trusted", "an integer is given; write true or false"),
        ("mac = \"02:00:00:00:05:01\"", "egress_rate = \"fast\"", 29, "pod[1].egress_rate", "\"fast\" is no rate"),
        ("mac = \"02:00:00:00:05:01\"", "egress_rate = \"999\"", 29, "pod[1].egress_rate", "not within 1k and 1P"),
        ("mac = \"02:00:00:00:05:01\"", "egress_burst = 5", 29, "pod[1].egress_burst", "there is no rate that it belongs to"),
        ("vtep_mac = \"02:00:00:00:02:01\"", "vtep_mac = \"02:00:00:00:02:01\"\nvtep_macs = { blue = \"x\" }", 17, "node[1].vtep_macs.blue", "\"x\" is no MAC address"),
        ("vtep_mac = \"02:00:00:00:02:01\"", "vtep_mac = \"02:00:00:00:02:01\"\nvtep_macs = \"02:00:00:00:02:02\"", 17, "node[1].vtep_macs", "a string is given; write a table such as"),
        ("socket = \"/run/vm.sock\"\n", "socket = \"/run/vm.sock\"\n[[route]]\nto = \"192.0.2.0/24\"\n", 32, "route[0].via", "missing; say where it leads"),
        ("socket = \"/run/vm.sock\"\n", "socket = \"/run/vm.sock\"\n[[route]]\nvia = [\"10.244.1.9\"]\n", 32, "route[0].to", "missing; give the destinations"),
        ("socket = \"/run/vm.sock\"\n", "socket = \"/run/vm.sock\"\n[[route]]\nto = \"192.0.2.0/24\"\nvia = []\nkind = \"prohibit\"\n", 35, "route[0].kind", "via is given as well"),
        ("socket = \"/run/vm.sock\"\n", "socket = \"/run/vm.sock\"\n[[route]]\nto = \"192.0.2.0/24\"\nkind = \"reject\"\n", 34, "route[0].kind", "write \"unreachable\" or \"prohibit\" or \"blackhole\""),
        // Missing.
        ("name = \"vm\"\n", "", 25, "pod[1].name", "missing; give the pod's name"),
        ("netns = \"/run/netns/web\"\n", "", 18, "pod[0].netns", "missing; a tap needs it"),
        ("name = \"b\"\n", "", 12, "node[1].name", "missing; give the node's name"),
        // Wrong in the light of the rest.
        ("mtu = 1400", "mtu = 1279", 5, "network.mtu", "1279 is less than IPv6 needs"),
        ("\"10.244.0.0/16\"", "\"10.244.1.0/16\"", 2, "network.ipv4", "has bits set after the prefix; write 10.244.0.0/16"),
        ("vtep_mac = \"02:00:00:00:02:01\"\n", "", 12, "node[1].vtep_mac", "a peer's VTEP has no MAC address; set vtep_mac"),
        ("\"02:00:00:00:02:01\"", "\"03:00:00:00:02:01\"", 16, "node[1].vtep_mac", "is a group address"),
        ("\"192.0.2.2\"", "\"192.0.2.1\"", 15, "node[1].public_ip", "node \"a\" has the same address"),
        ("\"10.244.2.0/24\"", "\"10.244.1.128/25\"", 14, "node[1].subnets[0]", "is a part of 10.244.1.0/24, a subnet of node \"a\""),
        ("\"10.244.2.0/24\"", "\"10.9.2.0/24\"", 14, "node[1].subnets[0]", "10.9.2.0/24 is outside the network 10.244.0.0/16"),
        ("node = \"a\"\naddresses = [\"10.244.1.6/32\"]", "node = \"c\"\naddresses = [\"10.244.1.6/32\"]", 27, "pod[1].node", "there is no node \"c\""),
        ("\"fd00:10:244:1::5\"", "\"fd00:10:244:1::1\"", 21, "pod[0].addresses[1]", "fd00:10:244:1::1 is the gateway of fd00:10:244:1::/64"),
        ("\"10.244.1.6/32\"", "\"10.244.1.5\"", 28, "pod[1].addresses[0]", "pod \"default/web\" has 10.244.1.5 too"),
        ("\"10.244.1.6/32\"", "\"10.244.1.6/20\"", 28, "pod[1].addresses[0]", "neither the prefix length of its subnet 10.244.1.0/24 nor of its network 10.244.0.0/16"),
        ("vtep_mac = \"02:00:00:00:02:01\"", "vtep_mac = \"02:00:00:00:02:01\"\nvtep_macs = { blue = \"02:00:00:00:02:02\" }", 17, "node[1].vtep_macs.blue", "there is no such network"),
        ("socket = \"/run/vm.sock\"\n", "socket = \"/run/vm.sock\"\n[[route]]\nto = \"192.0.2.0/24\"\nvia = [\"10.244.1.9\",\n\"10.244.1.1\"]\n", 35, "route[0].via[1]", "the gateway of 10.244.1.0/24"),
        ("socket = \"/run/vm.sock\"\n", "socket = \"/run/vm.sock\"\n[[route]]\nto = \"10.244.2.0/26\"\nkind = \"prohibit\"\n", 33, "route[0].to", "a part of 10.244.2.0/24, a subnet of node \"b\""),
        ("\"/run/netns/web\"", "\"web\"", 23, "pod[0].netns", "\"web\" is not an absolute path"),
        ("netns = ", "ifname = \"a/b\"\nnetns = ", 23, "pod[0].ifname", "'/' may not stand in an interface's name"),
    ];
    for (old, new, line, setting, rest) in table {
        assert!(GOOD.contains(old), "{old:?} is in the good file");
        let error = parse_text(&GOOD.replacen(old, new, 1)).expect_err(new);
        let FileError::Wrong { mistakes, .. } = &error else { panic!("{new}: {error}") };
        let found = mistakes.iter().find(|m| m.line == *line && m.setting == *setting);
        let found = found.unwrap_or_else(|| panic!("{new:?}, line {line}, {setting}: {error}"));
        assert!(found.to_string().contains(rest), "{new:?}: {found}, not {rest:?}");
        assert!(!found.remedy.is_empty());
        assert!(error.to_string().contains(&format!("cluster.toml:{line}:")), "{error}");
    }
}

#[test]
fn rates_of_pods_are_quantities() {
    let limits = "ingress_rate = \"10M\"\ningress_burst = 80_000\negress_rate = \"1.5G\"";
    let model = parse_text(&GOOD.replacen("mac = \"02:00:00:00:05:01\"", limits, 1)).unwrap();
    let limit = |bits, burst| Some(RateLimit { rate: BitRate::new(bits).unwrap(), burst });
    let ingress = limit(10_000_000, Some(80_000));
    assert_eq!(model.pods[1].bandwidth, Bandwidth { ingress, egress: limit(1_500_000_000, None) });
    assert!(model.pods[0].bandwidth.is_unlimited());
}

#[test]
fn several_networks_trusted_pods_and_routes() {
    let text = GOOD
        .replacen("[network]", "[[network]]", 1)
        .replacen(
            "\n[[node]]",
            "[[network]]\nname = \"blue\"\nipv4 = \"10.99.0.0/16\"\nvni = 8\nport = 4789\n\n[[node]]",
            1,
        )
        .replacen("mac = \"02:00:00:00:05:01\"", "trusted = true", 1)
        .replacen("\"10.244.1.6/32\"", "\"10.244.1.6/16\"", 1)
        .replacen(
            "subnets = [\"10.244.2.0/24\"]",
            "subnets = [\"10.244.2.0/24\", \"10.99.2.0/24\"]\nvtep_macs = { blue = \"02:00:00:00:02:08\" }\n\
             vtep_macs_v6.blue = \"02:00:00:00:02:09\"",
            1,
        )
        + "[[route]]\nto = \"192.0.2.0/24\"\nvia = [\"10.244.1.6\"]\nnode = \"a\"\n[[route]]\nto = \"::/0\"\nkind = \"blackhole\"\n";
    let model = parse_text(&text).unwrap();
    let names: Vec<_> = model.networks.iter().map(|n| (n.name.as_str(), n.vni.get())).collect();
    assert_eq!(names, [("default", 7), ("blue", 8)]);
    assert_eq!(model.port, 4789, "one for all, whichever gives it");
    assert_eq!(model.nodes[1].vtep_mac_in(&model, 1, false), Some(MacAddr([2, 0, 0, 0, 2, 8])));
    assert_eq!(model.nodes[1].vtep_mac_in(&model, 1, true), Some(MacAddr([2, 0, 0, 0, 2, 9])));
    assert_eq!(model.nodes[1].vtep_mac_in(&model, 0, true), Some(MacAddr([2, 0, 0, 0, 2, 1])));
    assert_eq!((model.pods[0].trusted, model.pods[1].trusted), (false, true));
    assert_eq!(model.pods[1].addresses[0].to_string(), "10.244.1.6/16");
    let via = Target::Via(vec!["10.244.1.6".parse().unwrap()]);
    let routes = [
        Route { to: "192.0.2.0/24".parse().unwrap(), target: via, node: Some("a".to_owned()) },
        Route { to: "::/0".parse().unwrap(), target: Target::Blackhole, node: None },
    ];
    assert_eq!(model.routes, routes);

    let wrong = |text: String, says: &str| {
        let error = parse_text(&text).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(says), "{error}, not {says:?}");
    };
    let with = |old: &str, new: &str| text.replacen(old, new, 1);
    wrong(with("name = \"blue\"\n", ""), "6:1: network[1].name: missing; only the first network needs none");
    wrong(with("vni = 8\n", ""), "6:1: network[1].vni: missing; give it a VNI");
    wrong(with("vni = 8", "vni = 7"), "9:7: network[1].vni: network \"default\" has VNI 7 too");
    wrong(
        with("vni = 7", "port = 8472\nvni = 7"),
        "11:8: network[1].port: 4789 is given, but an earlier network has 8472",
    );
    wrong(
        with("vni = 8", "vni = 8\nipv6 = \"fd00:10:244:80::/60\""),
        "10:8: network[1].ipv6: fd00:10:244:80::/60 overlaps fd00:10:244::/56 of network \"default\"",
    );
}

#[test]
fn columns_count_characters() {
    let error = parse_text("network = { \"ä\" = 1, vni = -1 }").unwrap_err();
    let FileError::Wrong { mistakes, .. } = error else { panic!("{error}") };
    let places: Vec<_> = mistakes.iter().map(|m| (m.line, m.column, m.setting.as_str())).collect();
    assert_eq!(places, [(1, 13, "network.ä"), (1, 28, "network.vni")]);
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replacen("mtu = 1400", "mtu = 1000", 1)
        .replacen("10.244.2.0/24", "10.245.2.0/24", 1)
        .replacen("10.244.1.6/32", "10.244.1.1", 1)
        .replacen("/run/vm.sock", "vm.sock", 1);
    let FileError::Wrong { mistakes, .. } = parse_text(&text).unwrap_err() else { panic!("wrong") };
    let lines: Vec<_> = mistakes.iter().map(|m| m.line).collect();
    assert_eq!(lines, [5, 14, 28, 31]);
}

#[test]
fn thousands_of_mistakes_are_counted_not_printed() {
    let text = format!("{GOOD}{}", "[[pod]]\n".repeat(5000));
    let error = parse_text(&text).unwrap_err();
    let FileError::Wrong { mistakes, .. } = &error else { panic!("{error}") };
    assert_eq!(mistakes.len(), 20_000);
    let text = error.to_string();
    assert_eq!(text.lines().count(), 51);
    assert!(text.ends_with("and 19950 more"), "{text}");
}

#[test]
fn what_is_no_file_of_settings_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    let error = |path: &Path| load(path, "a").unwrap_err();
    assert_eq!(error(&path), FileError::Missing { path: path.clone() });
    assert_eq!(error(folder.path()), FileError::NotAFile { path: folder.path().to_owned() });
    assert!(matches!(error(Path::new("/dev/zero")), FileError::NotAFile { .. }), "it would never end");

    std::fs::write(&path, b"[network]\nvni = \"\xff\"\n").unwrap();
    let text = error(&path).to_string();
    assert!(
        text.ends_with("cluster.toml:2:8: the text is not UTF-8 from here on; save the file as UTF-8"),
        "{text}"
    );

    std::fs::File::create(&path).unwrap().set_len(FILE_MAX + 1).unwrap();
    assert_eq!(error(&path), FileError::TooLarge { path: path.clone() });

    std::fs::write(&path, "").unwrap();
    let text = error(&path).to_string();
    assert!(text.contains("cluster.toml:1:1: network: missing; add [network]"), "{text}");
}

#[test]
fn deep_nesting_is_an_error_not_a_crash() {
    for text in [format!("a = {}", "[".repeat(100_000)), format!("a{} = 1", ".a".repeat(100_000))] {
        assert!(parse_text(&text).is_err());
    }
}

proptest! {
    #[test]
    fn any_text_is_an_error_or_a_model(text in "\\PC*") {
        let _ = parse_text(&text);
    }

    #[test]
    fn toml_like_text_is_an_error_or_a_model(text in "([a-z_\"=\\[\\]{}.,#\n0-9 :/-]|network|node|pod|subnets){0,80}") {
        let _ = parse_text(&text);
    }

    /// Bytes of a good file are changed, taken out or doubled.
    #[test]
    fn a_damaged_file_is_an_error_or_a_model(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..8)) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (place, byte, how) in damage {
            // One more, so that there is always a place.
            bytes.push(b'\n');
            let at = place.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                2 => bytes.truncate(at),
                _ => bytes.insert(at, byte),
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.toml");
        std::fs::write(&path, &bytes).unwrap();
        if let Err(error) = load(&path, "a") {
            prop_assert!(error.to_string().contains("cluster.toml"));
        }
    }
}

/// What is described is what is read: the reader lists what it knows where it meets what it does not.
#[test]
fn the_description_has_all_settings() {
    for (heading, _, settings) in table::SECTIONS {
        let section = heading.trim_matches(['[', ']']);
        let mut described: Vec<_> = settings.iter().map(|setting| setting.name).collect();
        let mut read: Vec<String> = Vec::new();
        // A pod's settings depend on its kind.
        for kind in ["tap", "vhost-user", "dpdk"] {
            let kind = if section == "pod" { format!("kind = \"{kind}\"\n") } else { String::new() };
            let error = parse_text(&format!("{heading}\n{kind}colour = 1\n")).unwrap_err();
            let FileError::Wrong { mistakes, .. } = error else { panic!("wrong") };
            let unknown = mistakes.iter().find(|mistake| mistake.setting.ends_with("colour")).unwrap();
            let (_, known) = unknown.remedy.split_once("Known here: ").unwrap();
            read.extend(known.split(", ").map(str::to_owned));
        }
        described.sort_unstable();
        read.sort_unstable();
        read.dedup();
        assert_eq!(read, described, "{heading}");
    }
}

#[test]
fn the_encapsulation_says_the_port_where_none_is_given() {
    let with = |lines: &str| {
        let text = format!(
            "[network]\nipv4 = \"10.244.0.0/16\"\n{lines}\n[[node]]\nname = \"a\"\nsubnets = [\"10.244.1.0/24\"]\npublic_ip = \"192.0.2.1\"\n"
        );
        let model = parse_text(&text).unwrap();
        (model.encapsulation, model.port)
    };
    assert_eq!(with(""), (Encapsulation::Vxlan, 8472));
    assert_eq!(with("encapsulation = \"udp\""), (Encapsulation::Udp, 8285));
    assert_eq!(with("encapsulation = \"udp\"\nport = 9000"), (Encapsulation::Udp, 9000));
    assert_eq!(with("encapsulation = \"ipip\""), (Encapsulation::Ipip, 8472));
}
