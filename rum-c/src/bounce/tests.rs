//! The wrappers as std and libc reach them, with buffers that only pretend to be far: tests/ has real ones. That a wrapper
//! took the long way is seen by the local buffers that were taken.

use std::{
    fs::File,
    io::{IoSlice, IoSliceMut, Read, Seek, Write},
    os::{fd::AsRawFd, unix::fs::FileExt, unix::net::UnixDatagram},
};

use super::{buffer::tests::taken, memory::tests::Pretended};

const BYTES: usize = 1_000_003;

fn bytes(seed: usize) -> Vec<u8> {
    (0..BYTES).map(|index| ((index.wrapping_mul(2_654_435_761) + seed) >> 11) as u8).collect()
}

/// Runs `work`, which must take a local buffer.
#[track_caller]
fn long_way<T>(work: impl FnOnce() -> T) -> T {
    let before = taken();
    let result = work();
    assert!(taken() > before, "the buffer went to the kernel as it was");
    result
}

#[test]
fn near_buffers_go_straight_on() {
    let mut file = tempfile::tempfile().unwrap();
    let mut near = bytes(0);
    let before = taken();
    file.write_all(&near).unwrap();
    file.read_exact_at(&mut near, 0).unwrap();
    assert_eq!(taken(), before);
}

#[test]
fn files_of_std_work_on_far_buffers() {
    let mut file = tempfile::tempfile().unwrap();
    let out = Pretended::new(bytes(1));
    let mut back = Pretended::new(vec![0; BYTES]);
    assert_eq!(long_way(|| file.write(&out.0).unwrap()), BYTES);
    file.rewind().unwrap();
    assert_eq!(long_way(|| file.read(&mut back.0).unwrap()), BYTES);
    assert!(out.0 == back.0);
    back.0.fill(0);
    assert_eq!(long_way(|| file.read_at(&mut back.0, 3).unwrap()), BYTES - 3);
    assert!(out.0[3..] == back.0[..BYTES - 3]);
    assert_eq!(long_way(|| file.write_at(&out.0, 10).unwrap()), BYTES);
    assert_eq!(file.metadata().unwrap().len(), BYTES as u64 + 10);
}

#[test]
fn vectors_may_mix_near_and_far() {
    let mut file = tempfile::tempfile().unwrap();
    let (near, far) = (bytes(2), Pretended::new(bytes(3)));
    let vectors = [IoSlice::new(&near), IoSlice::new(&[]), IoSlice::new(&far.0)];
    assert_eq!(long_way(|| file.write_vectored(&vectors).unwrap()), 2 * BYTES);
    file.rewind().unwrap();
    let (mut first, mut second) = (Pretended::new(vec![0; 7]), vec![0; 2 * BYTES]);
    let mut vectors = [IoSliceMut::new(&mut first.0), IoSliceMut::new(&mut second)];
    assert_eq!(long_way(|| file.read_vectored(&mut vectors).unwrap()), 2 * BYTES);
    assert!(first.0 == near[..7] && second[..BYTES - 7] == near[7..] && second[BYTES - 7..2 * BYTES - 7] == far.0);
}

#[test]
fn messages_stay_whole() {
    let (left, right) = UnixDatagram::pair().unwrap();
    let out = Pretended::new(bytes(4));
    let mut back = Pretended::new(vec![0; BYTES]);
    for size in [1, 1000, 150_000] {
        assert_eq!(long_way(|| left.send(&out.0[..size]).unwrap()), size);
    }
    for size in [1, 1000, 150_000] {
        assert_eq!(long_way(|| right.recv(&mut back.0).unwrap()), size);
        assert!(out.0[..size] == back.0[..size]);
    }
}

#[test]
fn errors_keep_their_number() {
    let file = File::open("/dev/null").unwrap();
    let far = Pretended::new(bytes(5));
    let error = long_way(|| (&file).write(&far.0).unwrap_err());
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
}

#[test]
fn streams_of_c_come_in_pieces() {
    let file = tempfile::tempfile().unwrap();
    let out = Pretended::new(bytes(6));
    let back = Pretended::new(vec![0u8; BYTES]);
    // SAFETY: a stream over a duplicate of the file's descriptor, used with this test's buffers and closed.
    unsafe {
        let stream = libc::fdopen(libc::dup(file.as_raw_fd()), c"w+".as_ptr());
        assert_eq!(long_way(|| libc::fwrite(out.0.as_ptr().cast(), 1000, 1000, stream)), 1000);
        libc::rewind(stream);
        // Asks for more than there is: 333 whole items of 3,001 bytes, and the rest of the bytes are there, too.
        assert_eq!(long_way(|| libc::fread(back.0.as_ptr().cast_mut().cast(), 3001, 333, stream)), 333);
        assert_eq!(
            long_way(|| libc::fread(back.0.as_ptr().cast_mut().cast::<u8>().add(333 * 3001).cast(), 1, 1000, stream)),
            667
        );
        libc::fclose(stream);
    }
    assert!(out.0[..1_000_000] == back.0[..1_000_000]);
}

#[test]
fn paths_and_results_may_be_far() {
    let directory = tempfile::tempdir().unwrap();
    let mut path = directory.path().join("name").into_os_string().into_encoded_bytes();
    path.push(0);
    let path = Pretended::new(path);
    let status = Pretended::new(vec![0; size_of::<libc::stat>()]);
    let text = path.0.as_ptr().cast();
    // SAFETY: strings and values of this test.
    unsafe {
        assert_eq!(long_way(|| libc::mkdir(text, 0o700)), 0);
        assert_eq!(long_way(|| libc::stat(text, status.0.as_ptr().cast_mut().cast())), 0);
        assert_eq!((*status.0.as_ptr().cast::<libc::stat>()).st_mode, libc::S_IFDIR | 0o700);
        assert_eq!(long_way(|| libc::rmdir(text)), 0);
        assert_eq!(long_way(|| libc::open(text, libc::O_RDONLY)), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOENT));
    }
}
