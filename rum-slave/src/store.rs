//! What a slave stores: extents with their pages and owners, and the named objects, within the capacity.
//!
//! Every operation checks all it was asked before it changes anything: it does all or nothing.

use std::{collections::BTreeMap, io};

use rum_net::{
    EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES,
    port::page::Page,
    rpc::Incarnation,
    wire::message::{ExtentRef, NameHash, PageContent, PageRef, Status},
};

use crate::{
    account::{AccountId, Accounts},
    description::PartDescription,
    extent::{Extent, ExtentTable, Owner},
    frames::{Frames, PageNumber},
    group::image::{DirectoryImage, PageBytes, PageImage, PageKey},
    name::{NameTable, NamedObject, extents_for},
    quota::Quota,
    replication::PEER_KEY,
};

/// Owners and accounts of one description, at most: it has to fit into an answer.
const MAX_DESCRIBED: usize = 256;

/// Takes a page: its extent, its number there, the slot that wrote it, and what it holds; `None` are zeros.
type Visitor<'a> = dyn FnMut(ExtentRef, PageNumber, u64, Option<Page>) + 'a;

/// The pages, extents and names of a slave.
#[derive(Debug)]
pub struct Store {
    extents: ExtentTable,
    names: NameTable,
    quota: Quota,
    accounts: Accounts,
    refused_by_account: u64,
    used_pages: u64,
    /// Freed, but not yet given back to the kernel, which takes some 100 µs an extent: see `tidy`.
    freed: Vec<Frames>,
    /// Which slot wrote each page is remembered.
    is_replicated: bool,
}

/// Why a named object was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenNameError {
    /// It exists with another size.
    SizeDiffers {
        /// Its size.
        existing_bytes: u64,
    },
    /// Any other reason.
    Refused(Status),
}

impl Store {
    /// An empty store of `capacity` extents. See `ExtentTable::new` for `first_generation`.
    pub fn new(capacity: u64, first_generation: u32) -> Self {
        Self {
            extents: ExtentTable::new(first_generation),
            names: NameTable::default(),
            quota: Quota::new(capacity),
            accounts: Accounts::default(),
            refused_by_account: 0,
            used_pages: 0,
            freed: Vec::new(),
            is_replicated: false,
        }
    }

    /// The store with these accounts, which hold nothing yet.
    pub fn with_accounts(self, accounts: Accounts) -> Self {
        Self { accounts, ..self }
    }

    /// The store of a group of slaves: it remembers which slot of the group's log wrote each page.
    pub fn replicated(self) -> Self {
        Self { is_replicated: true, ..self }
    }

    /// What the next reservations may take, as the leader of a group said it.
    pub fn limit(&mut self, capacity: u64, account: AccountId, quota: u64, first_generation: u32) {
        self.quota.limit(capacity);
        self.accounts.limit(account, quota);
        self.extents.set_first_generation(first_generation);
    }

    /// Gives `count` extents to `owner`, at the cost of `account`, or none: `Full` when that is beyond the account's quota or the
    /// slave's.
    pub fn reserve(&mut self, owner: Owner, account: AccountId, count: u64) -> Result<Vec<ExtentRef>, Status> {
        if self.accounts.take(account, count).is_err() {
            self.refused_by_account += 1;
            return Err(Status::Full);
        }
        let reserved = self.reserve_for(owner, account, count);
        if reserved.is_err() {
            self.accounts.give_back(account, count);
        }
        reserved
    }

    fn reserve_for(&mut self, owner: Owner, account: AccountId, count: u64) -> Result<Vec<ExtentRef>, Status> {
        self.quota.take(count).map_err(|_| Status::Full)?;
        while !self.freed.is_empty() && self.quota.reserved() + self.freed.len() as u64 > self.quota.capacity() {
            self.freed.pop();
        }
        let frames: Result<Vec<Frames>, _> = (0..count).map(|_| Frames::map()).collect();
        match frames {
            Ok(frames) => {
                let written = || self.is_replicated.then(|| Box::new([0; EXTENT_PAGES]));
                let named = frames
                    .into_iter()
                    .map(|frames| self.extents.insert(Extent { owner, account, frames, written: written() }));
                Ok(named.collect())
            }
            Err(error) => {
                tracing::error!("cannot map {count} extents: {error}; see vm.max_map_count and vm.overcommit_memory");
                self.quota.give_back(count);
                Err(Status::Full)
            }
        }
    }

