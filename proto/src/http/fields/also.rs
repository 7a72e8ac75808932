//! Findings of `core` as entries of the same answer.
//!
//! Owns where each stands; the words are core's. Never says twice that a field is wrong: what its shape
//! has shown already stays. Called by the REST door, while it reads a body.

use serde_json::Value;
use trainyard_core::spec::Violation;

use super::{Fields, problem};

/// Bytes of a value that is shown again; a longer one is known to who sent it.
const SHOWN: usize = 10_000;

impl Fields<'_> {
    /// Adds what `found` says, each at the path that `place` gives for its field.
    pub fn also(&mut self, found: &[Violation], place: impl Fn(&str) -> Vec<String>) {
        let before = self.errors.len();
        for finding in found {
            let path = place(&finding.field);
            let keys = path.iter().map(|key| Value::from(key.as_str()));
            let whole: Vec<Value> = self.place.iter().cloned().chain(keys).collect();
            let known = self.errors.iter().take(before);
            if known.into_iter().any(|entry| overlap(entry, &whole)) {
                continue;
            }
            let input = self.value(&path);
            let input = input.filter(|value| value.to_string().len() <= SHOWN);
            let input = input.unwrap_or(Value::Null);
            let place = Value::Array(whole);
            let entry = problem("value_error", &place, &finding.message, &input);
            self.errors.push(entry);
        }
    }

    /// Adds what is wrong with one field, if anything is.
    pub fn check(&mut self, name: &str, words: Option<impl Into<String>>) {
        let found = words.map(|words| Violation {
            field: name.to_owned(),
            message: words.into(),
        });
        self.also(found.as_slice(), |field| vec![field.to_owned()]);
    }

    fn value(&self, path: &[String]) -> Option<Value> {
        let (first, rest) = path.split_first()?;
        let found = self.object.get(first)?;
        let found = rest.iter().try_fold(found, |value, key| value.get(key))?;
        Some(found.clone())
    }
}

/// Whether an entry is about this place, a part of it, or what holds it.
fn overlap(entry: &Value, place: &[Value]) -> bool {
    let at = entry.get("loc").and_then(Value::as_array);
    at.is_some_and(|at| at.iter().zip(place).all(|(one, other)| one == other))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_shape_has_shown_already_is_not_said_again() {
        let body = json!({"config": {"epochs": "x", "split": {"ratio": [5]}}});
        let mut fields = Fields::new(body.as_object().unwrap(), vec![json!("body")]);
        fields.nested("config", |inner| inner.whole("epochs", 1));
        let finding = |field: &str| Violation {
            field: field.to_owned(),
            message: "is wrong".to_owned(),
        };
        let found = ["epochs", "split.ratio", "model"].map(finding);
        let place = |field: &str| {
            let parts = std::iter::once("config").chain(field.split('.'));
            parts.map(str::to_owned).collect()
        };
        fields.also(&found, place);
        let shown = fields
            .errors
            .iter()
            .map(|entry| (&entry["loc"], &entry["input"]));
        let wanted = [
            (json!(["body", "config", "epochs"]), json!("x")),
            (json!(["body", "config", "split", "ratio"]), json!([5])),
            (json!(["body", "config", "model"]), Value::Null),
        ];
        assert_eq!(
            shown.collect::<Vec<_>>(),
            wanted.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>()
        );
    }
}
