//! What must be reached, what is aimed at, and what was found.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::markdown::{Table, number, percent, ratio};

/// The bounds of a case.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    pub(crate) at_least: f64,
    pub(crate) aim: Option<f64>,
}

/// What is asked for, by rig and case: the rigs read the same file.
static GOALS: LazyLock<BTreeMap<String, BTreeMap<String, Wanted>>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../goals.json"))
        .expect("part of the program, as a test has seen it")
});

/// What is asked for in this case, if anything is.
pub(crate) fn wanted(rig: &str, case: &str) -> Option<Wanted> {
    GOALS.get(rig)?.get(case).copied()
}

/// How a figure is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// So many times what this one has.
    Times(&'static str),
    Share,
    Packets,
    /// So many of a unit.
    Of(&'static str),
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Times(whose) => format!("{} × {whose}", ratio(value)),
            Self::Share => percent(value),
            Self::Packets => format!("{value:.0} packets"),
            Self::Of(unit) => format!("{} {unit}", number(value)),
        }
    }
}

/// One bound. Without `found` nothing was measured that it could be held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) unit: Unit,
    pub(crate) wanted: f64,
    /// The figure may be as large as `wanted`, instead of as small.
    pub(crate) less: bool,
    pub(crate) found: Option<f64>,
}

impl Bound {
    /// Both bounds of a case; none where nothing is asked for.
    pub(crate) fn of(
        wanted: Option<Wanted>,
        bound: fn(f64, Unit, Option<f64>) -> Self,
        [at_least, aim]: [(Unit, Option<f64>); 2],
    ) -> [Option<Self>; 2] {
        let of = |wanted, (unit, found)| Some(bound(wanted?, unit, found));
        [of(wanted.map(|wanted| wanted.at_least), at_least), of(wanted.and_then(|wanted| wanted.aim), aim)]
    }

    pub(crate) fn at_least(wanted: f64, unit: Unit, found: Option<f64>) -> Self {
        Self { unit, wanted, less: false, found }
    }

    pub(crate) fn at_most(wanted: f64, unit: Unit, found: Option<f64>) -> Self {
        Self { unit, wanted, less: true, found }
    }

    pub(crate) fn met(&self) -> Option<bool> {
        self.found.map(|found| if self.less { found <= self.wanted } else { found >= self.wanted })
    }

    /// `≥ 1.50 × ovs-dpdk`
    fn wish(&self) -> String {
        format!("{} {}", if self.less { "≤" } else { "≥" }, self.unit.show(self.wanted))
    }

    pub(crate) fn verdict(&self) -> &'static str {
        match self.met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        }
    }

    /// The one that is further from what is wanted.
    fn worse(self, other: Self) -> Self {
        match (self.found, other.found) {
            (None, _) => other,
            (Some(a), Some(b)) if (b < a) != self.less && a != b => other,
            _ => self,
        }
    }
}

/// One thing that is asked for, in one case.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    /// The line of the summary that it belongs to.
    pub(crate) line: String,
    pub(crate) at_least: Option<Bound>,
    pub(crate) aim: Option<Bound>,
}

impl Goal {
    /// Head of the columns of [`Self::by_peers`].
    pub(crate) const BY_PEERS: [&str; 6] =
        ["by ovs-dpdk", "at least", "reached", "by testpmd-io", "aim", "reached"];

    /// Of both bounds what was wanted, and whether it was reached.
    pub(crate) fn verdicts(&self, show: impl Fn(f64) -> String) -> [[String; 2]; 2] {
        [self.at_least, self.aim].map(|bound| match bound {
            Some(bound) => [show(bound.wanted), bound.verdict().into()],
            None => ["–", "–"].map(String::from),
        })
    }

    /// A rate by that of OVS-DPDK and of testpmd io, each with what is asked of it, if this case is one that something is asked of.
    pub(crate) fn by_peers(goal: Option<&Self>, by: [Option<f64>; 2]) -> Vec<String> {
        let nothing = Self { line: String::new(), at_least: None, aim: None };
        let verdicts = goal.unwrap_or(&nothing).verdicts(ratio);
        let cells = |(by, verdict): (Option<f64>, [String; 2])| {
            [by.map_or("–".into(), ratio)].into_iter().chain(verdict)
        };
        by.into_iter().zip(verdicts).flat_map(cells).collect()
    }
}

