//! One table of a file of settings, asked setting by setting.

use super::Reader;
use crate::model::Part;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use toml_edit::{Item, TableLike, Value};

/// A value and the byte offset where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) at: usize,
}

/// Where the settings of a section stand, kept for what is found wrong later.
#[derive(Default)]
pub(crate) struct Places {
    path: String,
    start: usize,
    fields: HashMap<&'static str, (usize, HashMap<Part, usize>)>,
}

impl Places {
    /// Where the setting stands, or where the section begins if it is missing.
    pub(crate) fn of(&self, field: &str, part: Option<&Part>) -> usize {
        let Some((at, parts)) = self.fields.get(field) else { return self.start };
        part.and_then(|part| parts.get(part)).copied().unwrap_or(*at)
    }

    /// The whole name of a setting.
    pub(crate) fn name(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }
}

/// One table. Mistakes go to the [`Reader`]; the value is None then, as if the setting were missing, and the
/// caller goes on, so that all mistakes are found in one go.
pub(crate) struct Section<'a> {
    reader: &'a Reader,
    table: &'a dyn TableLike,
    known: RefCell<Vec<&'static str>>,
    places: RefCell<Places>,
}

impl<'a> Section<'a> {
    pub(super) fn new(reader: &'a Reader, table: &'a dyn TableLike, path: String, start: usize) -> Self {
        let places = Places { path, start, ..Places::default() };
        Self { reader, table, known: RefCell::default(), places: RefCell::new(places) }
    }

    /// Reports a mistake in a setting that has been asked for, or that is missing.
    pub(crate) fn wrong(&self, name: &'static str, reason: impl Into<String>, remedy: impl Into<String>) {
        let at = self.places.borrow().of(name, None);
        self.wrong_at(at, name, reason, remedy);
    }

    /// The same for one whose place is known better.
    pub(crate) fn wrong_at(
        &self,
        at: usize,
        name: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let setting = self.places.borrow().name(name);
        self.reader.report(at, setting, reason.into(), remedy.into());
    }

    fn wrong_type(&self, at: usize, name: &str, found: &str, wanted: &str) {
        let article = if found.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        self.wrong_at(at, name, format!("{article} {found} is given"), format!("write {wanted}"));
    }

    /// Whether the setting is given, right or wrong.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Reports a setting that must be given and is not.
    pub(crate) fn require(&self, name: &'static str, remedy: &str) {
        if !self.has(name) {
            self.wrong(name, "missing", remedy);
        }
    }

    /// Reports what nobody has asked for, and says where the rest stands.
    pub(crate) fn done(self) -> Places {
        let known = self.known.take();
        let places = self.places.take();
        for (name, item) in self.table.iter() {
            if known.contains(&name) {
                continue;
            }
            let at = start(self.key_span(name).or_else(|| item.span()), places.start);
            let listed = known.join(", ");
            let remedy = match known.iter().find(|k| alike(k, name)) {
                Some(near) => format!("did you mean {near}? Known here: {listed}"),
                None => format!("remove it. Known here: {listed}"),
            };
            self.reader.report(at, places.name(name), "unknown setting".to_owned(), remedy);
        }
        places
    }

