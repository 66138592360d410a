//! DEL: nothing of an attachment stays, whoever made it and whatever is gone already.

use std::path::Path;

use serde_json::Value;

use crate::attach::{clean, pod_name};
use crate::conf::Conf;
use crate::environment::{Call, Command};
use crate::error::Error;
use crate::flannel::Kept;
use crate::ipam::{Delegate, For};
use crate::plan::{release, release_by};
use crate::weftd::{Deletion, Weftd};
use crate::{netns, say};

/// The plugin that made pods' interfaces before weft did.
const BRIDGE: &str = "bridge";

pub(crate) fn del(conf: &Conf, call: &Call) -> Result<(), Error> {
    let kept = Kept::of_attachment(conf, call)?;
    if let Some(kept) = kept.as_ref().filter(|kept| !kept.is_ours()) {
        return del_bridged(conf, call, kept, None);
    }
    // First the pod, so that nobody gets its address while it still has it.
    let deletion = Weftd::new(conf).delete(&pod_name(&call.container, &call.ifname))?;
    if let (Deletion::Noted, Some(netns)) = (deletion, &call.netns) {
        netns::delete_tap(netns, &call.ifname)?;
    }
    // What stays of the one is no reason to keep the other.
    let cleaned = clean(conf, call, None);
    release(conf, call, kept.as_ref().and_then(Kept::ipam), None)?;
    cleaned?;
    kept.map_or(Ok(()), |kept| kept.forget())
}

/// Deletes what flannel's plugin had the bridge plugin make: by that plugin or, if it is not there any more, as it would.
/// `other` is the attachment, if it is not that of the call.
pub(crate) fn del_bridged(
    conf: &Conf,
    call: &Call,
    kept: &Kept,
    other: Option<For<'_>>,
) -> Result<(), Error> {
    let kind = kept.delegate.get("type").and_then(Value::as_str).unwrap_or(BRIDGE);
    match Delegate::find(kind, call)? {
        Some(plugin) => {
            plugin.run(Command::Del, &kept.delegate, other)?;
        }
        None if kind == BRIDGE => {
            let netns = call.netns.as_deref().filter(|netns| other.is_none() && Path::exists(netns));
            if let Some(netns) = netns {
                netns::delete_link(netns, &call.ifname)?;
            }
            let empty = serde_json::Map::new();
            release_by(conf, kept.network(), kept.ipam().unwrap_or(&empty), call, other)?;
            if kept.delegate.get("ipMasq") == Some(&Value::Bool(true)) {
                say(Some(
                    "the bridge plugin is gone, so its masquerade rule for this pod stays (iptables -t nat -S)",
                ));
            }
        }
        None => {
            Delegate::get(kind, call)?;
        }
    }
    kept.forget()
}
