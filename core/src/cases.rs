//! How many cases a property is tried with.

use proptest::test_runner::Config;

/// So many as usual; as many as `PROPTEST_CASES` says where that is set, for a long run.
pub(crate) fn cases(usual: u32) -> Config {
    let said = std::env::var("PROPTEST_CASES").ok();
    let said = said.and_then(|said| said.parse().ok());
    Config::with_cases(said.unwrap_or(usual))
}
