//! Whatever happens, and in whatever order: in the end the store says what one says that has just come.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::lab::{Lab, VXLAN, annotate, backend_data, mac, node, public_ip};
use crate::server::{Fault, Verb};

#[derive(Clone, Debug)]
enum Happens {
    /// A node comes, or is as it was in the beginning.
    Put(u16),
    /// It is registered as a machine of the same kind as another: with its subnet, its address, its MAC address.
    Like(u16, u16, u8),
    Remove(u16),
    /// Another MAC address.
    Mac(u16, u8),
    /// It says nonsense.
    Nonsense(u16),
    NotReady(u16),
    Leave(u16),
    Fails(Verb, Fault),
    Cut,
    Compact,
    Bookmark,
    Away,
    Wait(u8),
}

fn happens() -> impl Strategy<Value = Happens> {
    let node = || 2u16..10;
    let fault = prop_oneof![
        Just(Fault::Status(500, None)),
        Just(Fault::Status(429, Some(0))),
        Just(Fault::Gone),
        Just(Fault::ErrorEvent(410)),
        Just(Fault::ErrorEvent(500)),
        (0usize..3000).prop_map(Fault::CutAfter),
        (50usize..500).prop_map(|bytes| Fault::Slow(bytes, Duration::from_millis(1))),
        Just(Fault::Garbage),
        Just(Fault::EndAtOnce),
    ];
    let verb = prop_oneof![3 => Just(Verb::Watch), 1 => Just(Verb::List)];
    prop_oneof![
        6 => node().prop_map(Happens::Put),
        2 => (node(), node(), 0u8..3).prop_map(|(a, b, what)| Happens::Like(a, b, what)),
        4 => node().prop_map(Happens::Remove),
        3 => (node(), any::<u8>()).prop_map(|(index, last)| Happens::Mac(index, last)),
        1 => node().prop_map(Happens::Nonsense),
        1 => node().prop_map(Happens::NotReady),
        1 => node().prop_map(Happens::Leave),
        4 => (verb, fault).prop_map(|(verb, fault)| Happens::Fails(verb, fault)),
        3 => Just(Happens::Cut),
        2 => Just(Happens::Compact),
        1 => Just(Happens::Bookmark),
        1 => Just(Happens::Away),
        3 => (0u8..20).prop_map(Happens::Wait),
    ]
}

async fn happen(lab: &Lab, what: &Happens) {
    let server = &lab.server;
    let name = |index: &u16| format!("n{index}");
    match what {
        Happens::Put(index) => server.put("nodes", node(*index)),
        Happens::Like(index, other, what) => {
            let mut node = node(*index);
            match what {
                0 => node["spec"] = crate::lab::node(*other)["spec"].clone(),
                1 => annotate(&mut node, "public-ip", &public_ip(*other)),
                _ => annotate(&mut node, "backend-data", &backend_data(&mac(*other))),
            }
            server.put("nodes", node);
        }
        Happens::Remove(index) => server.remove("nodes", &name(index)),
        Happens::Mac(index, last) => server.change("nodes", &name(index), |node| {
            annotate(node, "backend-data", &backend_data(&format!("02:00:00:01:{index:02x}:{last:02x}")));
        }),
        Happens::Nonsense(index) => {
            server.change("nodes", &name(index), |node| node["metadata"]["annotations"] = json!({"a": 7}));
        }
        Happens::NotReady(index) => server.change("nodes", &name(index), |node| {
            node["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        }),
        Happens::Leave(index) => {
            server.change("nodes", &name(index), |node| annotate(node, "kube-subnet-manager", "false"));
        }
        Happens::Fails(verb, fault) => server.fail(*verb, "nodes", fault.clone()),
        Happens::Cut => server.cut(),
        Happens::Compact => server.compact(),
        Happens::Bookmark => server.bookmark(),
        Happens::Away => {
            server.set_up(false);
            tokio::time::sleep(Duration::from_millis(5)).await;
            server.set_up(true);
        }
        Happens::Wait(milliseconds) => {
            tokio::time::sleep(Duration::from_millis((*milliseconds).into())).await
        }
    }
}

#[test]
fn in_the_end_the_store_says_what_a_list_says() {
    let config = Config { cases: 40, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&proptest::collection::vec(happens(), 1..60), |history| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lab = Lab::new(VXLAN);
            let mut running = lab.run().await;
            for what in &history {
                happen(&lab, what).await;
                // The receiver is slow now and then, and quick at other times.
                running.rest(Duration::from_micros(200)).await;
            }
            // What is still to fail fails for whoever asks next: the store that runs, or the fresh one.
            let fresh = lab.fresh().await;
            running.until("the same as a list", |r| *r.last == fresh).await;
            Ok(())
        })
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
