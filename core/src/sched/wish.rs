//! What a job asks of nodes as a whole: resources, how many, and which; whether any could ever do, and why none does now.
//!
//! Owns labels, fabrics, totals and nodes for one alone; `waiting` has what is asked of each node. Called for submissions
//! and for the words of why a job waits.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ledger::{Ledger, NodeEntry},
    policy::ask::{fabric_of, in_one_fabric},
    waiting::{Unfit, largest_node_misfit, reason, reason_among},
};
use crate::{
    resources::{Gpu, ResourceRequest},
    spec::Placing,
};

/// Labels that are told to who asks for one that no node has.
const SHOWN: usize = 10;

/// All that a job asks of nodes.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Of each node.
    pub request: &'a ResourceRequest,
    /// How many of them.
    pub nodes: u32,
    /// Which.
    pub placement: &'a Placing,
}

impl Wish<'_> {
    /// Whether the node has the labels that are asked for, and none that is not wanted.
    #[must_use]
    pub fn admits(&self, entry: &NodeEntry) -> bool {
        let Placing {
            labels,
            anti_labels,
            ..
        } = self.placement;
        labels.is_subset(entry.labels()) && anti_labels.is_disjoint(entry.labels())
    }

    /// Whether these nodes, which are all of its own, are labelled as it asks, reach each other, and are of one fabric if
    /// that is asked for.
    #[must_use]
    pub fn admits_all(&self, entries: &[&NodeEntry]) -> bool {
        let reached = entries.len() < 2 || entries.iter().all(|one| !one.address().is_empty());
        let labels = entries.iter().map(|entry| entry.labels());
        let fabric = self.placement.fabric.as_ref();
        let in_one = fabric.is_none_or(|key| in_one_fabric(key, labels));
        reached && in_one && entries.iter().all(|entry| self.admits(entry))
    }

    /// Whether the node can hold one task of it, were it empty.
    #[must_use]
    pub fn could_use(&self, entry: &NodeEntry) -> bool {
        self.admits(entry) && entry.could_hold(&self.part(), self.nodes)
    }

    /// Whether one task of it would fit there now; of GPUs in all, one.
    #[must_use]
    pub fn has_room(&self, entry: &NodeEntry) -> bool {
        self.part().shortage(&entry.free()).is_none()
    }

    /// What one node must have: of GPUs in all, one.
    fn part(&self) -> ResourceRequest {
        let gpus = match self.placement.gpus_total {
            Some(_) => 1,
            None => self.request.gpus,
        };
        ResourceRequest {
            gpus,
            ..self.request.clone()
        }
    }

    /// Why no nodes could hold it even if they were empty; none if they could, or if there is no node yet to judge by.
    #[must_use]
    pub fn misfit(&self, ledger: &Ledger) -> Option<Unfit> {
        if self.placement.is_plain() {
            return largest_node_misfit(ledger, self.request, self.nodes);
        }
        ledger.nodes().next()?;
        if let Some(unfit) = self.no_label(ledger) {
            return Some(unfit);
        }
        let admitted = ledger.only(|_, entry| self.admits(entry));
        let part = self.part();
        if let Some(unfit) = largest_node_misfit(&admitted, &part, self.nodes) {
            return Some(unfit);
        }
        let could = |entry: &&NodeEntry| entry.could_hold(&part, self.nodes);
        let sets = self.sets(admitted.nodes().map(|(_, entry)| entry).filter(could));
        if let Some(key) = self.placement.fabric.as_ref().filter(|_| sets.is_empty()) {
            let known = keys(ledger, key);
            let key = key.clone();
            return Some(Unfit::NoFabric { key, known });
        }
        match self.placement.gpus_total {
            Some(asked) => {
                let gpus = |entry: &NodeEntry| {
                    let gpus = entry.capacity.gpus.iter();
                    gpus.filter(|gpu| part.accepts(gpu)).count()
                };
                let found = sets.values().map(|set| most(set, gpus)).max().unwrap_or(0);
                let enough = usize::try_from(asked).is_ok_and(|asked| asked <= found);
                (!enough).then_some(Unfit::Total { asked, found })
            }
            None => {
                let found = sets.values().map(Vec::len).max().unwrap_or(0);
                let key = self.placement.fabric.clone()?;
                let asked = self.nodes.max(1);
                let enough = usize::try_from(asked).is_ok_and(|asked| asked <= found);
                (!enough).then_some(Unfit::Fabric { key, asked, found })
            }
        }
    }

    /// Sets of nodes, of which one holds the whole job: those of one fabric, or all.
    fn sets<'n>(
        &self,
        nodes: impl Iterator<Item = &'n NodeEntry>,
    ) -> BTreeMap<String, Vec<&'n NodeEntry>> {
        let mut sets: BTreeMap<String, Vec<&NodeEntry>> = BTreeMap::new();
        for entry in nodes {
            let Some(key) = &self.placement.fabric else {
                sets.entry(String::new()).or_default().push(entry);
                continue;
            };
            if let Some(label) = fabric_of(key, entry.labels()) {
                sets.entry(label.clone()).or_default().push(entry);
            }
        }
        sets
    }

    /// A label that no node has, or a set of them.
    fn no_label(&self, ledger: &Ledger) -> Option<Unfit> {
        let entries = || ledger.nodes().map(|(_, entry)| entry);
        let field = "placement.labels";
        for wanted in &self.placement.labels {
            if !entries().any(|entry| entry.labels().contains(wanted)) {
                let key = wanted.split_once('=').map_or("", |(key, _)| key);
                return Some(Unfit::Labels {
                    field,
                    wanted: wanted.clone(),
                    known: known(entries(), key),
                    nearest: self.nearest_by_labels(ledger),
                });
            }
        }
        if entries().any(|entry| self.admits(entry)) {
            return None;
        }
        let labels = self.placement.labels.iter().cloned();
        let without = self.placement.anti_labels.iter();
        let words: Vec<String> = labels
            .chain(without.map(|one| format!("no {one}")))
            .collect();
        let field = match self.placement.anti_labels.is_empty() {
            true => field,
            false => "placement.anti_labels",
        };
        Some(Unfit::Labels {
            field,
            wanted: words.join(" and "),
            known: known(entries(), ""),
            nearest: self.nearest_by_labels(ledger),
        })
    }

    /// Of those that could hold a part the node that breaks the fewest wishes for labels, and which; nothing where none could,
    /// and where there is one wish alone, which all of them break.
    fn nearest_by_labels(&self, ledger: &Ledger) -> Option<String> {
        let placement = &self.placement;
        if placement.labels.len() + placement.anti_labels.len() < 2 {
            return None;
        }
        let part = self.part();
        let broken = |entry: &NodeEntry| {
            let lacks = placement.labels.difference(entry.labels());
            let has = placement.anti_labels.intersection(entry.labels());
            let lacks = lacks.map(|label| format!("lacks {label}"));
            let words: Vec<String> = lacks
                .chain(has.map(|label| format!("has {label}")))
                .collect();
            words
        };
        let nodes = ledger.nodes();
        let nodes = nodes.filter(|(_, entry)| entry.could_hold(&part, self.nodes));
        let nearest =
            nodes.min_by_key(|(name, entry)| (broken(entry).len(), !entry.open, (*name).clone()));
        nearest.map(|(name, entry)| format!("{name}, which {}", broken(entry).join(" and ")))
    }

    /// Why it waits now, in words.
    #[must_use]
    pub fn reason(&self, ledger: &Ledger) -> String {
        if self.placement.is_plain() {
            return reason(ledger, self.request, self.nodes);
        }
        if let Some(unfit) = self.misfit(ledger) {
            return unfit.to_string();
        }
        let part = self.part();
        let admitted = ledger.only(|_, entry| self.could_use(entry));
        if let Some(asked) = self.placement.gpus_total {
            let words = self.too_few(&admitted, asked);
            return words.unwrap_or_else(|| "waits for its turn".to_owned());
        }
        // Only nodes of one fabric count together: those of the one that has most of what it asks for.
        let (admitted, kind) = match self.best_fabric(&admitted) {
            Some((key, label)) => {
                let of_it = |entry: &NodeEntry| fabric_of(key, entry.labels()) == Some(&label);
                let kind = format!("nodes with one value of {key}");
                (admitted.only(|_, entry| of_it(entry)), kind)
            }
            None => (admitted, "nodes".to_owned()),
        };
        if self.placement.exclusive {
            let idle = admitted.nodes().filter(|(_, entry)| is_idle(entry)).count();
            let wanted = usize::try_from(self.nodes.max(1)).unwrap_or(usize::MAX);
            if idle < wanted {
                return format!(
                    "waits for {kind} that nobody else uses: {idle} of the {wanted} that it needs are there"
                );
            }
        }
        reason_among(&admitted, (&part, self.nodes), &kind)
    }

    /// Where it asks for nodes of one fabric: its key, and the label of the one that could hold it and has most nodes free.
    fn best_fabric(&self, admitted: &Ledger) -> Option<(&String, String)> {
        let key = self.placement.fabric.as_ref()?;
        let part = self.part();
        let wanted = usize::try_from(self.nodes.max(1)).unwrap_or(usize::MAX);
        let ready = |entry: &&&NodeEntry| {
            let alone = !self.placement.exclusive || is_idle(entry);
            entry.open && alone && part.shortage(&entry.free()).is_none()
        };
        let sets = self.sets(admitted.nodes().map(|(_, entry)| entry));
        let sets = sets.into_iter().filter(|(_, set)| set.len() >= wanted);
        let most = sets
            .rev()
            .max_by_key(|(_, set)| set.iter().filter(ready).count());
        most.map(|(label, _)| (key, label))
    }

    /// Why a total is not to be had, in words, where too few GPUs are free for it in all.
    fn too_few(&self, admitted: &Ledger, asked: u32) -> Option<String> {
        let found = self.free_in_all(admitted, true);
        if usize::try_from(asked).is_ok_and(|asked| asked <= found) {
            return None;
        }
        let all = self.free_in_all(admitted, false);
        let but = match all.saturating_sub(found) {
            0 => String::new(),
            more if self.placement.exclusive => {
                format!(", and {more} more on nodes that others use")
            }
            more => format!(", and {more} more where CPUs or memory are short"),
        };
        Some(format!(
            "waits for {asked} GPUs in all; {found} are free{but}"
        ))
    }

    /// The most GPUs that are free for it in all: where a part of it would fit, or on any open nodes.
    fn free_in_all(&self, admitted: &Ledger, usable: bool) -> usize {
        let part = self.part();
        let free = |entry: &NodeEntry| {
            let free = entry.free();
            let alone = !self.placement.exclusive || is_idle(entry);
            let fits = !usable || alone && part.shortage(&free).is_none();
            let gpus = free.gpus.iter().filter(|gpu| part.accepts(gpu));
            if fits { gpus.count() } else { 0 }
        };
        let open = admitted.nodes().map(|(_, entry)| entry);
        let sets = self.sets(open.filter(|entry| entry.open));
        sets.values().map(|set| most(set, free)).max().unwrap_or(0)
    }

    /// Of a total that does not fit though as many GPUs are free: that these lie in too many parts, in words.
    #[must_use]
    pub fn in_parts(&self, ledger: &Ledger) -> Option<String> {
        let asked = self.placement.gpus_total?;
        let admitted = ledger.only(|_, entry| self.could_use(entry));
        let found = self.free_in_all(&admitted, true);
        let enough = usize::try_from(asked).is_ok_and(|asked| asked <= found);
        enough.then(|| {
            format!(
                "waits for {asked} GPUs in all; {found} are free, but not on as few nodes as it takes"
            )
        })
    }

    /// What is short on a node, in words: of a total each GPU that will do and that others have.
    #[must_use]
    pub fn shortage(&self, entry: &NodeEntry) -> Option<String> {
        let free = entry.free();
        if self.placement.gpus_total.is_none() {
            return self.request.shortage(&free);
        }
        let part = ResourceRequest {
            gpus: 0,
            ..self.part()
        };
        let fits = |gpus: &[Gpu]| gpus.iter().filter(|gpu| part.accepts(gpu)).count();
        let (left, all) = (fits(&free.gpus), fits(&entry.capacity.gpus));
        let gpus = (left < all).then(|| format!("gpus: {left} of {all}{} free", part.gpu_words()));
        part.shortage(&free).or(gpus)
    }
}

