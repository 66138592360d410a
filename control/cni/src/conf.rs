//! The network configuration that comes by standard input.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};
use weft_api::{Bandwidth, DEFAULT_SOCKET, DEFAULT_STATE_DIR, Mac};

use crate::environment::{Call, Command, is_name};
use crate::error::{Error, code};
use crate::version::Version;

/// More is no configuration, in bytes: a thousand attachments to be kept by GC are a tenth of this.
pub(crate) const LIMIT: u64 = 4 << 20;

/// Where sockets of guests and DPDK pods are made when nothing else is said.
const SOCKET_DIR: &str = "/run/weft/pods";
/// Where flannel writes what its plugin needs to know.
const SUBNET_FILE: &str = "/run/flannel/subnet.env";
/// Where flannel's plugin remembers its attachments.
const FLANNEL_DIR: &str = "/var/lib/cni/flannel";

/// The rates that can be kept, in bits a second.
const RATES: RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// A burst of so many bits is what kubelets and containerd say where nobody has said one.
const NO_BURST: u64 = i32::MAX as u64;

/// The keys, as far as this plugin looks at them. Everything else is passed on to delegates as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    cni_version: Option<String>,
    name: Option<String>,
    r#type: Option<String>,
    ipam: Option<Map<String, Value>>,
    dns: Option<Map<String, Value>>,
    prev_result: Option<Value>,
    runtime_config: Option<Runtime>,
    args: Option<Args>,
    delegate: Option<Map<String, Value>>,
    #[serde(flatten)]
    own: Own,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Attachment>>,
    #[serde(rename = "cni.dev/attachments")]
    valid_as_tagged: Option<Vec<Attachment>>,
}

/// What says how pods are attached; with the type `flannel` it stands in `delegate`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Own {
    /// How pods are attached.
    pub(crate) attach: Option<Attach>,
    /// The pods' MTU, where it is to be less than the network's.
    pub(crate) mtu: Option<u32>,
    /// Whether pods get a default route.
    pub(crate) is_default_gateway: Option<bool>,
    /// A word of the bridge plugin's.
    pub(crate) ip_masq: Option<bool>,
    /// The same.
    pub(crate) vlan: Option<u32>,
    weftd_socket: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    socket_dir: Option<PathBuf>,
    /// Who makes the sockets, `server` being weft.
    pub(crate) socket_mode: Option<SocketMode>,
    /// The group that may use them.
    pub(crate) socket_group: Option<String>,
    subnet_file: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    /// What the userspace CNI plugin calls the switch's side.
    pub(crate) host: Option<Userspace>,
    pub(crate) shared_dir: Option<PathBuf>,
    pub(crate) kubeconfig: Option<String>,
}

/// How a pod is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attach {
    Tap,
    VhostUser,
    Memif,
}

/// Who makes a socket, seen from weft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SocketMode {
    Client,
    Server,
}

