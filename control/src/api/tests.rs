//! The API from outside: a real socket, an invented backend, and clients good and bad.

mod description;
mod invented;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weft_api::{ApiError, Client, ClientError, ErrorCode, Mac, PodPort, PodSpec};

use super::*;
use invented::Invented;

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon {
    socket: PathBuf,
    backend: Arc<Invented>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _file: SocketFile,
    _folder: TempDir,
}

impl Daemon {
    fn start(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("weftd.sock");
        let (listener, file) = bind(&socket, 0o660, None).unwrap();
        let backend = Arc::new(Invented::default());
        let (stop, stopped) = oneshot::channel();
        let serving = serve_with(limits, listener, Arc::clone(&backend), async {
            let _ = stopped.await;
        });
        let task = tokio::spawn(serving);
        Self { socket, backend, stop: Some(stop), task, _file: file, _folder: folder }
    }

    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends these bytes and reads until the daemon closes. Bytes that it does not want any more are lost.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        let _ = stream.write_all(bytes).await;
        read_all(stream).await
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: weft\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = self.raw(request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        assert!(head.to_ascii_lowercase().contains("application/json"), "{head}");
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}

async fn read_all(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the daemon hangs");
    String::from_utf8_lossy(&answer).into_owned()
}

fn spec(name: &str) -> PodSpec {
    PodSpec {
        name: name.to_owned(),
        port: PodPort::Tap { netns: "/run/netns/a".into(), ifname: "eth0".to_owned() },
        addresses: vec!["10.244.1.5".parse().unwrap()],
        mac: None,
        trusted: false,
        mtu: None,
        routes: None,
        cni: None,
        bandwidth: Default::default(),
    }
}

fn api_error<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ApiError {
    match result {
        Err(ClientError::Api(error)) => error,
        other => panic!("no error of the daemon: {other:?}"),
    }
}

#[tokio::test]
async fn every_route_answers_the_client() {
    let daemon = Daemon::start(Limits::default());
    let client = daemon.client();
    assert_eq!(client.index().await.unwrap().version, env!("CARGO_PKG_VERSION"));
    assert_eq!(client.status().await.unwrap().node, "n1");
    assert_eq!(client.stats().await.unwrap().total.in_flight(), 0);
    assert_eq!(client.drops(false).await.unwrap().total.len(), 1);
    assert_eq!(client.drops(true).await.unwrap().total.len(), 2);
    assert_eq!(client.config().await.unwrap().restart_needed.len(), 1);
    assert_eq!(client.workers().await.unwrap().workers.len(), 1);

    // What is asked for arrives, whatever is in it.
    assert_eq!(client.ports(Some("a b&c=d#é%")).await.unwrap().ports[0].name, "a b&c=d#é%");
    let mac = Mac([2, 0, 0, 0, 0, 9]);
    let pins = client.pins("fd00::7".parse().ok(), 1).await.unwrap();
    assert_eq!((pins.entries.len(), pins.entries[0].dst), (1, "fd00::7".parse::<IpAddr>().unwrap()));
    let fdb = client.fdb(Some("web"), Some(mac)).await.unwrap().entries.remove(0);
    assert_eq!((fdb.port.as_deref(), fdb.mac), (Some("web"), mac));
    for address in ["10.0.0.7", "fd00::7"].map(|text| text.parse::<IpAddr>().unwrap()) {
        assert_eq!(client.neighbours(Some(address)).await.unwrap().entries[0].address, address);
        assert_eq!(client.route_to(address).await.unwrap().routes[0].to.addr(), address);
    }
    assert_eq!(client.neighbours(None).await.unwrap().conflicts.len(), 1);
    assert_eq!(client.routes().await.unwrap().routes.len(), 1);
    assert_eq!(client.vteps(Some("n3")).await.unwrap().vteps[0].node, "n3");
    let flow = client.flows(3, 17).await.unwrap().flows.remove(0);
    assert_eq!((flow.packets, flow.bytes), (3, 17));

    let made = client.add_pod(&spec("a")).await.unwrap();
    assert_eq!((made.name.as_str(), made.port_id), ("a", Some(3)));
    assert_eq!(client.pods().await.unwrap().pods, vec![made.clone()]);
    assert_eq!(client.delete_pod("a").await.unwrap(), made);
    assert!(client.pods().await.unwrap().pods.is_empty());
}

#[tokio::test]
async fn every_failure_has_its_code() {
    let daemon = Daemon::start(Limits::default());
    let client = daemon.client();
    client.add_pod(&spec("a")).await.unwrap();
    assert_eq!(api_error(client.add_pod(&spec("a")).await).code, ErrorCode::Conflict);
    assert_eq!(api_error(client.add_pod(&spec("refused")).await).code, ErrorCode::Refused);
    assert_eq!(api_error(client.add_pod(&spec("early")).await).code, ErrorCode::NotReady);
    assert_eq!(api_error(client.add_pod(&spec("panic")).await).code, ErrorCode::Internal);
    assert_eq!(api_error(client.add_pod(&spec("a/b")).await).code, ErrorCode::BadRequest);
    // The name arrives as it was given.
    assert_eq!(api_error(client.delete_pod("../x y%").await).error, "there is no pod \"../x y%\"");

    for (method, path, body, status, code) in [
        ("GET", "/v1/nothing", "", 404, "not_found"),
        ("GET", "/", "", 404, "not_found"),
        ("GET", "/v2/status", "", 404, "not_found"),
        ("PUT", "/v1/pods", "", 405, "method_not_allowed"),
        ("DELETE", "/v1/status", "", 405, "method_not_allowed"),
        ("GET", "/v1/pods/a", "", 405, "method_not_allowed"),
        ("DELETE", "/v1/pods/none", "", 404, "not_found"),
        ("DELETE", "/v1/pods/%ff", "", 400, "bad_request"),
        ("GET", "/v1/drops?all=maybe", "", 400, "bad_request"),
        ("GET", "/v1/drops?al=true", "", 400, "bad_request"),
        ("GET", "/v1/status?x=1", "", 400, "bad_request"),
        ("GET", "/v1/fdb?mac=02:00", "", 400, "bad_request"),
        ("GET", "/v1/pins?limit=0", "", 400, "bad_request"),
        ("GET", "/v1/neigh?address=10.0.0.256", "", 400, "bad_request"),
        ("GET", "/v1/routes?match=10.0.0.0/8", "", 400, "bad_request"),
        ("GET", "/v1/flows?seconds=0", "", 400, "bad_request"),
        ("GET", "/v1/flows?seconds=21", "", 400, "bad_request"),
        ("GET", "/v1/flows?limit=10001", "", 400, "bad_request"),
        ("GET", "/v1/flows?limit=-1", "", 400, "bad_request"),
        ("POST", "/v1/pods", "", 400, "bad_request"),
        ("POST", "/v1/pods", "{", 400, "bad_request"),
        ("POST", "/v1/pods", "[]", 400, "bad_request"),
        ("POST", "/v1/pods", r#"{"name":"b","kind":"tap","netns":"/n"}"#, 400, "bad_request"),
    ] {
        let (got, answer) = daemon.request(method, path, body).await;
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{method} {path} {body}: {answer}");
        assert!(!answer["error"].as_str().unwrap().is_empty());
    }
    let deep = "[".repeat(60_000);
    assert_eq!(daemon.request("POST", "/v1/pods", &deep).await.0, 400);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_and_its_client_hears_why() {
    let daemon = Daemon::start(Limits::default());
    let limit = weft_api::BODY_LIMIT;
    // At the limit it is read, and found to be no pod.
    assert_eq!(daemon.request("POST", "/v1/pods", &" ".repeat(limit)).await.0, 400);
    for length in [limit + 1, 10 * limit] {
        let (status, answer) = daemon.request("POST", "/v1/pods", &" ".repeat(length)).await;
        assert_eq!((status, answer["code"].as_str()), (413, Some("too_large")), "{length}");
    }
    // In chunks, without saying how long it will be.
    let mut chunked = b"POST /v1/pods HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..=limit / 4096 {
        chunked.extend_from_slice(b"1000\r\n");
        chunked.extend_from_slice(&[b' '; 4096]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert!(daemon.raw(&chunked).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn rubbish_is_refused_and_harms_nobody() {
    let daemon = Daemon::start(Limits { head: Duration::from_millis(200), ..Limits::default() });
    let noise: Vec<u8> = (0u32..100_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let long_head = format!("GET /v1/status HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for rubbish in [
        noise.as_slice(),
        b"",
        b"\0",
        b"\r\n\r\n\r\n",
        b"GET",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/pods HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/pods HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        long_head.as_bytes(),
        long_path.as_bytes(),
    ] {
        let answer = daemon.raw(rubbish).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        daemon.client().status().await.unwrap();
    }
}

#[tokio::test]
async fn who_has_sent_all_may_close_its_side_and_read() {
    let daemon = Daemon::start(Limits::default());
    let mut stream = daemon.connect().await;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(read_all(stream).await.starts_with("HTTP/1.1 200"));
    // In the middle of a body that never comes.
    let mut stream = daemon.connect().await;
    stream.write_all(b"POST /v1/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{").await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(!read_all(stream).await.starts_with("HTTP/1.1 2"));
}

#[tokio::test]
async fn slow_clients_do_not_hold_up_others() {
    // They are never cut off here: only that they take no place but their own lets the others through.
    let forever =
        Limits { head: PATIENCE * 10, body: PATIENCE * 10, connection: PATIENCE * 10, ..Limits::default() };
    let daemon = Daemon::start(forever);
    let mut slow = Vec::new();
    for part in [
        &b""[..],
        b"G",
        b"GET /v1/status HTTP/1.1\r\nHo",
        b"POST /v1/pods HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    ] {
        for _ in 0..10 {
            let mut stream = daemon.connect().await;
            stream.write_all(part).await.unwrap();
            slow.push(stream);
        }
    }
    for _ in 0..10 {
        timeout(PATIENCE, daemon.client().status()).await.expect("held up by the slow").unwrap();
    }
}

#[tokio::test]
async fn slow_clients_are_cut_off_even_when_they_hold_every_slot() {
    let short = Duration::from_millis(200);
    let daemon = Daemon::start(Limits { connections: 4, head: short, body: short, ..Limits::default() });
    let mut dribbling = Vec::new();
    for _ in 0..8 {
        let mut stream = daemon.connect().await;
        dribbling.push(tokio::spawn(async move {
            // A byte now and then, for ever, but for the daemon.
            let head = b"POST /v1/pods HTTP/1.1\r\nContent-Length: 60000\r\n\r\n";
            for byte in head.iter().chain(std::iter::repeat(&b' ')) {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }));
    }
    timeout(PATIENCE, daemon.client().timeout(PATIENCE).status()).await.unwrap().unwrap();
    for task in dribbling {
        timeout(PATIENCE, task).await.expect("a dribbling client was never cut off").unwrap();
    }
    let mut stream = daemon.connect().await;
    stream.write_all(b"POST /v1/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{").await.unwrap();
    let answer = read_all(stream).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_pod_half_made() {
    let daemon = Daemon::start(Limits::default());
    let (client, wanted) = (daemon.client(), spec("slow"));
    let asking = tokio::spawn(async move { client.add_pod(&wanted).await });
    daemon.backend.begun.notified().await;
    asking.abort();
    let _ = asking.await;
    daemon.backend.go_on.notify_one();
    let made = async {
        while daemon.backend.made.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, made).await.expect("the call was cancelled with its client");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_says_so() {
    let daemon = Daemon::start(Limits { answer: Duration::from_millis(50), ..Limits::default() });
    let error = api_error(daemon.client().add_pod(&spec("slow")).await);
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(error.error.contains("no answer within"), "{error}");
    daemon.backend.go_on.notify_one();
}

#[tokio::test]
async fn stopping_finishes_what_was_begun_and_leaves_nobody_to_ask() {
    let mut daemon = Daemon::start(Limits { stop: PATIENCE, ..Limits::default() });
    let (client, wanted) = (daemon.client(), spec("slow"));
    let asking = tokio::spawn(async move { client.add_pod(&wanted).await });
    daemon.backend.begun.notified().await;
    daemon.stop.take().unwrap().send(()).unwrap();
    let refused = async {
        while daemon.client().status().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("it still accepts");
    daemon.backend.go_on.notify_one();
    assert_eq!(asking.await.unwrap().unwrap().name, "slow");
    timeout(PATIENCE, &mut daemon.task).await.expect("it does not end").unwrap();
    assert!(matches!(daemon.client().status().await, Err(ClientError::NobodyListens(_))));
}

#[tokio::test]
async fn the_client_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let none = Client::new(folder.path().join("none")).status().await.unwrap_err();
    assert!(none.is_unreachable() && none.to_string().contains("is weftd running?"), "{none}");
    // Somebody else listens there.
    let path = folder.path().join("s");
    let other = tokio::net::UnixListener::bind(&path).unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = other.accept().await.unwrap();
        let mut request = [0; 16];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        other
    });
    let error = Client::new(&path).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotUnderstood { .. }), "{error}");
    // And does not answer.
    let _other = task.await.unwrap();
    let error = Client::new(&path).timeout(Duration::from_millis(50)).status().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}
