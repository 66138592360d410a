//! The store in etcd, version 3, as flannel uses it: the configuration is a key, and each node's lease is one, which an etcd
//! lease of a day removes when its node is gone.
//!
//! - `proto`, `client`: the calls, and the connection that they go over.
//! - `leases`: what the keys say, as pure data.
//! - `acquire`: taking a lease.
//! - `follow`: keeping it, and following the others'.
//!
//! **What happens to the own lease.** It is renewed before it expires. Where the key is gone (deleted, expired, or the store
//! was restored from before it), the same subnet is taken again if it is free: pods hold addresses of it. flanneld ends
//! there, which takes the node's new pods away and helps nobody. Where another node holds it meanwhile, this one goes
//! on as it is, says so each minute, and takes another subnet with its next start only.

mod acquire;
mod client;
mod follow;
mod leases;
mod proto;

use crate::lease::{Attributes, Subnets};
use crate::net_conf::NetConf;
use crate::store::{Can, Cluster, Own, Status, StoreError, Update};
use client::Client;
use leases::Leases;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_types::MacAddr;

/// How etcd is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// The members, such as `https://192.0.2.1:2379`; without `http://` or `https://` it depends on the certificate whether
    /// they speak TLS.
    pub endpoints: Vec<String>,
    /// What all keys begin with, such as `/coreos.com/network`. It is taken as it is written, but for needless slashes.
    pub prefix: String,
    /// The files for TLS.
    pub tls: Tls,
    /// User name and password.
    pub user: Option<(String, String)>,
    /// The times.
    pub timing: Timing,
}

/// The files for TLS. They are read with every connection, so that renewed certificates are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Who may have signed the members' certificates. None: whom the system trusts.
    pub ca: Option<PathBuf>,
    /// The certificate that this node shows.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a lease is good for.
    pub lease: Duration,
    /// How long before its end it is renewed.
    pub margin: Duration,
    /// After how long a renewal that failed is tried again.
    pub again: Duration,
    /// How long etcd may take to answer.
    pub answer: Duration,
}

impl Default for Timing {
    /// flannel's times.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(24 * 60 * 60),
            margin: Duration::from_secs(60 * 60),
            again: Duration::from_secs(60),
            answer: Duration::from_secs(5),
        }
    }
}

/// A cluster's store in etcd.
pub struct Etcd {
    settings: Arc<Settings>,
    client: Client,
    status: watch::Sender<Status>,
    /// What [`Etcd::acquire`] found.
    held: Option<Held>,
    /// The MAC address that the lease had before.
    inherited: Option<MacAddr>,
}

/// The own lease, and what else the store said when it was taken or read last.
struct Held {
    config: NetConf,
    attributes: Attributes,
    own: Subnets,
    /// The last part of the own key.
    key: String,
    until: Until,
    /// The revision that the own key was written with; none while it is not ours.
    written: Option<i64>,
    leases: Leases,
    seen: Seen,
    /// What an operator must mend about the own key.
    trouble: Option<String>,
}

/// When the own lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Never: it is a reservation.
    Never,
    /// Then.
    At(Instant),
}

/// How much of which history has been read. A store that was restored from a backup has another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    cluster: u64,
    term: u64,
    revision: i64,
}

impl Seen {
    fn of(header: Option<&proto::Header>) -> Self {
        header.map_or(Self::default(), |header| Self {
            cluster: header.cluster_id,
            term: header.raft_term,
            revision: header.revision,
        })
    }

    /// Whether what is said now can follow what was seen: terms and revisions of a cluster only grow.
    fn is_followed_by(&self, now: &Self) -> bool {
        self.cluster == now.cluster && self.term <= now.term && self.revision <= now.revision
    }
}

impl Until {
    fn after(seconds: i64) -> Self {
        Self::At(Instant::now() + Duration::from_secs(seconds.try_into().unwrap_or(0)))
    }

    fn clock(self) -> Option<SystemTime> {
        match self {
            Self::Never => None,
            Self::At(at) => Some(SystemTime::now() + at.saturating_duration_since(Instant::now())),
        }
    }
}

