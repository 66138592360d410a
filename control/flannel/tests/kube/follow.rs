//! Following the nodes: what is told after what has happened, to the nodes and to the server.

use std::time::Duration;

use serde_json::json;
use weft_flannel::kube::Kube;
use weft_flannel::store::Store;

use crate::lab::{Lab, Log, Running, VXLAN, annotate, backend_data, mac, node, own, wait_for};
use crate::server::{Fault, Server, Verb};

#[tokio::test]
async fn whatever_changes_in_a_node_changes_the_peer() {
    let lab = Lab::new(VXLAN);
    let mut running = lab.run().await;
    assert_eq!(running.names(), ["n2", "n3"]);
    assert_eq!(running.data("n2"), backend_data(&mac(2)));

    lab.server.put("nodes", node(4));
    running.until("a node that comes", |r| r.names() == ["n2", "n3", "n4"]).await;
    lab.server
        .change("nodes", "n2", |node| annotate(node, "backend-data", &backend_data("02:00:00:00:99:99")));
    running.until("another MAC address", |r| r.data("n2") == backend_data("02:00:00:00:99:99")).await;
    lab.server.change("nodes", "n2", |node| annotate(node, "public-ip", "172.16.99.99"));
    running
        .until("another address", |r| {
            r.peer("n2").unwrap().attributes.public_ip == Some("172.16.99.99".parse().unwrap())
        })
        .await;
    lab.server.change("nodes", "n2", |node| node["spec"] = json!({"podCIDR": "10.0.22.0/24"}));
    running.until("another subnet", |r| r.peer("n2").unwrap().subnets.to_string() == "10.0.22.0/24").await;
    lab.server.change("nodes", "n2", |node| annotate(node, "backend-type", "host-gw"));
    running.until("another backend", |r| r.peer("n2").unwrap().attributes.backend_type == "host-gw").await;
    lab.server.change("nodes", "n2", |node| annotate(node, "kube-subnet-manager", "false"));
    running.until("a node that leaves the network", |r| r.names() == ["n3", "n4"]).await;
    lab.server.change("nodes", "n2", |node| annotate(node, "kube-subnet-manager", "true"));
    running.until("a node that enters the network", |r| r.names() == ["n2", "n3", "n4"]).await;
    lab.server.remove("nodes", "n3");
    running.until("a node that goes", |r| r.names() == ["n2", "n4"]).await;
    assert_eq!(*running.last, lab.fresh().await);
    assert_eq!((running.lost, running.back), (0, 0));
}

#[tokio::test]
async fn what_does_not_concern_peers_is_not_told() {
    let lab = Lab::new(VXLAN);
    let mut running = lab.run().await;
    for beat in 0..50 {
        lab.server.change("nodes", "n2", |node| node["status"]["beat"] = json!(beat));
        lab.server.change("nodes", "n1", |node| node["status"]["beat"] = json!(beat));
    }
    lab.server.bookmark();
    lab.server.put("nodes", node(4));
    let before = running.last.clone();
    running.step().await;
    assert_ne!(running.last, before, "an update without news");
    assert_eq!(running.names(), ["n2", "n3", "n4"]);
}

#[tokio::test]
async fn a_crowd_of_changes_is_few_clusters() {
    let lab = Lab::new(VXLAN);
    let mut running = lab.run().await;
    for index in 10..510 {
        lab.server.put("nodes", node(index));
    }
    let mut told = 0;
    while running.last.peers.len() < 502 {
        running.step().await;
        told += 1;
    }
    assert!(told < 250, "{told} clusters for 500 nodes");
}

#[tokio::test]
async fn pages_are_put_together() {
    let lab = Lab::empty(Server::start(), VXLAN);
    lab.server.put("nodes", crate::lab::bare_node(1));
    for index in 2..=1000 {
        lab.server.put("nodes", node(index));
    }
    let running = lab.run().await;
    assert_eq!(running.last.peers.len(), 999);
    let lists: Vec<_> =
        lab.server.asked().into_iter().filter(|a| a.verb == Verb::List && a.uri.contains("/nodes")).collect();
    assert_eq!(lists.len(), 4);
    assert!(lists.iter().all(|asked| asked.uri.contains("limit=250")), "{lists:?}");
}

#[tokio::test]
async fn a_list_that_grows_old_while_it_is_read_is_read_whole() {
    let lab = Lab::empty(Server::start(), VXLAN);
    lab.server.put("nodes", crate::lab::bare_node(1));
    for index in 2..=600 {
        lab.server.put("nodes", node(index));
    }
    // The second page takes so long that the server has forgotten it.
    lab.server.fail(Verb::List, "nodes", Fault::Slow(1 << 20, Duration::from_millis(1)));
    lab.server.fail(Verb::List, "nodes", Fault::Gone);
    let running = lab.run().await;
    assert_eq!(running.last.peers.len(), 599);
    let last =
        lab.server.asked().into_iter().rfind(|a| a.verb == Verb::List && a.uri.contains("/nodes")).unwrap();
    assert!(!last.uri.contains("limit"), "{}", last.uri);
    assert_eq!(*running.last, lab.fresh().await);
}

