//! What a node says of itself, and when.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use weft_flannel::kube::{Kube, ThisNode};
use weft_flannel::store::{Store, StoreError};

use crate::lab::{
    DUAL, Lab, Log, PATIENCE, Running, VXLAN, annotate, backend_data, bare_node, mac, own, wait_for,
};
use crate::server::{Fault, Server, Verb};

/// The annotations of `n1`, as flanneld patches them.
pub(crate) const SAYS: &str = concat!(
    r#"{"metadata":{"annotations":{"#,
    r#""flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:00:01\"}","#,
    r#""flannel.alpha.coreos.com/backend-type":"vxlan","#,
    r#""flannel.alpha.coreos.com/kube-subnet-manager":"true","#,
    r#""flannel.alpha.coreos.com/public-ip":"172.16.0.1"}}}"#
);

#[tokio::test]
async fn a_node_is_published_when_it_forwards_and_not_before() {
    let lab = Lab::new(VXLAN);
    let mut store = Store::Kube(Box::new(lab.connect().await));
    let cluster = store.acquire(&own()).await.unwrap();
    assert_eq!(cluster.own.to_string(), "10.0.1.0/24");
    assert_eq!(cluster.peers.len(), 2);
    assert_eq!(lab.server.patches(), Vec::<String>::new());

    store.publish().await.unwrap();
    let patches = lab.server.patches();
    assert_eq!(patches[0], SAYS);
    let condition = concat!(
        r#"{"status":{"conditions":[{"type":"NetworkUnavailable","status":"False","#,
        r#""lastHeartbeatTime":"","lastTransitionTime":"","reason":"FlannelIsUp","#,
        r#""message":"Flannel is running on this node"}]}}"#
    );
    let json: serde_json::Value = serde_json::from_str(&patches[1]).unwrap();
    let time = json["status"]["conditions"][0]["lastHeartbeatTime"].as_str().unwrap();
    assert_eq!(patches[1].replace(time, ""), condition);
    assert_eq!(patches.len(), 2);
    for asked in lab.server.asked().iter().filter(|asked| asked.verb == Verb::Patch) {
        assert_eq!(asked.uri, "/api/v1/nodes/n1/status");
        assert_eq!(asked.headers["content-type"], "application/strategic-merge-patch+json");
    }
}

#[tokio::test]
async fn a_node_with_both_families_says_both() {
    let lab = Lab::new(DUAL);
    lab.server
        .change("nodes", "n1", |node| node["spec"]["podCIDRs"] = json!(["10.0.1.0/24", "fd00:10:0:1::/64"]));
    let running = lab.run().await;
    assert_eq!(running.last.own.to_string(), "10.0.1.0/24 and fd00:10:0:1::/64");
    let v6 = concat!(
        r#""flannel.alpha.coreos.com/backend-v6-data":"{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:60:01\"}","#,
        r#""flannel.alpha.coreos.com/kube-subnet-manager":"true","#,
        r#""flannel.alpha.coreos.com/public-ip":"172.16.0.1","#,
        r#""flannel.alpha.coreos.com/public-ipv6":"fd01::1"}}}"#
    );
    assert!(lab.server.patches()[0].ends_with(v6), "{}", lab.server.patches()[0]);
}

#[tokio::test]
async fn a_subnet_that_comes_late_is_waited_for() {
    let log = Log::begin();
    let lab = Lab::empty(Server::start(), VXLAN);
    let mut store = Store::Kube(Box::new(lab.connect().await));
    let own = own();
    let mut acquired = Box::pin(store.acquire(&own));
    let early = timeout(Duration::from_millis(50), &mut acquired).await;
    assert!(early.is_err(), "there is no node yet");
    wait_for_line(&mut acquired, || log.about("is not registered yet").len() == 1).await;
    let mut node = bare_node(1);
    node["spec"] = json!({});
    lab.server.put("nodes", node);
    let early = timeout(Duration::from_millis(50), &mut acquired).await;
    assert!(early.is_err(), "there is no subnet yet");
    assert_eq!(log.about("is not registered yet").len(), 1);
    wait_for_line(&mut acquired, || log.about("--allocate-node-cidrs").len() == 1).await;
    lab.server.change("nodes", "n1", |node| node["spec"] = json!({"podCIDR": "10.0.7.0/24"}));
    let cluster = timeout(PATIENCE, acquired).await.unwrap().unwrap();
    assert_eq!(cluster.own.to_string(), "10.0.7.0/24");
}

