//! Reads `weftd.toml` by the list of its settings.

use super::setting::Form;
use super::table::{SECTIONS, SETTINGS, WORKERS_MAX};
use super::{Config, ConfigError, Dataplane, Value};
use crate::settings::{Found, Reader, Section};
use std::net::SocketAddr;
use std::path::Path;

/// Reads the text; `path` is for the messages.
pub(super) fn parse(path: &Path, text: String) -> Result<Config, ConfigError> {
    let reader = Reader::new(path, text)?;
    let root = reader.root();
    let mut config = Config::default();
    for (name, _) in SECTIONS {
        let Some(section) = root.table(name) else { continue };
        for setting in SETTINGS.iter().filter(|setting| setting.section == name) {
            if let Some(value) = value(&section, setting.name, &setting.form) {
                setting.set(&mut config, value);
            }
        }
        if name == "dataplane" {
            check_cores(&section, &mut config.dataplane);
        }
        section.done();
    }
    root.done();
    reader.verdict()?;
    Ok(config)
}

/// The setting's value, if it is given and right.
fn value(section: &Section<'_>, name: &'static str, form: &Form) -> Option<Value> {
    match form {
        Form::Boolean => section.boolean(name).map(Value::Boolean),
        Form::Integer { min, max, .. } => section.integer(name, *min..=*max).map(Value::Integer),
        Form::Numbers { min, max } => numbers(section, name, *min, *max),
        Form::Bytes { min, max } => memory(section, name, *min, *max),
        Form::Choice(words) => {
            let choices: Vec<_> = words().into_iter().map(|word| (word, word)).collect();
            section.choice(name, &choices).map(Value::of_text)
        }
        Form::Text { wanted, check, .. } => checked(section, name, wanted, check),
        Form::Path { wanted, check } => checked(section, name, wanted, |text| check(Path::new(text))),
        Form::Address => {
            const WANTED: &str = "an IP address and a port, such as \"127.0.0.1:9477\", or \"\" for nowhere";
            let check = |text: &str| match text.is_empty() {
                true => Ok(()),
                false => text.parse::<SocketAddr>().map(drop).map_err(|error| format!("{text:?}: {error}")),
            };
            checked(section, name, WANTED, check)
        }
    }
}

/// A list in which no number is twice.
fn numbers(section: &Section<'_>, name: &'static str, min: i64, max: i64) -> Option<Value> {
    let items = section.integer_list(name, min..=max)?;
    for (n, Found { value, at }) in items.iter().enumerate() {
        if items[..n].iter().any(|earlier| earlier.value == *value) {
            let reason = format!("core {value} is listed twice");
            section.wrong_at(*at, &format!("{name}[{n}]"), reason, "give each worker a core of its own");
        }
    }
    Some(Value::List(items.iter().map(|item| item.value).collect()))
}

/// As many cores as workers, and as many workers as cores where only those are given.
fn check_cores(section: &Section<'_>, dataplane: &mut Dataplane) {
    let cores = dataplane.cores.len();
    if !section.has("workers") {
        if cores as i64 > WORKERS_MAX {
            let reason = format!("{cores} cores, but there are {WORKERS_MAX} workers at most");
            section.wrong("cores", reason, "list fewer");
        }
        dataplane.workers = cores.max(1);
    } else if cores != 0 && cores != dataplane.workers {
        let reason = format!("{cores} are listed for {} workers", dataplane.workers);
        section.wrong("cores", reason, "list one for each worker, or leave workers or cores out");
    }
}

fn memory(section: &Section<'_>, name: &'static str, min: u64, max: u64) -> Option<Value> {
    let [low, high] = [min, max].map(|size| Value::of_bytes(size).text().unwrap_or_default().to_owned());
    let wanted = format!("a size within {low} to {high}, such as \"48MiB\", or a number of bytes");
    let Found { value, at } = section.value(name, &wanted)?;
    let (given, size) = match (value.as_str(), value.as_integer()) {
        (Some(text), _) => (format!("{text:?}"), bytes_of_text(text)),
        (None, Some(number)) => (number.to_string(), u64::try_from(number).ok()),
        (None, None) => (value.type_name().to_owned(), None),
    };
    let reason = match size {
        Some(size) if (min..=max).contains(&size) => return Some(Value::of_bytes(size)),
        Some(_) => format!("{given} is out of range"),
        None => format!("{given} is no size"),
    };
    section.wrong_at(at, name, reason, format!("write {wanted}"));
    None
}

/// The bytes that a value of [`Value::of_bytes`] stands for.
pub(super) fn bytes(value: &Value) -> Option<u64> {
    match value {
        Value::Text(text) => bytes_of_text(text),
        Value::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// `48MiB`, `48 MiB`, `50331648`.
fn bytes_of_text(text: &str) -> Option<u64> {
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

fn checked(
    section: &Section<'_>,
    name: &'static str,
    wanted: &str,
    check: impl Fn(&str) -> Result<(), String>,
) -> Option<Value> {
    let Found { value, at } = section.text(name, wanted)?;
    match check(value) {
        Ok(()) => Some(Value::of_text(value)),
        Err(why) => {
            section.wrong_at(at, name, why, format!("write {wanted}"));
            None
        }
    }
}
