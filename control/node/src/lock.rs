//! One weftd per state directory.

use crate::error::Error;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The lock's file inside the state directory. It is never removed: a lock on a removed file guards nothing.
pub(crate) const LOCK_FILE: &str = "lock";

/// The ownership of a state directory, until it is dropped or its process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of a state directory, which is made if it is missing, and writes this process's id into it.
    /// Does not wait: a weftd that runs already is an error that names it.
    pub fn take(state_dir: &Path) -> Result<Self, Error> {
        make_dir(state_dir)?;
        let path = state_dir.join(LOCK_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::file("open", &path, e))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(Error::Locked { pid, dir: state_dir.to_owned() });
            }
            Err((_, e)) => return Err(Error::file("lock", &path, e.into())),
        };
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|e| Error::file("write", &path, e))?;
        Ok(Self { _file: file })
    }
}

/// Makes a state directory that only its owner can read.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::file("make", dir, e))
}
