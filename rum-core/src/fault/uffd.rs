//! userfaultfd: the descriptor and its ioctls, as in linux/userfaultfd.h (Linux 6.8 or newer for UFFDIO_MOVE).

use std::{
    fmt,
    fs::OpenOptions,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// A missing page raises SIGBUS in the thread that touched it, instead of an event.
pub(super) const FEATURE_SIGBUS: u64 = 1 << 7;
/// Events carry the thread that touched the page.
pub(super) const FEATURE_THREAD_ID: u64 = 1 << 8;
/// UFFDIO_MOVE exists.
pub(super) const FEATURE_MOVE: u64 = 1 << 16;
/// Write-protect faults exist.
pub(super) const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1;
pub(super) const MODE_MISSING: u64 = 1;
pub(super) const MODE_WP: u64 = 1 << 1;
pub(super) const EVENT_PAGEFAULT: u8 = 0x12;

const API: u64 = 0xaa;
const USER_MODE_ONLY: libc::c_int = 1;
const WRITEPROTECT_MODE_WP: u64 = 1;

const UFFDIO_API: libc::c_ulong = iowr::<Api>(0x3f);
const UFFDIO_REGISTER: libc::c_ulong = iowr::<Register>(0x00);
const UFFDIO_UNREGISTER: libc::c_ulong = ior::<Range>(0x01);
const UFFDIO_WAKE: libc::c_ulong = ior::<Range>(0x02);
const UFFDIO_COPY: libc::c_ulong = iowr::<Copy>(0x03);
const UFFDIO_ZEROPAGE: libc::c_ulong = iowr::<ZeroPage>(0x04);
const UFFDIO_MOVE: libc::c_ulong = iowr::<Move>(0x05);
const UFFDIO_WRITEPROTECT: libc::c_ulong = iowr::<WriteProtect>(0x06);
/// `_IO(0xaa, 0)` on /dev/userfaultfd.
const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xaa00;

const fn iowr<T>(number: u8) -> libc::c_ulong {
    request(3, size_of::<T>(), number)
}

const fn ior<T>(number: u8) -> libc::c_ulong {
    request(2, size_of::<T>(), number)
}

/// asm-generic/ioctl.h: direction, size, type 0xaa, number.
const fn request(direction: u64, size: usize, number: u8) -> libc::c_ulong {
    (direction << 30 | (size as u64) << 16 | 0xaa << 8 | number as u64) as libc::c_ulong
}

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct ZeroPage {
    range: Range,
    mode: u64,
    zeroed: i64,
}

#[repr(C)]
struct Move {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    moved: i64,
}

#[repr(C)]
struct WriteProtect {
    range: Range,
    mode: u64,
}

/// `struct uffd_msg` of a page fault.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Message {
    pub event: u8,
    reserved: [u8; 7],
    pub flags: u64,
    pub address: u64,
    pub thread: u32,
    padding: u32,
}

/// What a descriptor must be able to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// Faults from kernel mode, too: needs a privilege.
    Full,
    /// Faults from user mode are enough.
    UserMode,
}

/// A way to open userfaultfd, and why it did not work.
#[derive(Debug)]
pub(super) struct Attempt {
    how: &'static str,
    error: io::Error,
}

/// Every way that was tried.
#[derive(Debug)]
pub(super) struct OpenError(Vec<Attempt>);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attempt) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", attempt.how, attempt.error)?;
        }
        Ok(())
    }
}

/// How far an ioctl over a run came, and what stopped it.
#[derive(Debug)]
pub(super) struct Progress {
    pub bytes: usize,
    pub stopped_by: Option<i32>,
}

/// A userfaultfd after its handshake.
#[derive(Debug)]
pub(super) struct Uffd {
    fd: OwnedFd,
    features: u64,
    full: bool,
}

