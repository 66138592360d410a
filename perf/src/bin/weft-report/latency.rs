//! The `latency` rig: from port to port at shares of the rate that loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::field::{Amount, Frame, Median, Positive, Rounds, Text};
use crate::markdown::{Table, count, escaped, median, number};
use crate::plot::{Bar, Bars, Group, Panel, Plot};
use crate::rows::Record;
use crate::section::Section;
use crate::subject::Subject;

/// Of the times that packets took: the field, and what it is called.
const PERCENTILES: [(&str, &str); 4] =
    [("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9"), ("max_us", "max")];

#[derive(Debug, Deserialize)]
struct Raw {
    case: Text,
    subject: Subject,
    frame: Frame,
    flows: u64,
    load_pct: Positive,
    mpps: Positive,
    zero_loss_mpps: Positive,
    own_pause_us: Amount,
    p50_us: Positive,
    p99_us: Positive,
    p999_us: Positive,
    max_us: Positive,
    lost: Amount,
    rounds: Rounds,
}

/// A subject at a load.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct Row {
    case: Text,
    subject: Subject,
    frame: Frame,
    flows: u64,
    /// Of the rate that loses nothing, in per cent.
    load: f64,
    mpps: f64,
    /// The highest rate that lost nothing.
    whole: f64,
    /// The generator's own longest pause, µs.
    pause: f64,
    times: [Median; 4],
    lost: u64,
}

impl TryFrom<Raw> for Row {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        if raw.load_pct.0 > 100.0 {
            return Err(format!("load_pct is {}", raw.load_pct.0));
        }
        let values = [raw.p50_us.0, raw.p99_us.0, raw.p999_us.0, raw.max_us.0];
        if values.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(format!("percentiles that fall: {values:?} µs"));
        }
        let mut times = [Median { value: 0.0, low: 0.0, high: 0.0, rounds: 0 }; 4];
        for ((time, (field, _)), value) in times.iter_mut().zip(PERCENTILES).zip(values) {
            *time = raw.rounds.median(field, value, false)?;
        }
        Ok(Self {
            case: raw.case,
            subject: raw.subject,
            frame: raw.frame,
            flows: raw.flows,
            load: raw.load_pct.0,
            mpps: raw.mpps.0,
            whole: raw.zero_loss_mpps.0,
            pause: raw.own_pause_us.0,
            times,
            lost: raw.lost.0 as u64,
        })
    }
}

impl Record for Row {
    fn key(&self) -> String {
        format!("{:?} {:?} {:?} {} {}", self.case, self.subject, self.frame, self.flows, self.load)
    }
}

pub(crate) fn section(rows: &[Row]) -> Section {
    let mut section = Section::new("latency: port to port");
    section.say(
        "Microseconds from the generator's stamp to its receiver, at shares of each subject's own rate that loses nothing. Medians \
         of the rounds, and in parentheses their spread; what was lost is that of all rounds together. Whatever the generator did not see \
         while it paused itself, because the machine had something else to do, counts as the switch's: its longest pause stands last.",
    );
    let mut head = vec!["case", "frames", "flows", "load", "subject", "Mpps", "Mpps without loss"];
    head.extend(PERCENTILES.map(|(_, name)| name));
    head.extend(["lost", "own pause"]);
    let mut table = Table::new(head);
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| {
        let key = |row: &Row| (row.case.clone(), row.frame, row.flows);
        key(a).cmp(&key(b)).then(a.load.total_cmp(&b.load)).then(a.subject.cmp(&b.subject))
    });
    for row in &sorted {
        let mut cells = vec![
            escaped(&row.case.to_string()),
            row.frame.to_string(),
            count(row.flows),
            format!("{} %", number(row.load)),
            row.subject.name().into(),
            number(row.mpps),
            number(row.whole),
        ];
        cells.extend(row.times.iter().map(median));
        cells.extend([count(row.lost), number(row.pause)]);
        table.line(cells);
    }
    section.say(&table.to_markdown());

    let subjects: Vec<Subject> =
        Subject::ALL.into_iter().filter(|subject| rows.iter().any(|row| row.subject == *subject)).collect();
    let cases: BTreeSet<_> = rows.iter().map(|row| (row.case.clone(), row.frame, row.flows)).collect();
    for (case, frame, flows) in cases {
        let mut panels: Vec<Panel> = Vec::new();
        let mut by_load: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
        for &row in &sorted {
            if (&row.case, row.frame, row.flows) == (&case, frame, flows) {
                by_load.entry(row.load.to_bits()).or_default().push(row);
            }
        }
        for (load, rows) in by_load {
            let groups = PERCENTILES.iter().enumerate().map(|(number, (_, label))| {
                let bar = |subject: &Subject| {
                    let row = rows.iter().find(|row| row.subject == *subject)?;
                    Some(Bar::of(&row.times[number]))
                };
                Group { label: (*label).into(), bars: subjects.iter().map(bar).collect() }
            });
            let title = format!("{} % of the rate without loss", number(f64::from_bits(load)));
            panels.push(Panel { title, groups: groups.collect() });
        }
        section.plot(Plot::bars(
            format!("latency-{}-{flows}", frame.word()),
            format!("Latency, {case}, {}, {} flows", frame.frames(), count(flows)),
            Bars {
                y: "µs".into(),
                log: true,
                series: subjects.iter().map(|subject| subject.name().into()).collect(),
                panels,
            },
        ));
    }
    section
}
