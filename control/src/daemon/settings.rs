//! The settings of weftd.toml while weftd runs: which changes are taken over, and which wait for a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::sync::watch;
use tracing::{info, warn};
use weft_api::{ConfigReport, Pending, Sections};

use super::Daemon;
use crate::config::table::SETTINGS;
use crate::config::{Config, ConfigError, Effect, LogLevel, Setting};
use crate::reload::ConfigFile;

/// Sets how much is logged.
pub type SetLogLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// What follows from weftd.toml beside the snapshot.
pub(super) struct Settings {
    pub(super) file: ConfigFile,
    /// What the file said last that was right.
    pub(super) said: Config,
    /// Why its newest content was refused.
    pub(super) error: Option<String>,
    pub(super) set_log_level: SetLogLevel,
    pub(super) metrics_listen: watch::Sender<Option<SocketAddr>>,
}

impl Settings {
    pub(super) fn new(
        config: &Config,
        file: ConfigFile,
        set_log_level: SetLogLevel,
    ) -> (Self, watch::Receiver<Option<SocketAddr>>) {
        let (metrics_listen, listen) = watch::channel(config.metrics.listen);
        (Self { file, said: config.clone(), error: None, set_log_level, metrics_listen }, listen)
    }
}

/// The settings that differ.
fn differing<'a>(a: &'a Config, b: &'a Config) -> impl Iterator<Item = &'static Setting> + 'a {
    SETTINGS.iter().filter(|setting| setting.get(a) != setting.get(b))
}

/// The changes of `new` that can be taken over into `running` at once are.
fn take_over(running: &mut Config, new: &Config) -> Vec<String> {
    let live: Vec<_> = differing(running, new).filter(|setting| setting.effect == Effect::Live).collect();
    let mut changes = Vec::new();
    for setting in live {
        let (old, value) = (setting.get(running), setting.get(new));
        changes.push(format!("{}: {old} -> {value}", setting.full_name()));
        setting.set(running, value);
    }
    changes
}

/// What waits for a restart, in words.
fn pending(running: &Config, said: &Config) -> Vec<String> {
    let words = |setting: &Setting| {
        let [now, then] = [running, said].map(|config| setting.get(config));
        format!("{}: needs a restart: {now} -> {then}", setting.full_name())
    };
    differing(running, said).map(words).collect()
}

impl Daemon {
    /// Takes over what the file says now as far as that is possible; a wrong one changes nothing.
    pub(super) async fn take_config(&mut self, update: Result<Config, ConfigError>) {
        let new = match update {
            Ok(new) => new,
            Err(error) => {
                let error = error.to_string();
                if self.settings.error.as_ref() != Some(&error) {
                    warn!("the new settings are refused, the old ones stay in force: {error}");
                }
                self.settings.error = Some(error);
                return;
            }
        };
        if self.settings.error.take().is_some() {
            info!("{} is right again", self.settings.file.path.display());
        }
        let before = self.restart_notes();
        let changes = take_over(&mut self.config, &new);
        self.settings.said = new;
        for note in self.restart_notes().iter().filter(|note| !before.contains(note)) {
            warn!("{note}");
        }
        if changes.is_empty() {
            return;
        }
        (self.settings.set_log_level)(self.config.log.level);
        self.settings.metrics_listen.send_if_modified(|listen| {
            let modified = *listen != self.config.metrics.listen;
            *listen = self.config.metrics.listen;
            modified
        });
        self.reconcile().await;
        for change in changes {
            info!("{change}");
        }
    }

    /// What waits for a restart.
    pub(super) fn restart_notes(&self) -> Vec<String> {
        pending(&self.config, &self.settings.said)
    }

    /// `GET /v1/config`.
    pub(super) fn config_report(&self) -> ConfigReport {
        let Settings { file, said, error, .. } = &self.settings;
        let waiting = differing(&self.config, said).map(|setting| Pending {
            setting: setting.full_name(),
            running: json(setting, &self.config),
            file: json(setting, said),
        });
        ConfigReport {
            path: file.path.clone(),
            running: sections(&self.config),
            file: sections(said),
            error: error.clone(),
            restart_needed: waiting.collect(),
        }
    }
}

fn json(setting: &Setting, config: &Config) -> serde_json::Value {
    // A setting's value is a number, a text, a list or null: each of them can be written.
    serde_json::to_value(setting.get(config)).unwrap_or_default()
}

fn sections(config: &Config) -> Sections {
    let mut sections: Sections = BTreeMap::new();
    for setting in SETTINGS {
        let section = sections.entry(setting.section.to_owned()).or_default();
        section.insert(setting.name.to_owned(), json(setting, config));
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weftd.toml");
        std::fs::write(&path, text).unwrap();
        ConfigFile { path, optional: false, flags: Default::default() }.load().unwrap()
    }

    #[test]
    fn what_can_be_taken_over_is_and_the_rest_waits() {
        let mut running = Config::default();
        let new = config(
            "[bridge]\nageing_s = 20\n[dataplane]\nworkers = 2\n[uplink]\nouter_checksum = \"valid\"\n[log]\nlevel = \"warn\"\n\
             [metrics]\nlisten = \"\"\n[node]\nname = \"x\"\n",
        );
        assert_eq!(
            take_over(&mut running, &new),
            [
                "uplink.outer_checksum: \"zero\" -> \"valid\"",
                "bridge.ageing_s: 300 -> 20",
                "metrics.listen: \"127.0.0.1:9477\" -> \"\"",
                "log.level: \"info\" -> \"warn\""
            ]
        );
        assert_eq!((running.bridge.ageing_s, running.metrics.listen), (20, None));
        assert_eq!((running.log.level, running.dataplane.workers), (LogLevel::Warn, 1));
        assert_eq!(
            pending(&running, &new),
            ["node.name: needs a restart: unset -> \"x\"", "dataplane.workers: needs a restart: 1 -> 2"]
        );
        // Put back, nothing waits any more.
        let back = Config { node: Config::default().node, dataplane: Config::default().dataplane, ..new };
        assert_eq!(take_over(&mut running, &back), Vec::<String>::new());
        assert_eq!(pending(&running, &back), Vec::<String>::new());
    }

    #[test]
    fn the_report_names_every_setting() {
        let sections = sections(&config("[dataplane]\ncores = [3]\nmemory = 50331648\n"));
        assert_eq!(sections.values().map(|section| section.len()).sum::<usize>(), SETTINGS.len());
        assert_eq!(sections["dataplane"]["cores"], serde_json::json!([3]));
        assert_eq!(sections["dataplane"]["memory"], "48MiB");
        assert_eq!(sections["node"]["name"], serde_json::Value::Null);
        assert_eq!(sections["bridge"]["ageing_s"], 300);
    }
}
