//! The calls of bpf(2) that are needed: maps, programs, a program's link to an interface. The structs are those of linux/bpf.h, cut
//! where the fields that are used end; the kernel takes what is missing as zero.

pub(super) mod insn;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::sys;
use insn::Insn;

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const LINK_DETACH: libc::c_long = 34;

const ATTACHED_TO_XDP: u32 = 37;
const ATTACHED_TO_INGRESS: u32 = 46;
/// `BPF_F_XDP_HAS_FRAGS`: the program takes frames that have more than their first buffer.
const TAKES_FRAGMENTS: u32 = 1 << 5;
const LICENSE: &CStr = c"Apache-2.0";
/// Room for what the verifier says of a program that it refuses.
const VERIFIER_TEXT: usize = 64 << 10;

/// Kinds of program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProgramKind {
    /// `BPF_PROG_TYPE_SOCKET_FILTER`: a number made of a packet.
    Filter,
    /// `BPF_PROG_TYPE_XDP`: for frames of any length where the kernel can (Linux 5.18), else for those that fit a page.
    Xdp,
    /// `BPF_PROG_TYPE_SCHED_CLS`: what is done with a packet that comes in by an interface or leaves by it.
    Classifier,
}

/// Kinds of map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MapKind {
    /// `BPF_MAP_TYPE_XSKMAP`: AF_XDP sockets by number.
    Sockets,
    /// `BPF_MAP_TYPE_LPM_TRIE`: prefixes; the longest that matches is found.
    Prefixes,
    /// `BPF_MAP_TYPE_HASH`.
    Set,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// # Safety
/// `T` is what the command reads, and the addresses in it are those of live memory of the sizes that it states.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads no more of the struct than the size it is told; the rest is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    sys::check(result as libc::c_int)
}

fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    // The last byte stays zero.
    for (to, from) in name.iter_mut().zip(text.bytes().take(15)) {
        *to = from;
    }
    name
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // A descriptor is not negative.
    fd.as_raw_fd() as u32
}

/// A map of the kernel's, which lives as long as a descriptor or a program refers to it.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
}

impl Map {
    pub(super) fn new(
        kind: MapKind,
        label: &str,
        key: usize,
        value: usize,
        entries: u32,
    ) -> io::Result<Self> {
        /// `BPF_F_NO_PREALLOC`, without which the kernel makes no trie.
        const AS_NEEDED: u32 = 1;
        let (kind, flags) = match kind {
            MapKind::Sockets => (17, 0),
            MapKind::Prefixes => (11, AS_NEEDED),
            MapKind::Set => (1, 0),
        };
        let (key_size, value_size) = (key as u32, value as u32);
        let attributes = MapCreate {
            kind,
            key: key_size,
            value: value_size,
            entries,
            flags,
            inner_map: 0,
            numa_node: 0,
            name: name(label),
        };
        // SAFETY: what MAP_CREATE reads; there is no address in it.
        let fd = sys::owned(unsafe { bpf(MAP_CREATE, &attributes) }?)?;
        Ok(Self { fd, key, value })
    }

