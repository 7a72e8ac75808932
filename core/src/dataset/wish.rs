//! What can be wrong with a `split_strategy` before its dataset is known.
//!
//! Owns only that every key is looked at; what a key means is `split`'s. Never says whether an image is
//! there. Called by `JobSpec::check`.

use serde_json::Value;

use super::{
    DatasetError,
    split::{listed, named, ratio, seed},
};
use crate::spec::Violation;

/// Every key that is wrong.
#[must_use]
pub fn split_problems(wish: &Value) -> Vec<Violation> {
    let at = |key: &str| format!("split_strategy.{key}");
    let method = wish.get("method").and_then(Value::as_str);
    let mut found = Vec::new();
    if !matches!(method, Some("auto" | "custom" | "use_dataset")) {
        let method = method.unwrap_or_default();
        let words = format!("is '{method}'; give use_dataset, auto or custom");
        found.push(DatasetError::split(at("method"), words));
    }
    let shares = ratio(&at("ratio"), wish.get("ratio"));
    let splits = named(&at("custom_splits"), wish.get("custom_splits"));
    if let (Some("custom"), Ok(None), Ok([])) = (method, &shares, splits.as_deref()) {
        let words = "is missing; name images and their parts, or give a ratio";
        found.push(DatasetError::split(at("custom_splits"), words));
    }
    found.extend(shares.err());
    found.extend(seed(&at("seed"), wish.get("seed")).err());
    found.extend(splits.err());
    found.extend(listed(&at("exclude_images"), wish.get("exclude_images")).err());
    found.into_iter().filter_map(violation).collect()
}

fn violation(error: DatasetError) -> Option<Violation> {
    match error {
        DatasetError::Split { field, message } => Some(Violation { field, message }),
        DatasetError::Document { .. } | DatasetError::Layout(_) | DatasetError::Path { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(wish: &Value) -> Vec<String> {
        let found = split_problems(wish).into_iter();
        found
            .map(|found| found.field.replace("split_strategy.", ""))
            .collect()
    }

    #[test]
    fn every_key_that_is_wrong_is_named() {
        let wish = json!({
            "method": "half", "ratio": [5, -1], "seed": 1.5,
            "custom_splits": {"a": "foo"}, "exclude_images": "a",
        });
        let all = ["method", "ratio", "seed", "custom_splits", "exclude_images"];
        assert_eq!(fields(&wish), all);
        assert_eq!(fields(&json!({"method": "custom"})), ["custom_splits"]);
        assert_eq!(
            fields(&json!({"method": "auto", "ratio": [0.8, 0.3]})),
            ["ratio"]
        );
    }

    #[test]
    fn what_the_contract_allows_has_no_problems() {
        for wish in [
            json!({"method": "auto"}),
            json!({"method": "use_dataset", "ratio": null, "seed": null}),
            json!({"method": "auto", "ratio": [0.7, 0.2, 0.1], "seed": 7}),
            json!({"method": "custom", "custom_splits": {"a": "val", "b": "Train"}}),
            json!({"method": "custom", "ratio": [0.5, 0.5], "exclude_images": ["a"]}),
        ] {
            assert_eq!(fields(&wish), [""; 0], "{wish}");
        }
    }
}
