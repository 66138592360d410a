//! IPAM plugins that fail in each way, and a plugin that is killed half-way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Container, Runtime};
use crate::lab::{Lab, Namespace, wait_for};

/// An IPAM plugin that writes down what it was called for, and does this at ADD.
fn invent(runtime: &mut Runtime<'_>, at_add: &str) {
    let folder = runtime.lab.path("invented");
    fs::create_dir_all(&folder).unwrap();
    let calls = runtime.lab.path("calls").display().to_string();
    let text = format!(
        "#!/bin/sh\ncat > /dev/null\necho $CNI_COMMAND >> {calls}\n[ $CNI_COMMAND = ADD ] || exit 0\n{at_add}\n"
    );
    // Written aside: a script that is being written can't be run.
    fs::write(folder.join("new"), text).unwrap();
    fs::set_permissions(folder.join("new"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(folder.join("new"), folder.join("invented")).unwrap();
    let _ = fs::remove_file(runtime.lab.path("calls"));
    runtime.path = format!("{}:{}", folder.display(), super::PLUGINS);
}

fn calls(runtime: &Runtime<'_>) -> String {
    fs::read_to_string(runtime.lab.path("calls")).unwrap_or_default().replace('\n', " ")
}

fn conf(runtime: &Runtime<'_>) -> Value {
    let mut conf = runtime.conf("1.0.0");
    conf["ipam"] = json!({"type": "invented"});
    conf
}

#[test]
fn after_a_failed_add_the_addresses_are_given_back() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    let _weftd = lab.start();
    let mut runtime = Runtime::new(&lab);
    let one = Container { id: "c-1", netns: &web };
    for (at_add, code, says) in [
        (
            r#"echo '{"cniVersion":"1.0.0","code":111,"msg":"none left"}'; exit 1"#,
            111,
            "plugin invented: none left",
        ),
        ("exit 3", 101, "without saying why"),
        ("kill -9 $$", 101, "without saying why"),
        ("echo rubbish", 101, "no JSON"),
        (r#"echo '{"ips":[{"address":"x"}]}'"#, 6, "the IPAM plugin's answer"),
        (r#"echo '{"ips":[]}'"#, 7, "gets no address"),
        (r#"echo '{"ips":[{"address":"10.244.9.9/24"}]}'"#, 7, "outside the subnets"),
        (r#"echo '{"ips":[{"address":"10.244.0.1/24"}]}'"#, 7, "gateway"),
        (
            r#"echo '{"ips":[{"address":"10.244.0.9/24"}],"routes":[{"dst":"10.0.0.0/8","table":7}]}'"#,
            2,
            "table 7",
        ),
    ] {
        invent(&mut runtime, at_add);
        runtime.call("ADD", &conf(&runtime), one).fails_with(code, says);
        assert_eq!(calls(&runtime), "ADD DEL ", "{at_add}");
        runtime.assert_clean(&[&web]);
    }
    invent(
        &mut runtime,
        r#"echo '{"ips":[{"address":"10.244.0.9/24","gateway":"10.244.0.1"}],"dns":{"domain":"x"}}'"#,
    );
    let result = runtime.add(&conf(&runtime), one);
    assert_eq!(result["dns"], json!({"domain": "x"}));
    // What is there is not taken back by a second ADD.
    runtime.call("ADD", &conf(&runtime), one).fails_with(7, "already");
    assert_eq!(calls(&runtime), "ADD ");
    runtime.del(&conf(&runtime), one);
    assert_eq!(calls(&runtime), "ADD DEL ");
    runtime.assert_clean(&[&web]);
}

#[test]
fn what_a_killed_plugin_leaves_is_deleted() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    let _weftd = lab.start();
    let mut runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let one = Container { id: "c-1", netns: &web };
    let real = runtime.path.clone();
    // Killed while the IPAM plugin is at work, with an address given.
    let give = format!("{}/host-local < /dev/null; sleep 60", super::PLUGINS);
    invent(&mut runtime, &give);
    let mut child = runtime.start("ADD", &conf(&runtime), one, "");
    wait_for("the IPAM plugin to be called", || (!calls(&runtime).is_empty()).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    runtime.del(&conf(&runtime), one);
    runtime.assert_clean(&[&web]);

    // Killed at any time: what is there of it goes by one DEL.
    runtime.path = real;
    for millis in [0, 2, 4, 6, 8, 10, 12, 15, 20, 30, 50] {
        let conf = runtime.conf("1.0.0");
        let mut child = runtime.start("ADD", &conf, one, "");
        std::thread::sleep(Duration::from_millis(millis));
        let _ = child.kill();
        // host-local may outlive its caller for a moment: until nobody holds the pipes any more.
        child.wait_with_output().unwrap();
        runtime.del(&conf, one);
        runtime.assert_clean(&[&web]);
    }
}
