//! Lookups in the cache that a guest holds: of the core cache and of responses.

use ::http::HeaderMap;

use super::handles::{BadHandle, Handle, TableFull};
use super::{AsyncItem, Charge, Sandbox, TooMuchHeld};
use crate::http::body::BodyWriter;
use crate::services::cache::{Cache, Key, Lookup, WriteOptions};
use crate::services::http_cache::Transaction;

/// What a lookup of the core cache was begun as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// To be waited for before it is used.
    Busy,
    /// To be used.
    Entry,
    /// To replace an object.
    Replace,
}

/// A lookup of the core cache.
#[derive(Debug)]
pub struct CacheEntry {
    /// What it was begun as.
    pub kind: CacheUse,
    /// Whose cache.
    pub cache: Cache,
    /// The entry.
    pub key: Key,
    /// Its outcome, or the wait for it.
    pub lookup: Lookup,
    /// What chooses a variant.
    pub headers: HeaderMap,
    /// Whether ranges of what has no known length are given.
    pub always_range: bool,
    /// The body that was given out last.
    pub body: Option<u32>,
    /// For what it holds.
    pub charge: Charge,
}

/// What a lookup costs, and a field that it is for.
const LOOKUP: usize = 1024;
const FIELD: usize = 128;

impl Sandbox {
    /// Charges for a lookup that is for so many fields, and for so many bytes of a method and an address.
    pub fn charge_lookup(&self, fields: usize, bytes: usize) -> Result<Charge, TooMuchHeld> {
        self.account.charge(LOOKUP + fields * FIELD + bytes)
    }

    /// Charges for an object that is being written.
    pub fn charge_object(&self, options: &WriteOptions) -> Result<Charge, TooMuchHeld> {
        self.account.charge(LOOKUP + options.bytes())
    }

    /// Keeps a lookup of the core cache.
    pub fn add_cache(&mut self, entry: CacheEntry) -> Result<Handle<CacheEntry>, TableFull> {
        Ok(Handle::from_raw(self.items.insert(AsyncItem::Cache(Box::new(entry)))?.raw()))
    }

    /// A lookup of the core cache.
    pub fn cache(&mut self, handle: Handle<CacheEntry>, kind: CacheUse) -> Result<&mut CacheEntry, BadHandle> {
        match self.items.get_mut(handle)? {
            AsyncItem::Cache(entry) if entry.kind == kind => Ok(entry),
            _ => Err(BadHandle),
        }
    }

    /// Takes a lookup of the core cache out; the handle is dead. Anything else stays where it is.
    pub fn take_cache(&mut self, handle: Handle<CacheEntry>, kinds: &[CacheUse]) -> Result<Box<CacheEntry>, BadHandle> {
        match self.items.get(handle)? {
            AsyncItem::Cache(entry) if kinds.contains(&entry.kind) => {}
            _ => return Err(BadHandle),
        }
        match self.items.take(handle)? {
            AsyncItem::Cache(entry) => Ok(entry),
            _ => Err(BadHandle),
        }
    }

    /// Keeps a lookup of a response.
    pub fn add_http_cache(&mut self, transaction: Transaction, charge: Charge) -> Result<Handle<Transaction>, TableFull> {
        Ok(Handle::from_raw(self.items.insert(AsyncItem::HttpCache(Box::new((transaction, charge))))?.raw()))
    }

    /// A lookup of a response.
    pub fn http_cache(&mut self, handle: Handle<Transaction>) -> Result<&mut Transaction, BadHandle> {
        match self.items.get_mut(handle)? {
            AsyncItem::HttpCache(held) => Ok(&mut held.0),
            _ => Err(BadHandle),
        }
    }

    /// Gives a lookup of a response up; the handle is dead.
    pub fn close_http_cache(&mut self, handle: Handle<Transaction>) -> Result<(), BadHandle> {
        self.http_cache(handle)?;
        self.items.take(handle).map(drop)
    }

    /// Keeps the write end of an object that others read as it is written.
    pub fn add_writer(&mut self, writer: BodyWriter, charge: Charge) -> Result<Handle<crate::http::Body>, TableFull> {
        Ok(Handle::from_raw(self.items.insert(AsyncItem::Streaming(writer, Some(charge)))?.raw()))
    }
}
