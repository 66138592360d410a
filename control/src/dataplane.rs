//! Owns the dataplane: DPDK, the workers' threads, the ports, and the publication of snapshots.
//!
//! All of it is used from one task of the control side; nothing here is called by a worker. Where an operation must wait
//! for the workers (a port's removal) it waits asynchronously.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;
use weft_ffi::dpdk::{Eal, EalConfig, EalError, Hugepages, Mempool, MempoolError};
use weft_ffi::kernel::tsc;
use weft_switch::counters::WorkerCounters;
use weft_switch::drivers::{EpollSleeper, Native, NativePool, Tsc, WorkerWaker};
use weft_switch::tables::{Place, Snapshot};
use weft_switch::types::{Generation, MAX_PORTS, PortId};
use weft_switch::worker::{Command, Handle, Idle, Parts, make};
use weft_sync::snapshot::{Publisher, cell};
