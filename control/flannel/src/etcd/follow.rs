//! Keeping the own lease and following the others': a watch that goes on where it broke off, a list of all where that is not
//! possible, and renewal in between. Nothing here ends for the store's sake.

use super::acquire::BackOff;
use super::client::Failure;
use super::proto::{EventKind, WatchResponse};
use super::{Etcd, Held, Seen, Until};
use crate::store::{Cluster, Update};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Streaming;
use tracing::{info, warn};

/// How far two tellings are apart at least: a lone change is told at once, of many that come together most are told as one.
const APART: Duration = Duration::from_millis(10);

/// Nobody listens any more.
struct Ended;

/// What tells the changes.
struct Teller {
    updates: mpsc::Sender<Update>,
    /// What was told last.
    last: Arc<Cluster>,
    changed: bool,
    not_before: Instant,
}

impl Teller {
    /// Returns when a change is to be told and can be.
    async fn due(&self) -> Result<mpsc::Permit<'_, Update>, Ended> {
        if !self.changed {
            self.updates.closed().await;
            return Err(Ended);
        }
        sleep_until(self.not_before).await;
        self.updates.reserve().await.map_err(|_| Ended)
    }
}

/// What came of a message.
enum Next {
    GoOn,
    /// The list of all is needed.
    List,
}

/// What there is to do.
enum Happened {
    Message(Result<Option<WatchResponse>, tonic::Status>),
    Renewal,
    /// What a restored store does not know has been missed for long enough.
    Missed,
    /// A change can be told.
    Due,
}

