//! The Kubernetes store against a scripted API server and against the recording of a real one, from outside: what it asks, what
//! it writes, what it tells.

mod access;
mod follow;
mod hostile;
mod lab;
mod own;
mod pods;
mod property;
mod recorded;
mod replay;
mod server;
mod size;
