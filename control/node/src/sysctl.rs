//! Settings under `/proc/sys/net`. They are those of the calling thread's network namespace.

use crate::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Sets one setting; true if it has the value now. A node without IPv6, or a container with a read-only `/proc`,
/// has settings that cannot be set: the caller goes on and says so at most once, in the log.
pub(crate) fn set(name: &str, value: &str) -> Result<bool, Error> {
    let path = PathBuf::from("/proc/sys").join(name);
    let refused =
        |e: &io::Error| matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
    // Opened once: with many namespaces the kernel looks for long where the file is.
    let (mut file, writable) = match File::options().read(true).write(true).open(&path) {
        Ok(file) => (file, Ok(())),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) if refused(&e) => (File::open(&path).map_err(|e| Error::file("read", &path, e))?, Err(e)),
        Err(e) => return Err(Error::file("open", &path, e)),
    };
    let mut now = String::new();
    file.read_to_string(&mut now).map_err(|e| Error::file("read", &path, e))?;
    if now.trim() == value {
        return Ok(true);
    }
    match writable.and_then(|()| file.write_all_at(value.as_bytes(), 0)) {
        Ok(()) => Ok(true),
        Err(e) if refused(&e) => {
            tracing::debug!("{} stays as it is: {e}", path.display());
            Ok(false)
        }
        Err(e) => Err(Error::file("write", &path, e)),
    }
}

/// What every interface that weft configures is told about IPv6: its addresses come from weft, so it neither
/// listens to router advertisements nor waits for duplicates.
pub(crate) fn quiet_ipv6(interface: &str) -> Result<(), Error> {
    for (name, value) in [("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0"), ("dad_transmits", "0")]
    {
        set(&format!("net/ipv6/conf/{interface}/{name}"), value)?;
    }
    Ok(())
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
    set(if v6 { "net/ipv6/conf/all/forwarding" } else { "net/ipv4/ip_forward" }, "1")
}
