//! Work inside other network namespaces.
//!
//! A network namespace belongs to a thread, so the work gets threads of its own, which end with it: no other task of the runtime can
//! find itself in the wrong namespace.

use crate::error::Error;
use crate::netlink::Kernel;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use rtnetlink::Handle;
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// Runs `work` inside the network namespace at `path`, as [`Crew::inside`] does, on a thread of its own.
pub async fn inside<T, E, W, F>(path: &Path, work: W) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    W: FnOnce(Handle) -> F + Send + 'static,
    F: Future<Output = Result<T, E>>,
{
    Crew::new(1).inside(path, work).await
}

/// Threads for work in many namespaces, each of which goes from one to the next as long as there is work.
#[derive(Clone)]
pub struct Crew {
    most: usize,
    tasks: Arc<Mutex<Tasks>>,
}

/// Work to be done, in whichever namespace, or to be given up.
type Task = Box<dyn FnOnce(io::Result<&Runtime>) + Send>;

#[derive(Default)]
struct Tasks {
    waiting: VecDeque<Task>,
    /// Threads that look for more when they are done.
    threads: usize,
}

impl Crew {
    /// At most so many threads, none of which is there yet.
    pub fn new(most: usize) -> Self {
        Self { most, tasks: Arc::default() }
    }

    /// Runs `work` inside the network namespace at `path` (such as `/run/netns/blue` or `/proc/7/ns/net`), with a netlink handle of
    /// that namespace. Blocking reads and writes under `/proc/sys/net` in `work` reach that namespace too, and whatever it opens is
    /// of that namespace; tasks that it spawns end with the crew's work at the latest.
    pub async fn inside<T, E, W, F>(&self, path: &Path, work: W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        W: FnOnce(Handle) -> F + Send + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let namespace_error = |source: io::Error| Error::Namespace { path: path.to_owned(), source };
        // Without O_NONBLOCK a FIFO at this path would hold us here.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(flags).open(path).map_err(namespace_error)?;
        if !fstatfs(&file).is_ok_and(|there| there.filesystem_type() == NSFS_MAGIC) {
            return Err(Error::NotANamespace { path: path.to_owned() }.into());
        }
        let (done, answer) = oneshot::channel();
        let at = path.to_owned();
        let task = move |runtime: io::Result<&Runtime>| {
            let outcome = match enter(&file, &at, runtime) {
                Ok(runtime) => runtime.block_on(async { work(Kernel::open()?.into_handle()).await }),
                Err(error) => Err(error.into()),
            };
            // Nobody waits any more if the caller was cancelled; then the answer has no taker.
            let _ = done.send(outcome);
        };
        self.give(Box::new(task)).map_err(namespace_error)?;
        answer.await.map_err(|_| namespace_error(io::Error::other("the thread inside it ended early")))?
    }

    /// Leaves a task to the next thread that is free, or to a new one.
    fn give(&self, task: Task) -> io::Result<()> {
        let mut tasks = self.lock();
        if tasks.threads < self.most {
            let crew = self.clone();
            let thread = std::thread::Builder::new().name("weft-netns".to_owned());
            match thread.spawn(move || crew.work()) {
                Ok(_) => tasks.threads += 1,
                Err(error) if tasks.threads == 0 => return Err(error),
                // Those that are there do it.
                Err(_) => {}
            }
        }
        tasks.waiting.push_back(task);
        Ok(())
    }

    fn work(&self) {
        let mut runtime = None;
        while let Some(task) = self.next() {
            match &runtime {
                Some(runtime) => task(Ok(runtime)),
                None => match Builder::new_current_thread().enable_all().build() {
                    Ok(new) => task(Ok(runtime.insert(new))),
                    Err(error) => task(Err(error)),
                },
            }
        }
    }

    /// The next task. The thread ends where there is none.
    fn next(&self) -> Option<Task> {
        let mut tasks = self.lock();
        let next = tasks.waiting.pop_front();
        if next.is_none() {
            tasks.threads -= 1;
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has this thread enter a namespace, if there is a runtime to work in.
fn enter<'a>(file: &File, path: &Path, runtime: io::Result<&'a Runtime>) -> Result<&'a Runtime, Error> {
    let namespace_error = |source: io::Error| Error::Namespace { path: path.to_owned(), source };
    let runtime = runtime.map_err(namespace_error)?;
    match setns(file, CloneFlags::CLONE_NEWNET) {
        Ok(()) => Ok(runtime),
        // One of another kind.
        Err(Errno::EINVAL) => Err(Error::NotANamespace { path: path.to_owned() }),
        Err(errno) => Err(namespace_error(errno.into())),
    }
}
