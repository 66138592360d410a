//! Reading settings from TOML files so that every error names FILE:LINE:COLUMN, the setting, the reason and
//! the remedy, and so that all errors of a file are said at once. Both files of weft (weftd.toml and
//! cluster.toml) are read by it.
//!
//! A [`Section`] is asked for the settings it may have; [`Section::done`] then reports what nobody asked for.

mod section;

use serde::Serialize;
use std::fmt;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml_edit::{ImDocument, Item};

pub(crate) use section::{Found, Places, Section};

/// The largest file that is read: room for about 100,000 pods. What is larger is no configuration.
pub const FILE_MAX: u64 = 16 << 20;

/// How many mistakes are printed; a file of another kind could have as many as it has lines.
const PRINTED_MAX: usize = 50;

/// Why a file of settings was refused. A file is taken whole or not at all.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FileError {
    /// There is no such file.
    #[error("{}: there is no such file; create it, or name another", path.display())]
    Missing {
        /// As it was asked for.
        path: PathBuf,
    },
    /// A directory, a device, a pipe.
    #[error("{}: not a regular file; name a TOML file", path.display())]
    NotAFile {
        /// As it was asked for.
        path: PathBuf,
    },
    /// More than [`FILE_MAX`] bytes.
    #[error("{}: larger than {} MiB, so it is no configuration; name another file", path.display(), FILE_MAX >> 20)]
    TooLarge {
        /// As it was asked for.
        path: PathBuf,
    },
    /// The system refused to read it.
    #[error("{}: cannot be read: {reason}; check the file and its permissions", path.display())]
    Unreadable {
        /// As it was asked for.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// It was read, and what it says is wrong.
    #[error("{}", Listed(path, mistakes))]
    Wrong {
        /// As it was asked for.
        path: PathBuf,
        /// All that is wrong, in the order of the file; at least one.
        mistakes: Vec<Mistake>,
    },
}

/// One thing that is wrong in a file of settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Such as `network.vni`, `pod[3].addresses[0]`. Empty where the text is no TOML.
    pub setting: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.setting.is_empty() {
            write!(f, "{}: ", self.setting)?;
        }
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}

/// One line for each mistake, as compilers print them.
struct Listed<'a>(&'a Path, &'a [Mistake]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.1.iter().take(PRINTED_MAX).enumerate() {
            let end = if n == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{mistake}", self.0.display())?;
        }
        match self.1.len().saturating_sub(PRINTED_MAX) {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more", self.0.display()),
        }
    }
}

/// The text of the file.
pub(crate) fn read(path: &Path) -> Result<String, FileError> {
    let path = path.to_owned();
    let refuse = |path: PathBuf, error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => FileError::Missing { path },
        _ => FileError::Unreadable { path, reason: error.to_string() },
    };
    // Asked before opening: opening a pipe would wait for its writer.
    match std::fs::metadata(&path) {
        Ok(facts) if !facts.is_file() => return Err(FileError::NotAFile { path }),
        Ok(_) => {}
        Err(error) => return Err(refuse(path, error)),
    }
    let mut bytes = Vec::new();
    let got = std::fs::File::open(&path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = got {
        return Err(refuse(path, error));
    }
    if bytes.len() as u64 > FILE_MAX {
        return Err(FileError::TooLarge { path });
    }
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..sound]).into_owned();
        let (line, column) = Lines::new(&text).position(&text, sound);
        let mistake = Mistake {
            line,
            column,
            setting: String::new(),
            reason: "the text is not UTF-8 from here on".to_owned(),
            remedy: "save the file as UTF-8".to_owned(),
        };
        FileError::Wrong { path, mistakes: vec![mistake] }
    })
}

/// A parsed file and what was found wrong with it so far.
pub(crate) struct Reader {
    path: PathBuf,
    document: ImDocument<String>,
    lines: Lines,
    mistakes: std::cell::RefCell<Vec<Mistake>>,
}

impl Reader {
    /// Parses the text. `path` is for the messages.
    pub(crate) fn new(path: &Path, text: String) -> Result<Self, FileError> {
        let lines = Lines::new(&text);
        let parsed = ImDocument::parse(text.clone());
        let document = parsed.map_err(|error| {
            let at = error.span().map_or(0, |s| s.start);
            let (line, column) = lines.position(&text, at);
            // The parser's second line says what it expected.
            let mut reason = error.message().trim().replace('\n', ", ");
            if reason.is_empty() {
                // So it is about characters that may stand nowhere.
                reason = match text.get(at..).and_then(|rest| rest.chars().next()) {
                    Some(character) => format!("the character {character:?} cannot stand here"),
                    None => "the file ends too early".to_owned(),
                };
            }
            let remedy = "correct the TOML here".to_owned();
            let mistake = Mistake { line, column, setting: String::new(), reason, remedy };
            FileError::Wrong { path: path.to_owned(), mistakes: vec![mistake] }
        })?;
        Ok(Self { path: path.to_owned(), document, lines, mistakes: Default::default() })
    }

    /// What is outside of all tables.
    pub(crate) fn root(&self) -> Section<'_> {
        Section::new(self, self.document.as_table(), String::new(), 0)
    }

    /// What stands at the top: name, byte offset, and whether it is a list.
    pub(crate) fn sections(&self) -> Vec<(String, usize, bool)> {
        let root = self.document.as_table();
        let at = |key: &str, item: &Item| {
            let span = root.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
            span.map_or(0, |span| span.start)
        };
        let is_list = |item: &Item| item.is_array_of_tables() || item.is_array();
        root.iter().map(|(key, item)| (key.to_owned(), at(key, item), is_list(item))).collect()
    }

    /// Reports a mistake at a byte offset.
    pub(crate) fn report(&self, at: usize, setting: String, reason: String, remedy: String) {
        let (line, column) = self.lines.position(self.document.raw(), at);
        self.mistakes.borrow_mut().push(Mistake { line, column, setting, reason, remedy });
    }

    /// An error if anything was reported.
    pub(crate) fn verdict(&self) -> Result<(), FileError> {
        let mut mistakes = self.mistakes.borrow().clone();
        if mistakes.is_empty() {
            return Ok(());
        }
        mistakes.sort();
        mistakes.dedup();
        Err(FileError::Wrong { path: self.path.clone(), mistakes })
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(after).collect())
    }

    /// Line and column of a byte offset, both from 1.
    fn position(&self, text: &str, at: usize) -> (usize, usize) {
        let at = at.min(text.len());
        let line = self.0.partition_point(|start| *start <= at).max(1);
        let start = self.0.get(line - 1).copied().unwrap_or_default();
        let before = text.as_bytes().get(start..at).unwrap_or_default();
        // A character is counted by its first byte, so an offset inside one does no harm.
        (line, before.iter().filter(|b| **b & 0xc0 != 0x80).count() + 1)
    }
}
