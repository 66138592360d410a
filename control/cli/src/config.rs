//! `weft config`: checks files as weftd does, and says which settings are in force. Only `show` and `diff` need a daemon.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use weft_api::{Client, Sections};
use weft_config::check::{Checked, Kind, Wanted, check, kind_of, mistakes};
use weft_config::config::table::SETTINGS;
use weft_config::config::{Config, Effect, Setting, Value};
use weft_config::document::{config_toml, defaults_toml};
use weft_config::settings::Mistake;

use crate::Failure;
use crate::args::Output;
use crate::table::{Table, printable};
use crate::view::{Form, Show, View, print_text};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// The settings in force, as a weftd.toml
    #[command(
        after_help = "Examples:\n  weft config show\n  weft config show --defaults > /etc/weft/weftd.toml"
    )]
    Show(ShowArgs),
    /// Check weftd.toml or cluster.toml before weftd sees it. Exit code 1 if something is wrong
    #[command(after_help = "Examples:
  weft config check /etc/weft/weftd.toml     it, and the cluster file that it names
  weft config check --node worker-1 cluster.toml")]
    Check(CheckArgs),
    /// What differs between the settings in force and the file. Exit code 1 if something does
    #[command(after_help = "Examples:\n  weft config diff\n  weft config diff new.toml")]
    Diff(DiffArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Every setting's default instead, with its range; needs no daemon
    #[arg(long)]
    defaults: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Which file it is; otherwise its sections tell, or else its name
    #[arg(long, value_enum)]
    kind: Option<FileKind>,
    /// The node whose file it is; otherwise a cluster file is checked as one that all nodes have
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Leave the cluster file alone that a weftd.toml names
    #[arg(long)]
    only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// A weftd.toml [default: the one that weftd has read]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileKind {
    /// The settings of one node's daemon
    Weftd,
    /// The desired state of all nodes
    Cluster,
}

impl ConfigCommand {
    /// It shows something that may be another way in a moment.
    pub(crate) fn reads(&self) -> bool {
        matches!(self, Self::Show(ShowArgs { defaults: false }))
    }
}

pub(crate) async fn run(client: &Client, view: &View, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show(ShowArgs { defaults: true }) => show_defaults(view),
        ConfigCommand::Show(ShowArgs { defaults: false }) => {
            view.read(client, async |c: &Client| Ok(Running(c.config().await?.running))).await
        }
        ConfigCommand::Check(args) => check_files(view, &args),
        ConfigCommand::Diff(DiffArgs { file }) => diff(client, view, file.as_deref()).await,
    }
}

/// Settings by section and name.
#[derive(Serialize)]
#[serde(transparent)]
struct Running(Sections);

impl Show for Running {
    fn show(&self, _: Form) -> String {
        config_toml(|setting| value_in(&self.0, setting)).trim_start().to_owned()
    }
}

fn show_defaults(view: &View) -> Result<(), Failure> {
    match view.output {
        Output::Json => view.print(&Running(sections(&Config::default())?)),
        Output::Table | Output::Wide => print_text(&defaults_toml()),
    }
}

/// A setting's value in what the daemon has answered.
fn value_in(sections: &Sections, setting: &Setting) -> Value {
    let value = sections.get(setting.section).and_then(|section| section.get(setting.name));
    match value {
        Some(serde_json::Value::Bool(value)) => Value::Boolean(*value),
        Some(serde_json::Value::Number(value)) => value.as_i64().map_or(Value::Unset, Value::Integer),
        Some(serde_json::Value::String(value)) => Value::Text(value.clone()),
        Some(serde_json::Value::Array(list)) => {
            Value::List(list.iter().filter_map(serde_json::Value::as_i64).collect())
        }
        Some(serde_json::Value::Null | serde_json::Value::Object(_)) | None => Value::Unset,
    }
}

fn sections(config: &Config) -> Result<Sections, Failure> {
    let mut sections = Sections::new();
    for setting in SETTINGS {
        let value = serde_json::to_value(setting.get(config)).map_err(Failure::failed)?;
        sections.entry(setting.section.to_owned()).or_default().insert(setting.name.to_owned(), value);
    }
    Ok(sections)
}

