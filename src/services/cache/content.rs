//! The bytes of one object: written once, read by any number while they are being written. Readers share them; nothing
//! is copied for one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use ::http::HeaderMap;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::disk::DiskBody;
use super::object::Object;
use crate::http::{Body, BodyError, BodyStream};

/// Pieces that are smaller are put together when the object is whole.
const SMALL: usize = 32 << 10;

/// Size of pieces that are put together.
const PIECE: usize = 64 << 10;

/// What a piece costs beside its bytes.
const PIECE_COST: u64 = 64;

/// How far the writer of an object that is not kept may be ahead of its slowest reader, in bytes.
const WINDOW: u64 = 1 << 20;

/// Bytes of objects that are being written, or are in the cache no more and still read: of all of a store, or of a
/// service's part, which are counted in both.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    bytes: AtomicU64,
    all: Option<Arc<InFlight>>,
}

impl InFlight {
    /// A part of `all`.
    pub(super) fn part(all: &Arc<InFlight>) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicU64::new(0), all: Some(all.clone()) })
    }

    pub(super) fn get(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(all) = &self.all {
            all.add(bytes);
        }
    }

    fn sub(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(all) = &self.all {
            all.sub(bytes);
        }
    }
}

/// The bytes of one object.
pub(super) struct Content {
    state: Mutex<State>,
    changed: Notify,
    /// Its length, if the writer has told it.
    expected: Option<u64>,
    in_flight: Arc<InFlight>,
    /// The object that it is of, the latest if there have been several.
    object: Mutex<Weak<Object>>,
    /// Its file, if it has one.
    file: Mutex<Option<DiskBody>>,
    /// What is counted of it since it is in the cache no more.
    lingers: AtomicU64,
}

enum State {
    Open(Open),
    Whole(Arc<Whole>),
    Failed(BodyError),
}

#[derive(Default)]
struct Open {
    /// Pieces by where they start.
    pieces: VecDeque<(u64, Bytes)>,
    total: u64,
    /// What of it is in memory, pieces' costs included.
    held: u64,
    /// Where readers are.
    places: Vec<Option<u64>>,
    /// Not kept: what all readers have had is dropped.
    detached: bool,
}

/// All of an object.
pub(super) struct Whole {
    /// Its length.
    pub(super) length: u64,
    /// The trailers behind it.
    pub(super) trailers: Option<Box<HeaderMap>>,
    /// Where its bytes are.
    pub(super) bytes: Kept,
}

/// Where the bytes of a whole object are.
pub(super) enum Kept {
    /// Pieces by where they start.
    Memory(Box<[(u64, Bytes)]>),
    /// In a file.
    Disk(DiskBody),
}

impl Whole {
    pub(super) fn of(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        let pieces = if bytes.is_empty() { Box::default() } else { Box::from([(0, bytes)]) };
        Self { length, trailers: None, bytes: Kept::Memory(pieces) }
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> u64 {
        match &self.bytes {
            Kept::Memory(pieces) => self.length + pieces.len() as u64 * PIECE_COST,
            Kept::Disk(_) => 0,
        }
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Open {
    /// The piece that has the byte at `at`, from there on.
    fn from(&self, at: u64) -> Option<Bytes> {
        from(|index| self.pieces.get(index), self.pieces.len(), at)
    }

    /// Where the slowest reader is; `None`: nobody reads.
    fn slowest(&self) -> Option<u64> {
        self.places.iter().flatten().min().copied()
    }

    /// What counts as in flight: not the window of what is not kept, which is as of other bodies that pass.
    fn counts(&self) -> u64 {
        if self.detached { self.held.saturating_sub(WINDOW) } else { self.held }
    }

    /// Changes it, and what counts with it.
    fn change(&mut self, in_flight: &InFlight, change: impl FnOnce(&mut Self)) {
        let before = self.counts();
        change(self);
        let after = self.counts();
        in_flight.add(after.saturating_sub(before));
        in_flight.sub(before.saturating_sub(after));
    }

    /// Drops what all readers have had.
    fn trim(&mut self) {
        let upto = self.slowest().unwrap_or(self.total);
        let mut freed = 0;
        while let Some((start, piece)) = self.pieces.front()
            && start + piece.len() as u64 <= upto
        {
            freed += piece.len() as u64 + PIECE_COST;
            self.pieces.pop_front();
        }
        self.held -= freed;
    }
}

fn from<'a>(piece: impl Fn(usize) -> Option<&'a (u64, Bytes)>, count: usize, at: u64) -> Option<Bytes> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if piece(middle)?.0 <= at { low = middle + 1 } else { high = middle }
    }
    let (start, bytes) = piece(low.checked_sub(1)?)?;
    let skip = (at - start) as usize;
    (skip < bytes.len()).then(|| bytes.slice(skip..))
}

