//! `weft-cni`, driven as container runtimes do, by environment and standard input, with the reference plugins beside it.
//!
//! Needs Debian's `containernetworking-plugins` and `iptables`, which portmap calls.

mod away;
mod chain;
mod crowd;
mod flannel;
mod gc;
mod hostile;
mod ipam;
mod sockets;
mod verbs;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::lab::{Lab, Namespace};

/// Where Debian has the reference plugins.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";

/// The plugin: of another package, so cargo is asked for it.
pub(crate) fn plugin() -> &'static Path {
    static PLUGIN: OnceLock<PathBuf> = OnceLock::new();
    PLUGIN.get_or_init(|| {
        let weftd = Path::new(env!("CARGO_BIN_EXE_weftd"));
        let profile = weftd.parent().expect("a folder");
        let target = profile.parent().expect("the target folder");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--package", "weft-cni", "--target-dir"]).arg(target);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo is there");
        assert!(built.success(), "weft-cni can't be built");
        weftd.with_file_name("weft-cni")
    })
}

/// What a call gave.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) success: bool,
    /// Null where nothing was printed.
    pub(crate) out: Value,
}

impl Answer {
    fn of(child: Child) -> Self {
        let output = child.wait_with_output().expect("its end");
        let text = String::from_utf8(output.stdout).expect("JSON is text");
        let out = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        if !said.is_empty() {
            println!("{said}");
        }
        Self { success: output.status.success(), out }
    }

    /// The result of a success.
    pub(crate) fn result(self) -> Value {
        assert!(self.success, "{}", self.out);
        self.out
    }

    /// The error's code; the message has these words.
    pub(crate) fn fails_with(&self, code: u64, words: &str) {
        assert!(!self.success, "it has success: {}", self.out);
        let text = format!("{} {}", self.out["msg"], self.out["details"]);
        assert!(self.out["code"] == code && text.contains(words), "not {code}, {words:?}: {}", self.out);
        println!("{}", self.out);
    }
}

/// One container of a runtime.
#[derive(Clone, Copy)]
pub(crate) struct Container<'a> {
    pub(crate) id: &'a str,
    pub(crate) netns: &'a Namespace,
}

/// A runtime on the lab's node.
pub(crate) struct Runtime<'a> {
    pub(crate) lab: &'a Lab,
    /// `CNI_PATH`.
    pub(crate) path: String,
}

impl<'a> Runtime<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Self {
        let own = plugin().parent().expect("a folder").display();
        Self { lab, path: format!("{own}:{PLUGINS}") }
    }

    /// The node's subnet, as flannel writes it.
    pub(crate) fn write_subnet_env(&self) {
        let text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_IPV6_NETWORK=fd00:10:244::/48\n\
                    FLANNEL_IPV6_SUBNET=fd00:10:244::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        std::fs::write(self.lab.path("subnet.env"), text).expect("it can be written");
    }

    /// A configuration with addresses by host-local from the node's subnet.
    pub(crate) fn conf(&self, version: &str) -> Value {
        json!({
            "cniVersion": version, "name": "cbr0", "type": "weft-cni",
            "weftdSocket": self.lab.socket(), "stateDir": self.lab.state_dir(),
            "socketDir": self.lab.path("pods"), "subnetFile": self.lab.path("subnet.env"),
            "dataDir": self.lab.path("flannel"),
            "ipam": { "type": "host-local", "dataDir": self.lab.path("ipam") },
        })
    }

    /// A call that has begun, with these variables of the environment and nothing else.
    pub(crate) fn begin(&self, program: &Path, variables: &[(&str, &str)], text: &[u8]) -> Child {
        let mut command = self.lab.node.command(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("iproute2 is installed");
        // One that does not want to hear all of it has closed its end.
        let _ = child.stdin.take().expect("a pipe").write_all(text);
        child
    }

    /// A call of weft-cni with any environment and any text.
    pub(crate) fn raw(&self, variables: &[(&str, &str)], text: &[u8]) -> Answer {
        Answer::of(self.begin(plugin(), variables, text))
    }

    /// A call about a container, by the plugin that the configuration names.
    pub(crate) fn start(&self, command: &str, conf: &Value, container: Container<'_>, args: &str) -> Child {
        let netns = container.netns.path();
        let netns = match netns.exists() {
            true => netns.to_str().expect("text"),
            false => "",
        };
        let kind = conf["type"].as_str().expect("a type");
        let mut folders = self.path.split(':').map(|folder| Path::new(folder).join(kind));
        let program = folders.find(|program| program.exists()).unwrap_or_else(|| plugin().to_owned());
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container.id),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", args),
            ("CNI_PATH", &self.path),
        ];
        self.begin(&program, &variables, conf.to_string().as_bytes())
    }

    pub(crate) fn call(&self, command: &str, conf: &Value, container: Container<'_>) -> Answer {
        Answer::of(self.start(command, conf, container, ""))
    }

    pub(crate) fn add(&self, conf: &Value, container: Container<'_>) -> Value {
        self.call("ADD", conf, container).result()
    }

    pub(crate) fn del(&self, conf: &Value, container: Container<'_>) {
        assert_eq!(self.call("DEL", conf, container).result(), Value::Null);
    }

    /// A call about no container.
    pub(crate) fn whole(&self, command: &str, conf: &Value) -> Answer {
        self.raw(&[("CNI_COMMAND", command), ("CNI_PATH", &self.path)], conf.to_string().as_bytes())
    }

    /// The addresses that host-local has given away.
    pub(crate) fn reserved(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.lab.path("ipam/cbr0")) else { return Vec::new() };
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
        let mut names: Vec<_> = names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect();
        names.sort();
        names
    }

    /// Nothing of any container is left: no pod in weftd, no address, no interface in these namespaces.
    pub(crate) fn assert_clean(&self, namespaces: &[&Namespace]) {
        assert_eq!(self.lab.pods().pods, Vec::new());
        assert_eq!(self.reserved(), Vec::<String>::new());
        for namespace in namespaces {
            assert_eq!(namespace.interfaces(), Vec::<String>::new(), "{}", namespace.name());
        }
        assert_eq!(self.lab.status().problems, Vec::<String>::new());
    }
}
