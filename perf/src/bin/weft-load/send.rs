//! Packets at a rate.
//!
//! They go in small batches, each at its time. Time that the sender itself has lost, because others had its core, is
//! made up for in small part only: bursts that nobody asked for would measure the buffers on the way. What counts is
//! what was sent, and the result says it.

use std::array;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};
use serde_json::json;

use crate::datagram::{BATCH, LARGEST, connect, say, send_end, set_number};

/// How much sending a batch is for: less gives smoother traffic, and more wake-ups.
const BATCH_TIME: Duration = Duration::from_micros(50);
/// Delay that is made up for.
const CATCH_UP: Duration = Duration::from_millis(1);

pub(crate) fn send(to: SocketAddr, rate: u64, size: usize, seconds: Duration) -> Result<()> {
    // Sleeps end when they should, not up to 50 µs later.
    prctl::set_timerslack(1)?;
    let socket = connect(to)?;
    let mut batch = Batch::new(socket.as_raw_fd(), size);
    let mut pace = Pace::new(rate);
    let begin = Instant::now();
    let mut sent = 0;
    loop {
        let elapsed = begin.elapsed();
        if elapsed >= seconds {
            break;
        }
        match pace.at(elapsed, sent) {
            Next::Send(count) => {
                sent += batch.send(sent, count).with_context(|| format!("cannot send to {to}"))?
            }
            // Never spun: the core may be the switch's too. What oversleeping costs is made up for by the next batch.
            Next::Wait(time) => thread::sleep(time),
        }
    }
    let took = begin.elapsed().as_secs_f64();
    send_end(&socket)?;
    say(json!({ "sent": sent, "seconds": took, "pps": sent as f64 / took }))
}

/// What to do at a moment.
enum Next {
    Send(usize),
    Wait(Duration),
}

/// How many packets are due.
struct Pace {
    /// Packets a second; 0 for no bound.
    rate: f64,
    /// Packets that are sent together.
    step: u64,
    /// Packets that were not sent in time, and will not be.
    given_up: u64,
}

impl Pace {
    fn new(rate: u64) -> Self {
        let step = (rate as f64 * BATCH_TIME.as_secs_f64()) as u64;
        Self { rate: rate as f64, step: step.clamp(1, BATCH as u64), given_up: 0 }
    }

    fn at(&mut self, elapsed: Duration, sent: u64) -> Next {
        if self.rate == 0.0 {
            return Next::Send(BATCH);
        }
        let done = sent + self.given_up;
        let due = (elapsed.as_secs_f64() * self.rate) as u64;
        if due < done + self.step {
            let at = Duration::from_secs_f64((done + self.step) as f64 / self.rate);
            return Next::Wait(at.saturating_sub(elapsed));
        }
        let late = due - done;
        let most = ((self.rate * CATCH_UP.as_secs_f64()) as u64).max(self.step);
        self.given_up += late.saturating_sub(most);
        Next::Send(late.min(BATCH as u64) as usize)
    }
}

/// What one system call sends.
struct Batch {
    fd: RawFd,
    size: usize,
    headers: MultiHeaders<()>,
    datagrams: Box<[[u8; LARGEST]; BATCH]>,
}

impl Batch {
    fn new(fd: RawFd, size: usize) -> Self {
        Self {
            fd,
            size,
            headers: MultiHeaders::preallocate(BATCH, None),
            datagrams: Box::new([[0; LARGEST]; BATCH]),
        }
    }

    /// Sends so many, numbered from the first on; says how many went.
    fn send(&mut self, first: u64, count: usize) -> Result<u64> {
        for (number, datagram) in (first..).zip(self.datagrams.iter_mut()).take(count) {
            set_number(datagram, number);
        }
        let datagrams = &self.datagrams;
        let slices: [_; BATCH] = array::from_fn(|i| [IoSlice::new(&datagrams[i][..self.size])]);
        match sendmmsg(self.fd, &mut self.headers, &slices[..count], [None; BATCH], [], MsgFlags::empty()) {
            Ok(sent) => Ok(sent.count() as u64),
            Err(Errno::EINTR | Errno::ENOBUFS) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a pace over moments; what was sent.
    fn paced(rate: u64, moments: impl IntoIterator<Item = Duration>) -> u64 {
        let mut pace = Pace::new(rate);
        let mut sent = 0;
        for moment in moments {
            while let Next::Send(count) = pace.at(moment, sent) {
                sent += count as u64;
            }
        }
        sent
    }

    #[test]
    fn what_is_due_is_sent_and_no_more() {
        let moments = (0..=100_000).map(|i| Duration::from_micros(10 * i));
        let sent = paced(123_456, moments);
        assert!((123_450..=123_456).contains(&sent), "{sent} sent in a second at 123456 a second");
    }

    #[test]
    fn lost_time_is_made_up_for_in_small_part() {
        let away = [Duration::ZERO, Duration::from_millis(500)];
        let sent = paced(100_000, away);
        assert!((64..=100 + BATCH as u64).contains(&sent), "{sent} sent after half a second away");
    }
}
