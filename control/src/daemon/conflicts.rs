//! Who claims an address that is another's. What claims say comes from packets, the MAC address too: so much is kept for
//! each port, whatever its station invents, and so seldom is it logged.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use weft_switch::types::{MacAddr, PortId};

/// Addresses claimed behind one port that are kept at most; a claim of a further one takes the place of the oldest.
const KEPT: usize = 64;
/// How long a claim is kept after it was made last.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// A port's claims are worth a line of the log once in so long.
const QUIET: Duration = Duration::from_secs(10);

/// What is claimed, and where: the key of a [`Conflict`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// Where the claim came in.
    pub port: PortId,
    /// The address.
    pub address: IpAddr,
}

/// How often an address was claimed that is another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// Who claimed it last.
    pub mac: MacAddr,
    /// Claims that were told.
    pub count: u64,
    /// The first of them.
    pub first_seen: SystemTime,
    /// The last.
    pub last_seen: SystemTime,
    told: Instant,
}

/// All that are known.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    claims: BTreeMap<Claim, Conflict>,
    /// When each port's claims were logged last.
    logged: HashMap<PortId, Instant>,
}

impl Conflicts {
    /// Keeps a claim; true if it is worth a line of the log.
    pub(super) fn take(&mut self, claim: Claim, mac: MacAddr, now: Instant) -> bool {
        let time = SystemTime::now();
        let known = self.claims.contains_key(&claim);
        if !known {
            self.make_room(claim.port);
        }
        let new = Conflict { mac, count: 0, first_seen: time, last_seen: time, told: now };
        let conflict = self.claims.entry(claim).or_insert(new);
        conflict.count += 1;
        (conflict.mac, conflict.last_seen, conflict.told) = (mac, time, now);
        let quiet = |at: &Instant| now.saturating_duration_since(*at) < QUIET;
        if known || self.logged.get(&claim.port).is_some_and(quiet) {
            return false;
        }
        self.logged.insert(claim.port, now);
        true
    }

    fn make_room(&mut self, port: PortId) {
        let of_port = || self.claims.iter().filter(|(claim, _)| claim.port == port);
        if of_port().count() < KEPT {
            return;
        }
        let oldest = of_port().min_by_key(|(_, conflict)| conflict.told).map(|(claim, _)| *claim);
        if let Some(oldest) = oldest {
            self.claims.remove(&oldest);
        }
    }

    /// Forgets what is old.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.claims.retain(|_, conflict| now.saturating_duration_since(conflict.told) < KEPT_FOR);
        self.logged.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
    }

    /// Forgets what was claimed behind ports that are not open any more.
    pub(super) fn keep_ports(&mut self, is_open: impl Fn(PortId) -> bool) {
        self.claims.retain(|claim, _| is_open(claim.port));
        self.logged.retain(|port, _| is_open(*port));
    }

    /// All of them, by port and address.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Claim, &Conflict)> {
        self.claims.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(port: usize, last: u16) -> Claim {
        let address = IpAddr::from([10, 244, (last >> 8) as u8, last as u8]);
        Claim { port: PortId::new(port).unwrap(), address }
    }

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    #[test]
    fn claims_are_counted_whoever_makes_them_and_forgotten() {
        let (mut conflicts, start) = (Conflicts::default(), Instant::now());
        for last in 0..100 {
            conflicts.take(claim(1, 7), mac(last), start);
        }
        let all: Vec<_> = conflicts.iter().map(|(claim, known)| (*claim, known.mac, known.count)).collect();
        assert_eq!(all, [(claim(1, 7), mac(99), 100)]);
        conflicts.forget_old(start + KEPT_FOR - Duration::from_secs(1));
        assert_eq!(conflicts.iter().count(), 1);
        conflicts.forget_old(start + KEPT_FOR);
        assert_eq!(conflicts.iter().count(), 0);
    }

    #[test]
    fn a_port_takes_no_room_from_others_and_not_much_of_the_log() {
        let (mut conflicts, start) = (Conflicts::default(), Instant::now());
        assert!(conflicts.take(claim(2, 1), mac(1), start));
        let after = |millis| start + Duration::from_millis(millis);
        let logged =
            (0..2000).filter(|n| conflicts.take(claim(1, *n), mac(2), after(u64::from(*n) * 10))).count();
        assert_eq!(logged, 2, "in 20 s");
        assert_eq!(conflicts.iter().count(), KEPT + 1);
        assert!(conflicts.iter().any(|(known, _)| *known == claim(2, 1)));
        assert!(conflicts.iter().any(|(known, _)| *known == claim(1, 1999)), "the newest is kept");
        conflicts.keep_ports(|port| port == PortId::new(2).unwrap());
        assert_eq!(conflicts.iter().count(), 1);
    }
}
