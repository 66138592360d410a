//! Runs code in another network namespace.
//!
//! A thread that changes its namespace and fails to come back would do everything after that in the wrong one. So the
//! code runs on a thread of its own that ends with it; the caller's thread never changes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{panic, thread};

use thiserror::Error;

use super::sys;

/// Why a network namespace could not be entered.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// Nothing there, or no permission.
    #[error("network namespace {}: cannot open it: {source}", path.display())]
    Open {
        /// The namespace's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that is no network namespace, such as a file in /run/netns that has lost its mount.
    #[error(
        "{} is no network namespace: give a path such as /run/netns/NAME or /proc/PID/ns/net (a plain file is left \
         there when a namespace has been unmounted)",
        path.display()
    )]
    NotANamespace {
        /// The path that was given.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("network namespace {}: cannot enter it: {source} (this needs CAP_SYS_ADMIN)", path.display())]
    Enter {
        /// The namespace's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread could be started to enter the namespace.
    #[error("network namespace {}: cannot start a thread to enter it: {source}", path.display())]
    Thread {
        /// The namespace's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Runs `f` in the network namespace at `netns` and waits for it. `None` means the namespace of the calling thread;
/// then `f` runs right here. Descriptors that `f` opens stay in that namespace and may be used from anywhere.
///
/// A panic in `f` goes on in the caller.
pub fn run_in<T, F>(netns: Option<&Path>, f: F) -> Result<T, NetnsError>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    let Some(path) = netns else { return Ok(f()) };
    let namespace = open(path)?;
    thread::scope(|scope| {
        let inside = move || {
            // SAFETY: takes no pointers. It changes the namespace of this thread only, which ends with this closure.
            sys::check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
                .map_err(|source| NetnsError::Enter { path: path.to_owned(), source })?;
            Ok(f())
        };
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, inside)
            .map_err(|source| NetnsError::Thread { path: path.to_owned(), source })?
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

/// Opens a network namespace, and makes sure that it is one.
fn open(path: &Path) -> Result<File, NetnsError> {
    /// `_IO(0xb7, 3)` of linux/nsfs.h.
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    const NSFS_MAGIC: libc::c_long = 0x6e73_6673;

    // Without O_NONBLOCK a FIFO at this path would hold us here.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;

    // Ask for the file system first: the request's number could mean something else to another kind of file.
    let mut statfs = sys::zeroed::<libc::statfs>();
    // SAFETY: the descriptor is open; the kernel writes a `struct statfs` into a live one.
    let asked = sys::check(unsafe { libc::fstatfs(file.as_raw_fd(), &mut statfs) });
    let is_namespace = asked.is_ok() && statfs.f_type as libc::c_long == NSFS_MAGIC;
    let kind = if is_namespace { sys::ioctl_value(file.as_fd(), NS_GET_NSTYPE, 0).ok() } else { None };
    match kind {
        Some(libc::CLONE_NEWNET) => Ok(file),
        _ => Err(NetnsError::NotANamespace { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_namespace_means_this_thread() {
        let here = thread::current().id();
        assert_eq!(run_in(None, || thread::current().id()).unwrap(), here);
    }

    #[test]
    fn refuses_what_is_no_network_namespace() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        File::create(&plain).unwrap();
        for path in [plain.as_path(), folder.path(), "/proc/self/ns/mnt".as_ref(), "/dev/null".as_ref()] {
            let error = run_in(Some(path), || ()).unwrap_err();
            assert!(matches!(error, NetnsError::NotANamespace { .. }), "{path:?}: {error:?}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        let missing = folder.path().join("missing");
        let error = run_in(Some(&missing), || ()).unwrap_err();
        assert!(matches!(error, NetnsError::Open { .. }), "{error:?}");
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
