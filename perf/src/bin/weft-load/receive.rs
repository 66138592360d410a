//! Packets as they come, counted by their numbers.

use std::array;
use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};
use serde_json::json;

use crate::datagram::{BATCH, LARGEST, is_end, number, say};

/// How long nothing may come before the receiver gives up.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn receive(listen: SocketAddr, busy: bool, buffer: usize) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    if buffer > 0 {
        // The kernel doubles it, for what it keeps beside the bytes.
        setsockopt(&socket, sockopt::RcvBufForce, &(buffer / 2)).context("cannot set the socket's buffer")?;
    }
    socket.set_read_timeout(Some(PATIENCE))?;
    let flags = if busy { MsgFlags::MSG_DONTWAIT } else { MsgFlags::MSG_WAITFORONE };
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let mut datagrams = Box::new([[0_u8; LARGEST]; BATCH]);
    let mut seen = Seen::default();
    let (mut first, mut last) = (None, Instant::now());
    say("listening")?;
    loop {
        let mut lengths = [0; BATCH];
        let mut slots = datagrams.iter_mut();
        // As many slots as slices, so that none is left without one.
        let mut slices: [_; BATCH] =
            array::from_fn(|_| [IoSliceMut::new(slots.next().map_or(&mut [], |slot| slot))]);
        let count = match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None) {
            Ok(messages) => {
                messages.zip(&mut lengths).map(|(message, length)| *length = message.bytes).count()
            }
            Err(Errno::EAGAIN) if busy && last.elapsed() < PATIENCE => continue,
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => bail!("nothing came for {} s", PATIENCE.as_secs()),
            Err(error) => return Err(error).context("cannot receive"),
        };
        last = Instant::now();
        first.get_or_insert(last);
        for (datagram, &length) in datagrams.iter().zip(&lengths[..count]) {
            if is_end(&datagram[..length]) {
                let took = first.map_or(0.0, |first| (last - first).as_secs_f64());
                return say(json!({
                    "received": seen.received,
                    "twice": seen.twice,
                    "reordered": seen.reordered,
                    "seconds": took,
                    "busy": busy,
                }));
            }
            if let Some(number) = number(&datagram[..length]) {
                seen.count(number);
            }
        }
    }
}

/// Which numbers have come.
#[derive(Default)]
struct Seen {
    received: u64,
    /// How many came again.
    twice: u64,
    /// How many came after a higher one.
    reordered: u64,
    /// One more than the highest.
    next: u64,
    bits: Vec<u64>,
}

impl Seen {
    /// Numbers beyond this are nobody's: a sender of ten million packets a second needs three minutes to get there.
    const MOST: u64 = 1 << 31;

    fn count(&mut self, number: u64) {
        if number >= Self::MOST {
            return;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.bits.len() {
            self.bits.resize((word + 1).next_power_of_two(), 0);
        }
        if self.bits[word] & bit != 0 {
            self.twice += 1;
            return;
        }
        self.bits[word] |= bit;
        self.received += 1;
        if number < self.next {
            self.reordered += 1;
        } else {
            self.next = number + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_counts_once_and_late_ones_are_noted() {
        let mut seen = Seen::default();
        for number in [0, 1, 5, 2, 5, 6, 1000, u64::MAX - 1] {
            seen.count(number);
        }
        assert_eq!((seen.received, seen.twice, seen.reordered, seen.next), (6, 1, 1, 1001));
    }
}
