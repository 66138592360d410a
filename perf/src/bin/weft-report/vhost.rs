//! The `vhost` rig: two vhost-user ports, with a guest that sends on both.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::field::{Frame, Median, Positive, Rounds};
use crate::goal::{Bound, Goal, Unit, wanted};
use crate::markdown::{Table, count, median};
use crate::plot::{Bar, Bars, Group, Panel, Plot, short};
use crate::rows::Record;
use crate::section::Section;
use crate::subject::Subject;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    Bridge,
}

#[derive(Debug, Deserialize)]
struct Raw {
    case: Case,
    flows: u64,
    frame: Frame,
    subject: Subject,
    mpps: Positive,
    rounds: Rounds,
}

/// A subject with so many flows.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct Row {
    case: Case,
    frame: Frame,
    flows: u64,
    subject: Subject,
    mpps: Median,
}

impl TryFrom<Raw> for Row {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        if raw.flows == 0 {
            return Err("flows is 0".into());
        }
        let mpps = raw.rounds.median("mpps", raw.mpps.0, true)?;
        Ok(Self { case: raw.case, frame: raw.frame, flows: raw.flows, subject: raw.subject, mpps })
    }
}

impl Record for Row {
    fn key(&self) -> String {
        format!("{:?} {:?} {} {:?}", self.case, self.frame, self.flows, self.subject)
    }

    fn medians(&mut self) -> Vec<&mut Median> {
        vec![&mut self.mpps]
    }
}

fn goal(by_ovs: Option<f64>, by_io: Option<f64>) -> Goal {
    let by = |peer: Subject, found| (Unit::Times(peer.name()), found);
    let found = [by(Subject::OvsDpdk, by_ovs), by(Subject::TestpmdIo, by_io)];
    let [at_least, aim] = Bound::of(wanted("vhost", "bridge"), Bound::at_least, found);
    Goal { line: "vhost, bridge".into(), at_least, aim }
}

/// What is asked for, whether it was measured or not.
pub(crate) fn asked() -> Vec<Goal> {
    vec![goal(None, None)]
}

pub(crate) fn section(rows: &[Row]) -> Section {
    let mut section = Section::new("vhost: two vhost-user ports, guest and generator on the other core");
    section.say("Median Mpps of both directions together, and in parentheses the spread of the rounds.");
    let found: BTreeMap<_, _> = rows.iter().map(|row| ((row.frame, row.flows, row.subject), row)).collect();
    let points: BTreeSet<_> = rows.iter().map(|row| (row.frame, row.flows)).collect();
    let subjects = Subject::among(rows.iter().map(|row| row.subject));
    let mut head = vec!["frame".to_string(), "flows".into()];
    head.extend(subjects.iter().map(|subject| subject.name().into()));
    head.extend(Goal::BY_PEERS.map(String::from));
    let mut table = Table::new(head);
    let mut panels: Vec<Panel> = Vec::new();
    for (frame, flows) in points {
        let row = |subject| found.get(&(frame, flows, subject));
        let mut cells = vec![frame.to_string(), count(flows)];
        cells
            .extend(subjects.iter().map(|&subject| row(subject).map_or("–".into(), |row| median(&row.mpps))));
        let weft = row(Subject::Weft);
        let by = |peer| Some(weft?.mpps.value / row(peer)?.mpps.value);
        let found = [by(Subject::OvsDpdk), by(Subject::TestpmdIo)];
        let goal = goal(found[0], found[1]);
        cells.extend(Goal::by_peers(Some(&goal), found));
        table.line(cells);
        if weft.is_some() {
            section.goals.push(goal);
        }
        let bars = subjects.iter().map(|&subject| row(subject).map(|row| Bar::of(&row.mpps))).collect();
        Panel::add(&mut panels, &frame.frames(), Group { label: short(flows), bars });
    }
    section.say(&table.to_markdown());
    section.plot(Plot::bars(
        "vhost".into(),
        "Rate between two vhost-user ports by number of flows".into(),
        Bars {
            y: "Mpps".into(),
            log: false,
            series: subjects.iter().map(|subject| subject.name().into()).collect(),
            panels,
        },
    ));
    section
}
