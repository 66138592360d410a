//! The router from outside: packets by bytes on four sides of it, and what each changes in the counters.

mod errors;
mod forward;
mod fragment;
mod gateway;
mod kernel;
mod linux;
mod networks;
mod routes;
mod smoltcp;
pub(crate) mod too_big;
mod underlay;
