//! The one store behind all faces of the cache: entries by key, variants in them, and who waits for whom.
//!
//! An entry is changed under the lock of its shard only, and nothing waits while it holds one. Whoever has to wait leaves
//! a [`Waiter`] in the entry; whoever changes the entry gives each waiter its outcome ([`Store::settle`]). That is all
//! there is to request collapsing.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ::http::HeaderMap;
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::oneshot;

use super::bounds::Bounds;
use super::content::{Content, InFlight, Kept, Whole};
use super::disk::{self, Disk};
use super::entry::{Asked, Flight, MAX_VARIANTS, Slot, Verdict, Waiter};
use super::key::{Key, KeyHasher, SurrogateKeys, VaryRule};
use super::lookup::{Found, Obligation, Outcome};
use super::object::{Object, Phase, Place, WriteOptions};
use super::space::Space;
use super::write::Filler;
use crate::services::data::DataError;
use crate::telemetry::Telemetry;
use crate::telemetry::clock;

/// Shards of the table, each with a lock of its own. A power of two.
const SHARDS: usize = 64;

type Shard = HashMap<Key, Slot, BuildHasherDefault<KeyHasher>>;

/// A store for all services of a process.
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    bounds: Bounds,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) limits: Limits,
    clock: Clock,
    ids: AtomicU64,
    spaces: Mutex<HashMap<String, Arc<Space>>>,
    pub(super) disk: Option<Disk>,
    pub(super) telemetry: Telemetry,
    gauges: Gauges,
    this: Weak<Store>,
}

/// How much there is, as metrics have it.
struct Gauges {
    memory_bytes: IntGauge,
    memory_objects: IntGauge,
    disk_bytes: IntGauge,
    disk_objects: IntGauge,
}

impl Gauges {
    fn new(telemetry: &Telemetry) -> Self {
        let (bytes, objects) = (&telemetry.metrics.cache_bytes, &telemetry.metrics.cache_objects);
        Self {
            memory_bytes: bytes.with_label_values(&["memory"]),
            memory_objects: objects.with_label_values(&["memory"]),
            disk_bytes: bytes.with_label_values(&["disk"]),
            disk_objects: objects.with_label_values(&["disk"]),
        }
    }
}

/// How much a store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, for all objects.
    pub memory: u64,
    /// Bytes of one object.
    pub object: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 256 << 20, object: 100 << 20 }
    }
}

/// The store's time: nanoseconds since it was made, and how far somebody has moved it on.
struct Clock {
    base: Instant,
    /// Since the Unix epoch.
    base_unix: Duration,
    moved: AtomicU64,
    /// Moves only when it is moved.
    still: bool,
}

