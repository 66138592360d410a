//! The control side of weftd: source → [`model`] → validate → [`compile`] → publish, and the [`api`].

pub mod api;
pub mod compile;
pub mod model;
