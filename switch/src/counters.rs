//! What is counted. One worker writes its [`WorkerCounters`], once a burst and without locked instructions; other threads
//! read them at any time.
//!
//! At rest, summed over the workers: rx + originated = tx + consumed + merged + Σ drops. `merged` are the frames that were put
//! behind another and are now part of it. `originated` are the frames that the
//! switch makes itself: the second and further pieces of a frame that is cut in software, the second and further copies of
//! a frame that is flooded (those too that a port has no room for), ICMP errors, and questions for neighbours.

use weft_sync::counter::Counter;

use crate::drop_reason::DropReason;
use crate::types::{MAX_PORTS, PortId};

/// What one worker counts for one port. A line of its own, so that neighbours do not share it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    /// Frames received.
    pub rx_packets: Counter,
    /// Bytes received, with Ethernet headers.
    pub rx_bytes: Counter,
    /// Frames sent.
    pub tx_packets: Counter,
    /// Bytes sent, with Ethernet headers.
    pub tx_bytes: Counter,
    /// Frames received and then dropped, wholly or in part, whatever the reason: at most as many as were received. What of a
    /// flooded frame does not get to a port counts there.
    pub rx_drops: Counter,
    /// Frames that could not be sent to this port.
    pub tx_drops: Counter,
    /// Frames to this port that had to wait because of its limit.
    pub delayed: Counter,
    /// How often nothing more was taken from this port for a while because of its limit.
    pub paused: Counter,
}

/// How long a worker has slept, its present sleep included, in cycles of its clock: one word, so that a reader never sees half
/// of a change.
///
/// While it sleeps the word is the sum less the time at which it fell asleep, and that is negative: the clock has been
/// running for longer than the worker has slept.
#[derive(Debug, Default)]
pub struct Asleep(Counter);

impl Asleep {
    /// It falls asleep. Called by the worker alone, as all that counts.
    pub fn begin(&self, now: u64) {
        self.0.add(now.wrapping_neg());
    }

    /// It has woken up.
    pub fn end(&self, now: u64) {
        self.0.add(now);
    }

    /// The whole time until `now`, and whether it sleeps.
    pub fn until(&self, now: u64) -> (u64, bool) {
        let word = self.0.get();
        if (word as i64) < 0 { (word.wrapping_add(now), true) } else { (word, false) }
    }
}

/// What one worker counts. Two lines of its own at both ends: processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    ports: Box<[PortCounters]>,
    drops: [Counter; DropReason::COUNT],
    /// Frames received.
    pub rx: Counter,
    /// Frames that the switch made itself.
    pub originated: Counter,
    /// Frames sent.
    pub tx: Counter,
    /// Frames that were for weft itself.
    pub consumed: Counter,
    /// Frames that became part of the one before them in their flow.
    pub merged: Counter,
    /// Bursts with at least one frame.
    pub bursts: Counter,
    /// Frames handed to another worker, which sends or drops them.
    pub handed_over: Counter,
    /// Rounds that found work, in cycles of the time-stamp counter.
    pub busy_cycles: Counter,
    /// How often it went to sleep.
    pub sleeps: Counter,
    /// How often something woke it, rather than the beat at which it polls what has no descriptor.
    pub wakes: Counter,
    /// How long it has slept.
    pub asleep: Asleep,
    /// Fragments that the switch has cut IPv4 packets into.
    pub fragments: Counter,
    /// ICMP errors that were made.
    pub icmp_sent: Counter,
    /// ICMP errors that were not made because too many were.
    pub icmp_limited: Counter,
    /// MAC addresses that were learned.
    pub learned: Counter,
    /// Learned MAC addresses that moved to another port.
    pub moved: Counter,
    /// Moves that were not made because too many were.
    pub moves_limited: Counter,
    /// MAC addresses that were not learned because the port, or the table, had its fill.
    pub learn_limited: Counter,
    /// Connections whose answers were pinned to the host port, and addresses whose fragments were.
    pub pinned: Counter,
    /// Pins that had to go before their time, for others.
    pub pins_evicted: Counter,
    /// Frames to pods that went to the host port, since their flow was pinned.
    pub to_host_pinned: Counter,
    /// Events about claimed addresses that were not told because too many were.
    pub events_limited: Counter,
    /// Events that were lost because the control side did not take them in time.
    pub events_lost: Counter,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self {
            ports: (0..MAX_PORTS).map(|_| PortCounters::default()).collect(),
            drops: std::array::from_fn(|_| Counter::default()),
            rx: Counter::default(),
            originated: Counter::default(),
            tx: Counter::default(),
            consumed: Counter::default(),
            merged: Counter::default(),
            bursts: Counter::default(),
            handed_over: Counter::default(),
            busy_cycles: Counter::default(),
            sleeps: Counter::default(),
            wakes: Counter::default(),
            asleep: Asleep::default(),
            fragments: Counter::default(),
            icmp_sent: Counter::default(),
            icmp_limited: Counter::default(),
            learned: Counter::default(),
            moved: Counter::default(),
            moves_limited: Counter::default(),
            learn_limited: Counter::default(),
            pinned: Counter::default(),
            pins_evicted: Counter::default(),
            to_host_pinned: Counter::default(),
            events_limited: Counter::default(),
            events_lost: Counter::default(),
        }
    }
}

impl WorkerCounters {
    /// What was counted for a port. Port numbers are used again, and counting goes on from where it was: who wants
    /// a port's own figures takes the difference to its beginning.
    #[inline]
    pub fn port(&self, id: PortId) -> &PortCounters {
        &self.ports[id.index()]
    }

    /// How many frames were dropped for `reason`.
    #[inline]
    pub fn drops(&self, reason: DropReason) -> &Counter {
        &self.drops[reason.index()]
    }

    /// How many frames were dropped.
    pub fn all_drops(&self) -> u64 {
        self.drops.iter().map(Counter::get).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Asleep;

    #[test]
    fn sleep_is_summed_up_and_the_present_one_counts() {
        let asleep = Asleep::default();
        assert_eq!(asleep.until(1000), (0, false));
        asleep.begin(1000);
        assert_eq!([asleep.until(1000), asleep.until(1700)], [(0, true), (700, true)]);
        asleep.end(1800);
        assert_eq!(asleep.until(5000), (800, false));
        asleep.begin(5000);
        assert_eq!(asleep.until(5001), (801, true));
    }
}