impl Etcd {
    /// Of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// What is wrong with them, certificates among it.
    pub fn new(mut settings: Settings) -> Result<Self, StoreError> {
        let wrong = |what: &str| Err(StoreError::Settings(what.to_owned()));
        if settings.tls.certificate.is_some() != settings.tls.key.is_some() {
            return wrong(
                "etcd: a certificate needs its key and a key its certificate: give both files or none",
            );
        }
        let scheme = if settings.tls.certificate.is_some() { "https" } else { "http" };
        settings.endpoints.retain(|endpoint| !endpoint.is_empty());
        for endpoint in &mut settings.endpoints {
            if !endpoint.contains("://") {
                *endpoint = format!("{scheme}://{endpoint}");
            }
        }
        if settings.endpoints.is_empty() {
            return wrong("etcd: there is no endpoint, such as http://127.0.0.1:2379");
        }
        settings.prefix = folder(&settings.prefix);
        let Timing { lease, margin, .. } = settings.timing;
        if margin >= lease {
            return wrong("etcd: the renew margin must be shorter than the lease");
        }
        for endpoint in &settings.endpoints {
            client::endpoint(endpoint, &settings)?;
        }
        let settings = Arc::new(settings);
        let status = watch::Sender::new(Status::new("etcd"));
        Ok(Self { client: Client::new(Arc::clone(&settings)), settings, status, held: None, inherited: None })
    }

    /// How the store fares, also while it runs.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(crate) async fn acquire(&mut self, own: &Own, can: Can<'_>) -> Result<Cluster, StoreError> {
        let mut held = self.take(own, can).await?;
        let cluster = held.cluster();
        self.tell(&held);
        self.held = Some(held);
        Ok(cluster)
    }

    pub(crate) fn inherited_mac(&self) -> Option<MacAddr> {
        self.inherited
    }

    pub(crate) async fn run(mut self, updates: mpsc::Sender<Update>) {
        if let Some(held) = self.held.take() {
            self.follow(held, updates).await;
        }
    }

    /// Where all leases are.
    fn subnets(&self) -> String {
        format!("{}subnets/", self.settings.prefix)
    }

    /// It is reached, and says this.
    fn tell(&self, held: &Held) {
        self.status.send_if_modified(|status| {
            let now = Status {
                lease_until: held.until.clock(),
                position: Some(held.seen.revision.to_string()),
                trouble: held.trouble.clone().or_else(|| held.missed()),
                ..status.connected()
            };
            std::mem::replace(status, now.clone()) != now
        });
    }
}

/// The prefix with what is between it and the rest of a key, as Go's `path.Join` has it: keys are literal, so `a` is another
/// prefix than `/a`, and `//a/` is not.
fn folder(prefix: &str) -> String {
    let rooted = prefix.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in prefix.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let mut text = String::from(if rooted { "/" } else { "" });
    for part in parts {
        text.push_str(part);
        text.push('/');
    }
    text
}

impl Held {
    fn cluster(&mut self) -> Cluster {
        let peers = self.leases.peers(&self.key, &self.own, self.attributes.public_ip, &self.config);
        Cluster { config: self.config.clone(), own: self.own, peers }
    }

    /// What a store that was restored does not know any more, in a sentence.
    fn missed(&self) -> Option<String> {
        const NAMED: usize = 5;
        let missed = self.leases.missed().filter(|key| **key != self.key);
        let count = missed.clone().count();
        let mut names: Vec<&str> = missed.take(NAMED).map(String::as_str).collect();
        if count > NAMED {
            names.push("…");
        }
        (count > 0).then(|| {
            let leases = if count == 1 { "lease" } else { "leases" };
            format!(
                "etcd was restored from a backup without {count} {leases} ({}): nodes whose leases were in force stay so until they \
                 write them again, for as long as a lease lasts; restart flanneld where it runs, since it does not notice",
                names.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_joined_as_go_joins_it() {
        // By path.Join(prefix, "config").
        for (prefix, config) in [
            ("/coreos.com/network", "/coreos.com/network/config"),
            ("/coreos.com/network/", "/coreos.com/network/config"),
            ("//coreos.com//network//", "/coreos.com/network/config"),
            ("coreos.com/network", "coreos.com/network/config"),
            ("", "config"),
            ("/", "/config"),
            (".", "config"),
            ("./a", "a/config"),
            ("/a/./b/../c", "/a/c/config"),
            ("a/..", "config"),
            ("..", "../config"),
            ("../../a/..", "../../config"),
            ("/../a", "/a/config"),
        ] {
            assert_eq!(format!("{}config", folder(prefix)), config, "{prefix:?}");
        }
    }

    #[test]
    fn endpoints_that_are_none_do_not_count() {
        let settings = |endpoints: &[&str]| Settings {
            endpoints: endpoints.iter().map(|text| (*text).to_owned()).collect(),
            prefix: "/x".to_owned(),
            tls: Tls::default(),
            user: None,
            timing: Timing::default(),
        };
        let etcd = Etcd::new(settings(&["192.0.2.1:2379", ""])).unwrap();
        assert_eq!(etcd.settings.endpoints, ["http://192.0.2.1:2379"]);
        assert!(Etcd::new(settings(&[""])).is_err());
    }
}
