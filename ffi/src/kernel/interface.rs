//! An interface's name, and what the kernel says of it. Everything is asked in the network namespace of the calling
//! thread.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::str::FromStr;

use arrayvec::ArrayString;
use thiserror::Error;

use super::sys;

/// Longest name of an interface: `IFNAMSIZ` without the final zero.
pub const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// Text that cannot name an interface.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error(
    "{name:?} cannot name an interface: {reason} (1 to {MAX_NAME} printable ASCII characters without space, '/', ':' or '%')"
)]
pub struct NameError {
    name: String,
    reason: &'static str,
}

/// The name of an interface, checked: the kernel takes it as it is. `%` is refused because the kernel reads
/// it as a template (`pod%d` makes `pod0`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName(ArrayString<MAX_NAME>);

impl IfName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As the C struct that interface requests begin with, the rest zero.
    pub(super) fn to_ifreq(self) -> libc::ifreq {
        let mut ifreq = sys::zeroed::<libc::ifreq>();
        for (to, from) in ifreq.ifr_name.iter_mut().zip(self.0.bytes()) {
            *to = from as libc::c_char;
        }
        ifreq
    }
}

impl FromStr for IfName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let refuse = |reason| NameError { name: name.to_owned(), reason };
        if name.is_empty() {
            return Err(refuse("it is empty"));
        }
        if name == "." || name == ".." {
            return Err(refuse("it is reserved"));
        }
        if name.bytes().any(|b| !b.is_ascii_graphic() || matches!(b, b'/' | b':' | b'%')) {
            return Err(refuse("it has a character that is not allowed"));
        }
        ArrayString::from(name).map(Self).map_err(|_| refuse("it is too long"))
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Asks about an interface: any socket serves as the way in.
fn ask(name: IfName, request: libc::c_ulong) -> io::Result<libc::ifreq> {
    let way_in = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut ifreq = name.to_ifreq();
    sys::ioctl_ifreq(way_in.as_fd(), request, &mut ifreq)?;
    Ok(ifreq)
}

/// The interface's number. Fails with `ENODEV` if there is none of that name.
pub fn index(name: IfName) -> io::Result<u32> {
    let ifreq = ask(name, libc::SIOCGIFINDEX as _)?;
    // SAFETY: the kernel has filled in this field of the union; it is an integer.
    let index = unsafe { ifreq.ifr_ifru.ifru_ifindex };
    u32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

/// The name of the interface that has this number now. Fails with `ENODEV` if there is none.
pub(super) fn name_of(index: u32) -> io::Result<IfName> {
    let gone = || io::Error::from_raw_os_error(libc::ENODEV);
    let way_in = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut ifreq = sys::zeroed::<libc::ifreq>();
    ifreq.ifr_ifru.ifru_ifindex = i32::try_from(index).map_err(|_| gone())?;
    sys::ioctl_ifreq(way_in.as_fd(), libc::SIOCGIFNAME as _, &mut ifreq)?;
    name_in(&ifreq)
}

/// The name in a request that the kernel has answered.
pub(super) fn name_in(ifreq: &libc::ifreq) -> io::Result<IfName> {
    let gone = || io::Error::from_raw_os_error(libc::ENODEV);
    let mut name = ArrayString::<MAX_NAME>::new();
    for byte in ifreq.ifr_name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0) {
        name.try_push(char::from(byte)).map_err(|_| gone())?;
    }
    // The kernel's own names may have characters that `FromStr` refuses; such a one was never a weft's.
    name.parse().map_err(|_| gone())
}

