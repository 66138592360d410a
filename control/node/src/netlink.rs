//! The kernel's links, addresses and neighbours, as far as weft needs them: netlink messages on one side, plain
//! values on the other. Routes are in `route.rs`.

use crate::MacBytes;
use crate::error::Error;
use futures_util::{Stream, StreamExt, TryStream, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, LinkGetRequest, LinkMessageBuilder, LinkUnspec};
use std::io;
use std::net::IpAddr;

pub(crate) const ENOENT: i32 = nix::libc::ENOENT;
pub(crate) const ESRCH: i32 = nix::libc::ESRCH;
pub(crate) const EEXIST: i32 = nix::libc::EEXIST;
const ENODEV: i32 = nix::libc::ENODEV;
const EBUSY: i32 = nix::libc::EBUSY;
const ERANGE: i32 = nix::libc::ERANGE;
const EOPNOTSUPP: i32 = nix::libc::EOPNOTSUPP;

/// `IN6_ADDR_GEN_MODE_NONE`: the kernel makes no link-local address by itself.
pub(crate) const ADDR_GEN_MODE_NONE: u8 = 1;

/// One netlink socket for requests, in the namespace of the thread that opened it.
#[derive(Clone)]
pub(crate) struct Kernel(pub(crate) Handle);

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<MacBytes>,
    pub(crate) mtu: u32,
    /// Bytes of the largest frame that the kernel hands over uncut.
    pub(crate) gso_max_size: u32,
    /// Set up by its administrator.
    pub(crate) admin_up: bool,
    /// Set up, and its carrier is there.
    pub(crate) running: bool,
    /// It has a carrier, be it up or not. A TAP has one while a program holds it open.
    pub(crate) carrier: bool,
    /// Made by the TUN/TAP driver.
    pub(crate) tun: bool,
    /// How the kernel makes link-local addresses; none if IPv6 is off.
    pub(crate) addr_gen_mode: Option<u8>,
    /// It has never been up, and nobody has chosen how it queues what it sends.
    pub(crate) unused: bool,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) net: IpNet,
    pub(crate) usable: bool,
    /// flannel's order of preference: global before link-local, permanent before dynamic, lasting before temporary.
    pub(crate) rank: u8,
    message: AddressMessage,
}

/// Turns an answer of rtnetlink into ours, naming what was asked.
pub(crate) fn failed(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let doing = doing.into();
    move |error| {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        Error::Kernel { doing, source }
    }
}

/// Collects a dump. A dump that the kernel interrupted is no error here: whoever needs the whole truth follows
/// notifications too.
pub(crate) async fn all<S, T>(stream: S, doing: &str) -> Result<Vec<T>, Error>
where
    S: TryStream<Ok = T, Error = rtnetlink::Error>,
{
    stream.try_collect().await.map_err(failed(doing))
}

impl Kernel {
    /// Opens a socket on the current tokio runtime, in the current thread's namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        let (mut connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| Error::Kernel { doing: "open a netlink socket".to_owned(), source })?;
        // With strict checks the kernel filters dumps itself; kernels before 4.20 lack them, and every dump is
        // filtered here as well.
        let _ = connection.socket_mut().socket_mut().set_netlink_get_strict_chk(true);
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    pub(crate) fn into_handle(self) -> Handle {
        self.0
    }

