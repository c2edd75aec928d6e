//! The store against a model of it: random interleavings of everything that can be done, after each of which both must say
//! the same to everybody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::http::body::BodyWriter;

/// Something that is done. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Act {
    /// A plain lookup of a key.
    Look(usize),
    /// A transaction.
    Ask(usize),
    /// Whoever has been asked begins to write: lifetime, stale-while-revalidate.
    Insert(usize, u64, u64),
    /// A plain insert.
    Put(usize, u64, u64),
    /// Who writes goes on, ends, or gives up.
    Write(usize),
    Finish(usize),
    Abandon(usize),
    /// Whoever has been asked and has an object writes it anew but for its bytes.
    Update(usize, u64),
    /// A mark that the key is not to be cached.
    Pass(usize, u64),
    /// A lookup is given up, with whatever it had to do.
    Close(usize),
    Purge(usize, bool),
    PurgeEntry(usize, bool),
    PurgeAll,
    Later(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let n = 0..64usize;
    let time = 0..12u64;
    let act = prop_oneof![
        2 => n.clone().prop_map(Act::Look),
        6 => n.clone().prop_map(Act::Ask),
        5 => (n.clone(), time.clone(), time.clone()).prop_map(|(who, ttl, swr)| Act::Insert(who, ttl, swr)),
        1 => (n.clone(), time.clone(), time.clone()).prop_map(|(key, ttl, swr)| Act::Put(key, ttl, swr)),
        3 => n.clone().prop_map(Act::Write),
        4 => n.clone().prop_map(Act::Finish),
        1 => n.clone().prop_map(Act::Abandon),
        2 => (n.clone(), time.clone()).prop_map(|(who, ttl)| Act::Update(who, ttl)),
        1 => (n.clone(), time.clone()).prop_map(|(who, ttl)| Act::Pass(who, ttl)),
        3 => n.clone().prop_map(Act::Close),
        1 => (n.clone(), any::<bool>()).prop_map(|(key, soft)| Act::Purge(key, soft)),
        1 => (n, any::<bool>()).prop_map(|(key, soft)| Act::PurgeEntry(key, soft)),
        1 => Just(Act::PurgeAll),
        3 => time.prop_map(Act::Later),
    ];
    proptest::collection::vec(act, 1..80)
}

const KEYS: usize = 2;

/// An object, in the model: a number that its bytes have, too.
#[derive(Clone, Debug)]
struct Thing {
    value: usize,
    since: u64,
    max_age: u64,
    swr: u64,
    softened: Option<u64>,
    generation: u64,
    pass: bool,
    /// Who writes it, until it is whole.
    writer: Option<usize>,
    before: Option<Box<Thing>>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    thing: Option<Thing>,
    /// The lookup that has been asked to write.
    flight: Option<usize>,
    waiting: VecDeque<usize>,
}

/// What somebody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Wait,
    /// A value, whether it is stale, and whether to get a new one.
    Found(usize, bool, bool),
    Lead,
    Pass,
    Nothing,
}

#[derive(Default)]
struct Model {
    now: u64,
    generation: u64,
    entries: [Entry; KEYS],
    told: Vec<Told>,
    /// The generation when they were asked to write: what is purged in the meantime stays so.
    asked_in: Vec<u64>,
}

impl Model {
    fn good(&self, thing: &Thing) -> bool {
        thing.generation == self.generation
    }

    /// Whether it is fresh, or else may be used while it is revalidated.
    fn phase(&self, thing: &Thing) -> Phase {
        let age = self.now - thing.since;
        let fresh = thing.softened.map_or(thing.max_age, |at| thing.max_age.min(at - thing.since));
        match age {
            _ if age < fresh => Phase::Fresh,
            _ if age < fresh + thing.swr => Phase::WhileRevalidating,
            _ => Phase::Stale,
        }
    }

    fn look(&self, key: usize) -> Told {
        match &self.entries[key].thing {
            Some(thing) if self.good(thing) && !thing.pass => match self.phase(thing) {
                Phase::Fresh => Told::Found(thing.value, false, false),
                Phase::WhileRevalidating => Told::Found(thing.value, true, false),
                Phase::IfError | Phase::Stale => Told::Nothing,
            },
            _ => Told::Nothing,
        }
    }

