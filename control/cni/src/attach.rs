//! How a pod is joined to the switch: an interface, or a socket for what brings its own network stack, and what such a pod
//! is told of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Group, UnlinkatFlags, unlinkat};
use serde_json::{Value, json};
use weft_api::{PodPort, VhostMode, is_pod_name};

use crate::conf::{Attach, Conf, SocketMode, Userspace};
use crate::environment::Call;
use crate::error::{Error, code, io as failed};
use crate::result::CniResult;

/// The pod's name in weftd: the same for the same container and interface, whatever else is known.
pub(crate) fn pod_name(container: &str, ifname: &str) -> String {
    let plain = format!("{container}-{ifname}");
    if is_pod_name(&plain) {
        return plain;
    }
    let start: String = container.chars().take(64).collect();
    format!("{start}-{:016x}", fnv(container, ifname))
}

/// FNV-1a of 64 bits.
fn fnv(container: &str, ifname: &str) -> u64 {
    let bytes = container.bytes().chain([0]).chain(ifname.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// An attachment, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plug {
    Tap,
    Socket(Socket),
}

/// A socket between weft and a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    kind: Kind,
    mode: SocketMode,
    pub(crate) path: PathBuf,
    group: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    VhostUser,
    Memif,
}

impl Plug {
    /// Decides, by weft's own words or by those of the userspace CNI plugin.
    pub(crate) fn new(conf: &Conf, call: &Call) -> Result<Self, Error> {
        let own = &conf.own;
        let attach = match (own.attach, &own.host) {
            (Some(attach), _) => attach,
            (None, Some(host)) => kind_of(host)?,
            (None, None) => Attach::Tap,
        };
        let host = own.host.clone().unwrap_or_default();
        if let Some(kind) =
            host.net_type.as_deref().filter(|kind| !matches!(*kind, "" | "bridge" | "interface"))
        {
            return Err(unsupported("host.netType", kind, "\"bridge\", or none"));
        }
        let (kind, mode, group, file) = match attach {
            Attach::Tap => return Ok(Self::Tap),
            Attach::VhostUser => {
                let vhost = host.vhost.unwrap_or_default();
                (Kind::VhostUser, vhost.mode.unwrap_or(SocketMode::Client), vhost.group, vhost.socketfile)
            }
            Attach::Memif => {
                let memif = host.memif.unwrap_or_default();
                if let Some(mode) = memif.mode.as_deref().filter(|mode| !matches!(*mode, "" | "ethernet")) {
                    return Err(unsupported("host.memif.mode", mode, "\"ethernet\""));
                }
                let mode = match memif.role.as_deref() {
                    None | Some("" | "master") => SocketMode::Server,
                    Some("slave") => SocketMode::Client,
                    Some(other) => {
                        return Err(unsupported("host.memif.role", other, "\"master\" or \"slave\""));
                    }
                };
                (Kind::Memif, mode, None, memif.socketfile)
            }
        };
        let folder = conf.socket_dir().join(&call.container);
        let path = match file.filter(|file| !file.is_empty()) {
            Some(file) if Path::new(&file).is_absolute() => PathBuf::from(file),
            Some(file) if file.contains('/') || file.starts_with('.') => {
                return Err(unsupported("socketfile", &file, "a name, or a whole path"));
            }
            Some(file) => folder.join(file),
            None => folder.join(format!("{}.sock", call.ifname)),
        };
        let (mode, group) = (own.socket_mode.unwrap_or(mode), own.socket_group.clone().or(group));
        Ok(Self::Socket(Socket { kind, mode, path, group: group.filter(|group| !group.is_empty()) }))
    }

    /// As weftd is asked for it.
    pub(crate) fn port(&self, call: &Call) -> Result<PodPort, Error> {
        match self {
            Self::Tap => {
                let netns = call.netns.clone().unwrap_or_default();
                Ok(PodPort::Tap { netns, ifname: call.ifname.clone() })
            }
            Self::Socket(socket) => socket.port(call),
        }
    }

