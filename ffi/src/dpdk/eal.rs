//! DPDK's environment: its memory, its drivers, its threads. There is one in a process.

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::{fs, io, ptr, thread};

use thiserror::Error;

use super::ethdev::Orphan;
use super::{error_text, last_error, layout, log, sys};

/// How to start.
#[derive(Debug, Clone)]
pub struct EalConfig {
    /// Bytes for packet buffers: the sum of [`super::Mempool::bytes_for`] over the pools. What drivers need for
    /// themselves is added to it. Without hugepages this is a hard limit, of which only what is used becomes resident.
    pub memory: usize,
    /// Whether hugepages may be used. They are if enough are free when EAL starts, whether or not hugetlbfs is mounted.
    /// Off only where somebody else needs them.
    pub hugepages: bool,
    /// Whether to look for PCI devices, which DPDK then takes over if they are bound to a driver for it.
    pub pci: bool,
    /// Tells this process from others that use DPDK. `None`: made from the process's number.
    pub file_prefix: Option<String>,
    /// More arguments in DPDK's own form, last so that they win.
    pub extra: Vec<String>,
}

impl Default for EalConfig {
    /// 64 MiB, hugepages if there are some, no PCI.
    fn default() -> Self {
        Self { memory: 64 << 20, hugepages: true, pci: false, file_prefix: None, extra: Vec::new() }
    }
}

/// Where packet buffers live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// Pages of 2 MiB or more: fewer TLB misses, and devices may read and write them.
    Hugepages,
    /// Ordinary pages. No real NIC works with these.
    Ordinary,
}

impl std::fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hugepages => "hugepages",
            Self::Ordinary => "ordinary pages",
        })
    }
}

/// Why DPDK does not run.
#[derive(Debug, Error)]
pub enum EalError {
    /// DPDK can be started once in a process, even when that failed.
    #[error("DPDK has been started in this process before; it can be started once")]
    StartedBefore,
    /// An argument has a NUL in it.
    #[error("the DPDK argument {0:?} contains a NUL byte")]
    Argument(String),
    /// No thread to start it on, or no stream for its log.
    #[error("DPDK could not be started: {0}")]
    System(#[source] io::Error),
    /// DPDK itself gave up.
    #[error("DPDK did not start: {reason}. It said: {said} (arguments: {arguments})")]
    Refused {
        /// The error number's text.
        reason: String,
        /// Its error messages, perhaps none.
        said: String,
        /// What it was started with.
        arguments: String,
    },
    /// Something else in the process has used up the mbuf's free words.
    #[error("DPDK has no room left in its packet buffers for weft's word ({0})")]
    NoMeta(String),
    /// `RTE_MAX_LCORE` threads are registered already, or this one is for the second time.
    #[error("this thread could not be registered with DPDK: {0}; DPDK knows at most 128 threads")]
    Thread(String),
}

pub(super) struct Inner {
    memory: MemoryKind,
    /// Devices come and go one at a time.
    control: Mutex<()>,
    /// Ports whose owner is gone while queues were still in use.
    orphans: Mutex<Vec<Orphan>>,
}

/// The running environment. A clone is the same one. It ends with its last clone, and pools and ports hold one each.
#[derive(Clone)]
pub struct Eal(Arc<Inner>);

impl Eal {
    /// Starts DPDK, once in the life of a process. The calling thread's name, CPUs and signal mask stay as they are.
    pub fn start(config: &EalConfig) -> Result<Self, EalError> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::StartedBefore);
        }
        // Hugepages are taken as they are needed, ordinary memory is set aside at once but not touched.
        let need = config.memory + config.memory / 8 + (32 << 20);
        let memory = if config.hugepages && free_hugepages() >= need as u64 {
            MemoryKind::Hugepages
        } else {
            MemoryKind::Ordinary
        };
        let arguments = arguments(config, memory, need);
        let c_arguments = arguments
            .iter()
            .map(|text| CString::new(text.as_str()).map_err(|_| EalError::Argument(text.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        if !log::open() {
            return Err(EalError::System(io::Error::last_os_error()));
        }
        log::listen();
        // EAL pins the thread that starts it and makes it its main thread: that is not to be the caller.
        let code = thread::Builder::new()
            .name("eal-start".to_owned())
            .spawn(move || init(&c_arguments))
            .map_err(EalError::System)?
            .join()
            .unwrap_or(Err("the starting thread panicked".to_owned()));
        let said = log::heard();
        if let Err(reason) = code {
            return Err(EalError::Refused { reason, said, arguments: arguments[1..].join(" ") });
        }
        remove_runtime_dir();
        if !layout::register_meta() {
            return Err(EalError::NoMeta(last_error()));
        }
        Ok(Self(Arc::new(Inner { memory, control: Mutex::new(()), orphans: Mutex::new(Vec::new()) })))
    }

    /// Where packet buffers live: for the line in the log that says so.
    pub fn memory(&self) -> MemoryKind {
        self.0.memory
    }

    /// Makes the calling thread one that DPDK knows, as long as the guard lives: only such a thread has caches in front
    /// of the pools. Every worker does this first. Its CPUs stay as they are.
    pub fn register_thread(&self) -> Result<RegisteredThread, EalError> {
        // SAFETY: EAL runs as long as `self`.
        if unsafe { sys::rte_thread_register() } != 0 {
            return Err(EalError::Thread(last_error()));
        }
        Ok(RegisteredThread { _eal: self.clone(), _here: PhantomData })
    }

    /// Closes devices whose [`super::EthPort`] was dropped while queues were still in use, where these are gone by now.
    /// Attaching and closing a port does this too.
    pub fn close_orphans(&self) {
        let closable: Vec<Orphan> = {
            let mut orphans = self.orphans();
            let (gone, used) = orphans.drain(..).partition(Orphan::is_unused);
            *orphans = used;
            gone
        };
        for orphan in closable {
            orphan.close(self);
        }
    }

    pub(super) fn control(&self) -> MutexGuard<'_, ()> {
        self.0.control.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn orphans(&self) -> MutexGuard<'_, Vec<Orphan>> {
        self.0.orphans.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl std::fmt::Debug for Eal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eal").field("memory", &self.0.memory).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: whatever uses DPDK's memory holds a clone of Eal (pools with packets out even leak one), and this was
        // the last.
        unsafe { sys::rte_eal_cleanup() };
    }
}

