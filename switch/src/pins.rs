//! Connection pins: which answers have to pass the host's kernel before a pod may see them.
//!
//! The node's kernel translates what pods send to a service's address (kube-proxy's ClusterIP), to the node's own (NodePort, host ports),
//! and what else its packet filter says. A translated packet that goes to a pod comes back into the switch by the host port, and where its
//! source was left alone that is a pod of this node. Its answer finds the way to that pod by itself, from a pod of this node by the bridge and
//! from another node out of the tunnel, and would get there untranslated: from an address that the pod has never spoken to. So a packet from
//! the host port with the source of a pod that is here *pins* the flow of its answers: they go to the host port, whose kernel
//! translates them back and sends them on, with a source that is no pod's or none of this node's, and so no pin.
//!
//! # What needs a pin, and what does not
//!
//! P and Q are pods of this node, R is one of another, C a service's address, N this node's, X is outside. `→w` is the switch's work,
//! `→k` the kernel's.
//!
//! | case | question | answer | pin |
//! |---|---|---|---|
//! | P to C, served by R | P→C →k P→R →w tunnel | R→P out of the tunnel, pinned →k C→P →w P | R→P |
//! | P to C, served by Q | P→C →k P→Q →w Q | Q→P on the bridge, pinned →k C→P →w P | Q→P |
//! | P to C, served by P itself (hairpin) | P→C →k `.1`→P, masqueraded by kube-proxy →w P | P→`.1` →k C→P →w P | none: the host's address |
//! | X to N:nodePort, policy Cluster, served by P or R | X→N →k `.1`→P or R, masqueraded →w | P or R→`.1` →k N→X | none: the host's address |
//! | X to N:nodePort, policy Local, served by P | X→N →k X→P →w P | P→X →w host →k N→X | none: X is nobody's here |
//! | P to N:nodePort, policy Cluster | P→N →k masqueraded, as from X | as from X | none |
//! | P to N:nodePort, policy Local, served by Q or R | P→N →k P→Q or R (kube-proxy does not masquerade what pods send) | as with C | Q or R→P |
//! | X to N:hostPort of P | X→N →k X→P →w P | P→X →w host →k N→X | none |
//! | Q, or P itself, to N:hostPort of P | Q→N →k `.1`→P, masqueraded by portmap (without `snat`: as with C) | P→`.1` →k | none (Q) |
//! | P to X | P→X →w host →k N→X, masqueraded | X→N →k X→P →w P | none: X is nobody's here |
//! | UDP to C (name resolution) | as with C, a pin for each question's port | as with C | Q or R→P |
//!
//! In short: the kernel's work is undone by the kernel wherever the answer's destination is an address of the node or
//! outside, since that leads to the host port anyway. Only where the source of a pod here was left alone does the answer know a shorter way.
//!
//! **TTL.** What comes from the host port and what goes there is no hop of the switch's: the kernel takes one each time it forwards. A question
//! to another node's pod has as many hops as on flannel, and so has its answer. An answer of the same node's costs one hop more than on
//! a bridge whose frames the kernel filters in passing (`bridge-nf-call-iptables`), where it is bridged.
//!
//! **MTU.** The host port takes what the pods' ports take. A pinned answer that is too big for the pod's port, or at its last hop, is the kernel's
//! to cut, refuse and tell about: only it can tell the sender of a translated packet. What the switch itself has to say about a packet
//! from the host port goes to the host port ([`crate::classify`], `way_back`), for the same reason.
//!
//! **Spoofing.** A frame is pinned after classify has let it pass, so a pod has to send from its own addresses as ever, and what a pod can have
//! pinned is what the kernel sends on from that pod's own address. A frame from the host port is never looked up: nothing goes round. A
//! flow that is pinned without need takes a detour through a kernel that forwards it as it is; it does not get lost.
//!
//! **Fragments** have no ports. A pin of a flow therefore brings one for its two addresses and its protocol, by which fragments go: all of them,
//! the first one too, so the kernel can put them together. **ICMP errors** go where the answer to the packet that they quote would.
//! IPv6 is as IPv4.
//!
//! **Limits.** A pod that speaks to the same port of the same pod from the same port both by a service and directly has one
//! flow of answers for two connections; the pin sends both to the kernel. Linux gives a second connection the same port seldom, and the
//! kernel takes what it has not translated for what it is.
//!
//! # How long
//!
//! As long as the kernel's connection tracking keeps its entry, by what is seen of the connection ([`Kind`]): what a pod sends is no connection
//! until it is answered, and in a full table takes the place of what is none either. A pin that the kernel has no
//! entry for any more does no harm but the detour; a SYN-ACK that answers no SYN by way of the kernel ends it.

