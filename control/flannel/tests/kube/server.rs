//! A scripted API server: nodes and pods with versions, lists by pages, watches with bookmarks, patches of the status, and
//! every way in which a real one fails, on demand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Patch,
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answered so, with the seconds of `Retry-After`.
    Status(u16, Option<u64>),
    /// 410 in place of an answer.
    Gone,
    /// The first event is an error with this code.
    ErrorEvent(u16),
    /// The connection breaks after so many bytes of the answer's body.
    CutAfter(usize),
    /// So many bytes at a time, so far apart.
    Slow(usize, Duration),
    /// Nothing is ever answered.
    Silent,
    /// Not JSON.
    Garbage,
    /// The answer ends before it has begun.
    EndAtOnce,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) verb: Verb,
    pub(crate) uri: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

struct Logged {
    version: u64,
    kind: &'static str,
    what: &'static str,
    object: Value,
}

#[derive(Default)]
struct World {
    version: u64,
    /// What was before this version is forgotten.
    compacted: u64,
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    log: Vec<Logged>,
    /// The rest of lists, by the token that continues them.
    rests: HashMap<String, (u64, Vec<Value>)>,
    faults: VecDeque<(Verb, &'static str, Fault)>,
    asked: Vec<Asked>,
    watching: usize,
    /// Only with this token.
    token: Option<String>,
}

impl World {
    fn emit(&mut self, kind: &'static str, what: &'static str, object: Value) {
        self.log.push(Logged { version: self.version, kind, what, object });
    }

    fn put(&mut self, kind: &'static str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let before = self.objects.entry(kind).or_default().insert(key(&object), object.clone());
        self.emit(kind, if before.is_some() { "MODIFIED" } else { "ADDED" }, object);
    }
}

fn key(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{}", text("name")),
        None => text("name"),
    }
}

struct Shared {
    world: Mutex<World>,
    /// Something has happened.
    stirred: watch::Sender<u64>,
    /// All connections end when this changes.
    cut: watch::Sender<u64>,
    up: watch::Sender<bool>,
    listening: watch::Sender<bool>,
}

