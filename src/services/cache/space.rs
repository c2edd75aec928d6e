//! What belongs to one service in a store that all share: its purges of everything, and which objects its surrogate keys
//! name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::content::InFlight;
use super::object::Object;

/// Parts of the index, each with a lock of its own.
const PARTS: usize = 16;

/// One service's part of a store.
pub struct Space {
    name: Box<str>,
    generation: AtomicU64,
    /// What is known of its service.
    owner: Mutex<Owner>,
    /// What is being written in it.
    pub(super) in_flight: Arc<InFlight>,
    tagged: [Mutex<HashMap<Arc<str>, Tagged>>; PARTS],
}

/// Whose a part is.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// The service's id, which others may have, too.
    pub service_id: String,
    /// Names of services that may use it, too; `*`: all.
    pub open_to: Vec<String>,
    /// Whether it is a service that comes and goes: nobody has said that it may be called what it is called.
    pub comes_and_goes: bool,
}

/// Objects with one key. Most keys have one or many.
enum Tagged {
    One(u64, Weak<Object>),
    Many(HashMap<u64, Weak<Object>>),
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Space {
    pub(super) fn new(name: &str, all: &Arc<InFlight>) -> Self {
        Self {
            name: name.into(),
            generation: AtomicU64::new(0),
            owner: Mutex::default(),
            in_flight: InFlight::part(all),
            tagged: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Notes whose it is.
    pub fn is_of(&self, owner: Owner) {
        *self.owner.lock() = owner;
    }

    /// Whether its service comes and goes.
    pub(super) fn comes_and_goes(&self) -> bool {
        self.owner.lock().comes_and_goes
    }

    /// Whether it is that of a service id that lets the service of `other` use it. Of those that come and go, which may
    /// have any name, a service that does not lets only all or none.
    pub(super) fn lets(&self, service_id: &str, other: &Space) -> bool {
        let stranger = other.comes_and_goes();
        let owner = self.owner.lock();
        let by_name = owner.comes_and_goes || !stranger;
        owner.service_id == service_id && owner.open_to.iter().any(|open| open == "*" || by_name && *open == *other.name)
    }

    /// How often everything has been purged.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    pub(super) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    fn part(&self, key: &str) -> &Mutex<HashMap<Arc<str>, Tagged>> {
        let sum = key.bytes().fold(5381usize, |sum, byte| sum.wrapping_mul(33) ^ usize::from(byte));
        &self.tagged[sum % PARTS]
    }

    /// Notes an object under its keys.
    pub(super) fn tag(&self, object: &Arc<Object>) {
        for key in object.options.surrogate_keys.iter() {
            let link = Arc::downgrade(object);
            match self.part(key).lock().entry(key.clone()) {
                std::collections::hash_map::Entry::Vacant(vacant) => drop(vacant.insert(Tagged::One(object.id, link))),
                std::collections::hash_map::Entry::Occupied(mut occupied) => match occupied.get_mut() {
                    Tagged::Many(many) => drop(many.insert(object.id, link)),
                    Tagged::One(id, other) => {
                        let many = HashMap::from([(*id, std::mem::take(other)), (object.id, link)]);
                        occupied.insert(Tagged::Many(many));
                    }
                },
            }
        }
    }

    /// Forgets an object.
    pub(super) fn untag(&self, object: &Object) {
        for key in object.options.surrogate_keys.iter() {
            let mut part = self.part(key).lock();
            let empty = match part.get_mut(key) {
                Some(Tagged::One(id, _)) => *id == object.id,
                Some(Tagged::Many(many)) => {
                    many.remove(&object.id);
                    many.is_empty()
                }
                None => false,
            };
            if empty {
                part.remove(key);
            }
        }
    }

    /// The objects that have a key.
    pub(super) fn tagged(&self, key: &str) -> Vec<Arc<Object>> {
        match self.part(key).lock().get(key) {
            None => Vec::new(),
            Some(Tagged::One(_, object)) => object.upgrade().into_iter().collect(),
            Some(Tagged::Many(many)) => many.values().filter_map(Weak::upgrade).collect(),
        }
    }

    /// The objects that have a key, which are forgotten under it.
    pub(super) fn take_tagged(&self, key: &str) -> Vec<Arc<Object>> {
        match self.part(key).lock().remove(key) {
            None => Vec::new(),
            Some(Tagged::One(_, object)) => object.upgrade().into_iter().collect(),
            Some(Tagged::Many(many)) => many.values().filter_map(Weak::upgrade).collect(),
        }
    }
}
