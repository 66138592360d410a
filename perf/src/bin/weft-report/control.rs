//! The `control` rig: what the control side costs in a large cluster.

use serde::Deserialize;

use crate::field::{Amount, Median, Rounds, Text};
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
    StoreLoss,
}

impl Case {
    const ALL: [Self; 5] = [Self::ColdStart, Self::Change, Self::Memory, Self::CniAdd, Self::StoreLoss];

    fn name(self) -> &'static str {
        match self {
            Self::ColdStart => "cold-start",
            Self::Change => "change",
            Self::Memory => "memory",
            Self::CniAdd => "cni-add",
            Self::StoreLoss => "store-loss",
        }
    }

    /// What its figure is.
    fn what(self) -> &'static str {
        match self {
            Self::ColdStart => "from weftd's start until every node's subnet is forwarded to",
            Self::Change => "from a node's change in the store to the first packet to it, 99th percentile",
            Self::Memory => "resident memory with 250 pods, packet buffers in ordinary pages among it",
            Self::CniAdd => "100 pods added at once, by a C loop that makes the same devices",
            Self::StoreLoss => "lost while the store is away, slow, compacted and restored",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::ColdStart => Unit::Of("s"),
            Self::Change => Unit::Of("ms"),
            Self::Memory => Unit::Of("MiB"),
            Self::CniAdd => Unit::Times("the C loop"),
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
    rounds: Rounds,
}

/// One figure.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct Row {
    case: Case,
    value: Median,
    unit: String,
    limit: f64,
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
        Ok(Self { case: raw.case, value, unit, limit })
    }
}

impl Record for Row {
    fn key(&self) -> String {
        format!("{:?}", self.case)
    }

    fn medians(&mut self) -> Vec<&mut Median> {
        vec![&mut self.value]
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
    let mut table = Table::new(["case", "what", "value", "unit", "at most"]);
    for row in rows {
        table.line([
            row.case.name().into(),
            row.case.what().into(),
            median(&row.value),
            row.unit.clone(),
            number(row.limit),
        ]);
        section.goals.push(row.case.goal(Some(row.value.value)));
    }
    section.say(&table.to_markdown());
    section
}
