//! The socket file: made so that nobody whom it is not for can connect at any moment, one daemon a socket, gone
//! when the daemon ends, and no hindrance when the daemon died.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Group;
use thiserror::Error;
use tokio::net::UnixListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why the daemon can't listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon serves this socket.
    #[error("weftd is already running (socket {}): stop it first, or give this one another socket", .0.display())]
    AlreadyRunning(PathBuf),
    /// Something that is no socket has the name.
    #[error("{} exists and is no socket: remove it, or choose another path for the socket", .0.display())]
    NotASocket(PathBuf),
    /// The group is not known.
    #[error("socket {}: there is no group {group:?} on this node: make it, or name another", .path.display())]
    NoSuchGroup {
        /// The socket.
        path: PathBuf,
        /// As given.
        group: String,
    },
    /// The system refused a step.
    #[error("socket {}: can't {step}: {error}", .path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What was to be done.
        step: &'static str,
        /// As the system says it.
        error: io::Error,
    },
}

/// Holds the socket's name: as long as it lives no other daemon takes the name, and when it is dropped the socket is
/// removed.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
    // Released after the socket is removed, or a daemon that starts just then would lose its socket.
    _lock: Flock<File>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Only our own: an operator may have put something else there by hand.
        if identity(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Listens on `path` with these permissions, such as 0o660, for `group` (a name or a number) or else the daemon's own.
///
/// Makes the directory where it is missing (mode 0755) and a lock file beside the socket (`PATH.lock`, which stays).
/// A socket that a dead daemon left is replaced. Must be called within a tokio runtime; panics elsewhere.
pub fn bind(path: &Path, mode: u32, group: Option<&str>) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |step| move |error| BindError::System { path: path.to_owned(), step, error };
    let gid = group.map(|group| find_group(path, group)).transpose()?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(failed("make its directory"))?;
    }
    let lock = lock(path)?;
    clear(path)?;
    let socket = listen(path).map_err(|(step, errno)| failed(step)(errno.into()))?;
    let file = SocketFile {
        path: path.to_owned(),
        inode: identity(path).map_err(failed("look at it"))?,
        _lock: lock,
    };
    if let Some(gid) = gid {
        chown(path, None, Some(gid)).map_err(failed("give it to the group"))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set its permissions"))?;
    let listener = UnixListener::from_std(net::UnixListener::from(socket)).map_err(failed("wait on it"))?;
    Ok((listener, file))
}

fn find_group(path: &Path, group: &str) -> Result<u32, BindError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let failed = |errno: Errno| BindError::System {
        path: path.to_owned(),
        step: "look up the group",
        error: errno.into(),
    };
    match Group::from_name(group).map_err(failed)? {
        Some(group) => Ok(group.gid.as_raw()),
        None => Err(BindError::NoSuchGroup { path: path.to_owned(), group: group.to_owned() }),
    }
}

/// One daemon a socket, even when two start in the same moment.
fn lock(path: &Path) -> Result<Flock<File>, BindError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed =
        |error| BindError::System { path: path.to_owned(), step: "lock the lock file beside it", error };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(name);
    Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => BindError::AlreadyRunning(path.to_owned()),
        errno => failed(errno.into()),
    })
}

/// Removes what a dead daemon left.
fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |step| move |error| BindError::System { path: path.to_owned(), step, error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at what is there")(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match try_connect(path) {
        // A full backlog is somebody too.
        Ok(()) | Err(Errno::EAGAIN) => Err(BindError::AlreadyRunning(path.to_owned())),
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed("remove the one of a dead daemon")),
        Err(errno) => Err(failed("see who serves it")(errno.into())),
    }
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

fn try_connect(path: &Path) -> Result<(), Errno> {
    socket::connect(stream_socket()?.as_raw_fd(), &UnixAddr::new(path)?)
}

/// Listens, with a socket file for its owner alone. Linux gives the file the mode that the socket has when it is
/// bound; a `umask` would do the same, but for every thread of the process.
fn listen(path: &Path) -> Result<OwnedFd, (&'static str, Errno)> {
    let socket = stream_socket().map_err(|errno| ("make it", errno))?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| ("close it to others", errno))?;
    let address = UnixAddr::new(path).map_err(|errno| ("use so long a path", errno))?;
    socket::bind(socket.as_raw_fd(), &address).map_err(|errno| ("bind it", errno))?;
    let backlog = Backlog::new(BACKLOG).map_err(|errno| ("set its backlog", errno))?;
    socket::listen(&socket, backlog).map_err(|errno| ("listen on it", errno))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn before_the_permissions_are_set_nobody_else_gets_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _socket = listen(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[tokio::test]
    async fn the_folder_is_made_and_the_permissions_are_those_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/weft/weftd.sock");
        let gid = nix::unistd::getgid().to_string();
        let (_listener, file) = bind(&path, 0o660, Some(&gid)).unwrap();
        assert_eq!(mode(&path), 0o660);
        assert_eq!(mode(path.parent().unwrap()) & 0o022, 0);
        drop(file);
        assert!(!path.exists(), "the socket outlives its holder");
    }

    #[tokio::test]
    async fn a_second_daemon_is_refused_and_the_first_keeps_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, file) = bind(&path, 0o660, None).unwrap();
        assert!(matches!(bind(&path, 0o660, None), Err(BindError::AlreadyRunning(_))));
        net::UnixStream::connect(&path).unwrap();
        // One that holds no lock, such as another program, is seen by its answer.
        drop((listener, file));
        let other = net::UnixListener::bind(&path).unwrap();
        let error = bind(&path, 0o660, None).unwrap_err();
        assert!(error.to_string().starts_with("weftd is already running (socket "), "{error}");
        assert!(path.exists());
        drop(other);
    }

    #[tokio::test]
    async fn what_a_dead_daemon_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _bound = bind(&path, 0o600, None).unwrap();
        net::UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, 0o660, None), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(matches!(
            bind(&folder.path().join("t"), 0o660, Some("no-such-group-here")),
            Err(BindError::NoSuchGroup { .. })
        ));
        let long = folder.path().join("x".repeat(108));
        assert!(matches!(
            bind(&long, 0o660, None),
            Err(BindError::System { step: "use so long a path", .. })
        ));
    }

    #[tokio::test]
    async fn a_socket_put_there_by_another_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_listener, file) = bind(&path, 0o660, None).unwrap();
        fs::rename(&path, folder.path().join("old")).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(file);
        assert!(path.exists());
    }
}
