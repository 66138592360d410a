//! What is wrong with what others wrote: each thing is logged once, and again only after it was right or has changed.

use std::collections::HashMap;
use tracing::warn;

/// What was said of what. Between two calls of [`Complaints::end`] everything that is wrong is named.
#[derive(Debug, Default)]
pub struct Complaints {
    told: HashMap<String, String>,
    now: HashMap<String, String>,
}

impl Complaints {
    /// Says what is wrong, if that is news.
    pub fn say(&mut self, about: &str, what: impl Into<String>) {
        let what = what.into();
        if self.told.get(about) != Some(&what) && self.now.get(about) != Some(&what) {
            warn!("{about}: {what}");
        }
        self.now.insert(about.to_owned(), what);
    }

    /// All that is wrong has been said: what was not named is right again.
    pub fn end(&mut self) {
        self.told = std::mem::take(&mut self.now);
    }

    /// How much is wrong, as of the last [`Complaints::end`].
    pub fn count(&self) -> usize {
        self.told.len()
    }
}
