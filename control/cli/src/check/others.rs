//! What other networks of containers have left, and what is needed beside weft.

use std::path::Path;
use std::process::Command;

use weft_config::config::{Config, SourceKind};

use super::{FLANNELS, Line, Machine};
use crate::cni::{self, Places};

/// Interfaces by the beginnings of their names, whose they are, and what to do.
const INTERFACES: [(&str, &str, &str); 11] = [
    ("cni0", "the bridge of flannel's pods", FLANNELS),
    ("flannel", "flanneld's", FLANNELS),
    ("cali", "Calico's", REMOVE),
    ("vxlan.calico", "Calico's", REMOVE),
    ("cilium_", "Cilium's", REMOVE),
    ("lxc_health", "Cilium's", REMOVE),
    ("weave", "Weave's", REMOVE),
    ("kube-bridge", "kube-router's", REMOVE),
    ("antrea-", "Antrea's", REMOVE),
    ("ovn-k8s", "OVN-Kubernetes'", REMOVE),
    ("kube-ovn", "Kube-OVN's", REMOVE),
];

const REMOVE: &str = "remove it from the cluster, and have its pods made anew; then: ip link delete NAME";

/// Before that, no pod would start.
const TAKE_PLACE: &str = "once weftd runs in flanneld's place: weft cni install --flannel";

/// Daemons that would be at the same pods.
const DAEMONS: [&str; 6] =
    ["calico-node", "cilium-agent", "kube-router", "weaver", "antrea-agent", "ovnkube"];

/// The daemon whose place weftd takes.
const FLANNELD: &str = "flanneld";

/// Chains of iptables by the beginnings of their names, and whose they are.
const CHAINS: [(&str, &str); 6] = [
    ("cali-", "Calico's"),
    ("CILIUM_", "Cilium's"),
    ("OLD_CILIUM_", "Cilium's"),
    ("WEAVE", "Weave's"),
    ("KUBE-ROUTER", "kube-router's"),
    ("ANTREA-", "Antrea's"),
];

pub(super) fn lines(machine: &Machine, config: &Config, places: &Places) -> Vec<Line> {
    let mut lines = vec![daemons(machine)];
    lines.extend(interfaces(machine));
    lines.push(list(&places.conf_dir, &places.bin_dir));
    lines.push(plugins(&places.bin_dir));
    lines.push(programs(config, in_path));
    lines.extend(saved().map(|text| rules(&text, config)));
    lines
}

fn daemons(machine: &Machine) -> Line {
    const CHECK: &str = "daemons";
    let processes = machine.processes();
    let running = |is: &dyn Fn(&str) -> bool| {
        let running = processes.iter().filter(|(_, name)| is(name));
        running.map(|(pid, name)| format!("{name} (pid {pid})")).collect::<Vec<_>>()
    };
    let others = running(&|name| DAEMONS.contains(&name));
    let flannels = running(&|name| name == FLANNELD);
    // With both, whichever comes next is wrong.
    let weftd = processes.iter().any(|(_, name)| name == "weftd");
    if !others.is_empty() || weftd && !flannels.is_empty() {
        let all = [others, flannels].concat();
        Line::problem(
            CHECK,
            format!("{} runs", all.join(", ")),
            "stop it before weftd starts, and have nobody start it again: two would have this node's pods",
        )
    } else if !flannels.is_empty() {
        Line::warning(CHECK, format!("{} runs", flannels.join(", ")), FLANNELS)
    } else {
        Line::ok(CHECK, "no other network's daemon runs")
    }
}

fn interfaces(machine: &Machine) -> Vec<Line> {
    const CHECK: &str = "interfaces";
    let left = machine.names("sys/class/net").into_iter().filter_map(|name| {
        let (_, whose, remedy) = INTERFACES.iter().find(|(prefix, ..)| name.starts_with(prefix))?;
        let ports = machine.names(&format!("sys/class/net/{name}/brif")).len();
        let pods = if ports > 0 { format!(", with {ports} pods") } else { String::new() };
        Some(Line::warning(CHECK, format!("{name} is {whose}{pods}"), remedy.replace("NAME", &name)))
    });
    let left: Vec<Line> = left.collect();
    match left.is_empty() {
        true => vec![Line::ok(CHECK, "none of another network's")],
        false => left,
    }
}