impl Uffd {
    /// Opens a descriptor with the `required` features and those of `optional` that the kernel has.
    pub fn open(access: Access, required: u64, optional: u64) -> Result<Self, OpenError> {
        let (probe, _) = open_descriptor(access)?;
        let handshake = |error| OpenError(vec![Attempt { how: "UFFDIO_API", error }]);
        let available = handshake_api(&probe, 0).map_err(handshake)?;
        let wanted = required | (optional & available);
        let (fd, full) = open_descriptor(access)?;
        let features = handshake_api(&fd, wanted).map_err(handshake)? & wanted;
        Ok(Self { fd, features, full })
    }

    /// Whether faults from kernel mode arrive here, too.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether the handshake gave this feature.
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature == feature
    }

    pub fn register(&self, start: usize, len: usize, mode: u64) -> io::Result<()> {
        let mut argument = Register { range: range(start, len), mode, ioctls: 0 };
        self.call(UFFDIO_REGISTER, &mut argument)
    }

    /// Gives pages back to the kernel and wakes who waits for them.
    pub fn unregister(&self, start: usize, len: usize) -> io::Result<()> {
        self.call(UFFDIO_UNREGISTER, &mut range(start, len))
    }

    pub fn wake(&self, start: usize, len: usize) -> io::Result<()> {
        self.call(UFFDIO_WAKE, &mut range(start, len))
    }

    /// Write-protects mapped pages, or opens them again.
    pub fn write_protect(&self, start: usize, len: usize, protect: bool) -> io::Result<()> {
        let mode = if protect { WRITEPROTECT_MODE_WP } else { 0 };
        self.call(UFFDIO_WRITEPROTECT, &mut WriteProtect { range: range(start, len), mode })
    }

    /// Moves physical pages from `src` to unmapped pages at `dst` and wakes who waits for them.
    ///
    /// # Safety
    /// Nobody may hold a reference into either range, and the caller owns what becomes unmapped at `src`.
    pub unsafe fn move_pages(&self, dst: usize, src: usize, len: usize) -> Progress {
        advance(len, |done| {
            let (dst, src, len) = ((dst + done) as u64, (src + done) as u64, (len - done) as u64);
            let mut argument = Move { dst, src, len, mode: 0, moved: 0 };
            let result = self.call(UFFDIO_MOVE, &mut argument);
            (result, argument.moved)
        })
    }

    /// Maps copies of the pages at `src` at the unmapped pages at `dst` and wakes who waits for them. The kernel
    /// reads `src`, so that any address is safe to pass.
    pub fn copy(&self, dst: usize, src: usize, len: usize) -> Progress {
        advance(len, |done| {
            let (dst, src, len) = ((dst + done) as u64, (src + done) as u64, (len - done) as u64);
            let mut argument = Copy { dst, src, len, mode: 0, copied: 0 };
            let result = self.call(UFFDIO_COPY, &mut argument);
            (result, argument.copied)
        })
    }

    /// Maps unmapped pages as zeros and wakes who waits for them.
    pub fn zero_pages(&self, start: usize, len: usize) -> Progress {
        advance(len, |done| {
            let mut argument = ZeroPage { range: range(start + done, len - done), mode: 0, zeroed: 0 };
            let result = self.call(UFFDIO_ZEROPAGE, &mut argument);
            (result, argument.zeroed)
        })
    }

    fn call<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        ioctl(&self.fd, request, argument)
    }
}

