//! Taking a lease: the one that the node has, or that it had, or any.

use super::client::{Failure, range_request};
use super::leases::Leases;
use super::proto::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, Request, RequestOp, TxnRequest,
    Wanted, end_of,
};
use super::{Etcd, Held, Seen, Until};
use crate::allocate::{choose, fits};
use crate::lease::Subnets;
use crate::net_conf::{NetConf, Range};
use crate::store::{Can, Own, StoreError};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long an etcd lease that was granted, and not used yet, is good for another try.
const FRESH: Duration = Duration::from_secs(60);

/// Why there is no lease yet.
enum NotYet {
    /// Somebody was faster.
    Race,
    /// It may pass.
    Wait(StoreError),
    /// An operator must mend it.
    Stop(StoreError),
}

/// An etcd lease, and when it was granted with how many seconds.
#[derive(Clone, Copy)]
struct Granted {
    id: i64,
    ttl: i64,
    at: Instant,
}

/// How long to wait after the n-th failure: 100 ms, doubled up to 5 s, and a little by chance, so that not all nodes come
/// back at the same moment.
pub(super) struct BackOff(Duration);

impl BackOff {
    pub(super) const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(5);
    /// What has lasted for longer than this was no failure.
    pub(super) const STEADY: Duration = Duration::from_secs(5);

    pub(super) fn new() -> Self {
        Self(Self::FIRST)
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(Self::LAST);
        wait + wait.mul_f64(rand::random_range(0.0..0.25))
    }
}

impl Etcd {
    /// Takes a lease, however long it takes.
    pub(super) async fn take(&mut self, own: &Own, can: Can<'_>) -> Result<Held, StoreError> {
        let mut granted = None;
        let mut back_off = BackOff::new();
        let mut said: Option<(String, Instant)> = None;
        let result = loop {
            match self.try_to_take(own, can, &mut granted).await {
                Ok(held) => break Ok(held),
                Err(NotYet::Race) => {
                    info!("another node has just taken that subnet; trying again");
                    tokio::time::sleep(BackOff::FIRST.mul_f64(rand::random_range(0.0..1.0))).await;
                }
                Err(NotYet::Stop(error)) => break Err(error),
                Err(NotYet::Wait(error)) => {
                    let text = error.to_string();
                    // Once a minute is enough for what stays the same.
                    let news = said.as_ref().is_none_or(|(last, at)| *last != text || at.elapsed() > FRESH);
                    if news {
                        warn!("{text}; it is tried again");
                        said = Some((text.clone(), Instant::now()));
                    }
                    self.status.send_modify(|status| *status = status.lost(text));
                    tokio::time::sleep(back_off.next()).await;
                }
            }
        };
        if let Some(Granted { id, .. }) = granted {
            // If it fails, it ends by itself.
            let _ = self.client.revoke(id).await;
        }
        result
    }

