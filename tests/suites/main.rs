//! The suites that look at the project from outside, in one test binary.

mod python;
