//! The settings described: `docs/settings.md`, and files of settings with comments.
//!
//! `docs/settings.md` and `docs/examples/weftd.toml` are made by `cargo run -p weft-config --example settings`.

use crate::cluster::table::SECTIONS as CLUSTER;
use crate::config::table::{SECTIONS, SETTINGS};
use crate::config::{Config, Effect, Form, Setting, Value};
use std::fmt::Write;

/// Where comments begin, in characters.
const COMMENTS_AT: usize = 36;

impl Form {
    /// Type, unit and range, in words.
    pub fn describe(&self) -> String {
        let size = |bytes| Value::of_bytes(bytes).to_string();
        match self {
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Integer { unit: "", min, max } => format!("integer, {min} to {max}"),
            Self::Integer { unit, min, max } => format!("integer, {unit}, {min} to {max}"),
            Self::Numbers { min, max } => format!("list of integers, {min} to {max}"),
            Self::Bytes { min, max } => format!("bytes, {} to {}", size(*min), size(*max)),
            Self::Choice(words) => {
                let words: Vec<_> = words().into_iter().map(|word| format!("`\"{word}\"`")).collect();
                words.join(", ")
            }
            Self::Text { kind, .. } => (*kind).to_owned(),
            Self::Path { .. } => "absolute path".to_owned(),
            Self::Address => "`\"ADDRESS:PORT\"`, or `\"\"` for nowhere".to_owned(),
        }
    }
}

impl Effect {
    const fn describe(self) -> &'static str {
        match self {
            Self::Live => "at once",
            Self::Restart => "after a restart",
        }
    }
}

/// What a setting is where nothing is set.
fn default_of(setting: &Setting) -> String {
    setting.otherwise.map_or_else(|| format!("`{}`", setting.default()), str::to_owned)
}

/// `docs/settings.md`.
pub fn settings_md() -> String {
    let mut out = String::from(
        "# Settings\n\n\
         <!-- Made by `cargo run -p weft-config --example settings -- md > docs/settings.md`: change the tables in control/config/src, not this. -->\n\n\
         weft has two files: `weftd.toml` says what the daemon of one node is like, `cluster.toml` what all nodes and their pods are\n\
         like. Both are TOML, both are watched, and both are read again on SIGHUP. A file with a mistake is refused whole: what runs\n\
         stays, and the log and `weft status` say file, line, setting, reason and remedy. An unknown setting is a mistake. Before weftd\n\
         sees it, `weft config check FILE` checks a file; `weft config show` prints what runs, and `weft config diff` what differs\n\
         from the file.\n\n\
         ## weftd.toml\n\n\
         `/etc/weft/weftd.toml`, or `weftd --config FILE`. Every setting has a default; an empty file is a good one.\n",
    );
    for (section, about) in SECTIONS {
        let _ = write!(out, "\n### `[{section}]`: {about}\n");
        for setting in SETTINGS.iter().filter(|setting| setting.section == section) {
            let default = default_of(setting);
            describe(&mut out, setting.name, &setting.form.describe(), &default, setting.what);
            cost_and_change(&mut out, setting.cost, setting.when);
            let _ = writeln!(out, "- A change takes effect {}.", setting.effect.describe());
        }
    }
    out.push_str(
        "\n## cluster.toml\n\n`/etc/weft/cluster.toml`, or `source.path` in weftd.toml. The same file may be on all nodes. Every change takes effect at\n\
         once, without a loss for what it does not concern.\n",
    );
    for (heading, about, settings) in CLUSTER {
        let _ = write!(out, "\n### `{heading}`: {about}\n");
        for setting in settings {
            describe(&mut out, setting.name, setting.form, setting.default, setting.what);
            cost_and_change(&mut out, setting.cost, setting.when);
        }
    }
    out
}

fn describe(out: &mut String, name: &str, form: &str, default: &str, what: &str) {
    let _ = write!(out, "\n**`{name}`** – {form}; default: {default}\n\n{what}\n\n");
}

