//! A guest that lies: what it writes into its rings and headers costs nobody but itself. It speaks vhost-user by hand, so that
//! every byte is its own. The cases are those by which vhost back ends were broken before (CVE-2018-1059, CVE-2020-10723,
//! CVE-2020-10725, CVE-2022-2132, CVE-2024-11614, QEMU's CVE-2016-5403), and noise.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use weft_ffi::dpdk::*;

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The guest's memory, its address there, and the size of its rings.
const MEMORY: usize = 1 << 20;
const BASE: u64 = 0x4000_0000;
const RING: usize = 256;
/// Where in the memory buffers begin.
const BUFFERS: usize = 0x1_0000;
/// Bytes of the virtio-net header.
const HEADER: usize = 12;

/// Feature bits: checksums and segmentation both ways, mergeable buffers, indirect descriptors, the standard's version 1.
const WANTED: u64 = 0b11 | 0b11 << 7 | 0b11 << 11 | 1 << 15 | 1 << 28 | 1 << 32;

/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, next.
type Descriptor = (u64, u32, u16, u16);

struct Hostile {
    socket: UnixStream,
    memory: File,
    map: *mut u8,
    kicks: Vec<File>,
    /// What has been made available in each ring.
    available: [u16; 2],
}

/// Where a ring's descriptors, available and used ones are in the guest's memory.
type Places = [usize; 3];

fn usual_places(ring: usize) -> Places {
    [0, 0x1000, 0x2000].map(|at| ring * 0x4000 + at)
}

