//! Nodes as operators see them: what each offers, what is free on it, draining, and labels.
//!
//! Owns joining what the supervisor of nodes knows with what the ledger says. Decides nothing about
//! placement. Called by both doors; how agents get in is in `agents`.

use trainyard_core::{access::Permission, ids::NodeName, label, spec::Violation};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, access::Target};
use crate::actors::{
    ask,
    nodes::{LabelChange, NodeInfo, NodesMsg},
    scheduler::{NodeView, SchedulerMsg},
};

/// A node, with what is free on it and who holds the rest.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is known of it.
    pub info: NodeInfo,
    /// What the ledger says; none in the moment between registration and ledger.
    pub view: Option<NodeView>,
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

    /// Drains a node (with a reason) or resumes it.
    ///
    /// # Errors
    /// When there is no such node, or the caller does not operate the cluster.
    pub async fn set_drain(
        &self,
        caller: &Caller,
        name: &str,
        reason: Option<String>,
    ) -> Result<Node, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        self.node(caller, name).await?;
        let question = |reply| NodesMsg::SetDrain(NodeName(name.to_owned()), reason, reply);
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
        change: LabelChange,
    ) -> Result<Node, ApiError> {
        self.require(caller, Permission::Operate, Target::Cluster)?;
        let node = self.node(caller, name).await?;
        let found = problems(&node, &change);
        if !found.is_empty() {
            return Err(ApiError::invalid(found));
        }
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
