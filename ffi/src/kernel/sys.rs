//! The edge to libc: C results become `io::Result`, options and requests are typed.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_ulong, socklen_t};

/// A C result: -1 says that errno holds the reason.
pub(super) fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that return a size.
pub(super) fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes over a descriptor that a C call has just made.
pub(super) fn owned(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the call succeeded and made `fd` for us alone: it is open, and nobody else closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket that does not block and is not inherited by programs that are started.
pub(super) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) })
}

/// Types of C that are plain numbers without padding that matters: every bit pattern is a value.
///
/// # Safety
/// The type must be valid for every bit pattern, all zeroes among them, and hold no Rust reference.
pub(super) unsafe trait Plain: Copy {}

macro_rules! plain {
    // SAFETY: integers, and C structs (and a union) of integers, pointers and arrays of those.
    ($($type:ty),+ $(,)?) => { $(unsafe impl Plain for $type {})+ };
}

plain!(
    c_int,
    u32,
    [u32; 8],
    [u32; 9],
    [u8; libc::IFNAMSIZ],
    libc::tpacket_req,
    libc::tpacket_stats,
    libc::sockaddr_ll,
    libc::sockaddr_in,
    libc::sockaddr_in6,
    libc::sock_fprog,
    libc::ifreq,
    libc::statfs,
    libc::sockaddr_xdp,
    libc::xdp_umem_reg,
    libc::xdp_mmap_offsets,
    libc::xdp_statistics,
);

/// All zeroes.
pub(super) fn zeroed<T: Plain>() -> T {
    // SAFETY: `Plain` promises that all zeroes are a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Sets a socket option. The kernel reads no more than the value, except for `sock_fprog`, whose pointer must be valid.
pub(super) fn set_option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a live value, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (value as *const T).cast(),
            mem::size_of::<T>() as socklen_t,
        )
    };
    check(result).map(drop)
}

/// Reads a socket option.
pub(super) fn get_option<T: Plain>(fd: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<T> {
    let mut value = zeroed::<T>();
    let mut len = mem::size_of::<T>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a live value that may hold any bits.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &mut len) };
    check(result).map(|_| value)
}

/// Binds a socket to an address.
pub(super) fn bind<T: Plain>(fd: BorrowedFd<'_>, address: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a live value, which the kernel only reads.
    let result =
        unsafe { libc::bind(fd.as_raw_fd(), (address as *const T).cast(), mem::size_of::<T>() as socklen_t) };
    check(result).map(drop)
}

/// An ioctl that reads and writes a `struct ifreq`.
pub(super) fn ioctl_ifreq(fd: BorrowedFd<'_>, request: c_ulong, ifreq: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: callers pass requests whose argument is a `struct ifreq` with no pointer in it; the kernel reads and
    // writes only inside of it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, ifreq as *mut libc::ifreq) }).map(drop)
}

/// An ioctl whose argument is a pointer to an int that the kernel reads.
pub(super) fn ioctl_int(fd: BorrowedFd<'_>, request: c_ulong, value: c_int) -> io::Result<()> {
    // SAFETY: callers pass requests that read one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &raw const value) }).map(drop)
}

/// An ioctl whose argument is a number.
pub(super) fn ioctl_value(fd: BorrowedFd<'_>, request: c_ulong, value: c_ulong) -> io::Result<c_int> {
    // SAFETY: callers pass requests that take their argument as a number, so the kernel follows no pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, value) })
}
