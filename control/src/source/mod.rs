//! Where the desired state comes from. A source is level-triggered: whatever happened, it derives the whole
//! [`Model`] anew and sends it; one that is wrong is sent as an error, and the receiver keeps what it has.

pub mod flannel;
pub mod watch;

use crate::cluster;
use crate::model::Model;
use crate::settings::FileError;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tracing::debug;
use watch::Watch;

/// Why a source has no model at this time. The text says where, what and what to do.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SourceError {
    /// The file can't be read or is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// Reading ended in the middle: a defect of weft, or the end of the daemon.
    #[error("{0}: reading came to no end; report this with the file")]
    Interrupted(String),
    /// A store's content, which cannot be what is desired.
    #[error("{0}")]
    Store(String),
}

/// A source of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A TOML file, see [`cluster`].
    File {
        /// The file, which need not exist yet.
        path: PathBuf,
    },
}

impl Source {
    /// Sends the model, or why there is none, at once and after each change, until nobody receives any more.
    /// `reload` asks for it without a change (SIGHUP). Models that are sent may equal the last one.
    pub async fn run(
        self,
        local_node: String,
        updates: mpsc::Sender<Result<Model, SourceError>>,
        reload: Arc<Notify>,
    ) {
        let Self::File { path } = self;
        let mut watch = Watch::new(&path);
        loop {
            let (file, node) = (path.clone(), local_node.clone());
            // A large file takes a while, and other tasks need this thread.
            let update = tokio::task::spawn_blocking(move || cluster::load(&file, &node)).await;
            let update = match update {
                Ok(update) => update.map_err(SourceError::from),
                Err(_) => Err(SourceError::Interrupted(path.display().to_string())),
            };
            if updates.send(update).await.is_err() {
                return;
            }
            tokio::select! {
                () = watch.changed() => debug!("{} has changed", path.display()),
                () = reload.notified() => debug!("{} is read again on demand", path.display()),
                () = updates.closed() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
