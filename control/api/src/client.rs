//! The client: one connection, one request, one answer.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{
    ApiError, ConfigReport, Drops, Fdb, Flows, Index, Mac, Neighbours, Pins, Pod, PodSpec, Pods, Ports,
    Routes, Stats, Status, Vteps, Workers,
};

/// How long an answer may take unless [`Client::timeout`] says otherwise: longer than the daemon gives itself.
const TIMEOUT: Duration = Duration::from_secs(40);

/// An answer's size at most, in bytes: a thousand ports with every drop reason fit many times.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// Why there is no answer, or none that is a success.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "there is no socket {}: is weftd running? Start it, or name its socket with --socket or WEFT_SOCKET",
        .0.display()
    )]
    NoSocket(PathBuf),
    /// There is a socket, but nobody listens on it.
    #[error("nobody listens on socket {}: weftd has ended. Start it again", .0.display())]
    NobodyListens(PathBuf),
    /// The socket is not for this user.
    #[error(
        "no permission to use socket {}: run as root, or as a member of the socket's group (see ls -l)",
        .0.display()
    )]
    Permission(PathBuf),
    /// Anything else that keeps a connection from being made.
    #[error("can't connect to socket {}: {error}. Is it weftd's? --socket or WEFT_SOCKET name it", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// As the system says it.
        error: io::Error,
    },
    /// No answer in time.
    #[error("weftd (socket {}) has not answered within {} s: look into its log", .socket.display(), .waited.as_secs())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// How long this client waited.
        waited: Duration,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection to weftd (socket {}) broke: {error}. Look into its log", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Where in the exchange.
        error: hyper::Error,
    },
    /// An answer that is none of this API.
    #[error(
        "the answer on socket {} is not understood ({why}): is weftd there, of this version?",
        .socket.display()
    )]
    NotUnderstood {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The request can't be put into words, such as a path that is no UTF-8.
    #[error("the request can't be written as JSON: {0}")]
    Request(String),
    /// The daemon refused, or failed.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl ClientError {
    /// True when the daemon was not reached at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::NoSocket(_) | Self::NobodyListens(_) | Self::Permission(_) | Self::Connect { .. }
        )
    }
}

