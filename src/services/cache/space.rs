//! What belongs to one service in a store that all share: its purges of everything, and which objects its surrogate keys
//! name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::object::Object;

/// Parts of the index, each with a lock of its own.
const PARTS: usize = 16;

/// One service's part of a store.
pub struct Space {
    name: Box<str>,
    generation: AtomicU64,
    /// Its service's id, and who else may use it.
    shared: Mutex<(String, Vec<String>)>,
    tagged: [Mutex<HashMap<Arc<str>, Tagged>>; PARTS],
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
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            generation: AtomicU64::new(0),
            shared: Mutex::default(),
            tagged: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Notes its service's id, and who else may use it; `*`: everybody.
    pub fn is_of(&self, service_id: &str, open_to: &[String]) {
        *self.shared.lock() = (service_id.to_owned(), open_to.to_vec());
    }

    /// Whether it is that of a service id that lets `name` use it.
    pub(super) fn lets(&self, service_id: &str, name: &str) -> bool {
        let shared = self.shared.lock();
        shared.0 == service_id && shared.1.iter().any(|open| open == "*" || open == name)
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
