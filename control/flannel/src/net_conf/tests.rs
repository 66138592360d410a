use super::*;
use weft_types::Vni;

fn vxlan(conf: &NetConf) -> Vxlan {
    match conf.backend {
        Backend::Vxlan(vxlan) => vxlan,
        ref other => panic!("{other:?}"),
    }
}

fn v4_range(conf: &str) -> Result<(String, String, u8), NetConfError> {
    let text = |number: u128| Ipv4Addr::from_bits(number as u32).to_string();
    NetConf::parse(conf)?.ranges().map(|ranges| {
        let range = ranges.v4.unwrap();
        (text(range.min), text(range.max), range.length)
    })
}

#[test]
fn the_usual_configuration() {
    let text = r#"{ "Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": { "Type": "vxlan" } }"#;
    let conf = NetConf::parse(text).unwrap();
    assert_eq!(
        (conf.network, conf.ipv6_network, conf.nftables),
        (Some("10.244.0.0/16".parse().unwrap()), None, false)
    );
    let wanted = Vxlan { vni: Vni::new(1).unwrap(), port: 8472, mtu: None, direct_routing: false };
    assert_eq!(vxlan(&conf), wanted);
    assert_eq!(v4_range(text), Ok(("10.244.1.0".to_owned(), "10.244.255.0".to_owned(), 24)));
}

#[test]
fn keys_of_any_case_and_unknown_ones() {
    let text = r#"{"network":"10.1.2.3/8","ENABLEIPV6":true,"iPv6Network":"fd00::1/48","nothing":[],
        "backend":{"type":"VXLAN","vni":9,"port":4789,"mtu":9000,"directrouting":true,"Learning":true,"MacPrefix":"0E-2A"}}"#;
    let conf = NetConf::parse(text).unwrap();
    assert_eq!(conf.network, Some("10.0.0.0/8".parse().unwrap()), "host bits are dropped");
    assert_eq!(conf.ipv6_network, Some("fd00::/48".parse().unwrap()));
    let wanted = Vxlan { vni: Vni::new(9).unwrap(), port: 4789, mtu: Some(9000), direct_routing: true };
    assert_eq!(vxlan(&conf), wanted);
}

