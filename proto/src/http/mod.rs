//! Bodies of the HTTP contract, read as its clients know it: every bad field at once, in the words
//! of pydantic.
//!
//! Owns reading JSON, naming what is wrong, and turning a trainer's reports into records. Never
//! touches a socket, a disk or a store. Called by the REST door of the coordinator and by the
//! agent's callback endpoint.

mod bodies;
mod bounds;
mod fields;
mod json;
mod records;

pub use bodies::{
    CompletionBody, LogBody, Problems, ProgressBody, ValidationBody, completion, log, progress,
    read, validation,
};
pub use bounds::{Bound, SAFE};
pub use fields::{Fields, bad_number, problem};
pub use json::{Parsed, number, parse, plain};
