//! The files: a line each row, as the rigs of `scripts/bench` write them. Lines without `case` are heads: they say on which
//! machine, with which versions and when the rig's rows were measured.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::field::{Amount, Median, Text};
use crate::markdown::count;
use crate::{control, core, latency, pods, reconf, scale, vhost};

/// More than any run writes, and little enough to be held in memory.
const LARGEST_FILE: u64 = 16 << 20;

/// The rigs, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Rig {
    Core,
    Vhost,
    Scale,
    Latency,
    Reconf,
    Pods,
    Control,
}

impl Rig {
    pub(crate) const ALL: [Self; 7] =
        [Self::Core, Self::Vhost, Self::Scale, Self::Latency, Self::Reconf, Self::Pods, Self::Control];
}

impl fmt::Display for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Core => "core",
            Self::Vhost => "vhost",
            Self::Scale => "scale",
            Self::Latency => "latency",
            Self::Reconf => "reconf",
            Self::Pods => "pods",
            Self::Control => "control",
        })
    }
}

/// A row of some rig.
pub(crate) trait Record: DeserializeOwned {
    /// What it is the row of: two rows of one rig may not be of the same.
    fn key(&self) -> String;

    /// Its figures.
    fn medians(&mut self) -> Vec<&mut Median>;
}

/// What a rig says of the circumstances.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Head {
    #[serde(default)]
    pub(crate) machine: BTreeMap<Text, Option<Fact>>,
    #[serde(default)]
    pub(crate) versions: BTreeMap<Text, Option<Fact>>,
    pub(crate) date: Option<Text>,
    #[serde(default)]
    pub(crate) options: Options,
    /// The options that were not those by default.
    pub(crate) changed: Option<BTreeMap<Text, Fact>>,
}

/// Of the rig's options those that a reader must know.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Options {
    /// Fewer rounds, and shorter ones.
    #[serde(default)]
    pub(crate) quick: bool,
}

/// A text, a number, or several of them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a fact is a text, a number, true or false, or a list of such")]
pub(crate) enum Fact {
    Flag(bool),
    Number(f64),
    Text(Text),
    List(Vec<Fact>),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(true) => f.write_str("yes"),
            Self::Flag(false) => f.write_str("no"),
            Self::Number(number) if number.fract() == 0.0 && (0.0..1e15).contains(number) => {
                f.write_str(&count(*number as u64))
            }
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{text}"),
            Self::List(facts) => {
                let facts: Vec<String> = facts.iter().map(Fact::to_string).collect();
                f.write_str(&facts.join(", "))
            }
        }
    }
}

/// Everything that was read.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) heads: BTreeMap<Rig, Head>,
    pub(crate) core: Vec<core::Row>,
    pub(crate) vhost: Vec<vhost::Row>,
    pub(crate) scale: Vec<scale::Row>,
    pub(crate) latency: Vec<latency::Row>,
    pub(crate) reconf: Vec<reconf::Row>,
    pub(crate) pods: Vec<pods::Row>,
    pub(crate) control: Vec<control::Row>,
    /// Whether rows were measured with huge pages, and whether without, where they say.
    pub(crate) huge_pages: BTreeMap<Rig, BTreeSet<bool>>,
    /// Rows that were measured on a busy machine.
    pub(crate) busy: BTreeMap<Rig, usize>,
    /// Where each row stood.
    seen: HashMap<(Rig, String), String>,
}

/// What has to be known of a line before it can be read.
#[derive(Deserialize)]
struct Kind {
    rig: Rig,
    case: Option<IgnoredAny>,
}

/// What every row may say of the machine.
#[derive(Deserialize)]
struct State {
    huge_pages: Option<bool>,
    background_pct: Option<Amount>,
}

/// How busy a machine may be with other things, in % of a core.
pub(crate) const BUSY_PCT: f64 = 10.0;

