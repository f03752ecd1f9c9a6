//! Wrappers for the libc calls that hand buffers to the kernel.
//!
//! Under an engine that does not serve the kernel's own touches, a system call on a page that is not resident returns EFAULT.
//! These functions take the place of libc's (the program's references bind to the first definition in the search order, and
//! librum comes before libc). A call without far buffers goes straight on; one with far buffers goes through a local one.
//!
//! They keep to what may be done anywhere: no lock, no heap, no thread-local state; so they work before main, in
//! signal handlers and in forked children. They are `C-unwind`, because a thread that is cancelled in a blocking call unwinds through them.

mod buffer;
mod files;
mod memory;
mod paths;
mod real;
mod signals;
mod sockets;
mod stdio;
mod transfer;

#[cfg(test)]
mod tests;