    pub(crate) fn socket(&self) -> Option<&Socket> {
        match self {
            Self::Tap => None,
            Self::Socket(socket) => Some(socket),
        }
    }
}

fn kind_of(host: &Userspace) -> Result<Attach, Error> {
    match host.iftype.as_deref() {
        Some("vhostuser") => Ok(Attach::VhostUser),
        Some("memif") => Ok(Attach::Memif),
        other => Err(unsupported("host.iftype", other.unwrap_or_default(), "\"vhostuser\" or \"memif\"")),
    }
}

fn unsupported(key: &str, value: &str, right: &str) -> Error {
    Error::new(code::UNSUPPORTED, format!("{key} {value:?}: weft takes {right}"))
}

impl Socket {
    fn port(&self, call: &Call) -> Result<PodPort, Error> {
        let server = self.mode == SocketMode::Server;
        match self.kind {
            Kind::VhostUser => Ok(PodPort::VhostUser {
                socket: self.path.clone(),
                mode: if server { VhostMode::Server } else { VhostMode::Client },
            }),
            Kind::Memif => {
                let path = self.path.to_str().filter(|path| !path.contains([',', ' ', '=']));
                let Some(path) = path else {
                    let msg = format!(
                        "{:?} can't stand among a device's arguments; choose another socket",
                        self.path
                    );
                    return Err(Error::new(code::CONFIG, msg));
                };
                let device = fnv(&call.container, &call.ifname);
                let role = if server { "server" } else { "client" };
                let devargs =
                    format!("net_memif{device:016x},role={role},socket={path},socket-abstract=no,id=0");
                Ok(PodPort::Dpdk { devargs })
            }
        }
    }

    /// Makes the folder that the socket is to be in, for those who may use it.
    pub(crate) fn make_folder(&self, conf: &Conf) -> Result<(), Error> {
        let Some(path) = folder_of(conf, &self.path) else { return Ok(()) };
        let group = match &self.group {
            None => None,
            Some(name) => Some(Group::from_name(name).ok().flatten().ok_or_else(|| {
                Error::new(code::CONFIG, format!("there is no group {name:?} on this node"))
            })?),
        };
        let folder = own_folder(path).map_err(failed("make", path))?;
        let mode = if group.is_some() { 0o770 } else { 0o750 };
        let change = || {
            folder.set_permissions(fs::Permissions::from_mode(mode))?;
            group.map_or(Ok(()), |group| fchown(&folder, None, Some(group.gid.as_raw())))
        };
        change().map_err(failed("change", path))
    }

    /// Removes the socket and, when nothing else is in it, its folder. What is not there is fine.
    pub(crate) fn remove(&self, conf: &Conf) -> Result<(), Error> {
        remove_socket(conf, &self.path)
    }

