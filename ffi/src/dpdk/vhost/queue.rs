//! A worker's ends of a vhost-user port. Tier 1: nothing here allocates from the heap; a ring that the library's thread is
//! just changing looks empty or full. Only to call a guest that wants to be called, the ring's lock is taken, which the library holds while
//! it handles a message. [`VhostRx::arm`] and [`VhostRx::disarm`] are for the edge of sleep: they take it too, and make a system call.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::Guest;
use super::lane::Moved;
use super::state::{AT_A_TIME, PortState};
use crate::dpdk::mbuf::{adopt_behind, free_front, free_room};
use crate::dpdk::{BURST, Burst, Mbuf, Mempool, sys};

/// The longest frame of a guest: a 64 KiB IP packet with Ethernet header and 802.1Q tag. A longer one is thrown away.
const MAX_FRAME: usize = 65535 + 14 + 4;

/// Where frames from the guest come in: its transmit ring.
pub struct VhostRx {
    port: Arc<PortState>,
    pair: u16,
    /// Whether the guest is to notify us.
    notify: bool,
    /// Which connect's guest has been told so.
    told: Option<u32>,
    malformed: u32,
    too_long: u32,
    /// Whether the guest has said something of a frame of the last burst.
    has_told: bool,
    /// Which opening of the ring's lane the library has had a look at.
    opening: u32,
    next: Next,
}

/// Where frames to the guest go out: its receive ring.
pub struct VhostTx {
    port: Arc<PortState>,
    pair: u16,
    /// Which opening of the ring's lane the guest has been called after.
    opening: u32,
    next: Next,
}

/// What the next call will probably want of a ring.
#[derive(Default)]
struct Next {
    /// How many of the guest's buffers were taken from it so far.
    position: u16,
    /// As many as the last time.
    count: usize,
}

impl VhostRx {
    pub(super) fn new(port: &Arc<PortState>, pair: u16) -> Self {
        Self {
            port: Arc::clone(port),
            pair,
            notify: false,
            told: None,
            malformed: 0,
            too_long: 0,
            has_told: false,
            opening: 0,
            next: Next::default(),
        }
    }

    fn ring(&self) -> u16 {
        self.pair * 2 + 1
    }

    /// Appends what the guest has sent, copied into buffers from `pool`, as far as the burst has room; how many that
    /// was. An empty pool leaves the packets with the guest.
    #[inline]
    pub fn rx(&mut self, pool: &Mempool, burst: &mut Burst) -> usize {
        self.rx_few(pool, burst, BURST)
    }

    /// As [`Self::rx`], but no more than `few`: the rest stays with the guest.
    #[inline]
    pub fn rx_few(&mut self, pool: &Mempool, burst: &mut Burst, few: usize) -> usize {
        let room = burst.remaining_capacity().min(few);
        let Some((device, _inside)) = self.port.enter(&self.port.pair(self.pair).rx.busy) else { return 0 };
        if self.told != Some(device.connect) {
            self.told = Some(device.connect);
            // SAFETY: as below.
            unsafe {
                sys::rte_vhost_enable_guest_notification(device.vid, self.ring(), i32::from(self.notify))
            };
        }
        if room == 0 {
            return 0;
        }
        let old = burst.len();
        let full = old + room;
        self.has_told = false;
        loop {
            let moved = match self.port.pair(self.pair).rx.lane.enter() {
                Some((opening, ring)) if opening == self.opening => {
                    Some(ring.take(pool, burst, full - burst.len()))
                }
                Some((opening, ring)) => {
                    drop(ring);
                    self.opening = opening;
                    // SAFETY: the device stays as long as `_inside`.
                    unsafe { meet(device.vid, self.ring()) };
                    None
                }
                None => None,
            };
            if let Some(Moved { unusual, call, .. }) = moved {
                if call {
                    // SAFETY: the device stays as long as `_inside`.
                    unsafe { sys::rte_vhost_vring_call(device.vid, self.ring()) };
                }
                if !unusual || burst.len() >= full {
                    break;
                }
            }
            let room = full - burst.len();
            // SAFETY: the device stays as long as `_inside`; its ring is read by this queue alone (`&mut self`, one handle a
            // ring); there is room for `room` pointers, of which the library fills `count` with fresh chains.
            let count = unsafe {
                let (ring, free) = (self.ring(), free_room(burst));
                let count = sys::rte_vhost_dequeue_burst(device.vid, ring, pool.as_ptr(), free, room as u16);
                let count = usize::from(count).min(room);
                let adopted = adopt_behind(burst, count, MAX_FRAME);
                self.malformed = self.malformed.saturating_add(adopted.malformed);
                self.too_long = self.too_long.saturating_add(adopted.too_long);
                self.has_told |= adopted.tells();
                count
            };
            // Fewer than the library takes at a time: there are no more, or the rest is usual.
            if count == 0 || burst.len() >= full || moved.is_none() && count < AT_A_TIME {
                break;
            }
        }
        if burst.len() > old {
            // SAFETY: as above.
            self.next = unsafe { Next::after(burst.len() - old, device.vid, self.ring()) };
        }
        burst.len() - old
    }

