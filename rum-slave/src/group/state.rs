//! What a group replicates: pages, who owns them, named objects, and which commands of clients were run. A machine without I/O and
//! clock, whose outcome depends on nothing but the entries: all slaves of a group come to the same.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
};

use rum_net::{
    PAGE_BYTES,
    rpc::{Incarnation, Response},
    wire::message::{
        MAX_BATCH_EXTENTS, NameHash, PageList, PageRef, ReadResponseWriter, Request, Status, WriteRequest,
        encode_extents_response, encode_open_name_response, encode_size_differs, encode_status,
    },
};
use serde_bytes::ByteBuf;

use super::{
    entry::{Operation, Run},
    image::{ClientImage, DirectoryImage, PageImage, PageKey},
};
use crate::{
    account::Accounts,
    extent::Owner,
    store::{OpenNameError, Store},
};

/// Clients whose lease has run out that are remembered. What an older one had is guarded by the generations of extents.
const MAX_FENCED: usize = 1 << 16;

/// A client with a lease.
#[derive(Debug, Default)]
struct ClientRecord {
    settled: u64,
    /// Of commands that the client may ask for again.
    answers: BTreeMap<u64, Vec<u8>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct State {
    store: Store,
    clients: BTreeMap<Incarnation, ClientRecord>,
    fenced: BTreeSet<Incarnation>,
    fenced_in_order: VecDeque<Incarnation>,
    /// The last slot whose outcome is in the directory, and, unless pages of a transfer are missing, in the pages.
    directory_slot: u64,
    /// While pages of a transfer are missing: the directory from before it, for which they are not needed.
    former: Option<Box<DirectoryImage>>,
    /// Pages that came from disk damaged, and as of which slot they are to be.
    damaged: BTreeSet<PageKey>,
    damaged_as_of: u64,
    was_replaced: bool,
    pages_written: u64,
    expired: u64,
}

impl State {
    /// Nothing yet.
    pub fn new(accounts: Accounts) -> Self {
        Self {
            store: Store::new(0, 1).with_accounts(accounts).replicated(),
            clients: BTreeMap::new(),
            fenced: BTreeSet::new(),
            fenced_in_order: VecDeque::new(),
            directory_slot: 0,
            former: None,
            damaged: BTreeSet::new(),
            damaged_as_of: 0,
            was_replaced: false,
            pages_written: 0,
            expired: 0,
        }
    }

    /// The store, to look at.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// See `Store::tamper`.
    pub fn tamper(&mut self, change: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        self.store.tamper(change);
    }

    /// Whether what this slot did is here already.
    pub fn has(&self, slot: u64) -> bool {
        slot <= self.directory_slot
    }

    /// Whether a client has a lease.
    pub fn has_lease(&self, client: Incarnation) -> bool {
        self.clients.contains_key(&client)
    }

    /// Clients with a lease.
    pub fn clients(&self) -> impl Iterator<Item = Incarnation> {
        self.clients.keys().copied()
    }

    /// Whether a client's lease has run out.
    pub fn is_fenced(&self, client: Incarnation) -> bool {
        self.fenced.contains(&client)
    }

    /// Pages written since the start.
    pub fn pages_written(&self) -> u64 {
        self.pages_written
    }

    /// Leases that have run out since the start.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Gives freed memory back to the kernel, bit by bit. Returns whether there is more.
    pub fn tidy(&mut self) -> bool {
        self.store.tidy(1)
    }

    /// Does what slot `slot` has decided, unless that came by a transfer; the answer to a command.
    pub fn apply(&mut self, slot: u64, operation: &Operation) -> Option<Vec<u8>> {
        match operation {
            _ if slot <= self.directory_slot => None,
            Operation::Run(run) => {
                self.directory_slot = slot;
                Some(self.run_once(slot, run))
            }
            Operation::Expire { client } => {
                self.directory_slot = slot;
                let client = Incarnation(*client);
                if self.clients.contains_key(&client) {
                    self.expired += 1;
                    let extents = self.end(client);
                    tracing::info!("lease of client {:032x} ended, {extents} extents reclaimed", client.0);
                }
                None
            }
        }
    }

