//! What a node hears of the others, and how it keeps its lease, whatever happens to the store.

use crate::lab::{CONF, Cable, Follower, PREFIX, Server, node, settings, until, value};
use std::time::Duration;
use weft_flannel::etcd::{Settings, Timing};

/// With a lease of so many seconds. What waits for etcdctl holds up its thread: a test with such settings has two more, so that the
/// store goes on meanwhile.
fn short(server: &Server, lease: u64, margin: u64) -> Settings {
    let timing = Timing {
        lease: Duration::from_secs(lease),
        margin: Duration::from_secs(margin),
        ..server.settings().timing
    };
    Settings { timing, ..server.settings() }
}

/// A key that is nobody's but must have been heard of when it is there.
async fn nothing_but(follower: &mut Follower, server: &Server, peers: &[&str]) {
    server.ctl.put("10.5.250.0-24", &value(250));
    let mut with = peers.to_vec();
    with.push("10.5.250.0-24");
    with.sort_unstable();
    follower.until_peers(&with).await;
    server.ctl.delete("10.5.250.0-24");
    follower.until_peers(peers).await;
}

#[tokio::test]
async fn peers_come_change_and_go() {
    let server = Server::start(CONF);
    server.ctl.put("10.5.251.0-24", &value(1));
    let mut follower = Follower::start(server.settings(), &node(7)).await;
    assert_eq!(follower.peers(), ["10.5.251.0-24"]);
    server.ctl.put("10.5.252.0-24", &value(2));
    follower.until_peers(&["10.5.251.0-24", "10.5.252.0-24"]).await;
    // The MAC address of a node that was set up anew.
    server.ctl.put("10.5.251.0-24", &value(3).replace("192.0.2.3", "192.0.2.1"));
    let changed = |f: &Follower| f.cluster.peers[0].attributes.to_json().contains("00:03");
    follower.until("the new MAC address", changed).await;
    server.ctl.delete("10.5.251.0-24");
    follower.until_peers(&["10.5.252.0-24"]).await;
}

