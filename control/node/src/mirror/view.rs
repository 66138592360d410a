//! What is known of the underlay, and of the destinations that are followed. Asks the kernel nothing.

use crate::neighbour::Neighbour;
use crate::route::Answer;
use crate::underlay::{Path, PathError, Uplink};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// What the kernel does not tell of, such as a path MTU that it has learned, is found in time: an answer that is older than this is
/// asked for again, some of them each time.
const OLD: Duration = Duration::from_secs(60);
/// Over how many times they are spread at least.
const LOOKS: usize = 30;
/// How long it is taken for granted that there is no way to a destination. That there is one now may be what the kernel does not tell of.
const REFUSED: Duration = Duration::from_secs(1);

/// The kernel's answer about a destination.
pub(super) type Found = Result<Answer, PathError>;

/// What the kernel said about a destination, and when it was asked.
#[derive(Debug, Clone)]
struct Said {
    found: Found,
    asked: Instant,
}

/// The last readings of all.
#[derive(Debug)]
pub(super) struct View {
    pub(super) uplink: Uplink,
    /// Next hops are to be kept resolved.
    keeps: bool,
    neighbours: HashMap<IpAddr, Neighbour>,
    /// The destinations that are followed, with the kernel's answers.
    watched: BTreeMap<IpAddr, Said>,
    next_hops: HashSet<IpAddr>,
    /// Grows with everything that a caller could see.
    pub(super) edition: u64,
}

impl View {
    /// Follows no destination yet. With `keeps`, next hops are to be kept resolved.
    pub(super) fn new(uplink: Uplink, keeps: bool, neighbours: HashMap<IpAddr, Neighbour>) -> Self {
        let (watched, next_hops) = (BTreeMap::new(), HashSet::new());
        Self { uplink, keeps, neighbours, watched, next_hops, edition: 0 }
    }

    /// The destinations that are followed, in their order.
    pub(super) fn watched(&self) -> impl Iterator<Item = IpAddr> {
        self.watched.keys().copied()
    }

    /// The kernel's ways to them.
    pub(super) fn paths(&self) -> impl Iterator<Item = (IpAddr, Result<Path, PathError>)> {
        self.watched.iter().map(|(destination, said)| (*destination, self.path(*destination, said)))
    }

    /// Stores an entry of the neighbour table; true if a next hop's usable MAC address changed with it.
    pub(super) fn note_neighbour(&mut self, index: u32, ip: IpAddr, entry: Option<Neighbour>) -> bool {
        if index != self.uplink.index {
            return false;
        }
        let now = entry.as_ref().and_then(|entry| entry.mac);
        let before = match entry {
            Some(entry) => self.neighbours.insert(ip, entry),
            None => self.neighbours.remove(&ip),
        };
        let differs = before.and_then(|entry| entry.mac) != now;
        self.edition += u64::from(differs);
        differs && self.next_hops.contains(&ip)
    }

    /// Stores a reading of everything; true if a caller would see a difference.
    pub(super) fn store_all(
        &mut self,
        uplink: Uplink,
        neighbours: Option<HashMap<IpAddr, Neighbour>>,
        found: Vec<(IpAddr, Found)>,
        asked: Instant,
    ) -> bool {
        let mac = |entries: &HashMap<IpAddr, Neighbour>, ip| entries.get(ip).and_then(|entry| entry.mac);
        let moved = neighbours
            .as_ref()
            .is_some_and(|new| self.next_hops.iter().any(|ip| mac(new, ip) != mac(&self.neighbours, ip)));
        let differs = self.uplink != uplink || moved;
        self.edition += u64::from(differs || neighbours.is_some());
        self.uplink = uplink;
        if let Some(neighbours) = neighbours {
            self.neighbours = neighbours;
        }
        self.store(found, asked) || differs
    }

    /// Stores the kernel's answers; true if a caller would see a difference.
    pub(super) fn store(&mut self, found: Vec<(IpAddr, Found)>, asked: Instant) -> bool {
        let mut differs = false;
        for (destination, found) in found {
            let same = self.watched.get(&destination).is_some_and(|said| said.found == found);
            differs |= !same;
            self.watched.insert(destination, Said { found, asked });
        }
        if differs {
            self.edition += 1;
            self.note_next_hops();
        }
        differs
    }

    fn note_next_hops(&mut self) {
        let found = self.watched.values().filter_map(|said| said.found.as_ref().ok());
        self.next_hops = found.filter(|_| self.keeps).map(|answer| answer.next_hop).collect();
    }

    /// Forgets what is followed no longer. Gives those that the kernel is to be asked about: the new ones, and those that it knew no
    /// way to.
    pub(super) fn take_over(&mut self, destinations: &[IpAddr]) -> Vec<IpAddr> {
        let known = |said: &Said| said.found.is_ok() || said.asked.elapsed() < REFUSED;
        if self.watched.keys().eq(destinations) {
            return self.watched.iter().filter(|(_, said)| !known(said)).map(|(ip, _)| *ip).collect();
        }
        // Of thousands mostly one differs, so both are gone through side by side.
        let (mut gone, mut missing) = (Vec::new(), Vec::new());
        let mut watched = self.watched.iter().peekable();
        for destination in destinations {
            while let Some((ip, _)) = watched.next_if(|(ip, _)| *ip < destination) {
                gone.push(*ip);
            }
            let said = watched.next_if(|(ip, _)| *ip == destination);
            if !said.is_some_and(|(_, said)| known(said)) {
                missing.push(*destination);
            }
        }
        gone.extend(watched.map(|(ip, _)| *ip));
        for ip in &gone {
            self.watched.remove(ip);
        }
        if !gone.is_empty() {
            self.edition += 1;
            self.note_next_hops();
        }
        missing
    }