/// The server, on a thread of its own until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), None, || {})
    }

    /// `enter` is called on the server's thread first: it may go to another namespace.
    pub(crate) fn start_at(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        enter: impl FnOnce() + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            world: Mutex::new(World { version: 100, ..World::default() }),
            stirred: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            up: watch::Sender::new(true),
            listening: watch::Sender::new(false),
        });
        let (end, ends) = watch::channel(false);
        let (bound, is_bound) = std::sync::mpsc::channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(of_thread, address, tls, ends, bound));
        });
        let address = is_bound.recv().expect("the server listens");
        Self { address, shared, end, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stir(&self) {
        self.shared.stirred.send_modify(|n| *n += 1);
    }

    /// Makes an object, or replaces it.
    pub(crate) fn put(&self, kind: &'static str, object: Value) {
        self.world().put(kind, object);
        self.stir();
    }

    /// Changes an object, if there is such.
    pub(crate) fn change(&self, kind: &'static str, key: &str, change: impl FnOnce(&mut Value)) {
        let mut world = self.world();
        if let Some(mut object) = world.objects.get(kind).and_then(|all| all.get(key)).cloned() {
            change(&mut object);
            world.put(kind, object);
        }
        drop(world);
        self.stir();
    }

    pub(crate) fn remove(&self, kind: &'static str, key: &str) {
        let mut world = self.world();
        if let Some(mut object) = world.objects.entry(kind).or_default().remove(key) {
            world.version += 1;
            object["metadata"]["resourceVersion"] = json!(world.version.to_string());
            world.emit(kind, "DELETED", object);
        }
        drop(world);
        self.stir();
    }

    pub(crate) fn get(&self, kind: &'static str, key: &str) -> Value {
        self.world().objects.get(kind).and_then(|all| all.get(key)).cloned().unwrap_or(Value::Null)
    }

    /// Tells all watchers how far they are.
    pub(crate) fn bookmark(&self) {
        let mut world = self.world();
        for (kind, name) in [("nodes", "Node"), ("pods", "Pod")] {
            let version = world.version.to_string();
            let object = json!({"kind": name, "apiVersion": "v1", "metadata":
                {"resourceVersion": version, "creationTimestamp": null}, "spec": {}, "status": {}});
            world.emit(kind, "BOOKMARK", object);
        }
        drop(world);
        self.stir();
    }

    /// Forgets what was before: watches from then, and the rest of lists, are gone.
    pub(crate) fn compact(&self) {
        let mut world = self.world();
        world.compacted = world.version;
        world.rests.clear();
    }

    /// The next request of that kind for that collection goes wrong.
    pub(crate) fn fail(&self, verb: Verb, kind: &'static str, fault: Fault) {
        self.world().faults.push_back((verb, kind, fault));
    }

    /// Breaks all connections.
    pub(crate) fn cut(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Stops to listen and breaks all connections; or begins to listen again.
    pub(crate) fn set_up(&self, up: bool) {
        self.shared.up.send_replace(up);
        if !up {
            self.cut();
        }
        while *self.shared.listening.borrow() != up {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Only who has this token is served.
    pub(crate) fn want_token(&self, token: &str) {
        self.world().token = Some(token.to_owned());
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.world().asked.clone()
    }

    /// The bodies of all patches so far.
    pub(crate) fn patches(&self) -> Vec<String> {
        self.asked().into_iter().filter(|asked| asked.verb == Verb::Patch).map(|asked| asked.body).collect()
    }

    /// The version of the whole.
    pub(crate) fn version(&self) -> String {
        self.world().version.to_string()
    }

    /// How many watches are open.
    pub(crate) fn watching(&self) -> usize {
        self.world().watching
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the API server panicked");
        }
    }
}

async fn serve(
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    mut ends: watch::Receiver<bool>,
    bound: std::sync::mpsc::Sender<SocketAddr>,
) {
    let mut address = address;
    let mut up = shared.up.subscribe();
    loop {
        let listener = listen(address).await;
        address = listener.local_addr().unwrap();
        shared.listening.send_replace(true);
        // Only the first time somebody waits for it.
        let _ = bound.send(address);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let (shared, tls) = (Arc::clone(&shared), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => connection(stream, shared).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    connection(stream, shared).await;
                                }
                            }
                        }
                    });
                }
                _ = up.wait_for(|up| !up) => break,
                _ = ends.wait_for(|end| *end) => return,
            }
        }
        drop(listener);
        shared.listening.send_replace(false);
        tokio::select! {
            _ = up.wait_for(|up| *up) => {}
            _ = ends.wait_for(|end| *end) => return,
        }
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        match socket.bind(address).and_then(|()| socket.listen(64)) {
            Ok(listener) => return listener,
            // Somebody's connection may have been given the port meanwhile.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let mut cut = shared.cut.subscribe();
    cut.mark_unchanged();
    let of_service = Arc::clone(&shared);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&of_service);
        async move { Ok::<_, Infallible>(answer(request, shared).await) }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = serving => {}
        _ = cut.changed() => {}
    }
}

type Piece = Result<Frame<Bytes>, io::Error>;
type Answer = Response<StreamBody<futures_util::stream::BoxStream<'static, Piece>>>;

/// The body of an answer, piece by piece.
struct Out {
    to: mpsc::Sender<Piece>,
    cut_after: Option<usize>,
    slow: Option<(usize, Duration)>,
}

/// Nobody listens, or nothing more may be said.
struct Over;

impl Out {
    async fn send(&mut self, text: &[u8]) -> Result<(), Over> {
        let (text, cut) = match &mut self.cut_after {
            Some(left) if *left < text.len() => (&text[..*left], true),
            Some(left) => {
                *left -= text.len();
                (text, false)
            }
            None => (text, false),
        };
        let (size, pause) = self.slow.unwrap_or((usize::MAX, Duration::ZERO));
        for piece in text.chunks(size.max(1)) {
            let sent = self.to.send(Ok(Frame::data(Bytes::copy_from_slice(piece)))).await;
            sent.map_err(|_| Over)?;
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
        if cut {
            drop(self.to.send(Err(io::Error::other("cut"))).await);
            return Err(Over);
        }
        Ok(())
    }
}

fn begin(status: u16, retry_after: Option<u64>, fault: Option<&Fault>) -> (Answer, Out) {
    let (to, mut from) = mpsc::channel::<Piece>(4);
    let pieces = futures_util::stream::poll_fn(move |context| from.poll_recv(context));
    let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    if let Some(seconds) = retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    let body = StreamBody::new(Box::pin(pieces) as futures_util::stream::BoxStream<'static, Piece>);
    let mut out = Out { to, cut_after: None, slow: None };
    match fault {
        Some(Fault::CutAfter(bytes)) => out.cut_after = Some(*bytes),
        Some(Fault::Slow(bytes, pause)) => out.slow = Some((*bytes, *pause)),
        _ => {}
    }
    (response.body(body).unwrap(), out)
}

fn whole(status: u16, retry_after: Option<u64>, fault: Option<&Fault>, text: String) -> Answer {
    let (answer, mut out) = begin(status, retry_after, fault);
    tokio::spawn(async move { out.send(text.as_bytes()).await });
    answer
}

fn refusal(code: u16) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "as scripted",
           "reason": reason, "code": code})
}

