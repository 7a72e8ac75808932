//! What split a job trains on: its own wish, else the dataset's, else four fifths to one fifth.
//!
//! Owns the three levels and the meaning of every key of `split_strategy` and `split_config`. Never
//! gives an image its part: `assign` does. Pure; called at a submit, and by the agent, which reads the
//! result back from the snapshot.
//!
//! Which part an image gets: excluded ones none; those that are named theirs; then what the dataset
//! declares, where that is wanted; the rest is divided by ratio and seed. Where images of `val` are
//! named and no ratio is given, the rest is for training.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Assignment, DatasetError, Image, Inventory, Part, names::Index};

const DEFAULT_RATIO: [u32; 3] = [800_000, 200_000, 0];
const DEFAULT_SEED: i64 = 42;
const MILLION: f64 = 1_000_000.0;

/// Which of the three levels the split came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The job's `split_strategy`.
    Job,
    /// The dataset's `split_config`, or the parts that it declares.
    Dataset,
    /// Neither says anything.
    Auto,
}

impl Source {
    /// Its name in a snapshot.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Dataset => "dataset",
            Self::Auto => "auto",
        }
    }
}

/// How the images that are not named get their part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Ratio,
    Declared,
    Train,
}

impl Rest {
    fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Declared => "declared",
            Self::Train => "train",
        }
    }
}

/// A split, ready to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Where it came from.
    pub source: Source,
    /// `auto`, `use_dataset` or `custom`.
    pub method: String,
    /// Shares of train, val and test in millionths.
    pub ratio: [u32; 3],
    /// What makes it come out the same.
    pub seed: i64,
    pub(super) rest: Rest,
    /// By the keys of images.
    pub named: BTreeMap<String, Part>,
    /// By the keys of images.
    pub excluded: BTreeSet<String>,
}

impl Resolved {
    /// The split of a job with this `split_strategy` on this dataset.
    ///
    /// # Errors
    /// Names the key: an unknown method, a ratio that is none, an image that is not there, or a
    /// dataset that declares no parts where they are wanted.
    pub fn new(strategy: Option<&Value>, inventory: &Inventory) -> Result<Self, DatasetError> {
        let strategy = strategy.filter(|wish| !wish.is_null());
        match strategy {
            Some(wish) => of_job(wish, inventory),
            None => of_dataset(inventory).map(|(own, _)| own),
        }
    }

    /// What a snapshot keeps of it, at most a few hundred bytes.
    #[must_use]
    pub fn summary(&self, assignment: &Assignment) -> Value {
        let mut counts = Map::new();
        for (part, count) in assignment.counts() {
            counts.insert(part.name().to_owned(), json!(count));
        }
        json!({
            "source": self.source.name(),
            "method": self.method,
            "ratio": (self.rest == Rest::Ratio).then(|| self.shares()),
            "seed": self.seed,
            "rest": self.rest.name(),
            "counts": counts,
            "named": self.named.len(),
            "excluded": self.excluded.len(),
        })
    }

    /// Image and part for all that are named one by one, `excluded` among them; `None` when none is.
    #[must_use]
    pub fn named_parts(&self) -> Option<Value> {
        let named = self
            .named
            .iter()
            .map(|(key, part)| (key.clone(), json!(part.name())));
        let excluded = self
            .excluded
            .iter()
            .map(|key| (key.clone(), json!("excluded")));
        let all: Map<String, Value> = named.chain(excluded).collect();
        (!all.is_empty()).then_some(Value::Object(all))
    }

    /// The split that [`Resolved::summary`] and [`Resolved::named_parts`] tell of.
    ///
    /// # Errors
    /// When they are not from there.
    pub fn read(summary: &Value, named_parts: Option<&Value>) -> Result<Self, DatasetError> {
        let wrong = |key: &str| {
            DatasetError::split(
                format!("snapshot.split.{key}"),
                "is not of this version".to_owned(),
            )
        };
        let text = |key: &str| {
            summary
                .get(key)
                .and_then(Value::as_str)
                .ok_or_else(|| wrong(key))
        };
        let source = [Source::Job, Source::Dataset, Source::Auto];
        let name = text("source")?;
        let source = source.into_iter().find(|source| source.name() == name);
        let name = text("rest")?;
        let rest = [Rest::Ratio, Rest::Declared, Rest::Train];
        let rest = rest.into_iter().find(|rest| rest.name() == name);
        let mut resolved = Self {
            source: source.ok_or_else(|| wrong("source"))?,
            method: text("method")?.to_owned(),
            ratio: ratio("snapshot.split.ratio", summary.get("ratio"))?.unwrap_or(DEFAULT_RATIO),
            seed: seed("snapshot.split.seed", summary.get("seed"))?,
            rest: rest.ok_or_else(|| wrong("rest"))?,
            named: BTreeMap::new(),
            excluded: BTreeSet::new(),
        };
        for (key, part) in named_parts.and_then(Value::as_object).into_iter().flatten() {
            match part.as_str() {
                Some("excluded") => {
                    resolved.excluded.insert(key.clone());
                }
                name => {
                    let part = name.and_then(Part::parse).ok_or_else(|| wrong("parts"))?;
                    resolved.named.insert(key.clone(), part);
                }
            }
        }
        Ok(resolved)
    }

