//! Time and randomness of the process: while a simulation runs, the C library's `clock_gettime` and `getrandom` are
//! these.
//!
//! Owns the simulated time and the stream of bytes that the seed gives. Everything asks here without knowing it: the
//! product, tokio's `select!`, the keys of the standard library's maps. Set by the world; docs/adr/0017 says why.
#![expect(
    unsafe_code,
    reason = "functions of the C library are replaced: their callers pass raw pointers"
)]

use std::{
    ffi::c_void,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use nix::libc;

/// When simulated time begins, in seconds since 1970.
const BEGIN: i64 = 1_767_225_600;

static RUNS: AtomicBool = AtomicBool::new(false);
static ELAPSED: AtomicU64 = AtomicU64::new(0);
static JUMPED: AtomicI64 = AtomicI64::new(0);
static OF_HOST: AtomicI64 = AtomicI64::new(0);
static STREAM: AtomicU64 = AtomicU64::new(0);

/// From now on all time and randomness of this process are the simulation's.
pub(crate) fn begin(seed: u64) {
    STREAM.store(seed, Ordering::Relaxed);
    RUNS.store(true, Ordering::Relaxed);
}

/// So much time has passed since the beginning.
pub(crate) fn elapsed(time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    ELAPSED.store(micros, Ordering::Relaxed);
}

/// All clocks on walls are set by so many seconds; what measures time goes on.
pub(crate) fn jump(seconds: i64) {
    JUMPED.fetch_add(seconds, Ordering::Relaxed);
}

/// From now on whoever asks is on a host whose clock is ahead by so many seconds.
pub(crate) fn on_a_clock_ahead_by(seconds: i64) {
    OF_HOST.store(seconds, Ordering::Relaxed);
}

/// By how much the clock on the wall of whoever asks was set, in seconds.
fn set_by() -> i64 {
    JUMPED.load(Ordering::Relaxed) + OF_HOST.load(Ordering::Relaxed)
}

/// What a clock on a wall shows, in microseconds since 1970.
pub(crate) fn wall_us() -> u64 {
    let seconds = u64::try_from(BEGIN + set_by()).unwrap_or(0);
    seconds * 1_000_000 + ELAPSED.load(Ordering::Relaxed)
}

/// How much time has passed since the beginning.
pub(crate) fn since_begin() -> Duration {
    Duration::from_micros(ELAPSED.load(Ordering::Relaxed))
}

/// So long after the beginning, on a clock that nobody has set.
pub(crate) fn moment(after: Duration) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: BEGIN + i64::try_from(after.as_secs()).unwrap_or(0),
        nanos: 0,
    }
}

/// The next number of the stream (splitmix64).
fn draw() -> u64 {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut z = STREAM.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// As getrandom(2).
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(
    buffer: *mut c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if !RUNS.load(Ordering::Relaxed) {
        // SAFETY: the arguments are the caller's, who keeps to getrandom(2).
        let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return libc::ssize_t::try_from(got).unwrap_or(-1);
    }
    let bytes: *mut u8 = buffer.cast();
    for at in 0..length {
        let byte = draw().to_le_bytes()[3];
        // SAFETY: the caller has `length` bytes at `buffer`.
        unsafe { bytes.add(at).write(byte) };
    }
    libc::ssize_t::try_from(length).unwrap_or(-1)
}

/// As clock_gettime(2).
///
/// # Safety
/// `time` must be valid for a write.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    if !RUNS.load(Ordering::Relaxed) {
        // SAFETY: the arguments are the caller's, who keeps to clock_gettime(2).
        let got = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return libc::c_int::try_from(got).unwrap_or(-1);
    }
    let on_the_wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let jumped = if on_the_wall { set_by() } else { 0 };
    let micros = ELAPSED.load(Ordering::Relaxed);
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    let nanos = i64::try_from(micros % 1_000_000 * 1_000).unwrap_or(0);
    // SAFETY: the caller has room for a timespec at `time`.
    unsafe {
        time.write(libc::timespec {
            tv_sec: BEGIN + jumped + seconds,
            tv_nsec: nanos,
        });
    }
    0
}
