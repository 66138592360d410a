//! What the kernel says of a TUN/TAP device that nobody need have open: asked over netlink, since the device's own
//! requests answer only those who are attached to it already.

use std::io;

use super::interface::IfName;
use super::netlink::{Asker, Question, find_attribute, read_u32};

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
    let mut text = name.as_str().as_bytes().to_vec();
    text.push(0);
    let question = Question::new(libc::RTM_GETLINK, &[0; IFINFOMSG]).attribute(IFLA_IFNAME, &text);
    match Asker::open()?.ask(question, libc::RTM_NEWLINK) {
        Ok(body) => parse(body).map(Some),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(body: &[u8]) -> io::Result<Link> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "netlink answer is cut off");
    let mut link = Link { index: read_u32(body, 4).ok_or_else(cut)?, ..Link::default() };
    let attributes = body.get(IFINFOMSG..).ok_or_else(cut)?;
    let Some(info) = find_attribute(attributes, IFLA_LINKINFO) else { return Ok(link) };
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
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::{HEADER, body};

    fn read(message: &[u8]) -> io::Result<Link> {
        parse(body(message, libc::RTM_NEWLINK)?)
    }

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
        let mut message = vec![0; HEADER + IFINFOMSG];
        message[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
        message[20] = 9;
        message.extend(attribute(IFLA_LINKINFO, &info));

        let tap = TapLink { multi_queue: true, open_queues: 3 };
        assert_eq!(read(&message).unwrap(), Link { index: 9, kind: "tun".into(), tap: Some(tap) });
        for len in 0..message.len() {
            let _either = read(&message[..len]);
        }
        // An attribute that claims to be shorter than its own header ends the walk.
        let end = message.len();
        for at in HEADER + IFINFOMSG..end {
            let mut broken = message.clone();
            broken[at] = 0;
            let _either = read(&broken);
        }
    }
}
