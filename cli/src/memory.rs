//! How the allocator treats large blocks. Owns one setting, made before anything is allocated in
//! earnest. Called by `main`.

/// Blocks from this size on go back to the system when they are freed.
const LARGE: i32 = 1 << 20;

/// Has glibc map large blocks by themselves. By default it learns to keep them: after one password
/// check (19 MiB) an idle coordinator would hold that much for ever.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc's setting has no safe wrapper")]
pub(crate) fn give_large_blocks_back() {
    // SAFETY: mallopt only changes a number of the allocator, and no other thread exists yet. That it
    // is refused would only mean that memory is kept.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Other C libraries do so anyway.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_large_blocks_back() {}
