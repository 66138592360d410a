//! What systemd, or whoever else has set `NOTIFY_SOCKET`, is told of weftd (sd_notify(3)): that it is ready, ends, reads its
//! files again, and lives. A few datagrams, so there is no library for it. Without the variable nobody is told anything.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::time::{ClockId, clock_gettime};
use tracing::warn;

/// Who has started weftd. Clones speak to the same.
#[derive(Clone, Debug, Default)]
pub struct Supervisor(Option<Arc<Listener>>);

#[derive(Debug)]
struct Listener {
    socket: UnixDatagram,
    address: SocketAddr,
    /// It waits for signs of life.
    watches: bool,
    /// It was told that the files are being read, and not yet that they have been.
    reloading: AtomicBool,
}

impl Supervisor {
    /// The one that the environment names.
    pub fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self(None) };
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        Self::new(&name, mine && number("WATCHDOG_USEC").is_some_and(|usec| usec > 0))
    }

    fn new(name: &OsStr, watches: bool) -> Self {
        let bytes = name.as_bytes();
        let address = match bytes.first() {
            Some(b'@') => SocketAddr::from_abstract_name(&bytes[1..]),
            Some(b'/') => SocketAddr::from_pathname(name),
            // Other kinds, such as vsock, are for virtual machines.
            _ => return Self(None),
        };
        let unbound = || -> std::io::Result<UnixDatagram> {
            let socket = UnixDatagram::unbound()?;
            // A supervisor that does not read holds nobody up.
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        match address.and_then(|address| Ok((address, unbound()?))) {
            Ok((address, socket)) => {
                Self(Some(Arc::new(Listener { socket, address, watches, reloading: AtomicBool::new(false) })))
            }
            Err(error) => {
                warn!("NOTIFY_SOCKET cannot be used, so nobody is told that weftd is ready: {error}");
                Self(None)
            }
        }
    }

    /// Traffic flows.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// weftd ends by itself or because it is told to.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// The files are read again.
    pub fn reloading(&self) {
        let Some(listener) = &self.0 else { return };
        listener.reloading.store(true, Ordering::Relaxed);
        // Without the time nobody knows which request this is the answer to.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from);
        let usec = now.map_or(0, |now| now.as_micros());
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// They have been taken over, or refused.
    pub fn reloaded(&self) {
        if self.0.as_ref().is_some_and(|listener| listener.reloading.swap(false, Ordering::Relaxed)) {
            self.ready();
        }
    }

    /// The daemon's task goes round. To be said more often than the watchdog's time.
    pub fn alive(&self) {
        if self.0.as_ref().is_some_and(|listener| listener.watches) {
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, text: &str) {
        if let Some(listener) = &self.0 {
            // Who does not listen misses it.
            let _ = listener.socket.send_to_addr(text.as_bytes(), &listener.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_file_is_told_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::new(path.as_os_str(), true);
        supervisor.ready();
        assert_eq!(next(&socket), "READY=1");
        supervisor.reloaded();
        supervisor.reloading();
        let said = next(&socket);
        let usec = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0, "{said}");
        supervisor.reloaded();
        supervisor.reloaded();
        assert_eq!(next(&socket), "READY=1");
        supervisor.alive();
        assert_eq!(next(&socket), "WATCHDOG=1");
        supervisor.stopping();
        assert_eq!(next(&socket), "STOPPING=1", "and nothing was said twice");
    }

    #[test]
    fn an_abstract_name_is_told_too() {
        let name = format!("weft-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let supervisor = Supervisor::new(OsStr::new(&format!("@{name}")), false);
        supervisor.alive();
        supervisor.ready();
        assert_eq!(next(&socket), "READY=1", "no sign of life was asked for");
    }

    #[test]
    fn nobody_is_told_where_nobody_is() {
        for name in ["", "vsock:2:1234", "@", "/no/such/folder/notify"] {
            Supervisor::new(OsStr::new(name), true).ready();
        }
        Supervisor::default().stopping();
    }
}