impl Etcd {
    pub(super) async fn follow(&mut self, mut held: Held, updates: mpsc::Sender<Update>) {
        let last = Arc::new(held.cluster());
        let mut teller = Teller { updates, last, changed: false, not_before: Instant::now() };
        let mut back_off = BackOff::new();
        let mut renew_at = self.renewal(held.until);
        let mut list = false;
        let mut lost: Option<Instant> = None;
        let mut back_since: Option<Instant> = None;
        loop {
            let opened = self.open(&mut held, &mut teller, &mut renew_at, list).await;
            let failure = match opened {
                Ok(stream) => {
                    if let Some(lost) = lost.take() {
                        info!("etcd is reached again");
                        // What comes next is waited for anew, but not of a server that comes and goes.
                        if back_since.is_none_or(|at| at.elapsed() > BackOff::STEADY) {
                            back_off = BackOff::new();
                        }
                        back_since = Some(Instant::now());
                        // What could have been written meanwhile is heard from now on.
                        held.leases.was_away(lost, Instant::now());
                        if teller.updates.send(Update::Back).await.is_err() {
                            return;
                        }
                    }
                    self.tell(&held);
                    let since = Instant::now();
                    let ended = self.listen(&mut held, &mut teller, &mut renew_at, stream).await;
                    // Whoever ends each watch at once is not asked again at once.
                    if since.elapsed() > BackOff::STEADY {
                        back_off = BackOff::new();
                    }
                    match ended {
                        Ok(Next::List) => {
                            list = true;
                            None
                        }
                        Ok(Next::GoOn) => {
                            list = false;
                            None
                        }
                        Err(Ended) => return,
                    }
                }
                Err(failure) => Some(failure),
            };
            if let Some(failure) = failure {
                let error = self.client.explain(failure);
                self.status.send_modify(|status| *status = status.lost(error.to_string()));
                if lost.is_none() {
                    lost = Some(Instant::now());
                    warn!("{error}; what it said last stays in force");
                    if teller.updates.send(Update::Lost(error)).await.is_err() {
                        return;
                    }
                }
            }
            let again = sleep(back_off.next());
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    due = teller.due() => match due {
                        Ok(_) => {}
                        Err(Ended) => return,
                    },
                }
                if !tell(&mut held, &mut teller) {
                    return;
                }
            }
        }
    }

    /// Opens a watch behind what has been read, after a list of all if that is asked for, or needed.
    async fn open(
        &mut self,
        held: &mut Held,
        teller: &mut Teller,
        renew_at: &mut Instant,
        list: bool,
    ) -> Result<Streaming<WatchResponse>, Failure> {
        if list {
            self.list(held, teller, renew_at).await?;
        }
        let mut listed = list;
        loop {
            let mut stream = self.client.watch(&self.subnets(), held.seen.revision + 1).await?;
            let first = match timeout(self.settings.timing.answer, stream.message()).await {
                Ok(Ok(Some(first))) => first,
                Ok(Ok(None)) => return Err(Failure::Passing("it ended the watch at once".to_owned())),
                Ok(Err(status)) => return Err(self.client.broken(&status)),
                Err(_) => {
                    self.client.leave();
                    return Err(Failure::Passing("it does not open a watch".to_owned()));
                }
            };
            let now = Seen::of(first.header.as_ref());
            let follows = held.seen.is_followed_by(&now);
            if first.compact_revision != 0 || (!follows && !listed) {
                if listed {
                    return Err(Failure::Passing("it is compacted faster than it is read".to_owned()));
                }
                listed = true;
                self.list(held, teller, renew_at).await?;
                continue;
            }
            if first.canceled {
                self.client.leave();
                return Err(Failure::Passing(format!("it refuses the watch: {}", first.cancel_reason)));
            }
            match take_in(held, teller, renew_at, first) {
                Ok(_) => return Ok(stream),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Takes in what comes until the watch ends.
    async fn listen(
        &mut self,
        held: &mut Held,
        teller: &mut Teller,
        renew_at: &mut Instant,
        mut stream: Streaming<WatchResponse>,
    ) -> Result<Next, Ended> {
        loop {
            let missed = held.leases.missed_until();
            let happened = tokio::select! {
                message = stream.message() => Happened::Message(message),
                () = sleep_until(*renew_at) => Happened::Renewal,
                () = sleep_until(missed.unwrap_or_else(Instant::now)), if missed.is_some() => Happened::Missed,
                due = teller.due() => due.map(|_| Happened::Due)?,
            };
            match happened {
                Happened::Message(Ok(Some(response))) => match take_in(held, teller, renew_at, response) {
                    Ok(Next::GoOn) => self.tell(held),
                    Ok(Next::List) => return Ok(Next::List),
                    Err(failure) => {
                        let error = self.client.explain(failure);
                        info!("the watch has ended: {error}");
                        self.client.leave();
                        return Ok(Next::GoOn);
                    }
                },
                Happened::Message(Ok(None)) => return Ok(Next::GoOn),
                Happened::Message(Err(status)) => {
                    let failure = self.client.broken(&status);
                    let error = self.client.explain(failure);
                    info!("the watch has ended: {error}");
                    return Ok(Next::GoOn);
                }
                Happened::Renewal => self.renew(held, renew_at).await,
                Happened::Missed => {
                    for key in held.leases.end_missing(Instant::now()) {
                        warn!("etcd was restored, and nobody has written the lease {key} again: it is over");
                    }
                    teller.changed = true;
                    self.tell(held);
                }
                Happened::Due if tell(held, teller) => {}
                Happened::Due => return Err(Ended),
            }
        }
    }

    /// Reads all leases anew.
    async fn list(
        &mut self,
        held: &mut Held,
        teller: &mut Teller,
        renew_at: &mut Instant,
    ) -> Result<(), Failure> {
        let listed = self.client.range(&self.subnets(), true).await?;
        let now = Seen::of(listed.header.as_ref());
        // A backup may be restored with revisions beyond all that there were; what is in it is as old as before.
        let follows = held.seen.is_followed_by(&now) && !held.leases.are_newer_than(&listed.kvs);
        if !follows {
            warn!(
                "etcd was restored from a backup, or is another one: revision {} was read, now it is {}; all leases are read \
                 again",
                held.seen.revision, now.revision
            );
        }
        // For as long as one lasts that is not renewed: a flanneld writes its own again only when it renews it.
        let missed_for = (!follows).then_some(self.settings.timing.lease);
        teller.changed |= held.leases.replace(&listed.kvs, missed_for);
        if let Some(missed) = held.missed().filter(|_| !follows) {
            warn!("{missed}");
        }
        match held.leases.get(&held.key) {
            Some(lease) => {
                let (id, written) = (lease.id, lease.written);
                let same_node = lease.peer.attributes.public_ip == held.attributes.public_ip;
                // The lease may be another one than we know, with an end of its own.
                held.until = match id {
                    0 => Until::Never,
                    id => Until::after(self.client.time_to_live(id).await?.unwrap_or(0)),
                };
                *renew_at = self.renewal(held.until);
                if held.written != Some(written) {
                    held.written = None;
                }
                // What is there may be of a backup, from before this node had the address or the MAC address that it has now:
                // peers must not send there until the next renewal.
                match look_at_own(held) {
                    Some(_) if same_node => *renew_at = Instant::now(),
                    trouble => {
                        if let Some(trouble) = &trouble {
                            warn!("{trouble}");
                        }
                        held.trouble = trouble;
                    }
                }
            }
            None => {
                held.written = None;
                *renew_at = Instant::now();
            }
        }
        // Only what has been read to its end is not read again.
        held.seen = now;
        Ok(())
    }

    /// Writes the own key on a fresh lease.
    async fn renew(&mut self, held: &mut Held, renew_at: &mut Instant) {
        let was_there = held.leases.get(&held.key).is_some();
        held.trouble = match self.write_again(held).await {
            Ok(None) => {
                *renew_at = self.renewal(held.until);
                let word = if was_there { "renewed" } else { "taken again: its key was gone from etcd" };
                info!("the lease of {} is {word}", held.own);
                None
            }
            Ok(Some(taken)) => {
                *renew_at = Instant::now() + self.settings.timing.again;
                warn!("{taken}");
                Some(taken)
            }
            Err(failure) => {
                *renew_at = Instant::now() + self.settings.timing.again;
                let trouble =
                    format!("the lease of {} is not renewed: {}", held.own, self.client.explain(failure));
                warn!("{trouble}; it is tried again");
                Some(trouble)
            }
        };
        self.tell(held);
    }

    /// When a lease is to be renewed: a little earlier by chance, so that nodes that started together do not stay together.
    fn renewal(&self, until: Until) -> Instant {
        const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        let margin = self.settings.timing.margin;
        match until {
            Until::Never => Instant::now() + NEVER,
            Until::At(at) => {
                let now = Instant::now();
                now + wait(at.saturating_duration_since(now), margin, rand::random_range(0.0..1.0))
            }
        }
    }
}

/// How long to wait with the renewal of a lease that has `left` to go. What chance (0 to 1) takes off is of the time before
/// the margin, which may be the longer part of the lease. Later than at once in any case: a lease that the server cuts
/// short must not be renewed all the time.
fn wait(left: Duration, margin: Duration, chance: f64) -> Duration {
    const AT_LEAST: Duration = Duration::from_secs(5);
    let before = left.saturating_sub(margin);
    let early = (margin / 10).min(before / 2).mul_f64(chance);
    (before - early).max(AT_LEAST.min(left / 2))
}

/// Tells the cluster as it is now, if there is room for it. False: nobody listens any more.
fn tell(held: &mut Held, teller: &mut Teller) -> bool {
    if !teller.changed || Instant::now() < teller.not_before {
        return true;
    }
    let cluster = held.cluster();
    if cluster == *teller.last {
        teller.changed = false;
        return true;
    }
    let cluster = Arc::new(cluster);
    match teller.updates.try_send(Update::Cluster(Arc::clone(&cluster))) {
        Ok(()) => {
            teller.last = cluster;
            teller.changed = false;
            teller.not_before = Instant::now() + APART;
            true
        }
        Err(mpsc::error::TrySendError::Full(_)) => true,
        Err(mpsc::error::TrySendError::Closed(_)) => false,
    }
}

/// Takes a message in.
fn take_in(
    held: &mut Held,
    teller: &mut Teller,
    renew_at: &mut Instant,
    response: WatchResponse,
) -> Result<Next, Failure> {
    if response.compact_revision != 0 {
        info!("etcd was compacted at revision {}; all leases are read again", response.compact_revision);
        return Ok(Next::List);
    }
    if response.canceled {
        return Err(Failure::Passing(response.cancel_reason));
    }
    let mut last = 0;
    for event in response.events {
        let Some(kv) = event.kv else { continue };
        let own = held.leases.is(&held.key, &kv.key);
        last = kv.mod_revision;
        if event.kind == i32::from(EventKind::Delete) {
            teller.changed |= held.leases.delete(&kv.key);
            if own {
                warn!(
                    "this node's lease of {} was deleted from etcd, or has run out; it is taken again",
                    held.own
                );
                held.written = None;
                *renew_at = Instant::now();
            }
            continue;
        }
        teller.changed |= held.leases.put(&kv);
        if own && held.written != Some(kv.mod_revision) {
            held.written = Some(kv.mod_revision);
            held.trouble = look_at_own(held);
            if let Some(trouble) = &held.trouble {
                warn!("{trouble}");
            }
        }
    }
    // A watch that is opened behind the present has the present's revision in its messages, and sends the past in several.
    // Only a message without events says by itself that all is told.
    if !response.fragment && !response.created {
        let now = Seen::of(response.header.as_ref());
        held.seen = Seen { revision: if last == 0 { now.revision } else { last }, ..now };
    }
    Ok(Next::GoOn)
}

/// What it means that somebody else has written this node's key.
fn look_at_own(held: &Held) -> Option<String> {
    let lease = held.leases.get(&held.key)?;
    if lease.peer.attributes == held.attributes {
        return None;
    }
    let own = held.own;
    Some(match lease.peer.attributes.public_ip {
        by if by == held.attributes.public_ip => format!(
            "another program has written this node's lease of {own}: does flanneld run here too? Peers send to where that \
             one says; end it and restart weftd"
        ),
        Some(by) => {
            format!("{by} claims this node's subnet {own} in etcd; this node keeps it: give {by} another one")
        }
        None => format!("somebody has overwritten this node's lease of {own} in etcd with one of nobody"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_lies_within_the_lease_and_not_at_once() {
        const MINUTE: Duration = Duration::from_secs(60);
        let day = 1440 * MINUTE;
        for margin in [1, 60, 720, 1309, 1310, 1400, 1439].map(|minutes| minutes * MINUTE) {
            for chance in [0.0, 0.5, 0.999_999] {
                let waited = wait(day, margin, chance);
                assert!(waited >= MINUTE / 2 && waited <= day - margin, "{margin:?}, {chance}: {waited:?}");
            }
            assert_eq!(wait(day, margin, 0.0), day - margin);
        }
        assert!(wait(day, 60 * MINUTE, 1.0) == day - 66 * MINUTE);
        // Of what a backup has there may be little left, and nothing at all.
        assert_eq!(wait(30 * MINUTE, 60 * MINUTE, 0.5), Duration::from_secs(5));
        assert_eq!(wait(Duration::from_secs(4), 60 * MINUTE, 0.5), Duration::from_secs(2));
        assert_eq!(wait(Duration::ZERO, 60 * MINUTE, 0.5), Duration::ZERO);
    }
}
