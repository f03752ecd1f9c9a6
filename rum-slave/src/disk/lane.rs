//! Work for the disk, done in order in a thread of its own.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use super::{
    checkpoint,
    files::{FileError, Files, Folder},
    journal, pages,
};
use crate::group::image::PageImage;

/// Something to be done.
#[derive(Clone, Debug)]
pub enum Job {
    /// Write a frame behind the others.
    Append {
        /// Which segment and where in it; at its beginning, the segment is made.
        at: (u64, u64),
        /// Bytes of a new segment.
        segment_bytes: u64,
        /// The frame's number.
        number: u64,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Write pages of a group.
    Pages(u16, Vec<PageImage>),
    /// Make the pages of these groups durable, then a checkpoint, which needs segments from this one on.
    Checkpoint {
        /// The groups.
        groups: Vec<u16>,
        /// The file.
        bytes: Vec<u8>,
        /// The first segment needed.
        segment: u64,
    },
    /// Nothing is to be written any more.
    Close,
}

impl Job {
    /// Does it.
    ///
    /// # Errors
    /// When the disk does not: nothing may be acknowledged from then on.
    pub fn run(self, files: &mut dyn Files) -> Result<(), FileError> {
        match self {
            Self::Append { at, segment_bytes, number, frame } => {
                if at.1 == 0 {
                    journal::begin_segment(files, at.0, segment_bytes)?;
                }
                journal::append(files, at, number, &frame)
            }
            Self::Pages(group, of_group) => pages::write(files, group, &of_group),
            Self::Checkpoint { groups, bytes, segment } => {
                for group in groups {
                    files.sync(&pages::name(group))?;
                }
                checkpoint::write(files, &bytes)?;
                journal::drop_before(files, segment)
            }
            Self::Close => journal::close(files),
        }
    }
}

/// Does jobs in order.
pub trait Lane: Send {
    /// Puts a job behind the others.
    fn submit(&mut self, job: Job);
    /// How many jobs were done.
    ///
    /// # Errors
    /// When one could not be done, for ever.
    fn done(&mut self) -> Result<u64, FileError>;
}

/// A lane that is a thread. Ends, after all its jobs, when it is dropped.
#[derive(Debug)]
pub struct ThreadLane {
    jobs: Option<mpsc::Sender<Job>>,
    done: Arc<AtomicU64>,
    error: Arc<Mutex<Option<FileError>>>,
    thread: Option<JoinHandle<()>>,
}

impl ThreadLane {
    /// A lane of this name for the files of a folder.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(name: &str, mut folder: Folder) -> std::io::Result<Self> {
        let (jobs, to_do) = mpsc::channel::<Job>();
        let (done, error) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let (count, failure) = (Arc::clone(&done), Arc::clone(&error));
        let run = move || {
            for job in to_do {
                if let Err(error) = job.run(&mut folder) {
                    *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    return;
                }
                count.fetch_add(1, Ordering::Release);
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { jobs: Some(jobs), done, error, thread: Some(thread) })
    }
}

impl Lane for ThreadLane {
    fn submit(&mut self, job: Job) {
        // If the thread has ended, `done` says why.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
    }

    fn done(&mut self) -> Result<u64, FileError> {
        if let Some(error) = self.error.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            return Err(error);
        }
        Ok(self.done.load(Ordering::Acquire))
    }
}

impl Drop for ThreadLane {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // A thread that panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
