//! The answers as tables.

mod counters;
mod pods;
mod status;
mod tables;

use crate::purge::Report;
use crate::table::printable;
use crate::view::{Form, Show};

impl Show for Report {
    fn show(&self, _: Form) -> String {
        if self.devices.is_empty() && self.files.is_empty() && !self.rules {
            return "nothing of weft's was left\n".to_owned();
        }
        let devices = self.devices.iter().map(|device| format!("removed device {}\n", printable(device)));
        let files = self.files.iter().map(|file| format!("removed {}\n", printable(&file.to_string_lossy())));
        let rules = self.rules.then(|| "removed the rules for pods' packets\n".to_owned());
        devices.chain(rules).chain(files).collect()
    }
}

/// `yes` or `no`.
fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}