/// Pieces as they are kept: of a size that makes them worth it, and holding on to no buffer of a connection that is
/// larger than they are.
fn compact(pieces: VecDeque<(u64, Bytes)>) -> Box<[(u64, Bytes)]> {
    let mut kept = Vec::with_capacity(pieces.len().min(16));
    let mut start = 0;
    let mut together = BytesMut::new();
    let mut seal = |together: &mut BytesMut, start: u64| {
        if !together.is_empty() {
            kept.push((start, Bytes::copy_from_slice(together)));
            together.clear();
        }
    };
    let mut large = Vec::new();
    for (at, piece) in pieces {
        if piece.len() >= SMALL {
            seal(&mut together, start);
            large.push((at, piece));
            continue;
        }
        if together.is_empty() {
            start = at;
        }
        together.extend_from_slice(&piece);
        if together.len() >= PIECE {
            seal(&mut together, start);
        }
    }
    seal(&mut together, start);
    kept.append(&mut large);
    kept.sort_unstable_by_key(|(at, _)| *at);
    kept.into_boxed_slice()
}

impl Content {
    /// Nothing yet.
    pub(super) fn open(expected: Option<u64>, in_flight: Arc<InFlight>) -> Arc<Self> {
        let state = Mutex::new(State::Open(Open::default()));
        Arc::new(Self {
            state,
            changed: Notify::new(),
            expected,
            in_flight,
            object: Mutex::default(),
            file: Mutex::default(),
            lingers: AtomicU64::new(0),
        })
    }

    /// All of it. What is in the cache no more, and read, counts in `in_flight`.
    pub(super) fn whole(whole: Whole, in_flight: Arc<InFlight>) -> Arc<Self> {
        let expected = Some(whole.length);
        let state = Mutex::new(State::Whole(Arc::new(whole)));
        Arc::new(Self {
            state,
            changed: Notify::new(),
            expected,
            in_flight,
            object: Mutex::default(),
            file: Mutex::default(),
            lingers: AtomicU64::new(0),
        })
    }

    /// It is in the cache no more: what it has in memory counts as long as anybody reads it.
    pub(super) fn linger(&self) {
        let held = self.get().map_or(0, |whole| whole.held());
        self.in_flight.add(held);
        self.in_flight.sub(self.lingers.swap(held, Ordering::Relaxed));
    }

    /// Notes that it is in a file, too.
    pub(super) fn is_on_disk(&self, body: DiskBody) {
        *self.file.lock() = Some(body);
    }

    /// Notes that its file goes.
    pub(super) fn is_off_disk(&self) {
        *self.file.lock() = None;
    }

    /// Its file, if it has one.
    pub(super) fn on_disk(&self) -> Option<DiskBody> {
        self.file.lock().clone()
    }

    /// Notes the object that it is of.
    pub(super) fn belongs_to(&self, object: &Arc<Object>) {
        *self.object.lock() = Arc::downgrade(object);
    }

    /// The object that it is of, if anybody still has that.
    pub(super) fn object(&self) -> Option<Arc<Object>> {
        self.object.lock().upgrade()
    }

    /// Its length, if it is known: as told, or because all of it is there.
    pub(super) fn length(&self) -> Option<u64> {
        match &*self.state.lock() {
            State::Whole(whole) => Some(whole.length),
            State::Open(_) | State::Failed(_) => self.expected,
        }
    }

    /// All of it, if it is there.
    pub(super) fn get(&self) -> Option<Arc<Whole>> {
        match &*self.state.lock() {
            State::Whole(whole) => Some(whole.clone()),
            State::Open(_) | State::Failed(_) => None,
        }
    }

