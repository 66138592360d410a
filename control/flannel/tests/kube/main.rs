//! The Kubernetes store against a scripted API server, from outside: what it asks, what it writes, what it tells.

mod access;
mod follow;
mod hostile;
mod lab;
mod own;
mod pods;
mod property;
mod server;
mod size;
