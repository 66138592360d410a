//! The processor's cycle counter, for counters of cycles per packet. It costs a few nanoseconds where the system's
//! clock costs tens.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The counter's value: it runs at [`tsc_hz`], and is the same on every core where the kernel itself uses it as its clock.
#[inline(always)]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has the instruction; it touches no memory.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let value: u64;
        // SAFETY: Linux lets programs read the virtual counter; this touches no memory and no flags.
        unsafe {
            core::arch::asm!("mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack, preserves_flags))
        };
        value
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        monotonic_ns()
    }
}

/// Ticks of [`tsc`] in a second. The first call measures it against the monotonic clock and takes 20 ms, so make it
/// before the workers start.
pub fn tsc_hz() -> u64 {
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| {
        let (from, from_ticks) = both();
        while from.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (to, to_ticks) = both();
        let elapsed = (to - from).as_nanos().max(1);
        let ticks = u128::from(to_ticks.wrapping_sub(from_ticks));
        u64::try_from(ticks * 1_000_000_000 / elapsed).unwrap_or(u64::MAX).max(1)
    })
}

/// Both clocks at one moment: the closest of several tries, since the thread may be interrupted between the two reads.
fn both() -> (Instant, u64) {
    let mut best = (Instant::now(), tsc(), u64::MAX);
    for _ in 0..16 {
        let before = tsc();
        let now = Instant::now();
        let apart = tsc().wrapping_sub(before);
        if apart < best.2 {
            best = (now, before.wrapping_add(apart / 2), apart);
        }
    }
    (best.0, best.1)
}

/// Nanoseconds since the first call in this process.
pub fn monotonic_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_runs_at_the_rate_that_was_measured() {
        let hz = tsc_hz();
        assert_eq!(hz, tsc_hz(), "measured once");
        let (from, from_ticks) = both();
        while from.elapsed() < Duration::from_millis(10) {}
        let (to, to_ticks) = both();
        let expected = (to - from).as_secs_f64() * hz as f64;
        let seen = (to_ticks - from_ticks) as f64;
        assert!((seen / expected - 1.0).abs() < 0.01, "{seen} ticks, {expected} expected");
    }

    #[test]
    fn nanoseconds_go_forward() {
        let first = monotonic_ns();
        assert!(monotonic_ns() >= first);
    }
}
