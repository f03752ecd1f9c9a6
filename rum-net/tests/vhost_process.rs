//! Clients in processes of their own.

mod vhost_common;

use std::time::Duration;

use rum_net::port::vhost_user::VhostClientPort;
use vhost_common::{EchoSlave, child_socket, frame, socket_dir, spawn_child, try_echo};

/// Not a test by itself: what a child process of the other test runs.
#[test]
fn child() {
    let Some(path) = child_socket() else { return };
    let mut port = VhostClientPort::connect(path).unwrap();
    for len in (14..4622).step_by(7) {
        try_echo(&mut port, &frame(len, len as u64), Duration::from_secs(30)).unwrap();
    }
}

#[test]
fn a_client_process_gets_its_packets_back() {
    if child_socket().is_some() {
        return;
    }
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let _slave = EchoSlave::start(&path);
    for mut child in [spawn_child(&path), spawn_child(&path)] {
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_forked_child_has_a_connection_of_its_own() {
    if child_socket().is_some() {
        return;
    }
    let dir = socket_dir();
    let path = dir.path().join("slave");
    let _slave = EchoSlave::start(&path);
    let mut port = VhostClientPort::connect(&path).unwrap();
    try_echo(&mut port, &frame(100, 1), Duration::from_secs(30)).unwrap();
    // SAFETY: the child only makes system calls and uses the allocator, which glibc keeps usable after fork.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let fine = VhostClientPort::connect(&path)
                .map_err(|error| error.to_string())
                .and_then(|mut own| try_echo(&mut own, &frame(4000, 2), Duration::from_secs(30)));
            // SAFETY: leaves at once, without the parent's destructors.
            unsafe { libc::_exit(fine.is_err().into()) };
        }
        nix::unistd::ForkResult::Parent { child } => {
            try_echo(&mut port, &frame(101, 3), Duration::from_secs(30)).unwrap();
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            try_echo(&mut port, &frame(102, 4), Duration::from_secs(30)).unwrap();
        }
    }
}
