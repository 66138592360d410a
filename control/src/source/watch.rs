//! Says when a file may have changed. inotify on the folder wakes us (editors replace files by renaming,
//! Kubernetes swaps a link beside it), a look every few seconds makes up for events that got lost or never
//! come (a link's target in another folder, a folder that was replaced, no inotify to be had). Either way the
//! file's identity decides: events that leave it as it was, such as reading it, are no change.

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::warn;

/// How long nothing must happen before a change is told: a file is written in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// A change is told after this time, though the folder never gets quiet.
const QUIET_AT_LAST: Duration = Duration::from_millis(500);
/// How often the file is looked at without an event.
const LOOK: Duration = Duration::from_secs(3);

/// What tells one state of a file from another. None: there is no such file.
type Identity = Option<(u64, u64, u64, SystemTime, (i64, i64))>;

/// A file that is watched from [`Watch::new`] on. The file need not exist, nor its folder.
pub struct Watch {
    path: PathBuf,
    events: Arc<Notify>,
    folder: Option<Folder>,
    told: Identity,
    look: Duration,
    warned: bool,
}

/// The folder that inotify watches, and which one it was, to see when another takes its place.
struct Folder {
    _watcher: RecommendedWatcher,
    identity: (u64, u64),
}

impl Watch {
    /// Begins to watch. What happens to the file from now on is told, so make this first and read the file
    /// then.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_look(path.into(), LOOK)
    }

    fn with_look(path: PathBuf, look: Duration) -> Self {
        let events = Arc::new(Notify::new());
        let mut watch = Self { path, events, folder: None, told: None, look, warned: false };
        watch.watch_folder();
        watch.told = identity(&watch.path);
        watch
    }

    /// Returns when the file is another than at the last return (or than when this was made), after it has
    /// been quiet for about 50 ms. Several changes may be told as one. Nothing is lost if the future is
    /// dropped.
    pub async fn changed(&mut self) {
        loop {
            if identity(&self.path) != self.told {
                self.wait_for_quiet().await;
                let now = identity(&self.path);
                // It may have been put back meanwhile.
                if now != self.told {
                    self.told = now;
                    return;
                }
            }
            if timeout(self.look, self.events.notified()).await.is_err() {
                self.watch_folder();
            }
        }
    }

    async fn wait_for_quiet(&self) {
        let end = Instant::now() + QUIET_AT_LAST;
        while Instant::now() < end {
            if timeout(QUIET, self.events.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Watches the folder, if it is not the one that is watched already.
    fn watch_folder(&mut self) {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let now = std::fs::metadata(folder).ok().map(|m| (m.dev(), m.ino()));
        let Some(now) = now else {
            self.folder = None;
            return;
        };
        if self.folder.as_ref().is_some_and(|f| f.identity == now) {
            return;
        }
        let events = Arc::clone(&self.events);
        let watcher = notify::recommended_watcher(move |_| events.notify_one());
        let watched = watcher.and_then(|mut watcher| {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
            Ok(Folder { _watcher: watcher, identity: now })
        });
        self.folder = match watched {
            Ok(folder) => Some(folder),
            Err(error) => {
                if !self.warned {
                    warn!(
                        "no inotify for {}: {error}; changes are seen within {:?}. Raise fs.inotify.max_user_instances \
                         and max_user_watches to see them at once",
                        folder.display(),
                        self.look
                    );
                }
                self.warned = true;
                None
            }
        };
    }
}

fn identity(path: &Path) -> Identity {
    let facts = std::fs::metadata(path).ok()?;
    let changed = (facts.ctime(), facts.ctime_nsec());
    Some((facts.dev(), facts.ino(), facts.size(), facts.modified().ok()?, changed))
}

#[cfg(test)]
mod tests;
