//! What the switch's threads share. Each thing is small and alone in its file; nothing else in the switch is
//! shared between threads and written.
//!
//! | file | who writes | who reads | what a reader pays |
//! |---|---|---|---|
//! | [`snapshot`] | control publishes | every worker, once a burst | one load of a line that is rarely written |
//! | [`ring`] | one worker pushes | one worker pops | one line from the other core per batch |
//! | [`counter`] | the worker that owns it | anyone | a load |
//! | [`learned`] | every worker; control deletes | every worker | two lines that are rarely written |
//! | [`pins`] | every worker; control deletes | every worker | one line while it is empty; else two to four that are rarely written |
//! | [`account`] | every worker that sends to, or takes from, a limited port | the same | a compare and swap for each frame |
//! | [`sleep`] | the worker that goes to sleep; whoever wakes it | whoever hands it something | a fence per batch |
//! | [`prefetch`] | – | – | a hint to the processor, no state |
//! | [`sum`] | – | – | wide registers, no state |
//!
//! # What is proved, and how
//!
//! `tests/loom.rs` has a model of each protocol. loom runs it through the interleavings and the memory orders that
//! the C11 model allows (within a bound of preemptions that each model states), and tracks every access to what the
//! protocol protects: a read that does not *happen before* the drop is found even where no test would crash.
//! Run them by `RUSTFLAGS="--cfg loom" cargo test -p weft-sync --test loom --release`.
//! `tests/stress.rs` runs the same protocols on real threads; it and the unit tests are clean under miri
//! (`cargo +nightly miri test -p weft-sync`).
//!
//! This crate and `weft-ffi` are the only ones with `unsafe`. It knows nothing of packets.

pub mod account;
mod atomics;
pub mod counter;
pub mod learned;
pub mod pins;
pub mod prefetch;
pub mod ring;
pub mod sleep;
pub mod snapshot;
pub mod sum;