    /// Keeps all of it elsewhere from now on.
    pub(super) fn put(&self, whole: Whole) {
        let mut state = self.state.lock();
        if let State::Whole(_) = &*state {
            *state = State::Whole(Arc::new(whole));
        }
    }

    /// Whether it has ended before its end.
    pub(super) fn has_failed(&self) -> bool {
        matches!(&*self.state.lock(), State::Failed(_))
    }

    /// Bytes of memory of what is being written, and of what else its service has in flight.
    pub(super) fn in_flight(&self) -> (u64, u64) {
        let own = match &*self.state.lock() {
            State::Open(open) => open.counts(),
            State::Whole(_) | State::Failed(_) => 0,
        };
        (own, self.in_flight.get().saturating_sub(own))
    }

    /// How much of it is there.
    pub(super) fn size(&self) -> u64 {
        match &*self.state.lock() {
            State::Open(open) => open.total,
            State::Whole(whole) => whole.length,
            State::Failed(_) => 0,
        }
    }

    /// Adds bytes; `false`: they are more than were told, and it has failed.
    pub(super) fn push(&self, bytes: Bytes) -> bool {
        let mut state = self.state.lock();
        let State::Open(open) = &mut *state else { return false };
        let length = bytes.len() as u64;
        if self.expected.is_some_and(|expected| open.total + length > expected) {
            drop(state);
            self.fail(BodyError::Malformed("more came than was told".to_owned()));
            return false;
        }
        open.change(&self.in_flight, |open| {
            open.pieces.push_back((open.total, bytes));
            open.total += length;
            open.held += length + PIECE_COST;
        });
        drop(state);
        self.changed.notify_waiters();
        true
    }

    /// The end; whether all of it is there that was told.
    pub(super) fn finish(&self, trailers: Option<Box<HeaderMap>>) -> bool {
        let mut state = self.state.lock();
        let State::Open(open) = &mut *state else { return false };
        if self.expected.is_some_and(|expected| open.total != expected) {
            drop(state);
            self.fail(BodyError::Incomplete("less came than was told".to_owned()));
            return false;
        }
        self.in_flight.sub(open.counts());
        let pieces = std::mem::take(&mut open.pieces);
        let whole = if open.detached {
            // Only who reads it now does: it must find its place, however much has been dropped before.
            Kept::Memory(pieces.into_iter().collect())
        } else {
            Kept::Memory(compact(pieces))
        };
        *state = State::Whole(Arc::new(Whole { length: open.total, trailers, bytes: whole }));
        drop(state);
        self.changed.notify_waiters();
        true
    }

    /// The end before the end.
    pub(super) fn fail(&self, error: BodyError) {
        let mut state = self.state.lock();
        if let State::Open(open) = &*state {
            self.in_flight.sub(open.counts());
            *state = State::Failed(error);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// From now on, only what somebody has still to read is held.
    pub(super) fn detach(&self) {
        if let State::Open(open) = &mut *self.state.lock() {
            open.change(&self.in_flight, |open| {
                open.detached = true;
                open.trim();
            });
        }
    }

    /// Whether it is not kept.
    pub(super) fn is_detached(&self) -> bool {
        matches!(&*self.state.lock(), State::Open(open) if open.detached)
    }

    /// Its length at its end, waiting for that; `None`: it has failed.
    pub(super) async fn ended(&self) -> Option<u64> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            match &*self.state.lock() {
                State::Whole(whole) => return Some(whole.length),
                State::Failed(_) => return None,
                State::Open(_) => {}
            }
            changed.await;
        }
    }

    /// Waits until readers of what is not kept have caught up; `false`: nobody reads.
    pub(super) async fn room(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            match &*self.state.lock() {
                State::Open(open) => match open.slowest() {
                    None => return false,
                    Some(slowest) if open.total - slowest < WINDOW => return true,
                    Some(_) => {}
                },
                State::Whole(_) | State::Failed(_) => return false,
            }
            changed.await;
        }
    }

    /// A place at the beginning: what is behind it stays readable.
    pub(super) fn place(self: &Arc<Self>) -> Place {
        let mut index = None;
        if let State::Open(open) = &mut *self.state.lock() {
            let free = open.places.iter().position(Option::is_none).unwrap_or_else(|| {
                open.places.push(None);
                open.places.len() - 1
            });
            open.places[free] = Some(0);
            index = Some(free);
        }
        Place { content: self.clone(), index }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let State::Open(open) = self.state.get_mut() {
            self.in_flight.sub(open.counts());
        }
        self.in_flight.sub(*self.lingers.get_mut());
    }
}

