//! Answers one request after another over the store. No I/O and no clock: sessions and requests come in, responses
//! go out.

use std::{
    fmt,
    time::{Duration, Instant},
};

use rum_net::{
    PAGE_BYTES,
    rpc::{Incarnation, Response},
    wire::message::{
        ExtentList, MAX_BATCH_EXTENTS, MAX_BATCH_NAMES, NameHash, OpenName, PageList, ReadResponseWriter, Request,
        Stat, Status, WriteRequest, encode_extents_response, encode_names_response, encode_open_name_response,
        encode_size_differs, encode_status,
    },
};

use crate::{
    account::AccountId,
    description::{PartDescription, SlaveDescription},
    extent::Owner,
    lease::{LeaseTable, Opening},
    store::{OpenNameError, Store},
};

/// What was done since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// Clients that joined.
    pub clients: u64,
    /// Requests answered, the refused ones included.
    pub requests: u64,
    /// Pages read.
    pub pages_read: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Requests answered with each status, by number; the first are those that were done.
    pub answered: [u64; Status::ALL.len()],
    /// Leases that ended without a bye.
    pub leases_expired: u64,
    /// Extents that were freed because their client's lease had ended.
    pub extents_reclaimed: u64,
    /// Reservations refused because a client's quota was used up.
    pub over_quota: u64,
    /// Sessions refused because the slave does not know the name, or the incarnation belongs to another one.
    pub sessions_refused: u64,
    /// Where pages are replicated: those whose copies were compared.
    pub pages_compared: u64,
    /// Those that were wrong here, and were replaced.
    pub pages_repaired: u64,
}

impl Totals {
    /// Requests refused, for any reason.
    pub fn refused(&self) -> u64 {
        self.requests - self.answered[Status::Ok as usize]
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clients, requests, pages_read, pages_written, leases_expired, extents_reclaimed, .. } = self;
        let Self { over_quota, sessions_refused, .. } = self;
        write!(
            f,
            "{clients} clients, {requests} requests ({} refused), {pages_read} pages read, {pages_written} written, \
             {leases_expired} leases expired ({extents_reclaimed} extents reclaimed)",
            self.refused()
        )?;
        if over_quota + sessions_refused > 0 {
            write!(f, ", {over_quota} over quota, {sessions_refused} sessions refused")?;
        }
        if self.pages_compared + self.pages_repaired > 0 {
            write!(f, ", scrub: {} pages compared, {} repaired", self.pages_compared, self.pages_repaired)?;
        }
        Ok(())
    }
}

/// The store, and the clients that may use it.
#[derive(Debug)]
pub struct Service {
    incarnation: Incarnation,
    lease: Duration,
    store: Store,
    leases: LeaseTable,
    sessions: u64,
    totals: Totals,
    /// As messages call the slave.
    name: Option<String>,
    start: Instant,
}

impl Service {
    /// A service over an empty store. `lease` is only told to clients: their sessions are timed by whoever owns a clock.
    pub fn new(incarnation: Incarnation, lease: Duration, store: Store) -> Self {
        let (leases, totals) = (LeaseTable::default(), Totals::default());
        Self { incarnation, lease, store, leases, sessions: 0, totals, name: None, start: Instant::now() }
    }

    /// The service of a slave that is called so.
    pub fn named(self, name: Option<String>) -> Self {
        Self { name, ..self }
    }

    /// A client wants a session; `name` is what its key has proven, `None` where no key is asked for. Returns whether it may
    /// have one: not if the name has no account, nor if the incarnation belongs to another name, alive or fenced. What was refused
    /// is never reported as closed.
    #[must_use]
    pub fn session_opened(&mut self, client: Incarnation, name: Option<&str>) -> bool {
        let opening = match self.store.accounts().find(name) {
            Some(account) => self.leases.opened(client, account),
            None => Opening::Foreign,
        };
        match opening {
            Opening::Foreign => self.totals.sessions_refused += 1,
            Opening::New => self.totals.clients += 1,
            Opening::Known | Opening::Fenced => {}
        }
        let is_accepted = opening != Opening::Foreign;
        self.sessions += u64::from(is_accepted);
        is_accepted
    }

    /// A session of a client ended, by its own wish or because it was silent. `settle` acts on it.
    pub fn session_closed(&mut self, client: Incarnation) {
        self.sessions = self.sessions.saturating_sub(1);
        self.leases.closed(client);
    }

    /// Frees what clients without a session owned. To be called when the events of a packet, or of the time, are
    /// through: a client that closes a session and opens another in one go keeps its lease.
    pub fn settle(&mut self) {
        for client in self.leases.take_ended() {
            let extents = self.store.reclaim(client);
            self.totals.leases_expired += 1;
            self.totals.extents_reclaimed += extents as u64;
            tracing::info!("lease of client {:032x} ended, {extents} extents reclaimed", client.0);
        }
    }