    fn verdict(&self, key: usize) -> Told {
        let entry = &self.entries[key];
        match &entry.thing {
            Some(thing) if self.good(thing) => match self.phase(thing) {
                Phase::Fresh if thing.pass => return Told::Pass,
                Phase::Fresh => return Told::Found(thing.value, false, false),
                Phase::WhileRevalidating if !thing.pass => return Told::Found(thing.value, true, entry.flight.is_none()),
                _ => {}
            },
            _ => {}
        }
        if entry.flight.is_some() { Told::Wait } else { Told::Lead }
    }

    fn tell(&mut self, key: usize, who: usize) {
        let told = self.verdict(key);
        if matches!(told, Told::Lead | Told::Found(_, _, true)) {
            self.entries[key].flight = Some(who);
            self.asked_in[who] = self.generation;
        }
        self.told[who] = told;
    }

    fn settle(&mut self, key: usize) {
        for who in std::mem::take(&mut self.entries[key].waiting) {
            self.tell(key, who);
            if self.told[who] == Told::Wait {
                self.entries[key].waiting.push_back(who);
            }
        }
    }

    fn put(&mut self, key: usize, mut thing: Thing, ends_flight: bool) {
        let before = self.entries[key].thing.take();
        if thing.writer.is_some() {
            thing.before = before.filter(|before| self.good(before) && !before.pass && before.value != thing.value).map(Box::new);
        }
        self.entries[key].thing = Some(thing);
        if ends_flight {
            self.entries[key].flight = None;
        }
        self.settle(key);
    }
}

struct Writing {
    key: usize,
    value: usize,
    to: Option<BodyWriter>,
}

struct Run {
    cache: Cache,
    model: Model,
    lookups: Vec<Option<(usize, Lookup)>>,
    writing: Vec<Writing>,
    values: usize,
    /// Values that have broken off.
    broken: Vec<usize>,
}

impl Run {
    fn new() -> Self {
        let cache = Cache::new(&Store::still(Limits::default()), "model");
        Self { cache, model: Model::default(), lookups: Vec::new(), writing: Vec::new(), values: 0, broken: Vec::new() }
    }

    fn options(key: usize, ttl: u64, swr: u64) -> WriteOptions {
        WriteOptions {
            max_age: Duration::from_secs(ttl),
            stale_while_revalidate: Duration::from_secs(swr),
            surrogate_keys: SurrogateKeys::parse(format!("key-{key}").as_bytes()),
            ..WriteOptions::default()
        }
    }

    fn key(&self, key: usize) -> Key {
        self.cache.key(Face::Core, &[key as u8])
    }

    /// One of the lookups that `wanted` takes.
    fn choose(&self, n: usize, wanted: impl Fn(&Told) -> bool) -> Option<usize> {
        let fitting: Vec<usize> =
            (0..self.lookups.len()).filter(|who| self.lookups[*who].is_some() && wanted(&self.model.told[*who])).collect();
        (!fitting.is_empty()).then(|| fitting[n % fitting.len()])
    }

    fn thing(&mut self, max_age: u64, swr: u64, writer: Option<usize>) -> Thing {
        self.values += 1;
        let (since, generation) = (self.model.now, self.model.generation);
        Thing { value: self.values, since, max_age, swr, softened: None, generation, pass: false, writer, before: None }
    }

    async fn begin(&mut self, key: usize, mut to: BodyWriter, thing: Thing, ends_flight: bool) {
        let value = thing.value;
        to.write(Bytes::from(format!("{value:06}"))).await.expect("is taken");
        self.writing.push(Writing { key, value, to: Some(to) });
        self.model.put(key, thing, ends_flight);
    }