fn is_idle(entry: &NodeEntry) -> bool {
    entry.open && entry.jobs().next().is_none()
}

/// The most GPUs that one job can have of a set of nodes: of several at once only those that others reach count.
fn most(set: &[&NodeEntry], gpus: impl Fn(&NodeEntry) -> usize) -> usize {
    let reached = set.iter().filter(|entry| !entry.address().is_empty());
    let together: usize = reached.map(|entry| gpus(entry)).sum();
    let one = set.iter().map(|entry| gpus(entry)).max();
    one.unwrap_or(0).max(together)
}

/// Keys of labels that nodes have, the nearest to one first.
fn keys(ledger: &Ledger, wanted: &str) -> Vec<String> {
    let labels = ledger.nodes().flat_map(|(_, entry)| entry.labels());
    let keys = labels.filter_map(|label| label.split_once('='));
    let keys: BTreeSet<&str> = keys.map(|(key, _)| key).collect();
    let mut keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
    keys.sort_by_cached_key(|key| distance(wanted, key));
    keys.truncate(SHOWN);
    keys
}

/// Letters that differ between two words: put in, left out, or another (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (above, letter) in one.chars().enumerate() {
        let mut corner = above;
        let mut left = above + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, letter_of_other) in row.iter_mut().skip(1).zip(other.chars()) {
            let differs = usize::from(letter != letter_of_other);
            let least = (corner + differs).min(*cell + 1).min(left + 1);
            corner = std::mem::replace(cell, least);
            left = least;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// The values of a key that nodes have, or some of all labels.
fn known<'n>(entries: impl Iterator<Item = &'n NodeEntry>, key: &str) -> String {
    let all: BTreeSet<&str> = entries
        .flat_map(|entry| entry.labels().iter().map(String::as_str))
        .collect();
    let of_key = |label: &&str| label.split_once('=').is_some_and(|(name, _)| name == key);
    let of_key: Vec<&str> = all.iter().copied().filter(|label| of_key(label)).collect();
    let shown = match of_key.is_empty() {
        true => all.into_iter().collect(),
        false => of_key,
    };
    let more = shown.len().saturating_sub(SHOWN);
    let words = shown.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    match (words.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => words,
        (false, more) => format!("{words} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
