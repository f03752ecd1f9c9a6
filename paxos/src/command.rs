//! What is in a slot, and several of them in a row.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::members::Configuration;

/// What the log's entries are to the core: something cheap to clone, an `Arc` as a rule, that knows its size.
pub trait Entry: Clone {
    /// About how many bytes of memory the entry holds, for the limits on log and messages.
    fn size_bytes(&self) -> usize;
}

/// What a slot decides.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Command<E> {
    /// Nothing: fills a slot, or shows a new leader that its ballot can decide.
    Noop,
    /// The configuration in force for all later slots.
    Reconfigure(Configuration),
    /// An entry that was proposed.
    Entry(E),
}

impl<E: Entry> Command<E> {
    /// What the log reckons for it.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.size_bytes(),
            Self::Noop | Self::Reconfigure(_) => 0,
        }
    }
}

/// Commands of slots in a row, shared by the messages and records that carry them. One command costs no allocation, several cost one.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Batch<E> {
    /// No command: a message that only keeps contact.
    Empty,
    /// One command.
    One(Command<E>),
    /// Two or more.
    Many(Arc<[Command<E>]>),
}

impl<E> Batch<E> {
    /// The commands in the order of their slots.
    pub fn as_slice(&self) -> &[Command<E>] {
        match self {
            Self::Empty => &[],
            Self::One(command) => std::slice::from_ref(command),
            Self::Many(commands) => commands,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl<E> FromIterator<Command<E>> for Batch<E> {
    fn from_iter<I: IntoIterator<Item = Command<E>>>(commands: I) -> Self {
        let mut commands = commands.into_iter();
        let Some(first) = commands.next() else { return Self::Empty };
        match commands.next() {
            None => Self::One(first),
            Some(second) => Self::Many([first, second].into_iter().chain(commands).collect()),
        }
    }
}
