//! Follows a collection of objects: a list by pages, then a watch from where it ended; a watch that ends is begun again
//! where it stood, and one that can't be is a new list. Nothing is told that the collection did not say in that order,
//! so whoever keeps what is told has, whatever happened, what a list of that moment would give.

use super::api::{Api, ApiError, Collection, list_of};
use super::object::{Event, Object, Read, Reading, Refusal, version_of};
use super::patience::Backoff;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

/// How many objects a page of a list has: a few megabytes of Nodes.
const PAGE: usize = 250;
/// How many watches in a row may bring nothing and fail before a list is asked for.
const FRUITLESS: u32 = 3;

/// What a collection says.
pub(super) enum Said<T> {
    /// These are all.
    All(BTreeMap<String, T>),
    /// This one is so now.
    One(String, T),
    /// This one is no more, or does not concern us any more.
    Gone(String),
    /// It is told up to this version (not after each change, but now and then).
    At(String),
    /// The server can't be reached, or refuses; it is tried again.
    Lost(ApiError),
    /// It is reached again. What was missed is told before or after.
    Back,
}

/// Somebody receives no more.
struct Deaf;

/// Who follows.
pub(super) struct Follower<T> {
    api: Api,
    of: Collection,
    reading: Arc<Reading>,
    to: mpsc::Sender<Said<T>>,
    /// What the collection is called in messages: `nodes`.
    called: &'static str,
    backoff: Backoff,
    /// The kind of the last trouble, as long as it lasts.
    trouble: Option<u16>,
    /// What objects were complained about, so that each costs one line.
    complaints: HashMap<String, String>,
    /// Pages are not to be had: the server forgets faster than we read.
    whole: bool,
}