impl Clock {
    fn now(&self) -> u64 {
        let moved = self.moved.load(Ordering::Relaxed);
        if self.still {
            return moved;
        }
        let run = clock::now().saturating_duration_since(self.base);
        u64::try_from(run.as_nanos()).unwrap_or(u64::MAX).saturating_add(moved)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Store {
    /// An empty one, in memory only.
    pub fn new(limits: Limits, telemetry: &Telemetry) -> Arc<Self> {
        Self::build(limits, telemetry, None, false)
    }

    /// One whose objects are on disk, too: those that are there already are found.
    pub fn with_disk(limits: Limits, telemetry: &Telemetry, folder: &Path, bytes: u64) -> Result<Arc<Self>, DataError> {
        let disk = Disk::open(folder, bytes, limits.object, limits.memory)?;
        let store = Self::build(limits, telemetry, Some(disk), false);
        if let Some(disk) = &store.disk {
            disk.begin(&store);
        }
        Ok(store)
    }

    /// One whose time moves only when it is moved.
    #[cfg(test)]
    pub(super) fn still(limits: Limits) -> Arc<Self> {
        Self::build(limits, &Telemetry::new(), None, true)
    }

    #[cfg(test)]
    pub(super) fn telemetry_of_tests(&self) -> &Telemetry {
        &self.telemetry
    }

    fn build(mut limits: Limits, telemetry: &Telemetry, disk: Option<Disk>, still: bool) -> Arc<Self> {
        limits.object = limits.object.min(limits.memory);
        let ids = AtomicU64::new(disk.as_ref().map_or(0, Disk::last_id) + 1);
        let clock = Clock { base: clock::now(), base_unix: clock::unix(), moved: AtomicU64::new(0), still };
        Arc::new_cyclic(|this| Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            bounds: Bounds::new(limits.memory, limits.object),
            in_flight: Arc::default(),
            limits,
            clock,
            ids,
            spaces: Mutex::default(),
            disk,
            telemetry: telemetry.clone(),
            gauges: Gauges::new(telemetry),
            this: this.clone(),
        })
    }

    pub(super) fn arc(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    /// The part of a service.
    pub fn space(&self, service: &str) -> Arc<Space> {
        let mut spaces = self.spaces.lock();
        if let Some(space) = spaces.get(service) {
            return space.clone();
        }
        let space = Arc::new(Space::new(service, &self.in_flight));
        if let Some(disk) = &self.disk {
            space.set_generation(disk.generation(service));
        }
        spaces.insert(service.to_owned(), space.clone());
        space
    }

    /// The part of the service with that id, if it lets the service of `other` use it: of several, that of the first name; of
    /// services that come and go, if no other has that id, since whoever has dropped one in could take any.
    pub(super) fn shared(&self, service_id: &str, other: &Space) -> Option<Arc<Space>> {
        let all: Vec<Arc<Space>> = self.spaces.lock().values().cloned().collect();
        let mut open: Vec<_> = all.into_iter().filter(|space| space.lets(service_id, other)).collect();
        // Of several it is always the same.
        open.sort_unstable_by(|one, next| one.name().cmp(next.name()));
        let (come_and_go, stay): (Vec<_>, Vec<_>) = open.into_iter().partition(|space| space.comes_and_goes());
        match (stay.first(), come_and_go.as_slice()) {
            (Some(space), _) => Some(space.clone()),
            (None, [space]) => Some(space.clone()),
            (None, _) => None,
        }
    }

    /// Its time, in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// The store's time of what others have told; before its own beginning: how much before.
    pub(super) fn at_unix(&self, unix: Duration) -> Result<u64, Duration> {
        match unix.checked_sub(self.clock.base_unix) {
            Some(after) => Ok(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)),
            None => Err(self.clock.base_unix - unix),
        }
    }

    /// Makes everything in it older.
    pub fn move_on(&self, by: Duration) {
        self.clock.moved.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX / 2), Ordering::Relaxed);
        if let Some(disk) = &self.disk {
            disk.move_on(by);
        }
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        &self.shards[key.spread(SHARDS)]
    }

    /// What is usable now, without waiting and without being asked to write.
    pub(super) fn look(&self, key: &Key, headers: &HeaderMap) -> Option<Found> {
        loop {
            let now = self.now();
            let object = {
                let shard = self.shard(key).lock();
                let slot = shard.get(key)?;
                slot.youngest(&slot.variants(headers), now)?.clone()
            };
            let phase = object.phase_at(now);
            if object.pass || phase > Phase::WhileRevalidating {
                return None;
            }
            if self.is_sound(&object) {
                return Some(self.found(object, phase));
            }
        }
    }

    /// Whether an object is what it was. A small one that is only on disk is in memory again afterwards; one that is
    /// damaged is forgotten.
    fn is_sound(&self, object: &Arc<Object>) -> bool {
        let Some(whole) = object.content.get() else { return true };
        let Kept::Disk(body) = &whole.bytes else { return true };
        if whole.length > disk::AT_ONCE {
            return true;
        }
        match body.all() {
            Ok(bytes) => {
                object.content.put(Whole::of(bytes));
                for left in self.bounds.keep(object.clone(), object.weight()) {
                    self.leave_memory(&left);
                }
                true
            }
            Err(error) => {
                tracing::warn!(target: "sidelight::cache", %error, "a cached object is damaged and forgotten");
                self.drop_object(object);
                false
            }
        }
    }

    /// An object that is on disk from before.
    pub(super) fn found_again(&self, object: &Arc<Object>) {
        let mut shard = self.shard(&object.key).lock();
        let slot = shard.entry(object.key).or_default();
        drop(slot.remember(&object.options.vary));
        slot.objects.retain(|other| other.variant != object.variant);
        slot.objects.push(object.clone());
        object.space.tag(object);
    }

    /// Waits until what is known is on disk, if it is to be there.
    pub fn flush(&self, limit: Duration) {
        if let Some(disk) = &self.disk {
            disk.flush(limit);
        }
    }

    /// As [`look`](Self::look), and what is past its time, too.
    pub(super) fn look_stale(&self, key: &Key, headers: &HeaderMap) -> Option<Arc<Object>> {
        let now = self.now();
        let shard = self.shard(key).lock();
        let slot = shard.get(key)?;
        slot.youngest(&slot.variants(headers), now).filter(|object| !object.pass).cloned()
    }

    /// Something found, which counts as a use of it.
    fn found(&self, object: Arc<Object>, phase: Phase) -> Found {
        self.bounds.touch(&object);
        if let Some(disk) = &self.disk {
            disk.touch(&object);
        }
        let hits = object.hit();
        Found::new(object, phase, hits, self.now())
    }

    /// An outcome at once, or later.
    pub(super) fn ask(
        &self,
        key: Key,
        headers: &HeaderMap,
        asked: Asked,
        about: &dyn Fn() -> Arc<str>,
    ) -> Result<Outcome, oneshot::Receiver<Outcome>> {
        let now = self.now();
        let mut shard = self.shard(&key).lock();
        let slot = shard.entry(key).or_default();
        match slot.verdict(headers, &asked, now) {
            Verdict::Found { object, leads: false } => {
                drop(shard);
                if !self.is_sound(&object) {
                    return self.ask(key, headers, asked, about);
                }
                let phase = object.phase_at(now);
                Ok(Outcome { found: Some(self.found(object, phase)), ..Outcome::default() })
            }
            Verdict::Wait => {
                let (outcome, receiver) = oneshot::channel();
                if slot.waiters.len().is_power_of_two() && slot.waiters.len() >= 64 {
                    slot.waiters.retain(|waiter| !waiter.outcome.is_closed());
                }
                slot.waiters.push_back(Waiter { headers: Arc::new(headers.clone()), asked, about: about(), outcome });
                Err(receiver)
            }
            verdict => Ok(self.outcome(key, slot, verdict, &Arc::new(headers.clone()), &asked, about(), now)),
        }
    }

    /// What a verdict means to whoever asked. A leader's flight begins.
    #[expect(clippy::too_many_arguments, reason = "all of a waiter, and where it waits")]
    fn outcome(
        &self,
        key: Key,
        slot: &mut Slot,
        verdict: Verdict,
        headers: &Arc<HeaderMap>,
        asked: &Asked,
        about: Arc<str>,
        now: u64,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let leads = match verdict {
            Verdict::Found { object, leads } => {
                let phase = object.phase_at(now);
                outcome.found = Some(self.found(object, phase));
                leads
            }
            Verdict::Lead { stale } => {
                outcome.stale_if_error = stale.as_ref().is_some_and(|object| object.phase_at(now) == Phase::IfError);
                if asked.replaces
                    && let Some(object) = stale
                {
                    let phase = object.phase_at(now);
                    outcome.found = Some(self.found(object, phase));
                } else {
                    outcome.stale = stale;
                }
                true
            }
            Verdict::Pass => {
                outcome.pass = true;
                false
            }
            Verdict::Wait => false,
        };
        if leads {
            let variant = slot.variants(headers).first().copied().unwrap_or_else(|| VaryRule::default().variant(headers));
            let flight = self.next_id();
            slot.flights.push(Flight { id: flight, variant });
            outcome.obligation = self.arc().map(|store| Obligation::new(store, key, flight, headers.clone(), asked.space.clone(), about));
        }
        outcome
    }

    /// A flight that begins whatever others do: they wait for it.
    pub(super) fn take_off(&self, key: Key, headers: &HeaderMap, asked: &Asked, about: Arc<str>) -> Outcome {
        let now = self.now();
        let mut shard = self.shard(&key).lock();
        let slot = shard.entry(key).or_default();
        self.outcome(key, slot, Verdict::Lead { stale: None }, &Arc::new(headers.clone()), asked, about, now)
    }

    /// Gives everybody who waits for an entry what there is for them now.
    fn settle(&self, key: Key, slot: &mut Slot, now: u64) {
        let mut waiting = std::mem::take(&mut slot.waiters);
        while let Some(waiter) = waiting.pop_front() {
            if waiter.outcome.is_closed() {
                continue;
            }
            match slot.verdict(&waiter.headers, &waiter.asked, now) {
                Verdict::Wait => slot.waiters.push_back(waiter),
                verdict => {
                    let Waiter { headers, asked, about, outcome } = waiter;
                    let given = self.outcome(key, slot, verdict, &headers, &asked, about, now);
                    if let Err(mut unwanted) = outcome.send(given)
                        && let Some(mut obligation) = unwanted.obligation.take()
                    {
                        // It must not lock this shard again.
                        let flight = obligation.disarm();
                        slot.flights.retain(|other| other.id != flight);
                    }
                }
            }
        }
    }

    /// The flight is over without an object.
    pub(super) fn cancel(&self, key: &Key, flight: u64) {
        let now = self.now();
        let mut shard = self.shard(key).lock();
        let Some(slot) = shard.get_mut(key) else { return };
        slot.flights.retain(|other| other.id != flight);
        self.settle(*key, slot, now);
        if slot.is_empty() {
            shard.remove(key);
        }
    }

    /// The flight is over, and all who waited for it get what there was before.
    pub(super) fn choose(&self, key: &Key, flight: u64, object: &Arc<Object>) -> Found {
        let mut shard = self.shard(key).lock();
        let now = self.now();
        let chosen = || Found::new(object.clone(), Phase::IfError, object.hit(), now);
        if let Some(slot) = shard.get_mut(key) {
            let over = slot.flights.iter().position(|other| other.id == flight).map(|at| slot.flights.remove(at));
            let waiting = std::mem::take(&mut slot.waiters);
            for waiter in waiting {
                let fits = over.as_ref().is_some_and(|over| slot.variants(&waiter.headers).contains(&over.variant));
                if fits && slot.variants(&waiter.headers).contains(&object.variant) && waiter.asked.stale {
                    let outcome = Outcome { found: Some(chosen()), stale_if_error: true, ..Outcome::default() };
                    // One that is gone needs nothing.
                    drop(waiter.outcome.send(outcome));
                } else {
                    slot.waiters.push_back(waiter);
                }
            }
            self.settle(*key, slot, now);
            if slot.is_empty() {
                shard.remove(key);
            }
        }
        chosen()
    }

    /// Puts an object where it belongs; the flight that was for it is over.
    pub(super) fn put(&self, object: &Arc<Object>, flight: Option<u64>) {
        let now = self.now();
        let mut left;
        {
            let mut shard = self.shard(&object.key).lock();
            let slot = shard.entry(object.key).or_default();
            left = slot.remember(&object.options.vary);
            let before = slot.objects.iter().position(|other| other.variant == object.variant).map(|at| slot.objects.swap_remove(at));
            if let Some(before) = before {
                let same = Arc::ptr_eq(&before.content, &object.content);
                if object.content.get().is_none() && !same && !before.is_gone() && !before.pass {
                    *object.previous.lock() = Some(before);
                } else {
                    left.push(before);
                }
            }
            if slot.objects.len() >= MAX_VARIANTS
                && let Some(oldest) = (0..slot.objects.len()).min_by_key(|index| slot.objects[*index].inserted)
            {
                left.push(slot.objects.swap_remove(oldest));
            }
            slot.objects.push(object.clone());
            if let Some(flight) = flight {
                slot.flights.retain(|other| other.id != flight);
            }
            object.space.tag(object);
            self.settle(object.key, slot, now);
        }
        if object.content.get().is_some() {
            self.keep(object);
        }
        for object in left {
            self.forget(&object);
        }
    }

    /// An object is whole: it counts from now on.
    pub(super) fn keep(&self, object: &Arc<Object>) {
        if let Some(previous) = object.previous.lock().take() {
            self.forget(&previous);
        }
        if object.is_gone() {
            object.content.linger();
            return;
        }
        if let Some(disk) = &self.disk {
            disk.write(object, &self.telemetry);
        }
        for left in self.bounds.keep(object.clone(), object.weight()) {
            self.leave_memory(&left);
        }
        self.tell();
    }

    /// Tells metrics how much there is.
    fn tell(&self) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.gauges.memory_bytes.set(number(self.bounds.used()));
        self.gauges.memory_objects.set(number(self.bounds.count() as u64));
        if let Some(disk) = &self.disk {
            let (objects, bytes, _) = disk.used();
            self.gauges.disk_bytes.set(number(bytes));
            self.gauges.disk_objects.set(number(objects as u64));
        }
    }

    /// There is no room for it any more.
    fn leave_memory(&self, object: &Arc<Object>) {
        self.telemetry.metrics.cache_evictions.inc();
        if !object.is_gone()
            && let Some(disk) = &self.disk
            && disk.take_over(object)
        {
            return;
        }
        self.drop_object(object);
    }

    /// An object is not to be found any more, and nothing takes its place.
    pub(super) fn drop_object(&self, object: &Arc<Object>) {
        object.go();
        let mut shard = self.shard(&object.key).lock();
        if let Some(slot) = shard.get_mut(&object.key) {
            slot.objects.retain(|other| !Arc::ptr_eq(other, object));
            if slot.is_empty() {
                shard.remove(&object.key);
            }
        }
        drop(shard);
        self.forget(object);
    }

    /// An object could not be written to its end: what was there before is there again.
    pub(super) fn fail(&self, object: &Arc<Object>) {
        let previous = object.previous.lock().take();
        object.go();
        let now = self.now();
        let mut lost = None;
        {
            let mut shard = self.shard(&object.key).lock();
            if let Some(slot) = shard.get_mut(&object.key) {
                let at = slot.objects.iter().position(|other| Arc::ptr_eq(other, object));
                match (at, previous) {
                    (Some(at), Some(previous)) if !previous.is_gone() => slot.objects[at] = previous,
                    (Some(at), previous) => {
                        slot.objects.swap_remove(at);
                        lost = previous;
                    }
                    (None, previous) => lost = previous,
                }
                self.settle(object.key, slot, now);
                if slot.is_empty() {
                    shard.remove(&object.key);
                }
            } else {
                lost = previous;
            }
        }
        if let Some(lost) = lost {
            self.forget(&lost);
        }
        object.space.untag(object);
    }

    /// What else knows an object that is in no entry any more.
    pub(super) fn forget(&self, object: &Arc<Object>) {
        object.go();
        object.space.untag(object);
        self.bounds.remove(object);
        // One that took its place may have the same content.
        if object.content.object().is_none_or(|latest| Arc::ptr_eq(&latest, object)) {
            object.content.linger();
        }
        if let Some(disk) = &self.disk {
            disk.remove(object);
        }
        self.tell();
        let previous = object.previous.lock().take();
        if let Some(previous) = previous {
            self.forget(&previous);
        }
    }

    /// What may go on while nobody asks for it: objects that are purged leave tables and memory.
    pub(super) fn forget_later(&self, objects: Vec<Arc<Object>>) {
        const AT_ONCE: usize = 256;
        let Some(store) = self.arc() else { return };
        let work = move || {
            for (index, object) in objects.iter().enumerate() {
                store.drop_object(object);
                if index % AT_ONCE == AT_ONCE - 1 {
                    std::thread::yield_now();
                }
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }

    /// Makes all objects that a surrogate key names not to be found, or stale; how many.
    pub fn purge(&self, space: &Space, key: &str, soft: bool) -> usize {
        if soft {
            let now = self.now();
            let objects = space.tagged(key);
            let hit = objects.iter().filter(|object| !object.is_gone() && object.soften(now)).inspect(|object| self.note_soft(object));
            return hit.count();
        }
        let objects = space.take_tagged(key);
        let hit = objects.iter().filter(|object| object.generation == space.generation() && object.go());
        let hit: Vec<u64> = hit.map(|object| object.id).collect();
        let count = hit.len();
        self.note_purged(hit);
        self.forget_later(objects);
        count
    }

    fn note_purged(&self, objects: Vec<u64>) {
        if let Some(disk) = &self.disk {
            disk.note_purged(objects);
        }
    }

    /// Waits until the purges before this outlive the process, and the machine's power; whether they do.
    pub(super) async fn purges_are_kept(&self, limit: Duration) -> bool {
        match &self.disk {
            Some(disk) => disk.purges_are_kept(limit).await,
            None => true,
        }
    }

    fn note_soft(&self, object: &Object) {
        if let Some(disk) = &self.disk {
            disk.note_soft(object);
        }
    }

    /// Makes all objects of an entry not to be found, or stale; how many.
    pub fn purge_entry(&self, key: &Key, soft: bool) -> usize {
        let objects: Vec<_> = match self.shard(key).lock().get(key) {
            Some(slot) => slot.objects.iter().cloned().collect(),
            None => return 0,
        };
        let now = self.now();
        if soft {
            let hit = objects.iter().filter(|object| !object.is_gone() && object.soften(now)).inspect(|object| self.note_soft(object));
            return hit.count();
        }
        let hit: Vec<u64> = objects.iter().filter(|object| !object.is_gone() && object.go()).map(|object| object.id).collect();
        let count = hit.len();
        self.note_purged(hit);
        for object in &objects {
            self.drop_object(object);
        }
        count
    }

    /// Makes all objects of a service not to be found.
    pub fn purge_all(&self, space: &Arc<Space>) -> u64 {
        let generation = space.next_generation();
        if let Some(disk) = &self.disk {
            disk.set_generation(space.name(), generation);
        }
        let mut objects = Vec::new();
        self.bounds.each(|object| {
            if Arc::ptr_eq(&object.space, space) && object.generation < generation {
                objects.push(object.clone());
            }
        });
        if let Some(disk) = &self.disk {
            disk.each(|object| {
                if Arc::ptr_eq(&object.space, space) && object.generation < generation {
                    objects.push(object.clone());
                }
            });
        }
        self.forget_later(objects);
        generation
    }

    /// How far the log of purges has been read, if objects are here from before.
    pub(super) fn position(&self) -> Option<String> {
        self.disk.as_ref()?.position()
    }

    pub(super) fn set_position(&self, position: &str) {
        if let Some(disk) = &self.disk {
            disk.set_position(position);
        }
    }

    /// Purges everything of all services.
    pub(super) fn forget_everything(&self) {
        let spaces: Vec<_> = self.spaces.lock().values().cloned().collect();
        for space in spaces {
            self.purge_all(&space);
        }
    }

    /// Bytes of memory in use, by whole objects and by those that are being written, and how many whole ones there are.
    pub fn used(&self) -> (u64, u64, usize) {
        (self.bounds.used(), self.in_flight.get(), self.bounds.count())
    }

    /// Looks at every object that can be found, in no order.
    pub(super) fn each(&self, mut look: impl FnMut(&Arc<Object>)) {
        for shard in &self.shards {
            let objects: Vec<_> = shard.lock().values().flat_map(|slot| slot.objects.iter().cloned()).collect();
            objects.iter().filter(|object| !object.is_gone()).for_each(&mut look);
        }
    }

    /// The objects of one entry.
    pub(super) fn entry(&self, key: &Key) -> Vec<Arc<Object>> {
        let shard = self.shard(key).lock();
        let objects = shard.get(key).map(|slot| slot.objects.iter().filter(|object| !object.is_gone()).cloned().collect());
        objects.unwrap_or_default()
    }

    /// An object that is written from now on, and who writes it.
    pub(super) fn begin(&self, place: Place, options: WriteOptions, flight: Option<u64>) -> Option<(Filler, Arc<Object>)> {
        let store = self.arc()?;
        let content = Content::open(options.length, place.space.in_flight.clone());
        let object = Arc::new(Object::new(self.next_id(), place, options, self.now(), false, content));
        object.content.belongs_to(&object);
        self.put(&object, flight);
        Some((Filler::new(store, object.content.clone()), object))
    }

    /// A mark that requests like this are not to be cached.
    pub(super) fn mark(&self, place: Place, max_age: Duration, vary: VaryRule, flight: u64) {
        let options = WriteOptions { max_age, vary, surrogate_keys: SurrogateKeys::default(), ..WriteOptions::default() };
        let content = Content::whole(Whole::of(bytes::Bytes::new()), place.space.in_flight.clone());
        let object = Object::new(self.next_id(), place, options, self.now(), true, content);
        self.put(&Arc::new(object), Some(flight));
    }

    /// An object that is as `base` and has been written anew but for its bytes.
    pub(super) fn renew(&self, base: &Arc<Object>, place: Place, options: WriteOptions, flight: u64) -> Arc<Object> {
        let object = Arc::new(Object::new(self.next_id(), place, options, self.now(), false, base.content.clone()));
        // If it is still being written, it is this one that is whole in the end.
        object.content.belongs_to(&object);
        self.put(&object, Some(flight));
        object
    }
}
