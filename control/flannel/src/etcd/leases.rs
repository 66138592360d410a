//! What the keys of a cluster say. Whatever somebody has written there costs a line in the log, and at most its own node.

use super::proto::KeyValue;
use crate::complaints::Complaints;
use crate::lease::{Attributes, Subnets};
use crate::net_conf::NetConf;
use crate::store::Peer;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One node's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// Of whom; its name is the last part of the key.
    pub(super) peer: Arc<Peer>,
    /// Since when the key is there.
    pub(super) created: i64,
    /// When it was written last.
    pub(super) written: i64,
    /// The etcd lease that it hangs on; 0: none, so it is a reservation.
    pub(super) id: i64,
}

/// A lease that is missed.
#[derive(Debug)]
struct Missed {
    lease: Lease,
    since: Instant,
    until: Instant,
}

/// All leases, by the last part of their keys.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// What the keys begin with.
    prefix: String,
    all: BTreeMap<String, Lease>,
    /// Keys that say nothing that can be understood, and why.
    wrong: BTreeMap<String, String>,
    /// Leases that a store which was restored from an older backup knows nothing of, and which count all the same for a while: their
    /// nodes are there. None of them goes against what the store says.
    missed: BTreeMap<String, Missed>,
    complaints: Complaints,
}

impl Leases {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, ..Self::default() }
    }

    /// Whether this is the whole of that key.
    pub(super) fn is(&self, key: &str, whole: &[u8]) -> bool {
        whole.strip_prefix(self.prefix.as_bytes()) == Some(key.as_bytes())
    }

    pub(super) fn get(&self, key: &str) -> Option<&Lease> {
        self.all.get(key)
    }

    /// The subnets of all.
    pub(super) fn taken(&self) -> Vec<Subnets> {
        self.all.values().map(|lease| lease.peer.subnets).collect()
    }

    /// The leases of the node with this address.
    pub(super) fn of(&self, public_ip: Ipv4Addr) -> impl Iterator<Item = (&String, &Lease)> {
        self.all.iter().filter(move |(_, lease)| lease.peer.attributes.public_ip == Some(public_ip))
    }

    /// The first lease but `key`'s that has an address of these subnets.
    pub(super) fn overlapping(&self, key: &str, subnets: &Subnets) -> Option<(&String, &Lease)> {
        self.all.iter().find(|(other, lease)| *other != key && lease.peer.subnets.overlap(subnets))
    }

    /// A key was written. True if it says something else than before. What can't be understood leaves what was known: the
    /// node is still there, or else its lease ends.
    pub(super) fn put(&mut self, kv: &KeyValue) -> bool {
        let Some(key) = self.tail(&kv.key) else { return false };
        match read(&key, &kv.value) {
            Ok((subnets, attributes)) => {
                let was_wrong = self.wrong.remove(&key).is_some();
                let was_missed = self.is_no_longer_missed(&key, &subnets, attributes.public_ip);
                let old = self.all.get(&key).or(was_missed.as_ref());
                // A renewal writes the same again: the peer stays the one that it was.
                let known =
                    old.filter(|old| old.peer.attributes == attributes).map(|old| Arc::clone(&old.peer));
                let same = known.is_some() && old.is_some_and(|old| old.created == kv.create_revision);
                let peer = known.unwrap_or_else(|| Arc::new(Peer { name: key.clone(), subnets, attributes }));
                let lease =
                    Lease { peer, created: kv.create_revision, written: kv.mod_revision, id: kv.lease };
                self.all.insert(key, lease);
                !same || was_wrong
            }
            Err(reason) => self.wrong.insert(key, reason.clone()) != Some(reason),
        }
    }

    /// A key is gone. True if it was known.
    pub(super) fn delete(&mut self, key: &[u8]) -> bool {
        let Some(key) = self.tail(key) else { return false };
        let wrong = self.wrong.remove(&key).is_some();
        let missed = self.missed.remove(&key).is_some();
        self.all.remove(&key).is_some() || wrong || missed
    }

    /// Whether one of these keys was written later than it says here: keys are of an older time than what is known.
    pub(super) fn are_newer_than(&self, kvs: &[KeyValue]) -> bool {
        let newer = |kv: &KeyValue| Some(self.all.get(&self.tail(&kv.key)?)?.written > kv.mod_revision);
        kvs.iter().any(|kv| newer(kv) == Some(true))
    }

    /// These are all keys that there are. True if they say something else than was known. What is gone from a store that was
    /// restored counts for so long yet as `missed_for` says, since nobody has deleted it.
    pub(super) fn replace(&mut self, kvs: &[KeyValue], missed_for: Option<Duration>) -> bool {
        let there: std::collections::BTreeSet<String> =
            kvs.iter().filter_map(|kv| self.tail(&kv.key)).collect();
        let before = self.all.len() + self.wrong.len();
        let (all, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.all).into_iter().partition(|(key, _)| there.contains(key));
        self.all = all;
        if let Some(time) = missed_for {
            let since = Instant::now();
            let missed = |(key, lease)| (key, Missed { lease, since, until: since + time });
            self.missed.extend(gone.into_iter().map(missed));
        }
        self.wrong.retain(|key, _| there.contains(key));
        let mut changed = self.all.len() + self.wrong.len() != before;
        for kv in kvs {
            changed |= self.put(kv);
        }
        changed
    }

    /// The keys that are missed in a store that was restored.
    pub(super) fn missed(&self) -> impl Iterator<Item = &String> + Clone {
        self.missed.keys()
    }

    /// Until when the first of them counts.
    pub(super) fn missed_until(&self) -> Option<Instant> {
        self.missed.values().map(|missed| missed.until).min()
    }

    /// The store was away from then until now: what was missed meanwhile could not be written, and counts for so much longer.
    pub(super) fn was_away(&mut self, from: Instant, now: Instant) {
        for missed in self.missed.values_mut() {
            missed.until += now.saturating_duration_since(from.max(missed.since));
        }
    }

    /// Those that have been missed for long enough are gone: which ones.
    pub(super) fn end_missing(&mut self, now: Instant) -> Vec<String> {
        let (left, over): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.missed).into_iter().partition(|(_, missed)| missed.until > now);
        self.missed = left;
        over.into_keys().collect()
    }

    /// The store has a lease again of that key, or of that subnet or node. What was missed of the key itself.
    fn is_no_longer_missed(
        &mut self,
        key: &str,
        subnets: &Subnets,
        public_ip: Option<Ipv4Addr>,
    ) -> Option<Lease> {
        let same = self.missed.remove(key);
        self.missed.retain(|_, Missed { lease, .. }| {
            !lease.peer.subnets.overlap(subnets) && lease.peer.attributes.public_ip != public_ip
        });
        same.map(|missed| missed.lease)
    }

    /// The other nodes: all leases but the own one that go with the configuration and with each other. Of two that overlap the
    /// older one counts, so that nobody can take a node's traffic by a lease within its subnet. They are sorted by their names.
    pub(super) fn peers(
        &mut self,
        own_key: &str,
        own: &Subnets,
        own_ip: Option<Ipv4Addr>,
        config: &NetConf,
    ) -> Vec<Arc<Peer>> {
        let Self { prefix, all, wrong, missed, complaints } = self;
        let mut say = |key: &str, what: String| complaints.say(&format!("etcd key {prefix}{key}"), what);
        for (key, reason) in wrong.iter() {
            say(key, format!("{reason}; it is ignored"));
        }
        let mut fit: Vec<(&String, &Lease)> = Vec::with_capacity(all.len());
        let missed = missed.iter().map(|(key, missed)| (key, &missed.lease));
        let mut others: Vec<(&String, &Lease)> =
            all.iter().chain(missed).filter(|(key, _)| *key != own_key).collect();
        others.sort_by_key(|(key, _)| *key);
        for (key, lease) in others {
            match unfit(lease, own, own_ip, config) {
                Some(reason) => say(key, format!("{reason}; it is ignored")),
                None => fit.push((key, lease)),
            }
        }
        let dropped = overlaps(&fit);
        for (index, older) in &dropped {
            let (key, lease) = fit[*index];
            let (older, holder) = fit[*older];
            let (by, of) = (address(lease), address(holder));
            say(
                key,
                format!(
                    "its subnet, claimed by {by}, overlaps {prefix}{older} of {of}, which is older; it is ignored"
                ),
            );
        }
        complaints.end();
        let peers = fit.iter().enumerate().filter(|(index, _)| !dropped.contains_key(index));
        peers.map(|(_, (_, lease))| Arc::clone(&lease.peer)).collect()
    }

    fn tail(&self, key: &[u8]) -> Option<String> {
        let tail = key.strip_prefix(self.prefix.as_bytes())?;
        Some(String::from_utf8_lossy(tail).into_owned())
    }
}

