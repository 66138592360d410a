//! weft-node against a real kernel, in network namespaces that each test makes for itself. Needs root and iproute2.

mod direct;
mod host;
mod lab;
mod mirror;
mod pod;
mod purge;
mod state;