    fn run_once(&mut self, slot: u64, run: &Run) -> Vec<u8> {
        let client = run.client();
        let mut answer = Vec::new();
        if self.fenced.contains(&client) {
            encode_status(Status::Fenced, &mut answer);
            return answer;
        }
        let record = self.clients.entry(client).or_default();
        if run.sequence <= record.settled {
            // The client has the answer, and is not waiting for this one.
            encode_status(Status::Malformed, &mut answer);
            return answer;
        }
        if run.settled > record.settled {
            record.settled = run.settled;
            record.answers = record.answers.split_off(&(run.settled + 1));
        }
        if let Some(answer) = record.answers.get(&run.sequence) {
            return answer.clone();
        }
        if let Err(status) = self.run(slot, run, &mut answer) {
            answer.clear();
            encode_status(status, &mut answer);
        }
        if let Some(record) = self.clients.get_mut(&client) {
            record.answers.insert(run.sequence, answer.clone());
        }
        answer
    }

    fn run(&mut self, slot: u64, run: &Run, answer: &mut Vec<u8>) -> Result<(), Status> {
        let (client, account) = (run.client(), run.account);
        match Request::decode(&run.request).map_err(|error| error.status())? {
            Request::Write(write) => self.write(slot, client, write)?,
            Request::Reserve { count } => {
                self.store.limit(run.capacity, account, run.quota, run.first_generation);
                let extents = self.store.reserve(Owner::Client(client), account, count as u64)?;
                encode_extents_response(&extents, answer);
                return Ok(());
            }
            Request::Release(extents) => self.store.release(client, extents.iter())?,
            Request::OpenName(open) => {
                self.store.limit(run.capacity, account, run.quota, run.first_generation);
                match self.store.open_name(account, open.hash, open.create_bytes) {
                    Ok((object, existed)) => {
                        encode_open_name_response(object.size_bytes, existed, &object.extents, answer);
                    }
                    Err(OpenNameError::SizeDiffers { existing_bytes }) => encode_size_differs(existing_bytes, answer),
                    Err(OpenNameError::Refused(status)) => return Err(status),
                }
                return Ok(());
            }
            Request::FreeName { hash } => self.store.free_name(&hash)?,
            Request::Bye => drop(self.end(client)),
            _ => return Err(Status::Unsupported),
        }
        encode_status(Status::Ok, answer);
        Ok(())
    }

    fn write(&mut self, slot: u64, client: Incarnation, write: WriteRequest<'_>) -> Result<(), Status> {
        for page in write.pages().iter() {
            self.store.check(client, page)?;
        }
        for (page, content) in write.iter() {
            self.store.write_in_slot(slot, page, content)?;
            if !self.damaged.is_empty() {
                self.damaged.remove(&key(page));
            }
        }
        self.pages_written += write.pages().len() as u64;
        Ok(())
    }

    /// Fences a client and frees what it owned.
    fn end(&mut self, client: Incarnation) -> usize {
        self.clients.remove(&client);
        if self.fenced.insert(client) {
            self.fenced_in_order.push_back(client);
        }
        while self.fenced_in_order.len() > MAX_FENCED {
            if let Some(oldest) = self.fenced_in_order.pop_front() {
                self.fenced.remove(&oldest);
            }
        }
        self.store.reclaim(client)
    }

    /// What pages hold, for a client that may read them.
    pub fn read(&self, client: Incarnation, pages: PageList<'_>, response: &mut Response) -> Result<(), Status> {
        if self.is_fenced(client) {
            return Err(Status::Fenced);
        }
        let mut writer = ReadResponseWriter::new(response);
        for page in pages.iter() {
            writer.push(self.store.read(client, page)?);
        }
        Ok(())
    }

    /// The state, of which these pages are damaged.
    pub fn with_damaged(self, damaged: Vec<PageKey>) -> Self {
        let damaged_as_of = self.directory_slot;
        Self { damaged: damaged.into_iter().collect(), damaged_as_of, ..self }
    }

    /// Pages that are damaged, but for those that nobody can ask for any more.
    pub fn damaged(&mut self) -> &BTreeSet<PageKey> {
        let Self { damaged, store, .. } = self;
        damaged.retain(|key| store.page(*key).is_some());
        damaged
    }

    /// Whether any page is damaged.
    pub fn has_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// Whether any of these pages is damaged.
    pub fn is_any_damaged(&self, pages: PageList<'_>) -> bool {
        self.has_damaged() && pages.iter().any(|page| self.damaged.contains(&key(page)))
    }

    /// Takes another slave's copy, as of slot `as_of`, of a page that is damaged here. An older one than what was here would undo writes.
    pub fn repair(&mut self, as_of: u64, page: &PageImage) {
        if as_of >= self.damaged_as_of && self.damaged.remove(&page.key()) {
            self.install_page(page);
        }
    }