fn read(key: &str, value: &[u8]) -> Result<(Subnets, Attributes), String> {
    let subnets = Subnets::from_key(key).map_err(|error| error.to_string())?;
    let attributes = Attributes::from_json(&String::from_utf8_lossy(value))
        .map_err(|error| format!("its value is wrong: {error}"))?;
    Ok((subnets, attributes))
}

fn address(lease: &Lease) -> String {
    lease.peer.attributes.public_ip.map_or_else(|| "nobody".to_owned(), |address| address.to_string())
}

/// Why a lease can't be another node's.
fn unfit(lease: &Lease, own: &Subnets, own_ip: Option<Ipv4Addr>, config: &NetConf) -> Option<String> {
    let within = |outer: Option<bool>| outer.unwrap_or(false);
    let v4 = lease.peer.subnets.v4.is_none_or(|net| within(config.network.map(|all| all.contains(&net))));
    let v6 =
        lease.peer.subnets.v6.is_none_or(|net| within(config.ipv6_network.map(|all| all.contains(&net))));
    if !v4 || !v6 {
        return Some(format!("{} is not within the cluster's network", lease.peer.subnets));
    }
    let Some(public_ip) = lease.peer.attributes.public_ip else {
        return Some("it has no PublicIP".to_owned());
    };
    if own_ip == Some(public_ip) {
        return Some(format!("it is of this node ({public_ip}), which has {own} by another lease"));
    }
    if lease.peer.subnets.overlap(own) {
        return Some(format!("{public_ip} claims {}, which overlaps this node's {own}", lease.peer.subnets));
    }
    None
}

