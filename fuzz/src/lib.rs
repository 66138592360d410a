//! What the fuzz targets share. The targets themselves are in `fuzz_targets/`, one for each door by which bytes come
//! in; the README beside says how they are run.
//!
//! | file | |
//! |---|---|
//! | [`wire`] | what every wire format is asked: getters, setters, both ways |
//! | [`sum`] | checksums, counted the slow way: nothing here believes the code that it looks at |
//! | [`frames`] | frames as real senders make them, and what is done to spoil them |
//! | [`tables`] | a node, and the tables that are made of it |
//! | [`lot`] | such a node, drawn by lot, and what changes about it |
//! | [`ways`] | what those tables say, found the slow way |
//! | [`cast`] | who may stand in the frames that such a node gets |
//! | [`look`] | a frame as etherparse reads it |
//! | [`cut`] | what whoever sends an unfinished frame makes of it |
//! | [`verdict`] | whether a frame may leave by a port |
//! | [`answers`] | whether a frame is the switch's own |

pub mod answers;
pub mod cast;
pub mod cut;
pub mod frames;
pub mod look;
pub mod lot;
pub mod sum;
pub mod tables;
pub mod verdict;
pub mod ways;
pub mod wire;