    /// The object that a writer writes, if it is still that.
    fn written(&mut self, writer: usize) -> (usize, Option<&mut Thing>) {
        let (key, value) = (self.writing[writer].key, self.writing[writer].value);
        // It may be what is there, or what was there before what is written over it.
        let mut thing = self.model.entries[key].thing.as_mut();
        while let Some(found) = thing {
            if found.value == value {
                return (key, Some(found));
            }
            thing = found.before.as_deref_mut();
        }
        (key, None)
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Look(n) => {
                let key = n % KEYS;
                let found = self.cache.lookup(&self.key(key), &HeaderMap::new());
                let told = match found {
                    Some(found) => Told::Found(value(&found).await, found.phase != Phase::Fresh, false),
                    None => Told::Nothing,
                };
                assert_eq!(told, self.model.look(key));
            }
            Act::Ask(n) => {
                let key = n % KEYS;
                let about = || Arc::from("model");
                let lookup = self.cache.transaction(self.key(key), &HeaderMap::new(), false, &about);
                let who = self.lookups.len();
                self.lookups.push(Some((key, lookup)));
                self.model.told.push(Told::Nothing);
                self.model.asked_in.push(0);
                self.model.tell(key, who);
                if self.model.told[who] == Told::Wait {
                    self.model.entries[key].waiting.push_back(who);
                }
            }
            Act::Insert(n, ttl, swr) => {
                let Some(who) = self.choose(n, |told| matches!(told, Told::Lead | Told::Found(_, _, true))) else { return };
                let Some((key, mut lookup)) = self.lookups[who].take() else { return };
                let obligation = lookup.outcome().await.obligation.take().expect("asked");
                let generation = self.model.asked_in[who];
                let thing = Thing { generation, ..self.thing(ttl, swr, Some(self.writing.len())) };
                let (to, _) = obligation.insert(Self::options(key, ttl, swr)).expect("begins");
                self.begin(key, to, thing, true).await;
            }
            Act::Put(n, ttl, swr) => {
                let key = n % KEYS;
                let thing = self.thing(ttl, swr, Some(self.writing.len()));
                let (to, _) =
                    self.cache.insert(self.key(key), &HeaderMap::new(), "model".into(), Self::options(key, ttl, swr)).expect("begins");
                self.begin(key, to, thing, false).await;
            }
            Act::Write(n) | Act::Finish(n) | Act::Abandon(n) if self.writing.is_empty() => {
                let _ = n;
            }
            Act::Write(n) => {
                let writer = n % self.writing.len();
                if let Some(to) = &mut self.writing[writer].to {
                    // Of what has been forgotten, nobody wants more; that is no error for who writes it.
                    to.write(Bytes::from_static(b".")).await.expect("is taken");
                }
            }
            Act::Finish(n) => {
                let writer = n % self.writing.len();
                let Some(to) = self.writing[writer].to.take() else { return };
                to.finish().await.expect("is taken");
                if let (_, Some(thing)) = self.written(writer) {
                    thing.writer = None;
                    thing.before = None;
                }
            }
            Act::Abandon(n) => {
                let writer = n % self.writing.len();
                if self.writing[writer].to.take().is_none() {
                    return;
                }
                let generation = self.model.generation;
                let (key, value) = (self.writing[writer].key, self.writing[writer].value);
                self.broken.push(value);
                let entry = &mut self.model.entries[key];
                match &mut entry.thing {
                    Some(thing) if thing.value == value => {
                        entry.thing = thing.before.take().map(|before| *before).filter(|before| before.generation == generation);
                    }
                    Some(thing) => {
                        // What is written over it has nothing to go back to.
                        let mut over = thing;
                        while let Some(before) = &over.before
                            && before.value != value
                        {
                            over = over.before.as_mut().expect("it is there");
                        }
                        over.before = None;
                    }
                    None => {}
                }
                self.model.settle(key);
            }
            Act::Update(n, ttl) => {
                let Some(who) = self.choose(n, |told| matches!(told, Told::Found(_, _, true))) else { return };
                let Some((key, mut lookup)) = self.lookups[who].take() else { return };
                let outcome = lookup.outcome().await;
                let found = outcome.found.take().expect("found");
                let obligation = outcome.obligation.take().expect("asked");
                let Told::Found(value, ..) = self.model.told[who] else { return };
                let updated = obligation.update(&found.object(), Self::options(key, ttl, 0)).is_ok();
                assert_eq!(updated, !self.broken.contains(&value));
                if !updated {
                    self.model.entries[key].flight = None;
                    self.model.settle(key);
                    return;
                }
                let writer = self.writing.iter().position(|writing| writing.value == value && writing.to.is_some());
                let (since, generation) = (self.model.now, self.model.asked_in[who]);
                let thing = Thing { value, since, max_age: ttl, swr: 0, softened: None, generation, pass: false, writer, before: None };
                self.model.put(key, thing, true);
            }
            Act::Pass(n, ttl) => {
                let Some(who) = self.choose(n, |told| matches!(told, Told::Lead | Told::Found(_, _, true))) else { return };
                let Some((key, mut lookup)) = self.lookups[who].take() else { return };
                let obligation = lookup.outcome().await.obligation.take().expect("asked");
                obligation.record_uncacheable(Duration::from_secs(ttl), VaryRule::default());
                let generation = self.model.asked_in[who];
                let thing = Thing { pass: true, generation, ..self.thing(ttl, 0, None) };
                self.model.put(key, thing, true);
            }
            Act::Close(n) => {
                let Some(who) = self.choose(n, |_| true) else { return };
                let Some((key, lookup)) = self.lookups[who].take() else { return };
                drop(lookup);
                self.model.entries[key].waiting.retain(|other| *other != who);
                if self.model.entries[key].flight == Some(who) {
                    self.model.entries[key].flight = None;
                    self.model.settle(key);
                }
            }
            Act::Purge(n, soft) => {
                self.cache.apply(&Purge::Key { key: format!("key-{}", n % KEYS), soft });
                self.forget(n % KEYS, soft, false);
            }
            Act::PurgeEntry(n, soft) => {
                let key = self.key(n % KEYS);
                self.cache.apply(&Purge::Entry { key, soft });
                self.forget(n % KEYS, soft, true);
            }
            Act::PurgeAll => {
                self.cache.apply(&Purge::All);
                self.model.generation += 1;
            }
            Act::Later(seconds) => {
                self.cache.store().move_on(Duration::from_secs(seconds));
                self.model.now += seconds;
            }
        }
    }

    /// Marks are found by their entry only: they have no surrogate keys.
    fn forget(&mut self, key: usize, soft: bool, marks: bool) {
        let now = self.model.now;
        let entry = &mut self.model.entries[key];
        let Some(thing) = &mut entry.thing else { return };
        if soft {
            let mut all = Some(thing);
            while let Some(thing) = all {
                if marks || !thing.pass {
                    thing.softened = Some(thing.softened.map_or(now, |before| before.min(now)));
                }
                all = if marks { None } else { thing.before.as_deref_mut() };
            }
        } else if marks || !thing.pass {
            entry.thing = None;
        }
    }

    /// Everybody has been told what the model says.
    async fn agree(&mut self) {
        for who in 0..self.lookups.len() {
            let Some((_, lookup)) = &mut self.lookups[who] else { continue };
            let waits = {
                let ready = std::pin::pin!(lookup.ready());
                futures_util::poll!(ready).is_pending()
            };
            let told = if waits {
                Told::Wait
            } else {
                let outcome = lookup.outcome().await;
                match (&outcome.found, outcome.obligation.is_some(), outcome.pass) {
                    (_, _, true) => Told::Pass,
                    (Some(found), leads, _) => Told::Found(value(found).await, found.phase != Phase::Fresh, leads),
                    (None, true, _) => Told::Lead,
                    (None, false, _) => Told::Nothing,
                }
            };
            match (&told, &self.model.told[who]) {
                // What broke off since has no value to be read.
                (Told::Found(0, ..), Told::Found(..)) => {}
                (told, expected) => assert_eq!(told, expected, "lookup {who}"),
            }
        }
    }
}

/// The number that an object's bytes begin with; 0: they cannot be read.
async fn value(found: &Found) -> usize {
    let mut body = found.body(0, Some(6));
    let mut all = Vec::new();
    while all.len() < 6 {
        match futures_util::poll!(Box::pin(body.chunk())) {
            std::task::Poll::Ready(Ok(Some(bytes))) => all.extend_from_slice(&bytes),
            _ => return 0,
        }
    }
    std::str::from_utf8(&all).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_as_the_model(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut run = Run::new();
            for act in acts {
                run.act(act).await;
                run.agree().await;
            }
        });
    }
}
