//! host-local's files: who has which address. Read to find those of containers that are gone, and written only where the
//! plugin itself can't be asked.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Map, Value};

use crate::error::{Error, code, io};

/// Where host-local keeps its files when nothing else is said.
const DATA_DIR: &str = "/var/lib/cni/networks";

/// The files of one network.
pub(crate) struct Store {
    folder: PathBuf,
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) container: String,
    /// None in files of old versions.
    pub(crate) ifname: Option<String>,
}

impl Store {
    /// Of the network of this name, by the configuration of host-local.
    pub(crate) fn of(network: &str, ipam: &Map<String, Value>) -> Self {
        let base = ipam.get("dataDir").and_then(Value::as_str).filter(|dir| !dir.is_empty());
        Self { folder: PathBuf::from(base.unwrap_or(DATA_DIR)).join(network) }
    }

    /// The addresses, with who has them. A folder that is not there holds none.
    fn entries(&self) -> Result<Vec<(PathBuf, Holder)>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io("read", &self.folder)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io("read", &self.folder))?;
            let name = entry.file_name();
            if name.to_str().is_none_or(|name| name.parse::<IpAddr>().is_err()) {
                continue;
            }
            // One that is gone meanwhile was released.
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            let mut lines = text.trim().lines();
            let container = lines.next().unwrap_or_default().trim().to_owned();
            let ifname = lines.next().map(|line| line.trim().to_owned());
            found.push((entry.path(), Holder { container, ifname }));
        }
        Ok(found)
    }

    /// Who has addresses, each once.
    pub(crate) fn holders(&self) -> Result<Vec<Holder>, Error> {
        let mut holders: Vec<_> = self.entries()?.into_iter().map(|(_, holder)| holder).collect();
        holders.sort();
        holders.dedup();
        Ok(holders)
    }

    /// Releases what this container's interface has, as host-local does.
    pub(crate) fn release(&self, container: &str, ifname: &str) -> Result<(), Error> {
        if !self.folder.is_dir() {
            return Ok(());
        }
        let path = self.folder.join("lock");
        let file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open", &path))?;
        let _lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| Error::new(code::IO, format!("cannot lock {}: {error}", path.display())))?;
        for (path, holder) in self.entries()? {
            let same = holder.ifname.as_deref().is_none_or(|there| there == ifname);
            if holder.container == container && same {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(io("remove", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_container_has_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cbr0");
        fs::create_dir(&folder).unwrap();
        for (name, text) in [
            ("10.244.1.2", "c1\r\neth0"),
            ("10.244.1.3", "c1\r\nnet1"),
            ("10.244.1.4", "c2\r\neth0"),
            ("fd00::2", "c1\r\neth0"),
            ("10.244.1.5", "c1"),
            ("last_reserved_ip.0", "10.244.1.5"),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let ipam = [("dataDir".to_owned(), Value::from(dir.path().to_str().unwrap()))].into_iter().collect();
        let store = Store::of("cbr0", &ipam);
        assert_eq!(store.holders().unwrap().len(), 4);
        store.release("c1", "eth0").unwrap();
        store.release("c1", "eth0").unwrap();
        let mut left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["10.244.1.3", "10.244.1.4", "last_reserved_ip.0", "lock"]);
        let nowhere = Store::of("other", &ipam);
        nowhere.release("c1", "eth0").unwrap();
        assert!(nowhere.holders().unwrap().is_empty() && !dir.path().join("other").exists());
    }
}
