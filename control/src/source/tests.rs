use super::*;
use std::fs;
use std::time::Duration;
use tokio::time::timeout;

const GOOD: &str = r#"[network]
ipv4 = "10.244.0.0/16"
[[node]]
name = "a"
subnets = ["10.244.1.0/24"]
public_ip = "192.0.2.1"
"#;

/// The next update that is as wanted; those before it may be of a file half written.
async fn until(
    updates: &mut mpsc::Receiver<Result<Model, SourceError>>,
    what: &str,
    wanted: impl Fn(&Result<Model, SourceError>) -> bool,
) {
    let wait = async {
        while let Some(update) = updates.recv().await {
            if wanted(&update) {
                return;
            }
        }
        panic!("the source has ended before: {what}");
    };
    timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("no update: {what}"));
}

#[tokio::test]
async fn a_file_is_sent_at_once_and_after_each_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    let (sender, mut updates) = mpsc::channel(1);
    let reload = Arc::new(Notify::new());
    let source = Source::File { path: path.clone() };
    let running = tokio::spawn(source.run("a".to_owned(), sender, Arc::clone(&reload)));

    until(&mut updates, "there is no file yet", |u| {
        matches!(u, Err(SourceError::File(FileError::Missing { .. })))
    })
    .await;
    fs::write(&path, GOOD).unwrap();
    until(&mut updates, "the file", |u| u.as_ref().is_ok_and(|m| m.nodes[0].name == "a")).await;
    fs::write(&path, "[network]\nvni = -1\n").unwrap();
    until(&mut updates, "the mistake", |u| {
        u.as_ref().is_err_and(|e| e.to_string().contains("cluster.toml:2:7: network.vni"))
    })
    .await;
    fs::write(&path, GOOD.replace("2.1\"", "2.9\"")).unwrap();
    until(&mut updates, "the file mended", |u| {
        u.as_ref().is_ok_and(|m| m.nodes[0].public_ip == Some([192, 0, 2, 9].into()))
    })
    .await;
    reload.notify_one();
    until(&mut updates, "what was asked for", Result::is_ok).await;

    drop(updates);
    timeout(Duration::from_secs(20), running).await.expect("ends with its receiver").unwrap();
}
