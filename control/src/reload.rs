//! weftd.toml while weftd runs: it is read again after each change and on demand.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tracing::{debug, error};

use crate::config::{Config, ConfigError};
use crate::source::watch::Watch;

/// The file with weftd's own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether a missing file means the defaults: nobody has named it.
    pub optional: bool,
}

impl ConfigFile {
    /// Reads it.
    ///
    /// # Errors
    /// As [`Config::load`]; a missing file only if it is not optional.
    pub fn load(&self) -> Result<Config, ConfigError> {
        match self.optional {
            true => Config::load_or_default(&self.path),
            false => Config::load(&self.path),
        }
    }

    /// Sends the configuration, or why there is none, at once and after each change, until nobody receives any more.
    /// `reload` asks for it without a change (SIGHUP). What is sent may equal the last.
    pub async fn follow(self, updates: mpsc::Sender<Result<Config, ConfigError>>, reload: Arc<Notify>) {
        let mut watch = Watch::new(&self.path);
        loop {
            let file = self.clone();
            match tokio::task::spawn_blocking(move || file.load()).await {
                Ok(update) => {
                    if updates.send(update).await.is_err() {
                        return;
                    }
                }
                Err(broken) => error!("{}: reading broke off: {broken}", self.path.display()),
            }
            tokio::select! {
                () = watch.changed() => debug!("{} has changed", self.path.display()),
                () = reload.notified() => debug!("{} is read again on demand", self.path.display()),
                () = updates.closed() => return,
            }
        }
    }
}

/// Has both files read again without a change. Clones ask for the same.
#[derive(Clone, Debug, Default)]
pub struct Reload {
    pub(crate) cluster: Arc<Notify>,
    pub(crate) config: Arc<Notify>,
}

impl Reload {
    /// Asks for it.
    pub fn ask(&self) {
        self.cluster.notify_one();
        self.config.notify_one();
    }
}