#[test]
fn backends_and_what_they_publish() {
    let parse =
        |backend: &str| NetConf::parse(&format!(r#"{{"Network":"10.0.0.0/8"{backend}}}"#)).unwrap().backend;
    let cases = [
        ("", Backend::Udp { port: 8285 }, "", 28),
        (r#","Backend":null"#, Backend::Udp { port: 8285 }, "", 28),
        (r#","Backend":{"Type":"udp","Port":1}"#, Backend::Udp { port: 1 }, "", 28),
        (r#","Backend":{"Type":"host-gw"}"#, Backend::HostGw, "host-gw", 0),
        (
            r#","Backend":{"Type":"ipip","DirectRouting":true}"#,
            Backend::Ipip { direct_routing: true },
            "ipip",
            20,
        ),
        (r#","Backend":{"Type":"alloc"}"#, Backend::Alloc, "", 0),
    ];
    for (text, backend, published, overhead) in cases {
        let parsed = parse(text);
        assert_eq!((parsed.published_type(), parsed.overhead()), (published, overhead));
        assert_eq!(parsed, backend);
    }
    assert_eq!(parse(r#","Backend":{"Type":"vxlan"}"#).overhead(), 50);
}

#[test]
fn mistakes_name_the_key() {
    let cases = [
        ("", "no JSON object"),
        ("{", "no JSON object"),
        ("{}", "Network is missing"),
        (r#"{"EnableIPv4":false}"#, "both false"),
        (r#"{"EnableIPv4":false,"EnableIPv6":true}"#, "IPv6Network is missing"),
        (r#"{"Network":"10.0.0.0"}"#, "Network is \"10.0.0.0\""),
        (r#"{"Network":"fd00::/64"}"#, "Network is"),
        (r#"{"Network":5}"#, "Network is 5"),
        (r#"{"EnableIPv4":"yes","Network":"10.0.0.0/8"}"#, "EnableIPv4 is \"yes\""),
        (r#"{"Network":"10.0.0.0/8","SubnetLen":-1}"#, "SubnetLen is -1"),
        (r#"{"Network":"10.0.0.0/8","SubnetLen":24.5}"#, "SubnetLen is 24.5"),
        (r#"{"Network":"10.0.0.0/8","Backend":[]}"#, "Backend"),
        (r#"{"Network":"10.0.0.0/8","Backend":{}}"#, "missing"),
        (r#"{"Network":"10.0.0.0/8","Backend":{"Type":"wireguard"}}"#, "does not encrypt"),
        (r#"{"Network":"10.0.0.0/8","Backend":{"Type":"ipsec"}}"#, "does not encrypt"),
        (r#"{"Network":"10.0.0.0/8","Backend":{"Type":"extension"}}"#, "no commands"),
        (r#"{"Network":"10.0.0.0/8","Backend":{"Type":"tencent-vpc"}}"#, "clouds"),
        (r#"{"Network":"10.0.0.0/8","Backend":{"Type":"gre"}}"#, "knows no such backend"),
        (r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan","GBP":true}}"#, "Backend.GBP"),
        (r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan","VNI":16777216}}"#, "VNI is 16777216"),
        (r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan","Port":65536}}"#, "Port is 65536"),
    ];
    for (text, wanted) in cases {
        let error = NetConf::parse(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn subnets_are_by_flannels_rules() {
    let conf = |network: &str, more: &str| format!(r#"{{"Network":"{network}"{more}}}"#);
    let range = |network: &str, more: &str| v4_range(&conf(network, more));
    let good = |min: &str, max: &str, length| Ok((min.to_owned(), max.to_owned(), length));
    assert_eq!(range("10.0.0.0/22", ""), good("10.0.1.0", "10.0.3.0", 24));
    assert_eq!(range("10.0.0.0/23", ""), good("10.0.0.128", "10.0.1.128", 25));
    assert_eq!(range("10.0.0.0/28", ""), good("10.0.0.4", "10.0.0.12", 30));
    assert_eq!(range("0.0.0.0/0", ""), good("0.0.1.0", "255.255.255.0", 24));
    assert_eq!(
        range("10.0.0.0/8", r#","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0""#),
        good("10.10.0.0", "10.99.0.0", 20)
    );
    let wrong = [
        ("10.0.0.0/29", "", "SubnetLen is not set"),
        ("10.0.0.0/8", r#","SubnetLen":31"#, "at most 30"),
        ("10.0.0.0/16", r#","SubnetLen":17"#, "at least 18"),
        ("10.0.0.0/16", r#","SubnetMin":"10.1.0.0""#, "an address of the network"),
        ("10.0.0.0/16", r#","SubnetMax":"10.0.9.1""#, "first address of a /24"),
        ("10.0.0.0/16", r#","SubnetMin":"10.0.9.0","SubnetMax":"10.0.8.0""#, "must not be after"),
    ];
    for (network, more, wanted) in wrong {
        let text = conf(network, more);
        assert!(NetConf::parse(&text).is_ok(), "Kubernetes does not ask for it: {text}");
        let error = v4_range(&text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn subnets_of_ipv6() {
    let range = |network: &str| {
        let text = format!(r#"{{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{network}"}}"#);
        NetConf::parse(&text).unwrap().ranges().map(|ranges| {
            let range = ranges.v6.unwrap();
            (
                Ipv6Addr::from_bits(range.min).to_string(),
                Ipv6Addr::from_bits(range.max).to_string(),
                range.length,
            )
        })
    };
    assert_eq!(range("fd00::/56"), Ok(("fd00:0:0:1::".to_owned(), "fd00:0:0:ff::".to_owned(), 64)));
    assert_eq!(range("fd00::/64"), Ok(("fd00::4000:0:0:0".to_owned(), "fd00::c000:0:0:0".to_owned(), 66)));
    assert_eq!(range("::/0").map(|range| range.2), Ok(64));
    assert!(range("fd00::/125").is_err());
}
