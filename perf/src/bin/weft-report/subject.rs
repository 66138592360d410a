//! Who is measured.

use serde::Deserialize;

/// The switches that take turns, in the order of tables and plots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// Frames from port to port, untouched: the floor.
    TestpmdIo,
    /// The same with MAC addresses rewritten.
    TestpmdMac,
    OvsDpdk,
    Weft,
}

impl Subject {
    pub(crate) const ALL: [Self; 4] = [Self::TestpmdIo, Self::TestpmdMac, Self::OvsDpdk, Self::Weft];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TestpmdIo => "testpmd-io",
            Self::TestpmdMac => "testpmd-mac",
            Self::OvsDpdk => "ovs-dpdk",
            Self::Weft => "weft",
        }
    }

    /// Those that occur, in their order.
    pub(crate) fn among(found: impl Iterator<Item = Self>) -> Vec<Self> {
        let found: Vec<Self> = found.collect();
        Self::ALL.into_iter().filter(|subject| found.contains(subject)).collect()
    }
}
