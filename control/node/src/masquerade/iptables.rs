//! Rules by iptables: a chain of one's own in the tables nat and filter, and a jump to it from the kernel's.

use super::program::{Said, run};
use super::{Pods, Rules, multicast};
use crate::error::Error;
use ipnet::IpNet;
use std::collections::HashMap;

/// How long others who change the tables are waited for, in seconds.
const WAIT: &str = "5";

/// What kube-proxy marks packets with that it translates itself: value and mask.
const MARK: &str = "0x4000/0x4000";

/// A chain of one's own, and the kernel's chain that jumps there.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    table: &'static str,
    name: &'static str,
    /// The kernel's.
    from: &'static str,
    /// What each rule bears, by which old ones are known.
    comment: &'static str,
}

const MASQUERADE: Chain =
    Chain { table: "nat", name: "FLANNEL-POSTRTG", from: "POSTROUTING", comment: "flanneld masq" };
const FORWARD: Chain =
    Chain { table: "filter", name: "FLANNEL-FWD", from: "FORWARD", comment: "flanneld forward" };

impl Chain {
    /// A rule of it.
    fn rule(&self, matches: &str, action: &str) -> String {
        format!("-A {} {matches} -m comment --comment \"{}\" -j {action}", self.name, self.comment)
    }

    /// The jump there.
    fn jump(&self) -> String {
        format!("-A {} -m comment --comment \"{}\" -j {}", self.from, self.comment, self.name)
    }

    fn is_jump(&self, line: &str) -> bool {
        line.starts_with("-A ") && line.trim_end().ends_with(&format!(" -j {}", self.name))
    }

    /// Of the kernel's chain, as `iptables -S` prints it: whether it jumps here, and what else is of flannel's in it. Old flannels wrote all
    /// their rules there.
    fn found<'a>(&self, from: &'a str) -> (bool, Vec<&'a str>) {
        let comment = format!("--comment \"{}\"", self.comment);
        let ours = from.lines().filter(|line| line.starts_with("-A ") && line.contains(&comment));
        let jumps = from.lines().filter(|line| self.is_jump(line));
        let stale = ours.filter(|line| !self.is_jump(line)).chain(jumps.clone().skip(1));
        (jumps.clone().next().is_some(), stale.collect())
    }

    /// For `iptables-restore --noflush`: the chain holds these rules and nothing else, and is jumped to once.
    fn making(&self, rules: &[String], from: &str) -> String {
        let (jumps, stale) = self.found(from);
        // The line with the chain's name makes it, or empties it.
        let mut text = format!("*{}\n:{} - [0:0]\n", self.table, self.name);
        text.extend(stale.into_iter().map(deletion));
        text.extend(rules.iter().map(|rule| format!("{rule}\n")));
        if !jumps {
            text += &format!("{}\n", self.jump());
        }
        text + "COMMIT\n"
    }

    /// For `iptables-restore --noflush`: nothing of it is left.
    fn removing(&self, from: &str) -> String {
        let (_, stale) = self.found(from);
        let first = from.lines().find(|line| self.is_jump(line));
        let mut text = format!("*{}\n:{} - [0:0]\n", self.table, self.name);
        text.extend(stale.into_iter().chain(first).map(deletion));
        text + &format!("-X {}\nCOMMIT\n", self.name)
    }
}

fn deletion(line: &str) -> String {
    format!("-D {}\n", line.trim_start_matches("-A ").trim_end())
}

/// The rules of a chain; none where it is not wanted.
fn wanted(chain: &Chain, pods: &Pods, rules: &Rules) -> Option<Vec<String>> {
    let Pods { network, subnet } = pods;
    let rule = |matches: &str, action: &str| chain.rule(matches, action);
    if *chain == FORWARD {
        let both = [format!("-s {network}"), format!("-d {network}")];
        return rules.forward.then(|| both.iter().map(|matches| rule(matches, "ACCEPT")).collect());
    }
    let masquerade = if rules.random_ports { "MASQUERADE --random-fully" } else { "MASQUERADE" };
    let multicast = multicast(network);
    rules.masquerade.then(|| {
        vec![
            rule(&format!("-m mark --mark {MARK}"), "RETURN"),
            rule(&format!("-s {subnet} -d {network}"), "RETURN"),
            rule(&format!("-s {network} -d {subnet}"), "RETURN"),
            rule(&format!("! -s {network} -d {subnet}"), "RETURN"),
            rule(&format!("-s {network} ! -d {multicast}"), masquerade),
            rule(&format!("! -s {network} -d {network}"), masquerade),
        ]
    })
}

