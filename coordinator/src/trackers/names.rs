//! Under which names an attempt's metrics and parameters stand at a tracker: two of ours are never one there.
//!
//! Pure. A tracker takes fewer characters than trainers use, so two names may come to one spelling; the second
//! gets a number, and keeps it. How a tracker spells is the tracker's own. Kept by the feed beside what it has
//! sent, used by the trackers of runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Names of an attempt that are told apart: a training has dozens.
const MOST: usize = 2_000;
/// Characters of a spelling that gets a number.
const NUMBERED: usize = 240;

/// Our name by its spelling there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    /// The names of one report: those that are taken as they are come first, so that each keeps its own.
    pub(super) fn of_report<'a>(
        &mut self,
        names: impl Iterator<Item = &'a String> + Clone,
        spelled: impl Fn(&str) -> String,
    ) {
        for name in names.filter(|name| spelled(name) == **name) {
            self.spell(name, spelled(name));
        }
    }

    /// `name` as it is spelled there, with a number where another name is spelled so. The same name always
    /// comes to the same.
    pub(super) fn spell(&mut self, name: &str, spelled: String) -> String {
        let mut number = 1_u32;
        let mut wanted = spelled.clone();
        while let Some(known) = self.0.get(&wanted) {
            if known == name {
                return wanted;
            }
            number += 1;
            let head: String = spelled.chars().take(NUMBERED).collect();
            wanted = format!("{head}_{number}");
        }
        if self.0.len() < MOST {
            self.0.insert(wanted.clone(), name.to_owned());
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(name: &str) -> String {
        name.replace(['@', '#'], "_")
    }

    fn spelled(names: &mut Names, report: &[&str]) -> Vec<String> {
        let report: Vec<_> = report.iter().map(|&name| name.to_owned()).collect();
        names.of_report(report.iter(), plain);
        let spell = |name: &String| names.spell(name, plain(name));
        report.iter().map(spell).collect()
    }

    #[test]
    fn names_that_are_spelled_alike_get_numbers_and_keep_them() {
        let mut names = Names::default();
        assert_eq!(spelled(&mut names, &["acc@1"]), ["acc_1"]);
        assert_eq!(
            spelled(&mut names, &["acc#1", "acc@1"]),
            ["acc_1_2", "acc_1"]
        );
        let text = serde_json::to_string(&names).unwrap();
        let mut kept: Names = serde_json::from_str(&text).unwrap();
        let later = spelled(&mut kept, &["acc_1", "acc#1", "acc_1_2", "acc@1"]);
        assert_eq!(later, ["acc_1_3", "acc_1_2", "acc_1_2_2", "acc_1"]);
    }

    #[test]
    fn of_one_report_the_name_that_needs_no_other_spelling_keeps_its_own() {
        let mut names = Names::default();
        let report = ["acc#1", "acc@1", "acc_1"];
        assert_eq!(
            spelled(&mut names, &report),
            ["acc_1_2", "acc_1_3", "acc_1"]
        );
    }
}