    /// The other side's words: who is a client here is met by a server.
    fn other_mode(&self) -> &'static str {
        match (self.kind, self.mode) {
            (Kind::VhostUser, SocketMode::Server) => "client",
            (Kind::VhostUser, SocketMode::Client) => "server",
            (Kind::Memif, SocketMode::Server) => "slave",
            (Kind::Memif, SocketMode::Client) => "master",
        }
    }

    /// Device information, specification 1.1.0: all from the application's point of view.
    fn device_info(&self) -> Value {
        let path = self.path.to_string_lossy();
        match self.kind {
            Kind::VhostUser => json!({ "type": "vhost-user", "version": "1.1.0",
                "vhost-user": { "mode": self.other_mode(), "path": path } }),
            Kind::Memif => json!({ "type": "memif", "version": "1.1.0",
                "memif": { "role": self.other_mode(), "path": path, "mode": "ethernet" } }),
        }
    }

    /// What the userspace CNI plugin would leave for the application.
    fn userspace_data(&self, conf: &Conf, call: &Call, result: &CniResult) -> Value {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let mut container =
            conf.raw.get("container").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
        let (iftype, word, config) = match self.kind {
            Kind::VhostUser => {
                ("vhostuser", "vhost", json!({ "mode": self.other_mode(), "socketfile": file }))
            }
            Kind::Memif => (
                "memif",
                "memif",
                json!({ "role": self.other_mode(), "mode": "ethernet", "socketfile": file }),
            ),
        };
        if let Some(keys) = container.as_object_mut() {
            keys.insert("iftype".to_owned(), iftype.into());
            keys.insert(word.to_owned(), config);
        }
        json!({ "containerId": call.container, "ifName": call.ifname, "name": conf.name, "config": container,
            "ipResult": result })
    }

    fn data_file(conf: &Conf, call: &Call) -> Option<PathBuf> {
        let short: String = call.container.chars().take(12).collect();
        Some(conf.own.shared_dir.as_ref()?.join(format!("configData-{short}-{}.json", call.ifname)))
    }

    /// Tells the application, in the files that the configuration names.
    pub(crate) fn tell(&self, conf: &Conf, call: &Call, result: &CniResult) -> Result<(), Error> {
        if let Some(path) = conf.device_info() {
            write_whole(path, &self.device_info().to_string())?;
        }
        if let Some(path) = Self::data_file(conf, call) {
            write_whole(&path, &self.userspace_data(conf, call, result).to_string())?;
        }
        Ok(())
    }

    /// Takes back what only the application was told. The device information is the caller's.
    pub(crate) fn forget(conf: &Conf, call: &Call) -> Result<(), Error> {
        let Some(path) = Self::data_file(conf, call) else { return Ok(()) };
        match fs::remove_file(&path) {
            // A directory is not what was written here.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => Ok(()),
            removed => removed.map_err(failed("remove", &path)),
        }
    }
}

/// Removes the socket of an attachment, and what its application was told, below the folders that the configuration names now. `port`
/// is that of its pod, where weftd has one: else the socket is where the configuration would put it.
pub(crate) fn clean(conf: &Conf, call: &Call, port: Option<&PodPort>) -> Result<(), Error> {
    let path = match port {
        Some(PodPort::Tap { .. }) => None,
        Some(PodPort::VhostUser { socket, .. }) => Some(socket.clone()),
        Some(PodPort::Dpdk { devargs }) => {
            devargs.split(',').find_map(|arg| arg.strip_prefix("socket=")).map(PathBuf::from)
        }
        None => match Plug::new(conf, call) {
            Ok(Plug::Socket(socket)) => Some(socket.path),
            // A configuration that can't say where the socket is never made one.
            Ok(Plug::Tap) | Err(_) => None,
        },
    };
    let Some(path) = path else { return Ok(()) };
    remove_socket(conf, &path)?;
    Socket::forget(conf, call)
}

/// The folder that is made for this socket alone; none where its place was named.
fn folder_of<'a>(conf: &Conf, socket: &'a Path) -> Option<&'a Path> {
    socket.parent().filter(|folder| folder.parent() == Some(conf.socket_dir().as_path()))
}

fn remove_socket(conf: &Conf, socket: &Path) -> Result<(), Error> {
    let Some(folder) = folder_of(conf, socket) else { return Ok(()) };
    remove_in(folder, socket.file_name().unwrap_or_default()).map_err(failed("remove", socket))
}

// A folder that is shared with a container may hold whatever that container has put there: links to the node's own files, for
// one. So such a folder is opened once, by the name that the configuration has for it, and within it no link is followed.

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC);

/// The folder of this path, which is made if it is not there.
fn shared_folder(path: &Path) -> io::Result<File> {
    fs::create_dir_all(path)?;
    Ok(open(path, FOLDER, Mode::empty())?.into())
}

