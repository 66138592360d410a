//! Makes the report of what `scripts/bench` has measured: the rows of the rigs become tables, plots and `perf/RESULTS.md`.
//! No number in them comes from anywhere else.

mod control;
mod core;
mod field;
mod goal;
mod latency;
mod markdown;
mod plot;
mod pods;
mod reconf;
mod rows;
mod scale;
mod section;
mod subject;
mod vhost;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::field::Text;
use crate::markdown::{BUSY, Table, escaped};
use crate::rows::{BUSY_PCT, Fact, Head, Rig, Rows};
use crate::section::{Part, Section};

#[derive(Parser)]
#[command(
    name = "weft-report",
    about = "Makes Markdown and plots of the rows that scripts/bench has measured"
)]
struct Cli {
    /// Files of rows, one a line, of any rigs
    #[arg(required = true)]
    rows: Vec<PathBuf>,
    /// The report
    #[arg(long, default_value = "perf/RESULTS.md")]
    out: PathBuf,
    /// The folder of the plots
    #[arg(long, default_value = "perf/plots")]
    plots: PathBuf,
    /// The command that the report says it was made by
    #[arg(long, default_value = "weft-report")]
    made_by: String,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut rows = Rows::default();
    for path in &cli.rows {
        rows.read(path)?;
    }
    let sections = sections(&rows);
    ensure!(!sections.is_empty(), "there is not one row in {}", listed(&cli.rows));
    plot::font()?;
    fs::create_dir_all(&cli.plots).with_context(|| format!("{}", cli.plots.display()))?;
    for plot in sections.values().flat_map(Section::plots) {
        plot.write(&cli.plots)?;
    }
    let text = report(&cli, &rows, &sections);
    // Whoever reads the report meanwhile has the old one or the new one.
    let new = cli.out.with_extension("md.new");
    fs::write(&new, text).with_context(|| format!("{}", new.display()))?;
    fs::rename(&new, &cli.out).with_context(|| format!("{}", cli.out.display()))?;
    Ok(())
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

/// The rigs that have rows.
fn sections(rows: &Rows) -> BTreeMap<Rig, Section> {
    let mut sections = BTreeMap::new();
    let mut add = |rig, some: bool, section: &dyn Fn() -> Section| {
        if some {
            sections.insert(rig, section());
        }
    };
    add(Rig::Core, !rows.core.is_empty(), &|| core::section(&rows.core));
    add(Rig::Vhost, !rows.vhost.is_empty(), &|| vhost::section(&rows.vhost));
    add(Rig::Scale, !rows.scale.is_empty(), &|| scale::section(&rows.scale));
    add(Rig::Latency, !rows.latency.is_empty(), &|| latency::section(&rows.latency));
    add(Rig::Reconf, !rows.reconf.is_empty(), &|| reconf::section(&rows.reconf));
    add(Rig::Pods, !rows.pods.is_empty(), &|| pods::section(&rows.pods));
    add(Rig::Control, !rows.control.is_empty(), &|| control::section(&rows.control));
    sections
}

fn report(cli: &Cli, rows: &Rows, sections: &BTreeMap<Rig, Section>) -> String {
    let mut out = format!(
        "# Results\n\nMade by `{}` from the rows of the rigs: do not edit. What is measured and how to read it: \
         [docs/benchmarks.md](../docs/benchmarks.md).\n",
        cli.made_by.replace('`', "'")
    );
    let heads: BTreeMap<Rig, &Head> = rows
        .heads
        .iter()
        .filter(|(rig, _)| sections.contains_key(rig))
        .map(|(rig, head)| (*rig, head))
        .collect();
    let named = |wanted: &dyn Fn(Rig) -> bool| {
        let names: Vec<String> =
            Rig::ALL.into_iter().filter(|&rig| wanted(rig)).map(|rig| rig.to_string()).collect();
        names.join(", ")
    };
    let quick = named(&|rig| heads.get(&rig).is_some_and(|head| head.options.quick));
    if !quick.is_empty() {
        out += &format!(
            "\n**A quick run** ({quick}): few rounds and short ones. It shows that all works; its figures decide nothing.\n"
        );
    }
    let missing = named(&|rig| !sections.contains_key(&rig));
    if !missing.is_empty() {
        out += &format!("\nNot measured in this run: {missing}.\n");
    }
    out += &format!("\n## Where\n\n{}", circumstances(rows, &heads));
    if !rows.busy.is_empty() {
        let of = rows.busy.iter().map(|(rig, count)| format!("{rig}: {count}"));
        out += &format!(
            "\n**A busy machine**: before these rows other programs had more than {BUSY_PCT} % of a core; their figures have a{BUSY} \
             and mean little. Rows by rig: {}.\n",
            of.collect::<Vec<_>>().join(", ")
        );
    }
    let goals: Vec<_> = sections.values().flat_map(|section| section.goals.clone()).collect();
    let asked = [core::asked(), vhost::asked(), scale::asked(), reconf::asked(), control::asked()].concat();
    out += &format!(
        "\n## What must be reached\n\nOf several cases the worst counts.\n\n{}",
        goal::summary(&asked, &goals)
    );
    for section in sections.values() {
        out += &format!("\n## {}\n", section.title);
        for part in &section.parts {
            out.push('\n');
            match part {
                Part::Text(text) => out += text,
                Part::Plot(plot) => out += &image(cli, plot),
            }
        }
    }
    out
}

/// A plot in the report: its path is seen from there.
fn image(cli: &Cli, plot: &plot::Plot) -> String {
    let beside = cli.out.parent().unwrap_or(Path::new(""));
    let folder = cli.plots.strip_prefix(beside).unwrap_or(&cli.plots);
    let path = |kind: &str| folder.join(format!("{}.{kind}", plot.name)).display().to_string();
    format!("![{}]({}) ([PNG]({}))\n", escaped(&plot.title), path("svg"), path("png"))
}

/// An option as it may have been given.
fn option(name: &Text, value: &Fact) -> String {
    let name = name.to_string().replace('_', "-");
    match (name.as_str(), value) {
        (_, Fact::Flag(true)) => format!("--{name}"),
        ("cases", _) => value.to_string().replace(", ", " "),
        (_, Fact::Number(number)) => format!("--{name} {number}"),
        _ => format!("--{name} {}", value.to_string().replace(", ", ",")),
    }
}

/// Machine, versions, dates and how it was measured; where the rigs differ, which had what.
fn circumstances(rows: &Rows, heads: &BTreeMap<Rig, &Head>) -> String {
    let mut facts: Vec<(String, Vec<(String, Rig)>)> = Vec::new();
    let mut add =
        |name: String, value: String, rig: Rig| match facts.iter_mut().find(|(other, _)| *other == name) {
            Some((_, values)) => values.push((value, rig)),
            None => facts.push((name, vec![(value, rig)])),
        };
    for (&rig, head) in heads {
        if let Some(date) = &head.date {
            add("measured".into(), date.to_string(), rig);
        }
    }
    for of in [|head: &Head| head.machine.clone(), |head: &Head| head.versions.clone()] {
        for (&rig, head) in heads {
            for (name, fact) in of(head) {
                add(name.to_string(), fact.map_or("not known".into(), |fact| fact.to_string()), rig);
            }
        }
    }
    for (&rig, head) in heads {
        if let Some(changed) = &head.changed {
            let said: Vec<String> = changed.iter().map(|(name, value)| option(name, value)).collect();
            let value = if said.is_empty() { "all by default".into() } else { said.join(" ") };
            add("options".into(), value, rig);
        }
    }
    for (&rig, huge) in &rows.huge_pages {
        let value = match (huge.contains(&true), huge.contains(&false)) {
            (true, true) => "in some rows",
            (huge, _) => {
                if huge {
                    "yes"
                } else {
                    "no"
                }
            }
        };
        add("huge pages".into(), value.into(), rig);
    }
    if facts.is_empty() {
        return "The rows do not say.\n".into();
    }
    let mut table = Table::new(["", ""]);
    for (name, values) in facts {
        let mut different: Vec<(String, Vec<String>)> = Vec::new();
        for (value, rig) in values {
            match different.iter_mut().find(|(other, _)| *other == value) {
                Some((_, rigs)) => rigs.push(rig.to_string()),
                None => different.push((value, vec![rig.to_string()])),
            }
        }
        let value = match different.as_slice() {
            [(value, _)] => escaped(value),
            several => {
                let said =
                    several.iter().map(|(value, rigs)| format!("{} ({})", escaped(value), rigs.join(", ")));
                said.collect::<Vec<_>>().join("; ")
            }
        };
        table.line([escaped(&name.replace('_', " ")), value]);
    }
    table.to_markdown()
}
