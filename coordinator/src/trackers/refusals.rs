//! What a tracker refuses of an attempt: a parameter, a metric, a tag, never the rest of it.
//!
//! Owns the search for it: a batch that is refused is sent again in halves until the one that it is about
//! is found. A name that was refused several times is not sent again. Bounded: so many halves at a time,
//! so many names an attempt. Never sends. Used by the trackers of runs, and kept by the feed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Refusals of one name before it is not sent any more: a single odd value costs only itself.
const TIMES: u32 = 3;
/// Batches that are halved for one call of the feed.
const HALVES: u32 = 256;
/// Names of an attempt that are remembered.
const NAMES: usize = 100;

/// One thing that is sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// By which its refusals are counted.
    pub(super) name: String,
    /// As it is sent.
    pub(super) body: Value,
}

/// How often something of an attempt was refused, by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Refused(BTreeMap<String, u32>);

/// The refusals of one call of the feed, and those before it.
#[derive(Debug)]
pub(super) struct Refusals {
    known: Refused,
    halves: u32,
    /// What was refused for the first time, and why.
    news: Vec<(String, String)>,
}

impl Refusals {
    pub(super) fn after(known: Refused) -> Self {
        Self {
            known,
            halves: HALVES,
            news: Vec::new(),
        }
    }

    /// What is known now, and what is new of it with the reasons.
    pub(super) fn end(self) -> (Refused, Vec<(String, String)>) {
        (self.known, self.news)
    }

    /// `items` in parts of at most `most`.
    pub(super) fn parts(&self, kind: &'static str, items: Vec<Item>, most: usize) -> Parts {
        let mut items = items.into_iter();
        let part = || Some(items.by_ref().take(most).collect::<Vec<_>>());
        let parts = std::iter::from_fn(part).take_while(|part| !part.is_empty());
        let mut left: Vec<_> = parts.collect();
        left.reverse();
        Parts { kind, left }
    }

    /// Something by itself is refused.
    pub(super) fn note(&mut self, kind: &str, name: &str, words: &str) {
        let name = format!("{kind} '{name}'");
        let Refused(times) = &mut self.known;
        if let Some(times) = times.get_mut(&name) {
            *times = times.saturating_add(1);
            return;
        }
        if times.len() < NAMES {
            times.insert(name.clone(), 1);
        }
        self.news.push((name, words.to_owned()));
    }

    fn is_sent(&self, kind: &str, name: &str) -> bool {
        let name = format!("{kind} '{name}'");
        let Refused(times) = &self.known;
        times.get(&name).is_none_or(|times| *times < TIMES)
    }
}

/// What is still to be sent, in order.
#[derive(Debug)]
pub(super) struct Parts {
    kind: &'static str,
    /// The next one last.
    left: Vec<Vec<Item>>,
}

impl Parts {
    /// The next part, without what is not sent any more.
    pub(super) fn next(&mut self, refusals: &Refusals) -> Option<Vec<Item>> {
        while let Some(mut part) = self.left.pop() {
            part.retain(|item| refusals.is_sent(self.kind, &item.name));
            if !part.is_empty() {
                return Some(part);
            }
        }
        None
    }

    /// The part was refused: it comes again in halves, or is given up when nothing smaller is left to try.
    pub(super) fn refused(&mut self, mut part: Vec<Item>, words: &str, refusals: &mut Refusals) {
        if part.len() > 1 && refusals.halves > 0 {
            refusals.halves -= 1;
            let second = part.split_off(part.len() / 2);
            self.left.push(second);
            self.left.push(part);
            return;
        }
        let names: BTreeSet<_> = part.iter().map(|item| &item.name).collect();
        for name in names {
            refusals.note(self.kind, name, words);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn items(names: impl IntoIterator<Item = String>) -> Vec<Item> {
        let item = |name: String| Item {
            body: json!(name),
            name,
        };
        names.into_iter().map(item).collect()
    }

    /// Sends to a tracker that refuses all batches with something `bad`; what it took, and how many calls.
    fn sent(
        names: Vec<String>,
        refusals: &mut Refusals,
        bad: fn(&str) -> bool,
    ) -> (Vec<String>, u32) {
        let mut parts = refusals.parts("metric", items(names), 100);
        let (mut taken, mut calls) = (Vec::new(), 0);
        while let Some(part) = parts.next(refusals) {
            calls += 1;
            match part.iter().any(|item| bad(&item.name)) {
                true => parts.refused(part, "no", refusals),
                false => taken.extend(part.into_iter().map(|item| item.name)),
            }
        }
        (taken, calls)
    }

    #[test]
    fn only_what_is_refused_is_lost_and_the_rest_keeps_its_order() {
        let names: Vec<_> = (0..250).map(|n| format!("m{n:03}")).collect();
        let mut refusals = Refusals::after(Refused::default());
        let (taken, _) = sent(names.clone(), &mut refusals, |name| name == "m123");
        let rest: Vec<_> = names.into_iter().filter(|name| name != "m123").collect();
        assert_eq!(taken, rest);
        let (known, news) = refusals.end();
        assert_eq!(news, [("metric 'm123'".to_owned(), "no".to_owned())]);
        assert_eq!(known.0.len(), 1);
    }

    #[test]
    fn a_name_that_is_refused_again_and_again_is_told_once_and_soon_not_sent_any_more() {
        let names = || (0..300).map(|n| if n % 3 == 0 { "bad" } else { "good" }.to_owned());
        let mut refusals = Refusals::after(Refused::default());
        let (taken, calls) = sent(names().collect(), &mut refusals, |name| name == "bad");
        assert_eq!(taken.len(), 200);
        assert!(calls < 40, "{calls}");
        let (known, news) = refusals.end();
        assert_eq!(news.len(), 1);
        let mut later = Refusals::after(known);
        let (taken, calls) = sent(names().collect(), &mut later, |name| name == "bad");
        assert_eq!((taken.len(), calls), (200, 3));
        assert!(later.end().1.is_empty());
    }

    #[test]
    fn a_tracker_that_refuses_everything_is_not_asked_without_end() {
        let names: Vec<_> = (0..20_000).map(|n| format!("m{n}")).collect();
        let mut refusals = Refusals::after(Refused::default());
        let (taken, calls) = sent(names, &mut refusals, |_| true);
        assert!(taken.is_empty() && calls < 1_000, "{calls}");
        assert!(refusals.end().0.0.len() <= NAMES);
    }
}