/// The list by which runtimes attach pods: the first by its name.
fn list(conf_dir: &Path, bin_dir: &Path) -> Line {
    const CHECK: &str = "cni list";
    let lists = cni::lists(conf_dir);
    let Some(first) = lists.first() else {
        return Line::warning(
            CHECK,
            format!("{} has none, so no pod starts", conf_dir.display()),
            "weft cni install",
        );
    };
    let types = cni::types(first);
    let shown = first.display();
    let has = |kind: &str| types.iter().any(|found| found == kind);
    if has(cni::PLUGIN) || has(cni::FLANNEL) && cni::is_ours(&bin_dir.join(cni::FLANNEL)) {
        if cni::chains_bandwidth(&types) {
            let (what, remedy) = cni::BANDWIDTH;
            return Line::problem(CHECK, format!("{shown} {what}: those with limits do not start"), remedy);
        }
        Line::ok(CHECK, format!("{shown}: pods are weft's"))
    } else if has(cni::FLANNEL) {
        Line::warning(CHECK, format!("{shown}: pods are flannel's"), TAKE_PLACE)
    } else {
        Line::warning(
            CHECK,
            format!("{shown}: pods are of {}", types.first().map_or("nobody", String::as_str)),
            "move it aside, and: weft cni install",
        )
    }
}

/// What weft's plugin calls, or is called beside.
fn plugins(bin_dir: &Path) -> Line {
    const CHECK: &str = "cni plugins";
    let missing: Vec<_> =
        ["host-local", "portmap"].into_iter().filter(|name| !bin_dir.join(name).exists()).collect();
    match missing[..] {
        [] => Line::ok(CHECK, format!("{} has host-local and portmap", bin_dir.display())),
        _ => Line::warning(
            CHECK,
            format!("{} lacks {}", bin_dir.display(), missing.join(" and ")),
            "install the reference plugins there (Debian: containernetworking-plugins has them in /usr/lib/cni)",
        ),
    }
}

/// Whether the shell would find a program.
fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

fn programs(config: &Config, has: impl Fn(&str) -> bool) -> Line {
    const CHECK: &str = "programs";
    let needed =
        config.source.kind != SourceKind::File && (config.flannel.ip_masq || config.flannel.forward_rules);
    let (iptables, nft) = (has("iptables-restore"), has("nft"));
    match (needed, iptables, nft) {
        (false, ..) => Line::ok(CHECK, "weftd needs none here"),
        (true, true, _) => Line::ok(CHECK, "iptables is there"),
        (true, false, true) => Line::warning(
            CHECK,
            "only nft is there, and not iptables",
            "set EnableNFTables to true where the network is configured, or install iptables",
        ),
        (true, false, false) => Line::problem(
            CHECK,
            "neither iptables nor nft is there, so nothing is masqueraded",
            "install iptables, or nftables and set EnableNFTables to true where the network is configured",
        ),
    }
}

