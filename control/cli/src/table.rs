//! Aligned columns, and numbers for people.

use crate::view::Form;

/// A table in the making: words are aligned to the left, numbers to the right.
pub(crate) struct Table {
    form: Form,
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    heading: String,
    right: bool,
    /// Only where there is room.
    wide: bool,
}

impl Table {
    /// With these headings; one that starts with `>` is of a column of numbers, one with `+` in front of that of a column
    /// that is shown only in the wide form.
    pub(crate) fn new(form: Form, headings: &[&str]) -> Self {
        let columns = headings.iter().map(|heading| {
            let (wide, heading) = heading.strip_prefix('+').map_or((false, *heading), |rest| (true, rest));
            let (right, heading) = heading.strip_prefix('>').map_or((false, heading), |rest| (true, rest));
            Column { heading: heading.to_owned(), right, wide }
        });
        Self { form, columns: columns.collect(), rows: Vec::new() }
    }

    /// One row; as many cells as there are headings.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// Lines without spaces at their ends.
    pub(crate) fn render(&self) -> String {
        let headings = self.form.headings.then(|| self.columns.iter().map(|c| c.heading.clone()).collect());
        let rows: Vec<&Vec<String>> = headings.iter().chain(&self.rows).collect();
        let shown: Vec<(usize, &Column, usize)> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| self.form.wide || !column.wide)
            .map(|(index, column)| {
                let lengths = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
                (index, column, lengths.max().unwrap_or(0))
            })
            .collect();
        let mut out = String::new();
        for row in rows {
            let mut line = String::new();
            for (place, (index, column, width)) in shown.iter().enumerate() {
                let cell = row.get(*index).map(String::as_str).unwrap_or_default();
                if place > 0 {
                    line.push_str("  ");
                }
                line += &if column.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Room for the longest of the usual keys: lines stay where they are when a longer one comes and goes.
const KEY: usize = 12;

/// Keys and values, one pair a line.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0).max(KEY) + 2;
    pairs.iter().map(|(key, value)| format!("{key:<width$}{}\n", printable(value))).collect()
}

/// Without the characters that would do something to a terminal: names and messages come from files and guests.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The items with commas, or a dash for none.
pub(crate) fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// The item, or a dash for none.
pub(crate) fn or_dash<T: ToString>(item: Option<T>) -> String {
    item.map_or_else(|| "-".to_owned(), |item| item.to_string())
}

/// Bytes in units of 1024, three digits or four.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // Not 1024: what rounds to it belongs to the next unit.
    while value >= 1023.95 {
        let Some(next) = units.next() else { break };
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Events a second, in thousands and millions from some size on.
pub(crate) fn rate(per_second: f64) -> String {
    const UNITS: [&str; 4] = ["", "k", "M", "G"];
    let (mut value, mut unit) = (per_second, 0);
    // Not 1000: what rounds to it belongs to the next unit.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0}") } else { format!("{value:.1}{}", UNITS[unit]) }
}

/// Seconds in the two largest units that are not zero.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_where_they_end() {
        let render = |wide, headings| {
            let mut table = Table::new(Form { wide, headings }, &["NAME", ">COUNT", "+>MORE", "NOTE"]);
            table.row(vec!["a".into(), "12345678".into(), "5".into(), "".into()]);
            table.row(vec!["größer\x1b".into(), "1".into(), "6".into(), "x".into()]);
            table.render()
        };
        assert_eq!(render(false, true), "NAME        COUNT  NOTE\na        12345678\ngrößer?         1  x\n");
        assert_eq!(render(true, false), "a        12345678  5\ngrößer?         1  6  x\n");
    }

    #[test]
    fn a_first_cell_may_be_empty() {
        let mut table = Table::new(Form { wide: false, headings: true }, &["A", "B"]);
        table.row(vec!["".into(), "x".into()]);
        assert_eq!(table.render(), "A  B\n   x\n");
    }

    #[test]
    fn rates_stay_short() {
        for (per_second, text) in
            [(0.0, "0"), (999.4, "999"), (999.96, "1.0k"), (1_234_567.0, "1.2M"), (4.2e13, "42000.0G")]
        {
            assert_eq!(rate(per_second), text);
        }
    }

    #[test]
    fn bytes_stay_short() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3599, "59m 59s"), (3600, "1h 0m"), (90_000, "1d 1h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