/// What the cases of a line have found of one bound.
#[derive(Debug, Default)]
struct Worst {
    bound: Option<Bound>,
    /// Cases in which there was nothing to hold it against.
    missing: usize,
}

impl Worst {
    fn add(&mut self, bound: Option<Bound>) {
        self.missing += usize::from(bound.is_some_and(|bound| bound.found.is_none()));
        self.bound = self.bound.zip(bound).map(|(a, b)| a.worse(b)).or(self.bound).or(bound);
    }

    fn cells(&self) -> [String; 3] {
        let Some(bound) = self.bound else { return ["–"; 3].map(String::from) };
        let mut verdict = bound.verdict().to_string();
        if bound.found.is_some() && self.missing > 0 {
            verdict += &format!(", {} not measured", self.missing);
        }
        [bound.wish(), bound.found.map_or("–".into(), |found| bound.unit.show(found)), verdict]
    }
}

/// All that is asked for, a line each: of several cases the worst. `asked` is what there would be with everything measured, in order.
pub(crate) fn summary(asked: &[Goal], goals: &[Goal]) -> String {
    struct Line<'a> {
        name: &'a str,
        cases: usize,
        bounds: [Worst; 2],
    }
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (goal, is_case) in asked.iter().map(|goal| (goal, false)).chain(goals.iter().map(|goal| (goal, true)))
    {
        let known = lines.iter().position(|line| line.name == goal.line);
        let line = known.unwrap_or_else(|| {
            lines.push(Line { name: &goal.line, cases: 0, bounds: Default::default() });
            lines.len() - 1
        });
        for (worst, bound) in lines[line].bounds.iter_mut().zip([goal.at_least, goal.aim]) {
            worst.add(bound);
            if !is_case {
                worst.missing = 0;
            }
        }
        lines[line].cases += usize::from(is_case);
    }
    let mut table =
        Table::new(["what is asked for", "cases", "at least", "worst", "reached", "aim", "worst", "reached"]);
    for line in lines {
        let mut cells = vec![line.name.to_string(), line.cases.to_string()];
        cells.extend(line.bounds.iter().flat_map(Worst::cells));
        table.line(cells);
    }
    table.to_markdown()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(found: Option<f64>, less: bool) -> Goal {
        let bound = if less { Bound::at_most } else { Bound::at_least };
        Goal { line: "a".into(), at_least: Some(bound(0.5, Unit::Share, found)), aim: None }
    }

    #[test]
    fn of_several_cases_the_worst_counts() {
        for (less, values, worst) in [(false, [0.7, 0.4, 0.6], "40 %"), (true, [0.3, 0.6, 0.4], "60 %")] {
            let goals = values.map(|value| goal(Some(value), less));
            let text = summary(&[goal(None, less)], &goals);
            let sign = if less { "≤" } else { "≥" };
            assert!(
                text.ends_with(&format!("| a | 3 | {sign} 50 % | {worst} | **no** | – | – | – |\n")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        assert!(summary(&[goal(None, false)], &[]).contains("| a | 0 | ≥ 50 % | – | not measured |"));
        assert!(summary(&[], &[goal(None, false)]).contains("| a | 1 | ≥ 50 % | – | not measured |"));
        let some = [goal(None, false), goal(Some(0.9), false)];
        assert!(summary(&[], &some).contains("| a | 2 | ≥ 50 % | 90 % | yes, 1 not measured |"));
        assert_eq!(Bound::at_most(0.0, Unit::Packets, Some(0.0)).verdict(), "yes");
    }

    #[test]
    fn all_that_is_asked_for_has_its_bounds_in_the_file() {
        use crate::{control, core, reconf, scale, vhost};
        let asked =
            [core::asked(), vhost::asked(), scale::asked(), reconf::asked(), control::asked()].concat();
        assert!(asked.iter().all(|goal| goal.at_least.is_some()), "{asked:?}");
        let bounds = asked.iter().filter_map(|goal| goal.at_least).map(|bound| bound.wanted).sum::<f64>();
        let in_file = GOALS.values().flat_map(BTreeMap::values).map(|wanted| wanted.at_least).sum::<f64>();
        // Route has bridge's, and decap-valid has decap's.
        let twice =
            ["route", "decap-valid"].iter().filter_map(|case| wanted("core", case)).map(|w| w.at_least);
        assert!(
            (bounds + twice.sum::<f64>() - in_file).abs() < 1e-9,
            "nothing in the file is asked for by nobody"
        );
    }
}
