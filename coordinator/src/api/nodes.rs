//! Nodes as operators see them: what each offers, what is free on it, draining, and labels. Windows are in `maintenance`.
//!
//! Owns joining what the supervisor of nodes knows with what the ledger says. Decides nothing about
//! placement. Called by both doors; how agents get in is in `agents`.

use std::time::Duration;

use trainyard_core::{
    access::Permission,
    ids::NodeName,
    label,
    service::{AtDeadline, Deadline, Drain, Duty},
    spec::Violation,
};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, access::Target};
use crate::{
    actors::{
        ask,
        nodes::{LabelChange, NodeInfo, NodeOrder, NodesMsg},
        scheduler::{NodeView, SchedulerMsg},
    },
    clock,
};

/// A node, with what is free on it and who holds the rest.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is known of it.
    pub info: NodeInfo,
    /// What the ledger says; none in the moment between registration and ledger.
    pub view: Option<NodeView>,
}

/// What a node does, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownDuty {
    /// It gets jobs.
    Open,
    /// It gets none; those that run go on.
    Draining,
    /// It gets none; those that run are told to go.
    Vacating,
    /// It gets none, and nothing runs there any more.
    Drained,
}

impl ShownDuty {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Draining => "draining",
            Self::Vacating => "vacating",
            Self::Drained => "drained",
        }
    }
}

impl Node {
    /// What it does.
    #[must_use]
    pub fn duty(&self) -> ShownDuty {
        let left = |view: &NodeView| !view.jobs.is_empty() || view.strays > 0;
        // Somebody holds a blocked GPU, whoever that is.
        let empty = !self.view.as_ref().is_some_and(left) && self.info.blocked.is_empty();
        match &self.info.duty {
            Duty::Open => ShownDuty::Open,
            Duty::Draining | Duty::Vacating(_) if empty => ShownDuty::Drained,
            Duty::Draining => ShownDuty::Draining,
            Duty::Vacating(_) => ShownDuty::Vacating,
        }
    }

    /// Who has drained it, by e-mail address; nobody where launches failed.
    #[must_use]
    pub fn drained_by(&self) -> Option<String> {
        let row = &self.info.row;
        let drained = row.drained.is_some() && !row.ordered_by.is_empty();
        drained.then(|| row.ordered_by.clone())
    }

    /// Why it gets no jobs, where operators want that: for a drain, a window, or both.
    #[must_use]
    pub fn closed_for(&self) -> Option<String> {
        let row = &self.info.row;
        match (&self.info.duty, row.drain()) {
            (Duty::Open, _) => None,
            (Duty::Draining, drain) => drain.map(|drain| drain.reason),
            (Duty::Vacating(why), None) => Some(why.clone()),
            (Duty::Vacating(why), Some(drain)) if *why == drain.words(&row.name) => {
                Some(drain.reason)
            }
            // A window is on besides.
            (Duty::Vacating(why), Some(drain)) => Some(format!("{}; {why}", drain.reason)),
        }
    }
}

/// What an operator wants of a node that is to get no new jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewDrain {
    /// For people.
    pub reason: String,
    /// How long those that run may end by themselves; without one for as long as they take.
    pub deadline: Option<Duration>,
    /// What then.
    pub then: Option<AtDeadline>,
}

/// Characters of a reason.
pub(super) const LONGEST_REASON: usize = 1_000;
/// The furthest deadline and the longest window: 366 days.
pub(super) const LONGEST_SPAN: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What is wrong with a reason.
pub(super) fn long_reason(field: &str, reason: &str) -> Option<Violation> {
    let long = reason.chars().count() > LONGEST_REASON;
    long.then(|| Violation {
        field: field.to_owned(),
        message: format!("is longer than {LONGEST_REASON} characters; shorten it"),
    })
}

impl NewDrain {
    fn problems(&self) -> Vec<Violation> {
        let mut found: Vec<Violation> = long_reason("reason", &self.reason).into_iter().collect();
        let mut add = |field: &str, message: &str| {
            let (field, message) = (field.to_owned(), message.to_owned());
            found.push(Violation { field, message });
        };
        if self.deadline.is_some_and(|span| span > LONGEST_SPAN) {
            add("deadline", "is more than 366 days from now; give less");
        }
        if self.then.is_some() && self.deadline.is_none() {
            add("at_deadline", "is given without a deadline; give one");
        }
        found
    }
}

impl Service {
    /// All nodes by name.
    ///
    /// # Errors
    /// When the coordinator is too busy to answer.
    pub async fn nodes(&self, caller: &Caller) -> Result<Vec<Node>, ApiError> {
        self.require(caller, Permission::ReadNodes, Target::Cluster)?;
        self.all_nodes().await
    }

    /// As [`Service::nodes`], for the coordinator's own figures.
    pub(super) async fn all_nodes(&self) -> Result<Vec<Node>, ApiError> {
        let infos = ask(&self.tree().nodes, NodesMsg::List).await?;
        let views = ask(&self.tree().scheduler, SchedulerMsg::View).await?;
        let view = |info: &NodeInfo| views.iter().find(|view| view.name == info.row.name);
        let node = |info: NodeInfo| Node {
            view: view(&info).cloned(),
            info,
        };
        Ok(infos.into_iter().map(node).collect())
    }

