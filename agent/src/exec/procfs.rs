//! What /proc says about processes.
//!
//! Owns parsing of `stat`, `children` and `vmstat`. It never signals. Identities, the shim and the
//! watcher call it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    sync::OnceLock,
};

/// So much the kernel writes of a file of /proc at one go.
const PAGE: usize = 4096;

/// The fields of `/proc/<pid>/stat` that are of use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// One letter: `Z` and `X` are dead.
    pub(crate) state: char,
    /// The parent.
    pub(crate) parent: i32,
    /// The process group.
    pub(crate) group: i32,
    /// The session.
    pub(crate) session: i32,
    /// Start, in clock ticks since boot.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// Whether it still runs code (a zombie does not).
    pub(crate) fn alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The state of `pid`, if there is such a process.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    look(pid).unwrap_or_default()
}

/// As [`stat`], where that it cannot be looked at is not the same as that there is none.
pub(crate) fn look(pid: i32) -> io::Result<Option<Stat>> {
    match read_at_once(&format!("/proc/{pid}/stat")) {
        Ok(bytes) => Ok(parse_stat(&String::from_utf8_lossy(&bytes))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is shorter than a page, in one read: a reader that starts small and reads on makes the kernel write all of it
/// anew each time.
fn read_at_once(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; PAGE];
    let count = File::open(path)?.read(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// It has ended before its file was opened, or after.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in brackets may itself hold brackets and blanks: take the last one.
    let (_, after) = text.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        session: fields.next()?.parse().ok()?,
        start_ticks: fields.nth(15)?.parse().ok()?,
    })
}

/// The id of this boot of the machine. Read once: no process outlives its boot.
pub(crate) fn boot_id() -> io::Result<String> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(boot.clone());
    }
    let boot = read_at_once("/proc/sys/kernel/random/boot_id")?;
    let boot = String::from_utf8_lossy(&boot).trim().to_owned();
    Ok(BOOT.get_or_init(|| boot).clone())
}

/// All processes that /proc shows.
pub(crate) fn all_pids() -> Vec<i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// The living processes of session `session`.
pub(crate) fn session_members(session: i32) -> Vec<i32> {
    all_pids()
        .into_iter()
        .filter(|&pid| stat(pid).is_some_and(|s| s.session == session && s.alive()))
        .collect()
}

/// The direct children of `pid`, zombies included, of all its threads. Quick; the kernel may leave
/// some out while the list changes: see [`children_by_search`].
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for task in tasks.flatten() {
        match fs::read_to_string(task.path().join("children")) {
            Ok(list) => found.extend(
                list.split_ascii_whitespace()
                    .filter_map(|child| child.parse::<i32>().ok()),
            ),
            // The thread has ended, or the kernel was built without these lists.
            Err(_) => return children_by_search(pid),
        }
    }
    found
}

/// The direct children of `pid`, by looking at every process there is.
pub(crate) fn children_by_search(pid: i32) -> Vec<i32> {
    all_pids()
        .into_iter()
        .filter(|&other| stat(other).is_some_and(|s| s.parent == pid))
        .collect()
}

/// How many processes the kernel has killed for want of memory since boot. Reads no further than it must: for each
/// read the kernel sums up all of its counters.
pub(crate) fn oom_kills() -> u64 {
    File::open("/proc/vmstat")
        .ok()
        .and_then(|file| find_count(file, "\noom_kill "))
        .unwrap_or(0)
}

/// The number behind `name`.
fn find_count(mut file: impl io::Read, name: &str) -> Option<u64> {
    let mut text = String::new();
    loop {
        let mut page = [0; PAGE];
        let count = file.read(&mut page).ok()?;
        text.push_str(std::str::from_utf8(page.get(..count)?).ok()?);
        let rest = text.split_once(name).map(|(_, rest)| rest);
        if let Some((number, _)) = rest.and_then(|rest| rest.split_once('\n')) {
            return number.trim().parse().ok();
        }
        if count == 0 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let text = "7 (a) b) S 1 7 5 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 999 5 6";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                state: 'S',
                parent: 1,
                group: 7,
                session: 5,
                start_ticks: 999
            })
        );
    }

    /// Gives at most so many bytes at a time.
    struct Cut<'a>(&'a [u8], usize);

    impl io::Read for Cut<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(into.len());
            self.0.read(&mut into[..most])
        }
    }

    #[test]
    fn a_count_is_found_however_the_file_is_cut() {
        let text = format!("{}nr_b 2\noom_kill 34\nnr_c 5\n", "nr_a 1\n".repeat(900));
        for piece in [1, 7, PAGE] {
            let file = Cut(text.as_bytes(), piece);
            assert_eq!(find_count(file, "\noom_kill "), Some(34));
        }
        assert_eq!(find_count(text.as_bytes(), "\nno_such "), None);
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let stat = parse_stat("7 (x) Z 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 9 0").unwrap();
        assert!(!stat.alive());
    }
}
