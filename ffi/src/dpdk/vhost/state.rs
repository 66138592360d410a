//! What the library's thread and the workers share about a vhost-user port.
//!
//! `live` says which device is connected. A worker that is about to call the library with it first raises the queue's
//! own `busy` flag and then looks at `live`; the library's thread, before a device goes, first clears `live` and then
//! waits until every `busy` flag is down. Both sides use sequentially consistent operations, so one of them always
//! sees the other. Nobody but the queue's worker writes `busy`, and the worker never waits.
//!
//! What a worker does to a ring by itself is guarded likewise by the ring's `lane`, which is closed also while the library handles a message: then it may hold locks
//! that a worker with its `busy` flag raised waits for, but nobody waits for anything inside a lane.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::Guest;
use super::lane::{Lane, Parts};
use crate::dpdk::prefetch;
use crate::dpdk::sys;

/// A device of the vhost library, and which of this port's devices it is: numbers of devices are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceId {
    pub(super) vid: i32,
    pub(super) connect: u32,
}

/// A flag on a cache line of its own: its worker writes it twice a burst.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Busy(AtomicBool);

/// What a guest's transmit ring needs beside the flag: a descriptor to sleep on.
pub(super) struct Wait {
    /// What the worker sleeps on; stays the same while guests come and go. Edge-triggered: a kick shows once, and nobody
    /// has to read (and perhaps block on) a descriptor that a guest has handed over.
    epoll: OwnedFd,
    /// Written when a guest comes, so that a sleeping worker arms the new ring.
    came: OwnedFd,
    /// A duplicate of the guest's kick descriptor: with it the entry in `epoll` can be removed even after the
    /// library has closed its own. Only the library's thread uses it.
    kick: Mutex<Option<OwnedFd>>,
}

/// Where a ring's parts are that the guest writes and that are read first. Only ever passed to the processor as a hint: the guest may
/// be gone by then and its memory too.
#[derive(Default)]
pub(super) struct Ahead {
    available: AtomicUsize,
    /// 0 if the guest may use its descriptors in any order.
    descriptors: AtomicUsize,
    mask: AtomicU16,
}

/// Frames that the library takes from a ring at a time, or puts into one.
pub(super) const AT_A_TIME: usize = 32;
const LINE: usize = 64;
/// Bytes of a descriptor, of an entry of the ring of available ones, and in front of the first entry (virtio 1.2, section 2.7).
const DESCRIPTOR: usize = 16;
const ENTRY: usize = 2;
const BEFORE_ENTRIES: usize = 4;
/// VIRTIO_F_IN_ORDER: descriptors are used in the order in which they lie.
const IN_ORDER: u64 = 1 << 35;

impl Ahead {
    fn set(&self, ring: &sys::rte_vhost_vring, in_order: bool) {
        // SAFETY: a union of pointers, of which the library sets the one or the other.
        let (available, descriptors) =
            unsafe { (ring.__bindgen_anon_2.avail as usize, ring.__bindgen_anon_1.desc as usize) };
        self.available.store(available, Ordering::Relaxed);
        self.descriptors.store(if in_order { descriptors } else { 0 }, Ordering::Relaxed);
        self.mask.store(ring.size.wrapping_sub(1), Ordering::Relaxed);
    }

    /// Has the processor fetch what is read for the next `count` frames. `position`: how many were taken so far.
    #[inline]
    pub(super) fn fetch(&self, position: u16, count: usize) {
        let (available, descriptors) =
            (self.available.load(Ordering::Relaxed), self.descriptors.load(Ordering::Relaxed));
        if available == 0 {
            return;
        }
        let first = usize::from(position & self.mask.load(Ordering::Relaxed));
        let entries = available.wrapping_add(BEFORE_ENTRIES + first * ENTRY);
        prefetch(available);
        for line in 0..=count * ENTRY / LINE {
            prefetch(entries.wrapping_add(line * LINE));
        }
        if descriptors != 0 {
            for line in 0..=count * DESCRIPTOR / LINE {
                prefetch(descriptors.wrapping_add(first * DESCRIPTOR + line * LINE));
            }
        }
    }
}