    async fn try_to_take(
        &mut self,
        own: &Own,
        can: Can<'_>,
        granted: &mut Option<Granted>,
    ) -> Result<Held, NotYet> {
        let config = self.read_config().await?;
        let place = self.config_place();
        let wrong = |reason: String| NotYet::Stop(StoreError::Content { place: place.clone(), reason });
        let ranges = config.ranges().map_err(|error| wrong(error.to_string()))?;
        let Some(public_ip) = own.public_ip.filter(|_| ranges.v4.is_some()) else {
            let reason = match ranges.v4 {
                Some(_) => "it wants IPv4, and this node has no IPv4 address to publish: give it one",
                None => "EnableIPv4 must be true: the keys of leases in etcd begin with an IPv4 subnet",
            };
            return Err(wrong(reason.to_owned()));
        };
        if ranges.v6.is_some() && own.public_ipv6.is_none() {
            return Err(wrong(
                "it wants IPv6, and this node has no IPv6 address to publish: give it one".to_owned(),
            ));
        }
        can(&config).map_err(NotYet::Stop)?;
        let listed = self.client.range(&self.subnets(), true).await.map_err(|f| self.not_yet(f))?;
        let mut leases = Leases::new(self.subnets());
        leases.replace(&listed.kvs, None);

        let previous = own.previous.unwrap_or_default();
        let mut before = previous;
        let mine: Vec<_> = leases.of(public_ip).map(|(key, lease)| (key.clone(), lease.clone())).collect();
        let (fit, unfit): (Vec<_>, Vec<_>) =
            mine.into_iter().partition(|(_, lease)| fits(&ranges, &lease.peer.subnets));
        // Of several the one that pods have addresses of.
        if let Some((key, lease)) =
            fit.iter().find(|(_, lease)| lease.peer.subnets == previous).or(fit.first()).cloned()
        {
            let unchanged =
                equal(CompareTarget::Mod, key_of(&self.subnets(), &key), Wanted::ModRevision(lease.written));
            let mut own = own.clone();
            self.inherited = own.inherit(&lease.peer.attributes, &config);
            return self.write(&own, config, lease.peer.subnets, unchanged, lease.id == 0, granted).await;
        }
        self.inherited = None;
        for (key, lease) in unfit {
            before.v4 = before.v4.or(lease.peer.subnets.v4);
            before.v6 = before.v6.or(lease.peer.subnets.v6);
            if lease.id == 0 {
                warn!(
                    "the reservation {} does not go with the configuration; it is left alone",
                    lease.peer.subnets
                );
                continue;
            }
            info!(
                "the lease of {} does not go with the configuration any more and is given back",
                lease.peer.subnets
            );
            let key = key_of(&self.subnets(), &key);
            let delete = TxnRequest {
                compare: vec![equal(CompareTarget::Mod, key.clone(), Wanted::ModRevision(lease.written))],
                success: vec![op(Request::Delete(DeleteRangeRequest { key }))],
                failure: Vec::new(),
            };
            self.client.txn(delete).await.map_err(|f| self.not_yet(f))?;
        }
        let subnets = choose(&ranges, &leases.taken(), &before, |count| rand::random_range(0..count))
            .map_err(|full| NotYet::Stop(explain_full(&full.range)))?;
        let key = subnets.key().ok_or(NotYet::Race)?;
        let nobody = nobody_has(&self.subnets(), &subnets, &key);
        let held = self.write(own, config, subnets, nobody, false, granted).await?;
        // What does not begin alike can still overlap. The later one yields.
        if let Some((other, lease)) = held.leases.overlapping(&key, &subnets) {
            info!("{subnets} overlaps {other} of {:?}, which was faster", lease.peer.attributes.public_ip);
            self.give_back(&held).await.map_err(|f| self.not_yet(f))?;
            return Err(NotYet::Race);
        }
        Ok(held)
    }

    async fn read_config(&mut self) -> Result<NetConf, NotYet> {
        let place = self.config_place();
        let key = format!("{}config", self.settings.prefix);
        let answer = self.client.range(&key, false).await.map_err(|f| self.not_yet(f))?;
        let wrong = |reason: String| StoreError::Content { place, reason };
        let Some(kv) = answer.kvs.first() else {
            let example = "'{\"Network\":\"10.244.0.0/16\",\"Backend\":{\"Type\":\"vxlan\"}}'";
            let reason = format!("there is no such key: write it, as by etcdctl put {key} {example}");
            return Err(NotYet::Wait(wrong(reason)));
        };
        NetConf::parse(&String::from_utf8_lossy(&kv.value))
            .map_err(|error| NotYet::Stop(wrong(error.to_string())))
    }

    fn config_place(&self) -> String {
        format!("etcd key {}config", self.settings.prefix)
    }

    /// Writes the own key if `compare` holds, and reads all keys as they are then.
    async fn write(
        &mut self,
        own: &Own,
        config: NetConf,
        subnets: Subnets,
        compare: Compare,
        reserved: bool,
        granted: &mut Option<Granted>,
    ) -> Result<Held, NotYet> {
        let attributes = own.attributes(&config);
        let key = subnets.key().ok_or(NotYet::Race)?;
        let lease = match reserved {
            true => None,
            false => Some(self.lease(granted).await.map_err(|f| self.not_yet(f))?),
        };
        let all = self.subnets();
        let put = PutRequest {
            key: key_of(&all, &key),
            value: attributes.to_json().into_bytes(),
            lease: lease.map_or(0, |lease| lease.id),
        };
        let request = TxnRequest {
            compare: vec![compare],
            success: vec![op(Request::Put(put)), op(Request::Range(range_request(&all, true)))],
            failure: Vec::new(),
        };
        let answer = self.client.txn(request).await.map_err(|f| self.not_yet(f))?;
        if !answer.succeeded {
            return Err(NotYet::Race);
        }
        if lease.is_some() {
            *granted = None;
        }
        let mut leases = Leases::new(all);
        let all = answer.responses.iter().find_map(|r| r.range.as_ref()).map_or(&[][..], |range| &range.kvs);
        leases.replace(all, None);
        let seen = Seen::of(answer.header.as_ref());
        let until = lease.map_or(Until::Never, |lease| lease.until());
        match until {
            Until::Never => info!("this node has {subnets} by a reservation in etcd"),
            Until::At(_) => info!("this node has {subnets} by a lease in etcd"),
        }
        let written = Some(seen.revision);
        Ok(Held { config, attributes, own: subnets, key, until, written, leases, seen, trouble: None })
    }

