//! A raw end of a wire: frames go out as they are, and those that come in are seen with what is still to be done about
//! them.

use std::time::{Duration, Instant};

use weft_ffi::kernel::VNET_HDR_LEN;
use weft_ffi::kernel::interface::{self, IfName};
use weft_ffi::kernel::packet::{PacketTx, RxOptions, RxRing, TxOptions};

use super::frames::{Mac, sum, tagged};
use super::{Namespace, PATIENCE};

/// A frame that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// From the Ethernet header on, with its VLAN tag in it if it has one.
    pub(crate) bytes: Vec<u8>,
    /// The checksum is not filled in: where its sum begins, and where its field is from there. The pseudo header's sum stands
    /// in the field.
    pub(crate) partial: Option<(u16, u16)>,
    /// It stands for several, each of so many payload bytes.
    pub(crate) gso: Option<u16>,
}

impl Frame {
    /// The bytes with the checksum filled in.
    pub(crate) fn finished(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Some((start, offset)) = self.partial {
            let (start, at) = (usize::from(start), usize::from(start + offset));
            let checksum = match !sum(&[&bytes[start..]]) {
                0 => 0xffff,
                other => other,
            };
            bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }
}

/// An interface in a namespace, beside the kernel there: both see what comes in.
pub(crate) struct Wire {
    tx: PacketTx,
    rx: RxRing,
    name: String,
    /// The interface's MAC address.
    pub(crate) mac: Mac,
}

impl Wire {
    pub(crate) fn open(namespace: &Namespace, name: &str) -> Self {
        let name: IfName = name.parse().expect("an interface's name");
        let open = move || {
            let options = RxOptions { ring_mib: 4, ..RxOptions::default() };
            let rx = RxRing::open(name, &options).expect("a packet socket (root is needed)");
            let tx = PacketTx::open(name, TxOptions::default()).expect("a packet socket");
            (tx, rx, interface::mac(name).expect("a MAC address"))
        };
        let (tx, rx, mac) = namespace.enter(open).join().expect("the sockets");
        Self { tx, rx, name: format!("{name} of {}", namespace.name()), mac }
    }

    /// Sends a whole frame as it is. When this returns, the other end has it.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.send_unfinished(frame, [0; VNET_HDR_LEN]);
    }

    /// The same with a virtio-net header, for a frame with a partial checksum or one that stands for several.
    pub(crate) fn send_unfinished(&mut self, frame: &[u8], header: [u8; VNET_HDR_LEN]) {
        let refused = |_, error| panic!("the kernel refuses a frame of {} bytes: {error}", frame.len());
        let report = self.tx.send_batch([(header, [frame])], refused);
        assert_eq!(report.sent, 1, "{}: {report:?}", self.name);
    }

    /// The next frame that has come in.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let frame = self.rx.next_frame()?;
        assert!(!frame.is_truncated(), "longer than any frame should be");
        let header = frame.vnet_hdr();
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let mut partial = (header[0] & 1 == 1).then(|| (word(6), word(8)));
        let gso = (header[1] != 0).then(|| word(4));
        let mut bytes = frame.bytes().to_vec();
        if let Some(tag) = frame.vlan() {
            bytes = tagged(&bytes, tag.tpid, tag.tci);
            partial = partial.map(|(start, offset)| (start + 4, offset));
        }
        Some(Frame { bytes, partial, gso })
    }

    /// Waits for a frame of which `wanted` makes something; others are passed over.
    pub(crate) fn receive<T>(&mut self, what: &str, mut wanted: impl FnMut(&Frame) -> Option<T>) -> T {
        let (deadline, mut others) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            while let Some(frame) = self.next() {
                if let Some(found) = wanted(&frame) {
                    return found;
                }
                others.push(frame);
            }
            assert!(
                Instant::now() < deadline,
                "{}: no {what} within {PATIENCE:?}, but {others:02x?}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for exactly these bytes.
    pub(crate) fn receive_bytes(&mut self, what: &str, bytes: &[u8]) -> Frame {
        self.receive(what, |frame| (frame.bytes == bytes).then(|| frame.clone()))
    }

    /// Proves that something does not come in: `marker` is a frame that was sent after whatever could have caused it, by the same
    /// way. Everything before it is looked at by `unwanted`.
    pub(crate) fn none_before(&mut self, marker: impl Fn(&Frame) -> bool, unwanted: impl Fn(&Frame) -> bool) {
        let name = self.name.clone();
        self.receive("marker", |frame| {
            assert!(marker(frame) || !unwanted(frame), "{name} got what it should not get: {frame:02x?}");
            marker(frame).then_some(())
        });
    }

    /// Forgets what has come in so far.
    pub(crate) fn drain(&mut self) {
        while self.next().is_some() {}
    }
}
