//! The store in etcd.

use crate::store::{Cluster, Own, StoreError, Update};
use tokio::sync::mpsc;

/// A cluster's store in etcd, version 3.
pub struct Etcd {}

impl Etcd {
    pub(crate) async fn acquire(&mut self, _own: &Own) -> Result<Cluster, StoreError> {
        Err(StoreError::Settings("etcd is still to come".to_owned()))
    }

    pub(crate) async fn run(self, _updates: mpsc::Sender<Update>) {}
}