    /// Puts a value in, in place of one that is there.
    pub(super) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.element(MAP_UPDATE, key, value)
    }

    /// Takes the value of this key out. `ENOENT` where there is none.
    pub(super) fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.element(MAP_DELETE, key, &[])
    }

    fn element(&self, command: libc::c_long, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key || !(value.is_empty() || value.len() == self.value) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let value = if value.is_empty() { 0 } else { value.as_ptr() as u64 };
        let attributes = MapElement {
            map: number(self.fd.as_fd()),
            padding: 0,
            key: key.as_ptr() as u64,
            value,
            flags: 0,
        };
        // SAFETY: what the two commands read; key and value are live and have the sizes that the map was made with.
        unsafe { bpf(command, &attributes) }.map(drop)
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Loads a program. It lives as long as somebody refers to it.
pub(super) fn load(kind: ProgramKind, label: &str, code: &[Insn]) -> io::Result<OwnedFd> {
    let (kind, flags, attach_type) = match kind {
        ProgramKind::Filter => (1, 0, 0),
        ProgramKind::Xdp => (6, TAKES_FRAGMENTS, ATTACHED_TO_XDP),
        ProgramKind::Classifier => (3, 0, 0),
    };
    let mut attributes = ProgLoad {
        kind,
        count: code.len() as u32,
        code: code.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags,
        name: name(label),
        interface: 0,
        attach_type,
    };
    // SAFETY: what PROG_LOAD reads: `count` instructions and a text that ends in zero, both live.
    let mut tried = unsafe { bpf(PROG_LOAD, &attributes) };
    if flags != 0 && matches!(&tried, Err(error) if error.raw_os_error() == Some(libc::EINVAL)) {
        attributes.flags = 0;
        // SAFETY: as above.
        tried = unsafe { bpf(PROG_LOAD, &attributes) };
    }
    let Err(error) = tried else { return sys::owned(tried?) };
    // Once more, to hear what the verifier says.
    let mut text = vec![0u8; VERIFIER_TEXT];
    (attributes.log_level, attributes.log_size) = (1, VERIFIER_TEXT as u32);
    attributes.log = text.as_mut_ptr() as u64;
    // SAFETY: as above; the kernel writes at most `log_size` bytes into a live buffer.
    match unsafe { bpf(PROG_LOAD, &attributes) } {
        Ok(fd) => sys::owned(fd),
        Err(_) => Err(with_text(error, &text)),
    }
}

/// The error, and the end of what the verifier wrote.
fn with_text(error: io::Error, text: &[u8]) -> io::Error {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let text = String::from_utf8_lossy(&text[..end]);
    // The very last line is a statistic.
    let said: Vec<&str> = text.lines().rev().filter(|line| !line.starts_with("processed ")).take(2).collect();
    if said.is_empty() {
        return error;
    }
    io::Error::new(
        error.kind(),
        format!("{error} (the verifier says: {}; {})", said[said.len() - 1], said[0]),
    )
}

/// How a program meets an interface's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// In the driver, before the kernel makes anything of a frame.
    Native,
    /// In the kernel's stack, for drivers that cannot: works on every interface, and saves nothing.
    Generic,
}

/// Attaches a program to an interface for as long as the descriptor lives: however a process ends, it is detached.
pub(super) fn attach(program: BorrowedFd<'_>, interface: u32, how: Attach) -> io::Result<OwnedFd> {
    let flags = match how {
        Attach::Native => 1 << 2,
        Attach::Generic => 1 << 1,
    };
    let attributes = LinkCreate { program: number(program), interface, attach_type: ATTACHED_TO_XDP, flags };
    // SAFETY: what LINK_CREATE reads; there is no address in it.
    sys::owned(unsafe { bpf(LINK_CREATE, &attributes) }?)
}

/// Attaches a classifier to what comes in by an interface, for as long as the descriptor lives (Linux 6.6).
pub(super) fn attach_ingress(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    let attributes =
        LinkCreate { program: number(program), interface, attach_type: ATTACHED_TO_INGRESS, flags: 0 };
    // SAFETY: what LINK_CREATE reads; there is no address in it.
    sys::owned(unsafe { bpf(LINK_CREATE, &attributes) }?)
}

/// Detaches what [`attach`] has attached, at once: closing the descriptor alone would leave it to whoever else has a copy, such as a
/// process that is about to become another program.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: what LINK_DETACH reads: the descriptor's number.
    unsafe { bpf(LINK_DETACH, &number(link)) }.map(drop)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[repr(C)]
    struct TestRun {
        program: u32,
        result: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }

    /// What a program answers to a frame.
    pub(in crate::kernel) fn run(program: BorrowedFd<'_>, frame: &[u8]) -> u32 {
        const TEST_RUN: libc::c_long = 10;
        let mut attributes = TestRun {
            program: number(program),
            result: 0,
            size_in: frame.len() as u32,
            size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
        };
        let address = &raw mut attributes;
        // SAFETY: what TEST_RUN reads and writes; the frame is live, and the result is read after the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, address, size_of::<TestRun>()) };
        sys::check(result as libc::c_int).expect("the kernel runs the program (this needs root)");
        // SAFETY: a live number that the kernel has written.
        unsafe { (&raw const attributes.result).read_volatile() }
    }

    #[test]
    fn what_the_verifier_refuses_comes_with_its_words() {
        // Leaves without an answer.
        let error = load(ProgramKind::Xdp, "weft_bad", &[Insn::exit()]).unwrap_err();
        assert!(error.to_string().contains("the verifier says"), "{error}");
        assert!(error.to_string().contains("R0"), "{error}");
    }
}
