//! Pods that were deleted while no weftd could be told: whoever deletes one leaves a note, and the next weftd heeds it
//! before it takes its pods up again.
//!
//! weftd listens on its control socket before it reads the notes, and who leaves one tries that socket once more
//! afterwards. So a note is either read, or its writer finds the weftd that did not.

use crate::error::Error;
use crate::lock::make_dir;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The notes' folder inside the state directory.
pub(crate) const FOLDER: &str = "deleted";
/// The lock's file in it. No pod's name begins with a dot.
const LOCK_FILE: &str = ".lock";

/// The notes of a state directory: empty files with the names of pods.
#[derive(Debug, Clone)]
pub struct Deleted {
    folder: PathBuf,
}

/// As long as it lives, nobody else writes or heeds notes.
#[derive(Debug)]
pub struct Notes<'a> {
    deleted: &'a Deleted,
    _lock: Flock<File>,
}

impl Deleted {
    /// Those of this state directory. Makes nothing.
    pub fn of(state_dir: &Path) -> Self {
        Self { folder: state_dir.join(FOLDER) }
    }

    /// The names of the pods, sorted. No folder is no note.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::file("read", &self.folder, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| Error::file("read", &self.folder, e))?.file_name();
            // What is no text is no pod's name, and what begins with a dot is the lock.
            names.extend(name.into_string().ok().filter(|name| !name.starts_with('.')));
        }
        names.sort();
        Ok(names)
    }

    /// Waits until nobody else has them, and makes the folder.
    pub fn lock(&self) -> Result<Notes<'_>, Error> {
        if let Some(state_dir) = self.folder.parent() {
            make_dir(state_dir)?;
        }
        make_dir(&self.folder)?;
        let path = self.folder.join(LOCK_FILE);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|e| Error::file("open", &path, e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| Error::file("lock", &path, e.into()))?;
        Ok(Notes { deleted: self, _lock: lock })
    }
}

impl Notes<'_> {
    /// The names of the pods, sorted.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        self.deleted.names()
    }

    /// Notes that this pod was deleted. On return the note outlives a crash of the machine.
    pub fn add(&self, pod: &str) -> Result<(), Error> {
        let path = self.deleted.folder.join(pod);
        File::create(&path).map_err(|e| Error::file("write", &path, e))?;
        let folder = File::open(&self.deleted.folder).and_then(|folder| folder.sync_all());
        folder.map_err(|e| Error::file("write", &self.deleted.folder, e))
    }

    /// Removes a note that was heeded; one that is gone is fine.
    pub fn remove(&self, pod: &str) -> Result<(), Error> {
        let path = self.deleted.folder.join(pod);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file("remove", &path, error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_there_until_it_is_heeded() {
        let dir = tempfile::tempdir().unwrap();
        let deleted = Deleted::of(dir.path());
        assert_eq!(deleted.names().unwrap(), Vec::<String>::new());
        assert!(!dir.path().join(FOLDER).exists());
        let notes = deleted.lock().unwrap();
        for name in ["b", "a", "b"] {
            notes.add(name).unwrap();
        }
        drop(notes);
        assert_eq!(Deleted::of(dir.path()).names().unwrap(), ["a", "b"]);
        let notes = deleted.lock().unwrap();
        notes.remove("a").unwrap();
        notes.remove("a").unwrap();
        assert_eq!(notes.names().unwrap(), ["b"]);
    }
}
