//! Which version this program is: said on the wire, at `/health` and by `trainyard --version`.
//!
//! Owns the one place in a binary where it stands, so that whoever looks at a file finds it (`strings FILE`), and a test
//! makes a program of another version without compiling one. Never decides what versions get on: the protocol's number does.

/// As it stands in the binary.
static MARKED: &str = concat!("trainyard version ", env!("CARGO_PKG_VERSION"));
/// What stands before it.
const MARK: &str = "trainyard version ";

/// The version of this program, such as `0.1.0`.
#[must_use]
pub fn version() -> &'static str {
    MARKED.strip_prefix(MARK).unwrap_or(MARKED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_package() {
        assert_eq!(version(), env!("CARGO_PKG_VERSION"));
    }
}