/// The calling thread is known to DPDK. Ends on the thread that it began on.
pub struct RegisteredThread {
    _eal: Eal,
    /// Not Send: it belongs to the thread.
    _here: PhantomData<*mut ()>,
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: this thread is registered, and EAL runs. What it has in its caches goes back first, or the buffers
        // would stay out of everybody's reach.
        unsafe {
            sys::weft_mempool_caches_flush();
            sys::rte_thread_unregister();
        }
    }
}

fn init(arguments: &[CString]) -> Result<(), String> {
    // DPDK reorders the pointers and keeps none of them.
    let mut argv: Vec<*mut c_char> = arguments.iter().map(|text| text.as_ptr().cast_mut()).collect();
    argv.push(ptr::null_mut());
    // SAFETY: argv has `arguments.len()` NUL-terminated texts and a NULL, all alive until this returns; DPDK does not
    // write to the texts of long options.
    let code = unsafe { sys::rte_eal_init(arguments.len() as i32, argv.as_mut_ptr()) };
    if code < 0 { Err(last_error()) } else { Ok(()) }
}

fn arguments(config: &EalConfig, memory: MemoryKind, need: usize) -> Vec<String> {
    let prefix = config.file_prefix.clone().unwrap_or_else(|| format!("weft-{}", std::process::id()));
    // EAL's main thread floats over all CPUs of this process, and its control threads with it.
    let mut arguments = vec![
        "weft".to_owned(),
        format!("--lcores=0@({})", cpus().join(",")),
        format!("--file-prefix={prefix}"),
        "--no-telemetry".to_owned(),
        "--log-level=5".to_owned(),
        // One file descriptor for all of the memory: a virtio-user guest in this process must hand it over.
        "--single-file-segments".to_owned(),
    ];
    match memory {
        MemoryKind::Hugepages => arguments.push("--in-memory".to_owned()),
        MemoryKind::Ordinary => arguments.extend([
            "--no-huge".to_owned(),
            "--no-shconf".to_owned(),
            format!("-m{}", need.div_ceil(1 << 20)),
        ]),
    }
    if !config.pci {
        arguments.push("--no-pci".to_owned());
    }
    arguments.extend(config.extra.iter().cloned());
    arguments
}

/// The CPUs that the calling thread may run on.
fn cpus() -> Vec<String> {
    // SAFETY: a cpu_set_t is plain bits, all zero is a valid one, and the kernel writes no more than its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        set
    };
    let allowed: Vec<String> = (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the number is below CPU_SETSIZE.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .map(|cpu| cpu.to_string())
        .collect();
    if allowed.is_empty() { vec!["0".to_owned()] } else { allowed }
}

/// Bytes in free hugepages of every size.
fn free_hugepages() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    sizes
        .flatten()
        .filter_map(|size| {
            let name = size.file_name();
            let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let number = |file| fs::read_to_string(size.path().join(file)).ok()?.trim().parse::<u64>().ok();
            let free = number("free_hugepages")?.saturating_sub(number("resv_hugepages")?);
            Some(free * kib * 1024)
        })
        .sum()
}

/// EAL makes a folder for files that are not made without shared configuration. Only an empty one goes.
fn remove_runtime_dir() {
    // SAFETY: EAL runs; the text is static.
    let dir = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
    if let Ok(dir) = dir.to_str() {
        if let Err(error) = fs::remove_dir(dir) {
            tracing::debug!("{dir} stays: {error}");
        }
    }
}

/// For errors of the kind that DPDK returns instead of setting.
pub(super) fn check(code: i32) -> Result<(), String> {
    if code < 0 { Err(error_text(code)) } else { Ok(()) }
}
