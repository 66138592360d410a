//! The state directory: the state's file and the lock.

use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use weft_node::{Device, Error, Lock, State, StoredAttachment, StoredPod};

fn state() -> State {
    let fields = json!({ "netns": "/run/netns/blue", "ifname": "eth0" });
    State {
        vtep_mac: Some("02:00:00:00:00:01".to_owned()),
        vtep_macs: [("storage".to_owned(), "02:00:00:00:00:02".to_owned())].into(),
        pods: vec![StoredPod {
            name: "default/web".to_owned(),
            attachment: StoredAttachment {
                kind: "tap".to_owned(),
                fields: fields.as_object().expect("an object").clone(),
            },
            addresses: vec!["10.244.1.7".to_owned()],
            mac: "02:00:00:00:00:07".to_owned(),
            more: json!({ "labels": { "app": "web" } }).as_object().expect("an object").clone(),
        }],
        devices: vec![
            Device { netns: None, name: "weft0".to_owned() },
            Device { netns: Some("/run/netns/blue".into()), name: "eth0".to_owned() },
        ],
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("it is listed");
    let name = |e: std::io::Result<std::fs::DirEntry>| {
        e.expect("an entry").file_name().to_str().expect("text").to_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn a_state_comes_back_as_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().join("lib/weft");
    assert_eq!(State::load(&dir).expect("a missing file is fine"), (State::default(), None));
    state().save(&dir).expect("it is written");
    assert_eq!(State::load(&dir).expect("it is read"), (state(), None));

    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("state.json")), 0o600);
    assert_eq!(names(&dir), ["state.json"]);
}

/// What a crash in the middle of a write leaves must neither be read nor be in the way.
#[test]
fn a_half_written_new_state_is_not_the_state() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    state().save(dir).expect("it is written");
    std::fs::write(dir.join("state.json.new"), b"{ \"version\": 1, \"pods\": [").expect("it is written");
    assert_eq!(State::load(dir).expect("it is read"), (state(), None));
    // A reader that had the old file open keeps it whole.
    let old = std::fs::File::open(dir.join("state.json")).expect("it opens");
    State::default().save(dir).expect("it is written");
    let old: serde_json::Value = serde_json::from_reader(old).expect("the old file is whole");
    assert_eq!(old["vtep_mac"], "02:00:00:00:00:01");
    assert_eq!(State::load(dir).expect("it is read"), (State::default(), None));
    assert_eq!(names(dir), ["state.json"]);
}

/// As the first release wrote it, which knew of one network only.
#[test]
fn an_older_state_is_understood() {
    let directory = tempfile::tempdir().expect("a directory");
    let text =
        r#"{ "version": 1, "vtep_mac": "02:00:00:00:00:01", "pods": [], "devices": [{ "name": "weft0" }] }"#;
    std::fs::write(directory.path().join("state.json"), text).expect("it is written");
    let (state, warning) = State::load(directory.path()).expect("it is read");
    assert_eq!(
        (state.vtep_mac.as_deref(), state.devices.len(), warning),
        (Some("02:00:00:00:00:01"), 1, None)
    );
    assert!(state.vtep_macs.is_empty());
}

#[test]
fn a_damaged_state_is_kept_aside() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    let damaged: [&[u8]; 4] =
        [b"", b"{ \"version\": 1, ", b"{ \"pods\": [] }", b"{ \"version\": 1, \"pods\": 7 }"];
    for (number, bytes) in damaged.into_iter().enumerate() {
        std::fs::write(dir.join("state.json"), bytes).expect("it is written");
        let (state, warning) = State::load(dir).expect("it is no error");
        assert_eq!(state, State::default());
        let aside = dir.join(format!("state.json.corrupt-{}", number + 1));
        let warning = warning.expect("it is told");
        assert!(warning.contains(aside.to_str().expect("text")), "{warning}");
        assert_eq!(std::fs::read(&aside).expect("it is kept"), bytes);
        assert!(!dir.join("state.json").exists());
    }
}

#[test]
fn a_newer_state_is_refused_and_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.json");
    std::fs::write(&path, br#"{ "version": 2, "pods": {} }"#).expect("it is written");
    let error = State::load(directory.path()).expect_err("it is newer");
    assert!(matches!(error, Error::StateVersion { found: 2, .. }), "{error}");
    assert!(path.exists());
}

#[test]
fn a_second_weftd_is_told_of_the_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().join("weft");
    let lock = Lock::take(&dir).expect("it is free");
    let error = Lock::take(&dir).expect_err("it is taken").to_string();
    let expected =
        format!("weftd (pid {}) already runs with state directory {}", std::process::id(), dir.display());
    assert!(error.starts_with(&expected), "{error}");
    drop(lock);
    Lock::take(&dir).expect("it is free again");
}
