//! What weftd must not forget: its VTEP's MAC address, the pods that were added through its API, and the devices
//! that it has made.

use crate::error::Error;
use crate::lock::make_dir;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The state's file inside the state directory.
pub(crate) const STATE_FILE: &str = "state.json";
/// What the cluster's store said last, inside the state directory.
pub(crate) const CLUSTER_FILE: &str = "cluster.json";
/// What a file's name ends in until it takes the old one's place.
pub(crate) const NEW_SUFFIX: &str = ".new";
/// The beginning of the names of files that were moved aside.
pub(crate) const CORRUPT_PREFIX: &str = "state.json.corrupt-";

/// The version of the format that this build reads and writes.
const VERSION: u64 = 1;

/// weftd's memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The MAC address of this node's VTEP in the first network, as text: peers keep sending to it across a restart.
    #[serde(default)]
    pub vtep_mac: Option<String>,
    /// The same in the further networks, by the network's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vtep_macs: BTreeMap<String, String>,
    /// The pods that were added through the API.
    #[serde(default)]
    pub pods: Vec<StoredPod>,
    /// The devices that weftd has made and that outlive it.
    #[serde(default)]
    pub devices: Vec<Device>,
}

/// A pod as it was added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredPod {
    /// The pod's name.
    pub name: String,
    /// How it is attached.
    pub attachment: StoredAttachment,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Its MAC address.
    pub mac: String,
    /// Whatever else the API's format holds; kept as it is.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A kind of attachment, with the fields that belong to the kind. The API's format says which these are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredAttachment {
    /// Such as "tap" or "vhost-user".
    pub kind: String,
    /// The kind's fields.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// A device that weftd has made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// The file of the network namespace that it is in; none is the host's.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Its name there.
    pub name: String,
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u64,
    #[serde(flatten)]
    state: &'a State,
}

impl State {
    /// Reads the state of a directory; a missing file is an empty state. A file that can't be understood is moved
    /// aside, never overwritten: then the state is empty and the text says what happened. A file of a newer version
    /// is an error.
    pub fn load(state_dir: &Path) -> Result<(Self, Option<String>), Error> {
        let path = state_dir.join(STATE_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok((Self::default(), None)),
            Err(e) => return Err(Error::file("read", &path, e)),
        };
        let parsed = match serde_json::from_slice::<Versioned>(&bytes) {
            Ok(Versioned { version }) if version > VERSION => {
                return Err(Error::StateVersion { path, found: version, known: VERSION });
            }
            Ok(_) => serde_json::from_slice::<Self>(&bytes),
            Err(e) => Err(e),
        };
        match parsed {
            Ok(state) => Ok((state, None)),
            Err(reason) => {
                let aside = move_aside(state_dir, &path)?;
                let warning = format!(
                    "{} is damaged ({reason}); it was moved to {} and weftd starts with an empty state: \
                     pods that were added through the API must be added again",
                    path.display(),
                    aside.display()
                );
                Ok((Self::default(), Some(warning)))
            }
        }
    }

    /// Writes the state.
    pub fn save(&self, state_dir: &Path) -> Result<(), Error> {
        let mut text = serde_json::to_vec_pretty(&Written { version: VERSION, state: self })
            .map_err(|e| Error::file("write", &state_dir.join(STATE_FILE), e.into()))?;
        text.push(b'\n');
        replace(state_dir, STATE_FILE, &text)
    }
}

/// What the cluster's store said last; none where nothing was kept.
pub fn load_cluster(state_dir: &Path) -> Result<Option<Vec<u8>>, Error> {
    let path = state_dir.join(CLUSTER_FILE);
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file("read", &path, e)),
    }
}

/// Keeps what the cluster's store said, in place of what it said before.
pub fn save_cluster(state_dir: &Path, text: &[u8]) -> Result<(), Error> {
    replace(state_dir, CLUSTER_FILE, text)
}

/// Writes a file of the state directory: whoever reads it, even after a crash, sees the old one or this one, whole.
fn replace(state_dir: &Path, name: &str, text: &[u8]) -> Result<(), Error> {
    make_dir(state_dir)?;
    let path = state_dir.join(name);
    let new = state_dir.join(format!("{name}{NEW_SUFFIX}"));
    let write = || {
        // A leftover may have another mode, or be a link: a file that is made anew has ours.
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text)?;
        file.sync_all()
    };
    write().map_err(|e| Error::file("write", &new, e))?;
    std::fs::rename(&new, &path).map_err(|e| Error::file("replace", &path, e))?;
    // The new name is on disk only when the directory is.
    File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::file("write", state_dir, e))
}

/// Renames a damaged file to the first free `state.json.corrupt-N`.
fn move_aside(state_dir: &Path, path: &Path) -> Result<PathBuf, Error> {
    let mut number = 1_u64;
    loop {
        let aside = state_dir.join(format!("{CORRUPT_PREFIX}{number}"));
        // A hard link fails where a rename would overwrite.
        match std::fs::hard_link(path, &aside) {
            Ok(()) => {
                std::fs::remove_file(path).map_err(|e| Error::file("move aside", path, e))?;
                return Ok(aside);
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(Error::file("move aside", path, e)),
        }
    }
}
