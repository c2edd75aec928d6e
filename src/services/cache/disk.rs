//! The disk tier: to come.
use std::sync::Arc;

use bytes::Bytes;

use super::object::Object;
use super::store::Store;
use crate::http::BodyError;

/// Objects in files.
pub struct Disk;

/// The bytes of an object in a file.
pub(super) struct DiskBody;

impl DiskBody {
    pub(super) async fn read(&self, _: u64) -> Result<Bytes, BodyError> {
        Err(BodyError::Incomplete("no disk".to_owned()))
    }
}

impl Disk {
    pub(super) fn open(_: &std::path::Path, _: u64) -> Result<Self, crate::services::data::DataError> {
        Ok(Self)
    }
    /// Objects, bytes, and the most bytes.
    pub(super) fn used(&self) -> (usize, u64, u64) {
        (0, 0, 0)
    }
    pub(super) fn generation(&self, _: &str) -> u64 {
        0
    }
    pub(super) fn position(&self) -> Option<String> {
        None
    }
    pub(super) fn set_position(&self, _: &str) {}
    pub(super) fn set_generation(&self, _: &str, _: u64) {}
    pub(super) fn write(&self, _: &Store, _: &Arc<Object>) {}
    pub(super) fn take_over(&self, _: &Store, _: &Arc<Object>) -> bool {
        false
    }
    pub(super) fn remove(&self, _: &Object) {}
    pub(super) fn note_soft(&self, _: &Object) {}
    pub(super) fn each(&self, _: impl FnMut(&Arc<Object>)) {}
}