impl Hostile {
    fn connect(path: &str, features: u64, places: impl Fn(usize) -> Places) -> Self {
        // SAFETY: plain system calls, whose results are checked and are nobody else's.
        let (memory, map, kicks) = unsafe {
            let fd = libc::memfd_create(c"guest".as_ptr(), 0);
            assert!(fd >= 0);
            let memory = File::from_raw_fd(fd);
            memory.set_len(MEMORY as u64).unwrap();
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let map = libc::mmap(std::ptr::null_mut(), MEMORY, protection, libc::MAP_SHARED, fd, 0);
            assert_ne!(map, libc::MAP_FAILED);
            let kicks = (0..4).map(|_| File::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK))).collect();
            (memory, map.cast(), kicks)
        };
        let socket = UnixStream::connect(path).unwrap();
        let mut guest = Self { socket, memory, map, kicks, available: [0; 2] };
        guest.say(1, &[], None);
        let mut reply = [0; 20];
        guest.socket.read_exact(&mut reply).unwrap();
        let offered = u64::from_le_bytes(reply[12..].try_into().unwrap());
        assert_eq!(offered & features, features, "offered: {offered:#x}");
        guest.say(2, &features.to_le_bytes(), None);
        guest.say(3, &[], None);
        let table = [1, BASE, MEMORY as u64, guest.map as u64, 0];
        let fd = guest.memory.as_raw_fd();
        guest.say(5, &table.map(u64::to_le_bytes).concat(), Some(fd));
        for ring in 0..2u32 {
            let words = |a: u32, b: u32| [a.to_le_bytes(), b.to_le_bytes()].concat();
            guest.say(8, &words(ring, RING as u32), None);
            guest.say(10, &words(ring, 0), None);
            let [desc, avail, used] =
                places(ring as usize).map(|at| (guest.map as u64 + at as u64).to_le_bytes());
            guest.say(9, &[&words(ring, 0)[..], &desc, &used, &avail, &[0; 8]].concat(), None);
            let (call, kick) = (&guest.kicks[ring as usize], &guest.kicks[ring as usize + 2]);
            let (call, kick) = (call.as_raw_fd(), kick.as_raw_fd());
            guest.say(13, &u64::from(ring).to_le_bytes(), Some(call));
            guest.say(12, &u64::from(ring).to_le_bytes(), Some(kick));
        }
        guest
    }

    /// Sends a message, perhaps with a file descriptor.
    fn say(&self, request: u32, payload: &[u8], fd: Option<i32>) {
        self.say_so(request, 1, payload, fd);
    }

    fn say_so(&self, request: u32, flags: u32, payload: &[u8], fd: Option<i32>) {
        let head = [request, flags, payload.len() as u32].map(u32::to_le_bytes).concat();
        let mut parts = [IoSlice::new(&head), IoSlice::new(payload)];
        // SAFETY: the message and what it points to live until the call returns; the control buffer has room for one descriptor.
        unsafe {
            let mut control = [0u64; 4];
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = parts.as_mut_ptr().cast();
            message.msg_iovlen = parts.len();
            if let Some(fd) = fd {
                message.msg_control = control.as_mut_ptr().cast();
                message.msg_controllen = libc::CMSG_SPACE(4) as usize;
                let first = libc::CMSG_FIRSTHDR(&message);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(4) as usize;
                libc::CMSG_DATA(first).cast::<i32>().write_unaligned(fd);
            }
            let sent = libc::sendmsg(self.socket.as_raw_fd(), &message, 0);
            assert_eq!(sent, (head.len() + payload.len()) as isize);
        }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY);
        // SAFETY: within the map, which the other side may read at the same time, as guests' memory is.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.add(at), bytes.len()) };
    }

    fn describe(&mut self, table: usize, index: u16, descriptor: Descriptor) {
        let (address, len, flags, next) = descriptor;
        let at = table + usize::from(index) * 16;
        self.write(at, &address.to_le_bytes());
        self.write(at + 8, &len.to_le_bytes());
        self.write(at + 12, &flags.to_le_bytes());
        self.write(at + 14, &next.to_le_bytes());
    }

    /// Makes the chain that begins at this descriptor available.
    fn offer(&mut self, ring: usize, head: u16, more: u16) {
        let at = ring * 0x4000 + 0x1000;
        let slot = usize::from(self.available[ring]) % RING;
        self.write(at + 4 + slot * 2, &head.to_le_bytes());
        self.available[ring] = self.available[ring].wrapping_add(more);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.write(at + 2, &self.available[ring].to_le_bytes());
    }

    /// Sends these bytes, header and frame, in one buffer.
    fn send(&mut self, bytes: &[u8]) {
        self.write(BUFFERS, bytes);
        self.describe(0x4000, 0, (BASE + BUFFERS as u64, bytes.len() as u32, 0, 0));
        self.offer(1, 0, 1);
    }

    /// Describes the chain that begins at `head`, each descriptor's successor the next one, and makes it available.
    fn chain(&mut self, ring: usize, head: u16, parts: &[(u64, u32, u16)]) {
        let last = head + parts.len() as u16 - 1;
        for (index, (address, len, flags)) in (head..).zip(parts) {
            let more = if index < last { NEXT } else { 0 };
            self.describe(ring * 0x4000, index, (*address, *len, flags | more, index + 1));
        }
        self.offer(ring, head, 1);
    }

    /// What the other side has given back: chain and length, the `at`th of the ring.
    fn given_back(&self, ring: usize, at: u16) -> (u32, u32) {
        let at = ring * 0x4000 + 0x2004 + usize::from(at) % RING * 8;
        // SAFETY: within the map, aligned.
        unsafe { self.map.add(at).cast::<(u32, u32)>().read_volatile() }
    }

    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= MEMORY);
        let mut bytes = vec![0; len];
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(self.map.add(at), bytes.as_mut_ptr(), len) };
        bytes
    }

    /// Returns when all messages so far have been handled.
    fn is_heard(&mut self) {
        self.say(1, &[], None);
        self.socket.read_exact(&mut [0; 20]).unwrap();
    }

    /// Whether the other side wants to be told of what is made available in a ring.
    fn is_to_tell(&self, ring: usize) -> bool {
        // SAFETY: within the map, aligned.
        unsafe { self.map.add(ring * 0x4000 + 0x2000).cast::<u16>().read_volatile() & 1 == 0 }
    }

    /// How far the other side has come in a ring.
    fn used(&self, ring: usize) -> u16 {
        // SAFETY: within the map, aligned.
        unsafe { self.map.add(ring * 0x4000 + 0x2002).cast::<u16>().read_volatile() }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        // SAFETY: our own map; nothing of it is used afterwards.
        unsafe { libc::munmap(self.map.cast(), MEMORY) };
    }
}

