//! Reads the fields of an object one by one and remembers every one that is wrong, in the words that
//! existing clients know. Never stops at the first. Called by `bodies` and by the REST door.

mod also;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    bounds::Bound,
    json::{number, plain},
};

/// The fields of one object and what was wrong with them.
#[derive(Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    place: Vec<Value>,
    /// Each field came by itself: what is missing is then shown without the others.
    single: bool,
    /// As they stand in the answer.
    pub errors: Vec<Value>,
}

/// Metrics of one report.
const MOST_METRICS: usize = 10_000;
const STRING: (&str, &str) = ("string_type", "Input should be a valid string");
const DICT: (&str, &str) = ("dict_type", "Input should be a valid dictionary");
const MODEL: (&str, &str) = (
    "model_attributes_type",
    "Input should be a valid dictionary or object to extract fields from",
);

/// One entry of a 422.
#[must_use]
pub fn problem(kind: &str, place: &Value, text: &str, input: &Value) -> Value {
    json!({"type": kind, "loc": place, "msg": text, "input": plain(input)})
}

/// The entry for a part of a path that is not a number.
#[must_use]
pub fn bad_number(place: &Value, text: &str) -> Value {
    let message = "Input should be a valid integer, unable to parse string as an integer";
    problem("int_parsing", place, message, &Value::from(text))
}

impl<'a> Fields<'a> {
    /// The fields of `object`, which stands at `place`.
    #[must_use]
    pub fn new(object: &'a Map<String, Value>, place: Vec<Value>) -> Self {
        Self {
            object,
            place,
            single: false,
            errors: Vec::new(),
        }
    }

    /// Fields of a query or a form, which stand at `place` one by one.
    #[must_use]
    pub fn parameters(object: &'a Map<String, Value>, place: &str) -> Self {
        Self {
            single: true,
            ..Self::new(object, vec![Value::from(place)])
        }
    }

    /// A text that must be there.
    pub fn text(&mut self, name: &str) -> String {
        self.required(name, STRING);
        self.optional_text(name).unwrap_or_default()
    }

    /// A text that may be missing but not null.
    pub fn text_or(&mut self, name: &str, default: &str) -> String {
        self.not_null(name, STRING);
        self.optional_text(name)
            .unwrap_or_else(|| default.to_owned())
    }

    /// A text that may be missing or null.
    pub fn optional_text(&mut self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        let text = value.as_str().filter(|_| number(value).is_none());
        let text = text.map(str::to_owned);
        text.or_else(|| self.wrong(name, STRING, value))
    }

    /// A text of at most `most` characters that may be missing or null.
    pub fn short_text(&mut self, name: &str, most: usize) -> Option<String> {
        let text = self.optional_text(name)?;
        if text.chars().count() > most {
            let words = format!("String should have at most {most} characters");
            self.add("string_too_long", name, &words, &Value::from(text));
            self.add_context(&json!({"max_length": most}));
            return None;
        }
        Some(text)
    }

    /// A text of `least` to `most` characters that must be there.
    pub fn required_text_within(&mut self, name: &str, least: usize, most: usize) -> String {
        let before = self.errors.len();
        let text = self.text(name);
        if self.errors.len() > before {
            return text;
        }
        let count = text.chars().count();
        // What is refused may be a password; it is not sent back.
        let hidden = Value::Null;
        if count < least {
            let words = format!("String should have at least {least} characters");
            self.add("string_too_short", name, &words, &hidden);
            self.add_context(&json!({"min_length": least}));
        } else if count > most {
            let words = format!("String should have at most {most} characters");
            self.add("string_too_long", name, &words, &hidden);
            self.add_context(&json!({"max_length": most}));
        }
        text
    }

