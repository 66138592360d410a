//! The `pods` rig: ordinary pods of weft against those of kernel flannel. Its rows are judged where they are made, since what
//! must be reached differs from case to case.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::field::{Amount, Median, Rounds, Text};
use crate::markdown::{Table, escaped, median, number, ratio};
use crate::plot::{Bar, Bars, Group, Panel, Plot};
use crate::rows::Record;
use crate::section::Section;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Subject {
    Weft,
    KernelFlannel,
}

#[derive(Debug, Deserialize)]
struct Raw {
    case: Text,
    subject: Subject,
    receiver: Option<Text>,
    rounds: Rounds,
    at_least: Option<Amount>,
    aim: Option<Amount>,
    met_at_least: Option<bool>,
    met_aim: Option<bool>,
    /// Among others the figures that `rounds` names, and how they compare with the kernel's.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// A subject in a case.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct Row {
    case: Text,
    subject: Subject,
    receiver: Option<Text>,
    figures: Vec<Figure>,
    /// What must be reached, and is aimed at; and whether they are.
    wanted: Option<[(f64, bool); 2]>,
}

#[derive(Debug)]
struct Figure {
    name: String,
    median: Median,
    /// weft by kernel.
    ratio: Option<f64>,
    /// weft less kernel.
    more: Option<f64>,
}

impl TryFrom<Raw> for Row {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let Rounds::Named(rounds) = &raw.rounds else { return Err("rounds have no names".into()) };
        let value = |name: &str| raw.rest.get(name).and_then(Value::as_f64);
        let alone = rounds.len() == 1;
        let mut figures = Vec::new();
        for name in rounds.keys() {
            if unit(name).is_none() {
                return Err(format!("rounds of {name:?}, which is no figure of this rig"));
            }
            let found = value(name).ok_or_else(|| format!("missing number `{name}`, which has rounds"))?;
            figures.push(Figure {
                name: name.clone(),
                median: raw.rounds.median(name, found, false)?,
                ratio: value(&format!("ratio_{name}")).or_else(|| value("ratio").filter(|_| alone)),
                more: value(&format!("more_{name}")),
            });
        }
        if figures.is_empty() {
            return Err("a row of no figures".into());
        }
        let wanted = match (raw.at_least, raw.aim, raw.met_at_least, raw.met_aim) {
            (Some(at_least), Some(aim), Some(met), Some(met_aim)) => {
                Some([(at_least.0, met), (aim.0, met_aim)])
            }
            _ if raw.subject == Subject::Weft => {
                return Err("at_least, aim, met_at_least or met_aim is missing".into());
            }
            _ => None,
        };
        Ok(Self { case: raw.case, subject: raw.subject, receiver: raw.receiver, figures, wanted })
    }
}

impl Record for Row {
    fn key(&self) -> String {
        format!("{:?} {:?} {:?}", self.case, self.receiver, self.subject)
    }
}

impl Row {
    fn name(&self) -> String {
        let receiver = self.receiver.as_ref().map(|receiver| format!(", {receiver} receiver"));
        escaped(&format!("{}{}", self.case, receiver.unwrap_or_default()))
    }
}

fn unit(figure: &str) -> Option<&'static str> {
    match figure {
        "gbps" => Some("Gbit/s"),
        "kpps" => Some("kpps"),
        "p50_us" => Some("p50 µs"),
        "p99_us" => Some("p99 µs"),
        "cpu_pct" => Some("% of a core"),
        _ => None,
    }
}

/// Of times and of CPU there should be little.
fn less(figure: &str) -> bool {
    figure.ends_with("_us") || figure == "cpu_pct"
}

pub(crate) fn section(rows: &[Row]) -> Section {
    let mut section = Section::new("pods: ordinary pods against kernel flannel's");
    section.say(
        "Medians, and in parentheses the spread of the rounds. A ratio is weft's figure by the kernel's; of two figures both must \
         reach what is asked for.",
    );
    let head = ["case", "figure", "weft", "kernel flannel", "ratio", "at least", "reached", "aim", "reached"];
    let mut table = Table::new(head);
    let mut groups = Vec::new();
    for row in rows.iter().filter(|row| row.subject == Subject::Weft) {
        let same = |other: &&Row| {
            other.subject == Subject::KernelFlannel
                && other.case == row.case
                && other.receiver == row.receiver
        };
        let kernel = rows.iter().find(same);
        let joined =
            |cell: &dyn Fn(&Figure) -> String| row.figures.iter().map(cell).collect::<Vec<_>>().join(" / ");
        let theirs = |figure: &Figure| kernel?.figures.iter().find(|other| other.name == figure.name);
        let compared = |figure: &Figure| match (figure.ratio, figure.more) {
            (_, Some(more)) => format!("{}{}", if more > 0.0 { "+" } else { "" }, number(more)),
            (Some(by), None) => ratio(by),
            (None, None) => "–".into(),
        };
        let mut cells = vec![
            row.name(),
            joined(&|figure| unit(&figure.name).unwrap_or_default().into()),
            joined(&|figure| median(&figure.median)),
            joined(&|figure| theirs(figure).map_or("–".into(), |theirs| median(&theirs.median))),
            joined(&compared),
        ];
        let sign = if row.figures.iter().all(|figure| less(&figure.name)) { "≤" } else { "≥" };
        for (wanted, met) in row.wanted.into_iter().flatten() {
            cells.extend([format!("{sign} {}", number(wanted)), if met { "yes" } else { "**no**" }.into()]);
        }
        table.line(cells);
        for figure in &row.figures {
            if let Some(by) = figure.ratio {
                let label = match figure.name.strip_suffix("_us") {
                    Some(percentile) => format!("{} {percentile}", row.case),
                    None => row.case.to_string(),
                };
                groups.push(Group { label, bars: vec![Some(Bar::exact(by))] });
            }
        }
    }
    let judged: Vec<_> = rows.iter().filter_map(|row| row.wanted).collect();
    let reached = |bound: usize| judged.iter().filter(|wanted| wanted[bound].1).count();
    section.say(&format!(
        "Of {} cases {} reach what they must at least, and {} what is aimed at.",
        judged.len(),
        reached(0),
        reached(1)
    ));
    section.say(&table.to_markdown());
    if !groups.is_empty() {
        section.plot(Plot::bars(
            "pods".into(),
            "weft's figures by kernel flannel's: rates, where more is better, and times, where less is"
                .into(),
            Bars {
                y: "weft by kernel flannel".into(),
                log: false,
                series: vec!["weft".into()],
                panels: vec![Panel { title: String::new(), groups }],
            },
        ));
    }
    section
}
