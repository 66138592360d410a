//! `weft cni install` and `uninstall`: the plugin and its list, where container runtimes look for them. Each file is there
//! whole or not at all, since a runtime may read it at any time.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value, json};
use weft_api::{DEFAULT_SOCKET, DEFAULT_STATE_DIR};
use weft_config::config::{Config, DEFAULT_PATH};

use crate::Failure;
use crate::table::printable;
use crate::view::{Form, Show};

/// The plugin's name.
pub(crate) const PLUGIN: &str = "weft-cni";
/// The name of flannel's, whose place it can take.
pub(crate) const FLANNEL: &str = "flannel";
/// Where what had that place waits for the way back.
const BEFORE: &str = "flannel.before-weft";
/// What every version of weft's plugin says of itself, so has in it.
const MARK: &[u8] = b": the CNI plugin of weft;";
/// The versions of the specification that the plugin attaches pods by.
const SPOKEN: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The list's file.
const LIST: &str = "10-weft.conflist";

#[derive(Debug, Subcommand)]
pub(crate) enum CniCommand {
    /// Put the plugin and its list where container runtimes look for them
    #[command(after_help = "Examples:
  weft cni install                     /opt/cni/bin/weft-cni and /etc/cni/net.d/10-weft.conflist
  weft cni install --flannel           in the place of flannel's plugin, with the list that is there
  weft cni install --no-portmap --conf-dir /etc/cni/multus/net.d")]
    Install(InstallArgs),
    /// Take them away again, and put back what had their place
    Uninstall(Places),
}

#[derive(Debug, Args)]
pub(crate) struct Places {
    /// Where runtimes look for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) bin_dir: PathBuf,
    /// Where runtimes look for lists
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) conf_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    places: Places,
    /// The plugin [default: weft-cni beside this program]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Take the place of flannel's plugin, for lists that name it; no list is written
    #[arg(long, conflicts_with_all = ["network", "cni_version", "no_portmap"])]
    flannel: bool,
    /// The network's name: with flannel's, addresses that its plugin has given stay known
    #[arg(long, value_name = "NAME", default_value = "cbr0", value_parser = network_name)]
    network: String,
    /// The specification's version that the list says; 1.1.0, with STATUS and GC, must be known to the runtime and to portmap
    #[arg(long, value_name = "VERSION", default_value = "1.0.0", value_parser = SPOKEN)]
    cni_version: String,
    /// Leave portmap, which does pods' host ports, out of the list
    #[arg(long)]
    no_portmap: bool,
    /// The weftd.toml that says where weftd listens and keeps its state [default: /etc/weft/weftd.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn network_name(text: &str) -> Result<String, String> {
    let right = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if right {
        Ok(text.to_owned())
    } else {
        Err("letters, digits, '_', '.' and '-' only, the first a letter or a digit".to_owned())
    }
}

/// What was done.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Files that were written.
    written: Vec<PathBuf>,
    /// Files that were removed.
    removed: Vec<PathBuf>,
    /// What the operator should know, a sentence each.
    notes: Vec<String>,
}

impl Show for Report {
    fn show(&self, _: Form) -> String {
        let line =
            |word: &str, path: &PathBuf| format!("{word} {}\n", printable(&path.display().to_string()));
        let written = self.written.iter().map(|path| line("wrote", path));
        let removed = self.removed.iter().map(|path| line("removed", path));
        let notes = self.notes.iter().map(|note| format!("note: {}\n", printable(note)));
        let text: String = written.chain(removed).chain(notes).collect();
        if text.is_empty() { "nothing was installed\n".to_owned() } else { text }
    }
}

pub(crate) fn run(command: CniCommand) -> Result<Report, Failure> {
    match command {
        CniCommand::Install(args) => install(&args),
        CniCommand::Uninstall(places) => uninstall(&places),
    }
}