fn header(flags: u8, gso_type: u8, hdr_len: u16, gso_size: u16, start: u16, offset: u16) -> Vec<u8> {
    let mut bytes = vec![flags, gso_type];
    bytes.extend([hdr_len, gso_size, start, offset, 0].map(u16::to_le_bytes).concat());
    bytes
}

/// A frame with this IP protocol, or one of no IP at all.
fn frame(protocol: Option<u8>, len: usize) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match protocol {
        Some(protocol) => {
            bytes.extend([8, 0, 0x45, 0, ((len - 14) >> 8) as u8, (len - 14) as u8]);
            bytes.extend([0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            bytes.extend([0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 5 << 4, 0x10, 1, 0]);
        }
        None => bytes.extend([0x88, 0xb5]),
    }
    bytes.resize(len, 0x5a);
    bytes
}

/// Numbers without a pattern, the same each time.
fn noise() -> impl FnMut() -> u64 {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

struct Lab {
    pool: Mempool,
    port: VhostPort,
    rx: VhostRx,
    tx: VhostTx,
    path: String,
}

impl Lab {
    fn guest(&self) -> Hostile {
        self.guest_with(WANTED)
    }

    fn guest_with(&self, features: u64) -> Hostile {
        wait_for("the guest before to be gone", || !self.port.connected());
        let guest = Hostile::connect(&self.path, features, usual_places);
        wait_for("the guest to be connected", || self.port.connected());
        guest
    }

    /// A frame that is sound arrives.
    fn still_works(&mut self) {
        let mut guest = self.guest();
        let bytes = frame(Some(6), 1000);
        guest.send(&[header(0, 0, 0, 0, 0, 0), bytes.clone()].concat());
        let mut burst = Burst::new();
        wait_for("a sound frame", || self.rx.rx(&self.pool, &mut burst) == 1);
        assert_eq!(burst[0].head(), bytes);
    }
}

#[test]
fn a_guest_that_lies_costs_nobody_but_itself() {
    let eal = Eal::start(&EalConfig { memory: 16 << 20, ..EalConfig::default() }).unwrap();
    let pool = Mempool::new(&eal, "test", 2048, 0, DATA_ROOM).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket").to_str().unwrap().to_owned();
    let mut port =
        VhostPort::register(&eal, Path::new(&path), VhostMode::Server, &VhostConfig::default()).unwrap();
    let (mut rx, mut tx) = port.split();
    let mut lab = Lab { pool, port, rx: rx.remove(0), tx: tx.remove(0), path };
    lab.still_works();
    only_frames_are_told_of(&mut lab);
    headers_that_lie(&mut lab);
    lab.still_works();
    every_kind_in_order(&mut lab);
    every_buffer_in_order(&mut lab);
    memory_that_moves(&mut lab);
    a_guest_that_waits_is_called(&mut lab);
    lab.still_works();
    chains_that_lie(&mut lab);
    buffers_that_lie(&mut lab);
    lab.still_works();
    rings_that_end_outside(&mut lab);
    memory_that_is_refused(&mut lab);
    lab.still_works();
    rings_of_noise(&mut lab);
    lab.still_works();
    wait_for("every buffer to be back", || lab.pool.in_use() == 0);
}

/// What a guest sends wakes whoever sleeps, and only then; its room for frames is never waited for.
fn only_frames_are_told_of(lab: &mut Lab) {
    let mut burst = Burst::new();
    let guest = lab.guest();
    // The library's thread may still be at it when the guest is there already.
    wait_for("a guest that is asked to tell of nothing", || {
        lab.rx.rx(&lab.pool, &mut burst);
        [0, 1].map(|ring| guest.is_to_tell(ring)) == [false, false]
    });
    assert!(lab.rx.arm());
    assert_eq!([0, 1].map(|ring| guest.is_to_tell(ring)), [false, true]);
    lab.rx.disarm();
    assert_eq!([0, 1].map(|ring| guest.is_to_tell(ring)), [false, false]);
}

/// Each of these is taken from the ring, and whatever is said of its frame, the frame is as long as it was.
fn headers_that_lie(lab: &mut Lab) {
    let mut guest = lab.guest();
    let mut cases = Vec::new();
    // The first segment exactly full, so that one byte behind it is another buffer's.
    let lengths = [60, 1000, usize::from(DATA_ROOM - HEADROOM), 5000];
    for len in lengths {
        let end = len as u16;
        for protocol in [Some(6), Some(17), Some(132), Some(1), Some(51), None] {
            for start in [0, 13, 33, 34, 54, end - 2, end - 1, end, end + 1, 0x7fff, 0xfff0, 0xffff] {
                for offset in
                    [0, 6, 16, end.wrapping_sub(start).wrapping_sub(1), 0u16.wrapping_sub(start), 0xffff]
                {
                    cases.push((header(1, 0, 0, 0, start, offset), frame(protocol, len)));
                }
            }
            for gso_type in [1, 3, 4, 5, 0x81, 0x80, 0xff] {
                for size in [0, 1, 0xffff] {
                    cases.push((header(1, gso_type, 0xffff, size, 34, 16), frame(protocol, len)));
                    cases.push((header(0, gso_type, 0, size, 0, 0), frame(protocol, len)));
                }
            }
        }
    }
    let mut next = noise();
    for _ in 0..3000 {
        let [a, b] = [next(), next()].map(u64::to_le_bytes);
        let mut bytes = frame([Some(6), Some(17), None][next() as usize % 3], lengths[next() as usize % 4]);
        for _ in 0..next() % 4 {
            let at = next() as usize % 60;
            bytes[at] = next() as u8;
        }
        cases.push(([&a[..], &b[..HEADER - 8]].concat(), bytes));
    }
    for (count, (header, bytes)) in (1u16..).zip(&cases) {
        guest.send(&[&header[..], bytes].concat());
        let mut burst = Burst::new();
        wait_for("the frame", || lab.rx.rx(&lab.pool, &mut burst) == 1);
        assert_eq!(guest.used(1), count);
        assert_eq!(burst[0].len(), bytes.len(), "{header:?}");
        // What can be asked of it can be asked.
        let (_, segment) = (burst[0].rx_checksum(), burst[0].rx_segment());
        assert_ne!(segment, Some(0), "{header:?}");
    }
}

/// Where the `at`th buffer is in the guest's memory.
fn buffer(at: u16) -> usize {
    BUFFERS + usize::from(at) * 0x1000
}

/// Frames that are moved by the burst and frames that the library must see, mixed: none overtakes another, and all are whole.
fn every_kind_in_order(lab: &mut Lab) {
    const COUNT: u16 = 60;
    for turn in 0..4 {
        let mut guest = lab.guest();
        let mut sent = Vec::new();
        for index in 0..COUNT {
            // Runs of a kind, longer ones later.
            let kind = if turn == 3 { index % 6 } else { index / (3 + turn * 4) % 6 };
            let (at, head) = (buffer(index), index * 4);
            let len = if kind == 4 { 3000 } else { 60 + usize::from(index) * 7 };
            let mut bytes = frame(Some(6), len);
            bytes[0] = index as u8 * 2;
            let told = if kind == 2 { header(1, 0, 0, 0, 34, 16) } else { header(0, 0, 0, 0, 0, 0) };
            guest.write(at, &[told, bytes.clone()].concat());
            let (address, len) = (BASE + at as u64, bytes.len() as u32);
            match kind {
                1 => guest.chain(1, head, &[(address, 12, 0), (address + 12, len, 0)]),
                3 => guest.chain(
                    1,
                    head,
                    &[(address, 12, 0), (address + 12, 20, 0), (address + 32, len - 20, 0)],
                ),
                5 => {
                    guest.describe(at + 0x800, 0, (address, len + 12, 0, 0));
                    guest.chain(1, head, &[(address + 0x800, 16, INDIRECT)]);
                }
                _ => guest.chain(1, head, &[(address, len + 12, 0)]),
            }
            let checksum = if kind == 2 { RxChecksum::Missing } else { RxChecksum::Unknown };
            sent.push((bytes, checksum));
        }
        let mut came = Vec::new();
        wait_for("all frames", || {
            let mut burst = Burst::new();
            lab.rx.rx(&lab.pool, &mut burst);
            for packet in &burst {
                let mut bytes = Vec::new();
                packet.for_each_segment(|segment| bytes.extend_from_slice(segment));
                came.push((bytes, packet.rx_checksum()));
            }
            came.len() >= sent.len()
        });
        assert!(came == sent, "in turn {turn}");
        assert_eq!(guest.used(1), COUNT);
        assert!((0..COUNT).all(|index| guest.given_back(1, index).0 == u32::from(index) * 4));
    }
}

/// The same to the guest, whose buffers are of every kind.
fn every_buffer_in_order(lab: &mut Lab) {
    const COUNT: u16 = 40;
    let mut guest = lab.guest();
    for index in 0..COUNT {
        let (address, head) = (BASE + buffer(index) as u64, index * 2);
        match index / 3 % 3 {
            0 => guest.chain(0, head, &[(address, 2000, WRITE)]),
            1 => guest.chain(0, head, &[(address, 12, WRITE), (address + 12, 1988, WRITE)]),
            // Too small for most: a frame is continued in the next one.
            _ => guest.chain(0, head, &[(address, 200, WRITE)]),
        }
    }
    let (mut burst, mut sent) = (Burst::new(), Vec::new());
    for index in 0..24 {
        let bytes: Vec<u8> = (0..60 + index * 17).map(|at| (at * 3 + index) as u8).collect();
        let mut packet = lab.pool.alloc(bytes.len()).unwrap();
        assert!(packet.write_at(0, &bytes));
        burst.push(packet);
        sent.push(bytes);
    }
    let to = lab.tx.guest().unwrap();
    wait_for("the guest to have taken all", || {
        lab.tx.tx(to, &mut burst);
        burst.is_empty()
    });
    let (mut came, mut at) = (Vec::new(), 0);
    while at < guest.used(0) {
        let (head, len) = guest.given_back(0, at);
        let first = buffer(head as u16 / 2);
        let told = guest.read(first, HEADER);
        assert_eq!(told[..10], [0; 10]);
        let mut bytes = guest.read(first + HEADER, len as usize - HEADER);
        let buffers = u16::from_le_bytes([told[10], told[11]]);
        for further in 1..buffers {
            let (head, len) = guest.given_back(0, at + further);
            bytes.extend(guest.read(buffer(head as u16 / 2), len as usize));
        }
        came.push(bytes);
        at += buffers.max(1);
    }
    assert!(came == sent, "{:?}", came.iter().map(Vec::len).collect::<Vec<_>>());
}

/// A guest whose memory gets another place while it sends: what is there counts, and nothing of what was.
fn memory_that_moves(lab: &mut Lab) {
    const ELSEWHERE: u64 = 0x9000_0000;
    let mut guest = lab.guest();
    let bytes = frame(Some(17), 100);
    guest.write(BUFFERS, &[header(0, 0, 0, 0, 0, 0), bytes.clone()].concat());
    let take = |lab: &mut Lab, count: usize| {
        let mut burst = Burst::new();
        wait_for("the frames", || {
            lab.rx.rx(&lab.pool, &mut burst);
            burst.len() >= count
        });
        assert!(burst.iter().all(|packet| packet.head() == bytes));
    };
    let len = bytes.len() as u32 + 12;
    for (turn, base) in [BASE, ELSEWHERE, BASE, ELSEWHERE].into_iter().enumerate() {
        if turn > 0 {
            let table = [1, base, MEMORY as u64, guest.map as u64, 0].map(u64::to_le_bytes).concat();
            guest.say(5, &table, Some(guest.memory.as_raw_fd()));
            guest.is_heard();
        }
        for _ in 0..3 {
            guest.chain(1, 0, &[(base + BUFFERS as u64, len, 0)]);
            guest.chain(1, 1, &[(base + BUFFERS as u64, len, 0)]);
            take(lab, 2);
        }
    }
    // The place that it had before leads nowhere.
    guest.chain(1, 0, &[(BASE + BUFFERS as u64, len, 0)]);
    for _ in 0..20 {
        let mut burst = Burst::new();
        lab.rx.rx(&lab.pool, &mut burst);
        assert!(burst.iter().all(|packet| packet.head() != bytes));
    }
}

/// A guest that names the frame that it waits for, after having polled for about a whole round of the rings' numbers.
fn a_guest_that_waits_is_called(lab: &mut Lab) {
    const EVENT_IDX: u64 = 1 << 29;
    const EACH: u16 = 64;
    let mut guest = lab.guest_with(WANTED | EVENT_IDX);
    for index in 0..RING as u16 {
        guest.describe(0, index, (BASE + BUFFERS as u64, 2000, WRITE, 0));
        guest.write(0x1004 + usize::from(index) * 2, &index.to_le_bytes());
    }
    let event = |guest: &mut Hostile, at: u16| guest.write(0x1004 + RING * 2, &at.to_le_bytes());
    let mut send = |guest: &mut Hostile, count: u16| {
        guest.available[0] = guest.available[0].wrapping_add(count);
        guest.write(0x1002, &guest.available[0].to_le_bytes());
        let mut burst = Burst::new();
        lab.pool.alloc_burst(60, count.into(), &mut burst);
        let to = lab.tx.guest().unwrap();
        wait_for("the guest to have taken all", || {
            lab.tx.tx(to, &mut burst);
            burst.is_empty()
        });
    };
    let mut calls = [0; 8];
    for turn in 0..24u16 {
        // It polls: what it waits for is far away.
        for _ in 0..u16::MAX / EACH {
            let far = guest.used(0).wrapping_add(0x4000);
            event(&mut guest, far);
            send(&mut guest, EACH);
        }
        send(&mut guest, 1 + turn);
        let _ = (&guest.kicks[0]).read(&mut calls);
        let now = guest.used(0);
        event(&mut guest, now);
        send(&mut guest, EACH);
        assert!((&guest.kicks[0]).read(&mut calls).is_ok(), "not called in turn {turn}");
    }
}

/// After each of these the guest may be stuck; others are not.
fn chains_that_lie(lab: &mut Lab) {
    let end = BASE + MEMORY as u64;
    let inside = BASE + BUFFERS as u64;
    let cases: Vec<(&str, Vec<Descriptor>, u16, u16)> = vec![
        ("outside of the memory", vec![(end, 100, 0, 0)], 0, 1),
        ("over the memory's end", vec![(end - 50, 100, 0, 0)], 0, 1),
        ("around the end of all addresses", vec![(u64::MAX - 10, 100, 0, 0)], 0, 1),
        ("as long as can be", vec![(inside, u32::MAX, 0, 0)], 0, 1),
        ("of no byte", vec![(inside, 0, 0, 0)], 0, 1),
        ("of no byte, and nowhere", vec![(0, 0, 0, 0)], 0, 1),
        ("shorter than the header", vec![(inside, 11, 0, 0)], 0, 1),
        ("the header alone", vec![(inside, 12, 0, 0)], 0, 1),
        (
            "the header in many pieces",
            (0..13).map(|at| (inside + u64::from(at), 1, if at < 12 { NEXT } else { 0 }, at + 1)).collect(),
            0,
            1,
        ),
        (
            "the header and nothing in many pieces",
            (0..12).map(|at| (inside + u64::from(at), 1, if at < 11 { NEXT } else { 0 }, at + 1)).collect(),
            0,
            1,
        ),
        ("its own successor", vec![(inside, 100, NEXT, 0)], 0, 1),
        ("a circle of two", vec![(inside, 100, NEXT, 1), (inside, 100, NEXT, 0)], 0, 1),
        ("a successor outside of the ring", vec![(inside, 100, NEXT, 0xffff)], 0, 1),
        ("a head outside of the ring", vec![], 0xffff, 1),
        ("more than the ring holds", vec![(inside, 100, 0, 0)], 0, 0x8000),
        ("a table outside of the memory", vec![(end, 160, INDIRECT, 0)], 0, 1),
        ("a table over the memory's end", vec![(end - 16, 160, INDIRECT, 0)], 0, 1),
        ("a table of no entry", vec![(inside, 0, INDIRECT, 0)], 0, 1),
        ("a table of half an entry", vec![(inside, 8, INDIRECT, 0)], 0, 1),
        ("a table longer than a ring", vec![(BASE, 0x10_0000, INDIRECT, 0)], 0, 1),
        ("a table in a table", vec![(inside + 0x8000, 16, INDIRECT, 0)], 0, 1),
    ];
    for (what, descriptors, head, more) in cases {
        println!("{what}");
        let mut guest = lab.guest();
        guest.describe(BUFFERS + 0x8000, 0, (inside, 100, INDIRECT, 0));
        for (index, descriptor) in (0..).zip(descriptors) {
            guest.describe(0x4000, index, descriptor);
        }
        guest.offer(1, head, more);
        for _ in 0..20 {
            let mut burst = Burst::new();
            lab.rx.rx(&lab.pool, &mut burst);
            // Nothing that it did not write itself: its memory is zero.
            for packet in &burst {
                packet.for_each_segment(|bytes| assert!(bytes.iter().all(|byte| *byte == 0), "{what}"));
            }
        }
        drop(guest);
        lab.still_works();
    }
}

/// A frame to be segmented, into buffers of which the guest says the same kind of thing.
fn buffers_that_lie(lab: &mut Lab) {
    let end = BASE + MEMORY as u64;
    let inside = BASE + BUFFERS as u64;
    for (what, descriptor) in [
        ("outside of the memory", (end, 100_000, WRITE, 0)),
        ("over the memory's end", (end - 50, 100_000, WRITE, 0)),
        ("as long as can be", (inside, u32::MAX, WRITE, 0)),
        ("of no byte", (inside, 0, WRITE, 0)),
        ("shorter than the header", (inside, 11, WRITE, 0)),
        ("the header alone", (inside, 12, WRITE, 0)),
        ("not to be written", (inside, 100_000, 0, 0)),
        ("its own successor", (inside, 10, WRITE | NEXT, 0)),
        ("a table outside of the memory", (end, 160, INDIRECT | WRITE, 0)),
        ("good", (inside, 100_000, WRITE, 0)),
    ] {
        println!("{what}");
        let mut guest = lab.guest();
        guest.describe(0, 0, descriptor);
        guest.offer(0, 0, 1);
        let mut packet = lab.pool.alloc(20_054).unwrap();
        assert!(packet.write_at(0, &frame(Some(6), 20_054)));
        let upper = Upper::Tcp;
        let (l2_len, l3_len, l4_len) = (14, 20, 20);
        let work =
            TxWork { l2_len, l3_len, l4_len, v6: false, upper, segment: Some(1400), ip_checksum: false };
        assert!(packet.set_tx_work(Some(&work)) && VhostTx::keep_sum(&mut packet, 54));
        let mut burst = Burst::new();
        burst.push(packet);
        let to = lab.tx.guest().unwrap();
        let taken = lab.tx.tx(to, &mut burst);
        assert_eq!(taken + burst.len(), 1, "{what}");
        assert_eq!(guest.used(0), taken as u16, "{what}");
        if what == "good" {
            assert_eq!(taken, 1);
        }
        drop(guest);
    }
}

/// Rings that begin in the guest's memory and end behind it: nothing is read or written there.
fn rings_that_end_outside(lab: &mut Lab) {
    for (what, at) in [("descriptors", 0), ("available", 1), ("used", 2)] {
        for ring in 0..2 {
            println!("{what} of ring {ring}");
            wait_for("the guest before to be gone", || !lab.port.connected());
            let mut guest = Hostile::connect(&lab.path, WANTED, |number| {
                let mut places = usual_places(number);
                if number == ring {
                    places[at] = MEMORY - 16;
                }
                places
            });
            guest.is_heard();
            // With the last of a ring's parts missing the library takes the guest all the same.
            assert_eq!(lab.port.connected(), at == 2, "{what}");
            let kind = if ring == 0 { WRITE } else { 0 };
            guest.describe(ring * 0x4000, 0, (BASE + BUFFERS as u64, 200, kind, 0));
            guest.offer(ring, 0, 1);
            for _ in 0..5 {
                let (mut burst, mut packets) = (Burst::new(), Burst::new());
                assert!(ring == 0 || lab.rx.rx(&lab.pool, &mut burst) == 0, "{what}");
                packets.push(lab.pool.alloc(60).unwrap());
                let taken = lab.tx.guest().map_or(0, |to| lab.tx.tx(to, &mut packets));
                assert!(ring == 1 || taken == 0, "{what}");
            }
        }
    }
}

/// A new place for the guest's memory that can't be, after which the old one is gone: the guest is, too, for whoever moves packets.
fn memory_that_is_refused(lab: &mut Lab) {
    const NEED_REPLY: u32 = 1 << 3;
    let mut guest = lab.guest();
    guest.send(&[header(0, 0, 0, 0, 0, 0), frame(Some(17), 100)].concat());
    let table =
        [1, BASE + MEMORY as u64, MEMORY as u64, guest.map as u64, u64::MAX].map(u64::to_le_bytes).concat();
    guest.say_so(5, 1 | NEED_REPLY, &table, Some(guest.memory.as_raw_fd()));
    let mut reply = [0; 20];
    guest.socket.read_exact(&mut reply).unwrap();
    assert_ne!(reply[12..], [0; 8], "refused");
    guest.is_heard();
    guest.is_heard();
    for _ in 0..20 {
        let mut burst = Burst::new();
        assert_eq!(lab.rx.rx(&lab.pool, &mut burst), 0);
        assert!(lab.tx.guest().is_none());
    }
}

/// Descriptors and numbers of which many are nearly right, in both rings at once.
fn rings_of_noise(lab: &mut Lab) {
    let end = BASE + MEMORY as u64;
    let mut next = noise();
    let (mut came, mut went) = (0, 0);
    for _ in 0..200 {
        let mut guest = lab.guest();
        for ring in 0..2 {
            for index in 0..64 {
                let kind = if ring == 0 { WRITE } else { 0 };
                let lies = [next() % 20, next() % 20, next() % 20].map(|number| number == 0);
                let addresses = [BASE, end - 2000, end - 60, end, u64::MAX - 100];
                let address = if lies[0] { addresses[next() as usize % 5] } else { BASE + BUFFERS as u64 };
                let address = address.wrapping_add(next() % 64);
                let lengths = [0, 11, 12, 13, 3000, u32::MAX];
                let len = if lies[1] { lengths[next() as usize % 6] } else { 73 + next() as u32 % 1500 };
                let kinds = [NEXT | kind, NEXT | kind, WRITE, 0, INDIRECT, 0xffff];
                let flags = if lies[2] { kinds[next() as usize % 6] } else { kind };
                guest.describe(ring * 0x4000, index, (address, len, flags, next() as u16 % 65));
            }
            for _ in 0..8 {
                let head = if next() % 50 == 0 { next() as u16 } else { next() as u16 % 64 };
                guest.offer(ring, head, 1 + (next() % 40 == 0) as u16);
            }
        }
        for _ in 0..6 {
            let mut burst = Burst::new();
            came += lab.rx.rx(&lab.pool, &mut burst);
            let mut packets = Burst::new();
            for len in [60, 200, 1500] {
                packets.push(lab.pool.alloc(len).unwrap());
            }
            if let Some(to) = lab.tx.guest() {
                went += lab.tx.tx(to, &mut packets);
            }
        }
    }
    assert!(came > 100 && went > 100, "hardly anything was moved: {came}, {went}");
}
