//! Checks a file before weftd sees it: which of the two it is, and all that is wrong with it.

use crate::config::{Config, SourceKind, table::SECTIONS};
use crate::settings::{self, FileError, Mistake, Reader};
use crate::{cluster, config};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `weftd.toml`: this node's daemon.
    Weftd,
    /// `cluster.toml`: all nodes' desired state.
    Cluster,
}

impl Kind {
    /// Which file usually has this name.
    fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?;
        [Self::Weftd, Self::Cluster].into_iter().find(|kind| name == kind.file_name())
    }

    /// The file's usual name.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Weftd => "weftd.toml",
            Self::Cluster => "cluster.toml",
        }
    }
}

/// The sections that only cluster.toml has.
const CLUSTER_SECTIONS: [&str; 3] = ["network", "pod", "route"];
/// Both files have this one: a table in weftd.toml, a list of tables in cluster.toml.
const SHARED_SECTION: &str = "node";

/// A file that was checked.
#[derive(Debug)]
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    /// Which one it is, as far as that could be seen.
    pub kind: Option<Kind>,
    /// Why it would be refused.
    pub error: Option<FileError>,
}

/// What to check.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    /// Which file it is; none: its sections tell, or else its name.
    pub kind: Option<Kind>,
    /// The node whose file it is. None: for weftd.toml, the one that it names; for cluster.toml, all of them have it.
    pub node: Option<&'a str>,
    /// Leave the cluster file alone that a weftd.toml names.
    pub only: bool,
}

/// Checks one file, and the cluster file that it names if it is a weftd.toml.
pub fn check(path: &Path, wanted: &Wanted<'_>) -> Vec<Checked> {
    let checked = |kind, error| vec![Checked { path: path.to_owned(), kind, error }];
    let text = match settings::read(path) {
        Ok(text) => text,
        Err(error) => return checked(wanted.kind, Some(error)),
    };
    let kind = match wanted.kind.map_or_else(|| recognise(path, text.clone()), Ok) {
        Ok(kind) => kind,
        Err(error) => return checked(None, Some(error)),
    };
    match kind {
        Kind::Cluster => checked(Some(kind), cluster::parse_as(path, text, wanted.node).err()),
        Kind::Weftd => match config::parse(path, text) {
            Err(error) => checked(Some(kind), Some(error)),
            Ok(config) => {
                let mut all = checked(Some(kind), None);
                if !wanted.only {
                    all.extend(named_by(&config, wanted.node));
                }
                all
            }
        },
    }
}

/// The cluster file that a configuration names, as its node sees it; none where the source is another.
fn named_by(config: &Config, node: Option<&str>) -> Option<Checked> {
    if config.source.kind != SourceKind::File {
        return None;
    }
    let path = &config.source.path;
    let node = node.map(str::to_owned).or_else(|| config.node_name().ok());
    let error = settings::read(path).and_then(|text| cluster::parse_as(path, text, node.as_deref())).err();
    Some(Checked { path: path.clone(), kind: Some(Kind::Cluster), error })
}

/// Which file it is, by its sections, or else its name.
///
/// # Errors
/// It can't be read, is no TOML, has sections of both, or neither its sections nor its name tell.
pub fn kind_of(path: &Path) -> Result<Kind, FileError> {
    recognise(path, settings::read(path)?)
}

fn recognise(path: &Path, text: String) -> Result<Kind, FileError> {
    let reader = Reader::new(path, text)?;
    let mut first: [Option<(String, usize)>; 2] = [None, None];
    for (name, at, is_list) in reader.sections() {
        let kind = match name.as_str() {
            SHARED_SECTION => Some(if is_list { Kind::Cluster } else { Kind::Weftd }),
            name if CLUSTER_SECTIONS.contains(&name) => Some(Kind::Cluster),
            name if SECTIONS.iter().any(|(section, _)| *section == name) => Some(Kind::Weftd),
            _ => None,
        };
        if let Some(kind) = kind {
            first[kind as usize].get_or_insert((name, at));
        }
    }
    if let ([None, None], Some(kind)) = (&first, Kind::of_name(path)) {
        return Ok(kind);
    }
    let sections: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
    let (reason, remedy, at) = match first {
        [Some(_), None] => return Ok(Kind::Weftd),
        [None, Some(_)] => return Ok(Kind::Cluster),
        [Some((own, at)), Some((other, other_at))] => (
            format!("[{own}] belongs into weftd.toml and [{other}] into cluster.toml"),
            "move one of them into the other file, or say which file this is with --kind".to_owned(),
            at.max(other_at),
        ),
        [None, None] => (
            "nothing here tells which file it is".to_owned(),
            format!(
                "say --kind weftd or --kind cluster. weftd.toml has {}; cluster.toml has network, [[node]], pod, route",
                sections.join(", ")
            ),
            0,
        ),
    };
    reader.report(at, String::new(), reason, remedy);
    // There is a mistake now.
    reader.verdict().map(|()| Kind::Weftd)
}