/// Which of these overlap an older one: their indexes, each with that of the older one.
fn overlaps(leases: &[(&String, &Lease)]) -> BTreeMap<usize, usize> {
    let v4 = |lease: &Lease| {
        lease.peer.subnets.v4.map(|net| (net.network().to_bits().into(), net.broadcast().to_bits().into()))
    };
    let v6 =
        |lease: &Lease| lease.peer.subnets.v6.map(|net| (net.network().to_bits(), net.broadcast().to_bits()));
    let mut dropped = BTreeMap::new();
    family_overlaps(leases, v4, &mut dropped);
    family_overlaps(leases, v6, &mut dropped);
    dropped
}

fn family_overlaps(
    leases: &[(&String, &Lease)],
    range: impl Fn(&Lease) -> Option<(u128, u128)>,
    dropped: &mut BTreeMap<usize, usize>,
) {
    let ranges = leases.iter().enumerate().filter_map(|(index, (_, lease))| Some((range(lease)?, index)));
    let mut sorted: Vec<((u128, u128), usize)> = ranges.collect();
    // Of two that begin alike the larger one first: subnets lie within each other or apart.
    sorted.sort_by_key(|((first, last), index)| (*first, std::cmp::Reverse(*last), *index));
    // Those that are kept, and hold the place where we are.
    let mut around: Vec<((u128, u128), usize)> = Vec::new();
    for (range, index) in sorted {
        around.retain(|((_, last), _)| *last >= range.0);
        let age = |index: usize| (leases[index].1.created, leases[index].0);
        match around.iter().find(|(_, older)| age(*older) < age(index)) {
            Some((_, older)) => {
                dropped.insert(index, *older);
            }
            None => {
                for (_, younger) in around.drain(..) {
                    dropped.insert(younger, index);
                }
                around.push((range, index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8, written: i64) -> KeyValue {
        KeyValue {
            key: format!("/net/subnets/10.5.{number}.0-24").into_bytes(),
            value: format!(r#"{{"PublicIP":"172.16.0.{number}","PublicIPv6":null}}"#).into_bytes(),
            create_revision: 3,
            mod_revision: written,
            ..KeyValue::default()
        }
    }

    #[test]
    fn a_key_that_was_written_later_than_it_says_tells_of_a_backup() {
        let mut leases = Leases::new("/net/subnets/".to_owned());
        leases.replace(&[key(1, 5), key(2, 9)], None);
        assert!(!leases.are_newer_than(&[key(1, 5), key(2, 12), key(3, 1)]), "one was renewed, one has come");
        assert!(!leases.are_newer_than(&[key(2, 9)]), "one is gone");
        assert!(leases.are_newer_than(&[key(1, 5), key(2, 4)]));
    }

    #[test]
    fn what_is_missed_counts_longer_by_what_it_has_seen_of_an_outage() {
        const HOUR: Duration = Duration::from_secs(3600);
        let mut leases = Leases::new("/net/subnets/".to_owned());
        leases.replace(&[key(1, 5), key(2, 6)], None);
        // One is missed since before the outage, the other since what was read at its end.
        leases.replace(&[key(2, 6)], Some(24 * HOUR));
        leases.replace(&[], Some(24 * HOUR));
        let back = leases.missed["10.5.2.0-24"].since;
        leases.missed.get_mut("10.5.1.0-24").unwrap().since -= 5 * HOUR;
        let until = leases.missed["10.5.1.0-24"].until;
        leases.was_away(back - 4 * HOUR, back);
        assert_eq!(leases.missed["10.5.1.0-24"].until, until + 4 * HOUR);
        assert_eq!(leases.missed["10.5.2.0-24"].until, back + 24 * HOUR);
        // Reading was no end: it went on for an hour.
        leases.was_away(back - 4 * HOUR, back + HOUR);
        assert_eq!(leases.missed["10.5.2.0-24"].until, back + 25 * HOUR);
    }
}
