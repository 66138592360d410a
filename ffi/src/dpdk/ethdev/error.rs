//! What can be wrong with a device.

use thiserror::Error;

use crate::dpdk::sys;

/// Why a port is not there, or does not go.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EthError {
    /// Not what DPDK calls device arguments.
    #[error(
        "{0:?} does not name a DPDK device (for example net_null0, net_memif0,role=server or 0000:03:00.0)"
    )]
    Arguments(String),
    /// DPDK is built for so many.
    #[error(
        "device {name}: DPDK is built for {} devices at a time, and as many are in use",
        sys::WEFT_MAX_ETHPORTS
    )]
    TooMany {
        /// The device.
        name: String,
    },
    /// A device of this name exists.
    #[error("device {name} is attached already")]
    Exists {
        /// The device.
        name: String,
    },
    /// No driver wanted it.
    #[error(
        "device {name} could not be attached: {reason}; check that its driver is installed and its arguments are right"
    )]
    Probe {
        /// The device.
        name: String,
        /// DPDK's words.
        reason: String,
    },
    /// The driver has fewer queues.
    #[error("device {name} has {has} {direction} queues, {wanted} were asked for")]
    Queues {
        /// The device.
        name: String,
        /// `rx` or `tx`.
        direction: &'static str,
        /// How many there are.
        has: u16,
        /// How many were asked for.
        wanted: u16,
    },
    /// The driver carries only smaller packets.
    #[error("device {name} carries an MTU of {min} to {max} bytes, {wanted} were asked for")]
    Mtu {
        /// The device.
        name: String,
        /// The least.
        min: u16,
        /// The most.
        max: u16,
        /// What was asked for.
        wanted: u16,
    },
    /// A step of setting it up failed.
    #[error("device {name} could not be set up ({step}): {reason}")]
    Setup {
        /// The device.
        name: String,
        /// Which step.
        step: &'static str,
        /// DPDK's words.
        reason: String,
    },
    /// A queue is still somebody's.
    #[error("device {name} is not closed: {queues} of its queues are still in use")]
    Busy {
        /// The device.
        name: String,
        /// How many.
        queues: usize,
    },
}
