//! A mirror of the underlay that says when something changed.
//!
//! Level-triggered: a notification of the kernel only says what to read again, and the counter moves only if what
//! was read differs. So the order of notifications does not matter, and lost ones (ENOBUFS) cost one more reading.
//! The exception is the neighbour table, which is followed entry by entry: neighbours go from reachable to stale
//! and back all the time, and asking the kernel for every route each time would never end.

mod view;

use self::view::{Found, View};
use crate::error::Error;
use crate::neighbour::{self, Neighbour};
use crate::netlink::{Kernel, Link};
use crate::route::{self, Answer, WEFT_PROTOCOL};
use crate::underlay::{Path, PathError, Uplink, default_name, read_uplink};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteFlags, RouteProtocol, RouteType};
use rtnetlink::constants::{
    RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK, RTMGRP_NEIGH,
};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// `RTNLGRP_IPV6_RULE` (linux/rtnetlink.h), which has no bit in the old group mask.
const GROUP_IPV6_RULE: u32 = 19;
/// Notifications of one change come in swarms; this long they are collected.
const COALESCE: Duration = Duration::from_millis(20);
/// How often next hops without a settled neighbour are asked for again.
const TEND: Duration = Duration::from_secs(5);
/// How long to wait after the kernel refused a subscription.
const RETRY: Duration = Duration::from_secs(1);
/// The receive buffer for notifications, in bytes: some thousand of them.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Route questions that are under way at a time.
const QUESTIONS: usize = 64;
/// How often answers are looked for that are too old.
const LOOK: Duration = Duration::from_secs(1);

/// Who sees to it that next hops stay resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbours {
    /// The mirror: packets to them pass the kernel by.
    Keep,
    /// The kernel, which sends the packets itself.
    Leave,
}

type Notification = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);
/// Follows the uplink and the paths through it until it is dropped.
#[derive(Debug)]
pub struct Mirror {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    /// Held while the kernel is read and the outcome stored, so that no reading overwrites a newer one.
    turn: tokio::sync::Mutex<()>,
    view: Mutex<View>,
    changes: watch::Sender<u64>,
}

/// What notifications ask for.
#[derive(Default)]
struct Due {
    /// The uplink, its addresses or a rule changed: read it and all ways again.
    reread: bool,
    /// Routes to these destinations changed: read the ways there again.
    routes: HashSet<IpNet>,
    /// A next hop's MAC address changed: tell it.
    tell: bool,
    /// Notifications were lost: read everything again.
    lost: bool,
}

impl Due {
    fn is_empty(&self) -> bool {
        !self.reread && self.routes.is_empty() && !self.tell
    }
}

impl Mirror {
    /// Starts to follow the interface `uplink_name`, or else that of the default route, on the current tokio
    /// runtime. The receiver's number grows whenever the uplink or one of the paths asked for has changed.
    pub async fn start(
        uplink_name: Option<&str>,
        neighbours: Neighbours,
    ) -> Result<(Self, watch::Receiver<u64>), Error> {
        let kernel = Kernel::open()?;
        let name = match uplink_name {
            Some(name) => name.to_owned(),
            None => default_name(&kernel).await?,
        };
        // Subscribed before the first reading: nothing can change unseen in between.
        let notifications = subscribe()?;
        let uplink = read_uplink(&kernel, &name).await?;
        let known = read_neighbours(&kernel, uplink.index).await?;
        let keeps = neighbours == Neighbours::Keep;
        let view = View::new(uplink, keeps, known);
        let (changes, receiver) = watch::channel(0);
        let turn = tokio::sync::Mutex::new(());
        let shared = Arc::new(Shared { name, turn, view: Mutex::new(view), changes });
        let task = tokio::spawn(follow(Arc::clone(&shared), notifications));
        Ok((Self { shared, task }, receiver))
    }

    /// The uplink as it was read last. One that has vanished is shown as down and without addresses.
    pub fn uplink(&self) -> Uplink {
        self.shared.view().uplink.clone()
    }

    /// Follows exactly these destinations from now on, which are in their order, each once: their next hops are kept resolved by the kernel, if that was asked for, and
    /// neighbours that weft had made for others are dropped. The kernel is asked only about those that were not followed before.
    /// The number stays the same as long as [`Self::each_path`] says the same of all of them.
    pub async fn follow(&self, destinations: &[IpAddr]) -> u64 {
        self.shared.follow(destinations).await
    }