fn install(args: &InstallArgs) -> Result<Report, Failure> {
    let InstallArgs { places: Places { bin_dir, conf_dir }, .. } = args;
    let source = match &args.plugin {
        Some(path) => path.clone(),
        None => std::env::current_exe().map_err(Failure::failed)?.with_file_name(PLUGIN),
    };
    let program = fs::read(&source).map_err(|error| {
        Failure::failed(format!(
            "the plugin {} cannot be read: {error}; name it with --plugin",
            source.display()
        ))
    })?;
    let keys = keys_of_weftd(args)?;
    let (flannel, before) = (bin_dir.join(FLANNEL), bin_dir.join(BEFORE));
    let is_flannels = flannel.exists() && !is_ours(&flannel);
    let mut report = Report::default();
    let mut put = |path: PathBuf, bytes: &[u8], mode| {
        write_whole(&path, bytes, mode)?;
        report.written.push(path);
        Ok::<_, Failure>(())
    };
    put(bin_dir.join(PLUGIN), &program, 0o755)?;
    if args.flannel {
        // Mostly only the first time; but flannel may have been installed anew meanwhile.
        if is_flannels {
            keep(&flannel, &before)?;
        }
        put(flannel, &program, 0o755)?;
    } else {
        let mut plugin =
            json!({ "type": PLUGIN, "capabilities": { "bandwidth": true, "ips": true, "mac": true } });
        if let Some(plugin) = plugin.as_object_mut() {
            plugin.extend(keys.clone());
        }
        let mut plugins = vec![plugin];
        if !args.no_portmap {
            plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
        }
        let list = json!({ "cniVersion": args.cni_version, "name": args.network, "plugins": plugins });
        let text = serde_json::to_string_pretty(&list).map_err(Failure::failed)? + "\n";
        // Last: a runtime that sees it finds the plugin.
        put(conf_dir.join(LIST), text.as_bytes(), 0o644)?;
    }
    report.notes = notes(args);
    if args.flannel && !keys.is_empty() {
        let text = Value::Object(keys);
        report.notes.push(format!(
            "this node's weftd is elsewhere than by default: add to \"delegate\" of flannel's list the keys {text}"
        ));
    }
    Ok(report)
}

/// What the list has to say of weftd: nothing where all is as by default.
fn keys_of_weftd(args: &InstallArgs) -> Result<Map<String, Value>, Failure> {
    let config = match &args.config {
        Some(path) => Config::load(path).map_err(Failure::failed)?,
        None => Config::load_or_default(Path::new(DEFAULT_PATH)).map_err(Failure::failed)?,
    };
    let mut keys = Map::new();
    for (key, path, default) in [
        ("weftdSocket", config.control.socket, DEFAULT_SOCKET),
        ("stateDir", config.state.dir, DEFAULT_STATE_DIR),
    ] {
        if path != Path::new(default) {
            keys.insert(key.to_owned(), json!(path));
        }
    }
    Ok(keys)
}

/// What is wrong with a list that chains the plugin bandwidth, and what to do.
pub(crate) const BANDWIDTH: (&str, &str) = (
    "chains the plugin bandwidth, which needs a pair of interfaces that weft's pods do not have",
    "take it out, and declare the capability bandwidth of weft's own entry",
);

/// Whether that plugin comes after weft's, or after flannel's, whose place weft's takes.
pub(crate) fn chains_bandwidth(types: &[String]) -> bool {
    let ours = types.iter().position(|kind| kind == PLUGIN || kind == FLANNEL);
    ours.is_some_and(|ours| types.iter().skip(ours).any(|kind| kind == "bandwidth"))
}