    /// One of `words`; may be missing or null.
    pub fn one_of<'w>(&mut self, name: &str, words: &[&'w str]) -> Option<&'w str> {
        let value = self.get(name)?;
        let found = words.iter().find(|word| value.as_str() == Some(word));
        if found.is_none() {
            let expected = alternatives(words);
            let text = format!("Input should be {expected}");
            self.add("literal_error", name, &text, value);
            self.add_context(&json!({"expected": expected}));
        }
        found.copied()
    }

    /// A whole number that must be there and be at least `least`.
    pub fn whole(&mut self, name: &str, least: i64) -> i64 {
        self.required(name, ("int_type", "Input should be a valid integer"));
        self.optional_whole(name, least).unwrap_or_default()
    }

    /// A whole number that must be there and lie within `bounds`.
    pub fn whole_in(&mut self, name: &str, bounds: &[Bound<i64>]) -> i64 {
        self.required(name, ("int_type", "Input should be a valid integer"));
        self.whole_within(name, bounds).unwrap_or_default()
    }

    /// A whole number that may be missing or null, and is at least `least`.
    pub fn optional_whole(&mut self, name: &str, least: i64) -> Option<i64> {
        // "At least 1" is known to clients as "greater than 0".
        let bound = match least {
            1 => Bound::Gt(0),
            least => Bound::Ge(least),
        };
        self.whole_within(name, &[bound])
    }

    /// A whole number that may be missing but not null, within `bounds`.
    pub fn whole_or(&mut self, name: &str, default: i64, bounds: &[Bound<i64>]) -> i64 {
        self.not_null(name, ("int_type", "Input should be a valid integer"));
        self.whole_within(name, bounds).unwrap_or(default)
    }

    /// A whole number that may be missing or null, within `bounds`.
    pub fn whole_within(&mut self, name: &str, bounds: &[Bound<i64>]) -> Option<i64> {
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
        self.within(name, whole, bounds, value)
    }

    /// A number that may be missing or null.
    pub fn optional_number(&mut self, name: &str) -> Option<f64> {
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

    /// How many rows are wanted: 1 to `most`.
    pub fn limit(&mut self, default: usize, most: usize) -> usize {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let bounds = [Bound::Ge(1), Bound::Le(whole(most))];
        let wanted = self.whole_or("limit", whole(default.min(most)), &bounds);
        usize::try_from(wanted).unwrap_or(most)
    }

    /// From which epoch on rows are wanted.
    pub fn since_epoch(&mut self) -> u32 {
        let bounds = [Bound::Ge(0), Bound::Le(i64::from(u32::MAX))];
        let epoch = self.whole_within("since_epoch", &bounds);
        epoch
            .and_then(|epoch| u32::try_from(epoch).ok())
            .unwrap_or(0)
    }

    /// Yes or no; in a query or a form in any of the words that Python's validators know. May be
    /// missing or null.
    pub fn optional_flag(&mut self, name: &str) -> Option<bool> {
        let value = self.get(name)?;
        if !self.single {
            let kind = ("bool_type", "Input should be a valid boolean");
            return value.as_bool().or_else(|| self.wrong(name, kind, value));
        }
        let word = match value {
            Value::Bool(flag) => return Some(*flag),
            Value::String(text) => text.to_ascii_lowercase(),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                value.to_string()
            }
        };
        match word.as_str() {
            "true" | "1" | "yes" | "y" | "on" | "t" => Some(true),
            "false" | "0" | "no" | "n" | "off" | "f" => Some(false),
            _ => {
                let text = "Input should be a valid boolean, unable to interpret input";
                self.wrong(name, ("bool_parsing", text), value)
            }
        }
    }

    /// A list of numbers that may be missing or null.
    pub fn numbers(&mut self, name: &str) -> Option<Vec<f64>> {
        let value = self.get(name)?;
        let Value::Array(items) = value else {
            let kind = ("list_type", "Input should be a valid list");
            return self.wrong(name, kind, value);
        };
        for (index, item) in items.iter().enumerate() {
            if number(item).is_none() {
                let kind = ("float_type", "Input should be a valid number");
                self.add_below(name, index.into(), kind, item);
            }
        }
        Some(items.iter().filter_map(number).collect())
    }

    /// A number that may be missing but not null, within `bounds`.
    pub fn number_or(&mut self, name: &str, default: f64, bounds: &[Bound<f64>]) -> f64 {
        self.not_null(name, ("float_type", "Input should be a valid number"));
        let (Some(read), Some(value)) = (self.optional_number(name), self.get(name)) else {
            return default;
        };
        self.within(name, read, bounds, value).unwrap_or(default)
    }

    /// A share in percent that may be missing or null.
    pub fn percent(&mut self, name: &str) {
        if let (Some(read), Some(value)) = (self.optional_number(name), self.get(name)) {
            self.within(name, read, &[Bound::Ge(0.0), Bound::Le(100.0)], value);
        }
    }

    /// `{loss?, accuracy?, learning_rate?, extra_metrics?}` as metrics by name.
    pub fn metrics(&mut self, name: &str) -> Option<BTreeMap<String, f64>> {
        let object = self.object(name)?;
        self.below(name, object, |inner| {
            let mut values = BTreeMap::new();
            if let Some(extra) = inner.object("extra_metrics") {
                let count = extra.len();
                let words = || format!("has {count} metrics; give at most {MOST_METRICS}");
                inner.check("extra_metrics", (count > MOST_METRICS).then(words));
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
            values
        })
    }

    /// A list of texts that may be missing or null.
    pub fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let value = self.get(name)?;
        let Value::Array(items) = value else {
            let kind = ("list_type", "Input should be a valid list");
            return self.wrong(name, kind, value);
        };
        for (index, item) in items.iter().enumerate() {
            if !item.is_string() {
                self.add_below(name, index.into(), STRING, item);
            }
        }
        let texts = items.iter().filter_map(Value::as_str);
        Some(texts.map(str::to_owned).collect())
    }

    /// Texts by name; may be missing or null.
    pub fn texts_by_name(&mut self, name: &str) -> Option<BTreeMap<String, String>> {
        let object = self.object(name)?;
        for (key, item) in object.iter().filter(|(_, item)| !item.is_string()) {
            self.add_below(name, Value::from(key.as_str()), STRING, item);
        }
        let text = |(key, item): (&String, &Value)| Some((key.clone(), item.as_str()?.to_owned()));
        Some(object.iter().filter_map(text).collect())
    }

    /// An object whose keys are nobody's business here; may be missing or null.
    pub fn tree(&mut self, name: &str) -> Option<&'a Map<String, Value>> {
        let value = self.get(name)?;
        value.as_object().or_else(|| self.wrong(name, MODEL, value))
    }

    /// An object with fields of its own, read by `make`; may be missing or null.
    pub fn nested<T>(&mut self, name: &str, make: impl FnOnce(&mut Fields<'a>) -> T) -> Option<T> {
        let object = self.tree(name)?;
        self.below(name, object, make)
    }

    /// As [`Fields::nested`], but it must be there.
    pub fn required_nested<T>(
        &mut self,
        name: &str,
        make: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Option<T> {
        self.required(name, MODEL);
        self.nested(name, make)
    }

    /// Whatever stands there, unless it is missing or null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// One more thing that is wrong with `name`.
    pub fn add(&mut self, kind: &str, name: &str, text: &str, input: &Value) {
        let place = self.at(&[Value::from(name)]);
        self.errors.push(problem(kind, &place, text, input));
    }

    /// A finding in our own words, as a validator's refusal is told.
    pub fn refuse(&mut self, name: &str, words: &str) {
        let input = self.object.get(name).cloned().unwrap_or_default();
        self.add(
            "value_error",
            name,
            &format!("Value error, {words}"),
            &input,
        );
        self.add_context(&json!({"error": {}}));
    }

    /// A finding in a validator's own words, with its reason.
    pub fn refuse_as(&mut self, name: &str, words: &str, reason: &str) {
        let input = self.object.get(name).cloned().unwrap_or_default();
        self.add("value_error", name, words, &input);
        self.add_context(&json!({"reason": reason}));
    }

    /// Whether the field stands there, be it null.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    fn below<T>(
        &mut self,
        name: &str,
        object: &'a Map<String, Value>,
        make: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Option<T> {
        let mut place = self.place.clone();
        place.push(Value::from(name));
        let mut inner = Fields::new(object, place);
        let made = make(&mut inner);
        self.errors.append(&mut inner.errors);
        Some(made)
    }

    fn object(&mut self, name: &str) -> Option<&'a Map<String, Value>> {
        let value = self.get(name)?;
        value.as_object().or_else(|| self.wrong(name, DICT, value))
    }

    /// Null where something is required is of the wrong type, not missing.
    fn required(&mut self, name: &str, kind: (&str, &str)) {
        if self.object.contains_key(name) {
            self.not_null(name, kind);
        } else {
            let input = match self.single {
                true => Value::Null,
                false => Value::Object(self.object.clone()),
            };
            self.add("missing", name, "Field required", &input);
        }
    }

    fn not_null(&mut self, name: &str, kind: (&str, &str)) {
        if self.object.get(name).is_some_and(Value::is_null) {
            self.add(kind.0, name, kind.1, &Value::Null);
        }
    }

    fn within<T: PartialOrd + Copy + Into<Value>>(
        &mut self,
        name: &str,
        read: T,
        bounds: &[Bound<T>],
        value: &Value,
    ) -> Option<T> {
        let broken = bounds.iter().find_map(|bound| bound.broken(read));
        let Some((kind, text, context)) = broken else {
            return Some(read);
        };
        self.add(kind, name, &text, value);
        self.add_context(&context);
        None
    }

    fn wrong<T>(&mut self, name: &str, what: (&str, &str), input: &Value) -> Option<T> {
        self.add(what.0, name, what.1, input);
        None
    }

    fn add_below(&mut self, name: &str, key: Value, what: (&str, &str), input: &Value) {
        let place = self.at(&[Value::from(name), key]);
        self.errors.push(problem(what.0, &place, what.1, input));
    }

    fn at(&self, rest: &[Value]) -> Value {
        self.place.iter().chain(rest).cloned().collect()
    }

    fn add_context(&mut self, context: &Value) {
        if let Some(Value::Object(last)) = self.errors.last_mut() {
            last.insert("ctx".to_owned(), context.clone());
        }
    }
}

/// `'a'`, `'a' or 'b'`, `'a', 'b' or 'c'`.
fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

fn whole_float(number: f64) -> Option<i64> {
    // Two to the power of 53: below it, a whole number's text is the integer's.
    let fits = number.fract().abs() < f64::EPSILON && number.abs() < 9_007_199_254_740_992.0;
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
