//! Rules by nftables: a table of one's own for each family, replaced whole.

use super::program::run;
use super::{Pods, Rules, multicast};
use crate::error::Error;
use ipnet::IpNet;
use std::collections::HashMap;

const PROGRAM: &str = "nft";

/// The tables, each with its family's word.
const TABLES: [(&str, &str); 2] = [("ip", "flannel-ipv4"), ("ip6", "flannel-ipv6")];

fn table(network: &IpNet) -> (&'static str, &'static str) {
    TABLES[usize::from(matches!(network, IpNet::V6(_)))]
}

/// For `nft -f`: the table is gone, whether it was there or not.
fn removing((family, name): (&str, &str)) -> String {
    format!("add table {family} {name}\ndelete table {family} {name}\n")
}

/// For `nft -f`, which does all of it or nothing: the table holds this and nothing else.
fn making(pods: &Pods, rules: &Rules) -> String {
    let Pods { network, subnet } = pods;
    let (family, name) = table(network);
    let mut text = removing((family, name));
    text += &format!("table {family} {name} {{\n");
    if rules.masquerade {
        let masquerade = if rules.random_ports { "masquerade fully-random" } else { "masquerade" };
        let multicast = multicast(network);
        text += &format!(
            "\tchain postrtg {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tmeta mark 0x4000 return
\t\t{family} saddr {subnet} {family} daddr {network} return
\t\t{family} saddr {network} {family} daddr {subnet} return
\t\t{family} saddr != {subnet} {family} daddr {network} return
\t\t{family} saddr {network} {family} daddr != {multicast} {masquerade}
\t\t{family} saddr != {network} {family} daddr {network} {masquerade}
\t}}\n"
        );
    }
    if rules.forward {
        text += &format!(
            "\tchain forward {{
\t\ttype filter hook forward priority filter; policy accept;
\t\t{family} saddr {network} accept
\t\t{family} daddr {network} accept
\t}}\n"
        );
    }
    text + "}\n"
}

fn load(text: &str) -> Result<(), Error> {
    run(PROGRAM, &["-f", "-"], text)?.or_error(PROGRAM).map(drop)
}

/// The table as the program prints it; none where there is no such.
fn listed((family, name): (&str, &str)) -> Result<Option<String>, Error> {
    let said = run(PROGRAM, &["-s", "list", "table", family, name], "")?;
    Ok(said.success.then_some(said.out))
}

/// Looks at one family after the other and makes what is not as it was. True if something had to be made.
pub(super) fn look(rules: &Rules, said: &mut HashMap<String, String>) -> Result<bool, Error> {
    let mut changed = false;
    for pods in &rules.pods {
        let table = table(&pods.network);
        let there = listed(table)?;
        if !rules.any() {
            if there.is_some() {
                load(&removing(table))?;
                changed = true;
            }
            continue;
        }
        if there.is_some() && there.as_ref() == said.get(table.1) {
            continue;
        }
        load(&making(pods, rules))?;
        if let Some(now) = listed(table)? {
            said.insert(table.1.to_owned(), now);
        }
        changed = true;
    }
    Ok(changed)
}

/// Removes what there is of both families. A program that is not there has made nothing.
pub(super) fn remove() -> Result<(), Error> {
    for table in TABLES {
        match listed(table) {
            Ok(Some(_)) => load(&removing(table))?,
            Ok(None) | Err(Error::NoProgram { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Firewall, sample};
    use super::*;

    #[test]
    fn both_chains_are_flannels() {
        let rules = sample(Firewall::Nftables);
        assert_eq!(
            making(&rules.pods[0], &rules),
            "add table ip flannel-ipv4
delete table ip flannel-ipv4
table ip flannel-ipv4 {
\tchain postrtg {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tmeta mark 0x4000 return
\t\tip saddr 10.244.3.0/24 ip daddr 10.244.0.0/16 return
\t\tip saddr 10.244.0.0/16 ip daddr 10.244.3.0/24 return
\t\tip saddr != 10.244.3.0/24 ip daddr 10.244.0.0/16 return
\t\tip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
\t\tip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
\t}
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\tip saddr 10.244.0.0/16 accept
\t\tip daddr 10.244.0.0/16 accept
\t}
}
"
        );
    }

    #[test]
    fn a_family_and_a_chain_by_themselves() {
        let rules = Rules { forward: false, random_ports: false, ..sample(Firewall::Nftables) };
        let text = making(&rules.pods[1], &rules);
        assert!(text.starts_with("add table ip6 flannel-ipv6\ndelete table ip6 flannel-ipv6\n"), "{text}");
        assert!(text.contains("\t\tip6 saddr fd00:10:244::/48 ip6 daddr != ff00::/8 masquerade\n"), "{text}");
        assert!(!text.contains("forward") && !text.contains("ip "), "{text}");
        let text = making(&rules.pods[0], &Rules { masquerade: false, forward: true, ..rules.clone() });
        assert!(!text.contains("postrtg") && text.contains("chain forward"), "{text}");
    }
}