/// What there is beside it that would get in its way.
fn notes(args: &InstallArgs) -> Vec<String> {
    let Places { bin_dir, conf_dir } = &args.places;
    let mut notes = Vec::new();
    if !args.flannel && !args.no_portmap && !bin_dir.join("portmap").exists() {
        notes.push(format!(
            "{} has no portmap, and without it no pod starts: install the reference plugins, or say --no-portmap",
            bin_dir.display()
        ));
    }
    for path in lists(conf_dir) {
        let types = types(&path);
        let version = version(&path);
        if args.flannel && types.iter().any(|kind| kind == FLANNEL) && !SPOKEN.contains(&version.as_str()) {
            let said = if version.is_empty() {
                "says no cniVersion".to_owned()
            } else {
                format!("says cniVersion {version}")
            };
            notes.push(format!(
                "{} {said}, by which weft can delete pods but attach none: set it to 0.3.1, which flannel and portmap know as well",
                path.display()
            ));
        }
        let shown = path.display();
        if chains_bandwidth(&types) {
            let (what, remedy) = BANDWIDTH;
            notes.push(format!("{shown} {what}: {remedy}"));
        }
        if !args.flannel && path.file_name().is_some_and(|name| name < LIST) {
            notes.push(format!(
                "{shown} comes before {LIST}: most runtimes use only the first; remove it, or move it aside"
            ));
        }
    }
    notes
}

/// The lists of a folder in the order in which runtimes take them.
pub(crate) fn lists(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension().is_some_and(|ext| ext == "conflist" || ext == "conf" || ext == "json")
        })
        .collect();
    paths.sort();
    paths
}

/// The types of a list's plugins, as far as it can be read.
pub(crate) fn types(path: &Path) -> Vec<String> {
    let Some(list) = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()) else {
        return Vec::new();
    };
    let kind = |plugin: &Value| plugin["type"].as_str().map(str::to_owned);
    match list["plugins"].as_array() {
        Some(plugins) => plugins.iter().filter_map(kind).collect(),
        None => kind(&list).into_iter().collect(),
    }
}

/// The version that a list says; nothing where it says none.
fn version(path: &Path) -> String {
    let list = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    list.and_then(|list| Some(list["cniVersion"].as_str()?.to_owned())).unwrap_or_default()
}

fn uninstall(Places { bin_dir, conf_dir }: &Places) -> Result<Report, Failure> {
    let mut report = Report::default();
    let mut take = |path: PathBuf| match fs::remove_file(&path) {
        Ok(()) => {
            report.removed.push(path);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", &path)(error)),
    };
    // First, so that no runtime looks for a plugin that is gone.
    take(conf_dir.join(LIST))?;
    let (flannel, before) = (bin_dir.join(FLANNEL), bin_dir.join(BEFORE));
    if before.exists() && (is_ours(&flannel) || !flannel.exists()) {
        fs::rename(&before, &flannel).map_err(failed("put back", &flannel))?;
        report.written.push(flannel);
    } else if before.exists() {
        // Somebody has installed flannel since: that one is the newer.
        take(before)?;
    } else if is_ours(&flannel) {
        take(flannel)?;
    }
    match fs::remove_file(bin_dir.join(PLUGIN)) {
        Ok(()) => report.removed.push(bin_dir.join(PLUGIN)),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("remove", &bin_dir.join(PLUGIN))(error)),
    }
    Ok(report)
}

/// Whether a file is weft's plugin, of whatever version.
pub(crate) fn is_ours(path: &Path) -> bool {
    fs::read(path).is_ok_and(|program| program.windows(MARK.len()).any(|part| part == MARK))
}

/// Keeps a file under another name too, in place of what that was.
fn keep(path: &Path, kept: &Path) -> Result<(), Failure> {
    let new = aside(kept);
    let keep = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::hard_link(path, &new)?;
        fs::rename(&new, kept)
    };
    keep().map_err(failed("keep", path))
}

/// A name beside a file's, for what is to be that file. No runtime takes what begins with a dot, and ends with none of the endings
/// that it looks for, for a list.
fn aside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()))
}

fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let what = format!("cannot {doing} {}", path.display());
    move |error| Failure::failed(format!("{what}: {error}"))
}

/// Writes a file aside, and puts it in its place.
fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let new = aside(path);
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wefts_plugin_has_the_mark() {
        let said = include_str!("../../cni/src/main.rs");
        assert!(said.as_bytes().windows(MARK.len()).any(|part| part == MARK));
    }
}
