//! Maintenance windows, as operators plan them.
//!
//! Owns what a window may be. What it does to nodes and jobs is core's to say. Called by both doors.

use std::{collections::BTreeSet, time::Duration};

use trainyard_core::{
    access::Permission,
    ids::NodeName,
    label,
    service::{Scope, Window},
    spec::Violation,
    time::Timestamp,
};
use trainyard_proto::status::Kind;

use super::{
    ApiError, Caller, Service,
    access::Target,
    nodes::{LONGEST_SPAN, long_reason},
};
use crate::{
    actors::{
        ask,
        nodes::{NewWindow, NodesMsg},
    },
    clock,
};

/// Windows at one time, past ones of the last day among them.
const MOST: usize = 1_000;

/// What an operator asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedWindow {
    /// On all nodes.
    pub all: bool,
    /// On these.
    pub nodes: BTreeSet<String>,
    /// On those that have all of these, each `key=value`.
    pub labels: BTreeSet<String>,
    /// Its first moment; none is now.
    pub from: Option<Timestamp>,
    /// How long.
    pub length: Duration,
    /// For people.
    pub why: String,
}

/// A window that is planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedWindow {
    /// As it is stored.
    pub window: Window,
    /// What may be wrong with it, for people.
    pub warnings: Vec<String>,
}

impl Service {
    /// All windows that are to come, on, or over within the last day; the first to begin comes first.
    ///
    /// # Errors
    /// When the caller may not see nodes.
    pub async fn windows(&self, caller: &Caller) -> Result<Vec<Window>, ApiError> {
        self.require(caller, Permission::ReadNodes, Target::Cluster)?;
        Ok(ask(&self.tree().nodes, NodesMsg::Windows).await?)
    }

    /// Plans one more.
    ///
    /// # Errors
    /// Every field that is wrong; when the caller does not operate the cluster.
    pub async fn add_window(
        &self,
        caller: &Caller,
        asked: AskedWindow,
    ) -> Result<PlannedWindow, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        let nodes = self.nodes(caller).await?;
        let labels = nodes.iter().map(|node| node.info.row.all_labels());
        let warning = unmatched(&asked, labels.map(|labels| label::texts(&labels)));
        let known = nodes.into_iter().map(|node| node.info.row.name.0);
        let now = clock::now();
        let found = problems(&asked, &known.collect(), now);
        if !found.is_empty() {
            return Err(ApiError::invalid(found));
        }
        if self.windows(caller).await?.len() >= MOST {
            let words = format!("there are {MOST} maintenance windows; remove some");
            return Err(ApiError::new(Kind::Exhausted, words));
        }
        let from = asked.from.unwrap_or(now);
        let new = Box::new(NewWindow {
            scope: scope(&asked),
            from,
            until: from.plus(asked.length),
            why: asked.why,
            made_by: caller.user.email.clone(),
        });
        let question = |reply| NodesMsg::AddWindow(new, reply);
        Ok(PlannedWindow {
            window: ask(&self.tree().nodes, question).await?,
            warnings: warning.into_iter().collect(),
        })
    }

    /// Takes one back. Nodes where it is on are open again at once, unless they are drained.
    ///
    /// # Errors
    /// When there is none, or the caller does not operate the cluster.
    pub async fn remove_window(&self, caller: &Caller, id: u64) -> Result<Window, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        let by = caller.user.email.clone();
        let question = |reply| NodesMsg::RemoveWindow(id, by, reply);
        let removed = ask(&self.tree().nodes, question).await?;
        removed.ok_or_else(|| {
            let words = format!("there is no maintenance window {id}");
            ApiError::new(Kind::NotFound, words)
        })
    }
}

fn scope(asked: &AskedWindow) -> Scope {
    match (asked.nodes.is_empty(), asked.labels.is_empty()) {
        (false, _) => Scope::Nodes(asked.nodes.iter().cloned().map(NodeName).collect()),
        (true, false) => Scope::Labels(asked.labels.clone()),
        (true, true) => Scope::All,
    }
}