impl AsRawFd for Uffd {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

fn range(start: usize, len: usize) -> Range {
    Range { start: start as u64, len: len as u64 }
}

/// Repeats an ioctl that says how many bytes it did (EAGAIN) until all is done or something else stops it.
fn advance(len: usize, mut step: impl FnMut(usize) -> (io::Result<()>, i64)) -> Progress {
    /// The address space is changing (a fork, an mmap in another thread): soon over.
    const IDLE_TRIES: u32 = 100_000;
    let mut done = 0;
    let mut idle = 0;
    while done < len {
        let (result, bytes) = step(done);
        done += usize::try_from(bytes).unwrap_or(0);
        match result {
            Ok(()) => break,
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && idle < IDLE_TRIES => {
                if bytes <= 0 {
                    idle += 1;
                    std::thread::yield_now();
                }
            }
            Err(error) => return Progress { bytes: done, stopped_by: error.raw_os_error() },
        }
    }
    Progress { bytes: done, stopped_by: None }
}

/// What it is called, whether it serves kernel faults, and how it is done.
type Way = (&'static str, bool, fn() -> io::Result<OwnedFd>);

/// The ways to a descriptor, the least demanding first.
fn open_descriptor(access: Access) -> Result<(OwnedFd, bool), OpenError> {
    let mut failed = Vec::new();
    let ways: &[Way] = match access {
        Access::Full => &[
            ("/dev/userfaultfd", true, open_device),
            ("userfaultfd(2)", true, || open_syscall(libc::O_CLOEXEC | libc::O_NONBLOCK)),
        ],
        Access::UserMode => &[
            ("userfaultfd(2) with UFFD_USER_MODE_ONLY", false, || {
                open_syscall(libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY)
            }),
            ("userfaultfd(2)", true, || open_syscall(libc::O_CLOEXEC | libc::O_NONBLOCK)),
            ("/dev/userfaultfd", true, open_device),
        ],
    };
    for (how, full, open) in ways {
        match open() {
            Ok(fd) => return Ok((fd, *full)),
            Err(error) => failed.push(Attempt { how, error }),
        }
    }
    Err(OpenError(failed))
}

fn open_device() -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")?;
    // SAFETY: the request takes flags, no pointer, and returns a new descriptor.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    own(fd)
}

fn open_syscall(flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes flags only and returns a new descriptor.
    own(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) } as i32)
}

