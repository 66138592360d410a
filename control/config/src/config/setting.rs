//! What there is to know of a setting.

use super::{Config, Value};
use std::path::Path;

/// One setting.
pub struct Setting {
    /// The table that it is in, such as `dataplane`.
    pub section: &'static str,
    /// Its name in there.
    pub name: &'static str,
    /// Its type and range.
    pub form: Form,
    /// What decides while it is not set; none if that is a value.
    pub otherwise: Option<&'static str>,
    /// A value for the example of a file, in TOML, where there is no default.
    pub example: Option<&'static str>,
    /// What it is.
    pub what: &'static str,
    /// What it costs.
    pub cost: &'static str,
    /// When to change it.
    pub when: &'static str,
    /// When a change of it takes effect.
    pub effect: Effect,
    pub(super) get: fn(&Config) -> Value,
    pub(super) set: fn(&mut Config, Value),
}

/// When a change of a setting takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once.
    Live,
    /// When weftd is started again.
    Restart,
}

/// A setting's type and range.
pub enum Form {
    /// `true` or `false`.
    Boolean,
    /// A number.
    Integer {
        /// What is counted.
        unit: &'static str,
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// A list of numbers.
    Numbers {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// A size: bytes as a number, or text with a unit.
    Bytes {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// One of these words.
    Choice(fn() -> Vec<&'static str>),
    /// A text.
    Text {
        /// What it is.
        kind: &'static str,
        /// What to write.
        wanted: &'static str,
        /// What may stand there.
        check: fn(&str) -> Result<(), String>,
    },
    /// An absolute path.
    Path {
        /// What to write.
        wanted: &'static str,
        /// What may stand there.
        check: fn(&Path) -> Result<(), String>,
    },
    /// An IP address and a port, or nothing.
    Address,
}

impl Setting {
    /// Such as `dataplane.workers`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Its value in a configuration.
    pub fn get(&self, config: &Config) -> Value {
        (self.get)(config)
    }

    /// Takes over a value that [`Setting::get`] has given, or that has this form.
    pub fn set(&self, config: &mut Config, value: Value) {
        (self.set)(config, value);
    }

    /// Its value where nothing is set.
    pub fn default(&self) -> Value {
        self.get(&Config::default())
    }
}