mod flow;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_sync::pins::{ENTRY_BYTES, Hashed, Hit, Key, Life, Pin as Written, PinTable};

pub(crate) use flow::{Flow, Sign, Subject, subject};

/// How many there is room for where nobody says otherwise: as many as kube-proxy has the kernel's tracking keep connections at least, which
/// are not all of pods and to services. Each pair of addresses takes a place as well, for its fragments.
pub const CAPACITY: usize = 131_072;
/// Seconds without a packet after which the pins of a pod that is gone go too.
const GONE: u32 = 60;
/// In how many calls the table is swept: there may be millions of places, and who sweeps has other work.
pub const PARTS: usize = 8;
/// What each takes, in bytes, whether it is there or not.
pub const BYTES: usize = ENTRY_BYTES;

/// What is known of a pinned connection: how long it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// TCP: the pod has sent a SYN.
    Opening,
    /// TCP: and got a SYN-ACK.
    Opened,
    /// TCP: the pod has sent something else, of a connection that nobody has answered yet.
    Unanswered,
    /// TCP: established, as both sides have shown.
    Established,
    /// TCP: the pod has sent a FIN.
    ClosedByPod,
    /// TCP: the other side has sent a FIN.
    ClosedByOther,
    /// TCP: both have.
    Closed,
    /// TCP: one has sent a RST.
    Reset,
    /// UDP: there was no answer yet.
    Asked,
    /// UDP: there was one.
    Answered,
    /// ICMP echo.
    Echo,
    /// Any other protocol.
    Other,
    /// The fragments between two addresses.
    Fragments,
}

/// All kinds, by their number.
const KINDS: [Kind; 13] = [
    Kind::Opening,
    Kind::Opened,
    Kind::Unanswered,
    Kind::Established,
    Kind::ClosedByPod,
    Kind::ClosedByOther,
    Kind::Closed,
    Kind::Reset,
    Kind::Asked,
    Kind::Answered,
    Kind::Echo,
    Kind::Other,
    Kind::Fragments,
];

/// How long each lives without a packet: Linux's `nf_conntrack_*_timeout`, established and half-closed connections as kube-proxy sets them, since
/// it is those that are meant. What waits for an answer, and what has ended, is not sure: who asks and asks takes the places of
/// others that ask, not those of connections.
const LIVES: [Life; KINDS.len()] = [
    Life::unsure(120),
    Life::unsure(120),
    Life::unsure(300),
    Life::sure(86_400),
    Life::sure(3600),
    Life::sure(3600),
    Life::unsure(120),
    Life::unsure(10),
    Life::unsure(30),
    Life::sure(120),
    Life::unsure(30),
    Life::unsure(600),
    Life::unsure(600),
];

