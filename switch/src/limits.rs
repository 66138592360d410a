//! Rate limits: token buckets that are filled by time and emptied by packets. Each belongs to one receive queue and so
//! to one worker; how fast they fill is in the snapshot, so that a change needs no restart.

/// How much of something is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// On average, in events a second. 0 allows nothing.
    pub per_second: u32,
    /// At once after a pause, in events.
    pub burst: u32,
}

impl Limit {
    /// So many a second, and a tenth of that (1 at least) at once.
    pub const fn per_second(per_second: u32) -> Self {
        let burst = per_second / 10;
        Self { per_second, burst: if burst == 0 { 1 } else { burst } }
    }
}

/// What the control side is told of addresses that are claimed, for each receive queue. What is not told now is told by
/// the next message like it.
pub const NEWS: Limit = Limit { per_second: 100, burst: 256 };

/// The rates of what the switch limits, for each port that frames come in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Copies of frames that go to several ports: broadcast, multicast and unknown unicast. At once at least one for each port
    /// of the segment.
    pub flood: Limit,
    /// Addresses of the node's subnets that the router asks for, behind all trusted ports each. No setting.
    pub solicit: Limit,
    /// Messages of the underlay's routers about tunnel packets that were too big which the control side is told of.
    pub path_mtu: Limit,
    /// ICMP errors made about frames from the port (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4(f)).
    pub icmp: Limit,
    /// Learned MAC addresses that move to the port.
    pub moves: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flood: Limit::per_second(10_000),
            solicit: Limit { per_second: 100, burst: 100 },
            path_mtu: Limit { per_second: 100, burst: 200 },
            icmp: Limit { per_second: 1000, burst: 50 },
            moves: Limit { per_second: 10, burst: 10 },
        }
    }
}

/// Thousandths of a token, and when they were counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    milli: u64,
    at: Option<u64>,
}

impl Bucket {
    /// Takes a token if there is one. `now` is the worker's time in milliseconds. A fresh bucket is full.
    pub fn take(&mut self, limit: Limit, now: u64) -> bool {
        self.take_all(1, limit, now)
    }

    /// Takes so many tokens, or none where there are fewer. More than the burst there never are.
    pub fn take_all(&mut self, tokens: u32, limit: Limit, now: u64) -> bool {
        if limit.per_second == 0 {
            return false;
        }
        let full = u64::from(limit.burst.max(1)) * 1000;
        self.milli = match self.at {
            // A thousandth of a token a millisecond for each a second.
            Some(at) => {
                let gained = now.saturating_sub(at).saturating_mul(u64::from(limit.per_second));
                self.milli.saturating_add(gained).min(full)
            }
            None => full,
        };
        self.at = Some(now);
        match self.milli.checked_sub(u64::from(tokens) * 1000) {
            Some(left) => {
                self.milli = left;
                true
            }
            None => false,
        }
    }
}

/// The buckets of one receive queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct Buckets {
    /// For [`Limits::flood`].
    pub flood: Bucket,
    /// For [`Limits::solicit`].
    pub solicit: Bucket,
    /// For [`Limits::path_mtu`].
    pub path_mtu: Bucket,
    /// For [`Limits::icmp`].
    pub icmp: Bucket,
    /// For [`Limits::moves`].
    pub moves: Bucket,
    /// For [`NEWS`].
    pub news: Bucket,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let limit = Limit { per_second: 10, burst: 3 };
        let mut bucket = Bucket::default();
        let taken = |bucket: &mut Bucket, now| (0..10).filter(|_| bucket.take(limit, now)).count();
        assert_eq!(taken(&mut bucket, 5_000), 3);
        assert_eq!(taken(&mut bucket, 5_099), 0);
        assert_eq!(taken(&mut bucket, 5_100), 1);
        assert_eq!(taken(&mut bucket, 5_350), 2);
        assert_eq!(taken(&mut bucket, 60_000), 3);
        assert_eq!(taken(&mut bucket, 1), 0, "time that goes back gives nothing");
    }

    #[test]
    fn several_are_taken_whole_or_not_at_all() {
        let limit = Limit { per_second: 10, burst: 6 };
        let mut bucket = Bucket::default();
        assert!(!bucket.take_all(7, limit, 0));
        assert!(bucket.take_all(4, limit, 0));
        assert!(!bucket.take_all(3, limit, 0));
        assert!(bucket.take_all(2, limit, 0), "those that did not suffice are still there");
        assert!(!bucket.take_all(6, limit, 599));
        assert!(bucket.take_all(6, limit, 600));
    }

    #[test]
    fn zero_allows_nothing_and_small_steps_lose_nothing() {
        assert!(!Bucket::default().take(Limit::per_second(0), 1));
        let limit = Limit { per_second: 1, burst: 1 };
        let mut bucket = Bucket::default();
        assert!(bucket.take(limit, 0));
        assert_eq!((1..=3000).filter(|now| bucket.take(limit, *now)).count(), 3);
    }
}
