//! What a configuration and the node's subnet together ask for: where addresses come from, and what a pod gets with them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Map, Value};

use crate::attach::clean;
use crate::conf::Conf;
use crate::environment::{Call, Command};
use crate::error::{Error, code};
use crate::flannel::{HOST_LOCAL, SubnetEnv, gateway_of};
use crate::host_local::Store;
use crate::ipam::{Delegate, For};
use crate::result::{CniResult, Ip, Route};

/// Where addresses come from.
pub(crate) enum Addressing {
    /// The caller names them.
    Static,
    /// Another plugin gives them, by this `ipam`.
    Plugin(Map<String, Value>),
}

/// All that is asked for beside the attachment itself.
pub(crate) struct Plan {
    pub(crate) addressing: Addressing,
    /// The pod's MTU, where it is to be less than the network's.
    pub(crate) mtu: Option<u32>,
    pub(crate) default_route: bool,
    /// What the node's subnet was read from, where it was needed.
    pub(crate) env: Option<SubnetEnv>,
}

/// Whether the ranges have to come from the node's subnet.
fn needs_subnet(conf: &Conf) -> bool {
    let Some(ipam) = &conf.ipam else { return true };
    let kind = ipam.get("type").and_then(Value::as_str).unwrap_or_default();
    let ranged = ["ranges", "subnet"].iter().any(|key| ipam.get(*key).is_some_and(|value| !value.is_null()));
    kind == HOST_LOCAL && !ranged && !conf.has_ranges_at_runtime()
}

impl Plan {
    pub(crate) fn new(conf: &Conf) -> Result<Self, Error> {
        let env = match conf.is_flannel || needs_subnet(conf) {
            true => Some(SubnetEnv::read(&conf.subnet_file())?),
            false => None,
        };
        let addressing = match (&env, &conf.ipam) {
            (Some(env), given) => Addressing::Plugin(env.ipam(given.as_ref())),
            (None, Some(ipam)) if ipam.get("type").is_some() => Addressing::Plugin(ipam.clone()),
            (None, _) => Addressing::Static,
        };
        Ok(Self {
            addressing,
            mtu: conf.own.mtu.or(env.as_ref().map(|env| env.mtu)).filter(|mtu| *mtu != 0),
            // flannel's own default is the bridge plugin's.
            default_route: conf.own.is_default_gateway.unwrap_or(!conf.is_flannel),
            env,
        })
    }

    /// Has addresses given to the container. The prefix lengths are those of the node's subnets.
    pub(crate) fn give(&self, conf: &Conf, call: &Call) -> Result<CniResult, Error> {
        let mut result = match &self.addressing {
            Addressing::Plugin(ipam) => {
                let printed =
                    Delegate::get(plugin(ipam)?, call)?.run(Command::Add, &told(conf, ipam), None)?;
                let value = serde_json::from_slice(&printed).map_err(|error| {
                    Error::new(code::DELEGATE, format!("the IPAM plugin's answer is no JSON: {error}"))
                })?;
                CniResult::parse(value, "the IPAM plugin's answer")?
            }
            Addressing::Static => {
                let ips = conf.static_ips(call)?.into_iter().map(|address| {
                    let gateway =
                        (address.prefix_len() < address.max_prefix_len()).then(|| gateway_of(&address));
                    Ip { version: None, interface: None, address, gateway }
                });
                CniResult { ips: ips.collect(), ..CniResult::default() }
            }
        };
        if result.ips.is_empty() {
            let msg = "the pod gets no address: name an IPAM plugin in 'ipam', or addresses (capability ips)";
            return Err(Error::new(code::CONFIG, msg));
        }
        self.complete_routes(&mut result)?;
        Ok(result)
    }

    /// Gives each route its next hop, and adds the default routes, as the bridge plugin does.
    fn complete_routes(&self, result: &mut CniResult) -> Result<(), Error> {
        let gateways: Vec<IpAddr> = result.ips.iter().filter_map(|ip| ip.gateway).collect();
        let of_family =
            |net: &IpNet| gateways.iter().copied().find(|ip| ip.is_ipv4() == net.addr().is_ipv4());
        for route in &mut result.routes {
            for key in ["table", "scope", "mtu", "advmss", "priority"] {
                if let Some(value) = route.more.get(key).filter(|value| !value.is_null()) {
                    let msg = format!(
                        "routes: {key} {value} of the route to {}: weft makes plain routes only",
                        route.dst
                    );
                    return Err(Error::new(code::UNSUPPORTED, msg));
                }
            }
            route.gw = route.gw.or_else(|| of_family(&route.dst));
        }
        if self.default_route {
            for all in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
                if let Some(gw) =
                    of_family(&all).filter(|_| !result.routes.iter().any(|route| route.dst == all))
                {
                    result.routes.push(Route { dst: all, gw: Some(gw), more: Map::new() });
                }
            }
        }
        Ok(())
    }

    /// Has the IPAM plugin do something that is no ADD, if there is one.
    pub(crate) fn ask(&self, command: Command, conf: &Conf, call: &Call) -> Result<(), Error> {
        match &self.addressing {
            Addressing::Static => Ok(()),
            Addressing::Plugin(ipam) => {
                let delegate = Delegate::get(plugin(ipam)?, call)?;
                match command {
                    Command::Status | Command::Gc => delegate.run_if_known(command, &told(conf, ipam)),
                    _ => delegate.run(command, &told(conf, ipam), None).map(|_| ()),
                }
            }
        }
    }
}