    /// Frees unnamed extents of `client`, all of them or none. An extent named twice is freed before it is reached
    /// again: `StaleExtent`.
    pub fn release(&mut self, client: Incarnation, extents: impl Iterator<Item = ExtentRef>) -> Result<(), Status> {
        let mut seen = Vec::new();
        for extent in extents {
            if self.extents.get(extent)?.owner != Owner::Client(client) {
                return Err(Status::NotOwner);
            }
            seen.push(extent);
        }
        let count = seen.len();
        seen.sort_unstable_by_key(|extent| extent.index);
        seen.dedup();
        if seen.len() != count {
            return Err(Status::StaleExtent);
        }
        self.free(&seen);
        Ok(())
    }

    /// What a page holds, for `client`; `None` are zeros.
    pub fn read(&self, client: Incarnation, page: PageRef) -> Result<Option<Page>, Status> {
        let (extent, number) = self.find(client, page)?;
        Ok(extent.frames.read(number))
    }

    /// The extent and number of a page that `client` may read and write.
    fn find(&self, client: Incarnation, page: PageRef) -> Result<(&Extent, PageNumber), Status> {
        let number = page_number(page)?;
        let extent = self.extents.get(page.extent)?;
        if extent.owner.admits(client) { Ok((extent, number)) } else { Err(Status::NotOwner) }
    }

    /// Whether `client` may read and write a page.
    pub fn check(&self, client: Incarnation, page: PageRef) -> Result<(), Status> {
        self.find(client, page).map(drop)
    }

    /// Lets a page hold `content`, for `client`.
    pub fn write(&mut self, client: Incarnation, page: PageRef, content: PageContent<'_>) -> Result<(), Status> {
        self.check(client, page)?;
        self.write_in_slot(0, page, content)
    }

    /// Lets a page hold `content`, as slot `slot` of the group's log has it, unless a later one wrote it.
    pub fn write_in_slot(&mut self, slot: u64, page: PageRef, content: PageContent<'_>) -> Result<(), Status> {
        let number = page_number(page)?;
        let extent = self.extents.get_mut(page.extent)?;
        if let Some(written) = &mut extent.written {
            let written = &mut written[usize::from(number)];
            if *written >= slot {
                return Ok(());
            }
            *written = slot;
        }
        self.put(page.extent, number, content)
    }

    /// Lets a page that slot `slot` wrote hold `content`. False if another slot wrote it, or it is not there.
    pub fn replace_in_slot(&mut self, slot: u64, page: PageRef, content: PageContent<'_>) -> bool {
        let has_slot = self.copy(page).is_some_and(|(written, _)| written == slot);
        has_slot && page_number(page).is_ok_and(|number| self.put(page.extent, number, content).is_ok())
    }

    fn put(&mut self, extent: ExtentRef, number: PageNumber, content: PageContent<'_>) -> Result<(), Status> {
        let extent = self.extents.get_mut(extent)?;
        let was_present = extent.frames.is_present(number);
        extent.frames.write(number, content);
        self.used_pages += u64::from(extent.frames.is_present(number));
        self.used_pages -= u64::from(was_present);
        Ok(())
    }

    /// The named object, and whether it existed; without `create_bytes` it has to. It counts against the account that
    /// creates it.
    pub fn open_name(
        &mut self,
        account: AccountId,
        hash: NameHash,
        create_bytes: Option<u64>,
    ) -> Result<(&NamedObject, bool), OpenNameError> {
        let existing_bytes = self.names.get(&hash).map(|object| object.size_bytes);
        match (existing_bytes, create_bytes) {
            (None, None) => return Err(OpenNameError::Refused(Status::NoSuchName)),
            (Some(existing_bytes), Some(asked)) if existing_bytes != asked => {
                return Err(OpenNameError::SizeDiffers { existing_bytes });
            }
            (Some(_), _) => {}
            (None, Some(size_bytes)) => {
                let extents = self.reserve(Owner::Named, account, extents_for(size_bytes));
                let extents = extents.map_err(OpenNameError::Refused)?;
                self.names.insert(hash, NamedObject { size_bytes, extents });
            }
        }
        let object = self.names.get(&hash).ok_or(OpenNameError::Refused(Status::NoSuchName))?;
        Ok((object, existing_bytes.is_some()))
    }

    /// The named object, if there is one.
    pub fn name(&self, hash: &NameHash) -> Option<&NamedObject> {
        self.names.get(hash)
    }

