//! A server that plays a recording: the answers of a real one, byte by byte and in their order, to a store that must ask
//! what was asked then. `scripts/lab/interop/record.py` tells the form of a recording.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::lab::PATIENCE;

/// A request, as far as it is to be the same each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// Without those that say who talks to whom.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    fn new(head: &str, body: &str) -> Self {
        let (first, headers) = head.split_once("\r\n").expect("a line");
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let headers = headers.lines().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers.filter(|(name, _)| name != "host" && name != "user-agent").collect(),
            body: timeless(body),
        }
    }

    /// The next one of a connection.
    async fn read(from: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Self> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if from.read_line(&mut head).await.ok()? == 0 {
                return None;
            }
        }
        let request = Self::new(&head, "");
        let length = request.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        from.read_exact(&mut body).await.ok()?;
        Some(Self { body: timeless(std::str::from_utf8(&body).unwrap()), ..request })
    }

    /// The value of a part of the query, still escaped.
    pub(crate) fn part(&self, name: &str) -> Option<&str> {
        let mut parts = self.query.split('&').filter_map(|part| part.split_once('='));
        parts.find(|(other, _)| *other == name).map(|(_, value)| value)
    }
}

/// The body without the moment that it was written at.
fn timeless(body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    match json["status"]["conditions"][0]["lastHeartbeatTime"].as_str() {
        Some(time) => body.replace(time, ""),
        None => body.to_owned(),
    }
}

enum Entry {
    /// Here something happened in the cluster.
    Step(String),
    /// This request came.
    Asked(usize),
    /// A line of the answer to it.
    Said(usize, Vec<u8>),
    /// The connection that it had come by broke.
    Broke(usize),
}

pub(crate) struct Recording {
    entries: Vec<Entry>,
    pub(crate) requests: Vec<Request>,
}

impl Recording {
    pub(crate) fn read(text: &str) -> Self {
        let (mut entries, mut raw) = (Vec::new(), Vec::<String>::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(step) = line.strip_prefix("== ") {
                entries.push(Entry::Step(step.to_owned()));
                continue;
            }
            let (tag, text) = line.split_once(' ').unwrap_or((line, ""));
            let (number, kind) = tag.split_at(tag.find(['<', '>']).unwrap_or_else(|| panic!("{line}")));
            let exchange = number.parse::<usize>().unwrap() - 1;
            let end = match &kind[1..] {
                "" => "\r\n",
                "-" => "\n",
                "." => "",
                "!" => {
                    entries.push(Entry::Broke(exchange));
                    continue;
                }
                _ => panic!("{line}"),
            };
            let text = text.to_owned() + end;
            if kind.starts_with('<') {
                entries.push(Entry::Said(exchange, text.into_bytes()));
                continue;
            }
            if exchange == raw.len() {
                entries.push(Entry::Asked(exchange));
                raw.push(String::new());
            }
            raw[exchange].push_str(&text);
        }
        let request = |raw: &String| {
            let (head, body) = raw.split_once("\r\n\r\n").expect("the end of the head");
            Request::new(head, body)
        };
        Self { requests: raw.iter().map(request).collect(), entries }
    }

    /// What was answered to that request, head and all.
    pub(crate) fn answer(&self, exchange: usize) -> String {
        let said = self.entries.iter().filter_map(|entry| match entry {
            Entry::Said(of, text) if *of == exchange => Some(std::str::from_utf8(text).unwrap()),
            _ => None,
        });
        said.collect()
    }

    /// How often a connection broke.
    pub(crate) fn breaks(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry, Entry::Broke(_))).count()
    }

    fn last_of(&self, exchange: usize) -> Option<usize> {
        self.entries
            .iter()
            .rposition(|entry| matches!(entry, Entry::Said(of, _) | Entry::Broke(of) if *of == exchange))
    }
}

#[derive(Default)]
struct State {
    /// All before this entry is done.
    next: usize,
    came: Vec<Option<Request>>,
    complaints: Vec<String>,
}

struct Shared {
    recording: Recording,
    state: Mutex<State>,
    stirred: watch::Sender<()>,
}

