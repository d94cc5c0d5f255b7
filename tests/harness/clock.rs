//! The wall clock of a host that a test sets: libfaketime in front of one process.

use std::path::PathBuf;

const MISSING: &str = "The tests need libfaketime: run `make setup` (or name the library in FAKETIME_LIB).";

/// Where systems keep the library.
const PLACES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib/arm-linux-gnueabihf/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
];

/// The wall clock of whatever process is started with its settings. It goes as fast as the real one, and jumps when it is told to. The monotonic
/// clock, by which a process measures lengths, is left alone, as a jump of a real host's clock leaves it alone.
pub struct HostClock {
    file: tempfile::NamedTempFile,
}

impl HostClock {
    /// A clock that is right.
    pub fn right() -> Self {
        let clock = Self { file: tempfile::NamedTempFile::new().expect("a temporary file can be made") };
        clock.set(0);
        clock
    }

    /// From now on it is this many seconds ahead of the real one, or behind it.
    pub fn set(&self, ahead_s: i64) {
        // Replaced as a whole: a process that looks meanwhile must not read half of it.
        let path = self.file.path();
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, format!("{ahead_s:+}\n")).expect("it can be written");
        std::fs::rename(&fresh, path).expect("it can be replaced");
    }

    /// The environment that puts a process under this clock.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", format!("{}:{}", library().display(), libc().display())),
            ("FAKETIME_TIMESTAMP_FILE", self.file.path().to_string_lossy().into_owned()),
            // Looked at again with each question: a jump is there at once.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

fn library() -> PathBuf {
    if let Some(named) = std::env::var_os("FAKETIME_LIB") {
        return named.into();
    }
    let found = PLACES.iter().map(|place| PathBuf::from(place).join("libfaketime.so.1")).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("there is no libfaketime.so.1. {MISSING}"))
}

/// The C library that this process has. Named behind the other, it gives the memory too: jemalloc, which Redis has, asks for the time while it begins,
/// and libfaketime asks for memory then.
fn libc() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("a process may read its own maps");
    let path = maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.ends_with("/libc.so.6"));
    path.expect("a process has a C library").into()
}