/// Where a reader is, or will be.
pub(super) struct Place {
    content: Arc<Content>,
    /// `None`: all was there already.
    index: Option<usize>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("index", &self.index).finish_non_exhaustive()
    }
}

/// Bytes that somebody reads, of a content that is there as long.
struct Given {
    bytes: Bytes,
    _content: Arc<Content>,
}

impl AsRef<[u8]> for Given {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Place {
    /// A body that has the bytes from `at` on, before `end` if that is given.
    pub(super) fn read(self, at: u64, end: Option<u64>) -> Body {
        if let Some(whole) = self.content.get()
            && let Kept::Memory(pieces) = &whole.bytes
            && pieces.len() <= 4
            && pieces.iter().map(|(_, piece)| piece.len() as u64).sum::<u64>() == whole.length
            && whole.trailers.is_none()
        {
            // No stream for what is here: its length is known in front, and it can be sent again.
            let mut body = Body::empty();
            let end = end.unwrap_or(whole.length).min(whole.length);
            for (start, bytes) in pieces {
                let (from, to) = (at.max(*start), end.min(start + bytes.len() as u64));
                if from < to {
                    let bytes = bytes.slice((from - start) as usize..(to - start) as usize);
                    body.push_back(Bytes::from_owner(Given { bytes, _content: self.content.clone() }));
                }
            }
            return body;
        }
        Body::stream(Box::new(Reader { place: self, at, end, whole: None, trailers: None, failed: false }))
    }

    fn moves(&self, open: &mut Open, at: u64) {
        if let Some(index) = self.index
            && let Some(place) = open.places.get_mut(index)
        {
            *place = Some(at);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        if let State::Open(open) = &mut *self.content.state.lock() {
            if let Some(place) = open.places.get_mut(index) {
                *place = None;
            }
            if open.detached {
                open.change(&self.content.in_flight, Open::trim);
            }
        }
        self.content.changed.notify_waiters();
    }
}

struct Reader {
    place: Place,
    at: u64,
    end: Option<u64>,
    whole: Option<Arc<Whole>>,
    trailers: Option<Box<HeaderMap>>,
    failed: bool,
}

impl Reader {
    /// What is there now: bytes, the end, or nothing yet.
    fn step(&mut self) -> Result<Option<Option<Bytes>>, BodyError> {
        let content = self.place.content.clone();
        let mut state = content.state.lock();
        match &mut *state {
            State::Whole(whole) => {
                self.whole = Some(whole.clone());
                Ok(None)
            }
            State::Failed(error) => Err(error.clone()),
            State::Open(open) => {
                let Some(bytes) = open.from(self.at) else {
                    if self.at < open.total {
                        return Err(BodyError::Incomplete("what came before is not kept".to_owned()));
                    }
                    return Ok(None);
                };
                let bytes = self.cut(bytes);
                self.place.moves(open, self.at + bytes.len() as u64);
                if open.detached {
                    open.change(&content.in_flight, Open::trim);
                    drop(state);
                    content.changed.notify_waiters();
                }
                Ok(Some(Some(bytes)))
            }
        }
    }

    fn cut(&self, mut bytes: Bytes) -> Bytes {
        if let Some(end) = self.end {
            bytes.truncate((end - self.at).min(bytes.len() as u64) as usize);
        }
        bytes
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            if self.end.is_some_and(|end| self.at >= end) {
                return Ok(None);
            }
            if let Some(whole) = self.whole.clone() {
                if self.at >= whole.length {
                    if self.end.is_none() {
                        self.trailers = whole.trailers.clone();
                    }
                    return Ok(None);
                }
                let found = match &whole.bytes {
                    Kept::Memory(pieces) => from(|index| pieces.get(index), pieces.len(), self.at),
                    Kept::Disk(file) => Some(file.read(self.at, &self.place.content).await?),
                };
                let bytes = found.ok_or_else(|| BodyError::Incomplete("what came before is not kept".to_owned()))?;
                return Ok(Some(self.cut(bytes)));
            }
            let content = self.place.content.clone();
            let changed = content.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = self.step()? {
                return Ok(found);
            }
            if self.whole.is_none() {
                changed.await;
            }
        }
    }
}

#[async_trait]
impl BodyStream for Reader {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        match self.next().await {
            Ok(Some(bytes)) => {
                self.at += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.failed = true;
                Err(error)
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        if self.failed {
            return None;
        }
        let length = self.whole.as_ref().map(|whole| whole.length).or_else(|| self.place.content.length());
        let end = match (self.end, length) {
            (Some(end), Some(length)) => end.min(length),
            (None, Some(length)) => length,
            (_, None) => return None,
        };
        Some(end.saturating_sub(self.at))
    }

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(expected: Option<u64>) -> (Arc<Content>, Arc<InFlight>) {
        let in_flight = Arc::new(InFlight::default());
        (Content::open(expected, in_flight.clone()), in_flight)
    }

