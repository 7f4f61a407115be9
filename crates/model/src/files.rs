//! Files that appear whole: written beside their place, synced, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// A name beside `path` that no other thread or process uses; what a killed run leaves under it, [`sweep`] clears.
pub fn beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Bytes of a file of settings at most.
pub const SETTINGS_BYTES: u64 = 16 << 20;

/// A file, if it has at most `most` bytes.
///
/// # Errors
/// Whatever the file system says; a larger file.
pub fn read_at_most(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let why = format!("larger than {} MiB, the most that such a file may have", most >> 20);
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    Ok(bytes)
}

/// A file of settings, as text.
///
/// # Errors
/// Whatever the file system says; a file of more than [`SETTINGS_BYTES`]; bytes that are not UTF-8.
pub fn read_settings(path: &Path) -> io::Result<String> {
    let bytes = read_at_most(path, SETTINGS_BYTES)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "not UTF-8"))
}

/// What the system says of a write of `wanted` bytes to `path`; of a full disk, with how much was wanted.
pub fn unwritten(path: &Path, wanted: u64) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |e| {
        let full = matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        let said = || io::Error::new(e.kind(), format!("disk full, {} MiB wanted", wanted.div_ceil(1 << 20)));
        Error::Io { path: path.clone(), source: if full { said() } else { e } }
    }
}

/// Makes what was renamed in `folder` outlast a crash of the machine, where the system can.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_folder(folder: &Path) -> Result<(), Error> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if cfg!(unix) {
        match File::open(folder).and_then(|f| f.sync_all()) {
            // Some network file systems have no such thing.
            Err(e) if !matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                return Err(Error::io(folder)(e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file under way beside its place. Dropped before [`place`](Self::place), it leaves nothing.
#[derive(Debug)]
pub struct Aside {
    path: PathBuf,
    part: PathBuf,
    wanted: u64,
    file: Option<BufWriter<File>>,
}

impl Aside {
    /// Begins a file of about `wanted` bytes that is to be at `path`. Its mode follows the umask.
    ///
    /// # Errors
    /// Whatever the file system says, with the path.
    pub fn new(path: &Path, wanted: u64) -> Result<Self, Error> {
        let (part, file) = loop {
            let part = beside(path);
            match OpenOptions::new().write(true).create_new(true).open(&part) {
                // Of a process of the same number, on another machine or before a restart.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                opened => break (part, opened.map_err(unwritten(path, wanted))?),
            }
        };
        let file = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(Self { path: path.to_owned(), part, wanted, file })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Whatever the file system says, with the path.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.as_mut().expect("not placed yet").write_all(bytes).map_err(unwritten(&self.path, self.wanted))
    }

    /// Hands the file to the disk; it is not in its place yet.
    ///
    /// # Errors
    /// Whatever the file system says, with the path.
    pub fn sync(&mut self) -> Result<(), Error> {
        let file = self.file.as_mut().expect("not placed yet");
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(unwritten(&self.path, self.wanted))
    }

    /// Renames the file to its place: a reader sees the old one or the whole new one.
    ///
    /// # Errors
    /// Whatever the file system says, with the path.
    pub fn place(mut self) -> Result<(), Error> {
        self.sync()?;
        fs::rename(&self.part, &self.path).map_err(Error::io(&self.path))?;
        self.file = None;
        sync_folder(self.path.parent().unwrap_or(Path::new(".")))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Not flushed: on a full disk that would fail once more.
            drop(file.into_parts());
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Writes a file beside its place, then renames it: a reader sees the old one or the whole new one.
///
/// # Errors
/// Whatever the file system says, with the path.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = Aside::new(path, bytes.len() as u64)?;
    file.write(bytes)?;
    file.place()
}

/// Whether a name is of something that was never put in its place, by this version or an earlier one.
fn is_part(name: &str) -> bool {
    const ENDINGS: [&str; 4] = [".json.part", ".jsonl.part", ".toml.part", ".safetensors.part"];
    let earlier = ENDINGS.iter().any(|e| name.ends_with(e)) || name == "chat_template.jinja.part";
    let random =
        name.strip_prefix(".tmp").is_some_and(|r| r.len() == 6 && r.chars().all(|c| c.is_ascii_alphanumeric()));
    let own = name.strip_prefix('.').and_then(|n| n.strip_suffix(".part")).and_then(|n| n.rsplit_once('.'));
    let numbers =
        |n: &str| n.split_once('-').is_some_and(|(a, b)| a.parse::<u32>().is_ok() && b.parse::<u64>().is_ok());
    earlier || random || own.is_some_and(|(_, n)| numbers(n))
}

/// Clears what killed runs left in `folder` before it was in its place. The caller answers for no run being there now.
///
/// # Errors
/// Whatever the file system says, with the path.
pub fn sweep(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if is_part(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
            let gone = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_leftovers_are_told_from_others() {
        let own = beside(Path::new("x/model.safetensors"));
        for name in [own.file_name().unwrap().to_str().unwrap(), ".tmpa3X09z", "collimate.toml.part"] {
            assert!(is_part(name), "{name}");
        }
        assert_ne!(own, beside(Path::new("x/model.safetensors")));
        for name in ["model.safetensors", ".gitignore", "thesis.part", ".my.notes.part", ".tmp", "a.part"] {
            assert!(!is_part(name), "{name}");
        }
    }

    #[test]
    fn what_is_dropped_under_way_leaves_nothing_and_what_is_placed_leaves_one_file() {
        let folder = std::env::temp_dir().join(format!("collimate-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.json");
        let names = || fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let mut file = Aside::new(&path, 3).unwrap();
        file.write(b"{}").unwrap();
        assert_eq!(names().len(), 1);
        drop(file);
        assert!(names().is_empty());
        write_whole(&path, b"[1]").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"[1]");
        // A run that was killed leaves its part; a sweep clears it and nothing else.
        std::mem::forget(Aside::new(&path, 3).unwrap());
        assert_eq!(names().len(), 2);
        sweep(&folder).unwrap();
        assert_eq!(names(), ["a.json"]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_full_disk_says_how_much_was_wanted() {
        let e = unwritten(Path::new("a"), 3 << 20)(io::Error::from(ErrorKind::StorageFull));
        assert_eq!(e.to_string(), "a: disk full, 3 MiB wanted");
    }
}
