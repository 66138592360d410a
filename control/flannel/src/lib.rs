//! What flannel is seen by: its configuration, its leases, its file for CNI plugins, and the two stores that its nodes
//! meet in. A cluster's other nodes may run flanneld, so every byte that others read is as flanneld writes it.
//!
//! Read [`store`] first: it says what both stores offer.

pub mod allocate;
pub mod complaints;
pub mod etcd;
pub mod flags;
pub mod go_json;
pub mod kube;
pub mod lease;
pub mod net_conf;
pub mod store;
pub mod subnet_env;
