//! The size classes of small objects.
//!
//! 8 bytes, then multiples of 16 up to 128, then eight classes a doubling up to seven pages: above 64 bytes an
//! object wastes less than an eighth of its slot. Larger objects take whole pages, which from eight pages up waste
//! at most an eighth, too.

use rum_net::PAGE_BYTES;

/// How many classes there are.
pub(super) const CLASSES: usize = 71;
/// The size of the largest class: seven pages.
pub(super) const MAX_SMALL_BYTES: usize = 7 * PAGE_BYTES;
/// The most pages in a slab.
pub(super) const MAX_SLAB_PAGES: usize = 16;
/// The fewest, so that a slab's header stays small beside its pages.
const MIN_SLAB_PAGES: usize = 4;
/// A slab's tail may waste this part of it, if that allows fewer pages.
const TAIL_WASTE_DIVISOR: usize = 64;

/// A size class, by its place in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SizeClass(u8);

/// What follows from a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClassInfo {
    /// Bytes of a slot.
    pub(super) bytes: u32,
    /// Pages of a slab.
    pub(super) pages: u32,
    /// Slots of a slab.
    pub(super) capacity: u32,
    /// 2^32 / `bytes`, rounded up: divides an offset in a slab by `bytes`.
    reciprocal: u64,
}

impl ClassInfo {
    /// The slot that starts at `offset` in a slab, if one does.
    #[inline]
    pub(super) fn slot_at(&self, offset: u32) -> Option<u32> {
        // Exact: the error is offset * (reciprocal * bytes - 2^32) / (bytes * 2^32) < 2^16 / 2^32 < 1 / bytes.
        let slot = ((u64::from(offset) * self.reciprocal) >> 32) as u32;
        (slot < self.capacity && slot * self.bytes == offset).then_some(slot)
    }

    /// Words of 64 bits in the slab's bitmap, as a power of two.
    pub(super) const fn words_log2(&self) -> u32 {
        self.capacity.div_ceil(64).next_power_of_two().trailing_zeros()
    }
}

static TABLE: [ClassInfo; CLASSES] = table();

impl SizeClass {
    /// The class for `size` bytes (at least 1) at a multiple of `align` (a power of two), or `None` when they are to
    /// have pages of their own.
    #[inline]
    pub(super) fn of(size: usize, align: usize) -> Option<Self> {
        if align <= 16 {
            if size <= 8 && align <= 8 {
                return Some(Self(0));
            }
            return (size <= MAX_SMALL_BYTES).then(|| Self(index_of(size)));
        }
        Self::of_aligned(size, align)
    }

    /// Slabs start at a page, so slots are aligned to what divides both their size and a page.
    fn of_aligned(size: usize, align: usize) -> Option<Self> {
        if align > PAGE_BYTES || size > MAX_SMALL_BYTES {
            return None;
        }
        let first = index_of(size.next_multiple_of(align));
        (first..CLASSES as u8).map(Self).find(|class| (class.info().bytes as usize).is_multiple_of(align))
    }

    /// The class at a place of the table.
    pub(super) fn from_index(index: u8) -> Self {
        debug_assert!((index as usize) < CLASSES);
        Self(index)
    }

    /// Its place in the table.
    #[inline]
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }

    /// What follows from it.
    #[inline]
    pub(super) fn info(self) -> &'static ClassInfo {
        &TABLE[self.0 as usize]
    }

    /// All classes, smallest first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES as u8).map(Self)
    }
}

/// The class of `size`, from 1 to `MAX_SMALL_BYTES`, at least 16 bytes.
#[inline]
const fn index_of(size: usize) -> u8 {
    if size <= 128 {
        return size.div_ceil(16) as u8;
    }
    // Eight classes between 2^e and 2^(e+1).
    let exponent = (size - 1).ilog2();
    let step = (size - 1) >> (exponent - 3);
    (9 + (exponent - 7) * 8 + (step as u32 - 8)) as u8
}

