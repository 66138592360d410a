//! Which interface the kernel sends a destination's packets out by, with all of its rules and tables.

use std::io;
use std::net::IpAddr;

use super::netlink::{Asker, Question, find_attribute, read_u32};

const RTMSG: usize = 12;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_IP_PROTO: u16 = 27;
const RTA_DPORT: u16 = 29;

/// Asks the kernel, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct WayOut(Asker);

impl WayOut {
    /// With a socket of its own.
    pub fn open() -> io::Result<Self> {
        Asker::open().map(Self)
    }

    /// The number of the interface that UDP to port `port` of `to`, from this host's `from`, leaves by. Takes some microseconds.
    ///
    /// # Errors
    /// `ENETUNREACH` and others that the kernel has where there is no way; addresses of two families.
    pub fn interface(&mut self, from: IpAddr, to: IpAddr, port: u16) -> io::Result<u32> {
        let question = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => question(libc::AF_INET, &from.octets(), &to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => question(libc::AF_INET6, &from.octets(), &to.octets()),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let question = question
            .attribute(RTA_IP_PROTO, &[libc::IPPROTO_UDP as u8])
            .attribute(RTA_DPORT, &port.to_be_bytes());
        let answer = self.0.ask(question, libc::RTM_NEWROUTE)?;
        let attributes = answer.get(RTMSG..).unwrap_or_default();
        find_attribute(attributes, RTA_OIF)
            .and_then(|value| read_u32(value, 0))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn question(family: libc::c_int, from: &[u8], to: &[u8]) -> Question {
    let bits = (to.len() * 8) as u8;
    let mut body = [0; RTMSG];
    (body[0], body[1], body[2]) = (family as u8, bits, bits);
    Question::new(libc::RTM_GETROUTE, &body).attribute(RTA_DST, to).attribute(RTA_SRC, from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_reaches_itself_by_the_loopback_interface() {
        let mut way = WayOut::open().unwrap();
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(way.interface(here, here, 8472).unwrap(), 1);
        assert!(way.interface(here, "::1".parse().unwrap(), 8472).is_err(), "of two families");
        // A second question goes by the same socket.
        assert_eq!(way.interface(here, here, 8472).unwrap(), 1);
    }
}
