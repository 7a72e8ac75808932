//! What a job asks of nodes as a whole: resources, how many, and which; whether any could ever do, and why none does now.
//!
//! Owns labels, fabrics, totals and nodes for one alone; `waiting` has what is asked of each node. Called for submissions
//! and for the words of why a job waits.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ledger::{Ledger, NodeEntry},
    policy::ask::{fabric_of, in_one_fabric},
    waiting::{Unfit, largest_node_misfit, reason},
};
use crate::{resources::ResourceRequest, spec::Placing};

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
        })
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
        let open = || {
            admitted
                .nodes()
                .map(|(_, entry)| entry)
                .filter(|entry| entry.open)
        };
        if self.placement.exclusive {
            let idle = open().filter(|entry| entry.jobs().next().is_none()).count();
            let wanted = usize::try_from(self.nodes.max(1)).unwrap_or(usize::MAX);
            if idle < wanted {
                return format!(
                    "waits for nodes that nobody else uses: {idle} of the {wanted} that it needs are there"
                );
            }
        }
        if let Some(asked) = self.placement.gpus_total {
            let free = |entry: &NodeEntry| {
                let gpus = entry.free().gpus;
                gpus.iter().filter(|gpu| part.accepts(gpu)).count()
            };
            let sets = self.sets(open());
            let found = sets.values().map(|set| most(set, free)).max().unwrap_or(0);
            if usize::try_from(asked).is_ok_and(|asked| found < asked) {
                return format!("waits for {asked} GPUs in all; {found} are free");
            }
        }
        reason(&admitted, &part, self.nodes)
    }
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
mod tests {
    use super::*;
    use crate::{
        ids::{JobId, NodeName},
        resources::{Capacity, parse_gpus},
        sched::Allocation,
    };

    /// Two nodes of rack 1 and one of rack 2, with four GPUs each.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for (name, labels) in [
            ("n1", ["rack=1", "zone=a"]),
            ("n2", ["rack=1", "zone=b"]),
            ("n3", ["rack=2", "zone=b"]),
        ] {
            let capacity = Capacity {
                cpus: 8,
                memory_bytes: 1 << 34,
                gpus: parse_gpus("4xH100-80GB", name).unwrap(),
            };
            let node = NodeName(name.into());
            ledger.set_node(node.clone(), capacity, true);
            ledger.set_address(node.clone(), format!("10.0.0.{name}"));
            ledger.set_labels(node, labels.iter().map(|&one| one.to_owned()).collect());
        }
        ledger
    }

    fn words(change: impl FnOnce(&mut Placing, &mut ResourceRequest), nodes: u32) -> String {
        let (mut placement, mut request) = (Placing::default(), ResourceRequest::default());
        change(&mut placement, &mut request);
        let wish = Wish {
            request: &request,
            nodes,
            placement: &placement,
        };
        let unfit = wish.misfit(&ledger());
        unfit.map_or_else(String::new, |unfit| format!("{}: {unfit}", unfit.field()))
    }

    #[test]
    fn a_label_that_no_node_has_is_refused_with_those_that_there_are() {
        let with = |text: &str| {
            let text = text.to_owned();
            words(|placement, _| placement.labels.extend([text]), 1)
        };
        assert_eq!(with("zone=a"), "");
        let told = "placement.labels: no node has zone=c; labels of nodes are zone=a, zone=b";
        assert_eq!(with("zone=c"), told);
        assert!(with("disk=ssd").ends_with("are rack=1, rack=2, zone=a, zone=b"));
        let both = words(
            |placement, _| {
                placement.labels.insert("zone=a".into());
                placement.anti_labels.insert("rack=1".into());
            },
            1,
        );
        assert!(
            both.starts_with("placement.anti_labels: no node has zone=a and no rack=1"),
            "{both}"
        );
    }

    #[test]
    fn a_gang_wider_than_any_fabric_and_more_gpus_than_there_are_are_refused_with_the_most_there_is()
     {
        let fabric = |nodes| words(|placement, _| placement.fabric = Some("rack".into()), nodes);
        assert_eq!(fabric(2), "");
        let told = fabric(3);
        assert!(told.starts_with("placement.fabric: "), "{told}");
        assert!(
            told.contains("one value of rack") && told.contains("give 2"),
            "{told}"
        );
        let typo = words(|placement, _| placement.fabric = Some("rak".into()), 2);
        let told = "placement.fabric: no node that will do is labelled with rak; did you mean rack? Keys of labels are rack, zone";
        assert_eq!(typo, told);
        assert_eq!(
            ["rack", "zone", "", "racks"].map(|key| distance("rack", key)),
            [0, 4, 4, 1]
        );
        let total = |gpus, fabric: Option<&str>| {
            let fabric = fabric.map(str::to_owned);
            words(
                |placement, _| {
                    placement.gpus_total = Some(gpus);
                    placement.fabric = fabric;
                },
                1,
            )
        };
        assert_eq!(total(12, None), "");
        assert!(total(13, None).contains("give 12"), "{}", total(13, None));
        assert_eq!(total(8, Some("rack")), "");
        assert!(total(9, Some("rack")).contains("give 8"));
        let small = words(
            |placement, request| {
                placement.gpus_total = Some(2);
                request.gpu_memory_max_bytes = 40_000_000_000;
            },
            1,
        );
        assert!(small.contains("at most 37.2 GiB"), "{small}");
    }

    #[test]
    fn who_wants_nodes_alone_waits_for_those_who_use_them() {
        let mut ledger = ledger();
        let held = |node: &str| Allocation {
            node: NodeName(node.into()),
            cpus: 1,
            memory_bytes: 0,
            gpus: Vec::new(),
            address: String::new(),
        };
        ledger.take(JobId(1), vec![held("n1"), held("n2")]).unwrap();
        let request = ResourceRequest::default();
        let placement = Placing {
            exclusive: true,
            ..Placing::default()
        };
        let wish = |nodes| Wish {
            request: &request,
            nodes,
            placement: &placement,
        };
        let told = wish(2).reason(&ledger);
        assert!(
            told.ends_with("1 of the 2 that it needs are there"),
            "{told}"
        );
        assert_eq!(wish(1).reason(&ledger), "waits for its turn");
    }
}
