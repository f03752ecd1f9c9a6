//! What a slave with `--data-dir` keeps on disk, so that it comes back with all that it ever said.
//!
//! ```text
//!  DIR/slave              who it belongs to (JSON), and a salt
//!      log-N, spare-N     the journal: what replicas promise and accept, in frames            journal.rs, frame.rs
//!      mark               the last frame that was durable, as far as is known
//!      checkpoint         all of the groups but pages, at one instant                         checkpoint.rs
//!      pages-G            the pages of group G, each at its place                             pages.rs
//!      damaged-N/         what was found damaged at a start
//! ```
//!
//! Records wait here until the frame before is durable, and then make the next one: a *group commit*. When the journal has grown by some megabytes, a checkpoint is made
//! beside it: the directory at one instant, then the pages that were written since the last one, read later than the directory, as when a slave's state travels to
//! another (`group/transfer.rs`). The journal from before is not needed then.
//!
//! A library was looked for. Measured with pages of 4 KiB on ext4, one and 32 to a commit: this journal 84 and 225 µs, `fjall` 3.1 137 and 717 µs, `redb` 4.5 703 and 1,822 µs; and
//! simulations have to be able to tear what is written.

pub mod checkpoint;
pub mod files;
pub mod folder;
pub mod frame;
pub mod journal;
pub mod lane;
pub mod memory;
pub mod pages;

use std::{collections::HashMap, time::Duration};

use paxos::{Record, Ticket};

use self::{
    checkpoint::Checkpoint,
    files::FileError,
    folder::DataDir,
    frame::{Note, What},
    lane::{Job, Lane},
    memory::Remembered,
};
use crate::group::{Group, entry::Entry};

/// Bytes of journal behind a checkpoint after which the next one is made, unless it is set otherwise.
pub const CHECKPOINT_BYTES: u64 = 128 << 20;
/// Bytes of a segment of the journal.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Pages of one job.
const JOB_PAGES: usize = 64;
/// Jobs of a checkpoint that wait at a time.
const MAX_JOBS: u64 = 4;

/// How a disk is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskOptions {
    /// Mixed into the checksums of frames.
    pub salt: u64,
    /// Bytes of journal after which a checkpoint is made.
    pub checkpoint_bytes: u64,
    /// Bytes of a segment, unless one frame alone has more.
    pub segment_bytes: u64,
}

/// A checkpoint under way.
struct Run {
    image: Checkpoint,
    /// For each group the last slot of the checkpoint before; pages that were written later are copied.
    since: Vec<u64>,
    /// The group whose pages are being copied.
    group: usize,
    cursor: (u32, u16),
    /// The job that ends it, when it was given.
    last_job: Option<u64>,
}

/// See the module's documentation.
pub struct Disk {
    options: DiskOptions,
    journal: Box<dyn Lane>,
    checkpoints: Box<dyn Lane>,
    /// Notes that wait, and the last record of each group among them.
    pending: Vec<u8>,
    pending_tickets: HashMap<u16, Ticket>,
    /// Of the frame that is being written.
    under_way: Option<HashMap<u16, Ticket>>,
    frames_done: u64,
    next_frame: u64,
    segment: u64,
    offset: u64,
    /// Bytes of the journal since the last checkpoint began.
    bytes: u64,
    /// By group: slots of which the journal says that they are decided; the last slot of the last checkpoint.
    decided: HashMap<u16, u64>,
    durable: HashMap<u16, u64>,
    run: Option<Run>,
    checkpoint_jobs: u64,
    checkpoints_made: u64,
    /// Kept for its lock.
    folder: Option<DataDir>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("next_frame", &self.next_frame).finish_non_exhaustive()
    }
}

impl Disk {
    /// Goes on behind what was remembered. Frames are written by one lane, pages and checkpoints by the other.
    pub fn new(options: DiskOptions, remembered: &Remembered, lanes: (Box<dyn Lane>, Box<dyn Lane>)) -> Self {
        let (journal, checkpoints) = lanes;
        Self {
            options,
            journal,
            checkpoints,
            pending: Vec::new(),
            pending_tickets: HashMap::new(),
            under_way: None,
            frames_done: 0,
            next_frame: remembered.next_frame,
            segment: remembered.segment,
            offset: 0,
            bytes: remembered.bytes,
            decided: HashMap::new(),
            durable: remembered.durable.clone(),
            run: None,
            checkpoint_jobs: 0,
            checkpoints_made: 0,
            folder: None,
        }
    }

    /// Keeps the folder from others for as long as it writes there.
    fn keep(&mut self, folder: DataDir) {
        self.folder = Some(folder);
    }

    /// Writes a record of a group's replica; `step` says when it is durable.
    pub fn record(&mut self, group: u16, ticket: Ticket, record: Record<Entry>) {
        Note::encode_into(group, &What::Record(record), &mut self.pending);
        self.pending_tickets.insert(group, ticket);
    }

    /// A group has to begin anew: what was written of it so far is void.
    pub fn forget(&mut self, group: u16) {
        Note::encode_into(group, &What::Forgotten, &mut self.pending);
        self.pending_tickets.remove(&group);
        if let Some(tickets) = &mut self.under_way {
            tickets.remove(&group);
        }
        self.decided.remove(&group);
        self.durable.remove(&group);
        self.run = None;
    }

    /// Whether somebody may be waiting for the disk.
    pub fn is_waiting(&self) -> bool {
        self.under_way.is_some() || !self.pending.is_empty()
    }

