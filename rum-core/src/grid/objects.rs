//! Named objects as the slaves have them, whole, by requests: for copies of them all. What this client has changed in its region and not flushed is not
//! there yet, and what it has read before may be old afterwards.

use rum_net::{
    EXTENT_PAGES, PAGE_BYTES,
    wire::message::{
        MAX_BATCH_NAMES, MAX_BATCH_PAGES, NAMES_REQUEST_BYTES, NameHash, PageContent, PageKind, PageRef,
        READ_REQUEST_MAX_BYTES, ReadResponse, ResponseError, Status, WRITE_HEAD_MAX_BYTES, decode_empty_response,
        decode_names_response, encode_names, encode_read, encode_write_head,
    },
};

use super::{
    Grid, lock,
    named::ask,
    types::{AllocError, Location, ObjectHash},
};
use crate::pager::remote::{ExtentHome, RemoteFailure, SlaveIndex};

/// Bytes that one request reads or writes.
pub const OBJECT_BATCH_BYTES: usize = MAX_BATCH_PAGES * PAGE_BYTES;

/// Why the slaves' objects cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No answer for good.
    #[error("slave {slave}: {failure}")]
    Failed {
        /// Counted from 1, as in machines.csv.
        slave: usize,
        /// Why.
        failure: RemoteFailure,
    },
    /// It was freed by somebody since it was opened.
    #[error("the object was freed meanwhile")]
    Freed,
    /// The slave refused.
    #[error("slave {slave}: {why}")]
    Refused {
        /// Counted from 1, as in machines.csv.
        slave: usize,
        /// Why.
        why: ResponseError,
    },
    /// It was not opened, or not made.
    #[error(transparent)]
    Open(#[from] AllocError),
}

/// A named object that some slave has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectEntry {
    /// Its name.
    pub hash: ObjectHash,
    /// Bytes in it.
    pub size_bytes: u64,
    /// Whose it is: the line of machines.csv, counted from 0.
    pub slave: SlaveIndex,
    /// Where it was pinned to, if it is not where its name belongs.
    pub pinned: Option<Location>,
}

/// A named object, opened to be read or written in pieces.
#[derive(Debug)]
pub struct StoredObject {
    slave: SlaveIndex,
    hash: ObjectHash,
    size_bytes: u64,
    homes: Vec<ExtentHome>,
    /// Whether it was there before.
    pub existed: bool,
}

impl StoredObject {
    /// Bytes in it.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The pages from a byte on that one request is for; panics if there is none.
    fn pages(&self, offset: u64, len: usize) -> Vec<PageRef> {
        assert!(
            offset.is_multiple_of(PAGE_BYTES as u64)
                && len <= OBJECT_BATCH_BYTES
                && offset + (len as u64) <= self.size_bytes,
            "whole pages of the object"
        );
        let first = offset as usize / PAGE_BYTES;
        let page = |page: usize| PageRef {
            extent: self.homes[page / EXTENT_PAGES].extent,
            page: (page % EXTENT_PAGES) as u32,
        };
        (first..first + len.div_ceil(PAGE_BYTES)).map(page).collect()
    }
}

impl Grid {
    /// All named objects that this client is told of, in the order of slaves and names.
    ///
    /// # Errors
    /// When a slave gives no answer, or a wrong one.
    pub fn objects(&self) -> Result<Vec<ObjectEntry>, ObjectError> {
        let mut objects = Vec::new();
        for slave in 0..self.machines.len() as SlaveIndex {
            let mut after: Option<NameHash> = None;
            loop {
                let mut message = [0; NAMES_REQUEST_BYTES];
                let answer = self.object_call(slave, encode_names(after.as_ref(), &mut message))?;
                let names = decode_names_response(&answer).map_err(|why| refused(slave, why))?;
                after = names.last().map(|(hash, _)| *hash);
                let is_last = names.len() < MAX_BATCH_NAMES;
                for (hash, size_bytes) in names {
                    let hash = ObjectHash(hash);
                    objects.push(ObjectEntry { hash, size_bytes, slave, pinned: self.pinned_to(&hash, slave) });
                }
                if is_last {
                    break;
                }
            }
        }
        Ok(objects)
    }