async fn wait_for_line<T>(running: &mut (impl Future<Output = T> + Unpin), is: impl Fn() -> bool) {
    wait_for_while(running, "a line", is).await;
}

/// Lets `running` go on until `is`.
async fn wait_for_while<T>(
    running: &mut (impl Future<Output = T> + Unpin),
    what: &str,
    is: impl Fn() -> bool,
) {
    tokio::select! {
        _ = running => panic!("{what}: it has ended"),
        () = wait_for(what, || is().then_some(())) => {}
    }
}

#[tokio::test]
async fn a_subnet_that_cannot_be_is_the_operators() {
    for (spec, says) in [
        (json!({"podCIDR": "192.168.1.0/24"}), "192.168.1.0/24 is outside of Network 10.0.0.0/8"),
        (json!({"podCIDR": "fd00::/64"}), "no podCIDR of IPv4"),
        (json!({"podCIDR": "10.0.1.0"}), "is none"),
        (json!({"podCIDRs": ["10.0.1.0/24", "10.0.2.0/24"]}), "several podCIDRs of one family"),
    ] {
        let lab = Lab::empty(Server::start(), VXLAN);
        let mut node = bare_node(1);
        node["spec"] = spec;
        lab.server.put("nodes", node);
        let mut store = Store::Kube(Box::new(lab.connect().await));
        let error = timeout(PATIENCE, store.acquire(&own())).await.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Content { .. }) && error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn what_is_lost_or_edited_is_said_again() {
    let lab = Lab::new(VXLAN);
    let mut running = lab.run().await;
    let says = |name: &'static str| {
        let node = lab.server.get("nodes", "n1");
        node["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{name}")]
            .as_str()
            .map(str::to_owned)
    };
    let available = || {
        let node = lab.server.get("nodes", "n1");
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "NetworkUnavailable" && c["status"] == "False")
    };
    // The kubelet registers the node again.
    lab.server.remove("nodes", "n1");
    lab.server.put("nodes", bare_node(1));
    wait_for("the annotations", || (says("backend-data") == Some(backend_data(&mac(1)))).then_some(())).await;
    wait_for("the condition", || available().then_some(())).await;
    assert_eq!(running.last.own.to_string(), "10.0.1.0/24");

    lab.server.change("nodes", "n1", |node| annotate(node, "backend-data", r#"{"VNI": 7}"#));
    wait_for("the old words", || (says("backend-data") == Some(backend_data(&mac(1)))).then_some(())).await;
    lab.server.change("nodes", "n1", |node| {
        node["status"]["conditions"] = json!([{"type": "NetworkUnavailable", "status": "True"}]);
    });
    wait_for("the condition again", || available().then_some(())).await;
    lab.server.change("nodes", "n1", |node| annotate(node, "public-ip-overwrite", "203.0.113.1"));
    wait_for("the operator's word", || (says("public-ip").as_deref() == Some("203.0.113.1")).then_some(()))
        .await;

    // Registered with another subnet, it is another node of the network.
    lab.server.remove("nodes", "n1");
    let mut node = bare_node(1);
    node["spec"] = json!({"podCIDR": "10.9.9.0/24"});
    lab.server.put("nodes", node);
    running.until("the new subnet", |r| r.last.own.to_string() == "10.9.9.0/24").await;
}

#[tokio::test]
async fn a_write_that_fails_is_tried_again_while_the_node_works() {
    let log = Log::begin();
    let lab = Lab::new(VXLAN);
    for code in [500, 409, 403] {
        lab.server.fail(Verb::Patch, "nodes", Fault::Status(code, None));
    }
    let mut running = lab.run().await;
    lab.server.remove("nodes", "n3");
    running.until("news in spite of it", |r| r.names() == ["n2"]).await;
    wait_for("both patches at last", || (lab.server.patches().len() >= 5).then_some(())).await;
    assert_eq!(lab.server.patches()[3], SAYS);
    assert_eq!(log.about("can't be annotated").len(), 3, "{:?}", log.about(""));
}

#[tokio::test]
async fn nobody_writes_all_the_time_against_another() {
    // Seldom enough for what was written to be seen before it is edited again, and oftener than that.
    for (every, most) in [(50, 2000), (1, 500)] {
        let mut lab = Lab::new(VXLAN);
        lab.patience.last_retry = Duration::from_secs(5);
        let _running = lab.run().await;
        let begun = std::time::Instant::now();
        let mut edits = 0u32;
        while begun.elapsed() < Duration::from_millis(most) || lab.server.patches().len() < 3 {
            assert!(begun.elapsed() < PATIENCE, "it did not insist");
            lab.server.change("nodes", "n1", |node| annotate(node, "backend-type", "other"));
            edits += 1;
            tokio::time::sleep(Duration::from_millis(every)).await;
        }
        let patches = lab.server.patches().len();
        // The waits double from 12 ms at least: eight of them take longer than two seconds.
        assert!(patches <= 12, "{patches} patches against {edits} edits");
    }
}

#[tokio::test]
async fn the_condition_is_left_alone_if_asked_so() {
    let mut lab = Lab::new(VXLAN);
    lab.set_network_unavailable = false;
    let _running = lab.run().await;
    assert_eq!(lab.server.patches(), [SAYS]);
}

#[tokio::test]
async fn a_node_reads_what_it_was_annotated_with() {
    let lab = Lab::new(VXLAN);
    let advice = lab.connect().await.advice().await.unwrap();
    assert_eq!(advice, weft_flannel::kube::Advice::default());
    lab.server.change("nodes", "n1", |node| {
        annotate(node, "backend-data", &backend_data("12:c6:65:89:b4:e3"));
        annotate(node, "node-public-ip", "172.16.9.9");
    });
    lab.server.fail(Verb::Get, "nodes", Fault::Status(503, None));
    lab.server.fail(Verb::Get, "nodes", Fault::Garbage);
    let advice = lab.connect().await.advice().await.unwrap();
    assert_eq!(advice.vtep_mac, Some("12:c6:65:89:b4:e3".parse().unwrap()));
    assert_eq!(advice.public_ip, Some("172.16.9.9".parse().unwrap()));
}

#[tokio::test]
async fn the_pod_that_we_are_says_the_node() {
    let lab = Lab::new(VXLAN);
    let mut options = lab.options();
    options.node = ThisNode::OfPod { namespace: "kube-flannel".to_owned(), name: "weft-x".to_owned() };
    let connecting = Kube::connect(options);
    let mut connecting = Box::pin(connecting);
    assert!(timeout(Duration::from_millis(30), &mut connecting).await.is_err(), "there is no such pod yet");
    lab.server.put(
        "pods",
        json!({"metadata": {"namespace": "kube-flannel", "name": "weft-x"}, "spec": {"nodeName": "n1"}}),
    );
    let kube = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    assert_eq!(kube.node(), "n1");
    assert_eq!(Running::of(kube).await.names(), ["n2", "n3"]);
}

#[test]
fn the_environment_says_which_node_this_is() {
    let of = |pairs: &'static [(&str, &str)]| {
        ThisNode::from_variables(move |name| {
            pairs.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        })
    };
    assert_eq!(of(&[("NODE_NAME", "a"), ("POD_NAME", "b")]), Ok(ThisNode::Named("a".to_owned())));
    assert_eq!(
        of(&[("NODE_NAME", ""), ("POD_NAME", "b"), ("POD_NAMESPACE", "c")]),
        Ok(ThisNode::OfPod { namespace: "c".to_owned(), name: "b".to_owned() })
    );
    assert!(of(&[("POD_NAME", "b")]).is_err());
}