/// Breaks all connections, and waits until the store has come again.
async fn cut_off(lab: &Lab) {
    let watches =
        || lab.server.asked().iter().filter(|a| a.verb == Verb::Watch && a.uri.contains("/nodes")).count();
    let before = watches();
    lab.server.cut();
    wait_for("the next watch", || (watches() > before).then_some(())).await;
}

/// A cluster whose server soon counts as silent where it is, and nowhere else: a slow machine's is not.
fn lab_for(fault: &Fault) -> Lab {
    let mut lab = Lab::new(VXLAN);
    if matches!(fault, Fault::Silent) {
        lab.patience.answer = Duration::from_millis(300);
    }
    lab
}

/// All that can go wrong with a request, and whether the store counts as lost by it, as far as that is certain: a watch that has
/// lasted for a while may break.
fn faults() -> Vec<(Fault, Option<bool>)> {
    vec![
        (Fault::Status(500, None), Some(true)),
        (Fault::Status(429, Some(0)), Some(true)),
        (Fault::Status(401, None), Some(true)),
        (Fault::Status(403, None), Some(true)),
        (Fault::Silent, Some(true)),
        (Fault::Garbage, Some(true)),
        (Fault::CutAfter(0), None),
        (Fault::CutAfter(100), None),
        (Fault::Gone, Some(false)),
        (Fault::ErrorEvent(410), Some(false)),
        (Fault::ErrorEvent(500), Some(true)),
        (Fault::EndAtOnce, Some(false)),
        (Fault::Slow(7, Duration::from_millis(1)), Some(false)),
    ]
}

#[tokio::test]
async fn a_watch_that_fails_loses_nothing() {
    for (fault, lost) in faults() {
        let lab = lab_for(&fault);
        let mut running = lab.run().await;
        // A watch that has worked.
        wait_for("the watch", || (lab.server.watching() == 2).then_some(())).await;
        lab.server.put("nodes", node(9));
        running.until("the first news", |r| r.names() == ["n2", "n3", "n9"]).await;
        lab.server.fail(Verb::Watch, "nodes", fault.clone());
        lab.server.fail(Verb::Watch, "nodes", fault.clone());
        cut_off(&lab).await;
        lab.server.put("nodes", node(4));
        lab.server.remove("nodes", "n2");
        running.until(&format!("the changes after {fault:?}"), |r| r.names() == ["n3", "n4", "n9"]).await;
        running
            .until(&format!("an end of {fault:?}"), |r| {
                r.lost == r.back && lost.is_none_or(|lost| (r.lost > 0) == lost)
            })
            .await;
        lab.server.put("nodes", node(5));
        running.until(&format!("the watch after {fault:?}"), |r| r.names() == ["n3", "n4", "n5", "n9"]).await;
        assert_eq!(*running.last, lab.fresh().await, "{fault:?}");
    }
}

#[tokio::test]
async fn a_list_that_fails_loses_nothing() {
    for (fault, _) in faults() {
        let lab = lab_for(&fault);
        lab.server.fail(Verb::List, "nodes", fault.clone());
        let mut running = lab.run().await;
        assert_eq!(running.names(), ["n2", "n3"], "{fault:?}");
        wait_for("the watch", || (lab.server.watching() == 2).then_some(())).await;
        lab.server.compact();
        lab.server.fail(Verb::Watch, "nodes", Fault::ErrorEvent(410));
        lab.server.fail(Verb::List, "nodes", fault.clone());
        cut_off(&lab).await;
        lab.server.put("nodes", node(4));
        lab.server.remove("nodes", "n2");
        running.until(&format!("the changes after {fault:?}"), |r| r.names() == ["n3", "n4"]).await;
        assert_eq!(*running.last, lab.fresh().await, "{fault:?}");
    }
}

#[tokio::test]
async fn an_event_that_breaks_off_in_the_middle_is_read_once_and_whole() {
    let lab = Lab::new(VXLAN);
    let mut running = lab.run().await;
    wait_for("the watch", || (lab.server.watching() == 2).then_some(())).await;
    let line = json!({"type": "ADDED", "object": node(4)}).to_string().len();
    for cut in [1, line / 2, line - 1, line + 1, line + line / 2] {
        lab.server.fail(Verb::Watch, "nodes", Fault::CutAfter(cut));
        lab.server.cut();
        for index in [4, 5, 6] {
            lab.server.put("nodes", node(index));
        }
        running.until("all three", |r| r.names() == ["n2", "n3", "n4", "n5", "n6"]).await;
        for index in [4, 5, 6] {
            lab.server.remove("nodes", &format!("n{index}"));
        }
        running.until("none of them", |r| r.names() == ["n2", "n3"]).await;
    }
}

