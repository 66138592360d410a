//! Takes away what weft has left on a node: for an operator who goes back to flannel, or starts over.

use crate::blackhole::drop_blackhole_routes;
use crate::deleted::FOLDER;
use crate::direct::drop_direct_routes;
use crate::error::Error;
use crate::lock::Lock;
use crate::masquerade;
use crate::netlink::{Kernel, Link};
use crate::netns::inside;
use crate::state::{CLUSTER_FILE, CORRUPT_PREFIX, Device, NEW_SUFFIX, STATE_FILE, State};
use rtnetlink::Handle;
use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What was taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// The deleted devices; those of a pod's namespace with its path.
    pub devices: Vec<String>,
    /// The deleted files.
    pub files: Vec<PathBuf>,
    /// weftd had made rules of masquerading and forwarding, and they are gone.
    pub rules: bool,
}

/// Deletes the recorded devices, the host's port, the neighbours that weft had resolved, its routes to other nodes and to
/// nowhere, the rules of masquerading and forwarding if weftd has made them, and the state's files. A weftd that runs is an
/// error, one with another state directory too: a program holds a TAP open then, and nothing is deleted. A device or namespace that is
/// gone is fine. Only TUN/TAP devices are deleted: where another kind has one's name, that is an error and nothing is deleted
/// either.
pub async fn purge(state_dir: &Path, host_port: &str) -> Result<Purged, Error> {
    let _lock = Lock::take(state_dir)?;
    let (mut state, warning) = State::load(state_dir)?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}; devices that it recorded are not known and stay");
    }
    let mut purged = Purged::default();
    let port = Device { netns: None, name: host_port.to_owned() };
    if !state.devices.contains(&port) {
        state.devices.push(port);
    }
    for Device { netns, name } in &state.devices {
        if is_held(netns.as_deref(), name).await? {
            return Err(Error::Held { name: name.clone(), netns: netns.clone() });
        }
    }
    for device in state.devices {
        if delete_tap(device.netns.as_deref(), &device.name).await? {
            purged.devices.push(match &device.netns {
                None => device.name,
                Some(path) => format!("{} in {}", device.name, path.display()),
            });
        }
    }
    drop_neighbours().await?;
    drop_direct_routes(host_port, 0, &[]).await?;
    drop_blackhole_routes(&[]).await?;
    purged.rules = masquerade::remove(state_dir)?;
    purged.files = delete_files(state_dir)?;
    Ok(purged)
}

/// Deletes a TAP in the network namespace `netns` (none: the current one); false if the namespace or the TAP is gone already.
/// A device of that name that is no TAP is an error.
pub async fn delete_tap(netns: Option<&Path>, name: &str) -> Result<bool, Error> {
    let name = name.to_owned();
    there(netns, move |handle| delete(handle, name)).await
}

/// Deletes an interface of any kind in the network namespace `netns`; false if the namespace or the interface is gone already.
pub async fn delete_link(netns: &Path, name: &str) -> Result<bool, Error> {
    let name = name.to_owned();
    let work = move |handle| async move {
        let kernel = Kernel(handle);
        match kernel.link(&name).await {
            Ok(link) => kernel.delete_link(&link).await.map(|()| true),
            Err(Error::NoInterface { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    };
    there(Some(netns), work).await
}

/// Whether a program holds a TAP open.
async fn is_held(netns: Option<&Path>, name: &str) -> Result<bool, Error> {
    let name = name.to_owned();
    let held = move |handle| async move {
        let found = tap(&Kernel(handle), name).await?;
        Ok(found.is_some_and(|link| link.carrier))
    };
    there(netns, held).await
}

/// What `work` finds in a network namespace; false if that is gone.
async fn there<W, F>(netns: Option<&Path>, work: W) -> Result<bool, Error>
where
    W: FnOnce(Handle) -> F + Send + 'static,
    F: Future<Output = Result<bool, Error>>,
{
    match netns {
        None => work(Kernel::open()?.into_handle()).await,
        Some(path) if !path.exists() => Ok(false),
        Some(path) => match inside(path, work).await {
            // A plain file is left where a namespace has been unmounted.
            Err(Error::NotANamespace { .. }) => Ok(false),
            outcome => outcome,
        },
    }
}

/// The TAP of a name, if there is one.
async fn tap(kernel: &Kernel, name: String) -> Result<Option<Link>, Error> {
    match kernel.link(&name).await {
        Ok(link) if link.tun => Ok(Some(link)),
        Ok(_) => Err(Error::NotTap { name }),
        Err(Error::NoInterface { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn delete(handle: Handle, name: String) -> Result<bool, Error> {
    let kernel = Kernel(handle);
    let Some(link) = tap(&kernel, name).await? else { return Ok(false) };
    kernel.delete_link(&link).await?;
    Ok(true)
}

async fn drop_neighbours() -> Result<(), Error> {
    let kernel = Kernel::open()?;
    for (index, ip, entry) in kernel.neighbours().await? {
        if entry.weft && !entry.fixed {
            kernel.delete_neighbour(index, ip).await?;
        }
    }
    Ok(())
}

fn delete_files(state_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut deleted = Vec::new();
    for entry in std::fs::read_dir(state_dir).map_err(|e| Error::file("read", state_dir, e))? {
        let entry = entry.map_err(|e| Error::file("read", state_dir, e))?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| {
            [STATE_FILE, CLUSTER_FILE, masquerade::MADE_FILE].contains(&name.trim_end_matches(NEW_SUFFIX))
                || name.starts_with(CORRUPT_PREFIX)
        });
        let path = entry.path();
        if name == FOLDER {
            match std::fs::remove_dir_all(&path) {
                Ok(()) => deleted.push(path),
                Err(e) => return Err(Error::file("delete", &path, e)),
            }
            continue;
        }
        if !ours {
            continue;
        }
        match std::fs::remove_file(&path) {
            Ok(()) => deleted.push(path),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Error::file("delete", &path, e)),
        }
    }
    deleted.sort();
    Ok(deleted)
}
