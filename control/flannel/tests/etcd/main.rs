//! The etcd store against a real etcd.

mod acquire;
mod follow;
mod lab;
mod secure;
