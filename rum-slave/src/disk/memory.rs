//! What a slave finds in its data folder when it starts: the last checkpoint, and what the journal has behind it.

use std::collections::{BTreeMap, HashMap};

use paxos::{Ballot, Command, Configuration, Life, Lives, MAX_MEMBERS, Persisted, Record, Slot};

use super::{
    checkpoint::{self, Checkpoint, Found, GroupImage},
    files::{FileError, Files},
    frame::{Note, What},
    journal, pages,
};
use crate::{
    account::Accounts,
    group::{
        entry::Entry,
        image::{DirectoryImage, PageKey},
        state::State,
    },
};

/// Names of what was set aside begin so.
const ASIDE: &str = "damaged-";

/// What a slave remembers of a group.
#[derive(Debug)]
pub enum Memory {
    /// It never had any.
    None,
    /// It had some, and lost it.
    Lost,
    /// All that it ever said, but for pages that are damaged.
    Whole(Box<Whole>),
}

/// See `Memory`.
#[derive(Debug)]
pub struct Whole {
    /// Of the replica.
    pub replica: Persisted<Entry>,
    /// Of the state.
    pub state: State,
    /// Pages whose content is gone.
    pub damaged: Vec<PageKey>,
}

/// All that was found.
#[derive(Debug)]
pub struct Remembered {
    /// In the order in which groups were asked for.
    pub groups: Vec<Memory>,
    /// The number of the next frame.
    pub next_frame: u64,
    /// The first segment that is free.
    pub segment: u64,
    /// Bytes of the journal behind the checkpoint.
    pub bytes: u64,
    /// By group: pages of slots up to this one are on disk as they should be.
    pub durable: HashMap<u16, u64>,
}

/// Why there is no memory to be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Of a later version of RUM.
    #[error("the checkpoint is of version {0}: a newer RUM wrote it")]
    Later(u32),
    /// More extents than there is address space.
    #[error("cannot take the memory that the checkpoint asks for: {0}")]
    Space(std::io::Error),
}

/// Reads what is there of `groups`, each with the configuration that it began with. What is damaged is set aside, and nothing remembered.
pub fn read(
    files: &mut dyn Files,
    salt: u64,
    groups: &[(u16, Configuration)],
    accounts: &Accounts,
) -> Result<Remembered, MemoryError> {
    let checkpoint = match checkpoint::read(files)? {
        Found::None => Some(Checkpoint { segment: 0, frame: 1, groups: Vec::new() }),
        Found::Whole(checkpoint) => Some(*checkpoint),
        Found::Later(version) => return Err(MemoryError::Later(version)),
        Found::Damaged => None,
    };
    if let Some(Checkpoint { segment, frame, groups: images }) = checkpoint {
        let journal = journal::read(files, salt, segment, frame)?;
        if !journal.is_damaged {
            let (next_frame, segment, bytes) = (journal.next, journal.segment + 1, journal.bytes);
            let had_memory = files.names()?.iter().any(|name| name.starts_with(ASIDE));
            let mut all = fold(groups, images, journal.notes, had_memory);
            let mut remembered = Remembered { groups: Vec::new(), next_frame, segment, bytes, durable: HashMap::new() };
            for (group, _) in groups {
                let memory = all.remove(group).map_or(Ok(Memory::None), |sum| sum.load(files, *group, accounts))?;
                if let Memory::Whole(whole) = &memory
                    && whole.damaged.is_empty()
                {
                    remembered.durable.insert(*group, whole.state.as_of());
                }
                remembered.groups.push(memory);
            }
            return Ok(remembered);
        }
    }
    files.set_aside()?;
    let groups = groups.iter().map(|_| Memory::Lost).collect();
    Ok(Remembered { groups, next_frame: 1, segment: 0, bytes: 0, durable: HashMap::new() })
}

/// The sum of a group's records.
struct Sum {
    has_vote: bool,
    had_memory: bool,
    promised: Ballot,
    lives: [Life; MAX_MEMBERS],
    applied: Slot,
    configuration: Configuration,
    decided: Slot,
    accepted: BTreeMap<Slot, (Ballot, Command<Entry>)>,
    directory: Option<DirectoryImage>,
    written: Vec<u16>,
}

