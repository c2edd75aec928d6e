//! Files that settings name, and that somebody else puts there: none of them holds up whoever reads it, or has no end.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read as _, Result};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

/// Most bytes of a file that nothing else bounds.
pub const LARGEST: u64 = 512 << 20;

/// How often, and how many times in all, one looks whether something comes through a pipe: for 3 s.
const LOOK: Duration = Duration::from_millis(10);
const LOOKS: u32 = 300;

/// Opens a file, or a pipe (`<(…)` of a shell), which then answers [`ErrorKind::WouldBlock`] while nothing comes.
///
/// # Errors
///
/// What the system says; that it is a socket or a device.
pub fn open(path: &Path) -> Result<File> {
    // Opening a pipe waits for whoever writes otherwise; files do not care.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    match kind.is_block_device() || kind.is_char_device() || kind.is_socket() {
        true => Err(Error::new(ErrorKind::InvalidInput, "it is a device or a socket; put a file there")),
        false => Ok(file),
    }
}

/// All of a file, of no more than `most` bytes; what comes through a pipe within 3 s.
///
/// # Errors
///
/// As of [`open`]; that there is more; that a pipe does not come to its end.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let large = || Error::new(ErrorKind::FileTooLarge, format!("it has more than {} MiB", most >> 20));
    let file = open(path)?;
    let what = file.metadata()?;
    let (length, is_pipe) = (what.len(), what.file_type().is_fifo());
    if length > most {
        return Err(large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default().saturating_add(1));
    let mut rest = file.take(most.saturating_add(1));
    let mut looks = 0;
    loop {
        match rest.read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > most => return Err(large()),
            Ok(_) if bytes.is_empty() && is_pipe => {
                return Err(Error::new(ErrorKind::UnexpectedEof, "it is a pipe that nothing comes through; put a file there"));
            }
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock && looks < LOOKS => looks += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "it is a pipe, and who writes to it does not come to an end; put a file there",
                ));
            }
            Err(error) => return Err(error),
        }
        std::thread::sleep(LOOK);
    }
}

/// As [`read`], of text.
///
/// # Errors
///
/// As of [`read`]; that it is no UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| Error::new(ErrorKind::InvalidData, "it is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn why(path: &str, most: u64) -> String {
        read(Path::new(path), most).expect_err("no file").to_string()
    }

    #[test]
    fn files_pipes_and_what_is_neither() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "some").expect("writes");
        assert_eq!(read(&at("file"), 4).expect("reads"), b"some");
        assert!(why(at("file").to_str().expect("a path"), 3).contains("more than"));
        assert!(why("/dev/zero", 10).contains("device"));
        assert!(read(folder.path(), 10).is_err());
        let pipe = at("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        // Nobody writes.
        assert!(why(pipe.to_str().expect("a path"), 10).contains("nothing comes through"));
        // As a shell's: somebody does, after a while, in pieces.
        let other = pipe.clone();
        let reader = open(&pipe).expect("opens");
        let mut writer = OpenOptions::new().write(true).open(&pipe).expect("opens");
        let writes = std::thread::spawn(move || {
            for piece in ["th", "is"] {
                std::thread::sleep(Duration::from_millis(30));
                writer.write_all(piece.as_bytes()).expect("writes");
            }
        });
        assert_eq!(read(&other, 10).expect("reads"), b"this");
        writes.join().expect("has written");
        drop(reader);
        // And somebody who never ends.
        let _reader = open(&pipe).expect("opens");
        let _writer = OpenOptions::new().write(true).open(&pipe).expect("opens");
        assert!(why(pipe.to_str().expect("a path"), 10).contains("does not come to an end"));
    }
}