impl<T: Object> Follower<T> {
    pub(super) fn new(
        api: Api,
        (of, called): (Collection, &'static str),
        reading: Arc<Reading>,
        to: mpsc::Sender<Said<T>>,
    ) -> Self {
        let backoff = Backoff::new(api.patience().first_retry, api.patience().last_retry);
        Self {
            api,
            of,
            reading,
            to,
            called,
            backoff,
            trouble: None,
            complaints: HashMap::new(),
            whole: false,
        }
    }

    /// Ends when nobody receives any more.
    pub(super) async fn run(mut self) {
        let to = self.to.clone();
        tokio::select! {
            _ = self.follow() => {}
            () = to.closed() => {}
        }
    }

    async fn follow(&mut self) -> Result<(), Deaf> {
        loop {
            let version = match self.list().await {
                Ok((all, version)) => {
                    self.tell(Said::All(all)).await?;
                    self.tell(Said::At(version.clone())).await?;
                    self.well().await?;
                    version
                }
                Err(error) => {
                    self.unwell(error).await?;
                    continue;
                }
            };
            self.watch(version).await?;
        }
    }

    /// All objects, and the version that they are of.
    async fn list(&mut self) -> Result<(BTreeMap<String, T>, String), ApiError> {
        let (mut all, mut wrong) = (BTreeMap::new(), HashSet::new());
        let mut next = None::<String>;
        loop {
            let limit = if self.whole { 0 } else { PAGE };
            let page = match self.api.page(&self.of, limit, next.as_deref()).await {
                // The rest of the list is no more. Whole, it can't grow old while it is read.
                Err(error) if error.is_gone() && next.is_some() => {
                    debug!("the list of {} is to be had whole only: {error}", self.called);
                    self.whole = true;
                    next = None;
                    all.clear();
                    continue;
                }
                page => page?,
            };
            let page = list_of(&page)?;
            for read in page.items().filter_map(|item| self.read(item)) {
                if read.complaint.is_some() {
                    wrong.insert(read.key.clone());
                }
                if let Some(object) = read.object {
                    all.insert(read.key, object);
                }
            }
            match page.next() {
                Some(further) if next.as_deref() == Some(further) => {
                    return Err(ApiError::Garbled("a list whose pages have no end".to_owned()));
                }
                Some(further) => next = Some(further.to_owned()),
                None => {
                    let version = page.version().filter(|version| !version.is_empty());
                    let version =
                        version.ok_or_else(|| ApiError::Garbled("a list without a version".to_owned()))?;
                    self.whole = false;
                    self.complaints.retain(|key, _| wrong.contains(key));
                    return Ok((all, version.to_owned()));
                }
            }
        }
    }

    /// Watches from `version` on, until only a list helps.
    async fn watch(&mut self, mut version: String) -> Result<(), Deaf> {
        let mut fruitless = 0;
        while fruitless < FRUITLESS {
            let (mut begun, since) = (None, version.clone());
            let ended = self.one_watch(&mut version, &mut begun).await?;
            let fruitful = version != since;
            fruitless = if fruitful { 0 } else { fruitless + 1 };
            let lasted = begun.map_or(Duration::ZERO, |begun: Instant| begun.elapsed());
            let worked = fruitful || lasted >= self.api.patience().last_retry;
            if worked {
                self.backoff.reset();
            }
            match ended {
                Ok(()) if worked => {}
                Ok(()) => sleep(self.backoff.next(None)).await,
                Err(error) if error.is_gone() => {
                    debug!("{} since version {version} are no more to be had: {error}", self.called);
                    if !worked {
                        sleep(self.backoff.next(error.retry_after())).await;
                    }
                    return Ok(());
                }
                // One that had worked and broke is no trouble yet: the next try says whether it is.
                Err(error) if worked => {
                    debug!("the watch of {} broke: {error}", self.called);
                    sleep(self.backoff.next(error.retry_after())).await;
                }
                Err(error) => self.unwell(error).await?,
            }
        }
        Ok(())
    }

    /// One watch until its end. `version` follows what was told; `begun` is when the server began to answer.
    async fn one_watch(
        &mut self,
        version: &mut String,
        begun: &mut Option<Instant>,
    ) -> Result<Result<(), ApiError>, Deaf> {
        let mut lines = match self.api.watch(&self.of, version).await {
            Ok(lines) => lines,
            Err(error) => return Ok(Err(error)),
        };
        *begun = Some(Instant::now());
        self.well().await?;
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            };
            if line.is_empty() {
                continue;
            }
            let event: Event<'_> = match serde_json::from_slice(line) {
                Ok(event) => event,
                Err(error) => return Ok(Err(ApiError::Garbled(format!("an event: {error}")))),
            };
            if event.kind == "ERROR" {
                return Ok(Err(ApiError::Refused(Refusal::of_event(event.object.get()))));
            }
            let json = event.object.get();
            let now = match &*event.kind {
                "ADDED" | "MODIFIED" | "DELETED" => {
                    let Some(read) = self.read(json) else { continue };
                    let object = read.object.filter(|_| event.kind != "DELETED");
                    self.tell(match object {
                        Some(object) => Said::One(read.key, object),
                        None => Said::Gone(read.key),
                    })
                    .await?;
                    read.version
                }
                // A bookmark says the version only, and so may kinds of events that are yet to be invented.
                _ => {
                    let now = version_of(json).filter(|now| !now.is_empty());
                    if let Some(now) = &now {
                        self.tell(Said::At(now.clone())).await?;
                    }
                    now
                }
            };
            if let Some(now) = now.filter(|now| !now.is_empty()) {
                *version = now;
            }
        }
    }

    /// Reads an object, and complains once about one that is wrong.
    fn read(&mut self, json: &str) -> Option<Read<T>> {
        let read = Read::<T>::from(json, &self.reading);
        match &read {
            None => debug!("an object without a name among the {}", self.called),
            Some(Read { key, complaint: None, .. }) => drop(self.complaints.remove(key)),
            Some(Read { key, complaint: Some(complaint), .. }) => {
                if self.complaints.get(key) != Some(complaint) {
                    warn!("{}: {key} can't be read and does not count: {complaint}", self.called);
                    self.complaints.insert(key.clone(), complaint.clone());
                }
            }
        }
        read
    }

    async fn tell(&self, said: Said<T>) -> Result<(), Deaf> {
        self.to.send(said).await.map_err(|_| Deaf)
    }

    /// The server has answered as it should.
    async fn well(&mut self) -> Result<(), Deaf> {
        if self.trouble.take().is_some() {
            info!("the Kubernetes API at {} answers again ({})", self.api.url(), self.called);
            self.tell(Said::Back).await?;
        }
        Ok(())
    }

    /// Tells the trouble, if it is a new one, and waits.
    async fn unwell(&mut self, error: ApiError) -> Result<(), Deaf> {
        if self.trouble != Some(error.kind()) {
            warn!(
                "the Kubernetes API at {}, {}: {error}; it is tried again, and what is known stays in force",
                self.api.url(),
                self.called
            );
            self.trouble = Some(error.kind());
            self.tell(Said::Lost(error.clone())).await?;
        }
        sleep(self.backoff.next(error.retry_after())).await;
        // What broke may be a connection to a server that has other certificates by now.
        if !matches!(error, ApiError::Garbled(_)) && error.retry_after().is_none() {
            if let Err(error) = self.api.renew().await {
                debug!("{error}");
            }
        }
        Ok(())
    }
}
