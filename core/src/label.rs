//! Labels of nodes: `key=value`, by which jobs choose nodes and nodes are grouped.
//!
//! Owns what a label may be, and that an operator's go before those of the node's own agent. Never says which jobs want
//! which. Used for specifications of jobs, by agents for their settings, and by the coordinator.

use std::collections::{BTreeMap, BTreeSet};

/// Characters of a key, and of a value.
pub const LONGEST: usize = 63;
/// Labels of one node.
pub const MOST: usize = 100;

/// What is wrong with a key; it names the way out.
#[must_use]
pub fn key_problem(key: &str) -> Option<String> {
    problem("key", key)
}

/// What is wrong with a key and its value; it names the way out.
#[must_use]
pub fn problem_of(key: &str, value: &str) -> Option<String> {
    problem("key", key).or_else(|| problem("value", value))
}

/// A label as key and value.
///
/// # Errors
/// What is wrong with it, and the way out.
pub fn parse(text: &str) -> Result<(&str, &str), String> {
    let shown: String = text.chars().take(2 * LONGEST).collect();
    let Some((key, value)) = text.split_once('=') else {
        return Err(format!(
            "'{shown}' is not a label; write key=value, such as zone=a"
        ));
    };
    match problem_of(key, value) {
        Some(words) => Err(words),
        None => Ok((key, value)),
    }
}

fn problem(what: &str, text: &str) -> Option<String> {
    let sound = |one: char| one.is_ascii_alphanumeric() || "._-/".contains(one);
    let is_good = (1..=LONGEST).contains(&text.len()) && text.chars().all(sound);
    let shown: String = text.chars().take(LONGEST).collect();
    (!is_good).then(|| {
        format!(
            "'{shown}' is not the {what} of a label; use 1 to {LONGEST} letters, digits and . _ - /"
        )
    })
}

/// What a node is labelled with: as its agent says, and over that as operators have set.
#[must_use]
pub fn merged(
    of_agent: &BTreeMap<String, String>,
    of_operators: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = of_agent.clone();
    all.extend(of_operators.clone());
    all
}

/// Each as `key=value`.
#[must_use]
pub fn texts(labels: &BTreeMap<String, String>) -> BTreeSet<String> {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// What is different in these labels, in words; nothing if nothing is.
#[must_use]
pub fn changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Option<String> {
    let set = after
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(*value));
    let set = set.map(|(key, value)| format!("{key}={value}"));
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let gone = gone.map(|key| format!("no {key}"));
    let words: Vec<String> = set.chain(gone).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_key_and_a_value_of_few_characters() {
        assert_eq!(parse("zone=a"), Ok(("zone", "a")));
        assert_eq!(
            parse("example.com/rack=r-1_2"),
            Ok(("example.com/rack", "r-1_2"))
        );
        for (bad, words) in [
            ("zone", "write key=value"),
            ("=a", "is not the key of a label"),
            ("zone=", "is not the value of a label"),
            ("zo ne=a", "'zo ne' is not the key"),
            ("a=b=c", "'b=c' is not the value"),
            (&"k".repeat(64), "write key=value"),
            (&format!("{}=v", "k".repeat(64)), "1 to 63"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }

    #[test]
    fn operators_go_before_the_agent() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let all = merged(
            &map(&[("zone", "a"), ("room", "7")]),
            &map(&[("zone", "b")]),
        );
        let texts: Vec<_> = texts(&all).into_iter().collect();
        assert_eq!(texts, ["room=7", "zone=b"]);
    }
}
