//! What is not as it should be and is nobody's request: said in `/readyz` and `/status` as long as it is so.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// What is not well, by the part of this host that it is of.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<&'static str, String>>);

impl Troubles {
    /// A part is not well, or is again.
    pub fn set(&self, part: &'static str, trouble: Option<String>) {
        let mut all = self.0.lock();
        match trouble {
            Some(trouble) => drop(all.insert(part, trouble)),
            None => drop(all.remove(part)),
        }
    }

    /// All there are.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().values().cloned().collect()
    }
}