/// A client of the daemon behind one socket. Each call makes a connection of its own, and needs a tokio runtime
/// with I/O and time.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// For the daemon that listens on `socket`; connects only when it is asked something.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), timeout: TIMEOUT }
    }

    /// With another limit on the whole of a call; 40 s otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1`.
    pub async fn index(&self) -> Result<Index, ClientError> {
        self.call(Method::GET, "/v1", None).await
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.call(Method::GET, "/v1/status", None).await
    }

    /// `GET /v1/pods`.
    pub async fn pods(&self) -> Result<Pods, ClientError> {
        self.call(Method::GET, "/v1/pods", None).await
    }

    /// `GET /v1/pods?name=NAME`: the pod of this name, or none.
    pub async fn pod(&self, name: &str) -> Result<Pods, ClientError> {
        self.list("/v1/pods", &[("name", Some(name.to_owned()))]).await
    }

    /// `POST /v1/pods`. `spec` is sent as it is; the daemon checks it.
    pub async fn add_pod(&self, spec: &PodSpec) -> Result<Pod, ClientError> {
        let body = serde_json::to_vec(spec).map_err(|error| ClientError::Request(error.to_string()))?;
        self.call(Method::POST, "/v1/pods", Some(body)).await
    }

    /// `DELETE /v1/pods/{name}`.
    pub async fn delete_pod(&self, name: &str) -> Result<Pod, ClientError> {
        self.call(Method::DELETE, &format!("/v1/pods/{}", segment(name)), None).await
    }

    /// `GET /v1/ports`: all, or the one of this name.
    pub async fn ports(&self, name: Option<&str>) -> Result<Ports, ClientError> {
        self.list("/v1/ports", &[("name", name.map(str::to_owned))]).await
    }

    /// `GET /v1/fdb`: all, or what is behind this port, or this MAC address.
    pub async fn fdb(&self, port: Option<&str>, mac: Option<Mac>) -> Result<Fdb, ClientError> {
        let filters = [("port", port.map(str::to_owned)), ("mac", mac.map(|mac| mac.to_string()))];
        self.list("/v1/fdb", &filters).await
    }

    /// `GET /v1/neigh`: all, or what is known of this address.
    pub async fn neighbours(&self, address: Option<IpAddr>) -> Result<Neighbours, ClientError> {
        self.list("/v1/neigh", &[("address", address.map(|address| address.to_string()))]).await
    }

    /// `GET /v1/vteps`: all, or those of this node.
    pub async fn vteps(&self, node: Option<&str>) -> Result<Vteps, ClientError> {
        self.list("/v1/vteps", &[("node", node.map(str::to_owned))]).await
    }

    /// `GET /v1/routes`.
    pub async fn routes(&self) -> Result<Routes, ClientError> {
        self.list("/v1/routes", &[]).await
    }

    /// `GET /v1/routes?match=ADDRESS`: the route that a packet to this address takes, or none.
    pub async fn route_to(&self, address: IpAddr) -> Result<Routes, ClientError> {
        self.list("/v1/routes", &[("match", Some(address.to_string()))]).await
    }

    /// `GET /v1/pins`: those of this address on either side, or all; at most [`crate::PIN_LIMIT_MAX`].
    pub async fn pins(&self, address: Option<IpAddr>, limit: usize) -> Result<Pins, ClientError> {
        let address = address.map(|address| address.to_string());
        self.list("/v1/pins", &[("address", address), ("limit", Some(limit.to_string()))]).await
    }

    /// `GET /v1/flows`. Takes so many seconds; at most [`crate::FLOW_SECONDS_MAX`] and [`crate::FLOW_LIMIT_MAX`] flows.
    pub async fn flows(&self, seconds: u32, limit: usize) -> Result<Flows, ClientError> {
        let filters = [("seconds", Some(seconds.to_string())), ("limit", Some(limit.to_string()))];
        self.list("/v1/flows", &filters).await
    }

    /// `GET /v1/workers`.
    pub async fn workers(&self) -> Result<Workers, ClientError> {
        self.list("/v1/workers", &[]).await
    }

    /// `GET /v1/config`.
    pub async fn config(&self) -> Result<ConfigReport, ClientError> {
        self.list("/v1/config", &[]).await
    }

    /// `GET /v1/stats`.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.call(Method::GET, "/v1/stats", None).await
    }

    /// `GET /v1/drops`; with `all` the reasons too that never happened.
    pub async fn drops(&self, all: bool) -> Result<Drops, ClientError> {
        self.call(Method::GET, if all { "/v1/drops?all=true" } else { "/v1/drops" }, None).await
    }

    async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        filters: &[(&str, Option<String>)],
    ) -> Result<T, ClientError> {
        let mut path = path.to_owned();
        let given = filters.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        for (index, (key, value)) in given.enumerate() {
            let _ = write!(path, "{}{key}={}", if index == 0 { '?' } else { '&' }, segment(value));
        }
        self.call(Method::GET, &path, None).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let exchange = tokio::time::timeout(self.timeout, self.exchange(method, path, body));
        let (status, body) = exchange
            .await
            .map_err(|_| ClientError::Timeout { socket: self.socket.clone(), waited: self.timeout })??;
        let not_understood = |why| ClientError::NotUnderstood { socket: self.socket.clone(), why };
        if status.is_success() {
            serde_json::from_slice(&body).map_err(|error| not_understood(error.to_string()))
        } else {
            let error: ApiError = serde_json::from_slice(&body)
                .map_err(|_| not_understood(format!("HTTP status {status} without an error of the API")))?;
            Err(ClientError::Api(error))
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(error))?;
        let broken = |error| ClientError::Broken { socket: self.socket.clone(), error };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends by itself when the sender is dropped. Its errors come out at the sender as well.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "weft");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        match Limited::new(body, ANSWER_LIMIT).collect().await {
            Ok(body) => Ok((head.status, body.to_bytes())),
            Err(error) => Err(match error.downcast::<hyper::Error>() {
                Ok(error) => broken(*error),
                Err(error) => {
                    let long = error.is::<LengthLimitError>();
                    let why = if long { "it is too long".to_owned() } else { error.to_string() };
                    ClientError::NotUnderstood { socket: self.socket.clone(), why }
                }
            }),
        }
    }

    fn no_connection(&self, error: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::NoSocket(socket),
            io::ErrorKind::ConnectionRefused => ClientError::NobodyListens(socket),
            io::ErrorKind::PermissionDenied => ClientError::Permission(socket),
            _ => ClientError::Connect { socket, error },
        }
    }
}

/// `text` as one segment of a path: everything but the unreserved characters of RFC 3986, section 2.3, as `%XX`.
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_not_leave_its_segment() {
        assert_eq!(segment("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(segment("a/b?c#d %é"), "a%2Fb%3Fc%23d%20%25%C3%A9");
    }
}