fn fold(
    groups: &[(u16, Configuration)],
    images: Vec<GroupImage>,
    notes: Vec<Note>,
    had_memory: bool,
) -> BTreeMap<u16, Sum> {
    let new = |(group, configuration): &(u16, Configuration)| (*group, Sum::new(*configuration, had_memory));
    let mut sums: BTreeMap<u16, Sum> = groups.iter().map(new).collect();
    for image in images {
        if let Some(sum) = sums.get_mut(&image.group) {
            sum.begin(image);
        }
    }
    for note in notes {
        let start = groups.iter().find(|(group, _)| *group == note.group);
        if let (Some(sum), Some((_, configuration))) = (sums.get_mut(&note.group), start) {
            match note.what {
                What::Record(record) => sum.add(record),
                What::Decided(slot) => sum.decided = sum.decided.max(Slot(slot)),
                What::Forgotten => *sum = Sum::new(*configuration, true),
            }
        }
    }
    sums
}

impl Sum {
    fn new(configuration: Configuration, had_memory: bool) -> Self {
        Self {
            has_vote: false,
            had_memory,
            promised: Ballot::ZERO,
            lives: [Life(0); MAX_MEMBERS],
            applied: Slot::ZERO,
            configuration,
            decided: Slot::ZERO,
            accepted: BTreeMap::new(),
            directory: None,
            written: Vec::new(),
        }
    }

    fn begin(&mut self, image: GroupImage) {
        let Persisted { promised, lives, applied, configuration, decided, accepted } = image.replica;
        let accepted = accepted.into_iter().map(|(slot, ballot, command)| (slot, (ballot, command)));
        *self = Self {
            has_vote: image.has_vote,
            had_memory: self.had_memory,
            promised,
            lives: *lives.as_array(),
            applied,
            configuration,
            decided,
            accepted: accepted.collect(),
            directory: Some(image.directory),
            written: image.written,
        };
    }

    fn add(&mut self, record: Record<Entry>) {
        match record {
            Record::Promise(ballot) => self.promised = self.promised.max(ballot),
            Record::Accept { ballot, first, batch } => {
                self.promised = self.promised.max(ballot);
                let commands = batch.as_slice().iter().zip(first.0..);
                self.accepted.extend(commands.map(|(command, slot)| (Slot(slot), (ballot, command.clone()))));
            }
            Record::Decided(slot) => self.decided = self.decided.max(slot),
            Record::Life { member, life } => {
                let known = &mut self.lives[usize::from(member.get())];
                *known = (*known).max(life);
            }
            Record::Installed { through, configuration } => {
                if through > self.applied {
                    (self.applied, self.configuration) = (through, configuration);
                }
            }
            Record::Returned { promised, lives, configuration } => {
                self.has_vote = true;
                self.promised = self.promised.max(promised);
                self.configuration = configuration;
                for (known, life) in self.lives.iter_mut().zip(lives.as_array()) {
                    *known = (*known).max(*life);
                }
            }
        }
    }

    fn load(self, files: &mut dyn Files, group: u16, accounts: &Accounts) -> Result<Memory, MemoryError> {
        if !self.has_vote {
            return Ok(if self.had_memory { Memory::Lost } else { Memory::None });
        }
        let mut state = State::new(accounts.clone());
        let mut damaged = Vec::new();
        if let Some(directory) = self.directory {
            state.become_directory(directory).map_err(MemoryError::Space)?;
            let extents: Vec<_> = state.store().extents().collect();
            for extent in extents {
                let written = self.written.get(extent.index as usize).copied().unwrap_or_default();
                let at = (extent.index, extent.generation);
                pages::read(files, group, at, written, &mut |page| state.install_page(&page), &mut |key| {
                    damaged.push(key)
                })?;
            }
        }
        let applied = self.applied;
        let accepted = self.accepted.into_iter().filter(|(slot, _)| *slot > applied);
        let replica = Persisted {
            promised: self.promised,
            lives: Lives::from_array(self.lives),
            applied,
            configuration: self.configuration,
            decided: self.decided,
            accepted: accepted.map(|(slot, (ballot, command))| (slot, ballot, command)).collect(),
        };
        Ok(Memory::Whole(Box::new(Whole { replica, state, damaged })))
    }
}
