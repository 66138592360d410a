//! `net-conf.json`: the cluster's networks and its backend, as flannel reads them from a file or from etcd.

mod backend;
mod range;

#[cfg(test)]
mod tests;

use crate::go_json::{Object, WrongValue};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

pub use backend::{Backend, Vxlan};
pub use range::{Range, Ranges};

/// The configuration that all nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// All IPv4 pod addresses, without host bits. None: `EnableIPv4` is false.
    pub network: Option<Ipv4Net>,
    /// All IPv6 pod addresses, without host bits. None: `EnableIPv6` is not true.
    pub ipv6_network: Option<Ipv6Net>,
    /// Whether masquerading is by nftables in place of iptables.
    pub nftables: bool,
    /// How nodes reach each other.
    pub backend: Backend,
    /// Which subnets nodes take, as it is written: it counts in etcd only, see [`NetConf::ranges`].
    pub subnets: SubnetKeys,
}

/// The `Subnet*` keys as they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubnetKeys {
    /// `SubnetLen`; 0 as none.
    pub length: Option<u8>,
    /// `SubnetMin`.
    pub min: Option<Ipv4Addr>,
    /// `SubnetMax`.
    pub max: Option<Ipv4Addr>,
    /// `IPv6SubnetLen`; 0 as none.
    pub v6_length: Option<u8>,
    /// `IPv6SubnetMin`.
    pub v6_min: Option<Ipv6Addr>,
    /// `IPv6SubnetMax`.
    pub v6_max: Option<Ipv6Addr>,
}

/// What is wrong with a configuration, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetConfError {
    /// It is no JSON object.
    #[error("it is no JSON object: {0}")]
    Json(String),
    /// A key holds something else than it should.
    #[error(transparent)]
    Value(#[from] WrongValue),
    /// A network is missing.
    #[error("{0} is missing: set it, such as {1}")]
    Missing(&'static str, &'static str),
    /// Both families are off.
    #[error("EnableIPv4 and EnableIPv6 are both false: enable one of them")]
    NoFamily,
    /// The backend is none that weft can be.
    #[error("Backend.Type is {found:?}: {reason}")]
    Backend {
        /// The type that was asked for.
        found: String,
        /// Why it is not to be had, and what to do.
        reason: &'static str,
    },
    /// An option of the backend is not to be had.
    #[error("Backend.{key} is true: {reason}")]
    Option {
        /// The key.
        key: &'static str,
        /// Why not, and what to do.
        reason: &'static str,
    },
    /// The subnets do not go with the network.
    #[error("{key} is {found}, with the network {network}: {reason}")]
    Subnet {
        /// The key.
        key: &'static str,
        /// What it holds.
        found: String,
        /// The network that it is to be a part of.
        network: IpNet,
        /// The rule.
        reason: String,
    },
}

impl NetConf {
    /// Reads the text. What concerns subnets is checked by [`NetConf::ranges`], since only etcd's nodes choose theirs.
    ///
    /// # Errors
    /// What is wrong, by its key.
    pub fn parse(text: &str) -> Result<Self, NetConfError> {
        let object = Object::parse(text).map_err(|error| NetConfError::Json(error.to_string()))?;
        let enabled =
            |key, otherwise| -> Result<bool, WrongValue> { Ok(object.get(key)?.unwrap_or(otherwise)) };
        let (v4, v6) = (enabled("EnableIPv4", true)?, enabled("EnableIPv6", false)?);
        if !v4 && !v6 {
            return Err(NetConfError::NoFamily);
        }
        // Both are read even if their family is off: what is no network at all is a mistake in any case.
        let network = object.get::<Ipv4Net>("Network")?.map(|net| net.trunc());
        let ipv6_network = object.get::<Ipv6Net>("IPv6Network")?.map(|net| net.trunc());
        let length =
            |key| -> Result<Option<u8>, WrongValue> { Ok(object.get::<u8>(key)?.filter(|n| *n != 0)) };
        Ok(Self {
            network: match v4 {
                true => Some(network.ok_or(NetConfError::Missing("Network", "\"10.244.0.0/16\""))?),
                false => None,
            },
            ipv6_network: match v6 {
                true => {
                    Some(ipv6_network.ok_or(NetConfError::Missing("IPv6Network", "\"fd00:10:244::/56\""))?)
                }
                false => None,
            },
            nftables: enabled("EnableNFTables", false)?,
            backend: Backend::parse(object.text("Backend"))?,
            subnets: SubnetKeys {
                length: length("SubnetLen")?,
                min: object.get("SubnetMin")?,
                max: object.get("SubnetMax")?,
                v6_length: length("IPv6SubnetLen")?,
                v6_min: object.get("IPv6SubnetMin")?,
                v6_max: object.get("IPv6SubnetMax")?,
            },
        })
    }
}