/// All mistakes of a file one by one; one that has no place has line 0.
pub fn mistakes(error: &FileError) -> Vec<Mistake> {
    match error {
        FileError::Wrong { mistakes, .. } => mistakes.clone(),
        other => {
            let text = other.to_string();
            let (reason, remedy) = text.split_once("; ").unwrap_or((&text, ""));
            let mistake = Mistake {
                line: 0,
                column: 0,
                setting: String::new(),
                reason: reason.to_owned(),
                remedy: remedy.to_owned(),
            };
            vec![mistake]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Result<Kind, String> {
        recognise(Path::new("x.toml"), text.to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn sections_tell_which_file_it_is() {
        assert_eq!(told("[dataplane]\nworkers = 2"), Ok(Kind::Weftd));
        assert_eq!(told("[node]\nname = \"a\""), Ok(Kind::Weftd));
        assert_eq!(told("[[node]]\nname = \"a\""), Ok(Kind::Cluster));
        assert_eq!(told("[[network]]\nname = \"a\"\n[[route]]\n"), Ok(Kind::Cluster));
        assert_eq!(told("node = [{ name = \"a\" }]"), Ok(Kind::Cluster));
        // A wrong section beside a right one is for the reader to tell.
        assert_eq!(told("[pods]\n[log]\n"), Ok(Kind::Weftd));
        let mixed = told("[log]\nlevel = \"info\"\n[network]\n").unwrap_err();
        assert!(
            mixed.starts_with("x.toml:3:2: [log] belongs into weftd.toml and [network] into cluster.toml"),
            "{mixed}"
        );
        for nothing in ["", "# all defaults\n", "[other]\n"] {
            let text = told(nothing).unwrap_err();
            assert!(
                text.starts_with("x.toml:1:1: nothing here tells which file it is; say --kind"),
                "{text}"
            );
        }
        assert!(told("[log").unwrap_err().contains("x.toml:1:"));
    }

    #[test]
    fn the_name_tells_where_no_section_does() {
        let of = |name: &str, text: &str| recognise(Path::new(name), text.to_owned()).ok();
        for text in ["", "# all defaults\n", "[other]\n"] {
            assert_eq!(of("/etc/weft/weftd.toml", text), Some(Kind::Weftd), "{text:?}");
            assert_eq!(of("cluster.toml", text), Some(Kind::Cluster), "{text:?}");
        }
        assert_eq!(of("weftd.toml", "[[node]]\n"), Some(Kind::Cluster), "a section tells more than a name");
        assert_eq!(of("weftd.toml", "[log]\n[network]\n"), None);

        let folder = tempfile::tempdir().unwrap();
        let [weftd, cluster] = ["weftd.toml", "cluster.toml"].map(|name| folder.path().join(name));
        for path in [&weftd, &cluster] {
            std::fs::write(path, "").unwrap();
        }
        let only = Wanted { only: true, ..Wanted::default() };
        let all = check(&weftd, &only);
        assert!(all[0].error.is_none() && all[0].kind == Some(Kind::Weftd), "{all:?}");
        assert_eq!(check(&cluster, &only)[0].kind, Some(Kind::Cluster));
    }

    #[test]
    fn a_weftd_file_leads_to_the_cluster_file() {
        let folder = tempfile::tempdir().unwrap();
        let [weftd, cluster] = ["weftd.toml", "cluster.toml"].map(|name| folder.path().join(name));
        let text = format!("[node]\nname = \"b\"\n[source]\npath = {:?}\n", cluster.display().to_string());
        std::fs::write(&weftd, text).unwrap();
        let all = check(&weftd, &Wanted::default());
        assert_eq!(
            all.iter().map(|one| one.kind).collect::<Vec<_>>(),
            [Some(Kind::Weftd), Some(Kind::Cluster)]
        );
        assert!(all[0].error.is_none());
        assert!(matches!(all[1].error, Some(FileError::Missing { .. })));
        assert_eq!(check(&weftd, &Wanted { only: true, ..Wanted::default() }).len(), 1);

        let nodes = "[network]\nipv4 = \"10.244.0.0/16\"\n[[node]]\nname = \"a\"\nsubnets = [\"10.244.1.0/24\"]\npublic_ip = \"192.0.2.1\"\n";
        std::fs::write(&cluster, nodes).unwrap();
        let said = |checked: &[Checked]| {
            checked.last().and_then(|last| last.error.as_ref()).map(ToString::to_string)
        };
        let other = said(&check(&weftd, &Wanted::default())).unwrap();
        assert!(other.contains("this node, \"b\", is not among the 1 listed"), "{other}");
        assert_eq!(said(&check(&weftd, &Wanted { node: Some("a"), ..Wanted::default() })), None);
        assert_eq!(
            said(&check(&cluster, &Wanted::default())),
            None,
            "the only node needs no MAC address for others"
        );

        // The same file on two nodes: each is the other's peer.
        let second = "[[node]]\nname = \"b\"\nsubnets = [\"10.244.2.0/24\"]\npublic_ip = \"192.0.2.2\"\nvtep_mac = \"02:00:00:00:00:02\"\n";
        std::fs::write(&cluster, format!("{nodes}{second}")).unwrap();
        assert_eq!(said(&check(&cluster, &Wanted { node: Some("a"), ..Wanted::default() })), None);
        let all = said(&check(&cluster, &Wanted::default())).unwrap();
        assert!(all.contains(":3:1: node[0].vtep_mac: a peer's VTEP has no MAC address"), "{all}");
    }
}
