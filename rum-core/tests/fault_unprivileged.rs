//! The engines as an ordinary user, to whom the kernel refuses full userfaultfd.

mod fault_common;

use fault_common::{Rig, Variant, case, run_case, text};
use rum_core::fault::{EngineKind, probe, start};

/// Becomes the user 65534 for good.
fn become_nobody() {
    const NOBODY: u32 = 65_534;
    // SAFETY: changes the identity of this process only.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(NOBODY, NOBODY, NOBODY), 0);
        assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
    }
}

fn is_root() -> bool {
    // SAFETY: takes nothing.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn an_ordinary_user_gets_the_inline_engine() {
    if case().is_none() {
        let output = run_case("an_ordinary_user_gets_the_inline_engine", "run");
        assert!(output.status.success(), "{}", text(&output));
        return;
    }
    if is_root() {
        become_nobody();
    }
    if probe().iter().any(|capability| capability.name == "uffd-thread" && capability.allowed) {
        println!("this machine allows full userfaultfd to everybody");
        return;
    }
    let (memory, pending) = start(None, 1 << 20, 4).unwrap();
    assert_eq!(pending.kind(), EngineKind::UffdInline);
    drop((memory, pending));
    for variant in Variant::allowed() {
        let rig = Rig::new(variant, 64);
        assert!(!rig.engine.serves_kernel_faults(), "{}", variant.name());
        for page in 0..64 {
            rig.write(page, 1, page as u64);
        }
        rig.take(0, 64).unwrap();
        for page in 0..64 {
            assert_eq!(rig.read(page, 1), page as u64, "{}", variant.name());
        }
    }
}