const fn bytes_of(index: usize) -> usize {
    match index {
        0 => 8,
        1..=8 => 16 * index,
        _ => {
            let exponent = 7 + (index - 9) / 8;
            (1 << exponent) + ((index - 9) % 8 + 1) * (1 << (exponent - 3))
        }
    }
}

/// The fewest pages whose tail is small enough, else those with the smallest tail.
const fn slab_pages(bytes: usize) -> usize {
    let mut best = MAX_SLAB_PAGES;
    let mut pages = MAX_SLAB_PAGES;
    while pages >= MIN_SLAB_PAGES {
        let (tail, best_tail) = (pages * PAGE_BYTES % bytes, best * PAGE_BYTES % bytes);
        let fits = pages * PAGE_BYTES >= bytes;
        let small = tail * TAIL_WASTE_DIVISOR <= pages * PAGE_BYTES;
        if fits && (small || tail * best <= best_tail * pages) {
            best = pages;
        }
        pages -= 1;
    }
    best
}

const fn table() -> [ClassInfo; CLASSES] {
    let mut table = [ClassInfo { bytes: 0, pages: 0, capacity: 0, reciprocal: 0 }; CLASSES];
    let mut index = 0;
    while index < CLASSES {
        let bytes = bytes_of(index);
        let pages = slab_pages(bytes);
        table[index] = ClassInfo {
            bytes: bytes as u32,
            pages: pages as u32,
            capacity: (pages * PAGE_BYTES / bytes) as u32,
            reciprocal: (1_u64 << 32).div_ceil(bytes as u64),
        };
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_gets_the_smallest_class_that_holds_it() {
        for size in 1..=MAX_SMALL_BYTES {
            let class = SizeClass::of(size, 16).unwrap();
            let bytes = class.info().bytes as usize;
            assert!(bytes >= size, "{size} in {bytes}");
            if class.index() > 1 {
                assert!((bytes_of(class.index() - 1)) < size, "{size} fits a smaller class than {bytes}");
            }
            if size > 112 {
                assert!((bytes - size) * 8 <= bytes, "{size} wastes more than an eighth of {bytes}");
            }
            assert_eq!(bytes % 16, 0);
        }
        assert_eq!(SizeClass::of(MAX_SMALL_BYTES + 1, 16), None);
        assert_eq!(SizeClass::of(usize::MAX, 4096), None);
        assert_eq!(bytes_of(CLASSES - 1), MAX_SMALL_BYTES);
    }

    #[test]
    fn eight_bytes_only_where_the_alignment_permits() {
        assert_eq!(SizeClass::of(8, 8).unwrap().info().bytes, 8);
        assert_eq!(SizeClass::of(8, 16).unwrap().info().bytes, 16);
        assert_eq!(SizeClass::of(9, 1).unwrap().info().bytes, 16);
    }

    #[test]
    fn aligned_classes_are_multiples_of_the_alignment() {
        for align in (4..=12).map(|shift| 1 << shift) {
            for size in (1..=MAX_SMALL_BYTES).step_by(37) {
                if let Some(class) = SizeClass::of(size, align) {
                    assert_eq!(class.info().bytes as usize % align, 0);
                    assert!(class.info().bytes as usize >= size);
                }
            }
        }
        assert_eq!(SizeClass::of(64, 8192), None);
    }

    #[test]
    fn slabs_waste_little_and_divide_exactly() {
        for class in SizeClass::all() {
            let info = class.info();
            let slab_bytes = info.pages * PAGE_BYTES as u32;
            assert!((MIN_SLAB_PAGES as u32..=MAX_SLAB_PAGES as u32).contains(&info.pages));
            let tail = slab_bytes - info.capacity * info.bytes;
            assert!(tail * 16 <= slab_bytes, "{} bytes: tail {tail} of {slab_bytes}", info.bytes);
            for offset in 0..slab_bytes {
                let exact = offset % info.bytes == 0 && offset / info.bytes < info.capacity;
                assert_eq!(info.slot_at(offset), exact.then(|| offset / info.bytes));
            }
        }
    }
}
