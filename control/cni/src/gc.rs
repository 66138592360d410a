//! GC and STATUS: what is about no single container.

use crate::attach::clean;
use crate::conf::Conf;
use crate::del::del_bridged;
use crate::environment::{Call, Command};
use crate::error::{Error, code};
use crate::flannel::Kept;
use crate::host_local::Store;
use crate::ipam::For;
use crate::plan::{Addressing, Plan, release_leaked};
use crate::weftd::Weftd;

/// Removes what belongs to attachments of this network that the runtime does not know of any more. Goes on after what it
/// can't remove, and says all of that at the end.
pub(crate) fn gc(conf: &Conf, call: &Call) -> Result<(), Error> {
    let Some(valid) = conf.valid_attachments() else {
        let msg = "cni.dev/valid-attachments is missing: without it, everything would go";
        return Err(Error::new(code::CONFIG, msg));
    };
    let valid_container = |container: &str| valid.iter().any(|there| there.container == container);
    let keep = |container: &str, ifname: Option<&str>| {
        let same = |there: &&crate::conf::Attachment| ifname.is_none_or(|ifname| there.ifname == ifname);
        valid.iter().filter(|there| there.container == container).any(|there| same(&there))
    };
    let mut errors = Vec::new();
    let weftd = Weftd::new(conf);
    match weftd.pods() {
        Ok(pods) => {
            for pod in pods {
                let Some(cni) = pod.cni.filter(|cni| cni.network == conf.name) else { continue };
                if keep(&cni.container, Some(&cni.ifname)) {
                    continue;
                }
                let clean = || match call.del_of(&cni.container, &cni.ifname) {
                    Some(del) => clean(conf, &del, Some(&pod.port)),
                    None => Ok(()),
                };
                errors.extend(weftd.delete(&pod.name).and_then(|_| clean()).err());
            }
        }
        Err(error) => errors.push(error),
    }
    match Kept::all(conf) {
        Ok(all) => {
            for (container, kept) in all.into_iter().filter(|(container, _)| !valid_container(container)) {
                let done = match kept.is_ours() {
                    true => kept.forget(),
                    false => del_leaked(conf, call, &container, &kept),
                };
                errors.extend(done.err());
            }
        }
        Err(error) => errors.push(error),
    }
    match Plan::new(conf) {
        Ok(plan) => {
            errors.extend(plan.ask(Command::Gc, conf, call).err());
            if let Addressing::Plugin(ipam) = &plan.addressing {
                errors.extend(release_leaked(conf, call, ipam, keep));
            }
        }
        Err(error) => errors.push(error),
    }
    join(errors)
}

/// Of a pod that the bridge plugin made only the container is kept; its interfaces are those that have addresses.
fn del_leaked(conf: &Conf, call: &Call, container: &str, kept: &Kept) -> Result<(), Error> {
    let empty = serde_json::Map::new();
    let holders = Store::of(kept.network(), kept.ipam().unwrap_or(&empty)).holders()?;
    let mut ifnames: Vec<_> = holders
        .into_iter()
        .filter(|holder| holder.container == container)
        .map(|holder| holder.ifname.unwrap_or_else(|| "eth0".to_owned()))
        .collect();
    if ifnames.is_empty() {
        ifnames.push("eth0".to_owned());
    }
    ifnames.iter().try_for_each(|ifname| del_bridged(conf, call, kept, Some(For { container, ifname })))
}

/// The first error, with the messages of the others.
fn join(errors: Vec<Error>) -> Result<(), Error> {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    let others: Vec<_> = errors.map(|error| error.msg).collect();
    if others.is_empty() { Err(first) } else { Err(first.with(others.join("; "))) }
}

/// Whether an ADD would find everything.
pub(crate) fn status(conf: &Conf, call: &Call) -> Result<(), Error> {
    Weftd::new(conf).answers()?;
    let not_available = |error: Error| match error.code {
        code::NOT_AVAILABLE | code::NOT_AVAILABLE_LIMITED => error,
        _ => Error { code: code::NOT_AVAILABLE, ..error },
    };
    let plan = Plan::new(conf).map_err(not_available)?;
    plan.ask(Command::Status, conf, call).map_err(not_available)
}
