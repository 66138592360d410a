//! Requests and responses, one at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::datagram::{LARGEST, connect, is_end, number, say, send_end, set_number};

/// How long an answer may take before it counts as lost.
const LOST: Duration = Duration::from_millis(500);
/// How long the other end may be silent before this one gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// For how long to ask.
pub(crate) struct Times {
    /// Without measuring, before the rest.
    pub(crate) warm_up: Duration,
    /// With it.
    pub(crate) seconds: Duration,
    /// Silence before each request.
    pub(crate) pause: Duration,
}

pub(crate) fn ask_tcp(to: SocketAddr, size: usize, times: &Times) -> Result<()> {
    let mut stream =
        TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut request, mut answer) = (vec![0; size], vec![0; size]);
    measure(times, |turn| {
        set_number(&mut request, turn);
        stream.write_all(&request)?;
        stream.read_exact(&mut answer)?;
        ensure!(answer == request, "the answer is not what was asked");
        Ok(true)
    })
}

pub(crate) fn ask_udp(to: SocketAddr, size: usize, times: &Times) -> Result<()> {
    let socket = connect(to)?;
    socket.set_read_timeout(Some(LOST))?;
    let (mut request, mut answer) = (vec![0; size], vec![0; size]);
    measure(times, |turn| {
        set_number(&mut request, turn);
        socket.send(&request).with_context(|| format!("cannot send to {to}"))?;
        loop {
            match socket.recv(&mut answer) {
                // What comes late answers a request that was given up.
                Ok(length) if number(&answer[..length]) != Some(turn) => {}
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    })?;
    send_end(&socket)
}

/// Asks again and again; `ask` is told the number of the request and says whether an answer came.
fn measure(
    &Times { warm_up, seconds, pause }: &Times,
    mut ask: impl FnMut(u64) -> Result<bool>,
) -> Result<()> {
    let mut times = Vec::with_capacity(1 << 20);
    let (mut turn, mut lost) = (0, 0_u64);
    let begin = Instant::now();
    while begin.elapsed() < warm_up + seconds {
        thread::sleep(pause);
        let asked = Instant::now();
        let answered = ask(turn)?;
        let took = asked.elapsed();
        turn += 1;
        if asked - begin < warm_up {
            continue;
        }
        if answered {
            times.push(took.as_nanos() as u64);
        } else {
            lost += 1;
        }
    }
    ensure!(!times.is_empty(), "no answer came");
    times.sort_unstable();
    let us = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
    say(json!({
        "answers": times.len(),
        "lost": lost,
        "p50_us": us(quantile(&times, 0.5)),
        "p90_us": us(quantile(&times, 0.9)),
        "p99_us": us(quantile(&times, 0.99)),
        "p999_us": us(quantile(&times, 0.999)),
        "mean_us": us(times.iter().sum()) / times.len() as f64,
        "max_us": us(quantile(&times, 1.0)),
    }))
}

/// The smallest of the sorted times that the given share does not exceed.
fn quantile(times: &[u64], share: f64) -> u64 {
    let rank = (share * times.len() as f64).ceil() as usize;
    times[rank.clamp(1, times.len()) - 1]
}

pub(crate) fn echo_tcp(listen: SocketAddr, size: usize) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    say("listening")?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut request = vec![0; size];
    loop {
        match stream.read_exact(&mut request) {
            Ok(()) => stream.write_all(&request)?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
}

pub(crate) fn echo_udp(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    say("listening")?;
    let mut request = [0; LARGEST];
    loop {
        let (length, asker) = socket.recv_from(&mut request).context("cannot receive")?;
        if is_end(&request[..length]) {
            return Ok(());
        }
        socket.send_to(&request[..length], asker)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_times_that_were_seen() {
        let times: Vec<u64> = (1..=200).collect();
        assert_eq!(quantile(&times, 0.5), 100);
        assert_eq!(quantile(&times, 0.99), 198);
        assert_eq!(quantile(&times, 1.0), 200);
        assert_eq!(quantile(&[7], 0.01), 7);
    }
}