/// Looks at one family after the other and makes what is not as it was. True if something had to be made.
pub(super) fn look(rules: &Rules, said: &mut HashMap<String, String>) -> Result<bool, Error> {
    let mut changed = false;
    for pods in &rules.pods {
        let v6 = matches!(pods.network, IpNet::V6(_));
        // Later on it changes nothing: the kernel heeds the rules of both kinds.
        let kind = said.entry(family(v6).to_owned()).or_insert_with(|| kind(v6, has).to_owned());
        let programs = Programs::of(v6, kind);
        for chain in [&MASQUERADE, &FORWARD] {
            changed |= match wanted(chain, pods, rules) {
                Some(wanted) => programs.keep(chain, &wanted, said)?,
                None => programs.remove(chain)?,
            };
        }
    }
    Ok(changed)
}

/// Removes what there is of both families. Programs that are not there have made nothing.
pub(super) fn remove() -> Result<(), Error> {
    for v6 in [false, true] {
        let programs = Programs::of(v6, kind(v6, has));
        for chain in [&MASQUERADE, &FORWARD] {
            match programs.remove(chain) {
                Ok(_) | Err(Error::NoProgram { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn family(v6: bool) -> &'static str {
    if v6 { "ip6tables" } else { "iptables" }
}

/// iptables comes in two kinds, neither of which shows the other's rules. The node's are of the kind by which kubelet has made a chain, as a
/// hint; where there is no hint, of what is called `iptables`, which in a container may be another kind than on the node.
fn kind(v6: bool, has: impl Fn(&str, &str, &str) -> bool) -> &'static str {
    let hinted = |kind: &str| {
        let program = format!("{}{kind}", family(v6));
        ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"].iter().any(|chain| has(&program, "mangle", chain))
    };
    // To ask the older kind loads its modules into the kernel: only where its tables are in use.
    match () {
        () if hinted("-nft") => "-nft",
        () if legacy_tables(v6) && hinted("-legacy") => "-legacy",
        () => "",
    }
}

/// Whether tables of the older kind are in use in this network namespace.
fn legacy_tables(v6: bool) -> bool {
    let file = if v6 { "ip6_tables_names" } else { "ip_tables_names" };
    std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))
        .is_ok_and(|names| names.lines().any(|name| name == "mangle"))
}

/// Whether a program is there and knows a chain.
fn has(program: &str, table: &str, chain: &str) -> bool {
    run(program, &["-w", WAIT, "-t", table, "-S", chain], "").is_ok_and(|said| said.success)
}

/// The programs of one family and kind.
struct Programs {
    list: String,
    restore: String,
}

impl Programs {
    fn of(v6: bool, kind: &str) -> Self {
        let list = format!("{}{kind}", family(v6));
        Self { restore: format!("{list}-restore"), list }
    }

    fn list(&self, table: &str, chain: &str) -> Result<Said, Error> {
        run(&self.list, &["-w", WAIT, "-t", table, "-S", chain], "")
    }

    fn restore(&self, text: &str) -> Result<(), Error> {
        run(&self.restore, &["-w", WAIT, "--noflush"], text)?.or_error(&self.restore).map(drop)
    }

    /// Makes a chain if it is not as it was when it was made.
    fn keep(
        &self,
        chain: &Chain,
        rules: &[String],
        said: &mut HashMap<String, String>,
    ) -> Result<bool, Error> {
        let from = self.list(chain.table, chain.from)?.or_error(&self.list)?;
        let own = self.list(chain.table, chain.name)?;
        let (jumps, stale) = chain.found(&from);
        let key = format!("{} {}", self.list, chain.name);
        if own.success && jumps && stale.is_empty() && said.get(&key) == Some(&own.out) {
            return Ok(false);
        }
        self.restore(&chain.making(rules, &from))?;
        said.insert(key, self.list(chain.table, chain.name)?.or_error(&self.list)?);
        Ok(true)
    }

    /// Removes a chain and the jumps to it. True if there was anything.
    fn remove(&self, chain: &Chain) -> Result<bool, Error> {
        let from = self.list(chain.table, chain.from)?;
        // A kernel without the table has nothing in it.
        if !from.success {
            return Ok(false);
        }
        let (jumps, stale) = chain.found(&from.out);
        let there = jumps || !stale.is_empty() || self.list(chain.table, chain.name)?.success;
        if there {
            self.restore(&chain.removing(&from.out))?;
        }
        Ok(there)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Firewall, sample};
    use super::*;

    const EMPTY: &str = "-P POSTROUTING ACCEPT\n";

    fn text(chain: &Chain, family: usize, rules: &Rules, from: &str) -> String {
        chain.making(&wanted(chain, &rules.pods[family], rules).unwrap(), from)
    }

    #[test]
    fn masquerading_is_flannels() {
        let rules = sample(Firewall::Iptables);
        assert_eq!(
            text(&MASQUERADE, 0, &rules, EMPTY),
            r#"*nat
:FLANNEL-POSTRTG - [0:0]
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.3.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.3.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.3.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
COMMIT
"#
        );
        let v6 = text(&MASQUERADE, 1, &rules, EMPTY);
        assert!(v6.contains("-s fd00:10:244::/48 ! -d ff00::/8 "), "{v6}");
        assert!(v6.contains("! -s fd00:10:244::/48 -d fd00:10:244:3::/64 "), "{v6}");
        let kept_ports = text(&MASQUERADE, 0, &Rules { random_ports: false, ..rules }, EMPTY);
        assert!(!kept_ports.contains("random") && kept_ports.contains("-j MASQUERADE\n"), "{kept_ports}");
    }

    #[test]
    fn forwarding_is_flannels() {
        let rules = sample(Firewall::Iptables);
        assert_eq!(
            text(&FORWARD, 0, &rules, "-P FORWARD DROP\n"),
            r#"*filter
:FLANNEL-FWD - [0:0]
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
COMMIT
"#
        );
        let off = Rules { forward: false, masquerade: false, ..rules };
        assert_eq!(wanted(&FORWARD, &off.pods[0], &off), None);
        assert_eq!(wanted(&MASQUERADE, &off.pods[0], &off), None);
    }

    #[test]
    fn what_others_have_stays_and_what_flannel_had_goes() {
        let from = r#"-P POSTROUTING ACCEPT
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A POSTROUTING -s 10.9.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A POSTROUTING -s 192.168.0.0/24 -j MASQUERADE
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
"#;
        let rules = sample(Firewall::Iptables);
        let made = text(&MASQUERADE, 0, &rules, from);
        let deleted: Vec<_> = made.lines().filter(|line| line.starts_with("-D ")).collect();
        let old = r#"-D POSTROUTING -s 10.9.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully"#;
        let jump = r#"-D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG"#;
        assert_eq!(deleted, [old, jump]);
        assert!(!made.contains("-A POSTROUTING"), "it jumps there already: {made}");
        assert_eq!(
            MASQUERADE.removing(from),
            format!("*nat\n:FLANNEL-POSTRTG - [0:0]\n{old}\n{jump}\n{jump}\n-X FLANNEL-POSTRTG\nCOMMIT\n")
        );
        assert_eq!(
            MASQUERADE.removing(EMPTY),
            "*nat\n:FLANNEL-POSTRTG - [0:0]\n-X FLANNEL-POSTRTG\nCOMMIT\n"
        );
    }

    #[test]
    fn kubelets_kind_is_chosen() {
        let chosen = |v6, known: &[&str]| {
            let has = |program: &str, table: &str, chain: &str| {
                assert_eq!(table, "mangle");
                known.contains(&format!("{program} {chain}").as_str())
            };
            Programs::of(v6, kind(v6, has)).restore
        };
        assert_eq!(chosen(false, &[]), "iptables-restore");
        assert_eq!(chosen(false, &["iptables-nft KUBE-IPTABLES-HINT"]), "iptables-nft-restore");
        assert_eq!(chosen(true, &["ip6tables-nft KUBE-KUBELET-CANARY"]), "ip6tables-nft-restore");
    }
}
