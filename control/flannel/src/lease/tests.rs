use super::*;

fn v4(text: &str) -> Option<Ipv4Net> {
    Some(text.parse().unwrap())
}

fn v6(text: &str) -> Option<Ipv6Net> {
    Some(text.parse().unwrap())
}

#[test]
fn keys_are_flannels() {
    let single = Subnets { v4: v4("10.5.34.0/24"), v6: None };
    let dual = Subnets { v4: v4("10.12.13.0/24"), v6: v6("fd00:12:13::/64") };
    for (subnets, key) in [(single, "10.5.34.0-24"), (dual, "10.12.13.0-24&fd00:12:13::-64")] {
        assert_eq!(subnets.key().as_deref(), Some(key));
        assert_eq!(Subnets::from_key(key), Ok(subnets));
    }
    assert_eq!(Subnets { v4: None, v6: v6("fd00::/64") }.key(), None);
}

#[test]
fn keys_that_are_none() {
    let hostile = [
        "",
        "-",
        "&",
        "10.5.34.0",
        "10.5.34.0-",
        "10.5.34.0-33",
        "10.5.34.0-+24",
        "10.5.34.1-24",
        "10.5.34.0/24",
        "fd00::-64",
        "10.5.34.0-24&",
        "10.5.34.0-24&10.6.0.0-24",
        "10.5.34.0-24&fd00::1-64",
        "10.5.34.0-24&fd00::-129",
        "10.5.34.0-24&fd00::-64&fd01::-64",
        "010.5.34.0-24",
        "10.5.34.0-24\n",
        "ü-1",
    ];
    for key in hostile {
        assert!(Subnets::from_key(key).is_err(), "{key:?}");
    }
}

#[test]
fn values_are_flannels() {
    let vtep =
        |mac: &str| VxlanData { vni: Some(Vni::new(1).unwrap()), vtep_mac: mac.parse().unwrap() }.to_json();
    let cases = [
        (
            Attributes {
                public_ip: Some(Ipv4Addr::new(192, 168, 64, 3)),
                backend_type: "vxlan".to_owned(),
                backend_data: Some(vtep("c6:d2:32:6f:8f:44")),
                ..Default::default()
            },
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
        ),
        (
            Attributes {
                public_ip: Some(Ipv4Addr::new(10, 0, 0, 5)),
                public_ipv6: Some("fd00::5".parse().unwrap()),
                backend_type: "vxlan".to_owned(),
                backend_data: Some(vtep("c6:d2:32:6f:8f:44")),
                backend_v6_data: Some(vtep("c6:d2:32:6f:8f:45")),
            },
            r#"{"PublicIP":"10.0.0.5","PublicIPv6":"fd00::5","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}}"#,
        ),
        (
            Attributes {
                public_ip: Some(Ipv4Addr::new(10, 0, 0, 5)),
                backend_type: "host-gw".to_owned(),
                ..Default::default()
            },
            r#"{"PublicIP":"10.0.0.5","PublicIPv6":null,"BackendType":"host-gw"}"#,
        ),
        (
            Attributes { public_ip: Some(Ipv4Addr::new(10, 0, 0, 5)), ..Default::default() },
            r#"{"PublicIP":"10.0.0.5","PublicIPv6":null}"#,
        ),
        (
            Attributes { public_ipv6: Some("fd00::5".parse().unwrap()), ..Default::default() },
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::5"}"#,
        ),
    ];
    for (attributes, text) in cases {
        assert_eq!(attributes.to_json(), text);
        assert_eq!(Attributes::from_json(text).as_ref(), Ok(&attributes));
    }
}

#[test]
fn values_are_read_as_go_reads_them() {
    let text = r#" {"publicip" : "10.0.0.5", "Extra": [1], "BackendType":"vxlan",
        "backenddata": { "VtepMAC": "C6-D2-32-6F-8F-44", "x": "a \" b" } } "#;
    let attributes = Attributes::from_json(text).unwrap();
    assert_eq!(attributes.public_ip, Some(Ipv4Addr::new(10, 0, 0, 5)));
    assert_eq!(attributes.backend_data.as_deref(), Some(r#"{"VtepMAC":"C6-D2-32-6F-8F-44","x":"a \" b"}"#));
    let data = VxlanData::from_json(attributes.backend_data.as_deref().unwrap()).unwrap();
    assert_eq!((data.vni, data.vtep_mac.to_string().as_str()), (None, "c6:d2:32:6f:8f:44"));
}

#[test]
fn hostile_values_say_what_is_wrong() {
    let cases = [
        ("", "no JSON object"),
        ("\0\u{1}", "no JSON object"),
        ("[1]", "no JSON object"),
        (r#"{"PublicIP":"nobody"}"#, "PublicIP is \"nobody\""),
        (r#"{"PublicIP":"::1"}"#, "PublicIP is"),
        (r#"{"PublicIPv6":7}"#, "PublicIPv6 is 7"),
        (r#"{"BackendType":{}}"#, "BackendType is {}"),
    ];
    for (text, wanted) in cases {
        let error = Attributes::from_json(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
    let data = [
        ("null", "VtepMAC is missing"),
        ("{}", "VtepMAC is missing"),
        (r#"{"VtepMAC":"aa:bb"}"#, "no MAC address"),
        (r#"{"VtepMAC":"01:00:5e:00:00:01"}"#, "no single station"),
        (r#"{"VtepMAC":"00:00:00:00:00:00"}"#, "no single station"),
        (r#"{"VtepMAC":5}"#, "VtepMAC is 5"),
        (r#"{"VNI":-1,"VtepMAC":"02:00:00:00:00:01"}"#, "VNI is -1"),
        (r#"{"VNI":16777216,"VtepMAC":"02:00:00:00:00:01"}"#, "not within"),
    ];
    for (text, wanted) in data {
        let error = VxlanData::from_json(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}