/// What was found in the files.
#[derive(Serialize)]
struct Findings {
    files: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    path: PathBuf,
    /// Null if that can't be seen.
    kind: Option<Kind>,
    ok: bool,
    mistakes: Vec<Mistake>,
}

impl From<&Checked> for Finding {
    fn from(checked: &Checked) -> Self {
        Self {
            path: checked.path.clone(),
            kind: checked.kind,
            ok: checked.error.is_none(),
            mistakes: checked.error.as_ref().map(mistakes).unwrap_or_default(),
        }
    }
}

impl Show for Findings {
    fn show(&self, _: Form) -> String {
        let sound = self.files.iter().filter(|file| file.ok);
        sound
            .map(|file| {
                let kind = file.kind.map_or("", Kind::file_name);
                format!("{}: no mistakes ({kind})\n", printable(&file.path.display().to_string()))
            })
            .collect()
    }
}

fn check_files(view: &View, args: &CheckArgs) -> Result<(), Failure> {
    let kind = args.kind.map(|kind| match kind {
        FileKind::Weftd => Kind::Weftd,
        FileKind::Cluster => Kind::Cluster,
    });
    let wanted = Wanted { kind, node: args.node.as_deref(), only: args.only };
    let mut all: Vec<Checked> = Vec::new();
    for file in &args.files {
        for checked in check(file, &wanted) {
            // A weftd.toml may name a cluster file that is given as well.
            if !all.iter().any(|before| before.path == checked.path) {
                all.push(checked);
            }
        }
    }
    view.print(&Findings { files: all.iter().map(Finding::from).collect() })?;
    let errors: Vec<_> = all.iter().filter_map(|checked| checked.error.as_ref()).collect();
    if errors.is_empty() {
        return Ok(());
    }
    // Each line begins with the file, so that editors find the place. As JSON they are said already.
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Err(Failure::found(if view.output == Output::Json { String::new() } else { lines.join("\n") }))
}

/// What differs.
#[derive(Serialize)]
struct Differences {
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Difference {
    setting: String,
    running: Value,
    file: Value,
    /// `live` or `restart`.
    takes_effect: &'static str,
}

impl Show for Differences {
    fn show(&self, form: Form) -> String {
        if self.differences.is_empty() {
            return String::new();
        }
        let mut table = Table::new(form, &["SETTING", "RUNNING", "FILE", "TAKES EFFECT"]);
        for difference in &self.differences {
            table.row(vec![
                difference.setting.clone(),
                difference.running.to_string(),
                difference.file.to_string(),
                difference.takes_effect.to_owned(),
            ]);
        }
        table.render()
    }
}

/// A weftd.toml that somebody has named.
fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|error| match kind_of(file) {
        Ok(Kind::Cluster) => Failure::failed(format!(
            "{} is a cluster.toml, and diff is for a weftd.toml: check it with weft config check",
            file.display()
        )),
        _ => Failure::failed(error),
    })
}

async fn diff(client: &Client, view: &View, file: Option<&Path>) -> Result<(), Failure> {
    let said = match file {
        Some(file) => Some(sections(&load(file)?)?),
        None => None,
    };
    let report = client.config().await?;
    if let (None, Some(error)) = (&said, &report.error) {
        return Err(Failure::failed(format!("weftd refused the file's newest content: {error}")));
    }
    let said = said.unwrap_or(report.file);
    let differing = SETTINGS.iter().filter_map(|setting| {
        let (running, file) = (value_in(&report.running, setting), value_in(&said, setting));
        let takes_effect = match setting.effect {
            Effect::Live => "live",
            Effect::Restart => "restart",
        };
        (running != file).then(|| Difference { setting: setting.full_name(), running, file, takes_effect })
    });
    let differences = Differences { differences: differing.collect() };
    view.print(&differences)?;
    match differences.differences.is_empty() {
        true => Ok(()),
        false => Err(Failure::found(String::new())),
    }
}