fn cost_and_change(out: &mut String, cost: &str, when: &str) {
    let _ = write!(out, "- Cost: {cost}\n- When to change it: {when}\n");
}

/// `docs/examples/weftd.toml`, which is what `weft config show --defaults` prints: every setting with its default.
pub fn defaults_toml() -> String {
    let head = "# weftd's own configuration, /etc/weft/weftd.toml. Every setting is shown with its default; those that have none\n\
                # are behind a '#', with an example. An empty file means the same. docs/settings.md explains them.\n";
    let comment = |setting: &Setting| {
        let default =
            setting.otherwise.map(|otherwise| format!("; default: {otherwise}")).unwrap_or_default();
        Some(format!("{}{default}", setting.form.describe()).replace('`', ""))
    };
    head.to_owned() + &to_toml(|setting| setting.default(), comment)
}

/// A configuration as TOML; what is not the default has the default in a comment.
pub fn config_toml(value: impl Fn(&Setting) -> Value) -> String {
    to_toml(&value, |setting| {
        (value(setting) != setting.default())
            .then(|| format!("default: {}", default_of(setting).replace('`', "")))
    })
}

/// The same of a configuration that was read.
pub fn show(config: &Config) -> String {
    config_toml(|setting| setting.get(config))
}

fn to_toml(value: impl Fn(&Setting) -> Value, comment: impl Fn(&Setting) -> Option<String>) -> String {
    let mut out = String::new();
    for (section, _) in SECTIONS {
        let _ = write!(out, "\n[{section}]\n");
        for setting in SETTINGS.iter().filter(|setting| setting.section == section) {
            let line = match value(setting) {
                Value::Unset => format!("# {} = {}", setting.name, setting.example.unwrap_or("\"\"")),
                value => format!("{} = {value}", setting.name),
            };
            match comment(setting) {
                Some(comment) => drop(writeln!(out, "{line:<COMMENTS_AT$}# {comment}")),
                None => drop(writeln!(out, "{line}")),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn committed(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn the_committed_papers_are_what_the_tables_say() {
        let made = "it is made by `cargo run -p weft-config --example settings`, see there";
        assert!(committed("settings.md") == settings_md(), "docs/settings.md is outdated: {made}");
        assert!(
            committed("examples/weftd.toml") == defaults_toml(),
            "docs/examples/weftd.toml is outdated: {made}"
        );
    }

    #[test]
    fn every_setting_is_explained_and_belongs_to_a_section() {
        for setting in SETTINGS {
            let name = setting.full_name();
            assert!(SECTIONS.iter().any(|(section, _)| *section == setting.section), "{name}");
            for text in [setting.what, setting.cost, setting.when] {
                assert!(text.ends_with('.'), "{name}: {text:?}");
            }
            let unset = setting.default() == Value::Unset;
            assert_eq!(unset, setting.example.is_some(), "{name}: an example where there is no default");
            assert!(!unset || setting.otherwise.is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weftd.toml");
        let text = "[node]\nname = \"a\"\n[dataplane]\ncores = [2, 3]\nmemory = \"1 GiB\"\n[uplink]\nouter_checksum = \"valid\"\n\
                    known_vteps_only = false\n[control]\nsocket = \"/run/a\\\"b\\\\c\"\n[bridge]\nageing_s = 20\n[metrics]\nlisten = \"\"\n[log]\n\
                    level = \"warn\"\n";
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path).unwrap();
        let shown = show(&config);
        std::fs::write(&path, &shown).unwrap();
        assert_eq!(Config::load(&path).unwrap_or_else(|error| panic!("{error}\n{shown}")), config);
        assert!(shown.contains("ageing_s = 20                       # default: 300\n"), "{shown}");
        assert!(shown.contains("\nflood_rate = 10000\n"), "{shown}");
        assert!(shown.contains("\n# interface = \"eth0\"\n"), "{shown}");
    }
}
