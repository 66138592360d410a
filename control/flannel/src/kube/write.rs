//! What this node says of itself: its annotations and its condition. Level-triggered too: a Node that was deleted and
//! registered again, or that somebody has edited, is told again. In between it waits, so that two who don't agree do not
//! write all the time.

use super::api::{Api, ApiError};
use super::object::{Node, Reading};
use super::patience::{Backoff, Patience};
use crate::lease::Attributes;
use crate::net_conf::NetConf;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use tracing::{info, warn};

/// A write on its way.
pub(super) type Writing = Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send>>;

/// Who writes.
pub(super) struct Writer {
    reading: Arc<Reading>,
    attributes: Attributes,
    config: NetConf,
    condition: bool,
    backoff: Backoff,
    not_before: Instant,
    /// Since when there has been nothing to write.
    agreed: Option<Instant>,
    /// How long that must last before it counts: one's own change is seen too, a moment before somebody else's.
    calm: Duration,
    /// Something is to be written, but not yet.
    waits: bool,
    trouble: Option<String>,
}

impl Writer {
    pub(super) fn new(
        reading: Arc<Reading>,
        attributes: Attributes,
        config: NetConf,
        condition: bool,
        patience: Patience,
    ) -> Self {
        Self {
            reading,
            attributes,
            config,
            condition,
            backoff: Backoff::new(patience.first_retry * 5, patience.last_retry * 2),
            not_before: Instant::now(),
            agreed: None,
            calm: patience.last_retry * 2,
            waits: false,
            trouble: None,
        }
    }

    /// What is to be written now, if anything.
    pub(super) fn due(&mut self, api: &Arc<Api>, node: Option<&Node>) -> Option<Writing> {
        self.waits = false;
        let node = node?;
        let annotations = node.notes.patch(&self.attributes, &self.config, &self.reading.names);
        let condition = (self.condition && node.network_unavailable != Some(false)).then(condition);
        if annotations.is_none() && condition.is_none() {
            self.agreed.get_or_insert_with(Instant::now);
            return None;
        }
        if self.agreed.take().is_some_and(|since| since.elapsed() >= self.calm) {
            self.backoff.reset();
        }
        if Instant::now() < self.not_before {
            self.waits = true;
            return None;
        }
        let (api, path) = (Arc::clone(api), format!("/api/v1/nodes/{}/status", self.reading.own));
        Some(Box::pin(async move {
            // The annotations first: the condition lets pods come.
            for patch in [annotations, condition].into_iter().flatten() {
                api.patch(&path, patch).await?;
            }
            Ok(())
        }))
    }

    /// A write has ended. What it changed is seen by the watch, a moment later.
    pub(super) fn done(&mut self, wrote: Result<(), ApiError>) {
        let asked = wrote.as_ref().err().and_then(ApiError::retry_after);
        self.not_before = Instant::now() + self.backoff.next(asked);
        match wrote {
            Ok(()) => {
                info!("node {} says how it is reached", self.reading.own);
                self.trouble = None;
            }
            Err(error) => {
                let text = error.to_string();
                if self.trouble.as_ref() != Some(&text) {
                    warn!("node {} can't be annotated: {text}; it is tried again", self.reading.own);
                    self.trouble = Some(text);
                }
            }
        }
    }

    /// When something is to be written that must wait.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        self.waits.then_some(self.not_before)
    }
}

/// The patch of the condition, with the keys in the order of Kubernetes.
fn condition() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = rfc3339(now.as_secs());
    format!(
        "{{\"status\":{{\"conditions\":[{{\"type\":\"NetworkUnavailable\",\"status\":\"False\",\
         \"lastHeartbeatTime\":\"{now}\",\"lastTransitionTime\":\"{now}\",\"reason\":\"FlannelIsUp\",\
         \"message\":\"Flannel is running on this node\"}}]}}}}"
    )
}

/// Seconds since 1970 as Kubernetes writes times.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the leap day is the last one; eras of 400 years are all alike.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_kubernetes_writes_them() {
        // By `date -u -d @N`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_262_706, "2026-11-21T12:05:06Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn the_condition_has_flannels_words() {
        let text = condition();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let condition = &json["status"]["conditions"][0];
        assert_eq!(condition["type"], "NetworkUnavailable");
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["reason"], "FlannelIsUp");
        assert_eq!(condition["message"], "Flannel is running on this node");
        assert_eq!(condition["lastHeartbeatTime"], condition["lastTransitionTime"]);
        assert!(text.find("lastHeartbeatTime") < text.find("lastTransitionTime"));
    }
}
