//! An invented daemon: answers each connection's one request from a list, and keeps what it was asked.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde::Serialize;
use tempfile::TempDir;

/// Stops when it is dropped.
pub(crate) struct Daemon {
    pub(crate) socket: PathBuf,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _folder: Option<TempDir>,
}

/// Answers by request, such as `GET /v1/status`: HTTP status and JSON. Of several the next each time, and then the last
/// again and again.
#[derive(Default)]
pub(crate) struct Answers(HashMap<String, VecDeque<(u16, String)>>);

impl Answers {
    pub(crate) fn with(mut self, request: &str, status: u16, answer: &impl Serialize) -> Self {
        let answer = serde_json::to_string(answer).unwrap();
        self.0.entry(request.to_owned()).or_default().push_back((status, answer));
        self
    }

    fn take(&mut self, request: &str) -> Option<(u16, String)> {
        let answers = self.0.get_mut(request)?;
        if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
    }
}

impl Daemon {
    pub(crate) fn start(answers: Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Self::start_at(&folder.path().join("weftd.sock"), answers);
        daemon._folder = Some(folder);
        daemon
    }

    pub(crate) fn start_at(socket: &Path, mut answers: Answers) -> Self {
        let socket = socket.to_owned();
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(AtomicBool::new(false));
        let (list, end) = (Arc::clone(&asked), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // A client may be interrupted whenever it likes.
                let Ok(Some((request, body))) = read(&stream) else {
                    if end.load(Ordering::SeqCst) {
                        break;
                    }
                    continue;
                };
                let (status, answer) = answers.take(&request).unwrap_or_else(|| {
                    (404, format!(r#"{{"error":"there is no {request}","code":"not_found"}}"#))
                });
                list.lock().unwrap().push((request, body));
                let length = answer.len();
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all((head + &answer).as_bytes());
            }
        });
        Self { socket, asked, ends, thread: Some(thread), _folder: None }
    }

    /// What it was asked: request and body.
    pub(crate) fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }

    /// Runs `weft` against it.
    pub(crate) fn weft(&self, args: &[&str]) -> Ran {
        let socket = self.socket.to_str().unwrap();
        weft(&[&["--socket", socket], args].concat())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Without a request: it wakes the thread.
        drop(UnixStream::connect(&self.socket));
        let ended = self.thread.take().map(JoinHandle::join);
        let _ = std::fs::remove_file(&self.socket);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// The first line's method and path, and the body; nothing of a connection without a whole request.
fn read(mut stream: &UnixStream) -> std::io::Result<Option<(String, String)>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if body.len() >= length.parse().unwrap() {
            let request = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
            return Ok(Some((request, body.to_owned())));
        }
    }
}

/// How a run of `weft` ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Its output as JSON; nothing but JSON may be there.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!((self.code, self.err.as_str()), (0, ""));
        serde_json::from_str(&self.out).unwrap()
    }
}

/// The program, without anything of the surroundings that would change what it does.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(args).env_remove("WEFT_SOCKET").stdin(Stdio::null());
    command
}

pub(crate) fn weft(args: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = command(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code().expect("killed by a signal"), out: text(stdout), err: text(stderr) }
}
