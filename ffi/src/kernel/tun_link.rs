//! What the kernel says of a TUN/TAP device that nobody need have open: asked over netlink, since the device's own
//! requests answer only those who are attached to it already.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::interface::IfName;
use super::sys;

/// An interface, as far as taking up a TAP needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Link {
    /// The interface's number.
    pub(super) index: u32,
    /// What made it ("veth", "tun"); empty for hardware.
    pub(super) kind: String,
    /// Present for a TAP, not for a TUN.
    pub(super) tap: Option<TapLink>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TapLink {
    /// Made with `IFF_MULTI_QUEUE`.
    pub(super) multi_queue: bool,
    /// Queues that somebody has open; the kernel tells it of multi-queue devices only.
    pub(super) open_queues: u32,
}

const NLMSG_HDR: usize = 16;
const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;

/// The interface of that name in this thread's network namespace; `None` if there is none.
pub(super) fn find(name: IfName) -> io::Result<Option<Link>> {
    let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let request = request(name);
    // SAFETY: the kernel reads a live buffer of that length.
    let sent = unsafe { libc::send(socket.as_fd().as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    sys::check_len(sent)?;
    // The answer is there when send returns: the kernel makes it within the call.
    let mut answer = vec![0u8; 64 * 1024];
    // SAFETY: the kernel writes at most that many bytes into a live buffer of that length.
    let read = unsafe { libc::recv(socket.as_fd().as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    let read = sys::check_len(read)?;
    parse(answer.get(..read).unwrap_or_default())
}

fn request(name: IfName) -> Vec<u8> {
    let mut attribute = name.as_str().as_bytes().to_vec();
    attribute.push(0);
    let attribute_len = 4 + attribute.len();
    attribute.resize(attribute.len().next_multiple_of(4), 0);

    let total = NLMSG_HDR + IFINFOMSG + 4 + attribute.len();
    let mut message = Vec::with_capacity(total);
    message.extend_from_slice(&(total as u32).to_ne_bytes());
    message.extend_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    message.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[0; IFINFOMSG]);
    message.extend_from_slice(&(attribute_len as u16).to_ne_bytes());
    message.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    message.extend_from_slice(&attribute);
    message
}

fn parse(message: &[u8]) -> io::Result<Option<Link>> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "netlink answer is cut off");
    let kind = read_u16(message, 4).ok_or_else(cut)?;
    if i32::from(kind) == libc::NLMSG_ERROR {
        let code = read_u32(message, NLMSG_HDR).ok_or_else(cut)? as i32;
        if code == -libc::ENODEV {
            return Ok(None);
        }
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    if kind != libc::RTM_NEWLINK {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "netlink answer is of another kind"));
    }
    let mut link = Link { index: read_u32(message, NLMSG_HDR + 4).ok_or_else(cut)?, ..Link::default() };
    let attributes = message.get(NLMSG_HDR + IFINFOMSG..).ok_or_else(cut)?;
    let Some(info) = find_attribute(attributes, IFLA_LINKINFO) else { return Ok(Some(link)) };
    if let Some(kind) = find_attribute(info, IFLA_INFO_KIND) {
        link.kind = String::from_utf8_lossy(kind).trim_end_matches('\0').to_owned();
    }
    if link.kind == "tun" {
        let data = find_attribute(info, IFLA_INFO_DATA).unwrap_or_default();
        let byte = |number| find_attribute(data, number).and_then(|value| value.first().copied());
        if byte(IFLA_TUN_TYPE).map(i32::from) == Some(libc::IFF_TAP) {
            link.tap = Some(TapLink {
                multi_queue: byte(IFLA_TUN_MULTI_QUEUE).is_some_and(|flag| flag != 0),
                open_queues: find_attribute(data, IFLA_TUN_NUM_QUEUES)
                    .and_then(|value| read_u32(value, 0))
                    .unwrap_or(0),
            });
        }
    }
    Ok(Some(link))
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The payload of the first attribute of that kind.
fn find_attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    const NESTED_AND_ORDER: u16 = 0xc000;
    while let (Some(len), Some(kind)) = (read_u16(attributes, 0), read_u16(attributes, 2)) {
        let payload = attributes.get(4..usize::from(len))?;
        if kind & !NESTED_AND_ORDER == wanted {
            return Some(payload);
        }
        attributes = attributes.get(usize::from(len).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_loopback_interface_and_no_other() {
        let lo = find("lo".parse().unwrap()).unwrap().expect("every namespace has one");
        assert_eq!(lo, Link { index: 1, ..Link::default() });
        assert_eq!(find("weft-t-none".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn an_answer_that_is_cut_off_anywhere_is_no_panic() {
        let attribute = |kind: u16, payload: &[u8]| {
            let mut bytes = (4 + payload.len() as u16).to_ne_bytes().to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let data = [
            attribute(IFLA_TUN_TYPE, &[2]),
            attribute(IFLA_TUN_MULTI_QUEUE, &[1]),
            attribute(IFLA_TUN_NUM_QUEUES, &3u32.to_ne_bytes()),
        ]
        .concat();
        let info = [attribute(IFLA_INFO_KIND, b"tun\0"), attribute(IFLA_INFO_DATA, &data)].concat();
        let mut message = vec![0; NLMSG_HDR + IFINFOMSG];
        message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        message[20] = 9;
        message.extend(attribute(IFLA_LINKINFO, &info));

        let tap = TapLink { multi_queue: true, open_queues: 3 };
        assert_eq!(parse(&message).unwrap(), Some(Link { index: 9, kind: "tun".into(), tap: Some(tap) }));
        for len in 0..message.len() {
            let _either = parse(&message[..len]);
        }
        // An attribute that claims to be shorter than its own header ends the walk.
        let end = message.len();
        for at in NLMSG_HDR + IFINFOMSG..end {
            let mut broken = message.clone();
            broken[at] = 0;
            let _either = parse(&broken);
        }
    }
}
