//! How much of this process's far memory is really resident, by the kernel's account.

use std::{fs, ops::Range, os::unix::fs::MetadataExt, ptr::NonNull};

use rum_core::grid::Grid;

use super::{MIB, PAGE};

/// The region of a grid and the staging area behind it, by address.
#[derive(Clone, Debug)]
pub struct Region(Range<usize>);

impl Region {
    /// Found by asking what is far.
    pub fn of(grid: &Grid, inside: NonNull<u8>) -> Self {
        let is_far = |address: usize| grid.is_far(address as *const u8, 1);
        let inside = inside.as_ptr() as usize;
        let edge = |mut far: usize, mut near: usize| {
            while far.abs_diff(near) > PAGE {
                let middle = (far / 2 + near / 2) / PAGE * PAGE;
                if is_far(middle) { far = middle } else { near = middle }
            }
            far.max(near)
        };
        let inside = inside / PAGE * PAGE;
        // Behind the region come a guard of 2 MiB and 1,024 frames.
        Self(edge(inside, 0)..edge(inside, 1 << 47) + 6 * MIB)
    }

    /// Bytes of physical memory in it.
    pub fn resident_bytes(&self) -> usize {
        // The engine sigsegv keeps its pages in a file, mapped twice.
        if let Some(file) = memory_file_bytes() {
            return file;
        }
        let smaps = fs::read_to_string("/proc/self/smaps").expect("this is Linux");
        let (mut inside, mut sum) = (false, 0);
        for line in smaps.lines() {
            if let Some(range) = address_range(line) {
                inside = range.start >= self.0.start && range.end <= self.0.end;
            } else if let Some(kib) = line.strip_prefix("Rss:").filter(|_| inside) {
                sum += kib.trim().trim_end_matches(" kB").parse::<usize>().expect("smaps' form") * 1024;
            }
        }
        sum
    }
}

fn address_range(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

fn memory_file_bytes() -> Option<usize> {
    let descriptors = fs::read_dir("/proc/self/fd").expect("this is Linux");
    let is_region = |path: &std::path::Path| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:rum-region"))
    };
    let file = descriptors.flatten().map(|entry| entry.path()).find(|path| is_region(path))?;
    Some(fs::metadata(file).ok()?.blocks() as usize * 512)
}

/// The budget's bound: 1 MiB and 2 %.
pub fn bound(budget: usize) -> usize {
    budget + budget / 50 + MIB
}
