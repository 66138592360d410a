//! Counters: `GET /v1/stats` and `GET /v1/drops`. All count from the daemon's start and never go back; a port's
//! counters end with the port.

use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/stats`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stats {
    /// By port, in the order of their numbers.
    pub ports: Vec<PortStats>,
    /// By worker.
    pub workers: Vec<WorkerStats>,
    /// Of the whole switch, ports that are gone among them.
    pub total: Total,
}

/// One port. "rx" is what the switch received from it, "tx" what it sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PortStats {
    /// Its number.
    pub id: u16,
    /// The pod's name, or the interface.
    pub name: String,
    /// `tap`, `vhost-user`, `dpdk`, `host`, `uplink` ….
    pub kind: String,
    /// Frames received. A GSO frame counts once.
    pub rx_packets: u64,
    /// Their bytes, Ethernet header included.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Their bytes, Ethernet header included.
    pub tx_bytes: u64,
    /// Frames from this port that were dropped.
    pub rx_drops: u64,
    /// Frames that were to be sent to this port, and dropped because it did not take them.
    pub tx_drops: u64,
    /// Frames to this port that had to wait because of its limit.
    #[serde(default)]
    pub delayed: u64,
    /// How often nothing more was taken from this port for a while because of its limit.
    #[serde(default)]
    pub paused: u64,
}

/// One worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkerStats {
    /// Its number, from 0.
    pub id: u16,
    /// The CPU that it is pinned to; null when it is not.
    pub core: Option<usize>,
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Frames that the switch itself was the destination of.
    pub consumed: u64,
    /// Frames that the switch made itself: the further ones when it cuts a GSO frame.
    pub originated: u64,
    /// Frames that became part of the one before them in their flow.
    pub merged: u64,
    /// Frames dropped.
    pub drops: u64,
    /// Bursts that held at least one frame.
    pub bursts: u64,
    /// CPU cycles that a frame costs on average since the start; 0 when there was none.
    pub cycles_per_packet: f64,
    /// Time that went into bursts with frames since the start, in seconds.
    pub busy_seconds: f64,
    /// Share of the last second that went into bursts with frames, 0 to 1.
    pub busy: f64,
    /// What it does at the moment.
    pub state: WorkerState,
    /// Time that it slept since the start, in seconds. What it was neither busy nor asleep it polled for nothing.
    pub asleep_seconds: f64,
    /// Share of the last second that it slept, 0 to 1.
    pub asleep: f64,
    /// How often it slept because nothing came.
    pub sleeps: u64,
    /// How often it was woken: by a port, another worker or a command, not to poll ports that cannot wake it.
    pub wakes: u64,
    /// Frames handed to another worker that owns the transmit queue.
    pub handed_over: u64,
    /// ICMP errors that it made, those of ICMPv6 among them.
    pub icmp_sent: u64,
    /// ICMP errors that it did not make because too many were.
    pub icmp_limited: u64,
    /// MAC addresses that it learned.
    pub learned: u64,
    /// Learned MAC addresses that moved to another port.
    pub moved: u64,
    /// Moves that it did not make because too many were.
    pub moves_limited: u64,
    /// MAC addresses that it did not learn because the port, or the table, had its fill.
    pub learn_limited: u64,
    /// Connections whose answers it pinned to the host port, and pairs of addresses whose fragments it did.
    #[serde(default)]
    pub pinned: u64,
    /// Pins that had to go before their time, for those.
    #[serde(default)]
    pub pins_evicted: u64,
    /// Frames for pods that it sent to the host port, since their flow was pinned.
    #[serde(default)]
    pub to_host_pinned: u64,
    /// Events for the control side that were lost because too many waited.
    pub events_lost: u64,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It works, or polls its ports.
    #[default]
    Polling,
    /// It waits for a port to tell.
    Sleeping,
}

impl std::fmt::Display for WorkerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Polling => "polling",
            Self::Sleeping => "sleeping",
        })
    }
}

/// The whole switch. `rx + originated = tx + consumed + merged + drops`, but for the frames on their way at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Total {
    /// Frames received.
    pub rx: u64,
    /// Frames that the switch made itself: the further ones when it cuts a GSO frame.
    pub originated: u64,
    /// Frames sent.
    pub tx: u64,
    /// Frames that the switch itself was the destination of.
    pub consumed: u64,
    /// Frames that became part of the one before them in their flow.
    pub merged: u64,
    /// Frames dropped.
    pub drops: u64,
}

impl Total {
    /// Frames that came in or were made, and have neither left nor ended. A few while traffic runs; negative when
    /// workers counted on between the reading of one counter and the next.
    pub fn in_flight(&self) -> i128 {
        let sum = |counters: &[u64]| counters.iter().map(|&c| i128::from(c)).sum::<i128>();
        sum(&[self.rx, self.originated]) - sum(&[self.tx, self.consumed, self.merged, self.drops])
    }
}

/// The answer to `GET /v1/drops`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Drops {
    /// Of the whole switch. Without `?all=true` only the reasons that happened.
    pub total: Vec<Drop>,
}

/// How often one reason happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Drop {
    /// Its name, such as `fdb_miss`: stable from release to release.
    pub reason: String,
    /// Frames.
    pub count: u64,
    /// What it means, in a sentence.
    pub explain: String,
}
