//! The node's rules for pods' packets that the kernel forwards: what leaves the pod network gets the node's address, and the
//! node's filter lets both directions through. They are flannel's, by its names and in its order, so that either takes over
//! what the other has left. They are made by `iptables-restore` or `nft`, as a whole each time, and looked at again and again.
//!
//! | # | packets | |
//! |---|---|---|
//! | 1 | that kube-proxy has marked | stay as they are: it translates them itself |
//! | 2 | from this node's pods to any pod | stay |
//! | 3 | from any pod to this node's pods | stay |
//! | 4 | from elsewhere to this node's pods | stay: pods see who asks |
//! | 5 | from any pod to elsewhere, no multicast | are masqueraded |
//! | 6 | from elsewhere to pods of other nodes | are masqueraded, so that the answers come back by this node |
//!
//! flannel's rules for nftables differ in two: the mark is compared whole (1), and what comes from anywhere but this node's pods
//! to any pod stays (4), so that the sixth is never reached. A node does as its flanneld did.
//!
//! How a program prints a rule differs between versions. So what is in force is not compared with the text that was given, but with what
//! the program said right after it was given.

mod iptables;
mod nft;
mod program;

use crate::error::Error;
use ipnet::IpNet;
use std::collections::HashMap;
use std::path::Path;

/// The file in the state directory that says that rules were made, so that [`crate::purge`] takes no flanneld's away.
pub(crate) const MADE_FILE: &str = "rules-made";

/// By which programs rules are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// `iptables` and `ip6tables`.
    Iptables,
    /// `nft`.
    Nftables,
}

/// The pods of one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pods {
    /// All pods of the cluster.
    pub network: IpNet,
    /// This node's.
    pub subnet: IpNet,
}

/// The rules that are to be in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// By which programs.
    pub by: Firewall,
    /// Once for each address family. Subnets are without host bits.
    pub pods: Vec<Pods>,
    /// Whether packets to elsewhere are masqueraded.
    pub masquerade: bool,
    /// Whether the filter is told to let pods' packets through.
    pub forward: bool,
    /// Whether the port of a masqueraded packet is chosen at random, and not kept where it is free.
    pub random_ports: bool,
}

impl Rules {
    /// Whether there is anything to make.
    pub fn any(&self) -> bool {
        !self.pods.is_empty() && (self.masquerade || self.forward)
    }
}

/// What a look at the rules came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// All was there.
    Whole,
    /// They were made for the first time; what an earlier flanneld or weftd had left of other subnets is gone.
    Made,
    /// Somebody had changed them.
    Mended,
}

/// Keeps rules in force.
#[derive(Debug)]
pub struct Keeper {
    rules: Rules,
    /// What the programs have said of what is in force, by what they were asked about.
    said: HashMap<String, String>,
    /// The first look has had success.
    begun: bool,
}

impl Keeper {
    /// Nothing is done yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, said: HashMap::new(), begun: false }
    }

    /// Looks at the rules and makes what is not as it should be. It runs programs and waits for them.
    ///
    /// # Errors
    /// A program is missing, or refuses. What could be done has been done; the next look tries again.
    pub fn look(&mut self, state_dir: &Path) -> Result<Looked, Error> {
        if !self.begun {
            if self.rules.any() {
                note_made(state_dir)?;
            }
            // Rules of the other kind would work beside these, for subnets that may no longer be this node's.
            let removed = match self.rules.by {
                Firewall::Iptables => nft::remove(),
                Firewall::Nftables => iptables::remove(),
            };
            if let Err(error) = removed {
                tracing::warn!("an earlier flanneld's rules may stay beside weft's: {error}");
            }
        }
        let changed = match self.rules.by {
            Firewall::Iptables => iptables::look(&self.rules, &mut self.said),
            Firewall::Nftables => nft::look(&self.rules, &mut self.said),
        };
        let changed = match changed {
            // Nothing is wanted: it was worth a try.
            Err(error) if !self.rules.any() => {
                tracing::debug!("whether there are rules of an earlier flanneld is not known: {error}");
                false
            }
            changed => changed?,
        };
        Ok(match (std::mem::replace(&mut self.begun, true), changed) {
            (false, _) => Looked::Made,
            (true, true) => Looked::Mended,
            (true, false) => Looked::Whole,
        })
    }
}

/// Has [`crate::purge`] know later on.
fn note_made(state_dir: &Path) -> Result<(), Error> {
    let path = state_dir.join(MADE_FILE);
    std::fs::write(&path, "").map_err(|e| Error::file("write", &path, e))
}

/// Removes all rules of these names, of both kinds and families, where weftd has made any. True if it has.
pub(crate) fn remove(state_dir: &Path) -> Result<bool, Error> {
    let made = state_dir.join(MADE_FILE).exists();
    if made {
        iptables::remove()?;
        nft::remove()?;
    }
    Ok(made)
}

/// All multicast addresses of a network's family.
fn multicast(network: &IpNet) -> &'static str {
    match network {
        IpNet::V4(_) => "224.0.0.0/4",
        IpNet::V6(_) => "ff00::/8",
    }
}

#[cfg(test)]
pub(crate) fn sample(by: Firewall) -> Rules {
    let net = |text: &str| text.parse().unwrap();
    Rules {
        by,
        pods: vec![
            Pods { network: net("10.244.0.0/16"), subnet: net("10.244.3.0/24") },
            Pods { network: net("fd00:10:244::/48"), subnet: net("fd00:10:244:3::/64") },
        ],
        masquerade: true,
        forward: true,
        random_ports: true,
    }
}