    /// One request with the flags given; the answers are those until the kernel's acknowledgement.
    pub(crate) fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: &str,
    ) -> Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>, Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        self.0.clone().request(request).map_err(failed(doing))
    }

    /// One request of which only success or failure matters.
    pub(crate) async fn execute(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: &str,
    ) -> Result<(), Error> {
        let mut answers = self.request(message, flags, doing)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(failed(doing)(rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }

    pub(crate) async fn links(&self) -> Result<Vec<Link>, Error> {
        let asked = without_counters(self.0.link().get());
        let messages = all(asked.execute(), "list the interfaces").await?;
        Ok(messages.iter().map(Link::read).collect())
    }

    /// The interface of that name; the error lists the ones there are.
    pub(crate) async fn link(&self, name: &str) -> Result<Link, Error> {
        let asked = without_counters(self.0.link().get().match_name(name.to_owned()));
        match all(asked.execute(), &format!("ask for interface {name}")).await {
            // Alternative names are found too, but are nobody's by which it is followed.
            Ok(found) => {
                if let Some(link) = found.iter().map(Link::read).find(|link| link.name == name) {
                    return Ok(link);
                }
            }
            // There is none, or there can't be one, so long is the name.
            Err(error) if matches!(error.errno(), Some(ENODEV | ERANGE)) => {}
            Err(error) => return Err(error),
        }
        let existing = self.links().await?.into_iter().map(|l| l.name).collect::<Vec<_>>().join(", ");
        Err(Error::NoInterface { name: name.to_owned(), existing })
    }

    pub(crate) async fn set_link_up(&self, link: &Link, up: bool) -> Result<(), Error> {
        let builder = LinkUnspec::new_with_index(link.index);
        let message = if up { builder.up() } else { builder.down() }.build();
        let doing = format!("set interface {} {}", link.name, if up { "up" } else { "down" });
        self.0.link().set(message).execute().await.map_err(failed(doing))
    }

    /// Has the kernel hand frames for an interface that nobody has used yet to its driver at once, as it does with a container's
    /// usual veth. By default a TAP with many queues has one that buffers for each that there may be: 6 MiB of the kernel's memory,
    /// for nothing, as what a TAP has no room for is dropped behind them. A kernel without traffic control has none.
    pub(crate) async fn set_unbuffered(&self, link: &Link) -> Result<(), Error> {
        if link.admin_up || !link.unused {
            return Ok(());
        }
        let mut message = TcMessage::with_index(link.index as i32);
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
        let doing = format!("set the queueing discipline of interface {}", link.name);
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match self.execute(RouteNetlinkMessage::NewQueueDiscipline(message), flags, &doing).await {
            // Or somebody has just chosen one.
            Err(error) if matches!(error.errno(), Some(ENOENT | EOPNOTSUPP | EEXIST)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Sets the MAC address and the MTU, and what follows from that. A driver that refuses another address on a running interface
    /// gets it down and up again.
    pub(crate) async fn set_mac_and_mtu(&self, link: &Link, mac: MacBytes, mtu: u32) -> Result<(), Error> {
        let gso_max_size = gso_max_size(mtu);
        if link.mac == Some(mac) && link.mtu == mtu && link.gso_max_size == gso_max_size {
            return Ok(());
        }
        let set = || async {
            let mut builder = LinkUnspec::new_with_index(link.index)
                .mtu(mtu)
                .append_extra_attribute(LinkAttribute::GsoMaxSize(gso_max_size));
            if link.mac != Some(mac) {
                builder = builder.address(mac.to_vec());
            }
            let doing =
                format!("give interface {} the MAC address {} and MTU {mtu}", link.name, mac_text(mac));
            self.0.link().set(builder.build()).execute().await.map_err(failed(doing))
        };
        match set().await {
            Err(error) if error.errno() == Some(EBUSY) && link.admin_up => {
                self.set_link_up(link, false).await?;
                let outcome = set().await;
                self.set_link_up(link, true).await?;
                outcome
            }
            outcome => outcome,
        }
    }

    /// The loopback interface, which has the same number in each namespace.
    pub(crate) async fn set_loopback_up(&self) -> Result<(), Error> {
        const INDEX: u32 = 1;
        let message = LinkUnspec::new_with_index(INDEX).up().build();
        self.0.link().set(message).execute().await.map_err(failed("set interface lo up"))
    }

    pub(crate) async fn set_addr_gen_mode(&self, link: &Link, mode: u8) -> Result<(), Error> {
        let af_spec = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])];
        let message = LinkMessageBuilder::<LinkUnspec>::default()
            .index(link.index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(af_spec))
            .build();
        let doing = format!("stop the kernel from making IPv6 addresses on interface {}", link.name);
        self.0.link().set(message).execute().await.map_err(failed(doing))
    }

    /// Deletes an interface; one that is gone already is fine.
    pub(crate) async fn delete_link(&self, link: &Link) -> Result<(), Error> {
        match self.0.link().del(link.index).execute().await {
            Ok(()) => Ok(()),
            Err(error) => match failed(format!("delete interface {}", link.name))(error) {
                gone if gone.errno() == Some(ENODEV) => Ok(()),
                error => Err(error),
            },
        }
    }

    pub(crate) async fn addresses(&self, index: u32) -> Result<Vec<Address>, Error> {
        let request = self.0.address().get().set_link_index_filter(index).execute();
        let messages = all(request, "list the addresses").await?;
        Ok(messages.into_iter().filter_map(Address::read).collect())
    }

    /// Adds an address without waiting for duplicates; one that is there already is fine.
    pub(crate) async fn add_address(&self, link: &Link, net: IpNet) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.index = link.index;
        message.header.prefix_len = net.prefix_len();
        message.header.family = family(net.addr());
        message.attributes.push(AddressAttribute::Local(net.addr()));
        message.attributes.push(AddressAttribute::Address(net.addr()));
        match net {
            // A broadcast address for a /31 or /32 would be a host's own address, which could not be used then.
            IpNet::V4(v4) if v4.prefix_len() < 31 => {
                message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
            }
            IpNet::V4(_) => {}
            IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
        }
        let mut request = self.0.address().add(link.index, net.addr(), net.prefix_len());
        *request.message_mut() = message;
        match request.execute().await {
            Ok(()) => Ok(()),
            Err(error) => match failed(format!("add the address {net} to interface {}", link.name))(error) {
                there if there.errno() == Some(EEXIST) => Ok(()),
                error => Err(error),
            },
        }
    }

    pub(crate) async fn delete_address(&self, link: &Link, address: &Address) -> Result<(), Error> {
        let doing = format!("remove the address {} from interface {}", address.net, link.name);
        self.0.address().del(address.message.clone()).execute().await.map_err(failed(doing))
    }
}