    fn shares(&self) -> Vec<f64> {
        let parts = if self.ratio[2] == 0 { 2 } else { 3 };
        let shares = self.ratio.iter().take(parts);
        shares.map(|share| f64::from(*share) / MILLION).collect()
    }
}

fn of_job(wish: &Value, inventory: &Inventory) -> Result<Resolved, DatasetError> {
    let at = |key: &str| format!("split_strategy.{key}");
    let method = wish
        .get("method")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let given = ratio(&at("ratio"), wish.get("ratio"))?;
    let mut by_ratio = given.is_some();
    let mut resolved = match method {
        "auto" | "custom" => plain(Source::Job, method),
        "use_dataset" => {
            let (own, has_ratio) = of_dataset(inventory)?;
            by_ratio = has_ratio;
            if own.source == Source::Auto {
                return Err(DatasetError::split(
                    at("method"),
                    "is 'use_dataset', but the dataset declares no parts with images for train and val; use 'auto' or 'custom'",
                ));
            }
            Resolved {
                source: Source::Job,
                method: method.to_owned(),
                ..own
            }
        }
        other => {
            return Err(DatasetError::split(
                at("method"),
                format!("is '{other}'; give use_dataset, auto or custom"),
            ));
        }
    };
    if method != "use_dataset" {
        resolved.seed = seed(&at("seed"), wish.get("seed"))?;
        resolved.ratio = given.unwrap_or(DEFAULT_RATIO);
    }
    let index = Index::new(&inventory.images);
    let named = named(&at("custom_splits"), wish.get("custom_splits"))?;
    if method == "custom" && named.is_empty() && given.is_none() {
        let message = "is missing; name images and their parts, or give a ratio";
        return Err(DatasetError::split(at("custom_splits"), message));
    }
    for (name, part) in named {
        let key = index.find(&at("custom_splits"), &name)?;
        resolved.named.insert(key.to_owned(), part);
    }
    for name in listed(&at("exclude_images"), wish.get("exclude_images"))? {
        let key = index.find(&at("exclude_images"), &name)?;
        resolved.excluded.insert(key.to_owned());
    }
    if resolved.rest == Rest::Ratio && !by_ratio {
        resolved.rest = rest_beside(&resolved);
    }
    Ok(resolved)
}

/// The dataset's own split, and whether it gives a ratio. Names of images that it no longer has are
/// passed over.
fn of_dataset(inventory: &Inventory) -> Result<(Resolved, bool), DatasetError> {
    let at = |key: &str| format!("the dataset's split_config.{key}");
    let nothing = Value::Null;
    let config = inventory.split_config.as_ref().unwrap_or(&nothing);
    let key = |name: &str| config.get(name).filter(|value| !value.is_null());
    let mut resolved = plain(Source::Dataset, "auto");
    let given = key("default_ratio").or_else(|| key("ratio"));
    let given = ratio(&at("default_ratio"), given)?;
    resolved.ratio = given.unwrap_or(DEFAULT_RATIO);
    resolved.seed = seed(&at("seed"), key("seed"))?;
    let index = Index::new(&inventory.images);
    let splits = key("splits").or_else(|| key("custom_splits"));
    for (name, part) in named(&at("splits"), splits)? {
        if let Some(key) = index.look(&at("splits"), &name)? {
            resolved.named.insert(key.to_owned(), part);
        }
    }
    for name in listed(&at("exclude_images"), key("exclude_images"))? {
        if let Some(key) = index.look(&at("exclude_images"), &name)? {
            resolved.excluded.insert(key.to_owned());
        }
    }
    let by_ratio = key("method").and_then(Value::as_str) == Some("auto");
    if declared(&inventory.images) && !by_ratio {
        resolved.rest = Rest::Declared;
        resolved.method = "use_dataset".to_owned();
    } else if given.is_none() {
        resolved.rest = rest_beside(&resolved);
    }
    if !resolved.named.is_empty() {
        resolved.method = "custom".to_owned();
    }
    let says = given.is_some() || by_ratio || resolved.method != "auto";
    if !says && resolved.excluded.is_empty() && key("seed").is_none() {
        resolved.source = Source::Auto;
    }
    Ok((resolved, given.is_some()))
}

