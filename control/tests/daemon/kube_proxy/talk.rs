//! Programs that speak to each other in namespaces, and check what arrives: each side makes its bytes of a number, and the answer's of what the
//! question's bytes hash to.

use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::{Namespace, PATIENCE, once_free};

/// How often a server looks whether it is to end.
const BEAT: Duration = Duration::from_millis(20);

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// What a server says to these bytes: their hash, and as many bytes that are made of it.
fn answer(question: &[u8]) -> Vec<u8> {
    let hash = hash(question);
    [&hash.to_be_bytes()[..], &bytes(hash, question.len())].concat()
}

/// A server in a namespace, for one protocol and one port, until it is dropped.
pub(super) struct Server {
    done: Arc<AtomicBool>,
    /// From whom it was asked, each address once.
    askers: Arc<Mutex<Vec<IpAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn tcp(namespace: &Namespace, at: SocketAddr) -> Self {
        Self::start(namespace, move |done, heard| {
            let listener = once_free(|| TcpListener::bind(at));
            move || serve_tcp(&listener, &done, heard)
        })
    }

    pub(super) fn udp(namespace: &Namespace, at: SocketAddr) -> Self {
        Self::start(namespace, move |done, heard| {
            let socket = once_free(|| UdpSocket::bind(at));
            move || serve_udp(&socket, &done, heard)
        })
    }

    /// `open` makes the socket, in the namespace; what it gives serves.
    fn start<S: FnOnce() + Send + 'static>(
        namespace: &Namespace,
        open: impl FnOnce(Arc<AtomicBool>, Box<dyn Fn(IpAddr) + Send>) -> S + Send + 'static,
    ) -> Self {
        let (done, askers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ends, heard) = (done.clone(), askers.clone());
        let note: Box<dyn Fn(IpAddr) + Send> = Box::new(move |from| {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            if !heard.contains(&from) {
                heard.push(from);
            }
        });
        let serve = namespace.enter(move || open(ends, note)).join().expect("a server");
        Self { done, askers, thread: Some(std::thread::spawn(serve)) }
    }

    /// From whom it was asked since the last call.
    pub(super) fn askers(&self) -> Vec<IpAddr> {
        std::mem::take(&mut *self.askers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A server that has failed has said so, and its client as well.
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, done: &AtomicBool, heard: Box<dyn Fn(IpAddr) + Send>) {
    listener.set_nonblocking(true).expect("a socket that does not wait");
    while !done.load(Ordering::Relaxed) {
        let (mut connection, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(error) => panic!("accept: {error}"),
        };
        heard(from.ip());
        connection.set_nonblocking(false).expect("a connection that waits");
        connection.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let mut question = Vec::new();
        // A client that gives up is the client's to tell.
        if connection.read_to_end(&mut question).is_ok() {
            let _ = connection.write_all(&answer(&question));
        }
    }
}

fn serve_udp(socket: &UdpSocket, done: &AtomicBool, heard: Box<dyn Fn(IpAddr) + Send>) {
    socket.set_read_timeout(Some(BEAT)).expect("a limit");
    let mut buffer = vec![0; 1 << 16];
    while !done.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        heard(from.ip());
        let _ = socket.send_to(&answer(&buffer[..len]), from);
    }
}

/// Makes so many connections one after the other on each of some threads, with so many bytes each way. Every answer must be right.
pub(super) fn ask_tcp(from: &Namespace, to: SocketAddr, threads: u64, count: u64, len: usize) {
    let asking: Vec<_> = (0..threads)
        .map(|thread| {
            from.enter(move || (0..count).try_for_each(|turn| ask_once(to, thread << 32 | turn << 1, len)))
        })
        .collect();
    for asking in asking {
        asking.join().expect("a client").unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name()));
    }
}

