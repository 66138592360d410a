//! Sleeping until one of many descriptors has something to do, and waking a sleeper from another thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::sys;

/// A flag that one thread raises and another sleeps on. Raising it twice before it is seen is the same as once.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A flag that is not raised.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        sys::owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(Self)
    }

    /// Raises the flag: the descriptor is readable until [`Self::drain`].
    pub fn notify(&self) {
        let one = 1u64;
        // SAFETY: the kernel reads the 8 bytes of a live number.
        // The only way to fail is that the count is at its limit: then the flag is raised already.
        let _raised = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Lowers the flag. True if it was raised.
    pub fn drain(&self) -> bool {
        let mut count = 0u64;
        // SAFETY: the kernel writes 8 bytes into a live number.
        let read = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
        read == 8 && count > 0
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What to wait for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// Either.
    Both,
    /// Only errors, which are always reported: keeps a descriptor in the set without waking for its traffic.
    Errors,
}

impl Interest {
    fn bits(self) -> u32 {
        (match self {
            Self::Read => libc::EPOLLIN,
            Self::Write => libc::EPOLLOUT,
            Self::Both => libc::EPOLLIN | libc::EPOLLOUT,
            Self::Errors => 0,
        }) as u32
    }
}

/// A descriptor that has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The number that the descriptor was added with.
    pub token: u64,
    /// There is something to read.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The descriptor has an error or its far side is gone. It stays so until the error is taken or the
    /// descriptor is removed: a loop that ignores it will spin.
    pub error: bool,
}

/// Where [`Epoll::wait`] puts what is ready; made once and used again.
pub struct Events {
    buffer: Vec<libc::epoll_event>,
    ready: usize,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Events {
    /// Room for as many as `capacity` (at least one); what does not fit comes with the next wait.
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, i32::MAX as usize);
        Self { buffer: vec![libc::epoll_event { events: 0, u64: 0 }; capacity], ready: 0 }
    }

    /// What was ready when the last wait ended.
    pub fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        self.buffer.iter().take(self.ready).map(|event| {
            let has = |bits: i32| event.events & bits as u32 != 0;
            Ready {
                token: event.u64,
                readable: has(libc::EPOLLIN),
                writable: has(libc::EPOLLOUT),
                error: has(libc::EPOLLERR | libc::EPOLLHUP),
            }
        })
    }

    /// True if the last wait ended with nothing: its time was up, or a signal came.
    pub fn is_empty(&self) -> bool {
        self.ready == 0
    }
}

/// A set of descriptors to wait for, level-triggered. Its own descriptor is readable while one of them is ready, so that it can
/// stand for them in another set.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        sys::owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// Adds a descriptor, to be reported with `token`. Closing it removes it, unless it has been duplicated.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes what a descriptor that has been added waits for.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Removes a descriptor.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::Errors)
    }

    fn control(&self, how: i32, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: both descriptors are open; the kernel only reads the event.
        let result = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), how, fd.as_raw_fd(), &mut event) };
        sys::check(result).map(drop)
    }

    /// Sleeps until something is ready or `timeout` is over (`None`: as long as it takes; zero: not at all). A signal
    /// ends it early, with nothing ready.
    ///
    /// The timeout counts in nanoseconds where the kernel has `epoll_pwait2` (5.11); before that it is rounded up to milliseconds.
    pub fn wait(&self, timeout: Option<Duration>, events: &mut Events) -> io::Result<()> {
        events.ready = 0;
        match self.wait_raw(timeout, events) {
            Ok(ready) => events.ready = ready.min(events.buffer.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn wait_raw(&self, timeout: Option<Duration>, events: &mut Events) -> io::Result<usize> {
        static NO_PWAIT2: AtomicBool = AtomicBool::new(false);
        let room = events.buffer.len() as i32;
        if !NO_PWAIT2.load(Ordering::Relaxed) {
            let timespec = timeout.map(|timeout| libc::timespec {
                tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
                tv_nsec: timeout.subsec_nanos() as _,
            });
            let timespec = timespec.as_ref().map_or(ptr::null(), ptr::from_ref);
            // SAFETY: the kernel writes at most `room` events into a live buffer of that many, and reads a timespec that lives
            // to the end of this block; no signal mask is given. The last argument is the mask's size.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.0.as_raw_fd(),
                    events.buffer.as_mut_ptr(),
                    room,
                    timespec,
                    ptr::null::<libc::sigset_t>(),
                    8usize,
                )
            };
            match sys::check_len(result as libc::ssize_t) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                    NO_PWAIT2.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        let millis = timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // SAFETY: the kernel writes at most `room` events into a live buffer of that many.
        let result =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.buffer.as_mut_ptr(), room, millis) };
        sys::check(result).map(|ready| ready as usize)
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    #[test]
    fn a_flag_is_seen_once_however_often_it_was_raised() {
        let flag = EventFd::new().unwrap();
        assert!(!flag.drain());
        flag.notify();
        flag.notify();
        assert!(flag.drain());
        assert!(!flag.drain());
    }

    #[test]
    fn wakes_with_the_token_of_the_flag_that_was_raised() {
        let epoll = Epoll::new().unwrap();
        let mut events = Events::with_capacity(8);
        let flags: Vec<_> = (0..3).map(|_| Arc::new(EventFd::new().unwrap())).collect();
        for (token, flag) in flags.iter().enumerate() {
            epoll.add(flag.as_fd(), token as u64 + (1 << 40), Interest::Read).unwrap();
        }
        let raised = Arc::clone(&flags[1]);
        let raiser = thread::spawn(move || raised.notify());
        epoll.wait(None, &mut events).unwrap();
        raiser.join().unwrap();
        let seen: Vec<_> = events.iter().collect();
        let expected = Ready { token: 1 + (1 << 40), readable: true, writable: false, error: false };
        assert_eq!(seen, [expected]);

        // It stays readable until it is drained, unless nobody wants to know.
        epoll.modify(flags[1].as_fd(), 7, Interest::Errors).unwrap();
        epoll.wait(Some(Duration::ZERO), &mut events).unwrap();
        assert!(events.is_empty());
        epoll.modify(flags[1].as_fd(), 7, Interest::Both).unwrap();
        epoll.wait(Some(Duration::ZERO), &mut events).unwrap();
        assert!(events.iter().all(|ready| ready.token == 7 && ready.readable && ready.writable));
        assert!(!events.is_empty());
        epoll.remove(flags[1].as_fd()).unwrap();
        epoll.wait(Some(Duration::ZERO), &mut events).unwrap();
        assert!(events.is_empty());
        assert!(epoll.remove(flags[1].as_fd()).is_err());
    }

    #[test]
    fn a_timeout_is_never_cut_short() {
        let epoll = Epoll::new().unwrap();
        let mut events = Events::with_capacity(1);
        for timeout in [Duration::from_micros(50), Duration::from_micros(1500)] {
            let start = Instant::now();
            epoll.wait(Some(timeout), &mut events).unwrap();
            assert!(events.is_empty());
            assert!(start.elapsed() >= timeout);
        }
    }
}
