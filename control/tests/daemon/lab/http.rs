//! HTTP by hand, as `curl` and Prometheus speak it: what a library would hide is to be seen here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::{Namespace, PATIENCE};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads one answer that is all there is: its head, and a body as long as the head says.
    pub(crate) fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let head = head.to_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest[..3].parse().ok());
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert!(
            body.is_empty() || length.and_then(|length| length.parse().ok()) == Some(body.len()),
            "{text}"
        );
        Self { status: status.expect("a status"), head, body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{self:?}");
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// A request as text.
pub(crate) fn request(method: &str, path: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: weft\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Reads until the daemon closes. It may do so before it has read all that was sent, and then the rest is an error.
pub(crate) fn read_all(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
    stream
}

/// Sends these bytes to the control socket and reads what comes.
pub(crate) fn raw(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = connect(socket);
    let _ = stream.write_all(bytes);
    read_all(stream)
}

/// One request to the control socket.
pub(crate) fn ask(socket: &Path, method: &str, path: &str) -> Answer {
    Answer::read(&raw(socket, request(method, path, "").as_bytes()))
}

/// One request by TCP from inside a namespace.
pub(crate) fn ask_tcp(namespace: &Namespace, at: SocketAddr, method: &str, path: &str) -> Answer {
    let text = request(method, path, "");
    let asking = namespace.enter(move || {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream.write_all(text.as_bytes()).expect("it is taken");
        read_all(stream)
    });
    Answer::read(&asking.join().expect("an answer"))
}
