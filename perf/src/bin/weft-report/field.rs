//! What stands in the fields of rows, checked once when it is read: rows come from files, and files may hold anything.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// No figure is larger, and none but 0 as small as its inverse: what is drawn and divided stays a number.
const LARGEST: f64 = 1e15;

/// A number of at least 0.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub(crate) struct Amount(pub(crate) f64);

impl TryFrom<f64> for Amount {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        match value {
            0.0 => Ok(Self(0.0)),
            _ => Positive::try_from(value).map(|value| Self(value.0)),
        }
    }
}

/// A number above 0, so that others can be divided by it.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub(crate) struct Positive(pub(crate) f64);

impl TryFrom<f64> for Positive {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        match value {
            _ if value <= 0.0 => Err(format!("{value} is not above 0")),
            _ if !(1.0 / LARGEST..=LARGEST).contains(&value) => {
                Err(format!("{value:e} is no figure of this world"))
            }
            _ => Ok(Self(value)),
        }
    }
}

/// A name, a version, a date: one line of text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Text(String);

impl Text {
    const LONGEST: usize = 300;
}

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text {
            _ if text.trim().is_empty() => Err("a text that is empty".into()),
            _ if text.len() > Self::LONGEST => {
                Err(format!("a text of {} bytes; {} are allowed", text.len(), Self::LONGEST))
            }
            _ if text.chars().any(char::is_control) => Err("a text with control characters".into()),
            _ => Ok(Self(text)),
        }
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The size of the frames, as rows have it: `64`, `"64"` or `"imix"`, with the FCS and without a tunnel's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Frame {
    Bytes(u16),
    Imix,
}

impl Frame {
    /// For titles.
    pub(crate) fn frames(self) -> String {
        match self {
            Self::Bytes(bytes) => format!("frames of {bytes} bytes"),
            Self::Imix => "IMIX frames".into(),
        }
    }

    /// For the names of files.
    pub(crate) fn word(self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.to_string(),
            Self::Imix => "imix".into(),
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Imix => f.write_str("IMIX"),
        }
    }
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u16),
            Word(String),
        }
        let wrong = || D::Error::custom("frame is neither a number of bytes from 64 to 9600 nor \"imix\"");
        let bytes = match Raw::deserialize(deserializer).map_err(|_| wrong())? {
            Raw::Word(word) if word == "imix" => return Ok(Self::Imix),
            Raw::Word(word) => word.parse().map_err(|_| wrong())?,
            Raw::Number(number) => number,
        };
        if (64..=9600).contains(&bytes) { Ok(Self::Bytes(bytes)) } else { Err(wrong()) }
    }
}

/// What the rounds of a row had, one after the other: of the figure that the rig is about, or of several by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "rounds are a list of numbers of at least 0, or such lists by name")]
pub(crate) enum Rounds {
    One(Vec<Amount>),
    Named(BTreeMap<String, Vec<Amount>>),
}

/// A median, and what it is the median of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Median {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) rounds: usize,
}

impl Median {
    /// Largest round less smallest, as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        if self.value > 0.0 { (self.high - self.low) / self.value } else { 0.0 }
    }
}

impl Rounds {
    /// The median of a figure, which must lie where its rounds do. Where rounds have no names, `main` says whether they are of
    /// this figure.
    pub(crate) fn median(&self, figure: &str, value: f64, main: bool) -> Result<Median, String> {
        // Rows are rounded.
        const ROUNDING: f64 = 1e-3;
        let values = match self {
            Self::One(values) if main => values,
            Self::One(_) => return Ok(Median { value, low: value, high: value, rounds: 0 }),
            Self::Named(named) => match named.get(figure) {
                Some(values) => values,
                None => return Ok(Median { value, low: value, high: value, rounds: 0 }),
            },
        };
        let (low, high) =
            values.iter().fold((f64::MAX, 0.0), |(low, high): (f64, f64), v| (low.min(v.0), high.max(v.0)));
        if values.is_empty() {
            return Err("a row of no rounds".into());
        }
        let slack = ROUNDING * high;
        if value < low - slack || value > high + slack {
            return Err(format!("{figure} is {value}, but its rounds were from {low} to {high}"));
        }
        Ok(Median { value, low, high, rounds: values.len() })
    }
}