/// A folder of weft's own in one that may be shared; the same.
fn own_folder(path: &Path) -> io::Result<File> {
    let (Some(shared), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let shared = shared_folder(shared)?;
    match mkdirat(&shared, name, Mode::from_bits_truncate(0o750)) {
        Err(error) if error != Errno::EEXIST => return Err(error.into()),
        _ => {}
    }
    Ok(openat(&shared, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty())?.into())
}

/// Removes a file of such a folder and, when nothing else is in it, the folder. What is not there, or has become something else,
/// is fine.
fn remove_in(path: &Path, file: &OsStr) -> io::Result<()> {
    let (Some(shared), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let gone = |error: Errno| matches!(error, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP);
    let shared = match open(shared, FOLDER, Mode::empty()) {
        Err(error) if gone(error) => return Ok(()),
        shared => shared?,
    };
    let folder = match openat(&shared, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty()) {
        Err(error) if gone(error) => return Ok(()),
        folder => folder?,
    };
    match unlinkat(&folder, file, UnlinkatFlags::NoRemoveDir) {
        Err(error) if !matches!(error, Errno::ENOENT | Errno::EISDIR) => return Err(error.into()),
        _ => {}
    }
    match unlinkat(&shared, name, UnlinkatFlags::RemoveDir) {
        Err(error) if error != Errno::ENOTEMPTY && !gone(error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a file that readers see whole or not at all.
fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let write = || {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let folder = shared_folder(folder)?;
        // A name that nobody can have put a link at before.
        let new = format!(".{:016x}.new", RandomState::new().build_hasher().finish());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file: File = openat(&folder, new.as_str(), flags, Mode::from_bits_truncate(0o644))?.into();
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let placed = written.and_then(|()| Ok(renameat(&folder, new.as_str(), &folder, name)?));
        if placed.is_err() {
            // The error that is said is the first.
            let _ = unlinkat(&folder, new.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        placed
    };
    write().map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plug(conf: Value) -> Result<(Plug, PodPort), Error> {
        let mut whole = json!({"name": "n", "cniVersion": "1.1.0", "type": "weft-cni"});
        whole.as_object_mut().unwrap().extend(conf.as_object().unwrap().clone());
        let call = Call::read(|name| {
            let value = match name {
                "CNI_COMMAND" => "ADD",
                "CNI_CONTAINERID" => "0123456789abcdef",
                "CNI_IFNAME" => "net1",
                "CNI_NETNS" => "/run/netns/x",
                _ => "",
            };
            Some(value.into())
        })?;
        let conf = Conf::read(whole.to_string().as_bytes(), &call)?;
        let plug = Plug::new(&conf, &call)?;
        let port = plug.port(&call)?;
        Ok((plug, port))
    }

    #[test]
    fn names_are_pods_names_and_differ() {
        assert_eq!(pod_name("c1", "eth0"), "c1-eth0");
        let long = "a".repeat(200);
        let names = [pod_name(&long, "eth0"), pod_name(&long, "eth1"), pod_name("c", "@%!")];
        assert!(names.iter().all(|name| is_pod_name(name)), "{names:?}");
        assert!(names[0] != names[1] && names[0].starts_with(&"a".repeat(64)));
    }

    #[test]
    fn each_kind_is_asked_for_and_told_to_the_application_from_its_side() {
        let (plugged, port) = plug(json!({})).unwrap();
        assert_eq!(plugged, Plug::Tap);
        assert_eq!(port, PodPort::Tap { netns: "/run/netns/x".into(), ifname: "net1".into() });

        let (vhost, port) = plug(json!({"attach": "vhost-user", "socketDir": "/s"})).unwrap();
        let socket = PathBuf::from("/s/0123456789abcdef/net1.sock");
        assert_eq!(port, PodPort::VhostUser { socket, mode: VhostMode::Client });
        assert_eq!(vhost.socket().unwrap().device_info()["vhost-user"]["mode"], "server");

        let host = json!({"iftype": "vhostuser", "netType": "bridge", "vhost": {"mode": "server", "socketfile": "/x/y"}});
        let (vhost, port) = plug(json!({"host": host})).unwrap();
        assert_eq!(port, PodPort::VhostUser { socket: "/x/y".into(), mode: VhostMode::Server });
        assert_eq!(
            vhost.socket().unwrap().device_info()["vhost-user"],
            json!({"mode": "client", "path": "/x/y"})
        );

        let host = json!({"iftype": "memif", "memif": {"role": "slave", "mode": "ethernet", "socketfile": "m.sock"}});
        let (memif, port) = plug(json!({"host": host, "sharedDir": "/d"})).unwrap();
        let PodPort::Dpdk { devargs } = port else { panic!("{port:?}") };
        let (device, rest) = devargs.split_once(',').unwrap();
        assert!(device.starts_with("net_memif") && device.len() == 25, "{device}");
        assert_eq!(rest, "role=client,socket=/d/0123456789abcdef/m.sock,socket-abstract=no,id=0");
        assert_eq!(memif.socket().unwrap().device_info()["memif"]["role"], "master");
    }

    #[test]
    fn links_in_a_shared_folder_lead_nowhere() {
        use std::os::unix::fs::symlink;

        let lab = tempfile::tempdir().unwrap();
        let (node, shared) = (lab.path().join("node"), lab.path().join("shared"));
        for folder in [&node, &shared] {
            fs::create_dir(folder).unwrap();
        }
        fs::set_permissions(&node, fs::Permissions::from_mode(0o700)).unwrap();
        for file in ["passwd", "net1.sock"] {
            fs::write(node.join(file), "the node's").unwrap();
        }
        // Both the file itself and whatever is written aside.
        for name in ["data.json", ".data.json.new"] {
            symlink(node.join("passwd"), shared.join(name)).unwrap();
        }
        write_whole(&shared.join("data.json"), "ours").unwrap();
        assert_eq!(fs::read_to_string(shared.join("data.json")).unwrap(), "ours");
        assert!(!fs::symlink_metadata(shared.join("data.json")).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&shared).unwrap().count(), 2, "what was written aside is left");

        // The folder of the container's socket.
        symlink(&node, shared.join("c1")).unwrap();
        let socket = Socket {
            kind: Kind::VhostUser,
            mode: SocketMode::Client,
            path: shared.join("c1/net1.sock"),
            group: None,
        };
        let variable = |name: &str| match name {
            "CNI_COMMAND" => Some("DEL".into()),
            "CNI_CONTAINERID" => Some("c1".into()),
            "CNI_IFNAME" => Some("net1".into()),
            "CNI_PATH" => Some("/x".into()),
            _ => None,
        };
        let call = Call::read(variable).unwrap();
        let conf = json!({"name": "n", "cniVersion": "1.1.0", "sharedDir": shared});
        let conf = Conf::read(conf.to_string().as_bytes(), &call).unwrap();
        assert_eq!(socket.make_folder(&conf).unwrap_err().code, code::IO);
        socket.remove(&conf).unwrap();
        assert_eq!(fs::metadata(&node).unwrap().permissions().mode() & 0o7777, 0o700);
        for file in ["passwd", "net1.sock"] {
            assert_eq!(fs::read_to_string(node.join(file)).unwrap(), "the node's");
        }

        // Without a link it is made, and goes.
        fs::remove_file(shared.join("c1")).unwrap();
        socket.make_folder(&conf).unwrap();
        fs::write(&socket.path, "").unwrap();
        socket.remove(&conf).unwrap();
        socket.remove(&conf).unwrap();
        assert!(!shared.join("c1").exists());
    }

    #[test]
    fn what_weft_has_not_is_refused_and_named() {
        for (conf, says) in [
            (json!({"host": {"iftype": "tap"}}), "host.iftype \"tap\""),
            (json!({"host": {"iftype": "memif", "memif": {"mode": "ip"}}}), "host.memif.mode"),
            (json!({"host": {"iftype": "memif", "memif": {"role": "x"}}}), "host.memif.role"),
            (json!({"host": {"iftype": "memif", "netType": "x"}}), "host.netType"),
            (json!({"host": {"iftype": "memif", "memif": {"socketfile": "../x"}}}), "socketfile"),
        ] {
            let error = plug(conf).unwrap_err();
            assert!(error.code == 2 && error.msg.contains(says), "{error:?}");
        }
        assert_eq!(plug(json!({"attach": "veth"})).unwrap_err().code, 6);
        let comma = plug(json!({"attach": "memif", "socketDir": "/a,b"})).unwrap_err();
        assert_eq!(comma.code, 7);
    }
}
