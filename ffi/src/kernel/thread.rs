//! What the kernel counts for a thread.

use std::mem::MaybeUninit;

/// How often the calling thread had to leave its core, ready to run, because another one took it: at the end of its turn, or
/// where it gave its turn away. 0 if the kernel does not say.
pub fn preemptions() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes one such structure, for which there is room.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: all its fields are numbers, and zeroes are numbers too.
    let usage = unsafe { usage.assume_init() };
    u64::try_from(usage.ru_nivcsw).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    /// More threads than cores that all give their turns away: it is taken sooner or later.
    #[test]
    fn a_turn_that_another_takes_is_counted() {
        let count = thread::available_parallelism().map_or(1, usize::from) + 1;
        let (start, seen) = (Barrier::new(count), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| {
                    start.wait();
                    let before = preemptions();
                    while !seen.load(Ordering::Relaxed) {
                        thread::yield_now();
                        if preemptions() > before {
                            seen.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
    }
}