    /// Named objects and their sizes in bytes, behind `after` in the order of their names, up to `most`: of those that count against `account`; all where
    /// clients have no names, and for who has the slaves' own.
    pub fn names_after(&self, account: AccountId, after: Option<&NameHash>, most: usize) -> Vec<(NameHash, u64)> {
        let sees_all = account == AccountId::NOBODY || self.accounts.find(Some(PEER_KEY)) == Some(account);
        let is_theirs = |object: &NamedObject| {
            let first = object.extents.first().and_then(|&extent| self.extents.get(extent).ok());
            sees_all || first.is_some_and(|extent| extent.account == account)
        };
        let found =
            self.names.iter().filter(|(hash, object)| after.is_none_or(|after| *hash > after) && is_theirs(object));
        let mut names: Vec<(NameHash, u64)> = found.map(|(hash, object)| (*hash, object.size_bytes)).collect();
        names.sort_unstable();
        names.truncate(most);
        names
    }

    /// Frees a named object.
    pub fn free_name(&mut self, hash: &NameHash) -> Result<(), Status> {
        let object = self.names.remove(hash).ok_or(Status::NoSuchName)?;
        self.free(&object.extents);
        Ok(())
    }

    /// Frees all unnamed extents of a client whose lease has ended, and says how many. What is freed is decided by who
    /// owns an extent now, never by what the client once had.
    pub fn reclaim(&mut self, client: Incarnation) -> usize {
        let owned = |(name, extent): (ExtentRef, &Extent)| (extent.owner == Owner::Client(client)).then_some(name);
        let extents: Vec<ExtentRef> = self.extents.iter().filter_map(owned).collect();
        self.free(&extents);
        extents.len()
    }

    /// Gives the memory of up to `extents` freed extents back to the kernel. Returns whether there is more: it is spread
    /// over time so that a large client's end does not keep the others waiting.
    pub fn tidy(&mut self, extents: usize) -> bool {
        self.freed.truncate(self.freed.len().saturating_sub(extents));
        !self.freed.is_empty()
    }

    /// Extents in all, and extents given out.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Who holds how much.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// How often an account's quota stood against a reservation.
    pub fn refused_by_account(&self) -> u64 {
        self.refused_by_account
    }

    /// Pages that hold data.
    pub fn used_pages(&self) -> u64 {
        self.used_pages
    }

    /// How many named objects there are.
    pub fn names(&self) -> usize {
        self.names.len()
    }

    /// Who has what, without pages and clients.
    pub fn directory(&self) -> DirectoryImage {
        let (places, free) = self.extents.image();
        let name = |(hash, object): (&NameHash, &NamedObject)| {
            (*hash, object.size_bytes, object.extents.iter().map(|extent| extent.index).collect())
        };
        DirectoryImage { places, free, names: self.names.iter().map(name).collect(), ..DirectoryImage::default() }
    }

    /// Becomes what another slave of the group has, but for pages that it lacks: these are zeros.
    ///
    /// # Errors
    /// When there is no address space left; nothing is there any more then.
    pub fn become_directory(&mut self, image: &mut DirectoryImage) -> io::Result<()> {
        let (places, free) = (std::mem::take(&mut image.places), std::mem::take(&mut image.free));
        self.extents.become_image(places, free)?;
        self.names = NameTable::default();
        for (hash, size_bytes, extents) in image.names.drain(..) {
            let extents = extents.iter().filter_map(|&index| Some(self.extents.at(index)?.0)).collect();
            self.names.insert(hash, NamedObject { size_bytes, extents });
        }
        self.quota = Quota::new(u64::MAX);
        self.accounts.hold_nothing();
        self.used_pages = 0;
        for (_, extent) in self.extents.iter() {
            self.used_pages += u64::from(extent.frames.present_pages());
            self.accounts.limit(extent.account, u64::MAX);
            // Without limits both have room.
            let _ = (self.quota.take(1), self.accounts.take(extent.account, 1));
        }
        Ok(())
    }

    /// Pages that were written after slot `since`, up to `most` of them, in places from `cursor` on: calls `sink` with each, and
    /// moves the cursor. False when there are no more.
    pub fn pages_since(
        &self,
        since: u64,
        cursor: &mut (u32, u16),
        most: usize,
        sink: &mut dyn FnMut(PageImage),
    ) -> bool {
        self.visit(since, cursor, most, &mut |name, page, slot, data| {
            let data = data.map(PageBytes::Stored);
            sink(PageImage { index: name.index, generation: name.generation, page, slot, data });
        })
    }

