//! Compiled modules on disk, so that a start does not compile again.
//!
//! Running foreign machine code would be the end of the sandbox, so: the folder must be ours and
//! closed to others, an entry's name holds the digest of its content and is checked against the
//! very file that is then mapped, and entries appear whole (written aside, then renamed).

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::{Engine, Module};

use super::tidy;

/// A folder of compiled modules.
#[derive(Clone, Debug)]
pub struct CodeCache {
    folder: PathBuf,
    /// Bytes that it may have.
    most: u64,
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of `bytes`, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

impl CodeCache {
    /// Opens (makes) the folder, of so many bytes at most. A folder that is not safe is not used, and the log says why.
    pub fn open(folder: &Path, most: u64) -> Option<Self> {
        match prepare(folder) {
            Ok(()) => {
                tidy::clear(folder);
                Some(Self { folder: folder.to_owned(), most })
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "compiled modules are not kept");
                None
            }
        }
    }

    /// The compiled module of that wasm for that engine; compiled now if it is not there.
    pub fn module(
        &self,
        engine: &Engine,
        wasm: &[u8],
        compile: impl FnOnce(&[u8]) -> wasmtime::Result<Vec<u8>>,
    ) -> wasmtime::Result<Module> {
        let key = key(engine, wasm);
        if let Some(module) = self.find(engine, &key)? {
            return Ok(module);
        }
        tracing::info!(bytes = wasm.len(), "compiling the program; it is kept for the next start");
        let code = compile(wasm)?;
        match self.store(&key, &code) {
            Ok(path) => match self.load(engine, &path) {
                Ok(module) => return Ok(module),
                Err(error) => tracing::warn!(file = %path.display(), %error, "a compiled module just written cannot be loaded"),
            },
            Err(error) => tracing::warn!(folder = %self.folder.display(), %error, "the compiled module could not be kept"),
        }
        Module::new(engine, wasm)
    }

    /// The module that is there. An error when it is well and cannot be used with this engine's pool: compiling it again
    /// would not help.
    fn find(&self, engine: &Engine, key: &str) -> wasmtime::Result<Option<Module>> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Ok(None) };
        for entry in entries.flatten() {
            let path = entry.path();
            let fits =
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(key) && name.ends_with(".cwasm"));
            if !fits {
                continue;
            }
            match self.load(engine, &path) {
                Ok(module) => return Ok(Some(module)),
                // wasmtime tells it by its text only.
                Err(error) if format!("{error:#}").contains("pooling allocator") => return Err(error),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "a compiled module in the cache is not usable; compiling again");
                    drop(fs::remove_file(&path));
                }
            }
        }
        Ok(None)
    }

    fn load(&self, engine: &Engine, path: &Path) -> wasmtime::Result<Module> {
        let mut file = File::open(path)?;
        let meta = file.metadata()?;
        if meta.uid() != own_uid()? {
            return Err(wasmtime::Error::msg("it belongs to another user"));
        }
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        let actual = hex(&hasher.finalize());
        let named = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.rsplit('-').next());
        if named != Some(actual.as_str()) {
            return Err(wasmtime::Error::msg("its content is not what its name says"));
        }
        tidy::used(&file);
        #[expect(
            unsafe_code,
            reason = "our own output: folder and file are ours alone, and the digest of this open file has just been checked"
        )]
        let module = unsafe { Module::deserialize_open_file(engine, file) }?;
        Ok(module)
    }

    fn store(&self, key: &str, code: &[u8]) -> io::Result<PathBuf> {
        let path = self.folder.join(format!("{key}-{}.cwasm", digest(code)));
        let aside = self.folder.join(tidy::aside(key));
        let written = (|| {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            file.write_all(code)?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        })();
        if written.is_err() {
            drop(fs::remove_file(&aside));
        }
        written?;
        tidy::tidy(&self.folder, self.most, &path, |name| name.ends_with(".cwasm"));
        Ok(path)
    }
}

/// Content and engine: another wasmtime or other settings make another key.
fn key(engine: &Engine, wasm: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{}-{:016x}", &digest(wasm)[..32], hasher.finish())
}

fn own_uid() -> io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}

fn prepare(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let meta = fs::metadata(folder)?;
    if meta.uid() != own_uid()? {
        return Err(io::Error::other("the folder belongs to another user"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may write to the folder; chmod 700 it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const WASM: &[u8] = br#"(module (memory (export "memory") 1) (func (export "_start")))"#;

    fn entries(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).expect("lists").map(|entry| entry.expect("reads").path()).collect()
    }

    #[test]
    fn a_module_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("cache");
        let cache = CodeCache::open(&folder, u64::MAX).expect("opens");
        let engine = Engine::default();
        cache.module(&engine, WASM, |wasm| engine.precompile_module(wasm)).expect("compiles");
        let kept = entries(&folder);
        assert_eq!(kept.len(), 1);
        let written = fs::metadata(&kept[0]).expect("exists").ino();
        cache.module(&engine, WASM, |wasm| engine.precompile_module(wasm)).expect("loads");
        assert_eq!(fs::metadata(&kept[0]).expect("exists").ino(), written, "it is not made again");
    }

    #[test]
    fn a_half_written_or_foreign_entry_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("cache");
        let cache = CodeCache::open(&folder, u64::MAX).expect("opens");
        let engine = Engine::default();
        cache.module(&engine, WASM, |wasm| engine.precompile_module(wasm)).expect("compiles");
        let kept = entries(&folder).remove(0);
        let whole = fs::read(&kept).expect("reads");
        for broken in [&whole[..whole.len() / 2], b"not machine code", b""] {
            fs::write(&kept, broken).expect("writes");
            cache.module(&engine, WASM, |wasm| engine.precompile_module(wasm)).expect("compiles again");
            assert_eq!(fs::read(&entries(&folder)[0]).expect("reads").len(), whole.len());
        }
    }

    #[test]
    fn what_is_not_used_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("cache");
        let engine = Engine::default();
        let make = |most: u64, index: u32| {
            let wasm = format!(r#"(module (memory (export "memory") 1) (func (export "_start") (drop (i32.const {index}))))"#);
            let cache = CodeCache::open(&folder, most).expect("opens");
            cache.module(&engine, wasm.as_bytes(), |wasm| engine.precompile_module(wasm)).expect("compiles");
        };
        (0..4).for_each(|index| make(u64::MAX, index));
        assert_eq!(entries(&folder).len(), 4);
        let one = fs::metadata(&entries(&folder)[0]).expect("exists").len();
        make(one * 2 + one / 2, 4);
        assert_eq!(entries(&folder).len(), 2);
        make(1, 5);
        assert_eq!(entries(&folder).len(), 1, "what was just made is there");
    }

    #[test]
    fn a_folder_others_may_write_to_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        assert!(CodeCache::open(folder.path(), u64::MAX).is_none());
    }
}