fn refuse(code: u16, retry_after: Option<u64>) -> Answer {
    whole(code, retry_after, None, refusal(code).to_string())
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Answer {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let query: HashMap<String, String> =
        head.uri.query().unwrap_or_default().split('&').filter_map(pair).collect();
    let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
    let (kind, key): (&'static str, Option<String>) = match path[..] {
        ["api", "v1", "nodes"] => ("nodes", None),
        ["api", "v1", "nodes", name] | ["api", "v1", "nodes", name, "status"] => {
            ("nodes", Some(name.to_owned()))
        }
        ["api", "v1", "pods"] => ("pods", None),
        ["api", "v1", "namespaces", namespace, "pods", name] => ("pods", Some(format!("{namespace}/{name}"))),
        _ => return refuse(404, None),
    };
    let verb = match (&head.method, &key) {
        (&Method::PATCH, Some(_)) if path.last() == Some(&"status") => Verb::Patch,
        (&Method::GET, Some(_)) => Verb::Get,
        (&Method::GET, None) if query.get("watch").is_some_and(|watch| watch == "true") => Verb::Watch,
        (&Method::GET, None) => Verb::List,
        _ => return refuse(405, None),
    };
    let headers: HashMap<String, String> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    let fault = {
        let mut world = shared.world.lock().unwrap_or_else(PoisonError::into_inner);
        let body = String::from_utf8_lossy(&body).into_owned();
        let authorization = headers.get("authorization").cloned();
        world.asked.push(Asked { verb, uri: head.uri.to_string(), headers, body });
        if world.token.as_ref().is_some_and(|token| authorization != Some(format!("Bearer {token}"))) {
            return refuse(401, None);
        }
        let place = world.faults.iter().position(|(of, on, _)| *of == verb && *on == kind);
        place.and_then(|place| world.faults.remove(place)).map(|(_, _, fault)| fault)
    };
    match fault {
        Some(Fault::Status(code, retry_after)) => return refuse(code, retry_after),
        Some(Fault::Gone) => return refuse(410, None),
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Garbage) => return whole(200, None, None, "<html>{\n".to_owned()),
        Some(Fault::EndAtOnce) => return whole(200, None, None, String::new()),
        _ => {}
    }
    let fault = fault.as_ref();
    match (verb, key) {
        (Verb::Watch, _) => watch_objects(kind, &query, fault, shared),
        (Verb::List, _) => list(kind, &query, fault, &shared),
        (Verb::Get, Some(key)) => {
            let world = shared.world.lock().unwrap_or_else(PoisonError::into_inner);
            match world.objects.get(kind).and_then(|all| all.get(&key)) {
                Some(object) => whole(200, None, fault, object.to_string()),
                None => refuse(404, None),
            }
        }
        (Verb::Patch, Some(key)) => {
            let wanted = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            if wanted != Some("application/strategic-merge-patch+json") {
                return refuse(415, None);
            }
            let Ok(patch) = serde_json::from_slice::<Value>(&body) else { return refuse(400, None) };
            let mut world = shared.world.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(mut object) = world.objects.get(kind).and_then(|all| all.get(&key)).cloned() else {
                return refuse(404, None);
            };
            merge(&mut object, &patch);
            world.put(kind, object.clone());
            drop(world);
            shared.stirred.send_modify(|n| *n += 1);
            whole(200, None, fault, object.to_string())
        }
        (_, None) => refuse(405, None),
    }
}

