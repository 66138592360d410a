//! Network namespaces, looked at from outside and from inside.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use weft_node::PodView;

use crate::error::{Error, code};

/// The container's namespace must be there, and another than this program's own, unless the caller means it.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let there = fs::metadata(path)
        .map_err(|error| Error::new(code::ENVIRONMENT, format!("CNI_NETNS {}: {error}", path.display())))?;
    let own = fs::metadata("/proc/self/ns/net").ok().map(|own| (own.dev(), own.ino()));
    let meant = std::env::var_os("CNI_NETNS_OVERRIDE").is_some_and(|value| value == "1" || value == "true");
    if own == Some((there.dev(), there.ino())) && !meant {
        return Err(Error::new(
            code::NETNS,
            "plugin's netns and netns from CNI_NETNS should not be the same",
        ));
    }
    Ok(())
}

/// Whether the namespace has an interface of this name.
pub(crate) fn has_interface(path: &Path, ifname: &str) -> Result<bool, Error> {
    let failed =
        |error: String| Error::new(code::ENVIRONMENT, format!("CNI_NETNS {}: {error}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let ifname = ifname.to_owned();
    // A thread of its own, since a namespace is a thread's.
    let look = std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        Ok::<_, nix::Error>(if_nametoindex(ifname.as_str()).is_ok())
    });
    let found = look.join().map_err(|_| failed("it cannot be entered".to_owned()))?;
    found.map_err(|error| failed(error.to_string()))
}

/// What is to be seen of an interface; none if it is not there.
pub(crate) fn look(path: &Path, ifname: &str) -> Result<Option<PodView>, Error> {
    block_on(weft_node::look_at_pod(path, ifname))?.map_err(|error| Error::new(code::IO, error))
}

/// Deletes weft's interface, which outlives weftd. What is not there, or another's, is fine.
pub(crate) fn delete_tap(path: &Path, ifname: &str) -> Result<(), Error> {
    match block_on(weft_node::delete_tap(Some(path), ifname))? {
        Ok(_) | Err(weft_node::Error::NotTap { .. }) => Ok(()),
        Err(error) => Err(Error::new(code::IO, error)),
    }
}

/// Deletes an interface of any kind.
pub(crate) fn delete_link(path: &Path, ifname: &str) -> Result<(), Error> {
    block_on(weft_node::delete_link(path, ifname))?.map(|_| ()).map_err(|error| Error::new(code::IO, error))
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::new(code::IO, format!("cannot start: {error}")))?;
    Ok(runtime.block_on(work))
}