    /// The kernel's ways to all destinations that are followed, in their order.
    pub fn each_path(&self, mut take: impl FnMut(IpAddr, Result<Path, PathError>)) {
        let view = self.shared.view();
        for (destination, path) in view.paths() {
            take(destination, path);
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens a socket that hears of every change of links, addresses, routes, rules and neighbours.
fn subscribe() -> Result<BoxStream<'static, Notification>, Error> {
    let failed = |source: io::Error| Error::Kernel {
        doing: "subscribe to changes of the interfaces and routes".to_owned(),
        source,
    };
    let (mut connection, handle, messages) = rtnetlink::new_connection().map_err(failed)?;
    let groups = RTMGRP_LINK
        | RTMGRP_NEIGH
        | RTMGRP_IPV4_IFADDR
        | RTMGRP_IPV6_IFADDR
        | RTMGRP_IPV4_ROUTE
        | RTMGRP_IPV6_ROUTE
        | RTMGRP_IPV4_RULE;
    let socket = connection.socket_mut().socket_mut();
    socket.bind(&SocketAddr::new(0, groups)).map_err(failed)?;
    // Both are improvements only: a kernel without IPv6 has no such group, and a full buffer is noticed.
    let _ = socket.add_membership(GROUP_IPV6_RULE);
    let _ = socket.set_rx_buf_sz(u32::try_from(RECEIVE_BUFFER).unwrap_or(u32::MAX));
    tokio::spawn(connection);
    // The handle lives as long as the stream: the connection ends with both.
    Ok(messages
        .map(move |message| {
            let _ = &handle;
            message
        })
        .boxed())
}

async fn follow(shared: Arc<Shared>, mut notifications: BoxStream<'static, Notification>) {
    loop {
        shared.listen(&mut notifications).await;
        tracing::debug!("notifications of the kernel were lost; the underlay is read again");
        notifications = loop {
            match subscribe() {
                Ok(fresh) => break fresh,
                Err(error) => tracing::warn!("{error}; trying again"),
            }
            tokio::time::sleep(RETRY).await;
        };
        shared.reread(true).await;
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works off notifications until some were lost.
    async fn listen(&self, notifications: &mut BoxStream<'static, Notification>) {
        let mut due = Due::default();
        let mut deadline = Instant::now();
        let mut pause = COALESCE;
        let mut tend = tokio::time::interval(TEND);
        let mut look = tokio::time::interval(LOOK);
        tend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notification = notifications.next() => {
                    let Some((message, _)) = notification else { return };
                    let idle = due.is_empty();
                    self.note(&message, &mut due);
                    if due.lost {
                        return;
                    }
                    if idle {
                        deadline = Instant::now() + pause;
                    }
                }
                () = tokio::time::sleep_until(deadline), if !due.is_empty() => {
                    let started = Instant::now();
                    let Due { reread, routes, tell, .. } = std::mem::take(&mut due);
                    if reread {
                        self.reread(false).await;
                    } else if !routes.is_empty() {
                        self.ask_again(|view| view.within(&routes)).await;
                    }
                    if tell {
                        self.tell();
                    }
                    // However fast routes flap and however many peers there are, reading takes a fifth of the time.
                    pause = COALESCE.max(started.elapsed() * 4);
                }
                _ = tend.tick() => self.tend().await,
                _ = look.tick() => self.ask_again(View::old).await,
            }
        }
    }

    fn note(&self, message: &NetlinkMessage<RouteNetlinkMessage>, due: &mut Due) {
        use RouteNetlinkMessage as M;
        let inner = match &message.payload {
            NetlinkPayload::InnerMessage(inner) => inner,
            NetlinkPayload::Overrun(_) => {
                due.lost = true;
                return;
            }
            _ => return,
        };
        match inner {
            M::NewNeighbour(entry) | M::DelNeighbour(entry) => {
                let Some((index, ip, read)) = neighbour::read(entry) else { return };
                let gone = matches!(inner, M::DelNeighbour(_));
                due.tell |= self.view().note_neighbour(index, ip, (!gone).then_some(read));
            }
            M::NewLink(link) | M::DelLink(link) => {
                let link = Link::read(link);
                let ours = link.name == self.name || link.index == self.view().uplink.index;
                // Told even if all is as it was by the time it is read: the kernel says nothing of the routes that a link going down takes along.
                (due.reread, due.tell) = (due.reread || ours, due.tell || ours);
            }
            M::NewAddress(address) | M::DelAddress(address) => {
                due.reread |= address.header.index == self.view().uplink.index;
            }
            M::NewRoute(route) | M::DelRoute(route) => {
                let header = &route.header;
                let passing =
                    header.flags.contains(RouteFlags::Cloned) || header.kind == RouteType::Multicast;
                // One of weft's own is missing.
                due.tell |=
                    matches!(inner, M::DelRoute(_)) && header.protocol == RouteProtocol::Other(WEFT_PROTOCOL);
                match route::destination(route) {
                    _ if passing => {}
                    Some(to) => {
                        due.routes.insert(to);
                    }
                    None => due.reread = true,
                }
            }
            M::NewRule(_) | M::DelRule(_) => due.reread = true,
            _ => {}
        }
    }

    fn tell(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Reads the uplink and the watched paths again, with the neighbours if `all`, and tells if they differ.
    async fn reread(&self, all: bool) {
        let _turn = self.turn.lock().await;
        let outcome = async {
            let kernel = Kernel::open()?;
            let (uplink, watched, known) = {
                let view = self.view();
                (view.uplink.clone(), view.watched().collect::<Vec<_>>(), view.uplink.index)
            };
            let uplink = match read_uplink(&kernel, &self.name).await {
                Ok(uplink) => uplink,
                Err(Error::NoInterface { .. } | Error::NotEthernet { .. }) => {
                    Uplink { up: false, addresses: Vec::new(), ..uplink }
                }
                Err(error) => return Err(error),
            };
            let neighbours = if all || uplink.index != known {
                Some(read_neighbours(&kernel, uplink.index).await?)
            } else {
                None
            };
            let asked = Instant::now();
            let found = ask(&kernel, &watched, &uplink).await;
            Ok::<bool, Error>(self.view().store_all(uplink, neighbours, found, asked))
        };
        match outcome.await {
            Ok(true) => self.tell(),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!("the underlay could not be read, so the last reading stays in use: {error}");
            }
        }
    }

    /// Asks the kernel again about some of the destinations, and tells if it says something else.
    async fn ask_again(&self, which: impl FnOnce(&View) -> Vec<IpAddr>) {
        let _turn = self.turn.lock().await;
        let (destinations, uplink) = {
            let view = self.view();
            (which(&view), view.uplink.clone())
        };
        if destinations.is_empty() {
            return;
        }
        let kernel = match Kernel::open() {
            Ok(kernel) => kernel,
            Err(error) => {
                return tracing::warn!("the kernel's last answers about the peers stay in use: {error}");
            }
        };
        let asked = Instant::now();
        let found = ask(&kernel, &destinations, &uplink).await;
        let differs = self.view().store(found, asked);
        if differs {
            self.tell();
        }
    }

    async fn follow(&self, destinations: &[IpAddr]) -> u64 {
        let _turn = self.turn.lock().await;
        let (missing, uplink) = {
            let mut view = self.view();
            let missing = view.take_over(destinations);
            if missing.is_empty() && view.unused().is_empty() && view.unsettled().is_empty() {
                return view.edition;
            }
            (missing, view.uplink.clone())
        };
        let asked = Instant::now();
        let kernel = match Kernel::open() {
            Ok(kernel) => kernel,
            Err(error) => {
                let reason = error.to_string();
                let refuse = |destination| {
                    (destination, Err(PathError::NoRoute { destination, reason: reason.clone() }))
                };
                let mut view = self.view();
                view.store(missing.into_iter().map(refuse).collect(), asked);
                return view.edition;
            }
        };
        let found = ask(&kernel, &missing, &uplink).await;
        let unused = {
            let mut view = self.view();
            view.store(found, asked);
            view.unused()
        };
        for ip in unused {
            if let Err(error) = kernel.delete_neighbour(uplink.index, ip).await {
                tracing::debug!("{error}");
            }
        }
        self.resolve(&kernel).await;
        self.view().edition
    }

    async fn tend(&self) {
        if self.view().unsettled().is_empty() {
            return;
        }
        if let Ok(kernel) = Kernel::open() {
            self.resolve(&kernel).await;
        }
    }

    /// Asks the kernel for every next hop that it does not keep resolved yet.
    async fn resolve(&self, kernel: &Kernel) {
        let (index, unsettled) = {
            let view = self.view();
            (view.uplink.index, view.unsettled())
        };
        for ip in unsettled {
            if let Err(error) = kernel.resolve(index, ip).await {
                // The path stays without a MAC address, which the caller sees; a down interface is no news.
                tracing::debug!("{error}");
            }
        }
    }
}

async fn read_neighbours(kernel: &Kernel, index: u32) -> Result<HashMap<IpAddr, Neighbour>, Error> {
    let entries = kernel.neighbours().await?;
    Ok(entries.into_iter().filter(|(on, ..)| *on == index).map(|(_, ip, entry)| (ip, entry)).collect())
}

/// Asks the kernel for the route to each destination.
async fn ask(kernel: &Kernel, destinations: &[IpAddr], uplink: &Uplink) -> Vec<(IpAddr, Found)> {
    let question = |destination: IpAddr| async move { (destination, kernel.route_to(destination).await) };
    let answers: Vec<_> =
        stream::iter(destinations.iter().copied()).map(question).buffer_unordered(QUESTIONS).collect().await;
    let elsewhere = |answer: &Result<Answer, Error>| matches!(answer, Ok(a) if a.oif != uplink.index);
    let links = if answers.iter().any(|(_, answer)| elsewhere(answer)) {
        kernel.links().await.unwrap_or_default()
    } else {
        Vec::new()
    };
    let name = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("interface number {index}"), |link| link.name.clone())
    };
    let judge = |(destination, answer): (IpAddr, Result<Answer, Error>)| {
        let found = match answer {
            Ok(answer) if !answer.unicast => Err(PathError::NotAPeer { destination }),
            Ok(answer) if answer.oif != uplink.index => Err(PathError::OtherInterface {
                destination,
                interface: name(answer.oif),
                uplink: uplink.name.clone(),
            }),
            Ok(answer) => Ok(answer),
            Err(Error::Kernel { source, .. }) => {
                Err(PathError::NoRoute { destination, reason: source.to_string() })
            }
            Err(other) => Err(PathError::NoRoute { destination, reason: other.to_string() }),
        };
        (destination, found)
    };
    answers.into_iter().map(judge).collect()
}
