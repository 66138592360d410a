//! The store against what a real API server has said: see `recorded/kube-apiserver.http`. `scripts/interop record` makes that file, by the
//! same test with a real server in the recording's place: then WEFT_STAGE says where that program listens.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_flannel::kube::{Advice, Kube, Patience, ThisNode};

use crate::lab::{Lab, Log, PATIENCE, Running, VXLAN, backend_data, mac, read, wait_for};
use crate::own::SAYS;
use crate::replay::{Recording, Replay, Request};
use crate::server::Server;

fn recording() -> String {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube");
    read(&tests.join("recorded/kube-apiserver.http"))
}

/// Where the store is tried.
enum Stage {
    Played(Replay),
    Live { url: String, director: BufStream<TcpStream> },
}

impl Stage {
    async fn begin() -> Self {
        let Ok(address) = std::env::var("WEFT_STAGE") else {
            return Self::Played(Replay::start(Recording::read(&recording())).await);
        };
        let mut director = BufStream::new(TcpStream::connect(address).await.unwrap());
        let mut url = String::new();
        director.read_line(&mut url).await.unwrap();
        Self::Live { url: url.trim_end().to_owned(), director }
    }

    fn url(&self) -> String {
        match self {
            Self::Played(replay) => format!("http://{}", replay.address),
            Self::Live { url, .. } => url.clone(),
        }
    }

    /// Lets that happen in the cluster.
    async fn go(&mut self, step: &str) {
        match self {
            Self::Played(replay) => replay.go(step).await,
            Self::Live { director, .. } => {
                director.write_all(format!("{step}\n").as_bytes()).await.unwrap();
                director.flush().await.unwrap();
                let mut line = String::new();
                timeout(2 * PATIENCE, director.read_line(&mut line)).await.unwrap().unwrap();
                assert_eq!(line, "done\n", "{step}");
            }
        }
    }

