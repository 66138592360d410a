//! weftd is away, and namespaces go without a word.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Container, Runtime};
use crate::lab::{Lab, Namespace, wait_for};

#[test]
fn pods_can_be_deleted_while_weftd_is_away() {
    let lab = Lab::new();
    let (web, db, stays) = (Namespace::new("web"), Namespace::new("db"), Namespace::new("stays"));
    let weftd = lab.start();
    let runtime = Runtime::new(&lab);
    runtime.write_subnet_env();
    let conf = runtime.conf("1.1.0");
    let [one, two] = [Container { id: "c-1", netns: &web }, Container { id: "c-2", netns: &db }];
    for container in [one, two, Container { id: "c-3", netns: &stays }] {
        runtime.add(&conf, container);
    }
    weftd.stop();

    runtime
        .call("ADD", &conf, Container { id: "c-4", netns: &lab.peer })
        .fails_with(11, "weftd does not listen");
    assert_eq!(runtime.reserved().len(), 6, "the failed one has left addresses");
    runtime.whole("STATUS", &conf).fails_with(51, "weftd does not listen");
    runtime.del(&conf, one);
    runtime.del(&conf, one);
    assert_eq!(web.interfaces(), Vec::<String>::new(), "the interface is left");
    assert_eq!(runtime.reserved().len(), 4);
    assert!(lab.state_dir().join("deleted/c-1-eth0").exists());
    // The runtime ends this one without a word, as a node does that is switched off.
    db.delete();

    let weftd = lab.start();
    let names = || lab.pods().pods.into_iter().map(|pod| pod.name).collect::<Vec<_>>();
    assert_eq!(names(), ["c-3-eth0"]);
    assert!(!lab.state_dir().join("deleted/c-1-eth0").exists());
    assert_eq!(web.interfaces(), Vec::<String>::new(), "the interface was made again");
    assert_eq!(lab.status().problems, Vec::<String>::new());
    assert!(stays.pings("10.244.0.1"));
    runtime.del(&conf, two);
    runtime.add(&conf, one);
    assert!(web.pings("10.244.0.1"));

    // A note that no pod's name is stands in nobody's way.
    let bad = lab.state_dir().join("deleted/c-3-eth0%zz");
    std::fs::write(&bad, "").unwrap();
    runtime.del(&conf, one);
    runtime.add(&conf, one);
    std::fs::remove_file(&bad).unwrap();

    // It hangs, and comes to itself again: what was deleted meanwhile is heeded by the next call.
    weftd.signal(Signal::SIGSTOP);
    runtime.del(&conf, one);
    weftd.signal(Signal::SIGCONT);
    runtime.whole("STATUS", &conf).result();
    let four = Container { id: "c-4", netns: &lab.peer };
    runtime.add(&conf, four);
    assert_eq!(names(), ["c-3-eth0", "c-4-eth0"]);
    runtime.del(&conf, four);
    stays.delete();
    wait_for("a pod without a namespace to go", || lab.pods().pods.is_empty().then_some(()));
    runtime.del(&conf, Container { id: "c-3", netns: &stays });
    runtime.assert_clean(&[&web]);
}

#[test]
fn a_pod_that_does_not_fit_any_more_can_be_deleted() {
    let lab = Lab::new();
    let web = Namespace::new("web");
    let weftd = lab.start();
    let runtime = Runtime::new(&lab);
    let mut conf = runtime.conf("1.1.0");
    conf["ipam"] = json!({});
    conf["runtimeConfig"] = json!({"ips": ["10.244.0.9/24"]});
    let one = Container { id: "c-1", netns: &web };
    runtime.add(&conf, one);
    weftd.stop();
    let text = crate::lab::nodes(&[0, 1]).replace("10.244.0.0/24", "10.244.7.0/24");
    lab.replace_cluster(&text);
    let _weftd = lab.start();
    assert!(lab.status().problems[0].contains("does not fit"), "{:?}", lab.status().problems);
    runtime.del(&conf, one);
    runtime.assert_clean(&[&web]);
}