fn plain(source: Source, method: &str) -> Resolved {
    Resolved {
        source,
        method: method.to_owned(),
        ratio: DEFAULT_RATIO,
        seed: DEFAULT_SEED,
        rest: Rest::Ratio,
        named: BTreeMap::new(),
        excluded: BTreeSet::new(),
    }
}

/// Whoever names what to validate on means the rest for training.
fn rest_beside(resolved: &Resolved) -> Rest {
    if resolved.named.values().any(|part| *part == Part::Val) {
        Rest::Train
    } else {
        Rest::Ratio
    }
}

/// Whether there is something to learn from and something to measure on.
fn declared(images: &[Image]) -> bool {
    let has = |part| images.iter().any(|image| image.part == Some(part));
    has(Part::Train) && (has(Part::Val) || has(Part::Test))
}

/// Two or three shares that make a whole, as a list or as an object; in millionths.
///
/// Whoever asks for a share of `test` wants it held out, so it does not stand in for one of `val`.
pub(super) fn ratio(field: &str, value: Option<&Value>) -> Result<Option<[u32; 3]>, DatasetError> {
    let wrong = || {
        let message = "is no ratio; give 2 or 3 numbers above 0 that make 1, such as [0.8, 0.2]";
        DatasetError::split(field, message)
    };
    let shares: Vec<&Value> = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(shares)) => shares.iter().collect(),
        Some(Value::Object(shares)) => {
            if shares.keys().any(|key| Part::parse(key).is_none()) {
                return Err(wrong());
            }
            let has = |part| shares.keys().any(|key| Part::parse(key) == Some(part));
            if let Some(part) = [Part::Train, Part::Val]
                .into_iter()
                .find(|part| !has(*part))
            {
                let message = format!(
                    "has no share for {}; give one, such as {{\"train\": 0.7, \"val\": 0.1, \"test\": 0.2}}",
                    part.name()
                );
                return Err(DatasetError::split(field, message));
            }
            let of = |part| {
                shares
                    .iter()
                    .find(|(key, _)| Part::parse(key) == Some(part))
            };
            Part::ALL
                .into_iter()
                .filter_map(of)
                .map(|(_, share)| share)
                .collect()
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => return Err(wrong()),
    };
    if !(2..=3).contains(&shares.len()) {
        return Err(wrong());
    }
    let mut found = [0_u32; 3];
    for (slot, share) in found.iter_mut().zip(shares) {
        let share = share.as_f64().filter(|share| (0.0..1.0).contains(share));
        *slot = millionths(share.ok_or_else(wrong)?);
    }
    let whole: u32 = found.iter().sum();
    if found[0] == 0 || found[1] == 0 || whole.abs_diff(1_000_000) > 1_000 {
        return Err(wrong());
    }
    Ok(Some(found))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it lies from 0 to 1"
)]
fn millionths(share: f64) -> u32 {
    (share * MILLION).round() as u32
}

pub(super) fn seed(field: &str, value: Option<&Value>) -> Result<i64, DatasetError> {
    match value {
        None | Some(Value::Null) => Ok(DEFAULT_SEED),
        Some(value) => value
            .as_i64()
            .ok_or_else(|| DatasetError::split(field, "is not a whole number")),
    }
}

/// Images and parts, given as image and part or as part and images.
pub(super) fn named(
    field: &str,
    value: Option<&Value>,
) -> Result<Vec<(String, Part)>, DatasetError> {
    let object = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(object)) => object,
        Some(_) => {
            let message = "is no object of image and part, such as {\"a.png\": \"val\"}";
            return Err(DatasetError::split(field, message));
        }
    };
    let part = |name: &str| {
        Part::parse(name).ok_or_else(|| {
            DatasetError::split(
                field,
                format!("says '{name}'; a part is train, val or test"),
            )
        })
    };
    let mut found = Vec::new();
    for (key, value) in object {
        if value.is_array() {
            let images = listed(field, Some(value))?;
            let part = part(key)?;
            found.extend(images.into_iter().map(|image| (image, part)));
        } else {
            found.push((key.clone(), part(value.as_str().unwrap_or("no text"))?));
        }
    }
    Ok(found)
}

pub(super) fn listed(field: &str, value: Option<&Value>) -> Result<Vec<String>, DatasetError> {
    let wrong = || DatasetError::split(field, "is no list of images");
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(wrong()),
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(one).collect(),
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests;
