//! Which CPU a thread runs on, without memory of the heap.

use std::mem;

/// Moves the calling thread to the CPU on which `thread` of this process ran last. Where that cannot be found out,
/// or is not allowed, the caller stays where it is.
pub(super) fn follow(thread: u32) {
    if let Some(cpu) = cpu_of(thread) {
        pin(cpu);
    }
}

fn pin(cpu: usize) {
    // SAFETY: a set of our own, and a CPU in its range (CPU_SET checks).
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        if cpu < 8 * size_of::<libc::cpu_set_t>() {
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
        }
    }
}

/// Field 39 of /proc/self/task/TID/stat.
fn cpu_of(thread: u32) -> Option<usize> {
    let path = stat_path(thread);
    let mut text = [0u8; 1024];
    // SAFETY: the path ends with a zero byte; the read stays in `text`; the descriptor is closed.
    let read = unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return None;
        }
        let read = libc::read(fd, text.as_mut_ptr().cast(), text.len());
        libc::close(fd);
        read
    };
    last_cpu(text.get(..usize::try_from(read).ok()?)?)
}

/// `/proc/self/task/TID/stat`, ended by a zero byte.
fn stat_path(thread: u32) -> [u8; 48] {
    const HEAD: &[u8] = b"/proc/self/task/";
    const TAIL: &[u8] = b"/stat";
    let mut digits = [0u8; 10];
    let mut first = digits.len();
    let mut rest = thread;
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let mut path = [0; 48];
    let parts = HEAD.iter().chain(&digits[first..]).chain(TAIL);
    path.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
    path
}

/// The CPU in the text of a stat file: field 39, where the second field is a name in brackets that may hold anything.
fn last_cpu(text: &[u8]) -> Option<usize> {
    let after_name = text.iter().rposition(|&byte| byte == b')')? + 1;
    let field = text[after_name..].split(|&byte| byte == b' ').filter(|field| !field.is_empty()).nth(39 - 3)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The calling thread's own CPU.
#[cfg(test)]
fn current() -> usize {
    // SAFETY: takes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap()
}

/// A set of CPUs as the kernel tells it.
#[cfg(test)]
fn allowed() -> libc::cpu_set_t {
    // SAFETY: fills a set of our own.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set), 0);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_field_after_a_malicious_name() {
        let mut text = b"12 (a ) R 1 2) S".to_vec();
        for field in 4..=52 {
            text.extend(format!(" {}", field * 10).bytes());
        }
        assert_eq!(last_cpu(&text), Some(390));
        assert_eq!(last_cpu(b"12 (a) S 1 2"), None);
        assert_eq!(last_cpu(b""), None);
    }

    #[test]
    fn paths_are_complete() {
        for (thread, path) in [(0, "/proc/self/task/0/stat\0"), (u32::MAX, "/proc/self/task/4294967295/stat\0")] {
            assert!(stat_path(thread).starts_with(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn a_thread_follows_another() {
        let set = allowed();
        // SAFETY: CPU_ISSET looks into a set of our own.
        let cpus = (0..1024).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) });
        for cpu in cpus {
            std::thread::scope(|scope| {
                let (say, hear) = std::sync::mpsc::channel();
                let (end, wait_for_end) = std::sync::mpsc::channel::<()>();
                scope.spawn(move || {
                    pin(cpu);
                    // SAFETY: takes nothing.
                    say.send(unsafe { libc::gettid() } as u32).unwrap();
                    let _ = wait_for_end.recv();
                });
                let thread = hear.recv().unwrap();
                scope.spawn(move || {
                    follow(thread);
                    assert_eq!(current(), cpu);
                    drop(end);
                });
            });
        }
    }
}