/// Counters take longer than all the rest, and nobody reads them here.
fn without_counters(request: LinkGetRequest) -> LinkGetRequest {
    request.set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
}

/// Bytes of the largest frame that an interface of this MTU is to hand over uncut: as many packets as one UDP message can take into
/// the tunnel. Of a larger one the rest would travel, and be received, by itself.
fn gso_max_size(mtu: u32) -> u32 {
    /// A UDP message over IPv4.
    const MESSAGE: u32 = 65535 - 20 - 8;
    /// VXLAN and inner Ethernet header.
    const IN_FRONT: u32 = 8 + 14;
    /// Of an IPv4 and a TCP header with timestamps.
    const HEADERS: u32 = 20 + 32;
    /// What the kernel keeps free for headers in a frame of this size, more or less.
    const KEPT_FREE: u32 = 320;
    /// Packets in a message.
    const PACKETS: u32 = 64;

    let packets = (MESSAGE / (mtu + IN_FRONT)).clamp(1, PACKETS);
    (packets * mtu.saturating_sub(HEADERS) + KEPT_FREE).min(65536)
}

impl Link {
    /// One that has just been made, of whose state nothing is known but that it has never been up.
    pub(crate) fn new(index: u32, name: &str) -> Self {
        Self { index, name: name.to_owned(), unused: true, ..Self::default() }
    }

    pub(crate) fn read(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let admin_up = flags.contains(LinkFlags::Up);
        let mut link = Self {
            index: message.header.index,
            admin_up,
            running: admin_up && flags.contains(LinkFlags::LowerUp),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::GsoMaxSize(bytes) => link.gso_max_size = *bytes,
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::Qdisc(kind) => link.unused = kind == "noop",
                LinkAttribute::Carrier(carrier) => link.carrier = *carrier != 0,
                LinkAttribute::LinkInfo(info) => {
                    link.tun = info.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Tun)));
                }
                LinkAttribute::AfSpecUnspec(families) => {
                    link.addr_gen_mode = families.iter().find_map(|family| match family {
                        AfSpecUnspec::Inet6(facts) => facts.iter().find_map(|fact| match fact {
                            AfSpecInet6::AddrGenMode(mode) => Some(*mode),
                            _ => None,
                        }),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

impl Address {
    fn read(message: AddressMessage) -> Option<Self> {
        // Of a point-to-point address the local end is ours; IPv6 names it only then.
        let mut local = None;
        let mut address = None;
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        let ip = local.or(address)?;
        let net = IpNet::new(ip, message.header.prefix_len).ok()?;
        let unusable = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
        // The bit that says "temporary" for IPv6 says "secondary" for IPv4; both come after the others.
        let rank = [
            message.header.scope != AddressScope::Universe,
            !flags.contains(AddressFlags::Permanent),
            flags.contains(AddressFlags::Secondary),
        ]
        .into_iter()
        .fold(0, |rank, worse| rank << 1 | u8::from(worse));
        Some(Self { net, usable: !flags.intersects(unusable), rank, message })
    }
}

pub(crate) fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// A MAC address in its usual form.
pub(crate) fn mac_text([a, b, c, d, e, f]: MacBytes) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