    async fn lease(&mut self, granted: &mut Option<Granted>) -> Result<Granted, Failure> {
        match granted {
            Some(granted) if granted.at.elapsed() < FRESH => Ok(*granted),
            _ => {
                let new = self.grant().await?;
                *granted = Some(new);
                Ok(new)
            }
        }
    }

    async fn grant(&mut self) -> Result<Granted, Failure> {
        let at = Instant::now();
        let (id, ttl) = self.client.grant(self.settings.timing.lease.as_secs() as i64).await?;
        Ok(Granted { id, ttl, at })
    }

    async fn give_back(&mut self, held: &Held) -> Result<(), Failure> {
        let key = key_of(&self.subnets(), &held.key);
        let delete = TxnRequest {
            compare: vec![equal(CompareTarget::Mod, key.clone(), Wanted::ModRevision(held.seen.revision))],
            success: vec![op(Request::Delete(DeleteRangeRequest { key }))],
            failure: Vec::new(),
        };
        self.client.txn(delete).await.map(drop)
    }

    /// Writes the own key again on a fresh lease: to renew it, or because it is gone. Err: nobody answers. Ok with a text: somebody
    /// else has the subnet.
    pub(super) async fn write_again(&mut self, held: &mut Held) -> Result<Option<String>, Failure> {
        let all = self.subnets();
        let key = key_of(&all, &held.key);
        let (compare, reserved) = match held.leases.get(&held.key) {
            Some(lease) if lease.peer.attributes.public_ip == held.attributes.public_ip => {
                (equal(CompareTarget::Mod, key.clone(), Wanted::ModRevision(lease.written)), lease.id == 0)
            }
            Some(other) => return Ok(Some(taken(held, &held.key, other))),
            None => match held.leases.overlapping(&held.key, &held.own) {
                Some((other, lease)) => return Ok(Some(taken(held, other, lease))),
                None => (nobody_has(&all, &held.own, &held.key), false),
            },
        };
        let lease = if reserved { None } else { Some(self.grant().await?) };
        let put = PutRequest {
            key,
            value: held.attributes.to_json().into_bytes(),
            lease: lease.map_or(0, |lease| lease.id),
        };
        let request =
            TxnRequest { compare: vec![compare], success: vec![op(Request::Put(put))], failure: Vec::new() };
        // Without an answer it is not known whether the key hangs on the new lease by now, and with the lease the key would go.
        // If it does not, the lease ends by itself.
        let answer = self.client.txn(request).await?;
        if !answer.succeeded {
            if let Some(lease) = lease {
                let _ = self.client.revoke(lease.id).await;
            }
            // Somebody has written it meanwhile: the watch tells what, and then it is decided anew.
            return Err(Failure::Passing("the lease has just been changed by somebody else".to_owned()));
        }
        held.written = answer.header.map(|header| header.revision);
        held.until = lease.map_or(Until::Never, |lease| lease.until());
        Ok(None)
    }

    fn not_yet(&self, failure: Failure) -> NotYet {
        let stop = matches!(failure, Failure::Refused(_));
        let error = self.client.explain(failure);
        if stop { NotYet::Stop(error) } else { NotYet::Wait(error) }
    }
}

impl Granted {
    fn until(&self) -> Until {
        Until::At(self.at + Duration::from_secs(self.ttl.try_into().unwrap_or(0)))
    }
}

fn taken(held: &Held, key: &str, lease: &super::leases::Lease) -> String {
    let by =
        lease.peer.attributes.public_ip.map_or_else(|| "nobody".to_owned(), |address| address.to_string());
    format!(
        "this node's subnet {} is held by {by} in etcd ({key}): delete that lease, or drain this node and restart weftd, which \
         takes another subnet then",
        held.own
    )
}

pub(super) fn key_of(subnets: &str, key: &str) -> Vec<u8> {
    format!("{subnets}{key}").into_bytes()
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn equal(target: CompareTarget, key: Vec<u8>, wanted: Wanted) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key,
        wanted: Some(wanted),
        range_end: Vec::new(),
    }
}

/// No key of this IPv4 subnet exists, whatever follows its address: flannel compares its own key only, which this one is
/// among.
fn nobody_has(all: &str, subnets: &Subnets, key: &str) -> Compare {
    let address = subnets.v4.map_or_else(|| key.to_owned(), |net| format!("{}-", net.network()));
    let prefix = key_of(all, &address);
    let range_end = end_of(&prefix);
    Compare { range_end, ..equal(CompareTarget::Version, prefix, Wanted::Version(0)) }
}

fn explain_full(range: &Range) -> StoreError {
    let text = |number: u128| match u32::try_from(number) {
        Ok(v4) if range.bits == 32 => Ipv4Addr::from_bits(v4).to_string(),
        _ => Ipv6Addr::from_bits(number).to_string(),
    };
    StoreError::Full { min: text(range.min), max: text(range.max) }
}
