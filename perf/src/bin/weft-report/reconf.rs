//! The `reconf` rig: what traffic notices while tables change.

use serde::Deserialize;

use crate::field::{Amount, Median, Positive, Rounds};
use crate::goal::{Bound, Goal, Unit, wanted};
use crate::markdown::{Table, count, median, number, ratio};
use crate::plot::{Bar, Bars, Group, Panel, Plot};
use crate::rows::Record;
use crate::section::Section;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    /// Nothing changes.
    Static,
    AddVteps,
    RemovePod,
    Mtu,
    Snapshots,
    Pods,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::AddVteps => "add-vteps",
            Self::RemovePod => "remove-pod",
            Self::Mtu => "mtu",
            Self::Snapshots => "snapshots",
            Self::Pods => "pods",
        }
    }
}

#[derive(Debug, Deserialize)]
struct Raw {
    case: Case,
    lost: Amount,
    gap_us: Amount,
    own_pause_ms: Amount,
    snapshots_a_second: Amount,
    /// How many a second there should have been.
    snapshots_asked: Option<Positive>,
    mpps: Positive,
    static_mpps: Option<Positive>,
    offered: Option<Positive>,
    rounds: Rounds,
}

/// One kind of change.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct Row {
    case: Case,
    lost: u64,
    gap: Median,
    /// The generator's own longest pause, µs.
    pause: f64,
    snapshots: Median,
    mpps: Median,
    /// The rate without any change, where the rate is what is asked for.
    unchanged: Option<f64>,
    /// How many snapshots a second there should have been.
    asked: Option<f64>,
    /// What the generator has sent of what it was to send.
    offered: Option<f64>,
}

impl TryFrom<Raw> for Row {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        Ok(Self {
            case: raw.case,
            lost: raw.lost.0 as u64,
            gap: raw.rounds.median("gap_us", raw.gap_us.0, false)?,
            pause: 1e3 * raw.own_pause_ms.0,
            snapshots: raw.rounds.median("snapshots_a_second", raw.snapshots_a_second.0, false)?,
            mpps: raw.rounds.median("mpps", raw.mpps.0, false)?,
            unchanged: raw.static_mpps.map(|rate| rate.0),
            asked: raw.snapshots_asked.map(|rate| rate.0),
            offered: raw.offered.map(|share| share.0),
        })
    }
}

impl Record for Row {
    fn key(&self) -> String {
        format!("{:?}", self.case)
    }

    fn medians(&mut self) -> Vec<&mut Median> {
        vec![&mut self.gap, &mut self.snapshots, &mut self.mpps]
    }
}

/// With fewer snapshots than this share of what was asked for, the rate says nothing.
const ENOUGH_SNAPSHOTS: f64 = 0.95;

impl Row {
    /// The rate by that without changes.
    fn share(&self) -> Option<f64> {
        self.unchanged.map(|unchanged| self.mpps.value / unchanged)
    }

    fn enough_snapshots(&self) -> bool {
        self.asked.is_none_or(|asked| self.snapshots.value >= ENOUGH_SNAPSHOTS * asked)
    }
}

fn lost_goal(lost: Option<u64>) -> Goal {
    let found = (Unit::Packets, lost.map(|lost| lost as f64));
    let [bound, _] = Bound::of(wanted("reconf", "lost"), Bound::at_most, [found; 2]);
    Goal { line: "reconf, packets lost".into(), at_least: bound, aim: bound }
}

fn rate_goal(share: Option<f64>) -> Goal {
    let found = (Unit::Times("the rate without changes"), share);
    let [bound, _] = Bound::of(wanted("reconf", "rate"), Bound::at_least, [found; 2]);
    Goal { line: "reconf, rate with 100 snapshots a second".into(), at_least: bound, aim: bound }
}

/// What is asked for, whether it was measured or not.
pub(crate) fn asked() -> Vec<Goal> {
    vec![lost_goal(None), rate_goal(None)]
}

pub(crate) fn section(rows: &[Row]) -> Section {
    let mut section = Section::new("reconf: tables that change under load");
    section.say(
        "Packets lost in all rounds, at half of the rate without loss, and the longest time in which none arrived; the generator's own \
         longest pause is in it. Below 100 % offered, its own core was what there was too little of. Of `static`, where nothing changes, and of `snapshots` and `pods`, whose tables change all the time, the rate is all that \
         the worker takes from a source without a core of its own, with changes and without in turn; of the others it is what was sent. Where there were fewer than 95 % of the snapshots asked for in that time, the rate decides nothing.",
    );
    let mut table = Table::new([
        "change",
        "offered",
        "lost",
        "longest gap, µs",
        "own pause, µs",
        "snapshots a second",
        "Mpps",
        "by static",
    ]);
    for row in rows {
        table.line([
            row.case.name().into(),
            row.offered.map_or("–".into(), |share| format!("{:.0} %", 100.0 * share)),
            count(row.lost),
            median(&row.gap),
            number(row.pause),
            format!(
                "{}{}",
                median(&row.snapshots),
                if row.enough_snapshots() { "" } else { ", **too few**" }
            ),
            median(&row.mpps),
            row.share().map_or("–".into(), ratio),
        ]);
        if row.case == Case::Static {
            continue;
        }
        section.goals.push(lost_goal(Some(row.lost)));
        if matches!(row.case, Case::Snapshots | Case::Pods) {
            section.goals.push(rate_goal(row.share().filter(|_| row.enough_snapshots())));
        }
    }
    section.say(&table.to_markdown());
    let groups =
        rows.iter().map(|row| Group { label: row.case.name().into(), bars: vec![Some(Bar::of(&row.gap))] });
    section.plot(Plot::bars(
        "reconf".into(),
        "The longest time without a packet while tables change".into(),
        Bars {
            y: "µs".into(),
            log: true,
            series: vec!["weft".into()],
            panels: vec![Panel { title: String::new(), groups: groups.collect() }],
        },
    ));
    section
}