    /// Takes these settings as known without reading them.
    pub(crate) fn ask_nothing_of(&self, names: &[&'static str]) {
        self.known.borrow_mut().extend(names);
    }

    fn key_span(&self, name: &str) -> Option<Range<usize>> {
        self.table.get_key_value(name).and_then(|(key, _)| key.span())
    }

    fn item(&self, name: &'static str) -> Option<(&'a Item, usize)> {
        self.known.borrow_mut().push(name);
        let item = self.table.get(name)?;
        let mut places = self.places.borrow_mut();
        let at = start(item.span().or_else(|| self.key_span(name)), places.start);
        places.fields.insert(name, (at, HashMap::new()));
        Some((item, at))
    }

    /// A table of its own: `[name]`, or `name = { … }`.
    pub(crate) fn table(&self, name: &'static str) -> Option<Section<'a>> {
        let (item, at) = self.item(name)?;
        let path = self.places.borrow().name(name);
        match item.as_table_like() {
            Some(table) => Some(Section::new(self.reader, table, path, at)),
            None => {
                let found = if item.is_array_of_tables() { "list of tables" } else { item.type_name() };
                self.wrong_type(at, name, found, &format!("one table, [{path}]"));
                None
            }
        }
    }

    /// One table or a list of them: `[name]` or `[[name]]`.
    pub(crate) fn one_or_more(&self, name: &'static str) -> Vec<Section<'a>> {
        let several = |item: &Item| item.is_array_of_tables() || item.is_array();
        match self.table.get(name).is_some_and(several) {
            true => self.tables(name),
            false => self.table(name).into_iter().collect(),
        }
    }

    /// A list of tables: `[[name]]`, or `name = [{ … }]`.
    pub(crate) fn tables(&self, name: &'static str) -> Vec<Section<'a>> {
        let Some((item, at)) = self.item(name) else { return Vec::new() };
        let path = self.places.borrow().name(name);
        let section = |n: usize, table, at| Section::new(self.reader, table, format!("{path}[{n}]"), at);
        if let Some(tables) = item.as_array_of_tables() {
            return tables.iter().enumerate().map(|(n, t)| section(n, t as _, start(t.span(), at))).collect();
        }
        let wanted = format!("[[{path}]] above each");
        let Some(list) = item.as_array() else {
            self.wrong_type(at, name, item.type_name(), &wanted);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (n, value) in list.iter().enumerate() {
            let at = start(value.span(), at);
            match value.as_inline_table() {
                Some(table) => sections.push(section(n, table as _, at)),
                None => self.wrong_type(at, &format!("{name}[{n}]"), value.type_name(), &wanted),
            }
        }
        sections
    }

    /// Any value but a table.
    pub(crate) fn value(&self, name: &'static str, wanted: &str) -> Option<Found<&'a Value>> {
        let (item, at) = self.item(name)?;
        match item.as_value() {
            Some(value) => Some(Found { value, at }),
            None => {
                self.wrong_type(at, name, "table", wanted);
                None
            }
        }
    }

    /// Text.
    pub(crate) fn text(&self, name: &'static str, wanted: &str) -> Option<Found<&'a str>> {
        let Found { value, at } = self.value(name, wanted)?;
        match value.as_str() {
            Some(value) => Some(Found { value, at }),
            None => {
                self.wrong_type(at, name, value.type_name(), wanted);
                None
            }
        }
    }

    /// An integer within the range.
    pub(crate) fn integer(&self, name: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let Found { value, at } = self.value(name, &in_range(&range))?;
        self.integer_at(value, at, name, &range)
    }

    fn integer_at(&self, value: &Value, at: usize, name: &str, range: &RangeInclusive<i64>) -> Option<i64> {
        match value.as_integer() {
            Some(value) if range.contains(&value) => return Some(value),
            Some(value) => {
                let reason = format!("{value} is not within {} to {}", range.start(), range.end());
                self.wrong_at(at, name, reason, "choose a number in that range");
            }
            None => self.wrong_type(at, name, value.type_name(), &in_range(range)),
        }
        None
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, name: &'static str) -> Option<bool> {
        let Found { value, at } = self.value(name, "true or false")?;
        if value.as_bool().is_none() {
            self.wrong_type(at, name, value.type_name(), "true or false");
        }
        value.as_bool()
    }

    /// One of some words.
    pub(crate) fn choice<T: Clone>(&self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let listed: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let wanted = listed.join(" or ");
        let Found { value, at } = self.text(name, &wanted)?;
        let chosen = choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| choice.clone());
        if chosen.is_none() {
            self.wrong_at(at, name, format!("{value:?} is not among the choices"), format!("write {wanted}"));
        }
        chosen
    }

    /// Text that is read as a `T`.
    pub(crate) fn parsed<T: FromStr>(&self, name: &'static str, wanted: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let Found { value, at } = self.text(name, wanted)?;
        let refuse = |why| self.wrong_at(at, name, quoted(value, &why), format!("write {wanted}"));
        value.parse().map_err(refuse).ok()
    }

    /// The elements of a list.
    fn list(&self, name: &'static str, wanted: &str) -> Option<Vec<Found<&'a Value>>> {
        let Found { value, at } = self.value(name, wanted)?;
        let Some(list) = value.as_array() else {
            self.wrong_type(at, name, value.type_name(), wanted);
            return None;
        };
        let items: Vec<_> = list.iter().map(|value| Found { value, at: start(value.span(), at) }).collect();
        if let Some((_, places)) = self.places.borrow_mut().fields.get_mut(name) {
            *places = items.iter().enumerate().map(|(n, item)| (Part::Item(n), item.at)).collect();
        }
        Some(items)
    }

    /// A list of texts that are read as `T`.
    pub(crate) fn parsed_list<T: FromStr>(&self, name: &'static str, wanted: &str) -> Option<Vec<T>>
    where
        T::Err: Display,
    {
        let mut values = Vec::new();
        for (n, Found { value, at }) in self.list(name, wanted)?.into_iter().enumerate() {
            let element = format!("{name}[{n}]");
            match value.as_str().map(|text| (text, text.parse())) {
                Some((_, Ok(value))) => values.push(value),
                Some((text, Err(why))) => {
                    self.wrong_at(at, &element, quoted(text, &why), format!("write {wanted}"));
                }
                None => self.wrong_type(at, &element, value.type_name(), wanted),
            }
        }
        Some(values)
    }

    /// A table of texts that are read as `T`, whose keys are the file's: `name = { KEY = "…" }`.
    pub(crate) fn parsed_map<T: FromStr>(
        &self,
        name: &'static str,
        wanted: &str,
    ) -> Option<BTreeMap<String, T>>
    where
        T::Err: Display,
    {
        let (item, at) = self.item(name)?;
        let Some(table) = item.as_table_like() else {
            let found = if item.is_array_of_tables() { "list of tables" } else { item.type_name() };
            self.wrong_type(at, name, found, &format!("a table such as {{ blue = {wanted} }}"));
            return None;
        };
        let mut values = BTreeMap::new();
        for (key, item) in table.iter() {
            let part = Part::Key(key.to_owned());
            let at = start(item.span(), at);
            let element = format!("{name}{part}");
            if let Some((_, places)) = self.places.borrow_mut().fields.get_mut(name) {
                places.insert(part, at);
            }
            match item.as_str().map(|text| (text, text.parse())) {
                Some((_, Ok(value))) => drop(values.insert(key.to_owned(), value)),
                Some((text, Err(why))) => {
                    self.wrong_at(at, &element, quoted(text, &why), format!("write {wanted}"));
                }
                None => self.wrong_type(at, &element, item.type_name(), wanted),
            }
        }
        Some(values)
    }

    /// A list of integers within the range.
    pub(crate) fn integer_list(
        &self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Option<Vec<Found<i64>>> {
        let items = self.list(name, &format!("a list such as [{}]", range.start()))?.into_iter().enumerate();
        let read = |(n, Found { value, at }): (usize, Found<&Value>)| {
            let value = self.integer_at(value, at, &format!("{name}[{n}]"), &range)?;
            Some(Found { value, at })
        };
        Some(items.filter_map(read).collect())
    }
}

fn start(span: Option<Range<usize>>, otherwise: usize) -> usize {
    span.map_or(otherwise, |s| s.start)
}

fn in_range(range: &RangeInclusive<i64>) -> String {
    format!("an integer within {} to {}", range.start(), range.end())
}

/// The reason that a parser gives, with the text if the reason does not quote it.
fn quoted(text: &str, why: &dyn Display) -> String {
    let why = why.to_string();
    if why.contains(text) && !text.is_empty() { why } else { format!("{text:?}: {why}") }
}

/// True if two names differ by one letter, by case, or by `-` for `_`.
fn alike(known: &str, given: &str) -> bool {
    let given = given.to_lowercase().replace('-', "_");
    let (a, b) = (known.as_bytes(), given.as_bytes());
    let front = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let back = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    a.len().abs_diff(b.len()) <= 1 && front + back + 1 >= a.len().max(b.len())
}
