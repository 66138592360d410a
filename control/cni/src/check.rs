//! CHECK: is the attachment still as it was made?

use weft_api::PodState;

use crate::attach::pod_name;
use crate::conf::Conf;
use crate::environment::{Call, Command};
use crate::error::{Error, code};
use crate::flannel::Kept;
use crate::netns;
use crate::plan::Plan;
use crate::result::CniResult;
use crate::weftd::Weftd;

pub(crate) fn check(conf: &Conf, call: &Call) -> Result<(), Error> {
    // flannel's plugin never looked at its pods.
    if Kept::of_attachment(conf, call)?.is_some_and(|kept| !kept.is_ours()) {
        return Ok(());
    }
    let Some(before) = conf.prev_result.clone().filter(|before| !before.is_null()) else {
        return Err(Error::new(code::CONFIG, "required prevResult missing"));
    };
    let before = CniResult::parse(before, "prevResult")?;
    let netns = call.netns.clone().unwrap_or_default();
    netns::check(&netns)?;
    Plan::new(conf)?.ask(Command::Check, conf, call)?;

    let wrong = |what: String| Err(Error::new(code::NOT_AS_MADE, format!("{}: {what}", call.ifname)));
    let name = pod_name(&call.container, &call.ifname);
    let Some(pod) = Weftd::new(conf).pod(&name)? else {
        return wrong("weftd does not know of it".to_owned());
    };
    if pod.state == PodState::Failed {
        return wrong(pod.error.unwrap_or_else(|| "its port is not open".to_owned()));
    }
    let sandbox = netns.display().to_string();
    let ours =
        before.interfaces.iter().position(|there| there.name == call.ifname && there.sandbox == sandbox);
    let Some((index, interface)) = ours.and_then(|index| Some((index, before.interfaces.get(index)?))) else {
        return wrong("prevResult does not have it".to_owned());
    };
    let addresses: Vec<_> =
        before.ips.iter().filter(|ip| ip.interface == Some(index)).map(|ip| ip.address).collect();
    if let Some(net) = addresses.iter().find(|net| !pod.addresses.contains(&net.addr())) {
        return wrong(format!("weftd does not know of its address {}", net.addr()));
    }
    if !interface.mac.is_empty() && !interface.mac.eq_ignore_ascii_case(&pod.mac.to_string()) {
        return wrong(format!("its MAC address is {} and not {}", pod.mac, interface.mac));
    }
    // What has its own network stack looks after the rest itself.
    if pod.port.kind() != "tap" {
        return Ok(());
    }
    let Some(seen) = netns::look(&netns, &call.ifname)? else {
        return wrong("the interface is missing".to_owned());
    };
    if !seen.up {
        return wrong("the interface is down".to_owned());
    }
    if let Some(net) =
        addresses.iter().find(|net| !seen.addresses.iter().any(|there| there.addr() == net.addr()))
    {
        return wrong(format!("the address {} is missing", net.addr()));
    }
    match before.routes.iter().find(|route| !seen.routes.contains(&route.dst.trunc())) {
        Some(route) => wrong(format!("the route to {} is missing", route.dst)),
        None => Ok(()),
    }
}
