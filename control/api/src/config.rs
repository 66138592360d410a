//! The settings of the daemon: `GET /v1/config`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Settings by section and name; each a number, a text, a list, true or false, or null where something else decides.
pub type Sections = BTreeMap<String, BTreeMap<String, Value>>;

/// The answer to `GET /v1/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigReport {
    /// The daemon's file, `weftd.toml`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub path: PathBuf,
    /// What is in force.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, BTreeMap<String, Value>>))]
    pub running: Sections,
    /// What the file said last that was right.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, BTreeMap<String, Value>>))]
    pub file: Sections,
    /// Why the file's newest content was refused; null when it was not.
    pub error: Option<String>,
    /// What differs between the two, and takes effect when the daemon is started again.
    pub restart_needed: Vec<Pending>,
}

/// A setting whose change waits for a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pending {
    /// Such as `dataplane.workers`.
    pub setting: String,
    /// What is in force.
    pub running: Value,
    /// What the file says.
    pub file: Value,
}
