//! Work inside another network namespace.
//!
//! A network namespace belongs to a thread, so the work gets a thread of its own that ends with it: no other task
//! of the runtime can find itself in the wrong namespace.

use crate::error::Error;
use crate::netlink::Kernel;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use rtnetlink::Handle;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::sync::oneshot;

/// Runs `work` inside the network namespace at `path` (such as `/run/netns/blue` or `/proc/7/ns/net`), with a
/// netlink handle of that namespace. Blocking reads and writes under `/proc/sys/net` in `work` reach that
/// namespace too, and whatever it opens is of that namespace; tasks that it spawns end when `work` ends.
pub async fn inside<T, E, W, F>(path: &Path, work: W) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    W: FnOnce(Handle) -> F + Send + 'static,
    F: Future<Output = Result<T, E>>,
{
    let at = path.to_owned();
    let namespace_error = |source: io::Error| Error::Namespace { path: at.clone(), source };
    // Without O_NONBLOCK a FIFO at this path would hold us here.
    let flags = OFlag::O_NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(namespace_error)?;
    if !fstatfs(&file).is_ok_and(|there| there.filesystem_type() == NSFS_MAGIC) {
        return Err(Error::NotANamespace { path: at }.into());
    }
    let (done, answer) = oneshot::channel();
    let at_thread = path.to_owned();
    std::thread::Builder::new()
        .name("weft-netns".to_owned())
        .spawn(move || {
            // Nobody waits any more if the caller was cancelled; then the answer has no taker.
            let _ = done.send(enter_and_run(&file, &at_thread, work));
        })
        .map_err(namespace_error)?;
    answer.await.map_err(|_| namespace_error(io::Error::other("the thread inside it ended early")))?
}

fn enter_and_run<T, E, W, F>(file: &File, path: &Path, work: W) -> Result<T, E>
where
    E: From<Error>,
    W: FnOnce(Handle) -> F,
    F: Future<Output = Result<T, E>>,
{
    let namespace_error = |source: io::Error| Error::Namespace { path: path.to_owned(), source };
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        // One of another kind.
        Errno::EINVAL => Error::NotANamespace { path: path.to_owned() },
        errno => namespace_error(errno.into()),
    })?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(namespace_error)?;
    runtime.block_on(async { work(Kernel::open()?.into_handle()).await })
}