    async fn all(mut body: Body) -> Result<Vec<u8>, BodyError> {
        let mut out = Vec::new();
        while let Some(bytes) = body.chunk().await? {
            out.extend_from_slice(&bytes);
        }
        Ok(out)
    }

    #[tokio::test]
    async fn readers_see_bytes_as_they_come_and_each_all_of_them() {
        let (content, in_flight) = open(None);
        let mut early = content.place().read(0, None);
        assert!(!early.is_ready());
        assert!(content.push(Bytes::from_static(b"hello ")));
        assert_eq!(early.chunk().await.expect("reads").expect("some"), "hello ");
        let late = content.place();
        assert_eq!((early.known_length(), content.length()), (None, None));
        assert!(content.push(Bytes::from_static(b"world")));
        assert!(content.finish(None));
        assert_eq!(all(early).await.expect("reads"), b"world");
        assert_eq!(late.read(3, Some(8)).known_length(), Some(5));
        assert_eq!(all(content.place().read(3, Some(8))).await.expect("reads"), b"lo wo");
        assert_eq!(in_flight.get(), 0);
    }

    #[tokio::test]
    async fn more_or_less_than_was_told_is_a_failure_to_all() {
        let (content, in_flight) = open(Some(3));
        let reader = content.place().read(0, None);
        assert_eq!(reader.known_length(), Some(3));
        assert!(content.push(Bytes::from_static(b"ab")));
        assert!(!content.finish(None));
        assert!(all(reader).await.is_err());
        let (content, _) = open(Some(3));
        assert!(!content.push(Bytes::from_static(b"abcd")));
        assert!(all(content.place().read(0, None)).await.is_err());
        assert_eq!(in_flight.get(), 0);
    }

    #[tokio::test]
    async fn small_pieces_are_put_together() {
        let (content, _) = open(None);
        for index in 0..100_000u32 {
            assert!(content.push(Bytes::copy_from_slice(&index.to_le_bytes())));
        }
        assert!(content.push(Bytes::from(vec![7; 100_000])));
        assert!(content.push(Bytes::from_static(b"end")));
        assert!(content.finish(None));
        let whole = content.get().expect("all of it");
        let Kept::Memory(pieces) = &whole.bytes else { panic!("in memory") };
        assert!(pieces.len() < 12, "{}", pieces.len());
        let got = all(content.place().read(399_996, None)).await.expect("reads");
        assert_eq!((got.len(), &got[..5], &got[got.len() - 3..]), (100_007, &[159, 134, 1, 0, 7][..], &b"end"[..]));
    }

    #[tokio::test]
    async fn what_is_not_kept_is_held_no_longer_than_it_is_read() {
        let (content, in_flight) = open(None);
        let mut reader = content.place().read(0, None);
        content.push(Bytes::from(vec![1; 1000]));
        content.detach();
        assert!(content.room().await);
        for _ in 0..64 {
            content.push(Bytes::from(vec![1; 64 << 10]));
        }
        let mut room = Box::pin(content.room());
        assert!(futures_util::poll!(&mut room).is_pending());
        let mut got = 0;
        while got < 4 << 20 {
            got += reader.chunk().await.expect("reads").expect("some").len();
        }
        assert!(room.await);
        assert!(in_flight.get() < 1 << 20, "{}", in_flight.get());
        drop(reader);
        assert!(!content.room().await, "nobody reads");
    }
}