fn ask_once(to: SocketAddr, seed: u64, len: usize) -> std::io::Result<()> {
    let question = bytes(seed ^ 0x9e37_79b9_7f4a_7c15, len);
    let mut connection = TcpStream::connect_timeout(&to, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(&question)?;
    connection.shutdown(Shutdown::Write)?;
    let mut said = Vec::new();
    connection.read_to_end(&mut said)?;
    assert!(said == answer(&question), "an answer of {} bytes is wrong (seed {seed})", said.len());
    Ok(())
}

/// Makes so many connections that are all open at once, with so many bytes each way when the last one is there. Every answer must be right.
pub(super) fn ask_at_once(
    from: &Namespace,
    to: SocketAddr,
    server: &Namespace,
    served: SocketAddr,
    (count, len): (u64, usize),
) {
    let bind = move || once_free(|| TcpListener::bind(served));
    let listener = server.enter(bind).join().expect("a server");
    let serving = std::thread::spawn(move || {
        let open: std::io::Result<Vec<_>> = (0..count).map(|_| listener.accept()).collect();
        open?.into_iter().try_for_each(|(mut connection, _)| {
            connection.set_read_timeout(Some(PATIENCE))?;
            let mut question = Vec::new();
            connection.read_to_end(&mut question)?;
            connection.write_all(&answer(&question))
        })
    });
    let asking = from.enter(move || {
        let open: std::io::Result<Vec<_>> =
            (0..count).map(|_| TcpStream::connect_timeout(&to, PATIENCE)).collect();
        let mut open = open?;
        for (connection, turn) in open.iter_mut().zip(0..) {
            connection.set_read_timeout(Some(PATIENCE))?;
            connection.write_all(&bytes(turn << 1, len))?;
            connection.shutdown(Shutdown::Write)?;
        }
        for (connection, turn) in open.iter_mut().zip(0..) {
            let mut said = Vec::new();
            connection.read_to_end(&mut said)?;
            assert!(said == answer(&bytes(turn << 1, len)), "answer {turn}, {} bytes, is wrong", said.len());
        }
        std::io::Result::Ok(())
    });
    asking.join().expect("a client").unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name()));
    serving.join().expect("a server").expect("the connections hold");
}

/// Asks from so many ports in turn, each once, and again where nothing comes: UDP may lose what it likes, but between idle nodes it loses nothing
/// once they know each other. How often nothing came within `patience`. The socket takes answers from whom it has asked only.
pub(super) fn ask_udp(from: &Namespace, to: SocketAddr, count: u64, len: usize, patience: Duration) -> u32 {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let asking = from.enter(move || {
        let mut again = 0;
        for turn in 0..count {
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(patience))?;
            let (question, mut buffer) = (bytes(turn + 1, len), vec![0; 1 << 16]);
            let mut said = Err(ErrorKind::TimedOut.into());
            for _ in 0..5 {
                socket.send(&question)?;
                said = socket.recv(&mut buffer);
                if said.is_ok() {
                    break;
                }
                again += 1;
            }
            assert!(buffer[..said?] == answer(&question), "an answer is wrong (number {turn})");
        }
        std::io::Result::Ok(again)
    });
    asking.join().expect("a client").unwrap_or_else(|error| panic!("{} to {to}: {error}", from.name()))
}

/// A connection whose second half is said by the server alone, after what happens `meanwhile`. All of it must arrive.
pub(super) fn speak_late<T>(
    from: &Namespace,
    to: SocketAddr,
    server: &Namespace,
    served: SocketAddr,
    meanwhile: impl FnOnce() -> T,
) -> T {
    const HALF: usize = 100_000;
    let bind = move || once_free(|| TcpListener::bind(served));
    let listener = server.enter(bind).join().expect("a server");
    let (go, may_go) = channel();
    let speaking = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept()?;
        connection.read_exact(&mut [0])?;
        connection.write_all(&bytes(1, HALF))?;
        // Also where the test has failed meanwhile.
        let _ = may_go.recv();
        connection.write_all(&bytes(2, HALF))
    });
    let (tell, half) = channel();
    let asking = from.enter(move || {
        let mut connection = TcpStream::connect_timeout(&to, PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(b"?")?;
        let mut said = vec![0; HALF];
        connection.read_exact(&mut said)?;
        // Nobody waits for it only where the test has failed.
        let _ = tell.send(());
        connection.read_to_end(&mut said)?;
        std::io::Result::Ok(said)
    });
    half.recv_timeout(PATIENCE).expect("the first half");
    let result = meanwhile();
    go.send(()).expect("the server is there");
    let said = asking.join().expect("a client").expect("the connection holds");
    assert!(said == [bytes(1, HALF), bytes(2, HALF)].concat(), "{} bytes", said.len());
    speaking.join().expect("a server").expect("the connection holds");
    result
}

/// True if a datagram is answered with the word that nobody listens.
pub(super) fn is_refused(from: &Namespace, to: SocketAddr) -> bool {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let asking = from.enter(move || {
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect(to).expect("a way");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        socket.send(b"is anybody there?").expect("a datagram");
        socket.recv(&mut [0; 64]).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    asking.join().expect("a client")
}
