use super::*;
use std::fs;
use std::os::unix::fs::symlink;

/// Long enough never to fire in a test: what is told then was told by an event.
const NEVER: Duration = Duration::from_secs(3600);
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

async fn told(watch: &mut Watch, what: &str) {
    timeout(PATIENCE, watch.changed()).await.unwrap_or_else(|_| panic!("not told: {what}"));
}

#[tokio::test]
async fn edits_renames_and_deletions_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    fs::write(&path, "one").unwrap();
    let mut watch = Watch::with_look(path.clone(), NEVER);

    fs::write(&path, "two and more").unwrap();
    told(&mut watch, "an edit in place").await;

    fs::write(folder.path().join("new"), "three").unwrap();
    fs::rename(folder.path().join("new"), &path).unwrap();
    told(&mut watch, "another file in its place").await;

    fs::remove_file(&path).unwrap();
    told(&mut watch, "the deletion").await;

    fs::write(&path, "four").unwrap();
    told(&mut watch, "the file made again").await;
}

/// A ConfigMap: `cluster.toml` -> `..data/cluster.toml`, `..data` -> a folder; the middle link is replaced.
#[tokio::test]
async fn a_swapped_link_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let inside = |name: &str| folder.path().join(name);
    for (version, text) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(inside(version)).unwrap();
        fs::write(inside(version).join("cluster.toml"), text).unwrap();
    }
    symlink("..1", inside("..data")).unwrap();
    symlink("..data/cluster.toml", inside("cluster.toml")).unwrap();
    let mut watch = Watch::with_look(inside("cluster.toml"), NEVER);

    symlink("..2", inside("..data_tmp")).unwrap();
    fs::rename(inside("..data_tmp"), inside("..data")).unwrap();
    told(&mut watch, "the swap of ..data").await;
    assert_eq!(fs::read_to_string(inside("cluster.toml")).unwrap(), "two");
}

#[tokio::test]
async fn what_leaves_the_file_as_it_was_is_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    fs::write(&path, "one").unwrap();
    let mut watch = Watch::with_look(path.clone(), NEVER);
    fs::read(&path).unwrap();
    fs::write(folder.path().join("neighbour"), "x").unwrap();
    assert!(timeout(Duration::from_millis(300), watch.changed()).await.is_err());
    // What was begun and dropped has lost nothing.
    fs::write(&path, "two and more").unwrap();
    let _ = timeout(Duration::from_millis(1), watch.changed()).await;
    told(&mut watch, "the edit").await;
}

/// inotify sees nothing of these: a folder that comes late, one that is replaced, and a link's target
/// elsewhere.
#[tokio::test]
async fn the_look_now_and_then_finds_what_events_do_not() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("weft");
    let path = folder.join("cluster.toml");
    let mut watch = Watch::with_look(path.clone(), Duration::from_millis(20));
    fs::create_dir(&folder).unwrap();
    fs::write(&path, "one").unwrap();
    told(&mut watch, "the late folder").await;

    fs::rename(&folder, top.path().join("old")).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(&path, "two").unwrap();
    told(&mut watch, "the file in another folder of that name").await;

    let target = top.path().join("elsewhere");
    fs::write(&target, "three").unwrap();
    fs::remove_file(&path).unwrap();
    symlink(&target, &path).unwrap();
    told(&mut watch, "the link").await;
    fs::write(&target, "four and more").unwrap();
    told(&mut watch, "the link's target").await;
}