    /// The next [`Self::rx`] comes in a moment: has the processor fetch what it will read first, which another processor has written. A
    /// hint, at any time.
    #[inline]
    pub fn expect(&self) {
        if self.port.device().is_some() {
            self.port.pair(self.pair).rx.ahead.fetch(self.next.position, self.next.count);
        }
    }

    /// Readable when a guest has sent something or has come, once armed. The same as long as the queue lives. It is an
    /// epoll descriptor and can be waited for in another one.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.port.pair(self.pair).wait.fd()
    }

    /// Whether [`Self::wait_fd`] will tell when the guest sends. Not of a guest that gave no descriptor to kick: it must be
    /// polled. Takes a lock that is held for moments while a guest comes or goes.
    pub fn can_tell(&self) -> bool {
        self.port.device().is_none() || self.port.pair(self.pair).wait.hears()
    }

    /// Asks the guest to make [`Self::wait_fd`] readable from now on. False when packets are waiting already: don't
    /// sleep. Without a guest there is nothing to ask.
    pub fn arm(&mut self) -> bool {
        self.notify = true;
        let Some((device, _inside)) = self.port.enter(&self.port.pair(self.pair).rx.busy) else {
            return true;
        };
        self.told = Some(device.connect);
        // SAFETY: the device stays as long as `_inside`.
        unsafe {
            sys::rte_vhost_enable_guest_notification(device.vid, self.ring(), 1);
            // The guest sees that it must notify before we look for the last time: one of us sees the other.
            fence(Ordering::SeqCst);
            sys::rte_vhost_rx_queue_count(device.vid, self.ring()) == 0
        }
    }

    /// The worker is awake and polls: tells the guest, and clears [`Self::wait_fd`].
    pub fn disarm(&mut self) {
        self.notify = false;
        let pair = self.port.pair(self.pair);
        if let Some((device, _inside)) = self.port.enter(&pair.rx.busy) {
            self.told = Some(device.connect);
            // SAFETY: the device stays as long as `_inside`.
            unsafe { sys::rte_vhost_enable_guest_notification(device.vid, self.ring(), 0) };
        }
        pair.wait.clear();
    }

    /// Whether the guest has said something of a frame of the last [`Self::rx`] that brought any: [`Mbuf::rx_checksum`],
    /// [`Mbuf::rx_segment`].
    #[inline]
    pub fn has_told(&self) -> bool {
        self.has_told
    }

    /// How many frames were thrown away since last time because their lengths contradicted each other.
    pub fn take_malformed(&mut self) -> u32 {
        std::mem::take(&mut self.malformed)
    }

    /// How many frames were thrown away since last time because they were longer than 65535 bytes and their Ethernet
    /// header.
    pub fn take_too_long(&mut self) -> u32 {
        std::mem::take(&mut self.too_long)
    }
}

/// Calls the guest once after a lane has opened: a call that was due before, perhaps another weftd's, may have been missed. And the library's
/// lock is waited for, which it holds until it is done with what opened the lane: then it can have its look at the ring, since it may
/// have something to say in the guest's name (RARP).
///
/// # Safety
/// The device stays meanwhile.
#[cold]
unsafe fn meet(vid: i32, ring: u16) {
    // SAFETY: the caller's promise.
    unsafe { sys::rte_vhost_vring_call(vid, ring) };
}