/// The server. It is in the runtime that it was started in, and ends with it.
pub(crate) struct Replay {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Replay {
    pub(crate) async fn start(recording: Recording) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { came: vec![None; recording.requests.len()], ..State::default() };
        let shared =
            Arc::new(Shared { recording, state: Mutex::new(state), stirred: watch::Sender::new(()) });
        let of_listener = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, Arc::clone(&of_listener)));
            }
        });
        Self { address, shared }
    }

    /// Plays what came before that step, and lets what came after it be played.
    pub(crate) async fn go(&self, step: &str) {
        let here = |state: &State| match self.shared.recording.entries.get(state.next) {
            Some(Entry::Step(name)) => Some(name.clone()),
            _ => None,
        };
        let waiting = timeout(PATIENCE, self.shared.wait(|state| here(state).map(|_| state.next))).await;
        let state = self.shared.state();
        assert_eq!(state.complaints, Vec::<String>::new());
        assert!(waiting.is_ok(), "before {step:?}: {}", self.shared.missing(&state));
        assert_eq!(here(&state).as_deref(), Some(step));
        self.shared.on(state);
    }

    /// What the store asked for otherwise than in the recording.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.shared.state().complaints.clone()
    }

    /// What the store asked for.
    pub(crate) fn came(&self) -> Vec<Request> {
        self.shared.state().came.iter().flatten().cloned().collect()
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    while let Some(request) = Request::read(&mut from).await {
        let exchange = shared.came(request);
        let last = exchange.and_then(|exchange| Some((exchange, shared.recording.last_of(exchange)?)));
        match last {
            Some((exchange, last)) => {
                if shared.answer(exchange, last, &mut to).await.is_break() {
                    return;
                }
            }
            None => pending().await,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of the recorded requests this is: the next one for that path.
    fn came(&self, request: Request) -> Option<usize> {
        let mut state = self.state();
        let same = |(recorded, came): (&Request, &Option<Request>)| {
            came.is_none() && (&recorded.method, &recorded.path) == (&request.method, &request.path)
        };
        let found = self.recording.requests.iter().zip(&state.came).position(same);
        let recorded = found.map(|found| &self.recording.requests[found]);
        if recorded != Some(&request) {
            let complaint = format!("{request:?} came, where the recording has {recorded:?}");
            // Whoever waits for what comes of it would not see it.
            eprintln!("{complaint}");
            state.complaints.push(complaint);
        }
        if let Some(found) = found {
            state.came[found] = Some(request);
        }
        self.pass(state);
        found
    }

    /// Answers when it is time for each line.
    async fn answer(
        &self,
        exchange: usize,
        last: usize,
        to: &mut OwnedWriteHalf,
    ) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        loop {
            let now = self
                .wait(|state| match self.recording.entries.get(state.next)? {
                    Entry::Said(of, _) | Entry::Broke(of) if *of == exchange => Some(state.next),
                    _ => None,
                })
                .await;
            let Entry::Said(_, text) = &self.recording.entries[now] else {
                self.on(self.state());
                return Break(());
            };
            let wrote = to.write_all(text).await;
            let mut state = self.state();
            if let Err(error) = wrote {
                state.complaints.push(format!("the answer to request {} was cut: {error}", exchange + 1));
            }
            self.on(state);
            if now == last {
                return Continue(());
            }
        }
    }

    async fn wait<T>(&self, mut is: impl FnMut(&State) -> Option<T>) -> T {
        let mut stirred = self.stirred.subscribe();
        loop {
            if let Some(found) = is(&self.state()) {
                return found;
            }
            stirred.changed().await.expect("it is our own");
        }
    }

    /// One entry is done.
    fn on(&self, mut state: MutexGuard<'_, State>) {
        state.next += 1;
        self.pass(state);
    }

    /// Passes over requests that have come.
    fn pass(&self, mut state: MutexGuard<'_, State>) {
        while let Some(Entry::Asked(exchange)) = self.recording.entries.get(state.next) {
            if state.came[*exchange].is_none() {
                break;
            }
            state.next += 1;
        }
        drop(state);
        self.stirred.send_replace(());
    }

    /// What is waited for.
    fn missing(&self, state: &State) -> String {
        match self.recording.entries.get(state.next) {
            None => "the recording is at its end".to_owned(),
            Some(Entry::Step(step)) => format!("the test is to let this happen first: {step}"),
            Some(Entry::Asked(exchange)) => {
                format!("the store does not ask for {:?}", self.recording.requests[*exchange])
            }
            Some(Entry::Said(exchange, _) | Entry::Broke(exchange)) => {
                format!("nobody hears the answer to request {}", exchange + 1)
            }
        }
    }
}