/// What a ring's worker uses without the library.
#[derive(Default)]
pub(super) struct Side {
    pub(super) busy: Busy,
    pub(super) ahead: Ahead,
    pub(super) lane: Lane,
    /// 0, or the number plus one of the device by which the guest has enabled the ring.
    enabled: AtomicU32,
}

impl Side {
    /// Lets the worker use the ring of a device that is live, as it is now.
    fn open(&self, vid: i32, ring: u16) {
        if self.enabled.load(Ordering::Relaxed) != number_of(vid) {
            return;
        }
        // SAFETY: called by the library's thread, while the device exists; it closes the lane before it changes anything.
        unsafe {
            if let Some(parts) = Parts::of(vid, ring) {
                self.lane.open(parts);
            }
        }
    }
}

/// One pair of rings, named from the switch's side.
pub(super) struct Pair {
    pub(super) rx: Side,
    pub(super) tx: Side,
    pub(super) wait: Wait,
}

impl Pair {
    /// Both sides, with their rings' numbers: the guest receives by the even ones.
    fn sides(&self, pair: usize) -> [(&Side, u16); 2] {
        let ring = pair as u16 * 2;
        [(&self.tx, ring), (&self.rx, ring + 1)]
    }
}

pub(super) struct PortState {
    path: String,
    pairs: Box<[Pair]>,
    /// 0, or the connect's number and the device's number plus one, 32 bits each.
    live: AtomicU64,
    /// What `live` was before the guest's memory came into doubt.
    held: AtomicU64,
    /// The devices, be it that they only want to be connected, whose memory the library has.
    memory: Mutex<BTreeSet<i32>>,
    connects: AtomicU32,
    pub(super) features: AtomicU64,
}

