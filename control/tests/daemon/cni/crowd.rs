//! Many at once.

use serde_json::Value;

use super::{Answer, Container, Runtime};
use crate::lab::{Lab, Namespace};

#[test]
fn a_hundred_at_once_and_none_is_lost() {
    let lab = Lab::new();
    let namespaces: Vec<_> = (0..100).map(|_| Namespace::new("pod")).collect();
    let ids: Vec<_> = (0..100).map(|n| format!("{n:064x}")).collect();
    let _weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let conf = runtime.conf("1.1.0");
    let all = |command: &str| -> Vec<Value> {
        let containers = namespaces.iter().zip(&ids).map(|(netns, id)| Container { id, netns });
        let begun: Vec<_> =
            containers.map(|container| (container, runtime.start(command, &conf, container, ""))).collect();
        let ended = begun.into_iter().map(|(container, child)| match Answer::of(child) {
            // A machine that is too busy to answer in time is asked again, as runtimes do.
            answer if !answer.success && answer.out["code"] == 11 => runtime.call(command, &conf, container),
            answer => answer,
        });
        ended.map(Answer::result).collect()
    };
    let results = all("ADD");
    let mut addresses: Vec<_> =
        results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!((addresses.len(), lab.pods().pods.len()), (100, 100));
    for (namespace, result) in namespaces.iter().zip(&results) {
        let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
        assert!(lab.node.reaches_by_one_packet(address), "{address} in {}", namespace.name());
    }
    all("DEL");
    runtime.assert_clean(&namespaces.iter().collect::<Vec<_>>());
    lab.counters_balance();
}
