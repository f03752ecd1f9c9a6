//! Named objects that this client has opened.

use std::collections::HashMap;

use rum_net::{
    EXTENT_BYTES,
    wire::message::{
        ExtentRef, FREE_NAME_REQUEST_BYTES, NAME_EXTENTS_REQUEST_BYTES, OPEN_NAME_REQUEST_BYTES, OpenName,
        OpenNameRefusal, OpenedName, ResponseError, Status, decode_empty_response, decode_name_extents_response,
        encode_free_name, encode_name_extents,
    },
};

use super::{
    heap::Territory,
    space::Owner,
    types::{AllocError, ObjectHash},
};
use crate::pager::remote::{ExtentHome, SlaveIndex};

/// A named object in the region.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Bytes from the start of the region.
    pub offset: usize,
    /// Bytes in it.
    pub size: usize,
    /// Whether it was there before it was opened.
    pub existed: bool,
}

struct Mapping {
    first: usize,
    size: usize,
    homes: Vec<ExtentHome>,
}

/// The named objects mapped in the region, by slave and hash.
#[derive(Default)]
pub struct NamedObjects {
    mapped: HashMap<(SlaveIndex, ObjectHash), Mapping>,
}

/// What a slave says of a named object.
pub struct Entry {
    pub size: usize,
    pub existed: bool,
    pub homes: Vec<ExtentHome>,
}

impl NamedObjects {
    /// Opens an object, or creates it with `create` bytes. `None` when there is none.
    pub fn open(
        &mut self,
        territory: &Territory,
        slave: SlaveIndex,
        hash: &ObjectHash,
        create: Option<u64>,
    ) -> Result<Option<Opened>, AllocError> {
        let Some(entry) = ask(territory, slave, hash, create)? else {
            self.unmap(territory, slave, hash);
            return Ok(None);
        };
        if let Some(mapping) = self.mapped.get(&(slave, *hash)) {
            if mapping.homes == entry.homes {
                let extents = mapping.first..mapping.first + mapping.homes.len();
                territory.pager.flush_named(extents);
                let offset = mapping.first * EXTENT_BYTES;
                return Ok(Some(Opened { offset, size: mapping.size, existed: true }));
            }
            // Freed and made anew by somebody since.
            self.unmap(territory, slave, hash);
        }
        let count = entry.homes.len();
        let first = territory
            .take_space(count, Owner::Named)
            .ok_or_else(|| AllocError::OutOfMemory(format!("the region has no room for {count} more MiB")))?;
        territory.pager.bind(first, &entry.homes, true, !entry.existed);
        self.mapped.insert((slave, *hash), Mapping { first, size: entry.size, homes: entry.homes });
        Ok(Some(Opened { offset: first * EXTENT_BYTES, size: entry.size, existed: entry.existed }))
    }

    fn unmap(&mut self, territory: &Territory, slave: SlaveIndex, hash: &ObjectHash) {
        if let Some(mapping) = self.mapped.remove(&(slave, *hash)) {
            territory.pager.unbind(mapping.first, mapping.homes.len());
            territory.give_space(mapping.first, mapping.homes.len());
        }
    }

    /// Frees an object for everyone. False when there is none.
    pub fn free(&mut self, territory: &Territory, slave: SlaveIndex, hash: &ObjectHash) -> bool {
        self.unmap(territory, slave, hash);
        let mut message = [0; FREE_NAME_REQUEST_BYTES];
        let answer = territory.pager.call(slave, encode_free_name(&hash.0, &mut message));
        answer.is_ok_and(|answer| decode_empty_response(&answer).is_ok())
    }

    /// Writes changed pages of all mapped objects back and forgets them.
    pub fn flush(&mut self, territory: &Territory) {
        for mapping in self.mapped.values() {
            territory.pager.flush_named(mapping.first..mapping.first + mapping.homes.len());
        }
    }
}

/// Finds an object, or makes it.
pub fn ask(
    territory: &Territory,
    slave: SlaveIndex,
    hash: &ObjectHash,
    create_bytes: Option<u64>,
) -> Result<Option<Entry>, AllocError> {
    let failed = |why: &dyn std::fmt::Display| AllocError::OutOfMemory(format!("slave {}: {why}", slave + 1));
    let mut message = [0; OPEN_NAME_REQUEST_BYTES];
    let request = OpenName { hash: hash.0, create_bytes };
    let answer = territory.pager.call(slave, request.encode(&mut message)).map_err(|error| failed(&error))?;
    let opened = match OpenedName::decode_response(&answer) {
        Ok(opened) => opened,
        Err(OpenNameRefusal::SizeDiffers { existing_bytes }) => {
            return Err(AllocError::SizeDiffers { existing: existing_bytes as usize });
        }
        Err(OpenNameRefusal::Response(ResponseError::Refused(Status::NoSuchName))) => return Ok(None),
        Err(refusal) => return Err(failed(&refusal)),
    };
    let total = opened.total_extents as usize;
    let mut extents: Vec<ExtentRef> = opened.extents.iter().collect();
    while extents.len() < total {
        let mut message = [0; NAME_EXTENTS_REQUEST_BYTES];
        let message = encode_name_extents(&hash.0, extents.len() as u32, &mut message);
        let answer = territory.pager.call(slave, message).map_err(|error| failed(&error))?;
        let more = decode_name_extents_response(&answer).map_err(|error| failed(&error))?;
        if more.iter().next().is_none() {
            return Err(failed(&"it named fewer extents than it said"));
        }
        extents.extend(more.iter());
    }
    let homes = extents.into_iter().map(|extent| ExtentHome { slave, extent }).collect();
    Ok(Some(Entry { size: opened.size_bytes as usize, existed: opened.existed, homes }))
}
