//! System calls on far buffers: served by `uffd-thread`, EFAULT under the others, never wrong data.

mod fault_common;

use std::{io, os::fd::AsRawFd, ptr, time::Duration};

use fault_common::{PAGE, Rig, State, Variant};

const PAGES: usize = 64;

fn far_iovec(rig: &Rig, page: usize, bytes: usize) -> libc::iovec {
    libc::iovec { iov_base: rig.at(page, 0).cast(), iov_len: bytes }
}

fn result(returned: isize) -> Result<usize, Option<i32>> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error().raw_os_error())
}

/// Far pages 0..16 with known bytes, all out.
fn filled(variant: Variant) -> Rig {
    let rig = Rig::new(variant, PAGES);
    for page in 0..16 {
        for word in 0..512 {
            rig.write(page, word, (page * 512 + word) as u64);
        }
    }
    rig.take(0, 16).unwrap();
    rig
}

#[test]
fn files_and_sockets_read_and_write_far_buffers() {
    for variant in Variant::allowed() {
        let rig = filled(variant);
        let bytes = 16 * PAGE;
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_raw_fd();
        let far = rig.at(0, 0).cast::<libc::c_void>();
        let into = rig.at(20, 0).cast::<libc::c_void>();
        // SAFETY: buffers in the region, of the lengths given; the engine serves the touches or the call fails.
        let written = result(unsafe { libc::pwrite(fd, far, bytes, 0) });
        if !rig.engine.serves_kernel_faults() {
            assert_eq!(written, Err(Some(libc::EFAULT)), "{}", variant.name());
            assert_eq!(rig.read(15, 511), 16 * 512 - 1);
            continue;
        }
        assert_eq!(written, Ok(bytes));
        // SAFETY: as above.
        assert_eq!(result(unsafe { libc::pread(fd, into, bytes, 0) }), Ok(bytes));
        same(&rig, 20);

        rig.take(0, 16).unwrap();
        let mut pair = [0; 2];
        // SAFETY: makes two descriptors.
        assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, pair.as_mut_ptr()) }, 0);
        send_and_receive(&rig, pair, 40);
        same(&rig, 40);
    }
}

fn send_and_receive(rig: &Rig, pair: [i32; 2], into: usize) {
    let bytes = 16 * PAGE;
    // SAFETY: headers that refer to locals and to the region; the descriptors are closed.
    unsafe {
        let mut out: libc::msghdr = std::mem::zeroed();
        let mut out_vector = [far_iovec(rig, 0, bytes)];
        out.msg_iov = out_vector.as_mut_ptr();
        out.msg_iovlen = 1;
        assert_eq!(result(libc::sendmsg(pair[0], &out, 0)), Ok(bytes));
        let mut vectors = [far_iovec(rig, into, 8 * PAGE), far_iovec(rig, into + 8, 8 * PAGE)];
        assert_eq!(result(libc::readv(pair[1], vectors.as_mut_ptr(), 2)), Ok(bytes));
        libc::close(pair[0]);
        libc::close(pair[1]);
    }
}

fn same(rig: &Rig, first: usize) {
    for page in 0..16 {
        for word in 0..512 {
            assert_eq!(rig.read(first + page, word), (page * 512 + word) as u64, "page {page} word {word}");
        }
    }
}

#[test]
fn a_system_call_on_a_wild_pointer_gives_efault_and_the_page_works_once_allocated() {
    for variant in Variant::allowed() {
        let rig = Rig::new(variant, 16);
        rig.lock().state[8..].fill(State::Unallocated);
        let mut pipe = [0; 2];
        // SAFETY: makes two descriptors; one byte goes into the pipe, and out again to a far address.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            assert_eq!(libc::write(pipe[1], ptr::from_ref(&7u8).cast(), 1), 1);
            assert_eq!(
                result(libc::read(pipe[0], rig.at(9, 5).cast(), 1)),
                Err(Some(libc::EFAULT)),
                "{}",
                variant.name()
            );
        }
        rig.lock().state[9] = State::Absent;
        if rig.engine.serves_kernel_faults() {
            // Within the time in which the page refuses all access, and after it.
            let deadline = std::time::Instant::now() + Duration::from_secs(5);
            // SAFETY: as above.
            while result(unsafe { libc::read(pipe[0], rig.at(9, 5).cast(), 1) }) != Ok(1) {
                assert!(std::time::Instant::now() < deadline);
            }
            assert_eq!(rig.read(9, 0), u64::from_ne_bytes([0, 0, 0, 0, 0, 7, 0, 0]));
        }
        rig.write(9, 1, 8);
        assert_eq!(rig.read(9, 1), 8, "{}", variant.name());
        // SAFETY: our own descriptors.
        unsafe { (libc::close(pipe[0]), libc::close(pipe[1])) };
    }
}

/// A locked page stays where it is, and is taken when it is unlocked.
#[test]
fn locked_pages_are_busy_under_userfaultfd() {
    for variant in
        Variant::allowed().into_iter().filter(|variant| variant.moves && variant.kind.to_string() != "sigsegv")
    {
        let rig = Rig::new(variant, 16);
        for page in 0..8 {
            rig.write(page, 0, 50 + page as u64);
        }
        // SAFETY: a page of the region, mapped.
        assert_eq!(unsafe { libc::mlock(rig.at(5, 0).cast(), PAGE) }, 0);
        let result = rig.lock().memory.take(rum_core::fault::PageNumber(0), rum_core::fault::FrameNumber(0), 8);
        assert!(matches!(result, Err(rum_core::fault::TakeError::Busy { done: 5 })), "{result:?}");
        rig.lock().state[..5].fill(State::Out);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::munlock(rig.at(5, 0).cast(), PAGE) }, 0);
        rig.take(5, 3).unwrap();
        for page in 0..8 {
            assert_eq!(rig.read(page, 0), 50 + page as u64, "page {page}");
        }
    }
}
