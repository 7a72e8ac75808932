//! Reads the fields of a body one by one and remembers every one that is wrong, in the words that
//! existing clients know. Never stops at the first. Called by `bodies`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::json::{number, plain};

/// The fields of one object and what was wrong with them.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    place: Vec<&'static str>,
    /// As they stand in the answer.
    pub(super) errors: Vec<Value>,
}

/// One entry of a 422.
pub(super) fn problem(kind: &str, place: &Value, text: &str, input: &Value) -> Value {
    json!({"type": kind, "loc": place, "msg": text, "input": plain(input)})
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Map<String, Value>, place: Vec<&'static str>) -> Self {
        Self {
            object,
            place,
            errors: Vec::new(),
        }
    }

    /// A text that must be there.
    pub(super) fn text(&mut self, name: &'static str) -> String {
        self.required(name);
        self.optional_text(name).unwrap_or_default()
    }

    /// A text that may be missing or null.
    pub(super) fn optional_text(&mut self, name: &'static str) -> Option<String> {
        let value = self.get(name)?;
        let text = value.as_str().map(str::to_owned);
        let kind = ("string_type", "Input should be a valid string");
        text.or_else(|| self.wrong(name, kind, value))
    }

    /// A whole number that must be there and be at least `least`.
    pub(super) fn whole(&mut self, name: &'static str, least: i64) -> i64 {
        self.required(name);
        self.optional_whole(name, least).unwrap_or_default()
    }

    /// A whole number that may be missing or null.
    pub(super) fn optional_whole(&mut self, name: &'static str, least: i64) -> Option<i64> {
        let value = self.get(name)?;
        let whole = match value {
            Value::Bool(flag) => Some(i64::from(*flag)),
            Value::String(text) => text.trim().parse().ok(),
            Value::Number(number) => number.as_i64().or_else(|| whole_float(number.as_f64()?)),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        let Some(whole) = whole else {
            return self.wrong(name, not_whole(value), value);
        };
        if whole < least {
            self.too_small(name, least, value);
            return None;
        }
        Some(whole)
    }

    /// A number that may be missing or null.
    pub(super) fn optional_number(&mut self, name: &'static str) -> Option<f64> {
        let value = self.get(name)?;
        let read = match value {
            Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
            Value::String(text) => number(value).or_else(|| text.trim().parse().ok()),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => number(value),
        };
        let kind = if value.is_string() {
            (
                "float_parsing",
                "Input should be a valid number, unable to parse string as a number",
            )
        } else {
            ("float_type", "Input should be a valid number")
        };
        read.or_else(|| self.wrong(name, kind, value))
    }

    /// A share in percent that may be missing or null.
    pub(super) fn percent(&mut self, name: &'static str) {
        let (Some(read), Some(value)) = (self.optional_number(name), self.get(name)) else {
            return;
        };
        if read < 0.0 {
            self.too_small(name, 0, value);
        } else if read > 100.0 {
            let text = "Input should be less than or equal to 100";
            self.add("less_than_equal", name, text, value);
            self.add_context(&json!({"le": 100}));
        }
    }

    /// `{loss?, accuracy?, learning_rate?, extra_metrics?}` as metrics by name.
    pub(super) fn metrics(&mut self, name: &'static str) -> Option<BTreeMap<String, f64>> {
        let object = self.object(name)?;
        let mut place = self.place.clone();
        place.push(name);
        let mut inner = Fields::new(object, place);
        let mut values = BTreeMap::new();
        if let Some(extra) = inner.object("extra_metrics") {
            let numbers = extra
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), number(value)?)));
            values.extend(numbers);
        }
        for named in ["loss", "accuracy", "learning_rate"] {
            if let Some(value) = inner.optional_number(named) {
                values.insert(named.to_owned(), value);
            }
        }
        self.errors.append(&mut inner.errors);
        Some(values)
    }

    /// Whatever stands there, unless it is missing or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    fn object(&mut self, name: &'static str) -> Option<&'a Map<String, Value>> {
        let value = self.get(name)?;
        let kind = ("dict_type", "Input should be a valid dictionary");
        value.as_object().or_else(|| self.wrong(name, kind, value))
    }

    /// Null where something is required is of the wrong type, not missing.
    fn required(&mut self, name: &'static str) {
        match self.object.get(name) {
            None => {
                let all = Value::Object(self.object.clone());
                self.add("missing", name, "Field required", &all);
            }
            Some(Value::Null) => {
                let (kind, text) = match name {
                    "status" | "event_type" | "message" | "task_type" => {
                        ("string_type", "Input should be a valid string")
                    }
                    _ => ("int_type", "Input should be a valid integer"),
                };
                self.add(kind, name, text, &Value::Null);
            }
            Some(_) => {}
        }
    }

    fn wrong<T>(&mut self, name: &str, what: (&str, &str), input: &Value) -> Option<T> {
        self.add(what.0, name, what.1, input);
        None
    }

    fn add(&mut self, kind: &str, name: &str, text: &str, input: &Value) {
        let place: Value = self.place.iter().copied().chain([name]).collect();
        self.errors.push(problem(kind, &place, text, input));
    }

    /// "At least 1" is known to clients as "greater than 0".
    fn too_small(&mut self, name: &str, least: i64, value: &Value) {
        if least == 1 {
            self.add(
                "greater_than",
                name,
                "Input should be greater than 0",
                value,
            );
            self.add_context(&json!({"gt": 0}));
        } else {
            let text = format!("Input should be greater than or equal to {least}");
            self.add("greater_than_equal", name, &text, value);
            self.add_context(&json!({"ge": least}));
        }
    }

    fn add_context(&mut self, context: &Value) {
        if let Some(Value::Object(last)) = self.errors.last_mut() {
            last.insert("ctx".to_owned(), context.clone());
        }
    }
}

fn whole_float(number: f64) -> Option<i64> {
    let fits = number.fract().abs() < f64::EPSILON && number.abs() < 9.0e15;
    // Whole and within 53 bits: its text is the integer's.
    fits.then(|| format!("{number:.0}").parse().ok()).flatten()
}

fn not_whole(value: &Value) -> (&'static str, &'static str) {
    if number(value).is_some_and(|number| !number.is_finite()) {
        ("finite_number", "Input should be a finite number")
    } else if value.is_string() {
        (
            "int_parsing",
            "Input should be a valid integer, unable to parse string as an integer",
        )
    } else if value.is_number() {
        (
            "int_from_float",
            "Input should be a valid integer, got a number with a fractional part",
        )
    } else {
        ("int_type", "Input should be a valid integer")
    }
}
