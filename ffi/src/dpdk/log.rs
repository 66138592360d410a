//! Where DPDK's own log goes: into `tracing`, under the target `dpdk`, never to standard output.
//!
//! A guest can make the vhost library complain about every packet, so the log is cut off at [`PER_SECOND`] messages
//! a second.

use std::ffi::c_char;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use super::sys;

const PER_SECOND: u32 = 20;

/// RTE_LOG_ERR; smaller numbers are worse.
const ERR: u32 = 4;
const WARNING: u32 = 5;

/// While EAL starts: its errors, for the error value.
static HEARD: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// Sends DPDK's log here. False without memory.
pub(super) fn open() -> bool {
    // SAFETY: `sink` has the declared signature and lives as long as the program.
    unsafe { sys::weft_log_open(Some(sink)) == 0 }
}

/// Begins to keep errors.
pub(super) fn listen() {
    *HEARD.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Vec::new());
}

/// Ends [`listen`] and gives what was heard, in one line.
pub(super) fn heard() -> String {
    HEARD.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().unwrap_or_default().join("; ")
}

unsafe extern "C" fn sink(level: u32, text: *const c_char, len: usize) {
    // SAFETY: the shim passes a buffer of `len` readable bytes that lives until this returns.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    if level <= ERR {
        if let Some(lines) = HEARD.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).as_mut() {
            lines.push(text.to_owned());
        }
    }
    if !admit() {
        return;
    }
    match level {
        0..=ERR => tracing::error!(target: "dpdk", "{text}"),
        // Where the buffers live is said elsewhere; that there are none of one size is no news.
        WARNING if text.contains("hugepages reported on node") => tracing::debug!(target: "dpdk", "{text}"),
        WARNING => tracing::warn!(target: "dpdk", "{text}"),
        _ => tracing::debug!(target: "dpdk", "{text}"),
    }
}

/// One more message in this second? Counts loosely: two threads at a second's border may admit a few more.
fn admit() -> bool {
    static START: OnceLock<Instant> = OnceLock::new();
    static SECOND: AtomicU64 = AtomicU64::new(0);
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = START.get_or_init(Instant::now).elapsed().as_secs();
    if SECOND.swap(now, Ordering::Relaxed) != now {
        let lost = COUNT.swap(0, Ordering::Relaxed).saturating_sub(PER_SECOND);
        if lost > 0 {
            tracing::warn!(target: "dpdk", "{lost} messages were left out");
        }
    }
    COUNT.fetch_add(1, Ordering::Relaxed) < PER_SECOND
}
