//! Appending whole lines to a file that others append to as well, durably.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long after it was asked for lines may still be appended. Another process may hold the file for as long.
const LOCK: Duration = Duration::from_secs(5);
/// How often it is looked whether it still does.
const LOOK: Duration = Duration::from_millis(5);
/// Bytes that are searched at once for the end of a line.
const BLOCK: usize = 64 << 10;

/// Appends lines, each with its line break; they are on the disk when this returns. After an error none of them stays, as
/// far as the file can still be cut; what is appended next begins a line in any case. Blocks.
///
/// It was asked for at `asked`. A process that is frozen before it has the lock appends nothing long after that: others may have
/// appended the same lines and more by then.
///
/// # Errors
/// A sentence that says what to do.
pub(super) fn append(path: &Path, lines: &[u8], asked: Instant) -> Result<(), String> {
    append_within(path, lines, asked, LOCK)
}

/// The same where another process may hold the file for so long.
fn append_within(path: &Path, lines: &[u8], asked: Instant, patience: Duration) -> Result<(), String> {
    let failed = |error: &io::Error| format!("cannot write {}: {error}{}", path.display(), remedy(error.kind()));
    let mut file = loop {
        let file = File::options().read(true).append(true).create(true).open(path).map_err(|error| failed(&error))?;
        let opened = file.metadata().map_err(|error| failed(&error))?;
        if !opened.is_file() {
            return Err(format!("cannot write {}: it is no regular file; give another `file`", path.display()));
        }
        lock(&file, path, asked, patience)?;
        // It may have been renamed or deleted while somebody else had it.
        if fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())) {
            break file;
        }
    };
    let end = cut_half_line(&mut file, path).map_err(|error| failed(&error))?;
    if end == 0 {
        sync_folder(path).map_err(|error| failed(&error))?;
    }
    // What could not be flushed once may be lost though a second flush succeeds: it is written anew.
    file.write_all(lines).and_then(|()| file.sync_data()).map_err(|error| {
        let _ = file.set_len(end);
        failed(&error)
    })
}

/// Holds the file until it is closed, so that nobody else writes into it or cuts it.
fn lock(file: &File, path: &Path, asked: Instant, patience: Duration) -> Result<(), String> {
    loop {
        match file.try_lock() {
            Ok(()) if asked.elapsed() < patience => return Ok(()),
            Ok(()) => {
                let path = path.display();
                let remedy = "see whether this process was stopped or has too little of a processor";
                return Err(format!("cannot write {path}: {patience:?} had passed before its turn came; {remedy}"));
            }
            Err(TryLockError::WouldBlock) if asked.elapsed() < patience => thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => {
                let path = path.display();
                return Err(format!(
                    "cannot write {path}: another process has had it locked for {patience:?}; `fuser {path}` names it"
                ));
            }
            Err(TryLockError::Error(error)) => {
                return Err(format!("cannot lock {}: {error}; give a `file` on a local disk", path.display()));
            }
        }
    }
}

/// Cuts off what a crash has left behind the last line break. Gives the file's length.
fn cut_half_line(file: &mut File, path: &Path) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    let end = end_of_lines(file, length)?;
    if end == length {
        return Ok(length);
    }
    let (file_name, bytes) = (path.display(), length - end);
    if first_byte(file, end)? == b'{' {
        tracing::warn!(file = %file_name, bytes, "half a line that a crash had left was cut off; its record comes again");
    } else if is_zero(file, end)? {
        tracing::warn!(file = %file_name, bytes, "zero bytes that a power loss had left were cut off; their records come again");
    } else {
        let why = "its last line has no end and is none of a sink; end it, or give another `file`";
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    file.set_len(end)?;
    Ok(end)
}

/// The place behind the last line break.
fn end_of_lines(file: &mut File, length: u64) -> io::Result<u64> {
    let (mut end, mut block) = (length, vec![0; 1]);
    while end > 0 {
        let begin = end.saturating_sub(block.len() as u64);
        block.truncate(usize::try_from(end - begin).unwrap_or(BLOCK));
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        // The last byte alone says that most files are whole.
        (end, block) = (begin, vec![0; BLOCK]);
    }
    Ok(0)
}