/// What a strategic merge of a node's status does, as far as it is used here.
fn merge(object: &mut Value, patch: &Value) {
    if let Some(annotations) = patch["metadata"]["annotations"].as_object() {
        for (name, value) in annotations {
            object["metadata"]["annotations"][name] = value.clone();
        }
    }
    for condition in patch["status"]["conditions"].as_array().into_iter().flatten() {
        if !object["status"]["conditions"].is_array() {
            object["status"]["conditions"] = json!([]);
        }
        let conditions = object["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|other| other["type"] != condition["type"]);
        conditions.push(condition.clone());
    }
}

fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some((name.to_owned(), String::from_utf8(bytes).ok()?))
}

/// Whether the field selector wants the object.
fn selected(object: &Value, query: &HashMap<String, String>) -> bool {
    let Some((field, value)) = query.get("fieldSelector").and_then(|selector| selector.split_once('='))
    else {
        return true;
    };
    field.split('.').fold(object, |object, name| &object[name]) == value
}

fn list(
    kind: &'static str,
    query: &HashMap<String, String>,
    fault: Option<&Fault>,
    shared: &Shared,
) -> Answer {
    let mut world = shared.world.lock().unwrap_or_else(PoisonError::into_inner);
    let (version, mut items) = match query.get("continue") {
        Some(token) => match world.rests.get(token).cloned() {
            Some(rest) => rest,
            None => return refuse(410, None),
        },
        None => {
            let all = world.objects.get(kind).into_iter().flat_map(BTreeMap::values);
            (world.version, all.filter(|object| selected(object, query)).cloned().collect())
        }
    };
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(0usize);
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if limit > 0 && items.len() > limit {
        let rest = items.split_off(limit);
        let token = format!("{version}+/={}", rest.len());
        metadata["continue"] = json!(token);
        metadata["remainingItemCount"] = json!(rest.len());
        world.rests.insert(token, (version, rest));
    }
    let text = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string();
    whole(200, None, fault, text)
}

/// Counts a watch as long as it is open.
struct Watching(Arc<Shared>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner).watching -= 1;
    }
}

fn watch_objects(
    kind: &'static str,
    query: &HashMap<String, String>,
    fault: Option<&Fault>,
    shared: Arc<Shared>,
) -> Answer {
    let since: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let seconds = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(1800);
    let end = Instant::now() + Duration::from_secs(seconds);
    let bookmarks = query.get("allowWatchBookmarks").is_some_and(|wanted| wanted == "true");
    let (answer, mut out) = begin(200, None, fault);
    let mut world = shared.world.lock().unwrap_or_else(PoisonError::into_inner);
    let error = match fault {
        Some(Fault::ErrorEvent(code)) => Some(*code),
        _ if since < world.compacted => Some(410),
        _ => None,
    };
    let mut next = world.log.partition_point(|logged| logged.version <= since);
    world.watching += 1;
    drop(world);
    let watching = Watching(Arc::clone(&shared));
    let query = query.clone();
    let mut stirred = shared.stirred.subscribe();
    tokio::spawn(async move {
        let _watching = watching;
        if let Some(code) = error {
            let line = json!({"type": "ERROR", "object": refusal(code)}).to_string() + "\n";
            return out.send(line.as_bytes()).await;
        }
        loop {
            stirred.mark_unchanged();
            let lines: Vec<String> = {
                let world = shared.world.lock().unwrap_or_else(PoisonError::into_inner);
                let news = &world.log[next..];
                next = world.log.len();
                let mine = news.iter().filter(|logged| logged.kind == kind);
                let mine = mine.filter(|logged| match logged.what {
                    "BOOKMARK" => bookmarks,
                    _ => selected(&logged.object, &query),
                });
                mine.map(|logged| json!({"type": logged.what, "object": logged.object}).to_string() + "\n")
                    .collect()
            };
            for line in lines {
                out.send(line.as_bytes()).await?;
            }
            tokio::select! {
                changed = timeout_at(end, stirred.changed()) => match changed {
                    Ok(Ok(())) => {}
                    _ => return Ok(()),
                },
                () = out.to.closed() => return Err(Over),
            }
        }
    });
    answer
}
