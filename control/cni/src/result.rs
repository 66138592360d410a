//! The answer to ADD, in the words of every version: this plugin's own, a delegate's, and that of the plugins before.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, code};
use crate::version::Version;

/// A result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CniResult {
    #[serde(default)]
    pub(crate) cni_version: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) ips: Vec<Ip>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) routes: Vec<Route>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) dns: Map<String, Value>,
}

/// An interface that a plugin made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) socket_path: Option<String>,
    /// What later versions add.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ip {
    /// Which family, in versions before 1.0.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
    pub(crate) address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
}

/// A route inside the container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    /// What version 1.1.0 added: table, scope, priority and the like.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

/// Go writes null for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

impl CniResult {
    /// Reads one that another plugin made; `whose` is for the message.
    pub(crate) fn parse(value: Value, whose: &str) -> Result<Self, Error> {
        if !value.is_object() {
            return Err(Error::new(code::DECODE, format!("{whose} is no JSON object")));
        }
        serde_json::from_value(value)
            .map_err(|error| Error::new(code::DECODE, format!("{whose} cannot be read: {error}")))
    }

    /// As this version has it.
    pub(crate) fn in_version(mut self, version: Version) -> Self {
        self.cni_version = version.text().to_owned();
        for ip in &mut self.ips {
            let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            ip.version = (version < Version::V1_0).then(|| family.to_owned());
        }
        if version < Version::V1_1 {
            for interface in &mut self.interfaces {
                (interface.mtu, interface.socket_path) = (None, None);
                interface.more.clear();
            }
            self.routes.iter_mut().for_each(|route| route.more.clear());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn result() -> CniResult {
        let text = json!({
            "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1450, "sandbox": "/n",
                "socketPath": "/s", "pciID": "x"}],
            "ips": [{"address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 0}, {"address": "fd00::7/64"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1", "priority": 5}],
            "dns": null
        });
        CniResult::parse(text, "it").unwrap()
    }

    #[test]
    fn each_version_has_its_own_fields() {
        let new = serde_json::to_value(result().in_version(Version::V1_1)).unwrap();
        assert_eq!(
            new,
            json!({"cniVersion": "1.1.0",
                "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1450, "sandbox": "/n",
                    "socketPath": "/s", "pciID": "x"}],
                "ips": [{"address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 0}, {"address": "fd00::7/64"}],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1", "priority": 5}], "dns": {}})
        );
        let old = serde_json::to_value(result().in_version(Version::of(Some("0.3.1")).unwrap())).unwrap();
        assert_eq!(
            old,
            json!({"cniVersion": "0.3.1",
                "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/n"}],
                "ips": [{"version": "4", "address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 0},
                    {"version": "6", "address": "fd00::7/64"}],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}], "dns": {}})
        );
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for wrong in
            [json!(null), json!([]), json!({"ips": [{}]}), json!({"ips": [{"address": "10.0.0.300/8"}]})]
        {
            assert_eq!(CniResult::parse(wrong, "it").unwrap_err().code, 6);
        }
    }
}
