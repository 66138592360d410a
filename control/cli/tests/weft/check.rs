//! `weft check` on whatever machine this is: what it says of it differs, how it says it does not.

use serde_json::Value;

use super::daemon;
use super::daemon::weft;

fn line<'a>(report: &'a Value, check: &str) -> &'a Value {
    let lines = report["checks"].as_array().expect("a list");
    lines.iter().find(|line| line["check"] == check).unwrap_or_else(|| panic!("no {check}: {report}"))
}

#[test]
fn every_line_that_is_not_ok_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let places = ["--bin-dir", &path("bin"), "--conf-dir", &path("conf")];
    let socket = path("weftd.sock");
    let ran = weft(&[&["check", "-o", "json", "--socket", &socket][..], &places].concat());
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let lines = report["checks"].as_array().unwrap();
    for line in lines {
        assert_eq!(line["verdict"] == "ok", line["remedy"].is_null(), "{line}");
    }
    let count = |verdict: &str| lines.iter().filter(|line| line["verdict"] == verdict).count() as u64;
    let told = [&report["problems"], &report["warnings"]].map(Value::as_u64);
    assert_eq!(told, [Some(count("problem")), Some(count("warning"))]);
    assert_eq!(ran.code, i32::from(count("problem") > 0));
    assert_eq!(ran.err, "", "all has been said");
    assert_eq!(line(&report, "weftd")["found"], "it does not run");
    // These folders are not there.
    assert_eq!(line(&report, "cni list")["remedy"], "weft cni install");
    for check in ["cores", "memory", "kernel", "uplink", "port", "forwarding", "br_netfilter", "programs"] {
        line(&report, check);
    }
}

#[test]
fn settings_and_a_daemon_that_are_not_well_are_problems() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("weftd.toml").display().to_string();
    std::fs::write(&config, "[dataplane]\nworkers = 0\n").unwrap();
    let daemon = daemon();
    let ran = daemon.weft(&["check", "-o", "json", "--config", &config]);
    assert_eq!(ran.code, 1);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let settings = line(&report, "settings");
    assert!(settings["found"].as_str().unwrap().contains("0 is not within 1 to 64"), "{settings}");
    let weftd = line(&report, "weftd");
    assert_eq!(weftd["verdict"], "problem");
    assert!(weftd["found"].as_str().unwrap().contains("no such namespace"), "{weftd}");
    let ran = daemon.weft(&["check", "--config", &config]);
    assert!(ran.out.contains("-> weft status says more") && !ran.out.contains('\x1b'), "{}", ran.out);
}