    /// Bytes of the journal that a start would have to read.
    pub fn journal_bytes(&self) -> u64 {
        self.bytes
    }

    /// Checkpoints made since the start.
    pub fn checkpoints_made(&self) -> u64 {
        self.checkpoints_made
    }

    /// Tells groups which of their records are durable. Their effects are to be run then.
    ///
    /// # Errors
    /// When the disk does not do what it should. The slave has to end then: it cannot keep its word.
    pub fn acknowledge(&mut self, now: Duration, groups: &mut [Group]) -> Result<(), FileError> {
        if self.journal.done()? > self.frames_done
            && let Some(tickets) = self.under_way.take()
        {
            self.frames_done += 1;
            for (group, ticket) in tickets {
                if let Some(group) = groups.iter_mut().find(|known| known.number() == group) {
                    group.persisted(now, ticket);
                }
            }
        }
        Ok(())
    }

    /// Writes what is to be written, and goes on with a checkpoint. All effects of the groups have to have been run.
    ///
    /// # Errors
    /// As `acknowledge`.
    pub fn step(&mut self, now: Duration, groups: &mut [Group]) -> Result<(), FileError> {
        if self.under_way.is_none() && !self.pending.is_empty() {
            self.commit(groups);
        }
        self.go_on(now, groups)
    }

    /// Writes what waits as one frame.
    fn commit(&mut self, groups: &[Group]) {
        for group in groups {
            // After the records of these slots: their order is that in which they are read.
            let (number, slot) = (group.number(), group.status().commit.0);
            let known = self.decided.entry(number).or_default();
            if slot > *known {
                *known = slot;
                Note::encode_into(number, &What::Decided(slot), &mut self.pending);
            }
        }
        let frame = frame::encode(self.options.salt, self.next_frame, &self.pending);
        self.pending.clear();
        let length = frame.len() as u64;
        if self.offset > 0 && self.offset + length > self.options.segment_bytes {
            (self.segment, self.offset) = (self.segment + 1, 0);
        }
        let (at, segment_bytes) = ((self.segment, self.offset), self.options.segment_bytes);
        self.journal.submit(Job::Append { at, segment_bytes, number: self.next_frame, frame });
        self.under_way = Some(std::mem::take(&mut self.pending_tickets));
        self.next_frame += 1;
        self.offset += length;
        self.bytes += length;
    }

    /// Begins a checkpoint if it is time, or goes on with it.
    fn go_on(&mut self, now: Duration, groups: &mut [Group]) -> Result<(), FileError> {
        let done = self.checkpoints.done()?;
        if self.run.is_none() {
            let is_due = self.bytes >= self.options.checkpoint_bytes || groups.iter().any(Group::wants_checkpoint);
            // What waits belongs before the checkpoint. Jobs of one that was given up may still be waiting, too.
            if is_due && self.pending.is_empty() && done == self.checkpoint_jobs {
                self.begin(groups);
            }
        }
        let Some(run) = &mut self.run else { return Ok(()) };
        if let Some(last) = run.last_job {
            if done >= last {
                self.end(now, groups);
            }
            return Ok(());
        }
        if groups.iter().any(|group| !group.is_settled()) {
            // Its directory and its pages may not fit together any more.
            self.run = None;
            return Ok(());
        }
        while self.checkpoint_jobs < done + MAX_JOBS && run.group < groups.len() {
            let (group, since) = (&groups[run.group], run.since[run.group]);
            let mut pages = Vec::with_capacity(JOB_PAGES);
            let has_more =
                group.state().store().pages_since(since, &mut run.cursor, JOB_PAGES, &mut |page| pages.push(page));
            if !pages.is_empty() {
                self.checkpoint_jobs += 1;
                self.checkpoints.submit(Job::Pages(group.number(), pages));
            }
            if !has_more {
                (run.group, run.cursor) = (run.group + 1, (0, 0));
            }
        }
        if run.group == groups.len() {
            self.checkpoint_jobs += 1;
            run.last_job = Some(self.checkpoint_jobs);
            let (bytes, segment) = (checkpoint::encode(&run.image), run.image.segment);
            let groups = groups.iter().map(Group::number).collect();
            self.checkpoints.submit(Job::Checkpoint { groups, bytes, segment });
        }
        Ok(())
    }

    fn begin(&mut self, groups: &mut [Group]) {
        let images: Option<Vec<_>> = groups.iter_mut().map(Group::begin_checkpoint).collect();
        let Some(images) = images else { return };
        if self.offset > 0 {
            (self.segment, self.offset) = (self.segment + 1, 0);
        }
        self.bytes = 0;
        for group in groups.iter_mut().filter_map(|group| group.take_was_replaced().then_some(group.number())) {
            self.durable.remove(&group);
        }
        let since = groups.iter().map(|group| self.durable.get(&group.number()).copied().unwrap_or_default());
        let image = Checkpoint { segment: self.segment, frame: self.next_frame, groups: images };
        self.run = Some(Run { image, since: since.collect(), group: 0, cursor: (0, 0), last_job: None });
    }

    fn end(&mut self, now: Duration, groups: &mut [Group]) {
        let Some(run) = self.run.take() else { return };
        self.checkpoints_made += 1;
        for (group, image) in groups.iter_mut().zip(run.image.groups) {
            self.durable.insert(image.group, image.directory.as_of);
            group.checkpoint_is_durable(now);
        }
    }
}

impl Drop for Disk {
    /// What waits was promised to nobody; what is written is written.
    fn drop(&mut self) {
        self.journal.submit(Job::Close);
    }
}
