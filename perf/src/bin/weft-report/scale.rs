//! The `scale` rig: what a packet costs as tables, flows and workers become more.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::field::{Median, Positive, Rounds};
use crate::goal::{Bound, Goal, Unit, wanted};
use crate::markdown::{Table, count, median, number, percent, ratio};
use crate::plot::{Line, Lines, Plot};
use crate::rows::Record;
use crate::section::Section;

/// What there is more and more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    Flows,
    Fdb,
    Vteps,
    Routes,
    Pods,
    /// MAC addresses that were learned.
    Stations,
    Workers,
    /// As `Workers`, between DPDK devices.
    WorkersDpdk,
    /// A thousand flows, and a port scan: every packet a new one.
    Flood,
    /// The same, every packet to an address that nobody has.
    Scan,
    /// The same, every packet from another MAC address.
    Macs,
}

impl Case {
    const ALL: [Self; 11] = [
        Self::Flows,
        Self::Fdb,
        Self::Vteps,
        Self::Routes,
        Self::Pods,
        Self::Stations,
        Self::Workers,
        Self::WorkersDpdk,
        Self::Flood,
        Self::Scan,
        Self::Macs,
    ];

    /// As the rows have it.
    fn word(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Fdb => "fdb",
            Self::Vteps => "vteps",
            Self::Routes => "routes",
            Self::Pods => "pods",
            Self::Stations => "stations",
            Self::Workers => "workers",
            Self::WorkersDpdk => "workers-dpdk",
            Self::Flood => "flood",
            Self::Scan => "scan",
            Self::Macs => "macs",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Fdb => "MAC addresses",
            Self::Vteps => "VTEPs",
            Self::Stations => "learned MAC addresses",
            Self::WorkersDpdk => "workers, DPDK devices",
            Self::Flood => "port scan",
            Self::Scan => "scan of addresses that nobody has",
            Self::Macs => "flood of MAC addresses",
            Self::Flows | Self::Routes | Self::Pods | Self::Workers => self.word(),
        }
    }

    /// Every packet has something new.
    fn floods(self) -> bool {
        matches!(self, Self::Flood | Self::Scan | Self::Macs)
    }

    /// The tables whose size may cost nothing.
    fn flat(self) -> bool {
        matches!(self, Self::Fdb | Self::Vteps | Self::Routes)
    }

    /// The tables: what is flat, ports, and what was learned.
    fn table(self) -> bool {
        self.flat() || matches!(self, Self::Pods | Self::Stations)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Bridge,
    Route,
    Encap,
    Decap,
    Bridge6,
    Route6,
    Encap6,
    Decap6,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Route => "route",
            Self::Encap => "encap",
            Self::Decap => "decap",
            Self::Bridge6 => "bridge, IPv6",
            Self::Route6 => "route, IPv6",
            Self::Encap6 => "encap, IPv6",
            Self::Decap6 => "decap, IPv6",
        }
    }
}

/// The flows that a port scan's rate is held against.
const FEW_FLOWS: u64 = 1_000;

/// How many; or new ones with every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Size {
    Count(u64),
    New,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(number) => f.write_str(&count(*number)),
            Self::New => f.write_str("every packet a new one"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Count(NonZeroU64),
            Word(String),
        }
        match Raw::deserialize(deserializer) {
            Ok(Raw::Count(number)) => Ok(Self::Count(number.get())),
            Ok(Raw::Word(word)) if word == "new" => Ok(Self::New),
            _ => Err(D::Error::custom("a size is neither a number above 0 nor \"new\"")),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Raw {
    case: Case,
    size: Size,
    way: Way,
    mpps: Positive,
    cycles_per_packet: Positive,
    /// The same frames from source to sink, without the switch.
    floor: Option<Positive>,
    rounds: Rounds,
}

/// One point.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct Row {
    line: LineOf,
    size: Size,
    mpps: f64,
    cycles: Median,
    floor: Option<f64>,
}

/// The line that a point belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LineOf {
    case: Case,
    way: Way,
}

impl TryFrom<Raw> for Row {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        if raw.size == Size::New && !raw.case.floods() {
            return Err(format!("size is \"new\", but the case is {}", raw.case.name()));
        }
        Ok(Self {
            line: LineOf { case: raw.case, way: raw.way },
            size: raw.size,
            mpps: raw.mpps.0,
            cycles: raw.rounds.median("cycles_per_packet", raw.cycles_per_packet.0, true)?,
            floor: raw.floor.map(|floor| floor.0),
        })
    }
}

impl Record for Row {
    fn key(&self) -> String {
        format!("{:?} {:?}", self.line, self.size)
    }

    fn medians(&mut self) -> Vec<&mut Median> {
        vec![&mut self.cycles]
    }
}

type Points<'a> = BTreeMap<LineOf, BTreeMap<Size, &'a Row>>;

impl Row {
    /// What the switch itself costs, where it costs something.
    fn net(&self) -> Option<f64> {
        self.floor.map(|floor| self.cycles.value - floor).filter(|net| *net > 0.0)
    }
}

/// The dearest size by the cheapest, less 1: of all that a packet costs.
fn slope(line: &BTreeMap<Size, &Row>) -> Option<f64> {
    slope_of(&line.values().map(|row| row.cycles.value).collect::<Vec<_>>())
}

/// The same of what the switch itself costs.
fn net_slope(line: &BTreeMap<Size, &Row>) -> Option<f64> {
    slope_of(&line.values().map(|row| row.net()).collect::<Option<Vec<_>>>()?)
}