impl Kind {
    fn of(number: u8) -> Option<Self> {
        KINDS.get(usize::from(number)).copied()
    }

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Opened => "opened",
            Self::Unanswered => "unanswered",
            Self::Established => "established",
            Self::ClosedByPod => "closed_by_pod",
            Self::ClosedByOther => "closed_by_other",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Asked => "asked",
            Self::Answered => "answered",
            Self::Echo => "echo",
            Self::Other => "other",
            Self::Fragments => "fragments",
        }
    }

    /// Seconds that it lives without a packet.
    pub fn life(self) -> u32 {
        LIVES[self as usize].seconds
    }

    /// What a packet that the pod has sent by way of the kernel makes of it; `None`: no pin. That the kernel still translates is shown by it,
    /// so a connection that was reset by somebody else's word goes on. Alone it shows nothing else: established is what was answered.
    fn after_question(before: Option<Self>, sign: Sign) -> Option<Self> {
        match (sign, before) {
            (Sign::Syn, _) => Some(Self::Opening),
            (Sign::Fin, Some(Self::ClosedByOther | Self::Closed)) => Some(Self::Closed),
            (Sign::Reset, before) => before.map(|_| Self::Reset),
            (
                Sign::Segment | Sign::SynAck | Sign::Fin,
                None | Some(Self::Opening | Self::Unanswered | Self::Reset),
            ) => Some(Self::Unanswered),
            (Sign::Fin, _) => Some(Self::ClosedByPod),
            (Sign::Segment | Sign::SynAck, Some(Self::Opened)) => Some(Self::Established),
            (Sign::Segment | Sign::SynAck, before) => before,
            (Sign::Datagram, before) => before.or(Some(Self::Asked)),
            (Sign::Echo, _) => Some(Self::Echo),
            (Sign::Other, _) => Some(Self::Other),
            (Sign::Fragment, _) => Some(Self::Fragments),
        }
    }

    /// What an answer makes of it; `None`: it is none, and there is no pin any more.
    fn after_answer(self, sign: Sign) -> Option<Self> {
        match (sign, self) {
            // It answers a SYN that has not come by way of the kernel.
            (Sign::SynAck, Self::ClosedByPod | Self::ClosedByOther | Self::Closed | Self::Reset) => None,
            (Sign::Fin, Self::ClosedByPod | Self::Closed) => Some(Self::Closed),
            (Sign::SynAck, Self::Opening) => Some(Self::Opened),
            (Sign::Segment | Sign::SynAck, Self::Unanswered) => Some(Self::Established),
            (Sign::Fin, Self::Opening | Self::Opened | Self::Unanswered | Self::Established) => {
                Some(Self::ClosedByOther)
            }
            (Sign::Reset, _) => Some(Self::Reset),
            (Sign::Datagram, _) => Some(Self::Answered),
            (_, kind) => Some(kind),
        }
    }
}

/// One pin: the flow of the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// Where the answers come from.
    pub src: IpAddr,
    /// The pod.
    pub dst: IpAddr,
    /// The IP protocol.
    pub protocol: u8,
    /// Source and destination port; of ICMP echo the identifier twice; 0 without.
    pub ports: (u16, u16),
    /// What is known of the connection.
    pub kind: Kind,
    /// Seconds since a packet was seen.
    pub age: u32,
}

/// What pinning has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Pins that are new.
    pub(crate) pinned: u64,
    /// Pins that had to go for them before their time.
    pub(crate) evicted: u64,
}

impl std::ops::AddAssign for Change {
    fn add_assign(&mut self, other: Self) {
        self.pinned += other.pinned;
        self.evicted += other.evicted;
    }
}

/// The pins of a switch. Clones are the same table.
#[derive(Debug, Clone)]
pub struct Pins(Arc<PinTable>);

impl Default for Pins {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Pins {
    /// None yet, and room for so many or a little more.
    pub fn new(capacity: usize) -> Self {
        // The standard library's hasher is seeded by the kernel's random numbers.
        let seed = RandomState::new().hash_one(capacity);
        Self(Arc::new(PinTable::new(capacity, &LIVES, seed)))
    }

