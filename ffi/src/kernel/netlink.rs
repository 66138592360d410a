//! What the kernel is asked over netlink by this crate: one message, one answer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::sys;

/// Bytes of a message's header.
pub(super) const HEADER: usize = 16;
/// The longest answer that is read.
const ANSWER: usize = 64 * 1024;

/// A question that grows attribute by attribute.
pub(super) struct Question(Vec<u8>);

impl Question {
    /// Of this type, with the struct that the type begins with.
    pub(super) fn new(kind: u16, body: &[u8]) -> Self {
        let mut message = vec![0; HEADER];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        message.extend_from_slice(body);
        Self(message)
    }

    pub(super) fn attribute(mut self, kind: u16, payload: &[u8]) -> Self {
        self.0.extend_from_slice(&(4 + payload.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn message(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// A socket to ask by: about links, addresses and routes of this thread's network namespace.
#[derive(Debug)]
pub(super) struct Asker {
    socket: OwnedFd,
    answer: Box<[u8]>,
}

impl Asker {
    pub(super) fn open() -> io::Result<Self> {
        let socket = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        Ok(Self { socket, answer: vec![0; ANSWER].into() })
    }

    /// What follows the header of the answer, which must be of this type.
    pub(super) fn ask(&mut self, question: Question, answer: u16) -> io::Result<&[u8]> {
        let question = question.message();
        let fd = self.socket.as_fd().as_raw_fd();
        // SAFETY: the kernel reads a live buffer of that length.
        sys::check_len(unsafe { libc::send(fd, question.as_ptr().cast(), question.len(), 0) })?;
        // The answer is there when send returns: the kernel makes it within the call.
        // SAFETY: the kernel writes at most that many bytes into a live buffer of that length.
        let read = unsafe {
            libc::recv(fd, self.answer.as_mut_ptr().cast(), self.answer.len(), libc::MSG_DONTWAIT)
        };
        body(self.answer.get(..sys::check_len(read)?).unwrap_or_default(), answer)
    }
}

/// What follows the header of a message of this type; the error that it tells of, if it does.
pub(super) fn body(message: &[u8], wanted: u16) -> io::Result<&[u8]> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "netlink answer is cut off");
    let kind = read_u16(message, 4).ok_or_else(cut)?;
    if i32::from(kind) == libc::NLMSG_ERROR {
        let code = read_u32(message, HEADER).ok_or_else(cut)? as i32;
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    if kind != wanted {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "netlink answer is of another kind"));
    }
    message.get(HEADER..).ok_or_else(cut)
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The payload of the first attribute of that kind.
pub(super) fn find_attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
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