fn slope_of(line: &[f64]) -> Option<f64> {
    let costs = || line.iter().copied();
    let (low, high) = (costs().fold(f64::MAX, f64::min), costs().fold(0.0, f64::max));
    (line.len() > 1).then_some(high / low - 1.0)
}

/// The goal of a line, if there is one.
fn goal(of: LineOf, line: &BTreeMap<Size, &Row>) -> Option<Goal> {
    let rate = |size| line.get(&size).map(|row| row.mpps);
    let by = |a, b| rate(a).zip(rate(b)).map(|(a, b)| a / b);
    let (name, bound, found): (_, fn(_, _, _) -> _, _) = match of.case {
        Case::Fdb | Case::Vteps | Case::Routes => {
            let name =
                format!("scale, cost over the number of {}: dearest by cheapest, less 1", of.case.name());
            (name, Bound::at_most, (Unit::Share, slope(line)))
        }
        Case::Workers | Case::WorkersDpdk => {
            let where_ = if of.case == Case::Workers { "in memory" } else { "DPDK devices" };
            let found = by(Size::Count(2), Size::Count(1));
            (format!("scale, two workers, {where_}"), Bound::at_least, (Unit::Times("one worker"), found))
        }
        Case::Flood | Case::Scan | Case::Macs => {
            let found = by(Size::New, Size::Count(FEW_FLOWS));
            let unit = Unit::Times("the rate at 1,000 flows");
            (format!("scale, {}", of.case.name()), Bound::at_least, (unit, found))
        }
        Case::Flows | Case::Pods | Case::Stations => return None,
    };
    let [at_least, aim] = Bound::of(wanted("scale", of.case.word()), bound, [found; 2]);
    Some(Goal { line: name, at_least, aim })
}

/// What is asked for, whether it was measured or not.
pub(crate) fn asked() -> Vec<Goal> {
    let goal = |case| goal(LineOf { case, way: Way::Bridge }, &BTreeMap::new());
    Case::ALL.into_iter().filter_map(goal).collect()
}

pub(crate) fn section(rows: &[Row]) -> Section {
    let mut section = Section::new("scale: cost against size");
    section.say(
        "weft alone, in memory: no device takes part, but for the case that says so. Along a line only what the case names changes. \
         Cycles a packet are medians, with the spread of the rounds in parentheses; *of that* is what the same frames cost from source to \
         sink without the switch.",
    );
    let mut points = Points::new();
    for row in rows {
        points.entry(row.line).or_default().insert(row.size, row);
    }
    let mut table = Table::new([
        "of",
        "way",
        "how many",
        "cycles a packet",
        "of that",
        "without that",
        "Mpps",
        "by the first",
    ]);
    for (of, line) in &points {
        let first = line.values().next().map_or(1.0, |row| row.mpps);
        for (size, row) in line {
            table.line([
                of.case.name().into(),
                of.way.name().into(),
                size.to_string(),
                median(&row.cycles),
                row.floor.map_or("–".into(), number),
                row.net().map_or("–".into(), number),
                number(row.mpps),
                ratio(row.mpps / first),
            ]);
        }
    }
    section.say(&table.to_markdown());

    let mut table = Table::new([
        "of",
        "way",
        "dearest by cheapest",
        "at least",
        "reached",
        "aim",
        "reached",
        "without source and sink",
    ]);
    for (of, line) in points.iter().filter(|(of, _)| of.case.flat()) {
        let mut cells = vec![of.case.name().to_string(), of.way.name().into()];
        cells.push(slope(line).map_or("–".into(), |slope| format!("+{}", percent(slope))));
        if let Some(goal) = goal(*of, line) {
            cells.extend(goal.verdicts(|wanted| format!("+{}", percent(wanted))).into_iter().flatten());
        }
        cells.push(net_slope(line).map_or("–".into(), |slope| format!("+{}", percent(slope))));
        table.line(cells);
    }
    if points.keys().any(|of| of.case.flat()) {
        section.say("Tables whose size may cost nothing. What is judged is all that a packet costs, source and sink included; the last column is of what the \
             switch itself costs, and decides nothing.");
        section.say(&table.to_markdown());
    }
    section.goals.extend(points.iter().filter_map(|(of, line)| goal(*of, line)));

    let line = |(of, line): (&LineOf, &BTreeMap<Size, &Row>)| Line {
        name: format!("{}, {}", of.case.name(), of.way.name()),
        points: line
            .iter()
            .filter_map(|(size, row)| match size {
                Size::Count(number) => Some((*number as f64, row.cycles.value)),
                Size::New => None,
            })
            .collect(),
    };
    type Drawn = fn(Case) -> bool;
    let plots: [(&str, &str, &str, Drawn); 2] = [
        ("scale-flows", "Cycles a packet by number of flows", "flows", |case| case == Case::Flows),
        (
            "scale-tables",
            "Cycles a packet by size of tables, with as many flows at every size",
            "entries",
            Case::table,
        ),
    ];
    for (name, title, x, drawn) in plots {
        let series: Vec<Line> = points.iter().filter(|(of, _)| drawn(of.case)).map(line).collect();
        if !series.is_empty() {
            let lines = Lines { x: x.into(), y: "TSC cycles a packet".into(), series };
            section.plot(Plot::lines(name.into(), title.into(), lines));
        }
    }
    section
}