    /// A copy of a page for another slave, with the slot as of which it is; none if there is no such extent, or no copy.
    pub fn copy(&self, key: PageKey) -> Option<PageImage> {
        if self.is_torn() || self.damaged.contains(&key) { None } else { self.store.page(key) }
    }

    /// The last slot that was applied.
    pub fn as_of(&self) -> u64 {
        self.directory_slot
    }

    /// The extents of a named object, without the first `from`.
    pub fn name_extents(&self, hash: &NameHash, from: u32, response: &mut Vec<u8>) -> Result<(), Status> {
        let object = self.store.name(hash).ok_or(Status::NoSuchName)?;
        let rest = object.extents.get(from as usize..).unwrap_or_default();
        encode_extents_response(&rest[..rest.len().min(MAX_BATCH_EXTENTS)], response);
        Ok(())
    }

    /// All but the pages, for a slave that lacks it.
    pub fn directory(&self) -> DirectoryImage {
        let client = |(client, record): (&Incarnation, &ClientRecord)| ClientImage {
            client: client.0,
            settled: record.settled,
            answers: record
                .answers
                .iter()
                .map(|(&sequence, answer)| (sequence, ByteBuf::from(answer.clone())))
                .collect(),
        };
        DirectoryImage {
            as_of: self.directory_slot,
            clients: self.clients.iter().map(client).collect(),
            fenced: self.fenced_in_order.iter().map(|client| client.0).collect(),
            ..self.store.directory()
        }
    }

    /// Takes another slave's directory over, unless this one is as late. Pages may be missing then, until `has_all_pages` says that they are
    /// not.
    ///
    /// # Errors
    /// When there is no address space for the extents; nothing is there any more then.
    pub fn install_directory(&mut self, image: DirectoryImage) -> io::Result<()> {
        if image.as_of <= self.directory_slot {
            return Ok(());
        }
        if self.former.is_none() {
            self.former = Some(Box::new(self.directory()));
        }
        self.become_directory(image)
    }

    /// Whether pages may be missing that the directory should have.
    pub fn is_torn(&self) -> bool {
        self.former.is_some()
    }

    /// All pages have come that belong to the directory that was taken over.
    pub fn has_all_pages(&mut self) {
        self.former = None;
    }

    /// Goes back to the directory from before a transfer of which pages are missing: the entries since are to be applied again. Pages that have come
    /// stay, for they are newer. Those of extents that the other directory did not have are gone, but nobody sees it: entries that were decided
    /// before that directory was sent free these extents, and nothing is read here before they are applied.
    ///
    /// # Errors
    /// When there is no address space for the extents; nothing is there any more then.
    pub fn roll_back(&mut self) -> io::Result<()> {
        match self.former.take() {
            Some(former) => self.become_directory(*former),
            None => Ok(()),
        }
    }

    /// Becomes what the image says, but for pages that are not here.
    ///
    /// # Errors
    /// When there is no address space for the extents; nothing is there any more then.
    pub fn become_directory(&mut self, mut image: DirectoryImage) -> io::Result<()> {
        self.store.become_directory(&mut image)?;
        self.directory_slot = image.as_of;
        let record = |client: ClientImage| {
            let answers = client.answers.into_iter().map(|(sequence, answer)| (sequence, answer.into_vec())).collect();
            (Incarnation(client.client), ClientRecord { settled: client.settled, answers })
        };
        self.clients = image.clients.into_iter().map(record).collect();
        self.fenced_in_order = image.fenced.into_iter().map(Incarnation).collect();
        self.fenced = self.fenced_in_order.iter().copied().collect();
        Ok(())
    }

    /// Lets a page that the same slot wrote hold another slave's contents. False if another slot wrote it, or it is not there.
    pub fn replace_page(&mut self, page: &PageImage) -> bool {
        let Some((name, content)) = page.parts() else { return false };
        let is_replaced = self.store.replace_in_slot(page.slot, name, content);
        self.was_replaced |= is_replaced;
        is_replaced
    }

    /// Whether pages were replaced since the last call. A disk may have what was wrong.
    pub fn take_was_replaced(&mut self) -> bool {
        std::mem::take(&mut self.was_replaced)
    }

    /// Takes another slave's page over, unless this one has a later one.
    pub fn install_page(&mut self, page: &PageImage) {
        let Some((name, content)) = page.parts() else { return };
        // An extent that the directory does not have comes by later entries.
        let _ = self.store.write_in_slot(page.slot, name, content);
    }
}

fn key(page: PageRef) -> PageKey {
    PageKey { index: page.extent.index, generation: page.extent.generation, page: page.page as u8 }
}

#[cfg(test)]
mod tests;
