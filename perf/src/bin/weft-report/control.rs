//! The `control` rig: what the control side costs in a large cluster.

use serde::Deserialize;

use crate::field::{Amount, Median, Positive, Rounds, Text};
use crate::goal::{Bound, Goal, Unit, wanted};
use crate::markdown::{Table, escaped, median, number};
use crate::rows::Record;
use crate::section::Section;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    ColdStart,
    Change,
    Memory,
    CniAdd,
    /// The other figure of a `cni-add` row, and none by itself.
    #[serde(skip)]
    CniAddAlone,
    StoreLoss,
}

impl Case {
    const ALL: [Self; 6] =
        [Self::ColdStart, Self::Change, Self::Memory, Self::CniAdd, Self::CniAddAlone, Self::StoreLoss];

    fn name(self) -> &'static str {
        match self {
            Self::ColdStart => "cold-start",
            Self::Change => "change",
            Self::Memory => "memory",
            Self::CniAdd => "cni-add",
            Self::CniAddAlone => "cni-add-alone",
            Self::StoreLoss => "store-loss",
        }
    }

    /// What its figure is.
    fn what(self) -> &'static str {
        match self {
            Self::ColdStart => "from weftd's start until every node's subnet is forwarded to",
            Self::Change => {
                "from a node's coming in the store, or its new VTEP MAC, to the first packet to it so, 99th percentile"
            }
            Self::Memory => {
                "resident memory with 250 pods (of a quick run 25), packet buffers in ordinary pages among it"
            }
            Self::CniAdd => "100 pods added at once, by a C loop that does the same to the kernel",
            Self::CniAddAlone => "weft-cni ADD by itself, without IPAM, from its start to its end",
            Self::StoreLoss => "lost while the store stands still, is slow, gone, compacted and restored",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::ColdStart => Unit::Of("s"),
            Self::Change => Unit::Of("ms"),
            Self::Memory => Unit::Of("MiB"),
            Self::CniAdd => Unit::Times("the C loop"),
            Self::CniAddAlone => Unit::Of("ms"),
            Self::StoreLoss => Unit::Packets,
        }
    }

    fn goal(self, value: Option<f64>) -> Goal {
        let found = (self.unit(), value);
        let [bound, _] = Bound::of(wanted("control", self.name()), Bound::at_most, [found; 2]);
        Goal { line: format!("control, {}", self.name()), at_least: bound, aim: bound }
    }
}

#[derive(Debug, Deserialize)]
struct Raw {
    case: Case,
    value: Amount,
    unit: Text,
    limit: Amount,
    /// Of `cni-add`: what the plugin takes by itself, ms.
    alone_ms: Option<Positive>,
    /// Of `store-loss`: how long the store stood still, and how long it was gone, s.
    outage_s: Option<Positive>,
    rounds: Rounds,
}

/// One case.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct Row {
    case: Case,
    value: Median,
    unit: String,
    limit: f64,
    /// ms
    alone: Option<Median>,
    /// s
    outage: Option<f64>,
}

impl TryFrom<Raw> for Row {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let unit = escaped(&raw.unit.to_string());
        let limit = raw.limit.0;
        // Of lost packets those of all rounds count, and not their median.
        let value = match raw.case {
            Case::StoreLoss => {
                let lost = raw.value.0;
                Median { value: lost, low: lost, high: lost, rounds: 0, busy: false }
            }
            _ => raw.rounds.median("value", raw.value.0, false)?,
        };
        let missing = |what| format!("missing number {what}");
        let (mut alone, mut outage) = (None, None);
        match raw.case {
            Case::CniAdd => {
                let ms =
                    raw.alone_ms.ok_or_else(|| missing("`alone_ms`, what the plugin takes by itself"))?;
                alone = Some(raw.rounds.median("alone_ms", ms.0, false)?);
            }
            Case::StoreLoss => {
                let seconds =
                    raw.outage_s.ok_or_else(|| missing("`outage_s`, how long the store was away"))?;
                outage = Some(seconds.0);
            }
            _ => {}
        }
        Ok(Self { case: raw.case, value, unit, limit, alone, outage })
    }
}

impl Record for Row {
    fn key(&self) -> String {
        format!("{:?}", self.case)
    }

    fn medians(&mut self) -> Vec<&mut Median> {
        [&mut self.value].into_iter().chain(&mut self.alone).collect()
    }
}

/// What `cni-add` is held against.
const C_LOOP: &str = "The C loop of `cni-add` (`scripts/lab/taps.c`) does in the same namespaces, for one pod after the other and in one thread, what weftd has the kernel do: \
     a TAP device with room for many queues, of which one is opened, with virtio headers, checksums and TSO; six settings of the interface; \
     no queueing discipline; MAC address, MTU, an IPv4 address, the default route and the gateway as a neighbour; the device and the loopback up. It reads no request, tells no worker and \
     keeps nothing.";

/// From the smallest round to the largest.
fn rounds(median: &Median) -> String {
    match median.rounds {
        0 => "–".into(),
        _ => format!("{} to {}", number(median.low), number(median.high)),
    }
}

/// What is asked for, whether it was measured or not.
pub(crate) fn asked() -> Vec<Goal> {
    Case::ALL.into_iter().map(|case| case.goal(None)).collect()
}

pub(crate) fn section(rows: &[Row]) -> Section {
    let mut section = Section::new("control: a cluster of 5,000 nodes");
    section.say(
        "The nodes' leases are in a real etcd. Whether a node is reached is judged by packets alone, which arrive behind the underlay. Medians of the rounds; of \
         lost packets, those of all rounds.",
    );
    let mut table = Table::new(["case", "what", "value", "rounds", "unit", "at most"]);
    for row in rows {
        let mut line = |case: Case, value: &Median, unit: &str, limit: f64| {
            table.line([case.name(), case.what(), &median(value), &rounds(value), unit, &number(limit)]);
            section.goals.push(case.goal(Some(value.value)));
        };
        line(row.case, &row.value, &row.unit, row.limit);
        if let (Some(alone), Some(wanted)) = (&row.alone, wanted("control", Case::CniAddAlone.name())) {
            line(Case::CniAddAlone, alone, "ms", wanted.at_least);
        }
    }
    section.say(&table.to_markdown());
    if rows.iter().any(|row| row.case == Case::CniAdd) {
        section.say(C_LOOP);
    }
    if let Some(outage) = rows.iter().find_map(|row| row.outage) {
        section.say(&format!(
            "In `store-loss` etcd stood still for {0} s and was gone for {0} s.",
            number(outage)
        ));
    }
    section
}