    /// What is followed of these networks.
    pub(super) fn within(&self, networks: &HashSet<IpNet>) -> Vec<IpAddr> {
        let of_one = |net: &IpNet| self.watched.range(net.network()..=net.broadcast()).map(|(ip, _)| *ip);
        let all: BTreeSet<_> = networks.iter().flat_map(of_one).collect();
        all.into_iter().collect()
    }

    /// Some of what the kernel was asked about long ago.
    pub(super) fn old(&self) -> Vec<IpAddr> {
        let old = self.watched.iter().filter(|(_, said)| said.asked.elapsed() >= OLD);
        old.map(|(ip, _)| *ip).take(self.watched.len().div_ceil(LOOKS)).collect()
    }

    fn mac(&self, ip: &IpAddr) -> Option<crate::MacBytes> {
        self.neighbours.get(ip).and_then(|entry| entry.mac)
    }

    fn path(&self, destination: IpAddr, said: &Said) -> Result<Path, PathError> {
        let answer = said.found.as_ref().map_err(Clone::clone)?;
        Ok(Path {
            destination,
            source: answer.source,
            oif: answer.oif,
            next_hop: answer.next_hop,
            next_hop_mac: self.mac(&answer.next_hop),
            mtu: answer.mtu,
        })
    }

    /// Neighbours that weft made and no path needs.
    pub(super) fn unused(&self) -> Vec<IpAddr> {
        let unused =
            |(ip, entry): &(&IpAddr, &Neighbour)| entry.weft && !entry.fixed && !self.next_hops.contains(*ip);
        self.neighbours.iter().filter(unused).map(|(ip, _)| *ip).collect()
    }

    pub(super) fn unsettled(&self) -> Vec<IpAddr> {
        let settled = |ip: &IpAddr| self.neighbours.get(ip).is_some_and(Neighbour::settled);
        self.next_hops.iter().filter(|ip| !settled(ip)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn view() -> View {
        let uplink = Uplink {
            index: 2,
            name: "up0".to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            addresses: Vec::new(),
            up: true,
        };
        View::new(uplink, true, HashMap::new())
    }

    fn way(destination: &str, next_hop: &str) -> (IpAddr, Found) {
        let answer =
            Answer { source: ip("192.0.2.1"), oif: 2, next_hop: ip(next_hop), mtu: None, unicast: true };
        (ip(destination), Ok(answer))
    }

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).expect("the machine has been up for longer")
    }

    #[test]
    fn the_kernel_is_asked_about_what_is_new_and_what_it_refused_a_while_ago() {
        let mut view = view();
        let (a, b, c) = (ip("192.0.2.2"), ip("192.0.2.3"), ip("198.51.100.1"));
        assert_eq!(view.take_over(&[a, b]), [a, b]);
        let refused = |destination| {
            (destination, Err(PathError::NoRoute { destination, reason: "unreachable".to_owned() }))
        };
        assert!(view.store(vec![way("192.0.2.2", "192.0.2.2"), refused(b)], Instant::now()));
        assert_eq!((view.take_over(&[a, b]), view.take_over(&[a, b, c])), (vec![], vec![c]));
        assert!(!view.store(vec![refused(b)], ago(2)), "the same again is no difference");
        assert_eq!(view.take_over(&[a, b]), [b]);
        let edition = view.edition;
        assert_eq!((view.take_over(&[a, b]), view.edition), (vec![b], edition));
        assert_eq!(view.take_over(&[b]), [b]);
        assert!(view.edition > edition && view.next_hops.is_empty(), "the one that is dropped is seen");
    }

    #[test]
    fn a_route_concerns_the_destinations_in_it() {
        let mut view = view();
        let all = ["192.0.2.2", "192.0.2.130", "198.51.100.7", "2001:db8::2", "2001:db8:1::2"];
        view.store(all.iter().map(|to| way(to, to)).collect(), Instant::now());
        for (networks, within) in [
            (&["0.0.0.0/0"][..], &all[..3]),
            (&["::/0"], &all[3..]),
            (&["192.0.2.128/25", "192.0.2.0/24"], &all[..2]),
            (&["198.51.100.7/32", "2001:db8::/48"], &all[2..4]),
            (&["10.244.3.0/24"], &[]),
        ] {
            let networks = networks.iter().map(|net| net.parse().expect("a network")).collect();
            assert_eq!(view.within(&networks), within.iter().map(|to| ip(to)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn old_answers_are_asked_for_again_bit_by_bit() {
        let mut view = view();
        let peer = |n: u32| std::net::Ipv4Addr::from_bits(0xc000_0200 + n).to_string();
        view.store((0..90).map(|n| way(&peer(n), &peer(n))).collect(), ago(70));
        view.store(vec![way("192.0.2.0", "192.0.2.0")], Instant::now());
        let mut looks = 0;
        while let old @ [_, ..] = &view.old()[..] {
            assert!(old.len() <= 3 && !old.contains(&ip("192.0.2.0")), "{old:?}");
            let again = old.iter().map(|to| way(&to.to_string(), &to.to_string())).collect();
            assert!(!view.store(again, Instant::now()));
            looks += 1;
        }
        assert_eq!(looks, 30);
    }
}