#[tokio::test]
async fn a_lease_that_runs_out_takes_its_node_along() {
    let server = Server::start(CONF);
    let mut follower = Follower::start(server.settings(), &node(7)).await;
    let id = server.ctl.run(&["lease", "grant", "10"]);
    let id = id.split_whitespace().nth(1).expect("its number");
    server.ctl.run(&["put", "--lease", id, &format!("{PREFIX}/subnets/10.5.251.0-24"), &value(1)]);
    follower.until_peers(&["10.5.251.0-24"]).await;
    follower.until_peers(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_on_a_fresh_one_and_peers_hear_nothing_new() {
    let server = Server::start(CONF);
    let mut other = Follower::start(server.settings(), &node(8)).await;
    let follower = Follower::start(short(&server, 20, 15), &node(7)).await;
    let key = follower.key();
    other.until_peers(&[&key]).await;
    let (version, lease) = (server.ctl.number(&key, "version"), server.ctl.number(&key, "lease"));
    // Twice, so that it outlives its first lease.
    until("two renewals", || server.ctl.number(&key, "version") >= version + 2).await;
    assert_ne!(server.ctl.number(&key, "lease"), lease);
    assert_eq!(server.ctl.get(&key), value(7));
    nothing_but(&mut other, &server, &[&key]).await;
    assert!(follower.status.borrow().lease_until.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_whose_answer_is_lost_does_not_take_the_lease_away() {
    let server = Server::start(CONF);
    let cable = Cable::to(&server).await;
    let Settings { timing, .. } = short(&server, 20, 15);
    // Silence for so long is no answer; the silence itself lasts longer.
    let timing = Timing { answer: Duration::from_millis(500), ..timing };
    let follower = Follower::start(Settings { timing, ..settings(&cable.endpoint) }, &node(7)).await;
    let key = follower.key();
    let (created, version) = (server.ctl.number(&key, "create_revision"), server.ctl.number(&key, "version"));
    cable.lose_an_answer();
    until("a renewal", || cable.has_lost_it()).await;
    until("it is written", || server.ctl.number(&key, "version") != version).await;
    until("the next one", || server.ctl.number(&key, "version") != version + 1).await;
    until("all is well", || follower.status.borrow().trouble.is_none()).await;
    assert_eq!(server.ctl.number(&key, "create_revision"), created, "the key was gone meanwhile");
    assert!(server.ctl.number(&key, "version") >= version + 2);
}

#[tokio::test]
async fn a_deleted_lease_is_taken_again() {
    let server = Server::start(CONF);
    let follower = Follower::start(server.settings(), &node(7)).await;
    let key = follower.key();
    server.ctl.delete(&key);
    until("the key again", || server.ctl.get(&key) == value(7)).await;
    assert_eq!(server.ctl.time_to_live(&key).0, 86_400);
    assert_eq!(follower.status.borrow().trouble, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subnet_that_another_has_is_kept_here_and_left_there() {
    let server = Server::start(CONF);
    let mut follower = Follower::start(short(&server, 20, 15), &node(7)).await;
    let key = follower.key();
    server.ctl.put(&key, &value(66));
    let status = follower.status.clone();
    let trouble = move || status.borrow().trouble.clone().unwrap_or_default();
    until("the trouble is known", || trouble().contains("192.0.2.66")).await;
    until("it is not renewed", || trouble().contains("is held by 192.0.2.66")).await;
    assert_eq!(server.ctl.get(&key), value(66));
    nothing_but(&mut follower, &server, &[]).await;
    // Once it is free it is taken back.
    server.ctl.delete(&key);
    until("the key again", || server.ctl.get(&key) == value(7)).await;
    until("no trouble any more", || trouble().is_empty()).await;
}

#[tokio::test]
async fn hostile_keys_cost_nobody_else_anything() {
    let server = Server::start(CONF);
    server.ctl.put("10.5.251.0-24", &value(1));
    let mut follower = Follower::start(server.settings(), &node(7)).await;
    let own = follower.key();
    let address = own.split('-').next().expect("an address");
    for (key, value) in [
        ("x", "y".to_owned()),
        ("", value(2)),
        ("10.5.252.0-24/a", value(2)),
        ("10.5.252.0-33", value(2)),
        ("10.5.252.9-24", value(2)),
        ("10.6.1.0-24", value(2)),
        ("0.0.0.0-0", value(2)),
        ("10.5.251.128-25", value(3)),
        (&format!("{address}-25"), value(4)),
        ("10.5.253.0-24", "{\"PublicIP\":\"x\"}".to_owned()),
        ("10.5.254.0-24", "{}".to_owned()),
        ("10.5.249.0-24&fd00::-64", value(5)),
        ("10.5.248.0-24", value(7)),
    ] {
        server.ctl.put(key, &value);
    }
    nothing_but(&mut follower, &server, &["10.5.251.0-24"]).await;
    // What can't be read leaves what was known.
    server.ctl.put("10.5.251.0-24", "\u{1}garbage");
    nothing_but(&mut follower, &server, &["10.5.251.0-24"]).await;
    // What overlapped it has the place for itself now.
    server.ctl.delete("10.5.251.0-24");
    follower.until_peers(&["10.5.251.128-25"]).await;
}

#[tokio::test]
async fn a_store_that_is_lost_changes_nothing_and_is_told_once() {
    let mut server = Server::start(CONF);
    server.ctl.put("10.5.251.0-24", &value(1));
    let mut follower = Follower::start(server.settings(), &node(7)).await;
    let key = follower.key();
    server.kill();
    follower.until("the loss", |f| f.lost > 0).await;
    assert!(follower.status.borrow().lost.is_some());
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.run();
    follower.until("it is back", |f| f.back > 0).await;
    nothing_but(&mut follower, &server, &["10.5.251.0-24"]).await;
    assert_eq!((follower.lost, follower.back), (1, 1));
    assert_eq!(follower.status.borrow().lost, None);
    assert_eq!(server.ctl.get(&key), value(7));
}

#[tokio::test]
async fn what_happens_while_it_is_away_is_caught_up_with() {
    for compact in [false, true] {
        let server = Server::start(CONF);
        let cable = Cable::to(&server).await;
        server.ctl.put("10.5.251.0-24", &value(1));
        server.ctl.put("10.5.252.0-24", &value(2));
        let mut follower = Follower::start(settings(&cable.endpoint), &node(7)).await;
        let key = follower.key();
        cable.plug(false);
        follower.until("the loss", |f| f.lost > 0).await;
        server.ctl.delete("10.5.251.0-24");
        server.ctl.put("10.5.253.0-24", &value(3));
        server.ctl.delete(&key);
        if compact {
            server.ctl.run(&["compact", &server.ctl.revision().to_string()]);
        }
        cable.plug(true);
        follower.until_peers(&["10.5.252.0-24", "10.5.253.0-24"]).await;
        until("the own key again", || server.ctl.get(&key) == value(7)).await;
        nothing_but(&mut follower, &server, &["10.5.252.0-24", "10.5.253.0-24"]).await;
    }
}

#[tokio::test]
async fn a_compaction_under_way_disturbs_nobody() {
    let server = Server::start(CONF);
    let mut follower = Follower::start(server.settings(), &node(7)).await;
    server.ctl.put("10.5.251.0-24", &value(1));
    server.ctl.run(&["compact", &server.ctl.revision().to_string()]);
    nothing_but(&mut follower, &server, &["10.5.251.0-24"]).await;
    assert_eq!(follower.lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_backup_is_noticed() {
    // Behind what was read, and beyond it: only the term tells then.
    for more in [0, 40] {
        let mut server = Server::start(CONF);
        let cable = Cable::to(&server).await;
        server.ctl.put("10.5.251.0-24", &value(1));
        server.backup();
        // What the backup does not know is missed for as long as a lease lasts.
        let timing = short(&server, 12, 5).timing;
        let mut follower = Follower::start(Settings { timing, ..settings(&cable.endpoint) }, &node(7)).await;
        let key = follower.key();
        server.ctl.put("10.5.252.0-24", &value(2));
        server.ctl.delete("10.5.251.0-24");
        follower.until_peers(&["10.5.252.0-24"]).await;
        // A server that was started several times, as one is that has run for years.
        for _ in 0..2 {
            server.kill();
            server.run();
        }
        nothing_but(&mut follower, &server, &["10.5.252.0-24"]).await;
        cable.plug(false);
        server.restore();
        assert_eq!(server.ctl.keys(), ["10.5.251.0-24"]);
        for _ in 0..more {
            server.ctl.run(&["put", "something", "else"]);
        }
        cable.plug(true);
        follower.until_peers(&["10.5.251.0-24", "10.5.252.0-24"]).await;
        // First, since it is told only for as long.
        until("it is told", || {
            let trouble = follower.status.borrow().trouble.clone();
            trouble.is_some_and(|trouble| trouble.contains("without 1 lease (10.5.252.0-24)"))
        })
        .await;
        until("the own key again", || server.ctl.get(&key) == value(7)).await;
        follower.until_peers(&["10.5.251.0-24"]).await;
        nothing_but(&mut follower, &server, &["10.5.251.0-24"]).await;
        until("no trouble any more", || follower.status.borrow().trouble.is_none()).await;
    }
}

#[tokio::test]
async fn what_a_backup_does_not_know_goes_where_the_store_says_otherwise() {
    let mut server = Server::start(CONF);
    let cable = Cable::to(&server).await;
    // A subnet within another's, and a node that has one of its own by now.
    let before = [("10.5.252.128-25", value(9)), ("10.5.248.0-24", value(3))];
    before.iter().for_each(|(key, value)| server.ctl.put(key, value));
    server.backup();
    before.iter().for_each(|(key, _)| server.ctl.delete(key));
    let after = ["10.5.249.0-24", "10.5.251.0-24", "10.5.252.0-24", "10.5.253.0-24"];
    let node_of = [4, 1, 2, 3];
    after.iter().zip(node_of).for_each(|(key, node)| server.ctl.put(key, &value(node)));
    let mut follower = Follower::start(settings(&cable.endpoint), &node(7)).await;
    assert_eq!(follower.peers(), after);
    cable.plug(false);
    server.restore();
    cable.plug(true);
    let mut known = vec!["10.5.248.0-24", "10.5.249.0-24", "10.5.251.0-24", "10.5.252.128-25"];
    follower.until_peers(&known).await;
    nothing_but(&mut follower, &server, &known).await;
    // To read everything anew is no reason to forget any of them.
    cable.plug(false);
    server.ctl.put("10.5.247.0-24", &value(10));
    server.ctl.run(&["compact", &server.ctl.revision().to_string()]);
    cable.plug(true);
    known.insert(0, "10.5.247.0-24");
    follower.until_peers(&known).await;
    nothing_but(&mut follower, &server, &known).await;
    // Who is back goes as ever, and nobody stays beside the one who has his subnet now.
    server.ctl.put("10.5.251.0-24", &value(1));
    server.ctl.delete("10.5.251.0-24");
    known.retain(|key| *key != "10.5.251.0-24");
    follower.until_peers(&known).await;
    server.ctl.put("10.5.249.128-25", &value(11));
    known[2] = "10.5.249.128-25";
    follower.until_peers(&known).await;
    until("no trouble any more", || follower.status.borrow().trouble.is_none()).await;
}

#[tokio::test]
async fn what_a_backup_says_of_this_node_is_mended() {
    let mut server = Server::start(CONF);
    let cable = Cable::to(&server).await;
    let mut follower = Follower::start(settings(&cable.endpoint), &node(7)).await;
    let key = follower.key();
    // As before this node had its MAC address of now.
    let old = value(7).replace("02:00:00:00:00:07", "02:00:00:00:00:99");
    server.ctl.put(&key, &old);
    server.backup();
    server.ctl.put(&key, &value(7));
    nothing_but(&mut follower, &server, &[]).await;
    cable.plug(false);
    server.restore();
    assert_eq!(server.ctl.get(&key), old);
    cable.plug(true);
    until("the own value again", || server.ctl.get(&key) == value(7)).await;
    until("no trouble", || follower.status.borrow().trouble.is_none()).await;
}

#[tokio::test]
async fn a_backup_that_gives_the_subnet_to_another_is_left_and_told() {
    let mut server = Server::start(CONF);
    let cable = Cable::to(&server).await;
    let mut follower = Follower::start(settings(&cable.endpoint), &node(7)).await;
    let key = follower.key();
    server.ctl.put(&key, &value(66));
    server.backup();
    server.ctl.put(&key, &value(7));
    let untroubled = |f: &Follower| f.status.borrow().trouble.is_none();
    nothing_but(&mut follower, &server, &[]).await;
    assert!(untroubled(&follower));
    cable.plug(false);
    server.restore();
    cable.plug(true);
    until("the trouble is known", || {
        let trouble = follower.status.borrow().trouble.clone();
        trouble.is_some_and(|trouble| trouble.contains("192.0.2.66 claims"))
    })
    .await;
    assert_eq!(server.ctl.get(&key), value(66));
}

#[tokio::test]
async fn many_nodes_at_once_are_told_in_few_steps() {
    let server = Server::start(CONF);
    let mut follower = Follower::start(server.settings(), &node(7)).await;
    let own = follower.key();
    let keys: Vec<String> = (1..=200).map(|n| format!("10.5.{n}.0-24")).filter(|key| *key != own).collect();
    let writers: Vec<_> = keys
        .chunks(50)
        .map(|chunk| {
            let (ctl, chunk) = (server.ctl.clone(), chunk.to_vec());
            std::thread::spawn(move || {
                // Hundreds of keys in a few transactions.
                let mut text = String::from("\n");
                for key in &chunk {
                    text.push_str(&format!("put {PREFIX}/subnets/{key} {:?}\n", value(1)));
                }
                text.push_str("\n\n");
                ctl.feed(&["txn"], &text);
            })
        })
        .collect();
    let mut told = 0;
    while follower.cluster.peers.len() < keys.len() {
        let before = follower.cluster.peers.len();
        follower.until("more peers", |f| f.cluster.peers.len() != before).await;
        told += 1;
    }
    for writer in writers {
        writer.join().expect("it ends");
    }
    assert!(told <= 8, "told {told} times");
}
