//! Messages to the user from places that must not allocate: one line on stderr, formatted on the stack.

use std::{
    fmt::{self, Write},
    io::stderr,
    os::fd::AsFd,
};

struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.len;
        let taken = text.len().min(room);
        self.bytes[self.len..self.len + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

/// Writes `rum: `, the message and a newline to stderr, cut to 512 bytes, in one write.
pub fn say(message: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 512], len: 0 };
    // Line takes all text, so that formatting cannot fail.
    let _ = line.write_str("rum: ");
    let _ = line.write_fmt(message);
    line.bytes[line.len] = b'\n';
    // A message that cannot be written has no other way to the user.
    let _ = nix::unistd::write(stderr().as_fd(), &line.bytes[..=line.len]);
}
