//! The sigsegv engine at the kernel's limit of mappings: an error, never a crash, and never lost data.

mod fault_common;

use fault_common::{Rig, State, Variant};
use rum_core::fault::{EngineKind, FrameNumber, PageNumber, TakeError};

#[test]
fn the_limit_of_mappings_is_a_clean_error() {
    const PAGES: usize = 70_000;
    let rig = Rig::new(Variant { kind: EngineKind::Sigsegv, moves: true }, PAGES);
    let mut inner = rig.lock();
    let limit = inner.memory.install_limit().unwrap();
    println!("room for {limit} scattered pages");
    let mut installed = Vec::new();
    for page in (1..PAGES as u32).step_by(2) {
        let left = inner.memory.install_limit().unwrap();
        match inner.memory.install_zeros(PageNumber(page), 1) {
            Ok(()) => installed.push(page as usize),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
                assert_eq!(left, 0, "the limit was said before");
                break;
            }
        }
    }
    assert!(installed.len() >= limit, "{} of the {limit} that were promised", installed.len());
    assert!(installed.len() < PAGES / 2, "this machine has no limit to reach: vm.max_map_count is high");
    // A frame that cannot be installed keeps its bytes.
    inner.memory.load_frames(FrameNumber(0), 1).unwrap();
    inner.memory.frame_mut(FrameNumber(0)).fill(3);
    // Not the last page, which takes one mapping more and not two.
    assert!(inner.memory.install(PageNumber(PAGES as u32 - 3), FrameNumber(0), 1).is_err());
    assert_eq!(inner.memory.frame(FrameNumber(0))[9], 3);
    inner.memory.unload_frames(FrameNumber(0), 1).unwrap();
    for &page in &installed {
        inner.state[page] = State::Mapped;
    }
    drop(inner);
    for &page in &installed {
        rig.write(page, 0, page as u64);
    }
    // Filling gaps makes room: each joins two mappings. Taking out of the middle needs some, and has its own.
    let (head, tail) = installed.split_at(installed.len() / 2);
    for &page in &head[..1_500] {
        rig.lock().memory.install_zeros(PageNumber(page as u32 + 1), 1).unwrap();
        rig.lock().state[page + 1] = State::Mapped;
    }
    assert!(rig.lock().memory.install_limit().unwrap() >= 1_000);
    for &page in tail {
        rig.take(page, 1).unwrap();
    }
    for &page in tail.iter().take(100).chain(head) {
        assert_eq!(rig.read(page, 0), page as u64, "page {page}");
    }
    assert!(!matches!(rig.lock().memory.take(PageNumber(0), FrameNumber(0), 1), Err(TakeError::Busy { .. })));
}
