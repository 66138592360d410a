//! Guards the connections: how many there are, how long each part of one may take, how much it may send. A client
//! can harm nobody but itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use weft_api::{ApiError, BODY_LIMIT, ErrorCode};

use super::Backend;
use super::routes::{self, Failure};

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time. 128. Each costs a task and up to 200 KiB. One more takes the place of the one that has
    /// kept its request back for longest; where all have sent theirs, it waits in the socket's backlog.
    pub connections: usize,
    /// From the connection to the end of the request's head. 5 s.
    pub head: Duration,
    /// From there to the end of the body. 5 s.
    pub body: Duration,
    /// The daemon's own time to answer. 30 s; what it has begun it finishes even so.
    pub answer: Duration,
    /// A connection altogether, the time that the client takes to read the answer included. 45 s.
    pub connection: Duration,
    /// Time for open connections to end when the daemon stops. 5 s.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            head: Duration::from_secs(5),
            body: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            connection: Duration::from_secs(45),
            stop: Duration::from_secs(5),
        }
    }
}

/// Bytes of a request's head at most. hyper answers a longer one with 431.
const HEAD_LIMIT: usize = 16 * 1024;

/// Bytes of a body that is too long which are read and thrown away, so that its client gets to read why.
const DISCARD_LIMIT: usize = 1024 * 1024;

/// Pause after a connection could not be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a client has its place for certain before it has sent its request. A client that is ready to ask needs
/// far less; it also bounds how often clients that come again and again can change places.
const GRACE: Duration = Duration::from_millis(50);

/// A connection, as far as its place goes.
struct Visitor {
    since: Instant,
    /// The request is here, head and body: the place is its own until it is answered.
    asked: AtomicBool,
    /// To end, for somebody else.
    leave: Notify,
}

/// The places, and who may have to give one up.
struct Places {
    free: Arc<Semaphore>,
    /// Those that had not asked when they were last looked at, the oldest first.
    idle: VecDeque<Weak<Visitor>>,
}

impl Places {
    fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), idle: VecDeque::new() }
    }

    /// A place, and who has it: a free one, or that of the client that has kept its request back for longest. None if there
    /// never is one again.
    async fn take(&mut self) -> Option<(OwnedSemaphorePermit, Arc<Visitor>)> {
        loop {
            self.idle.retain(|visitor| visitor.upgrade().is_some_and(|visitor| !visitor.has_asked()));
            let free = Arc::clone(&self.free).acquire_owned();
            let Some(oldest) = self.idle.front().and_then(Weak::upgrade) else {
                return Some((free.await.ok()?, self.enter()));
            };
            let patience = GRACE.saturating_sub(oldest.since.elapsed());
            tokio::select! {
                biased;
                place = free => return Some((place.ok()?, self.enter())),
                () = sleep(patience) => {}
            }
            if !oldest.has_asked() {
                oldest.leave.notify_one();
                self.idle.pop_front();
            }
        }
    }

    fn enter(&mut self) -> Arc<Visitor> {
        let visitor =
            Arc::new(Visitor { since: Instant::now(), asked: AtomicBool::new(false), leave: Notify::new() });
        self.idle.push_back(Arc::downgrade(&visitor));
        visitor
    }
}

impl Visitor {
    fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Where connections come in.
pub trait Listener: Send {
    /// One of them.
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What it is called in the log.
    const NAME: &'static str;
    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for UnixListener {
    type Connection = UnixStream;
    const NAME: &'static str = "the control socket";
    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Connection = TcpStream;
    const NAME: &'static str = "the metrics address";
    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// Serves `backend` on `listener` until `shutdown` is ready, with the default [`Limits`].
pub async fn serve<B: Backend>(listener: UnixListener, backend: Arc<B>, shutdown: impl Future<Output = ()>) {
    serve_with(Limits::default(), listener, backend, shutdown).await;
}

/// As [`serve`], with other limits.
pub async fn serve_with<B: Backend>(
    limits: Limits,
    listener: UnixListener,
    backend: Arc<B>,
    shutdown: impl Future<Output = ()>,
) {
    serve_routes(limits, listener, routes::router(backend, limits.answer), shutdown).await;
}

/// As [`serve_with`], with these routes.
pub async fn serve_routes<L: Listener>(
    limits: Limits,
    listener: L,
    routes: Router,
    shutdown: impl Future<Output = ()>,
) {
    let routes = TowerToHyperService::new(routes);
    let mut places = Places::new(limits.connections);
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            match listener.next().await {
                // Only who is here already may drive somebody out.
                Ok(stream) => {
                    let Some((place, visitor)) = places.take().await else { break };
                    let served = serve_one(stream, routes.clone(), limits, Arc::clone(&visitor));
                    connections.spawn(async move {
                        tokio::select! {
                            _ = timeout(limits.connection, served) => {}
                            () = visitor.leave.notified() => {
                                tracing::debug!("a connection to {} ended for another", L::NAME);
                            }
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection accepted on {}", L::NAME);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = accepting => {}
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.stop, ended).await.is_err() {
        tracing::warn!("connections to {} cut off", L::NAME);
    }
}

async fn serve_one<C: AsyncRead + AsyncWrite + Unpin>(
    stream: C,
    routes: TowerToHyperService<Router>,
    limits: Limits,
    visitor: Arc<Visitor>,
) {
    let service = service_fn(move |request| {
        let (routes, visitor) = (routes.clone(), Arc::clone(&visitor));
        async move { Ok::<_, Infallible>(answer(request, routes, limits, &visitor).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_LIMIT)
        // One request a connection: a client that keeps its connection would keep its slot.
        .keep_alive(false)
        // A client may say that it has sent all, and still read.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    // Rubbish and broken connections are the client's affair.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    routes: TowerToHyperService<Router>,
    limits: Limits,
    visitor: &Visitor,
) -> Response {
    let (head, body) = request.into_parts();
    let read = timeout(limits.body, read(body)).await;
    visitor.asked.store(true, Ordering::Relaxed);
    let body = match read {
        Ok(Ok(body)) => body,
        Ok(Err(failure)) => return failure.into_response(),
        Err(_) => {
            let error = ApiError::new(
                ErrorCode::RequestTimeout,
                format!("the body of {} {} came too slowly", head.method, head.uri.path()),
            );
            return Failure(error).into_response();
        }
    };
    if head.method == Method::CONNECT {
        // Routers have no path to look at here.
        return Failure(ApiError::bad_request("this is no proxy")).into_response();
    }
    match routes.call(Request::from_parts(head, Body::from(body))).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The whole body, or why not.
async fn read(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let announced = body.size_hint().lower();
    let mut bytes = Vec::new();
    let mut seen = 0usize;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Failure(ApiError::bad_request(format!("the body broke off: {error}"))))?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= BODY_LIMIT {
            bytes.extend_from_slice(&data);
        } else if seen > DISCARD_LIMIT {
            break;
        }
    }
    if seen > BODY_LIMIT || announced > BODY_LIMIT as u64 {
        let error = format!("the body is longer than {BODY_LIMIT} bytes");
        return Err(Failure(ApiError::new(ErrorCode::TooLarge, error)));
    }
    Ok(bytes)
}