/// The interface's MTU in bytes, without the Ethernet header.
pub fn mtu(name: IfName) -> io::Result<u32> {
    let ifreq = ask(name, libc::SIOCGIFMTU as _)?;
    // SAFETY: the kernel has filled in this field of the union; it is an integer.
    let mtu = unsafe { ifreq.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// The interface's MAC address. Fails with `EINVAL` if it is no Ethernet interface.
pub fn mac(name: IfName) -> io::Result<[u8; 6]> {
    mac_in(&ask(name, libc::SIOCGIFHWADDR as _)?)
}

/// True if the interface is administratively up.
pub fn is_up(name: IfName) -> io::Result<bool> {
    let ifreq = ask(name, libc::SIOCGIFFLAGS as _)?;
    // SAFETY: the kernel has filled in this field of the union; it is an integer.
    let flags = unsafe { ifreq.ifr_ifru.ifru_flags };
    Ok(i32::from(flags) & libc::IFF_UP != 0)
}

/// Sets the interface up, for one that nobody is asked for behind.
pub(super) fn set_up_without_arp(name: IfName) -> io::Result<()> {
    let way_in = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut ifreq = name.to_ifreq();
    ifreq.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_NOARP) as libc::c_short;
    sys::ioctl_ifreq(way_in.as_fd(), libc::SIOCSIFFLAGS as _, &mut ifreq)
}

/// True if hardware is behind the interface, or behind one that it is made of (bond, VLAN, bridge's port); also where nothing says so, as
/// in a container without sysfs.
pub fn has_nic(name: IfName) -> bool {
    /// Interfaces are stacked less deep than that.
    const DEEPEST: usize = 8;
    fn look(name: &str, depth: usize) -> bool {
        let path = Path::new("/sys/class/net").join(name);
        let Ok(entries) = path.read_dir() else { return true };
        let mut names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        depth == DEEPEST
            || names.any(|entry| match entry.strip_prefix("lower_") {
                Some(lower) => look(lower, depth + 1),
                None => entry == "device",
            })
    }
    look(name.as_str(), 0)
}

/// How many queues the interface receives by; 1 where its driver does not say.
pub fn rx_queues(name: IfName) -> io::Result<u32> {
    /// `ETHTOOL_GCHANNELS` and `struct ethtool_channels` of linux/ethtool.h.
    const GET_CHANNELS: u32 = 0x3c;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const RX: usize = 5;
    const COMBINED: usize = 8;
    let way_in = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut channels = [0u32; 9];
    channels[0] = GET_CHANNELS;
    let mut ifreq = name.to_ifreq();
    ifreq.ifr_ifru.ifru_data = channels.as_mut_ptr().cast();
    // SAFETY: the command in the struct's first field has the kernel write one `struct ethtool_channels`, which has as many
    // numbers as are there and outlives the call.
    let asked = unsafe { libc::ioctl(way_in.as_fd().as_raw_fd(), SIOCETHTOOL as _, &raw mut ifreq) };
    match sys::check(asked) {
        Ok(_) => Ok((channels[RX] + channels[COMBINED]).max(1)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
        Err(error) => Err(error),
    }
}

/// How many frames the interface queues on their way out (for a TAP: on their way to weft).
pub fn set_tx_queue_len(name: IfName, frames: u32) -> io::Result<()> {
    const SIOCSIFTXQLEN: libc::c_ulong = 0x8943;
    let way_in = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut ifreq = name.to_ifreq();
    ifreq.ifr_ifru.ifru_metric =
        i32::try_from(frames).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    sys::ioctl_ifreq(way_in.as_fd(), SIOCSIFTXQLEN, &mut ifreq)
}

/// The MAC address in an answer to `SIOCGIFHWADDR`.
pub(super) fn mac_in(ifreq: &libc::ifreq) -> io::Result<[u8; 6]> {
    // SAFETY: the kernel has filled in this field of the union; it is made of integers.
    let address = unsafe { ifreq.ifr_ifru.ifru_hwaddr };
    if address.sa_family != libc::ARPHRD_ETHER {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let [a, b, c, d, e, f, ..] = address.sa_data;
    Ok([a, b, c, d, e, f].map(|byte| byte as u8))
}

/// A request that sets a MAC address.
pub(super) fn mac_request(name: IfName, mac: [u8; 6]) -> libc::ifreq {
    let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    let mut ifreq = name.to_ifreq();
    ifreq.ifr_ifru.ifru_hwaddr = address;
    ifreq
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_takes_as_they_are() {
        for good in ["e", "eth0", "flannel.1", "weft-pod_0@x", "abcdefghijklmno"] {
            assert_eq!(good.parse::<IfName>().expect(good).as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\n", "a\0", "pod%d", "a:1", "abcdefghijklmnop", "ü"] {
            let error = bad.parse::<IfName>().expect_err(bad);
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn the_loopback_interface() {
        let lo: IfName = "lo".parse().unwrap();
        assert_eq!(index(lo).unwrap(), 1);
        assert!(mtu(lo).unwrap() >= 1500);
        assert_eq!(rx_queues(lo).unwrap(), 1);
        assert!(!has_nic(lo));
        assert!(has_nic("weft-t-none".parse().unwrap()), "nothing says so");
        assert_eq!(mac(lo).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let none: IfName = "weft-t-none".parse().unwrap();
        assert_eq!(index(none).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
