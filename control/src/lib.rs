//! The control side of weftd.

pub mod api;