    /// All pages that a slot wrote, with that, in places from `cursor` on, as `pages_since`; `None` are zeros.
    pub fn copies(&self, cursor: &mut (u32, u16), most: usize, sink: &mut Visitor<'_>) -> bool {
        self.visit(0, cursor, most, sink)
    }

    /// The slot that wrote a page, and what it holds; nothing if no slot wrote it.
    pub fn copy(&self, page: PageRef) -> Option<(u64, Option<Page>)> {
        let number = page_number(page).ok()?;
        let extent = self.extents.get(page.extent).ok()?;
        let slot = extent.written(number);
        (slot > 0).then(|| (slot, extent.frames.read(number)))
    }

    fn visit(&self, since: u64, cursor: &mut (u32, u16), most: usize, sink: &mut Visitor<'_>) -> bool {
        let mut found = 0;
        while cursor.0 < self.extents.places() {
            let Some((name, extent)) = self.extents.at(cursor.0) else {
                *cursor = (cursor.0 + 1, 0);
                continue;
            };
            while let Ok(page) = PageNumber::try_from(cursor.1) {
                if found == most {
                    return true;
                }
                cursor.1 += 1;
                let slot = extent.written(page);
                if slot > since {
                    found += 1;
                    sink(name, page, slot, extent.frames.read(page));
                }
            }
            *cursor = (cursor.0 + 1, 0);
        }
        false
    }

    /// The names of all extents.
    pub fn extents(&self) -> impl Iterator<Item = ExtentRef> {
        self.extents.iter().map(|(name, _)| name)
    }

    /// Of each place how many of its pages were ever written, by a group.
    pub fn written(&self) -> Vec<u16> {
        let written = |index| {
            let written = self.extents.at(index).and_then(|(_, extent)| extent.written.as_deref());
            written.map_or(0, |written| written.iter().filter(|slot| **slot > 0).count() as u16)
        };
        (0..self.extents.places()).map(written).collect()
    }

    /// A page with the slot that wrote it; zeros of slot 0 if none did. Nothing if there is no such extent.
    pub fn page(&self, key: PageKey) -> Option<PageImage> {
        let PageKey { index, generation, page } = key;
        let (_, extent) = self.extents.at(index).filter(|(name, _)| name.generation == generation)?;
        let data = extent.frames.read(page).map(|page| PageBytes::Come(page[..].into()));
        Some(PageImage { index, generation, page, slot: extent.written(page), data })
    }

    /// For tests, as memory that is broken: `change` gets each page that holds data, and what it makes of it is there from then on, without anybody's knowing.
    pub fn tamper(&mut self, change: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        for extent in self.extents.iter_mut() {
            for page in PageNumber::MIN..=PageNumber::MAX {
                let Some(held) = extent.frames.read(page).map(|page| *page) else { continue };
                let mut bytes = held;
                change(&mut bytes);
                if bytes != held {
                    extent.frames.write(page, PageContent::Data(&bytes));
                }
            }
        }
    }

    /// What of it a description has: sizes, and who holds how much.
    pub fn describe(&self) -> PartDescription {
        let extent_bytes = EXTENT_BYTES as u64;
        let mut owners = BTreeMap::<String, u64>::new();
        for (_, extent) in self.extents.iter() {
            let owner = match extent.owner {
                Owner::Client(client) => format!("{:032x}", client.0),
                Owner::Named => "named objects".to_owned(),
            };
            *owners.entry(owner).or_default() += extent_bytes;
        }
        PartDescription {
            capacity_bytes: self.quota.capacity().saturating_mul(extent_bytes),
            reserved_bytes: self.quota.reserved() * extent_bytes,
            used_bytes: self.used_pages * PAGE_BYTES as u64,
            names: self.names.len() as u64,
            owners: owners.into_iter().take(MAX_DESCRIBED).collect(),
            accounts: self.accounts.describe().into_iter().take(MAX_DESCRIBED).collect(),
            ..PartDescription::default()
        }
    }

    /// Frees extents that exist.
    fn free(&mut self, extents: &[ExtentRef]) {
        for &extent in extents {
            let Ok(removed) = self.extents.remove(extent) else {
                debug_assert!(false, "{extent:?} was freed before");
                continue;
            };
            self.quota.give_back(1);
            self.accounts.give_back(removed.account, 1);
            self.used_pages -= u64::from(removed.frames.present_pages());
            self.freed.push(removed.frames);
        }
    }
}

fn page_number(page: PageRef) -> Result<PageNumber, Status> {
    PageNumber::try_from(page.page).map_err(|_| Status::OutOfRange)
}

#[cfg(test)]
mod tests;