impl Rows {
    /// Adds the rows of a file. An error says in which line what is wrong.
    pub(crate) fn read(&mut self, path: &Path) -> Result<()> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("{name}"))?;
        let mut lines = BufReader::new(file.take(LARGEST_FILE + 1));
        let (mut line, mut number, mut size) = (Vec::new(), 0, 0);
        loop {
            line.clear();
            number += 1;
            size += lines.read_until(b'\n', &mut line).with_context(|| format!("{name}:{number}"))? as u64;
            ensure!(size <= LARGEST_FILE, "{name}: more than {} MiB, which are no rows", LARGEST_FILE >> 20);
            if line.is_empty() {
                return Ok(());
            }
            let place = format!("{name}:{number}");
            let text = std::str::from_utf8(&line).map_err(|_| anyhow!("{place}: this is not UTF-8"))?;
            if !text.trim().is_empty() {
                self.line(text, &place).map_err(|error| anyhow!("{place}: {error}"))?;
            }
        }
    }

    fn line(&mut self, text: &str, place: &str) -> Result<()> {
        // Structures are also read from lists, which rows never are.
        ensure!(text.trim_start().starts_with('{'), "this is no JSON object");
        let kind: Kind = parsed(text)?;
        if kind.case.is_none() {
            self.once(kind.rig, String::new(), place)?;
            self.heads.insert(kind.rig, parsed(text)?);
            return Ok(());
        }
        match kind.rig {
            Rig::Core => self.row(kind.rig, text, place, |rows| &mut rows.core),
            Rig::Vhost => self.row(kind.rig, text, place, |rows| &mut rows.vhost),
            Rig::Scale => self.row(kind.rig, text, place, |rows| &mut rows.scale),
            Rig::Latency => self.row(kind.rig, text, place, |rows| &mut rows.latency),
            Rig::Reconf => self.row(kind.rig, text, place, |rows| &mut rows.reconf),
            Rig::Pods => self.row(kind.rig, text, place, |rows| &mut rows.pods),
            Rig::Control => self.row(kind.rig, text, place, |rows| &mut rows.control),
        }
    }

    fn row<R: Record>(
        &mut self,
        rig: Rig,
        text: &str,
        place: &str,
        of_rig: impl FnOnce(&mut Self) -> &mut Vec<R>,
    ) -> Result<()> {
        let mut row: R = parsed(text)?;
        let state: State = parsed(text)?;
        self.once(rig, row.key(), place)?;
        if let Some(huge) = state.huge_pages {
            self.huge_pages.entry(rig).or_default().insert(huge);
        }
        if state.background_pct.is_some_and(|busy| busy.0 > BUSY_PCT) {
            *self.busy.entry(rig).or_default() += 1;
            row.medians().into_iter().for_each(|median| median.busy = true);
        }
        of_rig(self).push(row);
        Ok(())
    }

    /// Rows of two runs are not mixed.
    fn once(&mut self, rig: Rig, key: String, place: &str) -> Result<()> {
        if let Some(other) = self.seen.insert((rig, key), place.into()) {
            bail!("{other} has this already: the rows of one run are wanted");
        }
        Ok(())
    }
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let said = error.into_inner();
        // It says at which place of the line, which it takes for the first of a file.
        let (what, column) = (said.to_string(), said.column());
        let what = what.split(" at line ").next().unwrap_or_default();
        match path.as_str() {
            "." | "?" => anyhow!("{what} (column {column})"),
            _ => anyhow!("{path}: {what} (column {column})"),
        }
    })?;
    json.end().map_err(|_| anyhow!("there is more in the line than one row"))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = include_str!("../../../tests/report/rows.json");

    /// A line is taken or refused, whatever stands in it.
    fn read(line: &str) -> bool {
        Rows::default().line(line, "rows.json:1").is_ok()
    }

    #[test]
    fn half_a_row_is_none() {
        for line in ROWS.lines() {
            assert!(read(line), "{line}");
            for end in (0..line.len()).filter(|end| line.is_char_boundary(*end)) {
                assert!(!read(&line[..end]), "{}", &line[..end]);
            }
        }
    }

    /// Numbers, words and brackets in each other's places: no row may end anything but itself.
    #[test]
    fn no_row_is_a_panic() {
        let strange = [
            "0",
            "-1",
            "1e308",
            "1e-308",
            "null",
            "true",
            "[]",
            "{}",
            "\"\"",
            "\"\\u0000\"",
            "[1,[2,[3]]]",
            "18446744073709551616",
        ];
        let mut refused = 0;
        for line in ROWS.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            for name in row.as_object().unwrap().keys() {
                for value in strange {
                    let mut other = row.clone();
                    other[name] = serde_json::from_str(value).unwrap();
                    refused += usize::from(!read(&other.to_string()));
                }
            }
        }
        assert!(refused > 1000, "{refused}");
    }
}
