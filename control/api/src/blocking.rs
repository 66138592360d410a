//! A client without a runtime, for a program that asks once and ends, such as a CNI plugin: it starts no thread and links
//! no HTTP library. It knows the calls that such a program makes.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::{ApiError, Pod, PodSpec, Pods, Status};

/// An answer's size at most, in bytes: the pods of a node fit many times.
const ANSWER_LIMIT: u64 = 16 * 1024 * 1024;

/// Why there is no answer, or none that is a success.
#[derive(Debug, Error)]
pub enum Failure {
    /// Nobody listens: weftd has not heard of the request.
    #[error("weftd does not listen on {}: {error}", .socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// As the system says it.
        error: io::Error,
    },
    /// No answer, or only a part of one: weftd may have done what it was asked, or may yet.
    #[error("weftd, on {}, gave no answer: {error}", .socket.display())]
    NoAnswer {
        /// The socket.
        socket: PathBuf,
        /// As the system says it.
        error: io::Error,
    },
    /// An answer that is none of this API.
    #[error("the answer on {} is not understood ({why}): is weftd there, of this version?", .socket.display())]
    NotUnderstood {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The daemon refused, or failed.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A client of the daemon behind one socket. Each call makes a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// For the daemon that listens on `socket`, with so much time for the whole of a call.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout }
    }

    /// The daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Result<Status, Failure> {
        self.call("GET", "/v1/status", "")
    }

    /// `GET /v1/pods`.
    pub fn pods(&self) -> Result<Pods, Failure> {
        self.call("GET", "/v1/pods", "")
    }

    /// `GET /v1/pods?name=NAME`. The name is one that a pod can have.
    pub fn pod(&self, name: &str) -> Result<Option<Pod>, Failure> {
        let pods: Pods = self.call("GET", &format!("/v1/pods?name={name}"), "")?;
        Ok(pods.pods.into_iter().next())
    }

    /// `POST /v1/pods`.
    pub fn add_pod(&self, spec: &PodSpec) -> Result<Pod, Failure> {
        let body = serde_json::to_string(spec).map_err(|error| ApiError::bad_request(error.to_string()))?;
        self.call("POST", "/v1/pods", &body)
    }

    /// `DELETE /v1/pods/{name}`. The name is one that a pod can have.
    pub fn delete_pod(&self, name: &str) -> Result<Pod, Failure> {
        self.call("DELETE", &format!("/v1/pods/{name}"), "")
    }

    fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: &str) -> Result<T, Failure> {
        let socket = || self.socket.clone();
        let deadline = Instant::now() + self.timeout;
        let stream = connect(&self.socket, self.timeout)
            .map_err(|error| Failure::Unreachable { socket: socket(), error })?;
        let text = exchange(stream, deadline, method, path, body)
            .map_err(|error| Failure::NoAnswer { socket: socket(), error })?;
        let not_understood = |why: String| Failure::NotUnderstood { socket: socket(), why };
        let (status, body) = parse(&text).map_err(|why| not_understood(why.to_owned()))?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(body).map_err(|error| not_understood(error.to_string()));
        }
        Err(match serde_json::from_slice::<ApiError>(body) {
            Ok(error) => error.into(),
            Err(_) => not_understood(format!("HTTP status {status} without an error of the API")),
        })
    }
}

/// A connection. One that nobody takes is waited for too, once others wait as well: a daemon that hangs.
fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let stream: UnixStream =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?.into();
    // For connecting it is in force already.
    stream.set_write_timeout(Some(timeout))?;
    match nix::sys::socket::connect(stream.as_raw_fd(), &address) {
        Ok(()) => Ok(stream),
        Err(Errno::EAGAIN) => Err(io::Error::new(io::ErrorKind::TimedOut, "it takes no connection")),
        Err(error) => Err(error.into()),
    }
}

/// Sends one request and reads until the daemon closes: it serves one request a connection.
fn exchange(
    mut stream: UnixStream,
    deadline: Instant,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<Vec<u8>> {
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    stream.set_write_timeout(Some(left()?))?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part) {
            Ok(0) => return Ok(text),
            Ok(count) => text.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
        if text.len() as u64 > ANSWER_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
        }
    }
}

/// Status and body of an answer.
fn parse(text: &[u8]) -> Result<(u16, &[u8]), &'static str> {
    let end = text.windows(4).position(|four| four == b"\r\n\r\n").ok_or("it has no head")?;
    let (head, body) = text.split_at(end + 4);
    let head = std::str::from_utf8(head).map_err(|_| "its head is no text")?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or("it is no HTTP/1.1")?;
    let lengths = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())
    });
    match lengths.collect::<Vec<_>>()[..] {
        [Some(length)] => Ok((status, body.get(..length).ok_or("it breaks off")?)),
        _ => Err("it does not say how long it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, listen};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_daemon_that_takes_no_connection_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weftd.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let client = Client::new(&path, Duration::from_millis(50));
        // There is room for one.
        let waits = client.status().unwrap_err();
        assert!(matches!(waits, Failure::NoAnswer { .. }), "{waits}");
        let refused = client.status().unwrap_err();
        assert!(matches!(refused, Failure::Unreachable { .. }), "{refused}");
        assert!(refused.to_string().contains("it takes no connection"), "{refused}");
    }

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let head = "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\n";
        let whole = format!("{head}Content-Length: 2\r\n\r\n{{}}");
        assert_eq!(parse(whole.as_bytes()), Ok((201, b"{}".as_slice())));
        for wrong in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 2",
            "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 xyz\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