/// Releases a container's addresses, whatever the node's subnet is by now. `kept` is what is known of how it got them.
pub(crate) fn release(
    conf: &Conf,
    call: &Call,
    kept: Option<&Map<String, Value>>,
    other: Option<For<'_>>,
) -> Result<(), Error> {
    let ipam = match kept {
        Some(ipam) => ipam.clone(),
        None => match Plan::new(conf) {
            Ok(Plan { addressing: Addressing::Static, .. }) => return Ok(()),
            Ok(Plan { addressing: Addressing::Plugin(ipam), .. }) => ipam,
            // Without the node's subnet host-local would refuse; its files say enough.
            Err(_) => conf.ipam.clone().unwrap_or_default(),
        },
    };
    release_by(conf, &conf.name, &ipam, call, other)
}

/// The same by a certain `ipam`, in the network of this name.
pub(crate) fn release_by(
    conf: &Conf,
    network: &str,
    ipam: &Map<String, Value>,
    call: &Call,
    other: Option<For<'_>>,
) -> Result<(), Error> {
    let name = ipam.get("type").and_then(Value::as_str).unwrap_or(HOST_LOCAL);
    let mut told = told(conf, ipam);
    told.insert("name".to_owned(), network.into());
    if name == HOST_LOCAL {
        let ranged =
            ["ranges", "subnet"].iter().any(|key| ipam.contains_key(*key)) || conf.has_ranges_at_runtime();
        return match Delegate::find(name, call)? {
            Some(plugin) if ranged => plugin.run(Command::Del, &told, other).map(|_| ()),
            _ => {
                let For { container, ifname } =
                    other.unwrap_or(For { container: &call.container, ifname: &call.ifname });
                Store::of(network, ipam).release(container, ifname)
            }
        };
    }
    Delegate::get(name, call)?.run(Command::Del, &told, other).map(|_| ())
}

/// Releases what containers have that the runtime does not know of any more: host-local has no GC. Goes on after what it can't; why it
/// couldn't.
pub(crate) fn release_leaked(
    conf: &Conf,
    call: &Call,
    ipam: &Map<String, Value>,
    keep: impl Fn(&str, Option<&str>) -> bool,
) -> Vec<Error> {
    if ipam.get("type").and_then(Value::as_str) != Some(HOST_LOCAL) {
        return Vec::new();
    }
    let holders = match Store::of(&conf.name, ipam).holders() {
        Ok(holders) => holders,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for holder in holders {
        if !keep(&holder.container, holder.ifname.as_deref()) {
            let ifname = holder.ifname.as_deref().unwrap_or("eth0");
            // weftd forgets a pod whose namespace is gone: then its addresses alone say that it was there.
            let del = call.del_of(&holder.container, ifname);
            errors.extend(del.and_then(|del| clean(conf, &del, None).err()));
            let other = For { container: &holder.container, ifname };
            errors.extend(release_by(conf, &conf.name, ipam, call, Some(other)).err());
        }
    }
    errors
}

/// What a delegate is told: what came, with the complete `ipam`.
fn told(conf: &Conf, ipam: &Map<String, Value>) -> Map<String, Value> {
    let mut told = conf.raw.clone();
    told.insert("ipam".to_owned(), Value::Object(ipam.clone()));
    told
}

fn plugin(ipam: &Map<String, Value>) -> Result<&str, Error> {
    ipam.get("type")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::new(code::CONFIG, "ipam: its type is no plugin's name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn routes_get_their_next_hops_and_the_default_is_added_once() {
        let result = |routes: Value| {
            let text = json!({"ips": [{"address": "10.244.1.7/24", "gateway": "10.244.1.1"},
                {"address": "fd00::7/64", "gateway": "fd00::1"}], "routes": routes});
            CniResult::parse(text, "it").unwrap()
        };
        let mut plan = Plan { addressing: Addressing::Static, mtu: None, default_route: true, env: None };
        let complete = |plan: &Plan, routes: Value| {
            let mut result = result(routes);
            plan.complete_routes(&mut result)?;
            let shown = result.routes.iter().map(|route| format!("{} {}", route.dst, route.gw.unwrap()));
            Ok::<_, Error>(shown.collect::<Vec<_>>().join(", "))
        };
        assert_eq!(
            complete(&plan, json!([{"dst": "10.244.0.0/16"}])).unwrap(),
            "10.244.0.0/16 10.244.1.1, 0.0.0.0/0 10.244.1.1, ::/0 fd00::1"
        );
        assert_eq!(
            complete(&plan, json!([{"dst": "0.0.0.0/0", "gw": "10.244.1.9"}])).unwrap(),
            "0.0.0.0/0 10.244.1.9, ::/0 fd00::1"
        );
        assert_eq!(complete(&plan, json!([{"dst": "10.0.0.0/8", "table": 5}])).unwrap_err().code, 2);
        plan.default_route = false;
        assert_eq!(complete(&plan, json!(null)).unwrap(), "");
    }
}
