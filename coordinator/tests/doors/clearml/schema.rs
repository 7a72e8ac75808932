//! What ClearML's API documentation (2.23) says that a request holds: required fields, types, and no field that it
//! does not know.

use serde_json::{Map, Value};

/// Type by field; the first so many are required.
pub(super) type Schema = (usize, &'static [(&'static str, &'static str)]);

const STATUS: Schema = (
    1,
    &[
        ("task", "string"),
        ("force", "boolean"),
        ("status_reason", "string"),
        ("status_message", "string"),
    ],
);
pub(super) const EVENT: Schema = (
    2,
    &[
        ("task", "string"),
        ("type", "string"),
        ("iter", "integer"),
        ("metric", "string"),
        ("variant", "string"),
        ("value", "number"),
        ("timestamp", "number"),
    ],
);

pub(super) fn schema(path: &str) -> Option<Schema> {
    Some(match path {
        "projects.get_all" => (0, &[("name", "string"), ("only_fields", "strings")]),
        "projects.create" => (1, &[("name", "string"), ("description", "string")]),
        "tasks.get_all" => (
            0,
            &[
                ("tags", "strings"),
                ("only_fields", "strings"),
                ("page", "integer"),
                ("page_size", "integer"),
            ],
        ),
        "tasks.create" => (
            2,
            &[
                ("name", "string"),
                ("type", "string"),
                ("project", "string"),
                ("tags", "strings"),
                ("comment", "string"),
            ],
        ),
        "tasks.edit_hyper_params" => (
            2,
            &[
                ("task", "string"),
                ("hyperparams", "objects"),
                ("force", "boolean"),
                ("replace_hyperparams", "string"),
            ],
        ),
        "tasks.add_or_update_artifacts" => (
            2,
            &[
                ("task", "string"),
                ("artifacts", "objects"),
                ("force", "boolean"),
            ],
        ),
        "tasks.started" | "tasks.failed" | "tasks.stopped" | "tasks.completed" => STATUS,
        _ => return None,
    })
}

/// What is wrong with a request.
pub(super) fn check(path: &str, (required, fields): Schema, body: &Value) -> Result<(), String> {
    let empty = Map::new();
    let given = body.as_object().unwrap_or(&empty);
    for (name, _) in &fields[..required] {
        if !given.contains_key(*name) {
            return Err(format!("{path}: {name} is required"));
        }
    }
    for (name, value) in given {
        let Some((_, kind)) = fields.iter().find(|(known, _)| known == name) else {
            return Err(format!("{path}: {name} is unknown"));
        };
        let all = |fits: fn(&Value) -> bool| value.as_array().is_some_and(|l| l.iter().all(fits));
        let fits = match *kind {
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "strings" => all(Value::is_string),
            "objects" => all(Value::is_object),
            other => return Err(format!("{path}: the schema has no type {other}")),
        };
        if !fits {
            return Err(format!("{path}: {name} is no {kind}"));
        }
    }
    let item: Schema = (
        0,
        &[
            ("section", "string"),
            ("name", "string"),
            ("value", "string"),
        ],
    );
    for param in given
        .get("hyperparams")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        check("hyperparams", item, param)?;
    }
    let artifact: Schema = (
        2,
        &[
            ("key", "string"),
            ("type", "string"),
            ("mode", "string"),
            ("uri", "string"),
        ],
    );
    for given in given
        .get("artifacts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        check("artifacts", artifact, given)?;
    }
    Ok(())
}
