//! Environments and texts that are wrong: an error in JSON each time, and nothing made.

use serde_json::{Value, json};

use super::{Answer, Runtime};
use crate::lab::{Lab, Namespace};

#[test]
fn a_wrong_call_is_an_error_with_its_code() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    let netns = web.path();
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    let conf = runtime.conf("1.1.0").to_string();
    let usual: Vec<(&str, &str)> = vec![
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", netns.to_str().unwrap()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", &runtime.path),
    ];
    let with = |key: &str, value: Option<&'static str>| -> Vec<(&str, &str)> {
        let mut variables: Vec<_> = usual.iter().copied().filter(|(there, _)| *there != key).collect();
        if let (Some(value), Some((key, _))) = (value, usual.iter().find(|(there, _)| *there == key)) {
            variables.push((key, value));
        }
        variables
    };
    for (key, value, code, says) in [
        ("CNI_COMMAND", None, 4, "CNI_COMMAND"),
        ("CNI_COMMAND", Some("FETCH"), 4, "unknown CNI_COMMAND: FETCH"),
        ("CNI_CONTAINERID", None, 4, "[CNI_CONTAINERID]"),
        ("CNI_CONTAINERID", Some("../../etc"), 4, "CNI_CONTAINERID"),
        ("CNI_NETNS", None, 4, "[CNI_NETNS]"),
        ("CNI_NETNS", Some("/nowhere"), 4, "/nowhere"),
        ("CNI_NETNS", Some("/etc/hostname"), 4, "/etc/hostname"),
        ("CNI_NETNS", Some("/proc/self/ns/net"), 8, "should not be the same"),
        ("CNI_IFNAME", Some("eth0/../x"), 4, "CNI_IFNAME"),
        ("CNI_PATH", Some("/nowhere"), 11, "subnet.env"),
    ] {
        runtime.raw(&with(key, value), conf.as_bytes()).fails_with(code, says);
    }
    runtime.write_subnet_env();
    runtime.raw(&with("CNI_PATH", Some("/nowhere")), conf.as_bytes()).fails_with(101, "host-local");

    let huge = format!("{{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"x\":\"{}\"}}", "x".repeat(16 << 20));
    let deep = format!("{{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"x\":{}}}", "[".repeat(1 << 20));
    let noise: Vec<u8> = (0u32..100_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let with_conf = |key: &str, value: Value| {
        let mut conf = runtime.conf("1.1.0");
        conf[key] = value;
        conf.to_string()
    };
    let texts: Vec<(Vec<u8>, u64)> = vec![
        (Vec::new(), 6),
        (noise, 6),
        (huge.into_bytes(), 6),
        (deep.into_bytes(), 6),
        (b"{\"name\":\"n\"".to_vec(), 6),
        (b"[1,2]".to_vec(), 6),
        (with_conf("name", json!(5)).into_bytes(), 6),
        (with_conf("ipam", json!("host-local")).into_bytes(), 6),
        (with_conf("mtu", json!(-1)).into_bytes(), 6),
        (with_conf("runtimeConfig", json!({"ips": "10.244.0.5"})).into_bytes(), 6),
        (with_conf("prevResult", json!([])).into_bytes(), 6),
        (with_conf("name", json!("a/b")).into_bytes(), 7),
        (with_conf("name", Value::Null).into_bytes(), 7),
        (with_conf("ipam", json!({"type": "../host-local"})).into_bytes(), 7),
        (with_conf("ipam", json!({"type": 5})).into_bytes(), 7),
        (with_conf("mtu", json!(20)).into_bytes(), 7),
        (with_conf("cniVersion", json!("2.0.0")).into_bytes(), 1),
        (with_conf("cniVersion", json!("0.2.0")).into_bytes(), 1),
    ];
    for (text, code) in texts {
        let shown = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
        let answer = runtime.raw(&usual, &text);
        assert!(!answer.success && answer.out["code"] == code, "{shown}: {answer:?}");
        assert!(answer.out["msg"].is_string() && answer.out["cniVersion"] == "1.1.0", "{answer:?}");
    }
    runtime.assert_clean(&[&web]);

    let Answer { success, out } = runtime.raw(&[("CNI_COMMAND", "VERSION")], b"");
    assert!(success);
    assert_eq!(
        out,
        json!({"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
    );
    for command in ["STATUS", "GC"] {
        runtime.whole(command, &runtime.conf("1.0.0")).fails_with(1, command);
    }
}
