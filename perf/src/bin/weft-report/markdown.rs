//! Numbers, texts and tables as Markdown has them.

use crate::field::Median;

/// Text from rows, so that it can't become markup.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '!' | '#' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

/// Three significant digits: `0.0123`, `1.23`, `12.3`, `1230`.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let exponent = value.abs().log10().floor() as i32;
    let decimals = (2 - exponent).clamp(0, 9) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// A ratio: two decimals.
pub(crate) fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

/// A share in per cent: `0.034` is `3.4 %`.
pub(crate) fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value.abs() < 9.95 { format!("{value:.1} %") } else { format!("{value:.0} %") }
}

/// `12.3 (2.1 %)`: a median and its spread.
pub(crate) fn median(median: &Median) -> String {
    match median.rounds {
        0 => number(median.value),
        1 => format!("{} (1 round)", number(median.value)),
        2 => format!("{} ({}, 2 rounds)", number(median.value), percent(median.spread())),
        _ => format!("{} ({})", number(median.value), percent(median.spread())),
    }
}

/// `1000000` is `1,000,000`.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A text that begins with a capital letter.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// A table: text to the left, numbers to the right.
pub(crate) struct Table {
    head: Vec<String>,
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self { head: head.into_iter().map(Into::into).collect(), lines: Vec::new() }
    }

    pub(crate) fn line<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.lines.push(cells.into_iter().map(Into::into).collect());
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut out = format!("| {} |\n|", self.head.join(" | "));
        for column in 0..self.head.len() {
            let cells = || self.lines.iter().filter_map(|line| line.get(column));
            let number =
                |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit() || "+-–≥≤".contains(c));
            out.push_str(if cells().all(number) { "---:|" } else { "---|" });
        }
        out.push('\n');
        for line in &self.lines {
            out.push_str(&format!("| {} |\n", line.join(" | ")));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_mean_something() {
        let shown = [0.0, 0.012345, 1.2345, 12.0, 12.345, 999.9, 12345.6].map(number);
        assert_eq!(shown, ["0", "0.0123", "1.23", "12", "12.3", "1000", "12346"]);
        assert_eq!(
            [0.0, 0.034, 0.0994, 0.0999, 1.2].map(percent),
            ["0.0 %", "3.4 %", "9.9 %", "10 %", "120 %"]
        );
        assert_eq!([0, 999, 1000, 1_000_000].map(count), ["0", "999", "1,000", "1,000,000"]);
    }

    #[test]
    fn text_can_not_become_markup() {
        assert_eq!(escaped("a|b <img src=x> [x](y) `z`"), "a\\|b &lt;img src=x> \\[x\\](y) \\`z\\`");
    }
}
