//! What is read of Kubernetes objects: only what is needed, since a Node has tens of kilobytes and there are thousands.
//! Whatever else stands in them is skipped unread.

use super::annotations::{Names, Notes};
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct List<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
struct ListMeta {
    #[serde(rename = "resourceVersion", default)]
    version: Option<String>,
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

impl<'a> List<'a> {
    pub(super) fn items(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.items.iter().flatten().map(|item| item.get())
    }

    /// Where the next page begins. None: this is the last one.
    pub(super) fn next(&self) -> Option<&str> {
        self.metadata.next.as_deref().filter(|next| !next.is_empty())
    }

    /// The version of the whole, where a watch begins.
    pub(super) fn version(&self) -> Option<&str> {
        self.metadata.version.as_deref()
    }
}

/// One line of a watch.
#[derive(Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// A server's word on why not (`kind: Status`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As HTTP's.
    pub(super) code: u16,
    reason: String,
    message: String,
    pub(super) retry_after: Option<Duration>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    code: Option<u16>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(rename = "retryAfterSeconds", default)]
    retry_after: Option<u64>,
}

impl Refusal {
    /// Of an answer that is no success. Its text need not be a Status: proxies answer too.
    pub(super) fn of_answer(code: StatusCode, retry_after: Option<&str>, text: &[u8]) -> Self {
        let status = serde_json::from_slice(text).unwrap_or_else(|_| Status {
            message: Some(crate::go_json::shorten(String::from_utf8_lossy(text).trim())),
            ..Status::default()
        });
        let header = retry_after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        let mut refusal = Self::of(status);
        refusal.code = code.as_u16();
        refusal.retry_after = header.or(refusal.retry_after);
        refusal
    }

    /// Of an `ERROR` event.
    pub(super) fn of_event(text: &str) -> Self {
        Self::of(serde_json::from_str(text).unwrap_or_default())
    }

    fn of(status: Status) -> Self {
        Self {
            code: status.code.unwrap_or_default(),
            reason: status.reason.unwrap_or_default(),
            message: status.message.unwrap_or_default(),
            retry_after: status.details.and_then(|details| details.retry_after).map(Duration::from_secs),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.code == StatusCode::GONE.as_u16() || matches!(self.reason.as_str(), "Expired" | "Gone")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        for text in [&self.reason, &self.message] {
            if !text.is_empty() {
                write!(f, " {text}")?;
            }
        }
        Ok(())
    }
}

/// By what an object is known.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Identity {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl Identity {
    /// `namespace/name`, or the name of what is in no namespace.
    pub(super) fn key(&self) -> Option<String> {
        let name = self.name.as_deref().filter(|name| !name.is_empty())?;
        Some(match self.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        })
    }

    pub(super) fn version(&self) -> Option<&str> {
        self.resource_version.as_deref()
    }
}

/// What is to be known for reading objects.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// How the annotations are called.
    pub(super) names: Names,
    /// The name of this node.
    pub(super) own: String,
}

/// A kind of object, as far as it is kept.
pub(super) trait Object: Sized + PartialEq + Send + 'static {
    /// Reads one; none where it does not concern us.
    fn read(json: &str, by: &Reading) -> Result<(Identity, Option<Self>), serde_json::Error>;
}

/// An object that was read. One that can't be read is of no concern, with a word about it: so a watch and a list end
/// in the same.
pub(super) struct Read<T> {
    pub(super) key: String,
    pub(super) version: Option<String>,
    pub(super) object: Option<T>,
    pub(super) complaint: Option<String>,
}

impl<T: Object> Read<T> {
    /// None: it has not even a name.
    pub(super) fn from(json: &str, by: &Reading) -> Option<Self> {
        let (identity, object, complaint) = match T::read(json, by) {
            Ok((identity, object)) => (identity, object, None),
            Err(error) => {
                #[derive(Deserialize)]
                struct Known {
                    metadata: Identity,
                }
                let known = serde_json::from_str::<Known>(json).ok()?;
                // The place in it changes with what does not concern us.
                (known.metadata, None, Some(crate::go_json::strip_place(&error)))
            }
        };
        let version = identity.version().map(str::to_owned);
        Some(Self { key: identity.key()?, version, object, complaint })
    }
}

/// What stands in the metadata of both kinds beside the identity.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Box<str>>,
    pub(super) annotations: Option<HashMap<String, String>>,
    pub(super) labels: Option<BTreeMap<String, String>>,
}

impl Metadata {
    pub(super) fn identity(&mut self) -> Identity {
        Identity {
            name: self.name.take(),
            namespace: self.namespace.take(),
            resource_version: self.resource_version.take(),
        }
    }
}

/// A node, as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// When it was made, as the server writes times: they sort as text.
    pub(super) created: Box<str>,
    /// Since when it is not ready, as far as it is not.
    pub(super) not_ready_since: Option<Box<str>>,
    /// Its pod subnets as they are written; one or two, if all is well.
    pub(super) subnets: Vec<Box<str>>,
    pub(super) notes: Notes,
    /// The condition `NetworkUnavailable`, as far as there is one. Of this node only.
    pub(super) network_unavailable: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeJson {
    metadata: Metadata,
    spec: Option<NodeSpec>,
    status: Option<NodeStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    subnet: Option<Box<str>>,
    #[serde(rename = "podCIDRs")]
    subnets: Option<Vec<Box<str>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Option<Vec<Condition>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: String,
    status: String,
    last_transition_time: Option<Box<str>>,
}

impl Object for Node {
    fn read(json: &str, by: &Reading) -> Result<(Identity, Option<Self>), serde_json::Error> {
        let NodeJson { mut metadata, spec, status } = serde_json::from_str(json)?;
        let spec = spec.unwrap_or_default();
        let conditions = status.and_then(|status| status.conditions).unwrap_or_default();
        let condition = |kind: &str| conditions.iter().find(|condition| condition.r#type == kind);
        let ready = condition("Ready");
        let identity = metadata.identity();
        let own = identity.name.as_deref() == Some(by.own.as_str());
        let node = Self {
            created: metadata.creation_timestamp.unwrap_or_default(),
            not_ready_since: ready
                .filter(|ready| ready.status != "True")
                .map(|ready| ready.last_transition_time.clone().unwrap_or_default()),
            subnets: match (spec.subnets, spec.subnet) {
                (Some(subnets), _) if !subnets.is_empty() => subnets,
                (_, Some(subnet)) if !subnet.is_empty() => vec![subnet],
                _ => Vec::new(),
            },
            notes: Notes::pick(metadata.annotations.unwrap_or_default(), &by.names, own),
            network_unavailable: condition("NetworkUnavailable").filter(|_| own).map(|c| c.status != "False"),
        };
        // Who has no such annotation takes no part in the network (but we may be about to).
        let concerns_us = own || node.notes.managed;
        Ok((identity, concerns_us.then_some(node)))
    }
}

/// The version of an object that is nothing else.
pub(super) fn version_of(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Bookmark {
        metadata: Identity,
    }
    serde_json::from_str::<Bookmark>(json).ok()?.metadata.resource_version
}