#[tokio::test]
async fn a_server_that_says_when_to_come_again_is_left_alone_until_then() {
    let lab = Lab::new(VXLAN);
    let mut running = lab.run().await;
    wait_for("the watch", || (lab.server.watching() == 2).then_some(())).await;
    let watches =
        || lab.server.asked().iter().filter(|a| a.verb == Verb::Watch && a.uri.contains("/nodes")).count();
    let before = watches();
    lab.server.fail(Verb::Watch, "nodes", Fault::Status(429, Some(1)));
    let begun = std::time::Instant::now();
    lab.server.cut();
    running.until("it is lost and back", |r| (r.lost, r.back) == (1, 1)).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "after {:?}", begun.elapsed());
    assert_eq!(watches(), before + 2);
}

#[tokio::test]
async fn a_silent_watch_is_begun_again_where_it_stood() {
    let mut lab = Lab::new(VXLAN);
    lab.patience.silence = Duration::from_millis(50);
    let mut running = lab.run().await;
    let watches = || {
        let asked =
            lab.server.asked().into_iter().filter(|a| a.verb == Verb::Watch && a.uri.contains("/nodes"));
        asked.map(|asked| asked.uri).collect::<Vec<_>>()
    };
    // Sooner or later nothing happens for as long as a watch lasts.
    wait_for("where it stood", || match &watches()[..] {
        [.., before, last] if before == last => Some(()),
        _ => None,
    })
    .await;
    lab.server.put("nodes", node(4));
    running.until("the news", |r| r.names() == ["n2", "n3", "n4"]).await;
}

#[tokio::test]
async fn bookmarks_say_where_to_go_on() {
    let lab = Lab::new(VXLAN);
    let mut running = lab.run().await;
    wait_for("the watch", || (lab.server.watching() == 2).then_some(())).await;
    // Pods count versions too, and nobody tells us but by bookmarks.
    for index in 0..50 {
        lab.server
            .put("pods", json!({"metadata": {"namespace": "a", "name": format!("p{index}")}, "spec": {}}));
    }
    lab.server.bookmark();
    let version = lab.server.version();
    let status = running.status.clone();
    wait_for("the bookmark", || (status.borrow().position.as_ref() == Some(&version)).then_some(())).await;
    lab.server.compact();
    let lists =
        || lab.server.asked().iter().filter(|a| a.verb == Verb::List && a.uri.contains("/nodes")).count();
    let before = lists();
    lab.server.cut();
    lab.server.put("nodes", node(4));
    running.until("the news", |r| r.names() == ["n2", "n3", "n4"]).await;
    assert_eq!(lists(), before, "a list was not needed");
}

#[tokio::test]
async fn a_server_that_is_away_changes_nothing_and_is_missed_once() {
    let log = Log::begin();
    let lab = Lab::new(VXLAN);
    let mut running = lab.run().await;
    wait_for("the watch", || (lab.server.watching() == 2).then_some(())).await;
    let before = running.last.clone();
    lab.server.set_up(false);
    running.until("that it is lost", |r| r.lost == 1).await;
    lab.server.put("nodes", node(4));
    lab.server.remove("nodes", "n2");
    running.rest(Duration::from_millis(300)).await;
    assert_eq!(running.last, before);
    assert_eq!((running.lost, running.back), (1, 0));
    assert!(running.status.borrow().lost.is_some());
    assert_eq!(log.about(", nodes:").len(), 1, "{:?}", log.about(""));
    lab.server.set_up(true);
    running.until("that it is back", |r| r.back == 1).await;
    running.until("what was missed", |r| r.names() == ["n3", "n4"]).await;
    assert_eq!(running.lost, 1);
    assert_eq!(running.status.borrow().lost, None);
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let lab = Lab::new(VXLAN);
    lab.server.set_up(false);
    let kube = Kube::connect(lab.options()).await.unwrap();
    let mut running = Box::pin(Running::of(kube));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut running).await.is_err());
    lab.server.set_up(true);
    assert_eq!(running.await.names(), ["n2", "n3"]);
}

#[tokio::test]
async fn nobody_is_watched_who_does_not_count() {
    let lab = Lab::new(r#"{"Network":"10.0.0.0/8","Backend":{"Type":"alloc"}}"#);
    let running = lab.run().await;
    assert_eq!(running.names(), Vec::<&str>::new());
    let asked = lab.server.asked();
    let lists = asked.iter().filter(|a| a.uri.starts_with("/api/v1/nodes?"));
    assert!(lists.clone().count() > 0);
    lists.for_each(|asked| assert!(asked.uri.contains("fieldSelector=metadata.name%3Dn1"), "{}", asked.uri));
}

#[tokio::test]
async fn all_ends_when_nobody_receives() {
    let lab = Lab::new(VXLAN);
    let mut store = Store::Kube(Box::new(lab.connect().await));
    store.acquire(&own()).await.unwrap();
    let (to, updates) = tokio::sync::mpsc::channel(1);
    let run = tokio::spawn(store.run(to));
    wait_for("the watches", || (lab.server.watching() == 2).then_some(())).await;
    drop(updates);
    run.await.unwrap();
    wait_for("no watch", || (lab.server.watching() == 0).then_some(())).await;
}