/// The rules of the tables that pods' packets pass; none where they can't be had.
fn saved() -> Option<String> {
    let output = Command::new("iptables-save").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn rules(saved: &str, config: &Config) -> Line {
    const CHECK: &str = "rules";
    let chains = || saved.lines().filter_map(|line| line.strip_prefix(':'));
    let mut whose: Vec<_> = chains()
        .filter_map(|chain| CHAINS.iter().find(|(prefix, _)| chain.starts_with(prefix)))
        .map(|(_, whose)| *whose)
        .collect();
    whose.sort_unstable();
    whose.dedup();
    let flannels = chains().any(|chain| chain.starts_with("FLANNEL-"));
    let lets_through = config.source.kind != SourceKind::File && config.flannel.forward_rules;
    if !whose.is_empty() {
        Line::warning(
            CHECK,
            format!("there are rules of {}", whose.join(", ")),
            "remove that network as it says; or start the node anew once it is gone",
        )
    } else if chains().any(|chain| chain.starts_with("FORWARD DROP")) && !lets_through {
        Line::warning(
            CHECK,
            "the node's filter lets nothing be forwarded, pods' packets neither",
            "let them through: iptables -A FORWARD -i weft0 -j ACCEPT; iptables -A FORWARD -o weft0 -j ACCEPT",
        )
    } else if flannels {
        Line::ok(CHECK, "there are flannel's, which weftd goes on with in flannel's place")
    } else {
        Line::ok(CHECK, "none of another network's")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, machine_with};
    use super::*;
    use std::fs;

    #[test]
    fn leftovers_are_named_with_whose_they_are() {
        let (_folder, machine) = machine_with(&[
            ("sys/class/net/cni0/brif/veth1/x", ""),
            ("sys/class/net/flannel.1/uevent", ""),
            ("sys/class/net/eth0/uevent", ""),
            ("proc/9/comm", "flanneld\n"),
        ]);
        let found: Vec<_> =
            interfaces(&machine).into_iter().map(|line| (line.found, line.remedy.unwrap())).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].0, "cni0 is the bridge of flannel's pods, with 1 pods");
        assert!(found.iter().all(|(_, remedy)| remedy == FLANNELS), "{found:?}");
        assert_eq!(daemons(&machine).verdict, Verdict::Warning);
        fs::create_dir_all(machine.at("proc/10")).unwrap();
        for other in ["weftd\n", "calico-node\n"] {
            fs::write(machine.at("proc/10/comm"), other).unwrap();
            assert_eq!(daemons(&machine).verdict, Verdict::Problem, "{other}");
        }
        let (_folder, clean) = machine_with(&[("sys/class/net/eth0/uevent", "")]);
        assert_eq!((interfaces(&clean)[0].verdict, daemons(&clean).verdict), (Verdict::Ok, Verdict::Ok));
    }

    #[test]
    fn the_first_list_decides_whose_pods_are() {
        let folder = tempfile::tempdir().unwrap();
        let (conf, bin) = (folder.path().join("conf"), folder.path().join("bin"));
        fs::create_dir(&conf).unwrap();
        fs::create_dir(&bin).unwrap();
        assert_eq!(list(&conf, &bin).remedy.as_deref(), Some("weft cni install"));
        let write = |name: &str, kind: &str| {
            fs::write(conf.join(name), format!(r#"{{"name":"x","plugins":[{{"type":"{kind}"}}]}}"#)).unwrap();
        };
        write("10-weft.conflist", "weft-cni");
        assert_eq!(list(&conf, &bin).verdict, Verdict::Ok);
        write("10-flannel.conflist", "flannel");
        assert_eq!(list(&conf, &bin).remedy.as_deref(), Some(TAKE_PLACE));
        for name in ["flannel", "weft-cni", "host-local"] {
            fs::write(bin.join(name), "weft-cni 9: the CNI plugin of weft; it is").unwrap();
        }
        assert_eq!(list(&conf, &bin).verdict, Verdict::Ok);
        let chained = |kind: &str| {
            let text = format!(r#"{{"name":"x","plugins":[{{"type":"{kind}"}},{{"type":"bandwidth"}}]}}"#);
            fs::write(conf.join("10-flannel.conflist"), text).unwrap();
            list(&conf, &bin)
        };
        for kind in ["flannel", "weft-cni"] {
            let line = chained(kind);
            assert_eq!((line.verdict, line.remedy.as_deref()), (Verdict::Problem, Some(cni::BANDWIDTH.1)));
        }
        // The bridge's pods have what it needs.
        fs::write(bin.join("flannel"), "flannel's own").unwrap();
        assert_eq!(chained("flannel").remedy.as_deref(), Some(TAKE_PLACE));
        write("05-other.conflist", "cilium-cni");
        assert!(list(&conf, &bin).found.ends_with("pods are of cilium-cni"));
        assert!(plugins(&bin).found.ends_with("lacks portmap"));
    }

    #[test]
    fn programs_and_rules_are_held_against_the_settings() {
        let mut config = Config::default();
        assert_eq!(programs(&config, |_| false).verdict, Verdict::Ok);
        let shut = ":INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:FLANNEL-FWD - [0:0]\n";
        assert_eq!(rules(shut, &config).verdict, Verdict::Warning);
        config.source.kind = SourceKind::Etcd;
        assert_eq!(programs(&config, |_| false).verdict, Verdict::Problem);
        assert_eq!(programs(&config, |name| name == "nft").verdict, Verdict::Warning);
        assert_eq!(programs(&config, |name| name == "iptables-restore").verdict, Verdict::Ok);
        assert_eq!(rules(shut, &config).verdict, Verdict::Ok);
        let calico = rules(":cali-FORWARD - [0:0]\n:cali-INPUT - [0:0]\n", &config);
        assert_eq!(calico.found, "there are rules of Calico's");
    }
}
