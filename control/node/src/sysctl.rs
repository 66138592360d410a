//! Settings under `/proc/sys/net`. They are those of the calling thread's network namespace.

use crate::error::Error;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A folder of settings, opened once: with many namespaces the kernel looks for long where one is.
pub(crate) struct Settings {
    path: PathBuf,
    /// None on a node that has no such settings, such as one without IPv6.
    folder: Option<File>,
}

impl Settings {
    /// Those of one interface; `family` is "ipv4" or "ipv6".
    pub(crate) fn of_interface(family: &str, interface: &str) -> Result<Self, Error> {
        Self::open(&format!("net/{family}/conf/{interface}"))
    }

    fn open(folder: &str) -> Result<Self, Error> {
        let path = PathBuf::from("/proc/sys").join(folder);
        match File::open(&path) {
            Ok(folder) => Ok(Self { path, folder: Some(folder) }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self { path, folder: None }),
            Err(e) => Err(Error::file("open", &path, e)),
        }
    }

    /// Sets one setting; true if it has the value now. A node without IPv6, or a container with a read-only `/proc`,
    /// has settings that cannot be set: the caller goes on and says so at most once, in the log.
    pub(crate) fn set(&self, name: &str, value: &str) -> Result<bool, Error> {
        let Some(folder) = &self.folder else { return Ok(false) };
        let failed = |doing, e| Error::file(doing, &self.path.join(name), e);
        let open = |flags| {
            let opened = openat(folder, name, flags | OFlag::O_CLOEXEC, Mode::empty());
            opened.map(File::from).map_err(io::Error::from)
        };
        let refused =
            |e: &io::Error| matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
        let (mut file, writable) = match open(OFlag::O_RDWR) {
            Ok(file) => (file, Ok(())),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) if refused(&e) => (open(OFlag::O_RDONLY).map_err(|e| failed("read", e))?, Err(e)),
            Err(e) => return Err(failed("open", e)),
        };
        // In one go: none that is set here is longer.
        let mut text = [0; 16];
        let len = file.read(&mut text).map_err(|e| failed("read", e))?;
        if text.get(..len).unwrap_or_default().trim_ascii() == value.as_bytes() {
            return Ok(true);
        }
        match writable.and_then(|()| file.write_all_at(value.as_bytes(), 0)) {
            Ok(()) => Ok(true),
            Err(e) if refused(&e) => {
                tracing::debug!("{} stays as it is: {e}", self.path.join(name).display());
                Ok(false)
            }
            Err(e) => Err(failed("write", e)),
        }
    }

    /// What every interface that weft configures is told about IPv6, of whose settings these are: its addresses come from weft, so it
    /// neither listens to router advertisements nor waits for duplicates.
    pub(crate) fn quiet(&self) -> Result<(), Error> {
        for name in ["accept_ra", "autoconf", "accept_dad", "dad_transmits"] {
            self.set(name, "0")?;
        }
        Ok(())
    }
}

/// `net.ipv4.ip_local_port_range`: the lowest and the highest port that the kernel gives to a socket by itself.
pub(crate) fn local_port_range() -> Result<(u16, u16), Error> {
    let path = PathBuf::from("/proc/sys/net/ipv4/ip_local_port_range");
    let content = std::fs::read_to_string(&path).map_err(|e| Error::file("read", &path, e))?;
    let mut ports = content.split_whitespace().map(str::parse::<u16>);
    match (ports.next(), ports.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => Ok((low, high)),
        _ => Err(Error::Setting { path, content, expected: "two port numbers" }),
    }
}

/// Whether the kernel forwards packets of a family that come by this interface. An interface that is not there keeps it from
/// nothing.
pub(crate) fn forwards(interface: &str, v6: bool) -> bool {
    let family = if v6 { "ipv6" } else { "ipv4" };
    let path = format!("/proc/sys/net/{family}/conf/{interface}/forwarding");
    std::fs::read_to_string(path).map_or(true, |value| value.trim() != "0")
}

/// Has the kernel forward packets of a family, as flannel's bridge does. False where that can't be set from here.
pub fn enable_forwarding(v6: bool) -> Result<bool, Error> {
    let (folder, name) = if v6 { ("net/ipv6/conf/all", "forwarding") } else { ("net/ipv4", "ip_forward") };
    Settings::open(folder)?.set(name, "1")
}
