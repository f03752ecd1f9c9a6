//! `Location` and `HASH_TYPE` as C passes them, and the functions of Location.h.

use std::{
    cell::{Cell, UnsafeCell},
    ffi::{CStr, c_char, c_int},
    io::Write,
};

use rum_core::grid::{Location, ObjectHash};
use rum_net::port::MacAddr;

/// `Location` of Location.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CLocation {
    ip_addr: [u8; 45],
    mac_addr: [u8; 6],
}

/// `HASH_TYPE` of hash_type.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CHash {
    hash_str: [u8; 33],
}

/// The bytes before the first NUL.
fn text(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

impl CLocation {
    /// The slave it names; `None` when it is all zero: any.
    pub(crate) fn named(&self) -> Option<Location> {
        let ip = text(&self.ip_addr);
        if ip.is_empty() && self.mac_addr == [0; 6] {
            return None;
        }
        Some(Location { ip: String::from_utf8_lossy(ip).into_owned(), mac: MacAddr(self.mac_addr) })
    }

    fn write_text(&self, into: &mut [u8; TEXT_BYTES]) -> usize {
        let [a, b, c, d, e, f] = self.mac_addr;
        let mut rest = &mut into[..TEXT_BYTES - 1];
        let room = rest.len();
        // Cannot fail: 45 bytes of address, 2 of separator, 17 of hardware address, and the NUL make TEXT_BYTES.
        let _ = rest.write_all(text(&self.ip_addr));
        let _ = write!(rest, ", {a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{f:02X}");
        let written = room - rest.len();
        into[written] = 0;
        written
    }
}

impl CHash {
    /// The name: what stands before the NUL, filled up with zeros, so that stale bytes behind it do not matter.
    pub(crate) fn name(&self) -> ObjectHash {
        let mut name = [0; 32];
        let text = text(&self.hash_str[..32]);
        name[..text.len()].copy_from_slice(text);
        ObjectHash(name)
    }
}

const TEXT_BYTES: usize = 65;

thread_local! {
    static TEXTS: UnsafeCell<[[u8; TEXT_BYTES]; 4]> = const { UnsafeCell::new([[0; TEXT_BYTES]; 4]) };
    static NEXT_TEXT: Cell<usize> = const { Cell::new(0) };
}

/// Location.h: `location_to_string`.
#[unsafe(no_mangle)]
pub extern "C" fn location_to_string(location: CLocation) -> *const c_char {
    let next = NEXT_TEXT.get();
    NEXT_TEXT.set((next + 1) % 4);
    TEXTS.with(|texts| {
        // SAFETY: only this function reaches the texts, on this thread, and it does not call itself.
        let texts = unsafe { &mut *texts.get() };
        location.write_text(&mut texts[next]);
        texts[next].as_ptr().cast()
    })
}

/// Location.h: `location_to_string_b`.
///
/// # Safety
/// `buffer` has room for 65 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn location_to_string_b(location: CLocation, buffer: *mut c_char) -> *mut c_char {
    let mut text = [0; TEXT_BYTES];
    let written = location.write_text(&mut text);
    // SAFETY: the caller's buffer has room for the longest text and its NUL.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, written + 1) };
    buffer
}

/// Location.h: `location_print`.
#[unsafe(no_mangle)]
pub extern "C" fn location_print(location: CLocation) {
    let mut text = [0; TEXT_BYTES];
    let written = location.write_text(&mut text);
    let line = format!("Location        : {}\n", String::from_utf8_lossy(&text[..written]));
    crate::process::print(&line);
}

/// Location.h: `location_compare`.
#[unsafe(no_mangle)]
pub extern "C" fn location_compare(a: CLocation, b: CLocation) -> c_int {
    c_int::from(text(&a.ip_addr) == text(&b.ip_addr) && a.mac_addr == b.mac_addr)
}

/// Reads a path argument.
///
/// # Safety
/// `path` is NULL or a string that ends in NUL.
pub(crate) unsafe fn path_of<'a>(path: *const c_char) -> Option<&'a std::path::Path> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: as the caller promises.
    (!path.is_null()).then(|| std::ffi::OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(ip: &str, mac: [u8; 6]) -> CLocation {
        let mut ip_addr = [0; 45];
        ip_addr[..ip.len()].copy_from_slice(ip.as_bytes());
        CLocation { ip_addr, mac_addr: mac }
    }

    fn string(location: CLocation) -> String {
        // SAFETY: the function returns a string of this thread.
        unsafe { CStr::from_ptr(location_to_string(location)) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_longest_address_fits_its_text() {
        let longest = "f".repeat(45);
        assert_eq!(string(location(&longest, [0xAB; 6])), format!("{longest}, AB:AB:AB:AB:AB:AB"));
        let first = location_to_string(location("10.0.0.1", [2, 0, 0, 0, 0, 1]));
        string(location("10.0.0.2", [0; 6]));
        // SAFETY: the text is valid until the fourth call from now.
        assert_eq!(unsafe { CStr::from_ptr(first) }, c"10.0.0.1, 02:00:00:00:00:01");
    }

    #[test]
    fn only_the_text_of_an_address_is_compared() {
        let a = location("10.0.0.1", [2, 0, 0, 0, 0, 1]);
        let mut b = a;
        b.ip_addr[20] = 7;
        assert_eq!(location_compare(a, b), 1);
        assert_eq!(location_compare(a, location("10.0.0.1", [2, 0, 0, 0, 0, 2])), 0);
        assert_eq!(location_compare(a, location("10.0.0.2", [2, 0, 0, 0, 0, 1])), 0);
    }

    #[test]
    fn bytes_behind_the_end_of_a_name_do_not_matter() {
        let mut a = CHash { hash_str: [0xEE; 33] };
        let mut b = CHash { hash_str: [0; 33] };
        a.hash_str[..4].copy_from_slice(b"abc\0");
        b.hash_str[..3].copy_from_slice(b"abc");
        assert_eq!(a.name(), b.name());
        assert_eq!(CHash { hash_str: [b'x'; 33] }.name(), ObjectHash([b'x'; 32]));
    }

    #[test]
    fn a_location_of_zeros_is_any_slave() {
        assert!(location("", [0; 6]).named().is_none());
        assert_eq!(location("::1", [0; 6]).named().unwrap().ip, "::1");
    }
}
