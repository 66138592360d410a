//! The `core` rig: what one worker takes from an endless source in memory to a sink.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::field::{Frame, Median, Positive, Rounds};
use crate::goal::{Bound, Goal, Unit, wanted};
use crate::markdown::{Table, capital, count, median, number, ratio};
use crate::plot::{Bar, Bars, Group, Panel, Plot, short};
use crate::rows::Record;
use crate::section::Section;
use crate::subject::Subject;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    Bridge,
    Route,
    Encap,
    Decap,
    DecapValid,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Route => "route",
            Self::Encap => "encap",
            Self::Decap => "decap",
            Self::DecapValid => "decap-valid",
        }
    }

    /// The line of the summary that it belongs to.
    fn line(self) -> &'static str {
        match self {
            Self::Bridge | Self::Route => "core, bridge and route, up to 100,000 flows",
            Self::Encap => "core, encap, up to 100,000 flows",
            Self::Decap | Self::DecapValid => "core, decap, up to 100,000 flows",
        }
    }
}

/// The most flows at which OVS-DPDK is measured.
const PEERS_FLOWS: u64 = 100_000;
/// What a million flows may cost is held against what so many cost.
const MANY: u64 = 1_000_000;
const SOME: u64 = 1_000;
/// What must be reached is asked of the shortest frames: there the switch's own cost is largest.
const JUDGED: Frame = Frame::Bytes(64);

#[derive(Debug, Deserialize)]
struct Raw {
    case: Case,
    flows: u64,
    frame: Frame,
    subject: Subject,
    mpps: Positive,
    cycles_per_packet: Positive,
    rounds: Rounds,
}

/// A subject in a case.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct Row {
    pub(crate) place: Place,
    mpps: Median,
    cycles: Median,
}

/// Which one of the rows it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    frame: Frame,
    case: Case,
    flows: u64,
    subject: Subject,
}

impl TryFrom<Raw> for Row {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        if raw.flows == 0 {
            return Err("flows is 0".into());
        }
        Ok(Self {
            mpps: raw.rounds.median("mpps", raw.mpps.0, true)?,
            cycles: raw.rounds.median("cycles_per_packet", raw.cycles_per_packet.0, false)?,
            place: Place { case: raw.case, flows: raw.flows, frame: raw.frame, subject: raw.subject },
        })
    }
}

impl Record for Row {
    fn key(&self) -> String {
        format!("{:?}", self.place)
    }

    fn medians(&mut self) -> Vec<&mut Median> {
        vec![&mut self.mpps, &mut self.cycles]
    }
}

/// All rows of one frame size.
struct Sheet<'a> {
    frame: Frame,
    rows: BTreeMap<(Case, u64, Subject), &'a Row>,
}

impl Sheet<'_> {
    fn mpps(&self, case: Case, flows: u64, subject: Subject) -> Option<f64> {
        Some(self.rows.get(&(case, flows, subject))?.mpps.value)
    }

    /// weft's rate by a peer's.
    fn ratio(&self, case: Case, flows: u64, peer: Subject) -> Option<f64> {
        Some(self.mpps(case, flows, Subject::Weft)? / self.mpps(case, flows, peer)?)
    }

    fn cases(&self) -> BTreeSet<(Case, u64)> {
        self.rows.keys().map(|&(case, flows, _)| (case, flows)).collect()
    }

    fn subjects(&self) -> Vec<Subject> {
        Subject::among(self.rows.keys().map(|(.., subject)| *subject))
    }

    fn goal(&self, case: Case, flows: u64) -> Option<Goal> {
        if self.frame != JUDGED || flows > PEERS_FLOWS || self.mpps(case, flows, Subject::Weft).is_none() {
            return None;
        }
        let by = |peer| self.ratio(case, flows, peer);
        Some(rate_goal(case, by(Subject::OvsDpdk), by(Subject::TestpmdIo)))
    }

    /// A million flows against a thousand, both as shares of what testpmd io does with the same capture.
    fn many_flows(&self, case: Case) -> Option<Goal> {
        if self.frame != JUDGED || self.mpps(case, MANY, Subject::Weft).is_none() {
            return None;
        }
        let share = |flows| self.ratio(case, flows, Subject::TestpmdIo);
        Some(many_goal(share(MANY).zip(share(SOME)).map(|(many, some)| many / some)))
    }
}

fn rate_goal(case: Case, by_ovs: Option<f64>, by_io: Option<f64>) -> Goal {
    let (ovs, io) = (Unit::Times(Subject::OvsDpdk.name()), Unit::Times(Subject::TestpmdIo.name()));
    let [at_least, aim] =
        Bound::of(wanted("core", case.name()), Bound::at_least, [(ovs, by_ovs), (io, by_io)]);
    Goal { line: case.line().into(), at_least, aim }
}

fn many_goal(kept: Option<f64>) -> Goal {
    let found = (Unit::Times("the ratio at 1,000 flows"), kept);
    let [at_least, aim] = Bound::of(wanted("core", "million-flows"), Bound::at_least, [found; 2]);
    let line = "core, 1,000,000 flows: weft by testpmd-io on the same capture";
    Goal { line: line.into(), at_least, aim }
}

