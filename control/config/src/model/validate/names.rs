//! What may stand in names and paths, for the model and for weftd's own configuration. The errors are reasons
//! only; who asks knows the remedy.

use std::path::{Component, Path};

/// The kernel's `sun_path` holds 108 bytes, the last of them zero.
const SOCKET_PATH_MAX: usize = 107;
/// `IFNAMSIZ` less the zero at the end.
const IFNAME_MAX: usize = 15;

/// What may stand in a name: it is used in paths, in URLs and in logs.
pub(crate) fn name_part(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if name.len() > 253 {
        return Err(format!("the name has {} bytes, more than 253", name.len()));
    }
    let first_wrong = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if let Some(c) = name.chars().find(|c| first_wrong(*c)) {
        return Err(format!("{c:?} may not stand in a name (letters, digits, '-', '.' and '_' may)"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("{name:?} does not begin with a letter or a digit"));
    }
    Ok(())
}

/// A path that says the same wherever it is read.
pub(crate) fn absolute_path(path: &Path) -> Result<(), String> {
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err("the path has a zero byte".to_owned());
    }
    if !path.is_absolute() {
        return Err(format!("{:?} is not an absolute path", path.display().to_string()));
    }
    // A path with `..` may name what another one names: two pods could share a socket unseen.
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("{:?} has \"..\" in it", path.display().to_string()));
    }
    if path.file_name().is_none() {
        return Err("the path names a directory".to_owned());
    }
    Ok(())
}

/// A path that a UNIX socket can have.
pub(crate) fn socket_path(path: &Path) -> Result<(), String> {
    absolute_path(path)?;
    match path.as_os_str().len() {
        length if length > SOCKET_PATH_MAX => {
            Err(format!("the path has {length} bytes, a UNIX socket's has {SOCKET_PATH_MAX} at most"))
        }
        _ => Ok(()),
    }
}

/// What the kernel takes for an interface's name (`dev_valid_name`), less what it would read as a pattern.
pub(crate) fn interface_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(format!("{name:?} is no name for an interface"));
    }
    if name == "lo" {
        return Err("\"lo\" is the loopback interface".to_owned());
    }
    if name.len() > IFNAME_MAX {
        return Err(format!(
            "{name:?} has {} bytes, an interface's name has {IFNAME_MAX} at most",
            name.len()
        ));
    }
    match name.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%')) {
        Some(c) => Err(format!("{c:?} may not stand in an interface's name")),
        None => Ok(()),
    }
}