impl VhostTx {
    pub(super) fn new(port: &Arc<PortState>, pair: u16) -> Self {
        Self { port: Arc::clone(port), pair, opening: 0, next: Next::default() }
    }

    /// Whether a guest is there to send to.
    #[inline]
    pub fn connected(&self) -> bool {
        self.port.device().is_some()
    }

    /// The guest to send to.
    #[inline]
    pub fn guest(&self) -> Option<Guest> {
        self.port.guest()
    }

    /// The next [`Self::tx`] comes in a moment: as [`VhostRx::expect`].
    #[inline]
    pub fn expect(&self) {
        if self.port.device().is_some() {
            self.port.pair(self.pair).tx.ahead.fetch(self.next.position, self.next.count);
        }
    }

    /// For a packet that a guest is to segment, with its work set: keeps the library from writing the pseudo-header's sum anew. It
    /// writes only to headers that are all in the first segment, so the last byte of them is moved to the next. False, with
    /// nothing changed, from an empty pool.
    #[inline]
    pub fn keep_sum(packet: &mut Mbuf, headers: usize) -> bool {
        headers > 1 && packet.split_head(headers - 1)
    }

    /// Copies packets from the front of the burst into the buffers of this guest, frees them, and notifies it if it
    /// wants to be; how many that was. What the guest has no buffers for stays in the burst, and so does everything
    /// when it has gone.
    #[inline]
    pub fn tx(&mut self, guest: Guest, burst: &mut Burst) -> usize {
        if burst.is_empty() {
            return 0;
        }
        let entered = self.port.enter(&self.port.pair(self.pair).tx.busy);
        let Some((device, inside)) = entered.filter(|(device, _)| device.connect == guest.connect) else {
            return 0;
        };
        let lane = self.port.pair(self.pair).tx.lane.enter();
        let is_new = lane.as_ref().is_some_and(|(opening, _)| *opening != self.opening);
        self.opening = lane.as_ref().map_or(self.opening, |(opening, _)| *opening);
        let moved = lane.map(|(_, ring)| ring.give(burst));
        let given = moved.map_or(0, |moved| moved.count);
        // SAFETY: the device stays as long as `inside`.
        unsafe {
            if is_new {
                meet(device.vid, self.pair * 2);
            } else if moved.is_some_and(|moved| moved.call) {
                sys::rte_vhost_vring_call(device.vid, self.pair * 2);
            }
        }
        let by_library = moved.is_none_or(|moved| moved.unusual);
        let mut taken = 0;
        while by_library && taken < burst.len() {
            // SAFETY: the device stays as long as `inside`; its ring is written by this queue alone; the burst's pointers from `taken`
            // on are well-formed chains, which the library only reads.
            let count = unsafe {
                let pointers = burst.as_mut_ptr().add(taken).cast();
                let left = (burst.len() - taken) as u16;
                sys::rte_vhost_enqueue_burst(device.vid, self.pair * 2, pointers, left)
            };
            taken += usize::from(count);
            // Fewer than the library takes at a time: the guest has no more room.
            if usize::from(count) < AT_A_TIME {
                break;
            }
        }
        if given + taken > 0 {
            // SAFETY: the device stays as long as `inside`.
            self.next = unsafe { Next::after(given + taken, device.vid, self.pair * 2) };
        }
        drop(inside);
        let taken = taken.min(burst.len());
        if taken > 0 {
            free_front(burst, taken);
        }
        given + taken
    }
}

impl Next {
    /// After `count` frames.
    ///
    /// # Safety
    /// The device stays meanwhile, and the ring is the caller's alone.
    #[inline]
    unsafe fn after(count: usize, vid: i32, ring: u16) -> Self {
        let (mut position, mut used) = (0, 0);
        // SAFETY: the caller's promise; two numbers are written.
        unsafe { sys::rte_vhost_get_vring_base(vid, ring, &mut position, &mut used) };
        Self { position, count }
    }
}

impl std::fmt::Debug for VhostRx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostRx").field("port", &self.port.path()).field("pair", &self.pair).finish()
    }
}

impl std::fmt::Debug for VhostTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostTx").field("port", &self.port.path()).field("pair", &self.pair).finish()
    }
}
