//! State on its way from a slave of a group that has it to one that lacks it: the directory at one instant, then all pages that
//! were written since the receiver's last slot. All pages are read after the directory, so that they hold what it knows, or
//! more. Pieces may change their order on the way, and are counted; a
//! transfer that loses one is begun anew.

use std::collections::BTreeMap;

use paxos::{MemberId, Slot};

use super::{
    image::PageImage,
    message::{Part, Piece},
    state::State,
};

/// Pages of one piece: they fit into a message.
const PIECE_PAGES: usize = 30;
/// Bytes of the directory in one piece.
const PIECE_BYTES: usize = 64 << 10;

/// A transfer to another slave.
#[derive(Debug)]
pub struct Outgoing {
    /// The receiver.
    pub to: MemberId,
    since: u64,
    through: u64,
    transfer: u64,
    number: u32,
    directory: Vec<u8>,
    sent: usize,
    cursor: (u32, u16),
    is_over: bool,
}

impl Outgoing {
    /// Begins with the directory as it is now.
    pub fn new(to: MemberId, since: Slot, through: Slot, transfer: u64, state: &State) -> Self {
        // Only types that postcard does not know fail, and there are none here.
        let directory = postcard::to_stdvec(&state.directory()).unwrap_or_default();
        let (since, through) = (since.0, through.0);
        Self { to, since, through, transfer, number: 0, directory, sent: 0, cursor: (0, 0), is_over: false }
    }

    /// The next piece; `None` after the last.
    pub fn next_piece(&mut self, state: &State) -> Option<Piece> {
        if self.is_over {
            return None;
        }
        let part = if self.sent < self.directory.len() {
            let end = (self.sent + PIECE_BYTES).min(self.directory.len());
            let bytes = self.directory[self.sent..end].to_vec();
            self.sent = end;
            Part::Directory { bytes, is_whole: end == self.directory.len() }
        } else {
            let mut pages = Vec::with_capacity(PIECE_PAGES);
            self.is_over =
                !state.store().pages_since(self.since, &mut self.cursor, PIECE_PAGES, &mut |page| pages.push(page));
            Part::Pages(pages)
        };
        let number = self.number;
        self.number += 1;
        Some(Piece { transfer: self.transfer, through: self.through, number, is_last: self.is_over, part })
    }
}

/// A transfer to this slave.
#[derive(Debug)]
pub struct Incoming {
    /// The sender.
    pub from: MemberId,
    /// The state has all slots up to this one.
    pub through: Slot,
    transfer: Option<u64>,
    received: u32,
    pieces: Option<u32>,
    /// Parts of the directory by number, until it is whole.
    directory: BTreeMap<u32, Vec<u8>>,
    directory_parts: Option<usize>,
    is_installed: bool,
    /// Pages that came before the directory was whole.
    early: Vec<PageImage>,
}

/// What a piece did.
#[derive(PartialEq, Eq, Debug)]
pub enum Progress {
    /// It belongs to another transfer.
    None,
    /// There is more to come.
    Some,
    /// All is here.
    Whole,
}

impl Incoming {
    /// Nothing has come yet.
    pub fn new(from: MemberId, through: Slot) -> Self {
        Self {
            from,
            through,
            transfer: None,
            received: 0,
            pieces: None,
            directory: BTreeMap::new(),
            directory_parts: None,
            is_installed: false,
            early: Vec::new(),
        }
    }

    /// Takes a piece in.
    ///
    /// # Errors
    /// When it makes no sense, or there is no room for it: this slave cannot have the state.
    pub fn take(&mut self, from: MemberId, piece: Piece, state: &mut State) -> Result<Progress, String> {
        if from != self.from || piece.through != self.through.0 {
            return Ok(Progress::None);
        }
        if self.transfer.is_some_and(|transfer| piece.transfer < transfer) {
            return Ok(Progress::None);
        }
        if self.transfer != Some(piece.transfer) {
            *self = Self { transfer: Some(piece.transfer), ..Self::new(self.from, self.through) };
        }
        self.received += 1;
        if piece.is_last {
            self.pieces = Some(piece.number + 1);
        }
        match piece.part {
            Part::Directory { bytes, is_whole } => {
                self.directory.insert(piece.number, bytes);
                if is_whole {
                    self.directory_parts = Some(piece.number as usize + 1);
                }
                if self.directory_parts == Some(self.directory.len()) {
                    let directory: Vec<u8> = std::mem::take(&mut self.directory).into_values().flatten().collect();
                    let image = postcard::from_bytes(&directory).map_err(|error| error.to_string())?;
                    state.install_directory(image).map_err(|error| error.to_string())?;
                    self.is_installed = true;
                    self.early.drain(..).for_each(|page| state.install_page(&page));
                }
            }
            Part::Pages(pages) if self.is_installed => pages.iter().for_each(|page| state.install_page(page)),
            Part::Pages(pages) => self.early.extend(pages),
        }
        Ok(if self.pieces == Some(self.received) { Progress::Whole } else { Progress::Some })
    }
}
