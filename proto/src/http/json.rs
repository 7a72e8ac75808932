//! JSON as Python writes it: `json.dumps` puts bare NaN, Infinity and -Infinity where numbers are
//! not finite. Never changes anything else of a text. Called by `bodies` and `fields`.

use serde_json::Value;

const TOKENS: [(&[u8], &str, f64); 3] = [
    (b"NaN", "\u{0}NaN", f64::NAN),
    (b"Infinity", "\u{0}Infinity", f64::INFINITY),
    (b"-Infinity", "\u{0}-Infinity", f64::NEG_INFINITY),
];

/// A body that was read.
#[derive(Debug)]
pub struct Parsed {
    /// The value; numbers that are not finite are marked strings.
    pub value: Value,
    /// Whether there are such.
    pub marked: bool,
}

/// Reads a body.
///
/// # Errors
/// The byte at which it is no JSON, and the reason.
pub fn parse(body: &[u8]) -> Result<Parsed, (usize, String)> {
    let mut plain = Vec::with_capacity(body.len());
    let mut rest = body;
    let mut marked = false;
    let (mut in_string, mut escaped) = (false, false);
    while let Some((&byte, after)) = rest.split_first() {
        let token = TOKENS
            .iter()
            .find(|token| !in_string && rest.starts_with(token.0));
        if let Some((text, mark, _)) = token {
            plain.extend_from_slice(Value::from(*mark).to_string().as_bytes());
            rest = rest.get(text.len()..).unwrap_or_default();
            marked = true;
            continue;
        }
        in_string ^= byte == b'"' && !escaped;
        escaped = in_string && byte == b'\\' && !escaped;
        plain.push(byte);
        rest = after;
    }
    serde_json::from_slice(&plain)
        .map(|value| Parsed { value, marked })
        .map_err(|error| (place(&plain, &error), error.to_string()))
}

/// The number that a value stands for, marked ones included.
#[must_use]
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => TOKENS
            .iter()
            .find(|token| token.1 == text)
            .map(|token| token.2),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The value with null where a number is not finite, as JSON can say it.
#[must_use]
pub fn plain(value: &Value) -> Value {
    match value {
        Value::String(_) if number(value).is_some() => Value::Null,
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn place(text: &[u8], error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    before + error.column().saturating_sub(1)
}
