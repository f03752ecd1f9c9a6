//! Whose memory it is: each client's name has an account, with a quota or without. A process is an incarnation, and all
//! incarnations of a name share the name's account; so do the named objects that they created, until they are freed.

use std::collections::HashMap;

use rum_net::{EXTENT_BYTES, seal::KeyFile};
use serde::{Deserialize, Serialize};

use crate::quota::{Full, Quota};

/// An account's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AccountId(u32);

impl AccountId {
    /// The account of all clients that have no name, because the slave asks for none. It has no quota.
    pub const NOBODY: Self = Self(0);
}

/// All accounts of a slave.
#[derive(Clone, Debug)]
pub struct Accounts {
    by_name: HashMap<String, AccountId>,
    quotas: Vec<Quota>,
}

impl Default for Accounts {
    fn default() -> Self {
        Self { by_name: HashMap::new(), quotas: vec![Quota::new(u64::MAX)] }
    }
}

impl Accounts {
    /// An account for each client of a key file. Of a quota whole extents count.
    pub fn new(keys: &KeyFile) -> Self {
        let mut accounts = Self::default();
        for client in keys.clients() {
            let extents = client.quota_bytes.map_or(u64::MAX, |bytes| bytes / EXTENT_BYTES as u64);
            accounts.add(&client.name, extents);
        }
        accounts
    }

    /// Opens an account, or changes the quota of one that holds nothing yet.
    pub fn add(&mut self, name: &str, extents: u64) -> AccountId {
        let next = AccountId(u32::try_from(self.quotas.len()).expect("fewer than 4 billion clients"));
        let id = *self.by_name.entry(name.to_owned()).or_insert(next);
        if id == next {
            self.quotas.push(Quota::new(extents));
        } else {
            self.quotas[id.0 as usize] = Quota::new(extents);
        }
        id
    }

    /// The account of a name; `NOBODY`'s without one, `None` for a name that has none.
    pub fn find(&self, name: Option<&str>) -> Option<AccountId> {
        match name {
            None => Some(AccountId::NOBODY),
            Some(name) => self.by_name.get(name).copied(),
        }
    }

    /// Gives an account a quota, whatever it holds; it is opened if there is none of this number.
    pub fn limit(&mut self, id: AccountId, extents: u64) {
        let at = id.0 as usize;
        if at >= self.quotas.len() {
            self.quotas.resize(at + 1, Quota::new(u64::MAX));
        }
        self.quotas[at].limit(extents);
    }

    /// Forgets who holds how much.
    pub fn hold_nothing(&mut self) {
        for quota in &mut self.quotas {
            *quota = Quota::new(quota.capacity());
        }
    }

    /// Those that hold anything or have a quota: whose, bytes held, and quota in bytes.
    pub fn describe(&self) -> Vec<(String, u64, Option<u64>)> {
        let names = self.by_name.iter().map(|(name, id)| (name.clone(), *id));
        let all = names.chain([("(no name)".to_owned(), AccountId::NOBODY)]);
        let bytes = |extents: u64| extents * EXTENT_BYTES as u64;
        let mut described: Vec<_> = all
            .map(|(name, id)| {
                let quota = self.quota(id);
                let is_limited = quota.capacity() <= u64::MAX / EXTENT_BYTES as u64;
                (name, bytes(quota.reserved()), is_limited.then(|| bytes(quota.capacity())))
            })
            .filter(|(_, held, quota)| *held > 0 || quota.is_some())
            .collect();
        described.sort();
        described
    }

    /// Counts `extents` as held, all or none.
    pub fn take(&mut self, id: AccountId, extents: u64) -> Result<(), Full> {
        self.quotas[id.0 as usize].take(extents)
    }

    /// Counts `extents` as held no longer.
    pub fn give_back(&mut self, id: AccountId, extents: u64) {
        self.quotas[id.0 as usize].give_back(extents);
    }

    /// Extents that an account holds, and its quota.
    pub fn quota(&self, id: AccountId) -> Quota {
        self.quotas[id.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_of_a_key_file() {
        let key = |digit: &str| digit.repeat(64);
        let text = format!("a {} 3.5M\nb {}\n", key("1"), key("2"));
        let mut accounts = Accounts::new(&KeyFile::parse("keys", &text).unwrap());
        let a = accounts.find(Some("a")).unwrap();
        let b = accounts.find(Some("b")).unwrap();
        assert_eq!(accounts.find(Some("c")), None);
        assert_eq!(accounts.find(None), Some(AccountId::NOBODY));
        assert!(a != b && a != AccountId::NOBODY && b != AccountId::NOBODY);
        assert_eq!(accounts.take(a, 4), Err(Full { asked: 4, left: 3 }));
        accounts.take(a, 3).unwrap();
        accounts.take(b, 1 << 40).unwrap();
        accounts.give_back(a, 1);
        assert_eq!(accounts.quota(a).reserved(), 2);
    }
}