/// It counts for nodes that come later too, so this is no mistake for certain.
fn unmatched(
    asked: &AskedWindow,
    mut nodes: impl Iterator<Item = BTreeSet<String>>,
) -> Option<String> {
    let none = !asked.labels.is_empty() && !nodes.any(|has| asked.labels.is_subset(&has));
    let labels: Vec<&str> = asked.labels.iter().map(String::as_str).collect();
    let labels = labels.join(", ");
    none.then(|| {
        format!(
            "no node has {labels} now: the window is on none until one gets it; `trainyard nodes` shows the labels that there are"
        )
    })
}

fn problems(asked: &AskedWindow, known: &BTreeSet<String>, now: Timestamp) -> Vec<Violation> {
    let mut found: Vec<Violation> = long_reason("why", &asked.why).into_iter().collect();
    let mut add = |field: &str, message: String| {
        let field = field.to_owned();
        found.push(Violation { field, message });
    };
    let ways = [asked.all, !asked.nodes.is_empty(), !asked.labels.is_empty()];
    if ways.into_iter().filter(|way| *way).count() != 1 {
        let words =
            "say on which nodes in one way: their names, labels that they have, or all nodes";
        add("nodes", words.to_owned());
    }
    if let Some(name) = asked.nodes.iter().find(|name| !known.contains(*name)) {
        let shown: Vec<&str> = known.iter().take(10).map(String::as_str).collect();
        let shown = shown.join(", ");
        add(
            "nodes",
            format!("has '{name}', and there is no such node; known are {shown}"),
        );
    }
    if let Some(words) = asked
        .labels
        .iter()
        .find_map(|text| label::parse(text).err())
    {
        add("labels", words);
    }
    if asked.length < Duration::from_secs(1) || asked.length > LONGEST_SPAN {
        add("length", "must be 1 second to 366 days".to_owned());
    }
    let from = asked.from.unwrap_or(now);
    if from > now.plus(LONGEST_SPAN * 10) {
        add(
            "from",
            "is more than ten years from now; give an earlier moment".to_owned(),
        );
    }
    if from.plus(asked.length) <= now {
        add(
            "from",
            "makes a window that is over already; give a later moment".to_owned(),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut AskedWindow)) -> Vec<String> {
        let mut asked = AskedWindow {
            all: true,
            length: Duration::from_secs(60),
            ..AskedWindow::default()
        };
        change(&mut asked);
        let known = BTreeSet::from(["n1".to_owned()]);
        let found = problems(&asked, &known, Timestamp(1_000_000_000));
        found.into_iter().map(|one| one.field).collect()
    }

    #[test]
    fn a_window_by_labels_that_no_node_has_is_warned_about() {
        let nodes = [["rack=1", "zone=a"], ["rack=2", "zone=a"]];
        let warned = |labels: &[&str]| {
            let asked = AskedWindow {
                labels: labels.iter().map(|&label| label.to_owned()).collect(),
                ..AskedWindow::default()
            };
            let nodes = nodes.iter().map(|has| has.map(str::to_owned).into());
            unmatched(&asked, nodes)
        };
        assert_eq!(warned(&[]), None);
        assert_eq!(warned(&["rack=2", "zone=a"]), None);
        let told = warned(&["rack=3", "zone=a"]).unwrap();
        assert!(
            told.starts_with("no node has rack=3, zone=a now: "),
            "{told}"
        );
    }

    #[test]
    fn a_window_that_makes_no_sense_is_refused_with_every_field_that_is_wrong() {
        assert!(wrong(|_| ()).is_empty());
        assert_eq!(wrong(|asked| asked.all = false), ["nodes"]);
        let twice = |asked: &mut AskedWindow| asked.nodes.extend(["n1".to_owned()]);
        assert_eq!(wrong(twice), ["nodes"]);
        let all_wrong = wrong(|asked| {
            asked.all = false;
            asked.nodes.insert("n9".to_owned());
            asked.labels.insert("zone".to_owned());
            asked.length = Duration::ZERO;
            asked.from = Some(Timestamp(0));
            asked.why = "x".repeat(1_001);
        });
        assert_eq!(
            all_wrong,
            ["why", "nodes", "nodes", "labels", "length", "from"]
        );
    }
}