    /// A store that has joined the cluster. It may not at first.
    async fn join(&mut self) -> Running {
        let log = Log::begin();
        let mut lab = Lab::empty(Server::start(), VXLAN);
        lab.patience = Patience {
            answer: PATIENCE,
            silence: PATIENCE,
            // Servers send a bookmark two seconds before the end.
            watch: Duration::from_secs(5),
            // What is written is to be seen before it is written again, also where the machine is busy.
            first_retry: Duration::from_millis(300),
            last_retry: Duration::from_millis(400),
            gather: Duration::from_millis(2),
        };
        let mut options = lab.options();
        options.access.url = Some(self.url());
        options.node = ThisNode::OfPod { namespace: "kube-flannel".to_owned(), name: "weft-x".to_owned() };
        let connecting = tokio::spawn(Kube::connect(options));
        let refused = || (log.about("deploy/kubernetes/rbac.yaml").len() == 1).then_some(());
        wait_for("what an operator is to do", refused).await;
        let said = log.about("deploy/kubernetes/rbac.yaml");
        assert!(said[0].contains(r#"cannot get resource "pods""#), "{said:?}");
        self.go("weft is given its rights").await;
        let kube = timeout(PATIENCE, connecting).await.unwrap().unwrap().unwrap();
        assert_eq!(kube.node(), "n1");
        let advice = timeout(PATIENCE, kube.advice()).await.unwrap().unwrap();
        assert_eq!(advice, Advice { public_ip: Some("172.16.0.1".parse().unwrap()), ..Advice::default() });
        Running::of(kube).await
    }
}

/// The peers, a line each.
fn peers(running: &Running) -> Vec<String> {
    let line = |peer: &weft_flannel::store::Peer| {
        let (said, none) = (&peer.attributes, String::new());
        let (address, data) = (said.public_ip.unwrap(), said.backend_data.as_ref().unwrap_or(&none));
        format!("{} {} {} {address} {data}", peer.name, peer.subnets, said.backend_type)
    };
    running.last.peers.iter().map(|peer| line(peer)).collect()
}

/// Those nodes as [`peers`], with this MAC address of the first.
fn nodes(indices: &[u16], first: &str) -> Vec<String> {
    let line = |index: &u16| {
        let mac = if *index == indices[0] { first.to_owned() } else { mac(*index) };
        format!("n{index} 10.0.{index}.0/24 vxlan 172.16.0.{index} {}", backend_data(&mac))
    };
    indices.iter().map(line).collect()
}

#[tokio::test]
async fn a_real_server_is_understood() {
    const ANOTHER: &str = "02:00:00:00:99:99";
    let mut stage = Stage::begin().await;
    let mut running = stage.join().await;
    assert_eq!(running.last.own.to_string(), "10.0.1.0/24");
    assert_eq!(peers(&running), nodes(&[2, 3, 4], &mac(2)));
    stage.go("n1 is published").await;

    stage.go("n2 has another MAC address").await;
    running.until("the MAC address", |r| r.data("n2") == backend_data(ANOTHER)).await;
    assert_eq!(peers(&running), nodes(&[2, 3, 4], ANOTHER));
    stage.go("n6 comes").await;
    running.until("a node that comes", |r| r.last.peers.len() == 4).await;
    assert_eq!(peers(&running), nodes(&[2, 3, 4, 6], ANOTHER));
    stage.go("n3 goes").await;
    running.until("a node that goes", |r| r.last.peers.len() == 3).await;
    assert_eq!(peers(&running), nodes(&[2, 4, 6], ANOTHER));

    let mut pods = running.pods.clone();
    let limit = |pods: &weft_flannel::kube::Pods| Some(pods.get("shop/web")?.ingress_bandwidth?.get());
    timeout(PATIENCE, pods.wait_for(|pods| limit(pods) == Some(10_000_000))).await.unwrap().unwrap();
    {
        let pods = pods.borrow();
        assert_eq!(pods.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["shop/web"]);
        let web = pods.get("shop/web").unwrap();
        assert_eq!(web.addresses, ["10.0.1.2".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(web.labels["app"], "web");
    }
    stage.go("a pod's limit is another").await;
    timeout(PATIENCE, pods.wait_for(|pods| limit(pods) == Some(20_000_000))).await.unwrap().unwrap();
    stage.go("a pod of another node changes").await;
    stage.go("the server is killed, and n4 has gone when it is back").await;
    running.until("what happened meanwhile", |r| r.last.peers.len() == 2).await;
    assert_eq!(peers(&running), nodes(&[2, 6], ANOTHER));
    stage.go("a pod goes").await;
    timeout(PATIENCE, pods.wait_for(|pods| pods.is_empty())).await.unwrap().unwrap();
    stage.go("the end").await;
    assert_eq!(peers(&running), nodes(&[2, 6], ANOTHER));
    assert_eq!(running.last.own.to_string(), "10.0.1.0/24");

    if let Stage::Played(replay) = stage {
        let came = replay.came();
        let patches: Vec<_> = came.iter().filter(|request| request.method == "PATCH").collect();
        assert_eq!(patches.len(), 2);
        assert_eq!(patches[0].body, SAYS);
        assert!(patches[1].body.contains(r#""type":"NetworkUnavailable","status":"False""#));
        for patch in patches {
            assert_eq!(patch.path, "/api/v1/nodes/n1/status");
            assert_eq!(patch.headers["content-type"], "application/strategic-merge-patch+json");
        }
    }
}

/// Whoever records anew sees here whether all came about.
#[test]
fn the_recording_has_what_it_is_for() {
    let recording = Recording::read(&recording());
    let of = |is: &dyn Fn(&Request) -> bool| -> Vec<(&Request, String)> {
        let all = recording.requests.iter().enumerate();
        all.filter(|(_, request)| is(request)).map(|(n, request)| (request, recording.answer(n))).collect()
    };
    let has =
        |answers: &[(&Request, String)], text: &str| answers.iter().any(|(_, said)| said.contains(text));

    assert!(has(&of(&|request| request.path.ends_with("/pods/weft-x")), "HTTP/1.1 403 Forbidden"));
    let watches = of(&|request| request.path == "/api/v1/nodes" && request.part("watch") == Some("true"));
    for event in [r#"{"type":"ADDED""#, r#"{"type":"MODIFIED""#, r#"{"type":"DELETED""#] {
        assert!(has(&watches, event), "{event}");
    }
    assert!(
        watches.iter().any(|(_, said)| said.contains(r#"{"type":"ERROR""#) && said.contains(r#""code":410"#))
    );
    assert!(watches.iter().any(|(_, said)| said.ends_with("\r\n0\r\n\r\n")), "none went on to its end");
    assert_eq!(recording.breaks(), 2, "both watches, when the server was killed");

    let further = of(&|request| request.part("continue").is_some());
    assert!(has(&further, "HTTP/1.1 410 Gone"));
    assert!(has(&further, "HTTP/1.1 200 OK"));
    let whole = |request: &Request| request.path == "/api/v1/nodes" && request.query.is_empty();
    assert!(has(&of(&whole), "HTTP/1.1 200 OK"));

    // A watch of the pods went on from where only a bookmark had been.
    let pods = of(&|request| request.path == "/api/v1/pods");
    let marks = pods.iter().flat_map(|(_, said)| said.lines()).filter(|line| line.contains("BOOKMARK"));
    let version =
        |line: &str| line.split_once(r#""resourceVersion":""#)?.1.split('"').next().map(str::to_owned);
    let mut versions = marks.filter_map(version);
    assert!(
        versions
            .any(|mark| { pods.iter().any(|(request, _)| request.part("resourceVersion") == Some(&mark)) })
    );
}

/// The recording would be worth little otherwise.
#[tokio::test]
async fn another_request_than_the_recorded_one_is_noticed() {
    let replay = Replay::start(Recording::read(&recording().replace("limit=250", "limit=25"))).await;
    let mut stage = Stage::Played(replay);
    let _running = stage.join().await;
    let Stage::Played(replay) = stage else { unreachable!() };
    let complaints = replay.complaints();
    let complaint = complaints.first().expect("a complaint");
    assert!(complaint.contains(r#""limit=250""#) && complaint.contains(r#""limit=25""#), "{complaints:?}");
}
