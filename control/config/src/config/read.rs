//! The settings of `weftd.toml`, one function a section. Ranges and defaults are explained at the types.

use super::{
    Config, ConfigError, Control, Dataplane, HostPort, Hugepages, Idle, Log, LogLevel, NodeConfig,
    OuterChecksum, SourceConfig, State, Uplink, UplinkKind,
};
use crate::model::names::{absolute_path, interface_name, name_part, socket_path};
use crate::settings::{Found, Reader, Section};
use std::path::{Path, PathBuf};

const MEMORY_MIN: u64 = 16 << 20;
const MEMORY_MAX: u64 = 64 << 30;
const WORKERS_MAX: i64 = 64;

/// Reads the text; `path` is for the messages.
pub(super) fn parse(path: &Path, text: String) -> Result<Config, ConfigError> {
    let reader = Reader::new(path, text)?;
    let root = reader.root();
    let mut config = Config::default();
    let mut read = |name, into: fn(&Section<'_>, &mut Config)| {
        if let Some(section) = root.table(name) {
            into(&section, &mut config);
            section.done();
        }
    };
    read("node", |section, config| node(section, &mut config.node));
    read("dataplane", |section, config| dataplane(section, &mut config.dataplane));
    read("uplink", |section, config| uplink(section, &mut config.uplink));
    read("source", |section, config| source(section, &mut config.source));
    read("control", |section, config| control(section, &mut config.control));
    read("state", |section, config| state(section, &mut config.state));
    read("host_port", |section, config| host_port(section, &mut config.host_port));
    read("log", |section, config| log(section, &mut config.log));
    root.done();
    reader.verdict()?;
    Ok(config)
}

/// Takes over what was read.
fn set<T>(into: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *into = value;
    }
}

fn node(section: &Section<'_>, node: &mut NodeConfig) {
    const WANTED: &str = "the node's name, such as \"worker-1\", or leave it out for the host's name";
    node.name = checked(section, "name", WANTED, name_part);
}

fn dataplane(section: &Section<'_>, dataplane: &mut Dataplane) {
    let workers = section.integer("workers", 1..=WORKERS_MAX);
    let cores = section.integer_list("cores", 0..=1023).unwrap_or_default();
    for (n, Found { value, at }) in cores.iter().enumerate() {
        if cores[..n].iter().any(|earlier| earlier.value == *value) {
            let reason = format!("core {value} is listed twice");
            section.wrong_at(*at, &format!("cores[{n}]"), reason, "give each worker a core of its own");
        }
    }
    dataplane.cores = cores.iter().map(|c| c.value as usize).collect();
    match (workers, cores.len()) {
        (None, n) if n > WORKERS_MAX as usize => {
            section.wrong(
                "cores",
                format!("{n} cores, but there are {WORKERS_MAX} workers at most"),
                "list fewer",
            );
        }
        (None, n) => dataplane.workers = n.max(1),
        (Some(workers), n) => {
            if n != 0 && n as i64 != workers {
                let reason = format!("{n} are listed for {workers} workers");
                section.wrong("cores", reason, "list one for each worker, or leave workers or cores out");
            }
            dataplane.workers = workers as usize;
        }
    }
    set(&mut dataplane.memory, memory(section));
    let hugepages = [("auto", Hugepages::Auto), ("never", Hugepages::Never), ("require", Hugepages::Require)];
    set(&mut dataplane.hugepages, section.choice("hugepages", &hugepages));
    set(&mut dataplane.idle, section.choice("idle", &[("adaptive", Idle::Adaptive), ("poll", Idle::Poll)]));
    set(&mut dataplane.spin_us, section.integer("spin_us", 0..=10_000).map(|n| n as u32));
    set(&mut dataplane.poll_beat_us, section.integer("poll_beat_us", 10..=100_000).map(|n| n as u32));
}

fn memory(section: &Section<'_>) -> Option<u64> {
    const WANTED: &str = "a size within 16MiB to 64GiB, such as \"48MiB\", or a number of bytes";
    let Found { value, at } = section.value("memory", WANTED)?;
    let (given, bytes) = match (value.as_str(), value.as_integer()) {
        (Some(text), _) => (format!("{text:?}"), bytes(text)),
        (None, Some(number)) => (number.to_string(), u64::try_from(number).ok()),
        (None, None) => (value.type_name().to_owned(), None),
    };
    match bytes {
        Some(bytes) if (MEMORY_MIN..=MEMORY_MAX).contains(&bytes) => return Some(bytes),
        Some(_) => {
            section.wrong_at(at, "memory", format!("{given} is out of range"), format!("write {WANTED}"))
        }
        None => section.wrong_at(at, "memory", format!("{given} is no size"), format!("write {WANTED}")),
    }
    None
}

/// `48MiB`, `48 MiB`, `50331648`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim_start() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn uplink(section: &Section<'_>, uplink: &mut Uplink) {
    set(&mut uplink.kind, section.choice("kind", &[("af_packet", UplinkKind::AfPacket)]));
    const WANTED: &str = "an interface, such as \"eth0\", or leave it out for the default route's";
    uplink.interface = checked(section, "interface", WANTED, interface_name);
    let checksums = [("zero", OuterChecksum::Zero), ("valid", OuterChecksum::Valid)];
    set(&mut uplink.outer_checksum, section.choice("outer_checksum", &checksums));
    set(&mut uplink.known_vteps_only, section.boolean("known_vteps_only"));
}

fn source(section: &Section<'_>, source: &mut SourceConfig) {
    section.choice("kind", &[("file", ())]);
    let SourceConfig::File { path } = source;
    set(
        path,
        checked_path(section, "path", "the whole path, such as \"/etc/weft/cluster.toml\"", absolute_path),
    );
}

fn control(section: &Section<'_>, control: &mut Control) {
    const WANTED: &str = "the whole path, such as \"/run/weft/weftd.sock\", of 107 bytes at most";
    set(&mut control.socket, checked_path(section, "socket", WANTED, socket_path));
    control.group = checked(section, "group", "a group's name, such as \"weft\"", name_part);
}

fn state(section: &Section<'_>, state: &mut State) {
    set(
        &mut state.dir,
        checked_path(section, "dir", "the whole path, such as \"/var/lib/weft\"", absolute_path),
    );
}

fn host_port(section: &Section<'_>, host_port: &mut HostPort) {
    set(
        &mut host_port.name,
        checked(section, "name", "an interface's name, such as \"weft0\"", interface_name),
    );
}

fn log(section: &Section<'_>, log: &mut Log) {
    use LogLevel::{Debug, Error, Info, Trace, Warn};
    let levels = [Error, Warn, Info, Debug, Trace].map(|level| (level.as_str(), level));
    set(&mut log.level, section.choice("level", &levels));
}

fn checked(
    section: &Section<'_>,
    name: &'static str,
    wanted: &str,
    check: fn(&str) -> Result<(), String>,
) -> Option<String> {
    let Found { value, at } = section.text(name, wanted)?;
    match check(value) {
        Ok(()) => Some(value.to_owned()),
        Err(why) => {
            section.wrong_at(at, name, why, format!("write {wanted}"));
            None
        }
    }
}

fn checked_path(
    section: &Section<'_>,
    name: &'static str,
    wanted: &str,
    check: fn(&Path) -> Result<(), String>,
) -> Option<PathBuf> {
    let Found { value, at } = section.text(name, wanted)?;
    match check(Path::new(value)) {
        Ok(()) => Some(value.into()),
        Err(why) => {
            section.wrong_at(at, name, why, format!("write {wanted}"));
            None
        }
    }
}
