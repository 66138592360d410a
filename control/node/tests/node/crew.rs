//! Work in many network namespaces, by few threads.

use crate::lab::Namespace;
use futures_util::future::join_all;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::ThreadId;
use std::time::Duration;
use weft_node::{Crew, Error};

/// How many are at work now, and were at most.
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// Which namespace the calling thread is in, and which thread it is.
fn here() -> (u64, ThreadId) {
    MOST.fetch_max(NOW.fetch_add(1, SeqCst) + 1, SeqCst);
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").expect("it is there");
    std::thread::sleep(Duration::from_millis(5));
    NOW.fetch_sub(1, SeqCst);
    (namespace.ino(), std::thread::current().id())
}

#[tokio::test]
async fn each_work_is_in_its_own_namespace_on_one_of_few_threads() {
    let namespaces: Vec<_> = (0..8).map(|_| Namespace::new()).collect();
    let mut paths: Vec<PathBuf> = namespaces.iter().map(Namespace::path).collect();
    // In the midst of them, one that is none.
    paths.insert(3, "/proc/self/ns/mnt".into());
    let crew = Crew::new(2);
    let work = |path: &Path| {
        let (crew, path) = (crew.clone(), path.to_owned());
        async move { crew.inside(&path, |_| async { Ok::<_, Error>(here()) }).await }
    };
    // Whatever is left over by the first time is no hindrance to the second.
    for _ in 0..2 {
        for (path, seen) in paths.iter().zip(join_all(paths.iter().map(|path| work(path))).await) {
            match seen {
                Ok((namespace, thread)) => {
                    assert_eq!(namespace, std::fs::metadata(path).expect("it is there").ino());
                    assert_ne!(thread, std::thread::current().id());
                }
                Err(error) => {
                    assert!(path.ends_with("mnt"), "{error}");
                    assert!(matches!(error, Error::NotANamespace { .. }), "{error}");
                }
            }
        }
    }
    assert!(MOST.load(SeqCst) <= 2);
}