    /// The location to be given for an object on this slave; none if it is where its name belongs.
    fn pinned_to(&self, hash: &ObjectHash, slave: SlaveIndex) -> Option<Location> {
        let machine = &self.machines[usize::from(slave)];
        let is_pinned = self.slaves_for_name(hash, None) != Ok(slave);
        is_pinned.then(|| Location { ip: machine.ip.clone(), mac: machine.mac })
    }

    /// Opens an object, or makes it with `create_bytes`; `None` if there is none.
    ///
    /// # Errors
    /// When it exists with another size, when there is no room, or no slave at the location.
    pub fn open_object(
        &self,
        hash: &ObjectHash,
        location: Option<&Location>,
        create_bytes: Option<u64>,
    ) -> Result<Option<StoredObject>, ObjectError> {
        let slave = self.slaves_for_name(hash, location)?;
        let entry = ask(&self.territory, slave, hash, create_bytes)?;
        Ok(entry.map(|entry| StoredObject {
            slave,
            hash: *hash,
            size_bytes: entry.size as u64,
            homes: entry.homes,
            existed: entry.existed,
        }))
    }

    /// Frees an object for everyone.
    pub fn free_object(&self, object: StoredObject) -> bool {
        lock(&self.named).free(&self.territory, object.slave, &object.hash)
    }

    /// Reads a piece, of at most `OBJECT_BATCH_BYTES`. Each page is as it was at one moment; different pages may be of different ones.
    /// Panics if the piece does not begin with a page, or is not in the object.
    ///
    /// # Errors
    /// When the object was freed, or a slave fails for good.
    pub fn read_object(&self, object: &StoredObject, offset: u64, into: &mut [u8]) -> Result<(), ObjectError> {
        let pages = object.pages(offset, into.len());
        let answer = self.object_call(object.slave, encode_read(&pages, &mut [0; READ_REQUEST_MAX_BYTES]))?;
        let read = ReadResponse::decode(&answer, pages.len()).map_err(|why| refused(object.slave, why))?;
        for (bytes, content) in into.chunks_mut(PAGE_BYTES).zip(read.iter()) {
            match content {
                PageContent::Zeros => bytes.fill(0),
                PageContent::Data(data) => bytes.copy_from_slice(&data[..bytes.len()]),
            }
        }
        Ok(())
    }

    /// Writes a piece, of at most `OBJECT_BATCH_BYTES`; what is behind it in its last page becomes zeros. Panics as `read_object`.
    ///
    /// # Errors
    /// When the object was freed, or a slave fails for good.
    pub fn write_object(&self, object: &StoredObject, offset: u64, bytes: &[u8]) -> Result<(), ObjectError> {
        let mut data = Vec::with_capacity(OBJECT_BATCH_BYTES);
        let mut pages = Vec::with_capacity(MAX_BATCH_PAGES);
        for (page, bytes) in object.pages(offset, bytes.len()).into_iter().zip(bytes.chunks(PAGE_BYTES)) {
            let is_zeros = bytes.iter().all(|&byte| byte == 0);
            pages.push((page, if is_zeros { PageKind::Zeros } else { PageKind::Data }));
            if !is_zeros {
                data.extend_from_slice(bytes);
                data.resize(data.len().next_multiple_of(PAGE_BYTES), 0);
            }
        }
        let mut head = [0; WRITE_HEAD_MAX_BYTES];
        let message = [encode_write_head(&pages, &mut head), &data].concat();
        let answer = self.object_call(object.slave, &message)?;
        decode_empty_response(&answer).map_err(|why| refused(object.slave, why))
    }

    fn object_call(&self, slave: SlaveIndex, message: &[u8]) -> Result<Vec<u8>, ObjectError> {
        let answer = self.pager().call(slave, message);
        answer.map_err(|failure| ObjectError::Failed { slave: usize::from(slave) + 1, failure })
    }
}

fn refused(slave: SlaveIndex, why: ResponseError) -> ObjectError {
    match why {
        ResponseError::Refused(Status::StaleExtent | Status::NotOwner) => ObjectError::Freed,
        why => ObjectError::Refused { slave: usize::from(slave) + 1, why },
    }
}
