//! What weft reads from and writes to the kernel and the disk of its node.
//!
//! The kernel keeps the control plane of the underlay: [`Mirror`] follows it, level-triggered. [`configure_pod`]
//! and [`configure_host_port`] bring interfaces into a wanted state and change nothing when run again. [`State`]
//! and [`Lock`] are weftd's directory, and [`purge`] takes away whatever weft left on a node.
//!
//! Read `netlink.rs` first: it is the only file that speaks rtnetlink's messages.

mod blackhole;
mod deleted;
mod direct;
mod error;
mod host;
mod lock;
mod masquerade;
mod mirror;
mod neighbour;
mod netlink;
mod netns;
mod pod;
mod purge;
mod route;
mod state;
mod sysctl;
mod underlay;

pub use blackhole::{drop_blackhole_routes, put_blackhole_routes};
pub use deleted::{Deleted, Notes};
pub use direct::{DirectRoute, drop_direct_routes, forwarding_to_set, put_direct_routes};
pub use error::Error;
pub use host::{HostPort, NEXT_HOP_V4, NEXT_HOP_V6, configure_host_port, interface_mtu, local_port_range};
pub use lock::Lock;
pub use masquerade::{Firewall, Keeper, Looked, Pods, Rules};
pub use mirror::{Mirror, Neighbours};
pub use netns::{Crew, inside};
pub use pod::{Made, PodInterface, PodView, configure_pod, look_at_pod, make_pod};
pub use purge::{Purged, delete_link, delete_tap, purge};
pub use route::WEFT_PROTOCOL;
pub use state::{Device, State, StoredAttachment, StoredPod, load_cluster, save_cluster};
pub use sysctl::enable_forwarding;
pub use underlay::{Choice, Path, PathError, Uplink, choose_uplink, default_uplink, uplink};

/// A MAC address as its six bytes.
pub type MacBytes = [u8; 6];