fn first_byte(file: &mut File, begin: u64) -> io::Result<u8> {
    let mut first = [0];
    file.seek(SeekFrom::Start(begin))?;
    file.read_exact(&mut first)?;
    Ok(first[0])
}

/// Whether all bytes from here to the end are zero, as a file system leaves them that wrote the size before the data.
fn is_zero(file: &mut File, begin: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(begin))?;
    let mut block = Vec::with_capacity(BLOCK);
    while (&*file).take(BLOCK as u64).read_to_end(&mut block)? > 0 {
        if block.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        block.clear();
    }
    Ok(true)
}

/// A new file is there after a crash only once its folder is on the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "; make its folder",
        ErrorKind::PermissionDenied => "; grant the user of this process the right to write it",
        ErrorKind::IsADirectory => "; give the name of a file",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free space on its disk",
        ErrorKind::ReadOnlyFilesystem => "; mount its disk so that it can be written",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const WAIT: Duration = Duration::from_millis(20);

    fn append(path: &Path, lines: &[u8]) -> Result<(), String> {
        super::append(path, lines, Instant::now())
    }

    fn path() -> (TempDir, std::path::PathBuf) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("lines");
        (dir, path)
    }

    /// Red when half a line is left, is cut elsewhere than behind the last line break, also of a file that is searched in several
    /// blocks, or a whole line is cut.
    #[test]
    fn half_a_line_is_cut_off() {
        let (_dir, path) = path();
        let long = format!("{{\"long\":\"{}\"", "x".repeat(2 * BLOCK + 7));
        for half in ["", "{", "{\"id\":\"a\"}", &long] {
            for before in ["", "{}\n", "{}\n{}\n"] {
                fs::write(&path, format!("{before}{half}")).unwrap();
                append(&path, b"{\"new\":1}\n").unwrap();
                let length = half.len();
                assert_eq!(fs::read_to_string(&path).unwrap(), format!("{before}{{\"new\":1}}\n"), "{length}");
            }
        }
    }

    /// The size of a file was on the disk before its data when the power failed. Red when `is_zero` is not asked, so that zero
    /// bytes are refused as a line of somebody else, or when more or fewer of them are cut off than stand behind the last line.
    #[test]
    fn zero_bytes_are_cut_off() {
        let (_dir, path) = path();
        for zeros in [1, 4096, 2 * BLOCK + 7] {
            for before in ["", "{}\n", "{}\n\0\n"] {
                fs::write(&path, [before.as_bytes(), &vec![0; zeros]].concat()).unwrap();
                append(&path, b"{\"new\":1}\n").unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), format!("{before}{{\"new\":1}}\n"), "{zeros}");
            }
        }
    }

    /// Red when the end of a file that no sink has written is cut off, or zero bytes with something behind them are.
    #[test]
    fn what_is_no_line_of_a_sink_stays() {
        let (_dir, path) = path();
        let behind = format!("{}x", "\0".repeat(BLOCK));
        for last in ["another", "\0another", &behind] {
            let text = format!("a note\n{last}");
            fs::write(&path, &text).unwrap();
            let why = append(&path, b"{}\n").unwrap_err();
            assert!(why.contains("is none of a sink; end it, or give another `file`"), "{why}");
            assert!(fs::read_to_string(&path).unwrap() == text, "{}", last.len());
        }
    }

    /// Another holds the file and has written half a line. Red when its lock is not asked for: the half line is cut then.
    #[test]
    fn a_file_that_another_writes_is_waited_for() {
        let (_dir, path) = path();
        let mut other = File::options().create(true).append(true).open(&path).unwrap();
        other.lock().unwrap();
        other.write_all(b"{\"other\":").unwrap();
        let why = append_within(&path, b"{}\n", Instant::now(), WAIT).unwrap_err();
        assert!(why.contains("another process has had it locked for 20ms"), "{why}");
        other.write_all(b"1}\n").unwrap();
        other.unlock().unwrap();
        append(&path, b"{}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"other\":1}\n{}\n");
    }

    /// The files that this process has open.
    fn opened() -> Vec<std::path::PathBuf> {
        let links = fs::read_dir("/proc/self/fd").unwrap();
        links.filter_map(|link| fs::read_link(link.ok()?.path()).ok()).collect()
    }

    /// Another holds the file, and it is renamed, replaced or deleted while its lock is awaited, as a log rotation does: the line
    /// stands in the file that has the name afterwards. Red when it is not looked, once the lock is had, whether the file still
    /// has its name: the line is in the renamed file then, or in none.
    #[test]
    fn a_file_that_is_rotated_while_it_is_waited_for_is_let_go_of() {
        type Rotation = fn(&Path, &Path);
        let rename: Rotation = |path, rotated| fs::rename(path, rotated).unwrap();
        let replace: Rotation = |path, rotated| {
            fs::rename(path, rotated).unwrap();
            fs::write(path, "{\"new\":1}\n").unwrap();
        };
        let delete: Rotation = |path, _| fs::remove_file(path).unwrap();
        for (rotate, old, new) in [
            (rename, Some("{\"old\":1}\n"), "{}\n"),
            (replace, Some("{\"old\":1}\n"), "{\"new\":1}\n{}\n"),
            (delete, None, "{}\n"),
        ] {
            let (dir, path) = path();
            let rotated = dir.path().join("rotated");
            fs::write(&path, "{\"old\":1}\n").unwrap();
            let other = File::open(&path).unwrap();
            other.lock().unwrap();
            thread::scope(|scope| {
                let waiting = scope.spawn(|| append(&path, b"{}\n"));
                while opened().iter().filter(|file| **file == path).count() < 2 && !waiting.is_finished() {
                    thread::yield_now();
                }
                rotate(&path, &rotated);
                drop(other);
                waiting.join().unwrap().unwrap();
            });
            assert_eq!(fs::read_to_string(&rotated).ok().as_deref(), old);
            assert_eq!(fs::read_to_string(&path).unwrap(), new);
        }
    }

    /// A process was frozen after it had asked for its lines to be appended, and goes on when another has appended them and more.
    /// Red when it is not looked at the time once the lock is had: nobody holds the file then.
    #[test]
    fn lines_that_were_asked_for_long_ago_are_not_appended() {
        let (_dir, path) = path();
        fs::write(&path, "{\"n\":1}\n{\"n\":2}\n").unwrap();
        let frozen = Instant::now().checked_sub(LOCK).unwrap();
        let why = super::append(&path, b"{\"n\":1}\n", frozen).unwrap_err();
        assert!(why.contains("5s had passed before its turn came"), "{why}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
    }

    /// Red when one of these is no reason to wait, or it is not said what to do.
    #[test]
    fn a_path_that_cannot_be_written_is_said_with_what_to_do() {
        let (dir, path) = path();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        for (path, part) in [
            (path.join("below"), "make its folder"),
            (folder, "give the name of a file"),
            ("/dev/null".into(), "no regular file; give another `file`"),
        ] {
            let why = append(&path, b"{}\n").unwrap_err();
            assert!(why.contains(part) && why.contains(&*path.to_string_lossy()), "{why}");
            assert!(!path.exists() || !path.is_file(), "nothing was made");
        }
    }

    /// The disk takes a part of what is written, as a full one does: here the system lets no file grow beyond 4 KiB. Red when
    /// lines of a unit that will come again, or half of one, are left (`set_len` after an error).
    #[test]
    fn of_a_unit_that_does_not_fit_nothing_stays() {
        const HERE: &str = "HEADWATER_SMALL_FILES";
        if let Some(path) = std::env::var_os(HERE) {
            let path = std::path::PathBuf::from(path);
            append(&path, &b"{\"first\":1}\n".repeat(10)).unwrap();
            let why = append(&path, &b"{\"second\":2}\n".repeat(1_000)).unwrap_err();
            println!("{why}");
            return;
        }
        let (_dir, path) = path();
        // 512-byte blocks, and a signal that would end it ignored.
        let own = "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact --nocapture \"$1\"";
        let name = "files::append::tests::of_a_unit_that_does_not_fit_nothing_stays";
        let mut child = std::process::Command::new("sh");
        child.args(["-c", own]).arg(std::env::current_exe().unwrap()).arg(name).env(HERE, &path);
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("cannot write"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), b"{\"first\":1}\n".repeat(10));
    }
}
