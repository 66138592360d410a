//! ADD: a pod gets its port, or nothing of it stays.

use std::path::Path;

use weft_api::{Cni, Pod, PodRoute, PodSpec};

use crate::attach::{Plug, Socket, pod_name};
use crate::conf::Conf;
use crate::environment::Call;
use crate::error::{Error, code};
use crate::flannel::{Kept, is_kept, keep};
use crate::plan::{Addressing, Plan, release};
use crate::result::{CniResult, Interface};
use crate::weftd::Weftd;
use crate::{netns, say};

pub(crate) fn add(conf: &Conf, call: &Call) -> Result<CniResult, Error> {
    let netns = call.netns.clone().unwrap_or_default();
    netns::check(&netns)?;
    let occupied = netns::has_interface(&netns, &call.ifname)?;
    let before = match &conf.prev_result {
        Some(before) if !before.is_null() => CniResult::parse(before.clone(), "prevResult")?,
        _ => CniResult::default(),
    };
    let (weftd, name) = (Weftd::new(conf), pod_name(&call.container, &call.ifname));
    let (mac, bandwidth) = (conf.mac(call)?, conf.bandwidth()?);
    let plug = Plug::new(conf, call)?;
    let port = plug.port(call)?;
    let plan = Plan::new(conf)?;
    // Before anything is made, so that nothing of an attachment that is there is taken back below.
    if weftd.pod(&name)?.is_some() || occupied {
        let (container, ifname) = (&call.container, &call.ifname);
        let msg = format!("container {container} has an interface {ifname} already");
        return Err(Error::new(code::CONFIG, msg).with("delete the attachment first"));
    }
    let mut begun = Begun { conf, call, weftd: &weftd, name: &name, plug: &plug, kept: false, pod: false };
    let kept = match &plan.addressing {
        Addressing::Plugin(ipam) => Some(ipam).filter(|ipam| is_kept(conf, ipam)),
        _ => None,
    };
    if let Some(ipam) = kept {
        begun.kept = true;
        keep(conf, plan.env.as_ref(), ipam, &call.container).map_err(|error| begun.undo(error))?;
    }
    let given = plan.give(conf, call).map_err(|error| begun.undo(error))?;
    let spec = PodSpec {
        name: name.clone(),
        port,
        addresses: given.ips.iter().map(|ip| ip.address.addr()).collect(),
        mac,
        trusted: false,
        mtu: plan.mtu,
        routes: plug.socket().is_none().then(|| routes(&given)),
        cni: Some(Cni {
            network: conf.name.clone(),
            container: call.container.clone(),
            ifname: call.ifname.clone(),
            netns: netns.clone(),
            namespace: call.arg("K8S_POD_NAMESPACE").map(str::to_owned),
            pod: call.arg("K8S_POD_NAME").map(str::to_owned),
        }),
        bandwidth,
    };
    let made = (|| {
        if let Some(socket) = plug.socket() {
            socket.make_folder(conf)?;
        }
        let pod = weftd.add(&spec).map_err(|(error, may_be_there)| {
            begun.pod = may_be_there;
            error
        })?;
        begun.pod = true;
        let result = join(conf, before, given, interface(call, &netns, &plug, &pod));
        if let Some(socket) = plug.socket() {
            socket.tell(conf, call, &result)?;
        }
        Ok(result)
    })();
    made.map_err(|error| begun.undo(error))
}

/// The routes of a pod with an interface.
fn routes(given: &CniResult) -> Vec<PodRoute> {
    given.routes.iter().map(|route| PodRoute { to: route.dst, via: route.gw }).collect()
}

fn interface(call: &Call, netns: &Path, plug: &Plug, pod: &Pod) -> Interface {
    Interface {
        name: call.ifname.clone(),
        mac: pod.mac.to_string(),
        mtu: Some(pod.mtu),
        sandbox: netns.display().to_string(),
        socket_path: plug.socket().map(|socket| socket.path.display().to_string()),
        ..Interface::default()
    }
}

/// The result: what plugins before this one made, and what was made now.
fn join(conf: &Conf, before: CniResult, given: CniResult, interface: Interface) -> CniResult {
    let mut result = before;
    let index = result.interfaces.len();
    result.interfaces.push(interface);
    result.ips.extend(given.ips.into_iter().map(|mut ip| {
        ip.interface = Some(index);
        ip
    }));
    result.routes.extend(given.routes);
    match conf.dns() {
        Some(dns) => result.dns = dns.clone(),
        None if !given.dns.is_empty() => result.dns = given.dns,
        None => {}
    }
    result.in_version(conf.version)
}

/// An ADD that may fail yet.
struct Begun<'a> {
    conf: &'a Conf,
    call: &'a Call,
    weftd: &'a Weftd,
    name: &'a str,
    plug: &'a Plug,
    /// How it is attached may be kept.
    kept: bool,
    /// weftd may have the pod.
    pod: bool,
}

impl Begun<'_> {
    /// Takes back what was made. What can't be is said; the runtime's DEL takes it back again.
    fn undo(&self, error: Error) -> Error {
        let Self { conf, call, .. } = self;
        if self.pod {
            say(self.weftd.delete(self.name).err());
        }
        if let Some(socket) = self.plug.socket() {
            say(socket.remove(conf).err());
            say(Socket::forget(conf, call).err());
        }
        let kept = if self.kept { Kept::of(conf, &call.container).ok().flatten() } else { None };
        say(release(conf, call, kept.as_ref().and_then(Kept::ipam), None).err());
        say(kept.and_then(|kept| kept.forget().err()));
        error
    }
}
