//! A rig's part of the report.

use crate::goal::Goal;
use crate::plot::Plot;

/// Text, plots and what is asked for.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) parts: Vec<Part>,
    pub(crate) goals: Vec<Goal>,
}

#[derive(Debug)]
pub(crate) enum Part {
    /// Markdown.
    Text(String),
    Plot(Plot),
}

impl Section {
    pub(crate) fn new(title: &'static str) -> Self {
        Self { title, parts: Vec::new(), goals: Vec::new() }
    }

    /// A paragraph or a table.
    pub(crate) fn say(&mut self, text: &str) {
        self.parts.push(Part::Text(format!("{}\n", text.trim_end())));
    }

    pub(crate) fn head(&mut self, text: &str) {
        self.say(&format!("### {text}"));
    }

    pub(crate) fn plots(&self) -> impl Iterator<Item = &Plot> {
        self.parts.iter().filter_map(|part| match part {
            Part::Plot(plot) => Some(plot),
            Part::Text(_) => None,
        })
    }

    pub(crate) fn plot(&mut self, plot: Plot) {
        self.parts.push(Part::Plot(plot));
    }
}
