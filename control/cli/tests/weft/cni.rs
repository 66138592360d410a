//! `weft cni install` and `uninstall`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::{Ran, weft};

struct Node {
    folder: TempDir,
}

/// A version of weft's plugin, which says of itself that it is.
fn program(version: &str) -> String {
    format!("weft-cni {version}: the CNI plugin of weft; speaks CNI")
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("weftd.toml"), "").unwrap();
        let node = Self { folder };
        node.write("plugin", &program("new"));
        node
    }

    fn at(&self, path: &str) -> String {
        self.folder.path().join(path).to_str().unwrap().to_owned()
    }

    fn run(&self, words: &[&str]) -> Ran {
        let mut all = vec!["cni".to_owned()];
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all.extend(["--bin-dir".to_owned(), self.at("bin"), "--conf-dir".to_owned(), self.at("conf")]);
        if words[0] == "install" {
            all.extend([
                "--plugin".to_owned(),
                self.at("plugin"),
                "--config".to_owned(),
                self.at("weftd.toml"),
            ]);
        }
        weft(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn ok(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn list(&self) -> Value {
        serde_json::from_str(&self.read("conf/10-weft.conflist")).unwrap()
    }
}

#[test]
fn the_plugin_and_its_list_come_and_go() {
    let node = Node::new();
    let said = node.ok(&["install"]);
    assert!(said.contains("bin/weft-cni") && said.contains("conf/10-weft.conflist"), "{said}");
    assert!(said.contains("has no portmap"), "{said}");
    assert_eq!(node.read("bin/weft-cni"), program("new"));
    let mode = fs::metadata(node.at("bin/weft-cni")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    let weft = json!({"type": "weft-cni", "capabilities": {"bandwidth": true, "ips": true, "mac": true}});
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    assert_eq!(node.list(), json!({"cniVersion": "1.0.0", "name": "cbr0", "plugins": [weft, portmap]}));

    // Again, otherwise, with a weftd that is elsewhere.
    node.write("weftd.toml", "[control]\nsocket = \"/srv/weftd.sock\"\n[state]\ndir = \"/srv/weft\"\n");
    node.ok(&["install", "--no-portmap", "--network", "pods", "--cni-version", "1.1.0"]);
    let list = node.list();
    assert_eq!((&list["cniVersion"], &list["name"]), (&json!("1.1.0"), &json!("pods")));
    assert_eq!(list["plugins"].as_array().unwrap().len(), 1);
    let plugin = &list["plugins"][0];
    assert_eq!(
        (&plugin["weftdSocket"], &plugin["stateDir"]),
        (&json!("/srv/weftd.sock"), &json!("/srv/weft"))
    );
    assert_eq!(node.files("bin"), ["weft-cni"]);

    node.ok(&["uninstall"]);
    assert!(node.files("bin").is_empty() && node.files("conf").is_empty());
    assert_eq!(node.ok(&["uninstall"]), "nothing was installed\n");
}

#[test]
fn flannels_place_is_taken_and_given_back() {
    let node = Node::new();
    node.write("bin/flannel", "flannel's");
    node.write("conf/10-flannel.conflist", r#"{"plugins":[{"type":"flannel"},{"type":"bandwidth"}]}"#);
    for program in [program("new"), program("newer")] {
        node.write("plugin", &program);
        let said = node.ok(&["install", "--flannel"]);
        assert!(said.contains("chains the plugin bandwidth"), "{said}");
        assert_eq!((node.read("bin/flannel"), node.read("bin/weft-cni")), (program.clone(), program));
        assert_eq!(node.read("bin/flannel.before-weft"), "flannel's");
    }
    assert_eq!(node.files("conf"), ["10-flannel.conflist"]);
    node.ok(&["uninstall"]);
    assert_eq!(
        (node.files("bin"), node.read("bin/flannel")),
        (vec!["flannel".to_owned()], "flannel's".to_owned())
    );

    // Where there was none before, none is left.
    fs::remove_file(node.at("bin/flannel")).unwrap();
    for program in [program("new"), program("newer")] {
        node.write("plugin", &program);
        node.ok(&["install", "--flannel"]);
    }
    assert_eq!(node.files("bin"), ["flannel", "weft-cni"]);
    node.ok(&["uninstall"]);
    assert!(node.files("bin").is_empty());
    // A list that comes first is no secret.
    assert!(node.ok(&["install"]).contains("10-flannel.conflist comes before"));
}

#[test]
fn a_flannel_that_was_installed_since_is_not_lost() {
    let node = Node::new();
    node.write("bin/flannel", "flannel's");
    node.ok(&["install", "--flannel"]);
    // Its init container has run again.
    node.write("bin/flannel", "flannel's newer");
    node.ok(&["uninstall"]);
    assert_eq!(
        (node.files("bin"), node.read("bin/flannel")),
        (vec!["flannel".to_owned()], "flannel's newer".to_owned())
    );

    // The same, and weft's place taken again, by another version of weft in between.
    node.ok(&["install", "--flannel"]);
    node.write("bin/flannel", "flannel's newest");
    node.write("plugin", &program("newer"));
    node.ok(&["install", "--flannel"]);
    node.write("plugin", &program("newest"));
    node.ok(&["install"]);
    node.ok(&["install", "--flannel"]);
    assert_eq!(node.read("bin/flannel.before-weft"), "flannel's newest");
    node.ok(&["uninstall"]);
    assert_eq!(
        (node.files("bin"), node.read("bin/flannel")),
        (vec!["flannel".to_owned()], "flannel's newest".to_owned())
    );
}

#[test]
fn a_list_without_a_version_that_weft_speaks_is_told() {
    let node = Node::new();
    for (version, says) in [("", "says no cniVersion"), (r#""cniVersion":"0.2.0","#, "says cniVersion 0.2.0")]
    {
        node.write("conf/10-flannel.conflist", &format!(r#"{{{version}"plugins":[{{"type":"flannel"}}]}}"#));
        let said = node.ok(&["install", "--flannel"]);
        assert!(said.contains(says) && said.contains("set it to 0.3.1"), "{said}");
    }
    node.write("conf/10-flannel.conflist", r#"{"cniVersion":"0.3.1","plugins":[{"type":"flannel"}]}"#);
    assert!(!node.ok(&["install", "--flannel"]).contains("cniVersion"));
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_written() {
    let node = Node::new();
    for (words, code, says) in [
        (&["install", "--network", "../x"][..], 2, "letters, digits"),
        (&["install", "--cni-version", "2.0.0"], 2, "1.1.0"),
        (&["install", "--flannel", "--no-portmap"], 2, "cannot be used with"),
    ] {
        let ran = node.run(words);
        assert!(ran.code == code && ran.err.contains(says), "{words:?}: {}", ran.err);
    }
    fs::remove_file(node.at("plugin")).unwrap();
    let ran = node.run(&["install"]);
    assert!(ran.code == 1 && ran.err.contains("name it with --plugin"), "{}", ran.err);
    assert!(!Path::new(&node.at("bin")).exists() && !Path::new(&node.at("conf")).exists());
}