    /// One node.
    ///
    /// # Errors
    /// When there is none; the known ones are named.
    pub async fn node(&self, caller: &Caller, name: &str) -> Result<Node, ApiError> {
        let nodes = self.nodes(caller).await?;
        let known: Vec<_> = nodes
            .iter()
            .map(|node| node.info.row.name.to_string())
            .collect();
        let found = nodes.into_iter().find(|node| node.info.row.name.0 == name);
        found.ok_or_else(|| {
            let known = match known.is_empty() {
                true => "no node has registered yet".to_owned(),
                false => format!("known are {}", known.join(", ")),
            };
            ApiError::new(
                Kind::NotFound,
                format!("there is no node '{name}'; {known}"),
            )
        })
    }

    /// Gives a node no new jobs.
    ///
    /// # Errors
    /// A deadline that is too far, a reason that is too long; when there is no such node, or the caller does not operate
    /// the cluster.
    pub async fn drain(
        &self,
        caller: &Caller,
        name: &str,
        asked: NewDrain,
    ) -> Result<Node, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        let found = asked.problems();
        if !found.is_empty() {
            return Err(ApiError::invalid(found));
        }
        let reason = match asked.reason.is_empty() {
            true => format!("drained by {}", caller.user.email),
            false => asked.reason,
        };
        let deadline = asked.deadline.map(|span| Deadline {
            at: clock::now().plus(span),
            then: asked.then.unwrap_or_default(),
        });
        let drain = Drain { reason, deadline };
        self.set_drain(caller, name, Some(drain)).await
    }

    /// Gives a node jobs again, unless a maintenance window is on.
    ///
    /// # Errors
    /// When there is no such node, or the caller does not operate the cluster.
    pub async fn resume(&self, caller: &Caller, name: &str) -> Result<Node, ApiError> {
        self.set_drain(caller, name, None).await
    }

    async fn set_drain(
        &self,
        caller: &Caller,
        name: &str,
        drain: Option<Drain>,
    ) -> Result<Node, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        self.node(caller, name).await?;
        let by = caller.user.email.clone();
        let order = Box::new(NodeOrder { drain, by });
        let question = |reply| NodesMsg::SetDrain(NodeName(name.to_owned()), order, reply);
        ask(&self.tree().nodes, question).await?;
        self.node(caller, name).await
    }

    /// Sets labels of a node, and takes back some that operators have set.
    ///
    /// # Errors
    /// Every bad label at once; when there is no such node, or the caller does not operate the cluster.
    pub async fn set_labels(
        &self,
        caller: &Caller,
        name: &str,
        mut change: LabelChange,
    ) -> Result<Node, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        let node = self.node(caller, name).await?;
        let found = problems(&node, &change);
        if !found.is_empty() {
            return Err(ApiError::invalid(found));
        }
        change.by.clone_from(&caller.user.email);
        let question = |reply| NodesMsg::SetLabels(NodeName(name.to_owned()), change, reply);
        ask(&self.tree().nodes, question).await?;
        self.node(caller, name).await
    }
}

fn problems(node: &Node, change: &LabelChange) -> Vec<Violation> {
    let row = &node.info.row;
    let mut found = Vec::new();
    let mut add = |field: &str, message: String| {
        let field = field.to_owned();
        found.push(Violation { field, message });
    };
    let bad = |(key, value): (&String, &String)| label::problem_of(key, value);
    if let Some(words) = change.set.iter().find_map(bad) {
        add("set", words);
    }
    if row.set_labels.len() + change.set.len() > label::MOST {
        let words = format!("would make more than {} labels; remove some", label::MOST);
        add("set", words);
    }
    for key in &change.remove {
        if change.set.contains_key(key) {
            add(
                "remove",
                format!("has '{key}', which is set too; take it out of one"),
            );
        } else if !row.set_labels.contains_key(key) {
            let words = match row.labels.get(key) {
                Some(value) => format!(
                    "has '{key}', which no operator has set: the node's agent says {key}={value}, in its settings; set another value in its place"
                ),
                None => format!("has '{key}', which the node has not; leave it out"),
            };
            add("remove", words);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use trainyard_core::{ids::JobId, node::NodeState, resources::Capacity};

    use super::*;
    use crate::store::NodeRow;

    #[test]
    fn a_node_is_drained_when_nothing_runs_there_not_only_when_no_job_does() {
        let row = NodeRow {
            drained: Some("new fan".into()),
            ..NodeRow::named("n1")
        };
        let with = |jobs: &[u64], strays: usize, blocked: &[&str]| {
            let blocked = blocked.iter();
            let info = NodeInfo {
                row: row.clone(),
                state: NodeState::Ready,
                blocked: blocked.map(|gpu| ((*gpu).into(), "held".into())).collect(),
                condition: String::new(),
                duty: Duty::Draining,
                window: None,
            };
            let view = NodeView {
                name: row.name.clone(),
                free: Capacity::default(),
                jobs: jobs.iter().map(|job| JobId(*job)).collect(),
                strays,
            };
            let view = Some(view);
            Node { info, view }.duty()
        };
        assert_eq!(with(&[], 0, &[]), ShownDuty::Drained);
        assert_eq!(with(&[4], 0, &[]), ShownDuty::Draining);
        assert_eq!(with(&[], 1, &[]), ShownDuty::Draining);
        assert_eq!(with(&[], 0, &["GPU-0"]), ShownDuty::Draining);
    }
}