/// `host` of the userspace CNI plugin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Userspace {
    pub(crate) iftype: Option<String>,
    pub(crate) net_type: Option<String>,
    pub(crate) memif: Option<Memif>,
    pub(crate) vhost: Option<Vhost>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Memif {
    pub(crate) role: Option<String>,
    pub(crate) mode: Option<String>,
    pub(crate) socketfile: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Vhost {
    pub(crate) mode: Option<SocketMode>,
    pub(crate) group: Option<String>,
    pub(crate) socketfile: Option<String>,
}

/// `runtimeConfig`: what the runtime has for the capabilities that the configuration declares.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    ips: Option<Vec<String>>,
    mac: Option<String>,
    bandwidth: Option<Map<String, Value>>,
    ip_ranges: Option<Value>,
    port_mappings: Option<Vec<Value>>,
    dns: Option<Map<String, Value>>,
    #[serde(rename = "CNIDeviceInfoFile")]
    device_info: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Args {
    cni: Option<CniArgs>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct CniArgs {
    mac: Option<String>,
    ips: Option<Vec<String>>,
}

/// What the runtime knows of, and GC has to keep.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Attachment {
    #[serde(rename = "containerID")]
    pub(crate) container: String,
    pub(crate) ifname: String,
}

/// A configuration that was read.
#[derive(Debug, Clone)]
pub(crate) struct Conf {
    /// As it came, for delegates.
    pub(crate) raw: Map<String, Value>,
    pub(crate) version: Version,
    pub(crate) name: String,
    /// It is flannel's own, and this program has its plugin's place.
    pub(crate) is_flannel: bool,
    /// Flannel's `delegate`.
    pub(crate) delegate: Map<String, Value>,
    pub(crate) own: Own,
    pub(crate) ipam: Option<Map<String, Value>>,
    pub(crate) prev_result: Option<Value>,
    keys: Keys,
}

/// The version that an answer to this configuration has: its own, if that can be seen and is known.
pub(crate) fn version_of(text: &[u8]) -> Version {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Only {
        cni_version: Option<String>,
    }
    let only = serde_json::from_slice::<Only>(text).ok();
    only.and_then(|only| Version::of(only.cni_version.as_deref()).ok()).unwrap_or(Version::V1_1)
}

impl Conf {
    /// Reads one, and checks that it can be answered: JSON first, then the names, then the version.
    pub(crate) fn read(text: &[u8], call: &Call) -> Result<Self, Error> {
        let decode = |error: serde_json::Error| {
            Error::new(code::DECODE, format!("the configuration on standard input cannot be read: {error}"))
        };
        let raw: Map<String, Value> = serde_json::from_slice(text).map_err(decode)?;
        let keys = Keys::deserialize(Value::Object(raw.clone())).map_err(decode)?;
        let name = keys.name.clone().unwrap_or_default();
        if !is_name(&name) {
            let msg = match name.is_empty() {
                true => "the network configuration has no name".to_owned(),
                false => format!("{name:?} is no name for a network"),
            };
            return Err(Error::new(code::CONFIG, msg));
        }
        call.check_names()?;
        let version = match Version::of(keys.cni_version.as_deref()) {
            // flannel's plugin took older lists, and lists that say no version: the pods that it made must go all the same.
            Err(_) if call.command == Command::Del => Version::OLDEST,
            version => version?,
        };
        version.allows(call.command)?;

        let is_flannel = keys.r#type.as_deref() == Some("flannel");
        let delegate = keys.delegate.clone().unwrap_or_default();
        let own = match is_flannel {
            true => {
                let own = Own::deserialize(Value::Object(delegate.clone())).map_err(decode)?;
                let Own { subnet_file, data_dir, .. } = keys.own.clone();
                Own { subnet_file, data_dir, ..own }
            }
            false => keys.own.clone(),
        };
        let (ipam, prev_result) = (keys.ipam.clone(), keys.prev_result.clone());
        let conf = Self { raw, version, name, is_flannel, delegate, own, ipam, prev_result, keys };
        if call.command == Command::Add {
            conf.check()?;
        }
        Ok(conf)
    }

    /// Refuses what would not be heeded.
    fn check(&self) -> Result<(), Error> {
        let unsupported =
            |what: &str, remedy: &str| Err(Error::new(code::UNSUPPORTED, format!("{what}: {remedy}")));
        if self.is_flannel {
            for key in ["name", "ipam"] {
                if self.delegate.contains_key(key) {
                    return Err(Error::new(
                        code::CONFIG,
                        format!("'delegate' must not have '{key}': flannel sets it"),
                    ));
                }
            }
            match self.delegate.get("type") {
                None => {}
                Some(Value::String(name)) if name == "bridge" || name == "weft-cni" => {}
                Some(other) => {
                    return unsupported(
                        &format!("delegate.type {other}"),
                        "weft takes the place of the bridge plugin only",
                    );
                }
            }
        }
        if self.own.ip_masq == Some(true) {
            return unsupported(
                "ipMasq true",
                "weft-cni translates no addresses; have weftd do it (--ip-masq)",
            );
        }
        if let Some(vlan) = self.own.vlan.filter(|vlan| *vlan != 0) {
            return unsupported(
                &format!("vlan {vlan}"),
                "all pods of a network are on one segment; leave it out",
            );
        }
        if self.own.kubeconfig.is_some() {
            return unsupported("kubeconfig", "weft-cni writes no annotations; name a sharedDir instead");
        }
        let Some(runtime) = &self.keys.runtime_config else { return Ok(()) };
        if runtime.port_mappings.as_ref().is_some_and(|ports| !ports.is_empty()) && !self.is_flannel {
            return unsupported(
                "runtimeConfig.portMappings",
                "this is the work of the portmap plugin: chain it, and declare the capability there",
            );
        }
        self.bandwidth().map(|_| ())
    }

    /// How fast the pod may receive and send. As with the plugin `bandwidth`, 0 is no limit.
    pub(crate) fn bandwidth(&self) -> Result<Bandwidth, Error> {
        let runtime = self.keys.runtime_config.as_ref();
        let limits = runtime.and_then(|runtime| runtime.bandwidth.as_ref());
        let wrong = |key: &str, what: String| {
            Error::new(code::CONFIG, format!("runtimeConfig.bandwidth.{key}: {what}"))
        };
        let number = |key: &str| match limits.and_then(|limits| limits.get(key)) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(bits) => Ok(Some(bits).filter(|bits| *bits > 0)),
                None => Err(wrong(key, format!("{value} is no number of bits"))),
            },
        };
        let pair = |rate: &str, burst: &str| {
            let (bits, at_once) = (number(rate)?, number(burst)?);
            match (bits, at_once) {
                (None, Some(_)) => return Err(wrong(burst, format!("{rate} is missing"))),
                (Some(bits), _) if !RATES.contains(&bits) => {
                    return Err(wrong(rate, format!("{bits} is not within 1,000 and 10^15 bit/s")));
                }
                _ => {}
            }
            // Runtimes that were told no burst say so much, since the plugin `bandwidth` wants one.
            Ok((bits, at_once.filter(|burst| *burst < NO_BURST)))
        };
        let (ingress_rate, ingress_burst) = pair("ingressRate", "ingressBurst")?;
        let (egress_rate, egress_burst) = pair("egressRate", "egressBurst")?;
        Ok(Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst })
    }

    /// weftd's control socket.
    pub(crate) fn weftd_socket(&self) -> PathBuf {
        self.own.weftd_socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    /// weftd's state directory.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.own.state_dir.clone().unwrap_or_else(|| DEFAULT_STATE_DIR.into())
    }

    /// Where sockets are made, in a folder for each container.
    pub(crate) fn socket_dir(&self) -> PathBuf {
        let shared = self.own.shared_dir.clone();
        self.own.socket_dir.clone().or(shared).unwrap_or_else(|| SOCKET_DIR.into())
    }

    /// The file that flannel writes for its plugin.
    pub(crate) fn subnet_file(&self) -> PathBuf {
        self.own.subnet_file.clone().unwrap_or_else(|| SUBNET_FILE.into())
    }

    /// Where flannel's plugin remembers its attachments.
    pub(crate) fn flannel_dir(&self) -> PathBuf {
        self.own.data_dir.clone().unwrap_or_else(|| FLANNEL_DIR.into())
    }

    /// The MAC address that is asked for, the last of the three places that says one.
    pub(crate) fn mac(&self, call: &Call) -> Result<Option<Mac>, Error> {
        let args = self.keys.args.as_ref().and_then(|args| args.cni.as_ref());
        let places = [
            (
                code::CONFIG,
                "runtimeConfig.mac",
                self.keys.runtime_config.as_ref().and_then(|rt| rt.mac.as_deref()),
            ),
            (code::CONFIG, "args.cni.mac", args.and_then(|args| args.mac.as_deref())),
            (code::ENVIRONMENT, "CNI_ARGS: MAC", call.arg("MAC")),
        ];
        let said = places
            .into_iter()
            .find_map(|(code, place, mac)| Some((code, place, mac.filter(|mac| !mac.is_empty())?)));
        said.map(|(code, place, mac)| {
            mac.parse().map_err(|_| Error::new(code, format!("{place}: {mac:?} is no MAC address")))
        })
        .transpose()
    }

    /// The addresses that are asked for, where no plugin gives them; with a prefix length, or as one address.
    pub(crate) fn static_ips(&self, call: &Call) -> Result<Vec<IpNet>, Error> {
        let args = self.keys.args.as_ref().and_then(|args| args.cni.as_ref());
        let runtime = self.keys.runtime_config.as_ref().and_then(|runtime| runtime.ips.as_ref());
        let mut texts: Vec<&str> = runtime.into_iter().flatten().map(String::as_str).collect();
        if texts.is_empty() {
            texts.extend(args.and_then(|args| args.ips.as_ref()).into_iter().flatten().map(String::as_str));
        }
        if texts.is_empty() {
            texts.extend(call.arg("IP").into_iter().flat_map(|ips| ips.split(',')));
        }
        let parsed = texts.into_iter().map(|text| {
            let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map_err(|_| Error::new(code::CONFIG, format!("{text:?} is no address for the container")))
        });
        parsed.collect()
    }

    /// Whether the runtime has ranges for host-local.
    pub(crate) fn has_ranges_at_runtime(&self) -> bool {
        let runtime = self.keys.runtime_config.as_ref();
        runtime.and_then(|runtime| runtime.ip_ranges.as_ref()).is_some_and(|ranges| !ranges.is_null())
    }

    /// Name servers: those of the runtime, or those of the configuration.
    pub(crate) fn dns(&self) -> Option<&Map<String, Value>> {
        let runtime = self.keys.runtime_config.as_ref().and_then(|runtime| runtime.dns.as_ref());
        runtime.or(self.keys.dns.as_ref()).filter(|dns| !dns.is_empty())
    }

    /// Where what a pod of another kind has to know is to be written.
    pub(crate) fn device_info(&self) -> Option<&PathBuf> {
        self.keys.runtime_config.as_ref()?.device_info.as_ref()
    }

    /// What GC has to keep; none if the configuration does not say.
    pub(crate) fn valid_attachments(&self) -> Option<&[Attachment]> {
        self.keys.valid.as_deref().or(self.keys.valid_as_tagged.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(command: &str, args: &str) -> Call {
        let get = |name: &str| match name {
            "CNI_COMMAND" => Some(command.into()),
            "CNI_ARGS" => Some(args.into()),
            "CNI_CONTAINERID" => Some("c1".into()),
            "CNI_IFNAME" => Some("eth0".into()),
            _ => Some("/x".into()),
        };
        Call::read(get).unwrap()
    }

    fn read(conf: Value) -> Result<Conf, Error> {
        Conf::read(conf.to_string().as_bytes(), &call("ADD", ""))
    }

    #[test]
    fn what_is_wrong_is_said_in_the_order_of_the_library() {
        let of = |text: &str| {
            Conf::read(text.as_bytes(), &call("ADD", "")).map(|_| ()).map_err(|error| error.code)
        };
        for text in
            ["", "{", "[]", "7", "null", r#"{"name":7}"#, r#"{"name":"n","cniVersion":"9","ipam":[]}"#]
        {
            assert_eq!(of(text), Err(6), "{text}");
        }
        for text in [r#"{"cniVersion":"9"}"#, r#"{"name":"","cniVersion":"1.0.0"}"#, r#"{"name":"../x"}"#] {
            assert_eq!(of(text), Err(7), "{text}");
        }
        assert_eq!(of(r#"{"name":"n","cniVersion":"9"}"#), Err(1));
        assert_eq!(of(r#"{"name":"n"}"#), Err(1));
        assert_eq!(of(&"[".repeat(100_000)), Err(6));
        for text in [r#"{"name":"n"}"#, r#"{"name":"n","cniVersion":"0.2.0"}"#] {
            assert!(Conf::read(text.as_bytes(), &call("DEL", "")).is_ok(), "{text}");
        }
        let text = r#"{"name":"n","cniVersion":"1.0.0","ipam":null,"runtimeConfig":null,"args":null}"#;
        assert_eq!(of(text), Ok(()));
    }

    #[test]
    fn what_would_not_be_heeded_is_refused_and_named() {
        for (more, key) in [
            (json!({"ipMasq": true}), "ipMasq"),
            (json!({"vlan": 7}), "vlan 7"),
            (json!({"kubeconfig": "/k"}), "kubeconfig"),
            (json!({"runtimeConfig": {"portMappings": [{"hostPort": 80}]}}), "portmap"),
            (json!({"type": "flannel", "delegate": {"type": "macvlan"}}), "macvlan"),
            (json!({"type": "flannel", "delegate": {"ipMasq": true}}), "ipMasq"),
        ] {
            let mut conf = json!({"name": "n", "cniVersion": "1.0.0", "type": "weft-cni"});
            conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let error = read(conf.clone()).unwrap_err();
            assert!(error.code == 2 && error.msg.contains(key), "{conf}: {error:?}");
            // It may be deleted all the same.
            assert!(Conf::read(conf.to_string().as_bytes(), &call("DEL", "")).is_ok());
        }
        let error =
            read(json!({"name": "n", "cniVersion": "1.0.0", "type": "flannel", "delegate": {"ipam": {}}}));
        assert_eq!(error.unwrap_err().code, 7);
        let none =
            json!({"name": "n", "cniVersion": "1.0.0", "runtimeConfig": {"bandwidth": {"ingressRate": 0}}});
        assert!(read(none).is_ok());
    }

    #[test]
    fn bandwidths_are_rates_with_bursts() {
        let of = |bandwidth: Value| {
            read(json!({"name": "n", "cniVersion": "1.0.0", "runtimeConfig": {"bandwidth": bandwidth}}))
                .and_then(|conf| conf.bandwidth())
        };
        let given = json!({"ingressRate": 1_000_000, "ingressBurst": 8000, "egressRate": 5000, "egressBurst": i32::MAX});
        let asked = Bandwidth {
            ingress_rate: Some(1_000_000),
            ingress_burst: Some(8000),
            egress_rate: Some(5000),
            egress_burst: None,
        };
        assert_eq!(of(given), Ok(asked));
        for none in [json!(null), json!({}), json!({"ingressRate": 0, "ingressBurst": 0, "egressRate": null})]
        {
            assert_eq!(of(none), Ok(Bandwidth::default()));
        }
        for wrong in [
            json!({"ingressBurst": 8000}),
            json!({"egressRate": 0, "egressBurst": 8000}),
            json!({"ingressRate": 999}),
            json!({"ingressRate": -5}),
            json!({"ingressRate": "10M"}),
        ] {
            assert_eq!(of(wrong.clone()).map_err(|error| error.code), Err(7), "{wrong}");
        }
    }

    #[test]
    fn the_mac_address_is_the_last_that_is_said() {
        let mut conf = json!({"name": "n", "cniVersion": "1.0.0"});
        let mac = |conf: &Value, args: &str| {
            let call = call("ADD", args);
            let conf = Conf::read(conf.to_string().as_bytes(), &call).unwrap();
            conf.mac(&call).map(|mac| mac.map(|mac| mac.to_string()))
        };
        let args = "MAC=02:00:00:00:00:01";
        assert_eq!(mac(&conf, ""), Ok(None));
        assert_eq!(mac(&conf, args).unwrap().unwrap(), "02:00:00:00:00:01");
        conf["args"] = json!({"cni": {"mac": "02:00:00:00:00:02"}});
        assert_eq!(mac(&conf, args).unwrap().unwrap(), "02:00:00:00:00:02");
        conf["runtimeConfig"] = json!({"mac": "02:00:00:00:00:03"});
        assert_eq!(mac(&conf, args).unwrap().unwrap(), "02:00:00:00:00:03");
        conf["runtimeConfig"] = json!({"mac": "02:00"});
        assert_eq!(mac(&conf, args).unwrap_err().code, 7);
    }

    #[test]
    fn gc_takes_both_names_of_its_key() {
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let conf =
                json!({"name": "n", "cniVersion": "1.1.0", key: [{"containerID": "a", "ifname": "eth0"}]});
            let conf = read(conf).unwrap();
            let kept = Attachment { container: "a".to_owned(), ifname: "eth0".to_owned() };
            assert_eq!(conf.valid_attachments(), Some(&[kept][..]));
        }
        assert_eq!(read(json!({"name": "n", "cniVersion": "1.1.0"})).unwrap().valid_attachments(), None);
    }
}