/// What is asked for, whether it was measured or not.
pub(crate) fn asked() -> Vec<Goal> {
    let cases = [Case::Bridge, Case::Encap, Case::Decap];
    cases.map(|case| rate_goal(case, None, None)).into_iter().chain([many_goal(None)]).collect()
}

pub(crate) fn section(rows: &[Row]) -> Section {
    let mut section = Section::new("core: one worker, from an endless source to a sink");
    section.say(
        "Median Mpps of the rounds, and in parentheses their spread: the largest less the smallest, as a share of the median. \
         A ratio is weft's rate by the other's. What must be reached is asked of the shortest frames.",
    );
    let frames: BTreeSet<Frame> = rows.iter().map(|row| row.place.frame).collect();
    for frame in frames {
        let of_frame = rows.iter().filter(|row| row.place.frame == frame);
        let rows = of_frame.map(|row| ((row.place.case, row.place.flows, row.place.subject), row)).collect();
        let sheet = Sheet { frame, rows };
        section.head(&capital(&frame.frames()));
        section.say(&rates(&sheet));
        if let Some(kept) = kept(&sheet) {
            section.say("weft by testpmd-io at 1,000,000 flows, as a share of the same at 1,000:");
            section.say(&kept);
        }
        section.say("Cycles of the TSC a packet, from source to sink:");
        section.say(&cycles(&sheet));
        section.goals.extend(sheet.cases().iter().filter_map(|&(case, flows)| sheet.goal(case, flows)));
        let cases: BTreeSet<Case> = sheet.cases().into_iter().map(|(case, _)| case).collect();
        section.goals.extend(cases.into_iter().filter_map(|case| sheet.many_flows(case)));
        section.plot(plot(&sheet));
    }
    section
}

/// Of each case the goal for a million flows, as a table.
fn kept(sheet: &Sheet<'_>) -> Option<String> {
    let mut table = Table::new(["case", "kept of the ratio", "at least", "reached", "aim", "reached"]);
    let cases: BTreeSet<Case> = sheet.cases().into_iter().map(|(case, _)| case).collect();
    let mut some = false;
    for case in cases {
        if let Some(goal) = sheet.many_flows(case) {
            let found = goal.at_least.and_then(|bound| bound.found);
            let mut cells = vec![case.name().to_string(), found.map_or("–".into(), ratio)];
            cells.extend(goal.verdicts(ratio).into_iter().flatten());
            table.line(cells);
            some = true;
        }
    }
    some.then(|| table.to_markdown())
}

fn rates(sheet: &Sheet<'_>) -> String {
    let subjects = sheet.subjects();
    let mut head = vec!["case".to_string(), "flows".into()];
    head.extend(subjects.iter().map(|subject| subject.name().into()));
    head.extend(Goal::BY_PEERS.map(String::from));
    let mut table = Table::new(head);
    for (case, flows) in sheet.cases() {
        let mut cells = vec![case.name().to_string(), count(flows)];
        let cell = |subject: &Subject| sheet.rows.get(&(case, flows, *subject)).map(|row| median(&row.mpps));
        cells.extend(subjects.iter().map(|subject| cell(subject).unwrap_or_else(|| "–".into())));
        let by = [Subject::OvsDpdk, Subject::TestpmdIo].map(|peer| sheet.ratio(case, flows, peer));
        cells.extend(Goal::by_peers(sheet.goal(case, flows).as_ref(), by));
        table.line(cells);
    }
    table.to_markdown()
}

fn cycles(sheet: &Sheet<'_>) -> String {
    let subjects = sheet.subjects();
    let head = ["case", "flows"].into_iter().chain(subjects.iter().map(|subject| subject.name()));
    let mut table = Table::new(head);
    for (case, flows) in sheet.cases() {
        let cell = |subject: &Subject| {
            let row = sheet.rows.get(&(case, flows, *subject));
            row.map_or("–".into(), |row| number(row.cycles.value))
        };
        let mut cells = vec![case.name().to_string(), count(flows)];
        cells.extend(subjects.iter().map(cell));
        table.line(cells);
    }
    table.to_markdown()
}

fn plot(sheet: &Sheet<'_>) -> Plot {
    let frame = sheet.frame;
    let subjects = sheet.subjects();
    let mut panels: Vec<Panel> = Vec::new();
    for (case, flows) in sheet.cases() {
        let bars = subjects
            .iter()
            .map(|&subject| sheet.rows.get(&(case, flows, subject)).map(|row| Bar::of(&row.cycles)));
        Panel::add(&mut panels, case.name(), Group { label: short(flows), bars: bars.collect() });
    }
    Plot::bars(
        format!("core-{}", frame.word()),
        format!("Cycles a packet by number of flows, {}", frame.frames()),
        Bars {
            y: "TSC cycles a packet".into(),
            log: false,
            series: subjects.iter().map(|subject| subject.name().into()).collect(),
            panels,
        },
    )
}