    /// How many there is room for.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// How many there are, expired ones that were not swept yet included.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// True where there is none: one load.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Pins the answers to a packet that has come from the host port in second `now`.
    pub(crate) fn pin(&self, question: &Flow, now: u32) -> Change {
        let flow = question.answer();
        let (mut change, first) = self.write(&self.0.hashed(flow.key()), flow.sign, now);
        // Once a second, and for a new one at once.
        if matches!(first, Written::Pinned | Written::Displaced | Written::Refreshed)
            && flow.sign != Sign::Fragment
        {
            change += self.write(&self.0.hashed(flow.fragments().key()), Sign::Fragment, now).0;
        }
        change
    }

    /// Adds a pin that somebody else knows of, as of second `now`. What workers have seen of it already is newer.
    pub fn add(&self, pin: &Pin, now: u32) {
        let Pin { src, dst, protocol, ports, kind, .. } = *pin;
        let flow = Flow::of_answers(src, dst, protocol, ports);
        for (flow, kind) in [(flow, kind), (flow.fragments(), Kind::Fragments)] {
            self.0.pin(&self.0.hashed(flow.key()), now, |seen| seen.or(Some(kind as u8)));
        }
    }

    fn write(&self, key: &Hashed, sign: Sign, now: u32) -> (Change, Written) {
        let next =
            |kind: Option<u8>| Kind::after_question(kind.and_then(Kind::of), sign).map(|kind| kind as u8);
        let written = self.0.pin(key, now, next);
        let change = match written {
            Written::Pinned => Change { pinned: 1, evicted: 0 },
            Written::Displaced => Change { pinned: 1, evicted: 1 },
            Written::Known | Written::Refreshed | Written::Refused | Written::Busy => Change::default(),
        };
        (change, written)
    }

    /// A flow with what it is looked up by, whose first lines are on their way.
    #[inline]
    pub(crate) fn prepare(&self, flow: &Flow) -> Hashed {
        let key = self.0.hashed(flow.key());
        self.0.prefetch(&key);
        key
    }

    /// Whether the flow is pinned. `sign`: what the packet shows of its connection; `None` for one that is only about it.
    #[inline]
    pub(crate) fn has(&self, key: &Hashed, sign: Option<Sign>, now: u32) -> bool {
        let Some(sign) = sign else { return self.0.has(key, now) };
        let next = |kind| Some(Kind::of(kind)?.after_answer(sign)? as u8);
        matches!(self.0.hit(key, now, next), Hit::Known | Hit::Refreshed)
    }

    /// Forgets, of one in [`PARTS`] parts of the table, what has expired, and, of addresses that `is_here` does not have any more, what was not seen
    /// for a minute (after a restart a pod may take its time); how many that were. `turn` counts the calls: each takes the next part.
    pub fn sweep(&self, turn: usize, now: u32, is_here: impl Fn(IpAddr) -> bool) -> usize {
        self.0.sweep((turn % PARTS, PARTS), now, GONE, |key| is_here(addresses(key).1))
    }

    /// The pins as of second `now`, in no order.
    pub fn iter(&self, now: u32) -> impl Iterator<Item = Pin> + '_ {
        self.0.iter(now).filter_map(|entry| {
            let ((src, dst), meta) = (addresses(&entry.key), entry.key[4]);
            let ports = ((meta >> 16) as u16, meta as u16);
            let protocol = (meta >> flow::PROTOCOL_AT) as u8;
            Some(Pin { src, dst, protocol, ports, kind: Kind::of(entry.kind)?, age: entry.age })
        })
    }
}

/// Source and destination.
fn addresses(key: &Key) -> (IpAddr, IpAddr) {
    let [src_high, src_low, dst_high, dst_low, meta] = *key;
    if meta >> flow::V6_AT & 1 == 0 {
        return (Ipv4Addr::from_bits(src_low as u32).into(), Ipv4Addr::from_bits(dst_low as u32).into());
    }
    let v6 = |high: u64, low: u64| Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into();
    (v6(src_high, src_low), v6(dst_high, dst_low))
}

#[cfg(test)]
mod tests;