/// Wraps the result of a call that makes a descriptor.
pub(super) fn own(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the features that the kernel gives: all it has for 0.
fn handshake_api(fd: &OwnedFd, features: u64) -> io::Result<u64> {
    let mut argument = Api { api: API, features, ioctls: 0 };
    ioctl(fd, UFFDIO_API, &mut argument)?;
    Ok(argument.features)
}

fn ioctl<T>(fd: &OwnedFd, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: each request of this file is paired with the structure whose size it encodes, and the kernel reads
    // and writes only that. What the requests do to the address space is the callers' concern (`move_pages`); the
    // others never change a mapped page's contents.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, argument as *mut T) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether this access is allowed at all.
pub(super) fn allowed(access: Access) -> Result<(), OpenError> {
    open_descriptor(access).map(drop)
}

/// The features of this kernel, if userfaultfd can be opened in some way.
pub(super) fn features() -> Result<u64, OpenError> {
    let (fd, _) = open_descriptor(Access::UserMode)?;
    handshake_api(&fd, 0).map_err(|error| OpenError(vec![Attempt { how: "UFFDIO_API", error }]))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Prints each constant of linux/userfaultfd.h that this header has, and the layout of an event.
    const PROGRAM: &str = r#"
        #include <stddef.h>
        #include <stdio.h>
        #include <sys/ioctl.h>
        #include <linux/userfaultfd.h>
        #define SHOW(name) printf(#name " %llu\n", (unsigned long long)(name));
        int main(void) {
            SHOW(UFFDIO_API) SHOW(UFFDIO_REGISTER) SHOW(UFFDIO_UNREGISTER) SHOW(UFFDIO_WAKE) SHOW(UFFDIO_COPY)
            SHOW(UFFDIO_ZEROPAGE) SHOW(UFFDIO_WRITEPROTECT) SHOW(UFFD_API)
            SHOW(UFFD_FEATURE_SIGBUS) SHOW(UFFD_FEATURE_THREAD_ID) SHOW(UFFD_FEATURE_PAGEFAULT_FLAG_WP)
            SHOW(UFFDIO_REGISTER_MODE_MISSING) SHOW(UFFDIO_REGISTER_MODE_WP) SHOW(UFFDIO_WRITEPROTECT_MODE_WP)
            SHOW(UFFD_EVENT_PAGEFAULT) SHOW(UFFD_USER_MODE_ONLY) SHOW(USERFAULTFD_IOC_NEW)
            SHOW(sizeof(struct uffd_msg)) SHOW(offsetof(struct uffd_msg, arg.pagefault.flags))
            SHOW(offsetof(struct uffd_msg, arg.pagefault.address))
            SHOW(offsetof(struct uffd_msg, arg.pagefault.feat.ptid))
        #ifdef UFFDIO_MOVE
            SHOW(UFFDIO_MOVE) SHOW(UFFD_FEATURE_MOVE)
        #endif
            return 0;
        }"#;

    fn header() -> Vec<(String, u64)> {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("show.c"), folder.path().join("show"));
        std::fs::write(&source, PROGRAM).unwrap();
        assert!(Command::new("cc").arg(&source).arg("-o").arg(&program).status().unwrap().success());
        let shown = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
        let parse = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
        shown.lines().map(|line| parse(line).unwrap()).collect()
    }

    #[test]
    fn constants_are_those_of_the_kernel_header() {
        for (name, value) in header() {
            let ours = match name.as_str() {
                "UFFDIO_API" => UFFDIO_API,
                "UFFDIO_REGISTER" => UFFDIO_REGISTER,
                "UFFDIO_UNREGISTER" => UFFDIO_UNREGISTER,
                "UFFDIO_WAKE" => UFFDIO_WAKE,
                "UFFDIO_COPY" => UFFDIO_COPY,
                "UFFDIO_ZEROPAGE" => UFFDIO_ZEROPAGE,
                "UFFDIO_WRITEPROTECT" => UFFDIO_WRITEPROTECT,
                "UFFDIO_MOVE" => UFFDIO_MOVE,
                "UFFD_API" => API,
                "UFFD_FEATURE_SIGBUS" => FEATURE_SIGBUS,
                "UFFD_FEATURE_THREAD_ID" => FEATURE_THREAD_ID,
                "UFFD_FEATURE_PAGEFAULT_FLAG_WP" => FEATURE_PAGEFAULT_FLAG_WP,
                "UFFD_FEATURE_MOVE" => FEATURE_MOVE,
                "UFFDIO_REGISTER_MODE_MISSING" => MODE_MISSING,
                "UFFDIO_REGISTER_MODE_WP" => MODE_WP,
                "UFFDIO_WRITEPROTECT_MODE_WP" => WRITEPROTECT_MODE_WP,
                "UFFD_EVENT_PAGEFAULT" => EVENT_PAGEFAULT.into(),
                "UFFD_USER_MODE_ONLY" => USER_MODE_ONLY as u64,
                "USERFAULTFD_IOC_NEW" => USERFAULTFD_IOC_NEW,
                "sizeof(struct uffd_msg)" => size_of::<Message>() as u64,
                name if name.ends_with("flags)") => std::mem::offset_of!(Message, flags) as u64,
                name if name.ends_with("address)") => std::mem::offset_of!(Message, address) as u64,
                name if name.ends_with("ptid)") => std::mem::offset_of!(Message, thread) as u64,
                name => panic!("{name} is not compared"),
            };
            assert_eq!(ours, value, "{name}");
        }
    }

    /// Headers before Linux 6.8 lack it.
    #[test]
    fn the_move_request_is_that_of_linux_6_8() {
        assert_eq!(UFFDIO_MOVE, 0xc028_aa05);
    }

    #[test]
    fn repeated_steps_add_up_and_stop_at_an_error() {
        let again = || Err(io::Error::from_raw_os_error(libc::EAGAIN));
        let whole = advance(5, |done| if done < 4 { (again(), 2) } else { (Ok(()), 1) });
        assert_eq!((whole.bytes, whole.stopped_by), (5, None));
        let part = advance(9, |done| match done {
            0 => (again(), 3),
            _ => (Err(io::Error::from_raw_os_error(libc::EEXIST)), -i64::from(libc::EEXIST)),
        });
        assert_eq!((part.bytes, part.stopped_by), (3, Some(libc::EEXIST)));
        let never = advance(9, |_| (again(), -i64::from(libc::EAGAIN)));
        assert_eq!((never.bytes, never.stopped_by), (0, Some(libc::EAGAIN)));
    }
}
