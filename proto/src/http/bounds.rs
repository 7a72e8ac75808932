//! The ends of a range that a number must lie in, and the words for one that does not. Called by
//! `fields`; the doors name their ranges with it.

use serde_json::{Value, json};

/// Whole numbers that every client can hold.
pub const SAFE: [Bound<i64>; 2] = [
    Bound::Ge(-9_007_199_254_740_991),
    Bound::Le(9_007_199_254_740_991),
];

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound<T> {
    /// At least.
    Ge(T),
    /// At most.
    Le(T),
    /// More than.
    Gt(T),
    /// Less than.
    Lt(T),
}

impl<T: PartialOrd + Copy + Into<Value>> Bound<T> {
    /// What is wrong with `read`: type, text and context.
    pub(super) fn broken(self, read: T) -> Option<(&'static str, String, Value)> {
        let (holds, kind, words, key, limit) = match self {
            Self::Ge(limit) => (
                read >= limit,
                "greater_than_equal",
                "greater than or equal to",
                "ge",
                limit,
            ),
            Self::Le(limit) => (
                read <= limit,
                "less_than_equal",
                "less than or equal to",
                "le",
                limit,
            ),
            Self::Gt(limit) => (read > limit, "greater_than", "greater than", "gt", limit),
            Self::Lt(limit) => (read < limit, "less_than", "less than", "lt", limit),
        };
        let limit: Value = limit.into();
        let shown = limit.to_string();
        let shown = shown.strip_suffix(".0").unwrap_or(&shown);
        let text = format!("Input should be {words} {shown}");
        (!holds).then(|| (kind, text, json!({ key: limit })))
    }
}