    /// Answers a request: builds the response in `response`, which is empty.
    pub fn answer(&mut self, client: Incarnation, message: &[u8], response: &mut Response) {
        if let Err(status) = self.serve(client, message, response) {
            response.clear();
            encode_status(status, &mut response.head);
        }
        let status = usize::from(response.head[0]);
        self.totals.requests += 1;
        self.totals.answered[status] += 1;
    }

    /// The store, to look at.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// See `Store::tamper`.
    pub fn tamper(&mut self, change: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        self.store.tamper(change);
    }

    /// Gives freed memory back to the kernel, bit by bit. Returns whether there is more.
    pub fn tidy(&mut self) -> bool {
        self.store.tidy(1)
    }

    /// What was done since the start.
    pub fn totals(&self) -> Totals {
        Totals { over_quota: self.store.refused_by_account(), ..self.totals }
    }

    /// What `describe` answers.
    pub fn describe(&self) -> SlaveDescription {
        let part = PartDescription {
            standing: "alone".to_owned(),
            leases: self.leases.alive() as u64,
            ..self.store.describe()
        };
        SlaveDescription {
            name: self.name.clone(),
            replication_factor: 1,
            capacity_bytes: part.capacity_bytes,
            sessions: self.sessions,
            lease_ms: self.lease.as_millis() as u64,
            up_s: self.start.elapsed().as_secs(),
            parts: vec![part],
        }
    }

    /// What `stat` answers.
    pub fn stat(&self) -> Stat {
        Stat {
            incarnation: self.incarnation,
            capacity_extents: self.store.quota().capacity(),
            reserved_extents: self.store.quota().reserved(),
            used_pages: self.store.used_pages(),
            sessions: self.sessions,
            lease: self.lease,
        }
    }

    fn serve(&mut self, client: Incarnation, message: &[u8], response: &mut Response) -> Result<(), Status> {
        let request = Request::decode(message).map_err(|error| {
            tracing::debug!("client {:032x}: {error}", client.0);
            error.status()
        })?;
        let account = self.leases.account(client).ok_or(Status::Fenced)?;
        if let Request::Read(pages) = request {
            return self.read(client, pages, response);
        }
        let response = &mut response.head;
        match request {
            Request::Read(_) => {}
            Request::Write(write) => self.write(client, write)?,
            Request::Stat => {
                self.stat().encode_response(response);
                return Ok(());
            }
            Request::Reserve { count } => {
                let extents = self.store.reserve(Owner::Client(client), account, count as u64)?;
                encode_extents_response(&extents, response);
                return Ok(());
            }
            Request::Release(extents) => self.release(client, extents)?,
            Request::OpenName(open) => return self.open_name(account, open, response),
            Request::NameExtents { hash, from } => return self.name_extents(&hash, from, response),
            Request::Names { after } => {
                encode_names_response(&self.store.names_after(account, after.as_ref(), MAX_BATCH_NAMES), response);
                return Ok(());
            }
            Request::FreeName { hash } => self.store.free_name(&hash)?,
            Request::Renew => {}
            Request::Describe => {
                encode_status(Status::Ok, response);
                response.extend_from_slice(&self.describe().to_json());
                return Ok(());
            }
            // Here nothing is replicated.
            Request::Command(_) | Request::Ask { .. } | Request::Peer { .. } => return Err(Status::Unsupported),
            Request::Bye => {
                self.leases.bye(client);
                self.store.reclaim(client);
            }
        }
        encode_status(Status::Ok, response);
        Ok(())
    }

    fn read(&mut self, client: Incarnation, pages: PageList<'_>, response: &mut Response) -> Result<(), Status> {
        let mut writer = ReadResponseWriter::new(response);
        for page in pages.iter() {
            writer.push(self.store.read(client, page)?);
        }
        self.totals.pages_read += pages.len() as u64;
        Ok(())
    }

    fn write(&mut self, client: Incarnation, write: WriteRequest<'_>) -> Result<(), Status> {
        for page in write.pages().iter() {
            self.store.check(client, page)?;
        }
        for (page, content) in write.iter() {
            self.store.write(client, page, content)?;
        }
        self.totals.pages_written += write.pages().len() as u64;
        Ok(())
    }

    fn release(&mut self, client: Incarnation, extents: ExtentList<'_>) -> Result<(), Status> {
        self.store.release(client, extents.iter())
    }

    fn open_name(&mut self, account: AccountId, open: OpenName, response: &mut Vec<u8>) -> Result<(), Status> {
        match self.store.open_name(account, open.hash, open.create_bytes) {
            Ok((object, existed)) => {
                encode_open_name_response(object.size_bytes, existed, &object.extents, response);
            }
            Err(OpenNameError::SizeDiffers { existing_bytes }) => encode_size_differs(existing_bytes, response),
            Err(OpenNameError::Refused(status)) => return Err(status),
        }
        Ok(())
    }

    fn name_extents(&self, hash: &NameHash, from: u32, response: &mut Vec<u8>) -> Result<(), Status> {
        let object = self.store.name(hash).ok_or(Status::NoSuchName)?;
        let rest = object.extents.get(from as usize..).unwrap_or_default();
        encode_extents_response(&rest[..rest.len().min(MAX_BATCH_EXTENTS)], response);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