impl PortState {
    pub(super) fn new(path: &str, pairs: u16) -> io::Result<Self> {
        let pairs = (0..pairs)
            .map(|_| Ok(Pair { rx: Side::default(), tx: Side::default(), wait: Wait::new()? }))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            path: path.to_owned(),
            pairs,
            live: AtomicU64::new(0),
            held: AtomicU64::new(0),
            memory: Mutex::default(),
            connects: AtomicU32::new(0),
            features: AtomicU64::new(0),
        })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn pair(&self, pair: u16) -> &Pair {
        &self.pairs[usize::from(pair)]
    }

    pub(super) fn connects(&self) -> u32 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Which device is connected. It may go at any time: see [`Self::enter`].
    #[inline]
    pub(super) fn device(&self) -> Option<DeviceId> {
        DeviceId::unpack(self.live.load(Ordering::Relaxed))
    }

    /// The connected guest. Its features may be those of the guest after it, in which case [`Self::enter`] has another device.
    #[inline]
    pub(super) fn guest(&self) -> Option<Guest> {
        let device = DeviceId::unpack(self.live.load(Ordering::Acquire))?;
        Some(Guest { connect: device.connect, features: self.features.load(Ordering::Acquire) })
    }

    /// The connected device, which stays until the guard is dropped. `busy` is the flag of the queue that the caller
    /// alone uses.
    #[inline]
    pub(super) fn enter<'a>(&self, busy: &'a Busy) -> Option<(DeviceId, Inside<'a>)> {
        // Nothing to guard without a guest: a poll costs one load.
        self.device()?;
        busy.0.store(true, Ordering::SeqCst);
        let inside = Inside(busy);
        // Looked at again: the device may have gone before the flag was up.
        DeviceId::unpack(self.live.load(Ordering::SeqCst)).map(|device| (device, inside))
    }

    fn came(&self, vid: i32) -> bool {
        if self.known().is_some() {
            tracing::warn!("vhost-user port {}: a second guest is turned away", self.path);
            return false;
        }
        let mut features = 0;
        // SAFETY: the device exists while it is reported.
        unsafe { sys::rte_vhost_get_negotiated_features(vid, &mut features) };
        self.features.store(features, Ordering::Release);
        for (index, pair) in self.pairs.iter().enumerate() {
            // Nobody waits for a guest to have room: it need not say so, which would cost it a system call or leave its machine.
            // SAFETY: the device exists while it is reported.
            unsafe { sys::rte_vhost_enable_guest_notification(vid, index as u16 * 2, 0) };
            for (side, ring) in pair.sides(index) {
                if let Some(ring) = ring_of(vid, ring.into()) {
                    side.ahead.set(&ring, features & IN_ORDER != 0);
                }
            }
        }
        // Whatever is left of the guest before.
        self.pairs.iter().flat_map(|pair| [&pair.rx, &pair.tx]).for_each(|side| side.lane.close());
        let connect = self.connects.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.live.store(DeviceId { vid, connect }.pack(), Ordering::SeqCst);
        self.open_lanes(vid);
        for (index, pair) in self.pairs.iter().enumerate() {
            pair.wait.watch(kick_of(vid, index));
            pair.wait.wake();
        }
        tracing::info!("vhost-user port {}: a guest is connected", self.path);
        true
    }

    fn went(&self, vid: i32) {
        if self.known().is_none_or(|device| device.vid != vid) {
            return;
        }
        self.live.store(0, Ordering::SeqCst);
        self.held.store(0, Ordering::SeqCst);
        self.close_lanes(vid);
        for pair in &self.pairs {
            // A worker is inside for one burst at most, unless it was preempted there.
            for side in [&pair.rx, &pair.tx] {
                while side.busy.0.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
            pair.wait.watch(None);
        }
        tracing::info!("vhost-user port {}: the guest is gone", self.path);
    }

    /// The device that is connected, also while its memory is in doubt.
    fn known(&self) -> Option<DeviceId> {
        self.device().or_else(|| DeviceId::unpack(self.held.load(Ordering::Relaxed)))
    }

    /// A device of this number is new: nothing of the one that had it before holds.
    fn forget(&self, vid: i32) {
        for side in self.pairs.iter().flat_map(|pair| [&pair.rx, &pair.tx]) {
            let _ = side.enabled.compare_exchange(number_of(vid), 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.with_memory().remove(&vid);
    }

    fn with_memory(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The library takes the guest's memory away, to put other memory in its place. If that fails there is none, and the rings lead
    /// nowhere: until it has succeeded the guest is not there for the workers.
    fn doubt_memory(&self, vid: i32) {
        self.with_memory().remove(&vid);
        if self.device().is_some_and(|device| device.vid == vid) {
            self.held.store(self.live.swap(0, Ordering::SeqCst), Ordering::SeqCst);
        }
    }

    fn trust_memory(&self, vid: i32) {
        self.with_memory().insert(vid);
        let held = self.held.load(Ordering::SeqCst);
        if DeviceId::unpack(held).is_some_and(|device| device.vid == vid) {
            self.held.store(0, Ordering::SeqCst);
            self.live.store(held, Ordering::SeqCst);
        }
    }

    /// Keeps the workers from the rings. If `vid` is not the guest that is connected, nothing happens.
    fn close_lanes(&self, vid: i32) {
        if self.known().is_none_or(|device| device.vid == vid) {
            self.pairs.iter().flat_map(|pair| [&pair.rx, &pair.tx]).for_each(|side| side.lane.close());
        }
    }

    /// Lends the workers the rings of the connected guest, as they are now.
    fn open_lanes(&self, vid: i32) {
        if !self.with_memory().contains(&vid) || self.device().is_none_or(|device| device.vid != vid) {
            return;
        }
        for (index, pair) in self.pairs.iter().enumerate() {
            pair.sides(index).into_iter().for_each(|(side, ring)| side.open(vid, ring));
        }
    }

    fn ring_changed(&self, vid: i32, ring: u16, enabled: bool) {
        let Some(pair) = self.pairs.get(usize::from(ring / 2)) else { return };
        if self.known().is_some_and(|device| device.vid != vid) {
            return;
        }
        // Odd rings are those that the guest sends by.
        let side = if ring % 2 == 0 { &pair.tx } else { &pair.rx };
        side.lane.close();
        side.enabled.store(if enabled { number_of(vid) } else { 0 }, Ordering::Relaxed);
        // Before the device is there, `came` will look at the rest.
        if self.device().is_none() || !self.with_memory().contains(&vid) {
            return;
        }
        side.open(vid, ring);
        if ring % 2 == 0 {
            return;
        }
        pair.wait.watch(if enabled { kick_of(vid, usize::from(ring / 2)) } else { None });
        if enabled {
            pair.wait.wake();
        }
    }
}

/// A device's number as one that is not 0.
fn number_of(vid: i32) -> u32 {
    (vid as u32).wrapping_add(1)
}

impl DeviceId {
    fn pack(self) -> u64 {
        u64::from(self.connect) << 32 | u64::from(number_of(self.vid))
    }

    #[inline]
    fn unpack(live: u64) -> Option<Self> {
        let number = live as u32;
        (number != 0).then(|| Self { vid: number.wrapping_sub(1) as i32, connect: (live >> 32) as u32 })
    }
}

/// The library may be called for the device as long as this lives.
pub(super) struct Inside<'a>(&'a Busy);

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

impl Wait {
    fn new() -> io::Result<Self> {
        // SAFETY: two plain system calls, whose results are new descriptors that nobody else owns.
        let (epoll, came) = unsafe {
            (
                owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))?,
                owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?,
            )
        };
        add(&epoll, came.as_fd())?;
        Ok(Self { epoll, came, kick: Mutex::new(None) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Makes [`Self::fd`] unreadable until the next event. One system call; never blocks.
    pub(super) fn clear(&self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        // SAFETY: the descriptor is ours, and `events` has room for as many as are asked for.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, 0) };
    }

    fn wake(&self) {
        let one = 1u64;
        // SAFETY: writes eight bytes of a local to our own eventfd, which does not block.
        unsafe { libc::write(self.came.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    /// Whether a guest's kick would be seen.
    pub(super) fn hears(&self) -> bool {
        self.kick.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_some()
    }

    /// From now on a kick at `fd` (and no other) makes [`Self::fd`] readable.
    fn watch(&self, fd: Option<OwnedFd>) {
        let mut kick = self.kick.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(old) = kick.take() {
            // SAFETY: both descriptors are ours.
            unsafe {
                libc::epoll_ctl(
                    self.epoll.as_raw_fd(),
                    libc::EPOLL_CTL_DEL,
                    old.as_raw_fd(),
                    std::ptr::null_mut(),
                )
            };
        }
        if let Some(fd) = fd {
            // A guest may hand over whatever it likes; where it can't be slept on, the port has to be polled.
            match add(&self.epoll, fd.as_fd()) {
                Ok(()) => *kick = Some(fd),
                Err(error) => tracing::warn!("a guest's kick descriptor can't be waited for: {error}"),
            }
        }
    }
}

fn add(epoll: &OwnedFd, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
    // SAFETY: both descriptors are open, and the event is copied.
    let code = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// # Safety
/// `fd` is -1 with errno set, or an open descriptor that nobody else owns.
unsafe fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the library knows of a ring.
pub(super) fn ring_of(vid: i32, ring: usize) -> Option<sys::rte_vhost_vring> {
    let mut known = std::mem::MaybeUninit::<sys::rte_vhost_vring>::zeroed();
    // SAFETY: called from the library's callbacks, while the device exists; all zero is a valid value of pointers and numbers.
    unsafe {
        let code = sys::rte_vhost_get_vhost_vring(vid, ring as u16, known.as_mut_ptr());
        (code == 0).then(|| known.assume_init())
    }
}

/// A duplicate of the kick descriptor of the ring that the guest's pair sends by.
fn kick_of(vid: i32, pair: usize) -> Option<OwnedFd> {
    let fd = ring_of(vid, pair * 2 + 1)?.kickfd;
    // SAFETY: the descriptor is duplicated before it can be closed, because the same thread closes it.
    if fd < 0 { None } else { unsafe { owned(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0)).ok() } }
}

/// All ports of the process: the library reports a device by number, and knows its socket.
static PORTS: Mutex<BTreeMap<String, Arc<PortState>>> = Mutex::new(BTreeMap::new());

fn ports() -> MutexGuard<'static, BTreeMap<String, Arc<PortState>>> {
    PORTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Makes the port known to the callbacks. False when its path is taken.
pub(super) fn announce(state: &Arc<PortState>) -> bool {
    let mut ports = ports();
    let free = !ports.contains_key(&state.path);
    if free {
        ports.insert(state.path.clone(), Arc::clone(state));
    }
    free
}

pub(super) fn withdraw(path: &str) {
    ports().remove(path);
}

fn port_of(vid: i32) -> Option<Arc<PortState>> {
    let mut name = [0u8; sys::WEFT_PATH_MAX as usize];
    // SAFETY: at most `name.len()` bytes are written, with a NUL; the device exists while it is reported.
    if unsafe { sys::rte_vhost_get_ifname(vid, name.as_mut_ptr().cast(), name.len()) } != 0 {
        return None;
    }
    let name = CStr::from_bytes_until_nul(&name).ok()?.to_str().ok()?;
    ports().get(name).cloned()
}

unsafe extern "C" fn new_device(vid: i32) -> i32 {
    if port_of(vid).is_some_and(|port| port.came(vid)) { 0 } else { -1 }
}

unsafe extern "C" fn destroy_device(vid: i32) {
    if let Some(port) = port_of(vid) {
        port.went(vid);
    }
}

unsafe extern "C" fn vring_state_changed(vid: i32, ring: u16, enable: i32) -> i32 {
    // The library may hold the ring's lock here, which a worker inside `arm` waits for: nothing here may wait for a worker.
    if let Some(port) = port_of(vid) {
        port.ring_changed(vid, ring, enable != 0);
    }
    0
}

unsafe extern "C" fn new_connection(vid: i32) -> i32 {
    if let Some(port) = port_of(vid) {
        port.forget(vid);
    }
    // SAFETY: the device exists while it is reported; the structure is copied.
    unsafe { sys::rte_vhost_extern_callback_register(vid, &MESSAGES, std::ptr::null_mut()) }
}

/// VHOST_USER_SET_MEM_TABLE.
const SET_MEM_TABLE: u32 = 5;

/// # Safety
/// It is a message of the vhost-user protocol, as the library hands it out.
unsafe fn number(message: *const c_void) -> u32 {
    // SAFETY: the caller's promise; the number comes first (QEMU's vhost-user specification, "Message Specification").
    unsafe { message.cast::<u32>().read_unaligned() }
}

/// Before the library handles a message of the guest's side, any of which may take memory or rings away.
unsafe extern "C" fn before_message(vid: i32, message: *mut c_void) -> sys::rte_vhost_msg_result {
    if let Some(port) = port_of(vid) {
        port.close_lanes(vid);
        // SAFETY: a message begins with its number.
        if unsafe { number(message) } == SET_MEM_TABLE {
            port.doubt_memory(vid);
        }
    }
    sys::RTE_VHOST_MSG_RESULT_NOT_HANDLED
}

/// After it, unless it was refused: then the lanes stay closed, and the library does their work, until the next.
unsafe extern "C" fn after_message(vid: i32, message: *mut c_void) -> sys::rte_vhost_msg_result {
    if let Some(port) = port_of(vid) {
        // SAFETY: as above.
        if unsafe { number(message) } == SET_MEM_TABLE {
            port.trust_memory(vid);
        }
        port.open_lanes(vid);
    }
    sys::RTE_VHOST_MSG_RESULT_NOT_HANDLED
}

static MESSAGES: sys::rte_vhost_user_extern_ops = sys::rte_vhost_user_extern_ops {
    pre_msg_handle: Some(before_message),
    post_msg_handle: Some(after_message),
};

struct Callbacks(sys::rte_vhost_device_ops);

// SAFETY: function pointers and null pointers, never written.
unsafe impl Sync for Callbacks {}

static CALLBACKS: Callbacks = Callbacks(sys::rte_vhost_device_ops {
    new_device: Some(new_device),
    destroy_device: Some(destroy_device),
    vring_state_changed: Some(vring_state_changed),
    features_changed: None,
    new_connection: Some(new_connection),
    destroy_connection: None,
    guest_notified: None,
    reserved: [std::ptr::null_mut(); 1],
});

/// What the library calls; it keeps the pointer.
pub(super) fn callbacks() -> *const sys::rte_vhost_device_ops {
    &CALLBACKS.0
}
