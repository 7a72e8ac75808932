//! Nodes that are taken out of service: drains of operators, and maintenance windows.
//!
//! Owns the rows of both, and that a node does what `core::service` says it does now: that is asked again at every look at
//! the leases, so nothing is lost by a restart or by a clock that is set. Called by the supervisor of sessions.

use std::collections::{BTreeMap, BTreeSet};

use ractor::ActorProcessingErr;
use trainyard_core::{
    decision::{Decision, Kind},
    ids::NodeName,
    label,
    service::{self, Closure, Drain, Duty, Scope, Window},
    time::Timestamp,
};

use super::{NodeInfo, State};
use crate::{
    actors::scheduler::SchedulerMsg,
    clock,
    store::{Change, Document, NodeRow, ReadError, Store},
};

/// Under this name the last number of a window is stored.
const WINDOWS: &str = "maintenance_windows";

impl Document for Window {
    const KIND: &'static str = "maintenance_window";

    fn key(&self) -> String {
        key(self.id)
    }
}

fn key(id: u64) -> String {
    format!("{id:020}")
}

/// What is wanted of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOrder {
    /// Without one it gets jobs.
    pub drain: Option<Drain>,
    /// The e-mail address of who wants it; empty where launches failed.
    pub by: String,
}

/// A window that an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWindow {
    /// On which nodes.
    pub scope: Scope,
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
    /// For people.
    pub why: String,
    /// The e-mail address of who wants it.
    pub made_by: String,
}

/// All windows, and the last number that was given to one.
pub(super) fn load(store: &Store) -> Result<(BTreeMap<u64, Window>, u64), ActorProcessingErr> {
    let windows: Result<Vec<Window>, ReadError> = store.documents("");
    let windows = windows?.into_iter().map(|window| (window.id, window));
    let last = store.meta(WINDOWS)?;
    let last = last.map_or(Ok(0), |text| text.parse())?;
    Ok((windows.collect(), last))
}

/// What the scheduler is told of them.
pub(super) fn told(windows: &BTreeMap<u64, Window>) -> SchedulerMsg {
    SchedulerMsg::Windows(windows.values().cloned().collect())
}

/// What a node does now.
pub(super) fn duty_of(windows: &BTreeMap<u64, Window>, row: &NodeRow, now: Timestamp) -> Duty {
    let drain = row.drain();
    service::duty(now, &row.name, drain.as_ref(), on(windows, row))
}

/// The windows that cover a node.
fn on<'w>(windows: &'w BTreeMap<u64, Window>, row: &NodeRow) -> impl Iterator<Item = &'w Window> {
    let labels = match windows.is_empty() {
        true => BTreeSet::new(),
        false => label::texts(&row.all_labels()),
    };
    let name = row.name.clone();
    let windows = windows.values();
    windows.filter(move |window| window.covers(&name, &labels))
}

impl State {
    pub(super) fn duty_of(&self, row: &NodeRow, now: Timestamp) -> Duty {
        duty_of(&self.windows, row, now)
    }

    /// The window that is on, or comes next.
    pub(super) fn window_of(&self, row: &NodeRow) -> Option<Closure> {
        service::closure(clock::now(), on(&self.windows, row))
    }

    pub(super) fn windows(&self) -> Vec<Window> {
        let mut windows: Vec<Window> = self.windows.values().cloned().collect();
        windows.sort_by_key(|window| (window.from, window.id));
        windows
    }

    /// When a node does something else next by time alone.
    pub(super) fn next_duty(&self, now: Timestamp) -> Option<Timestamp> {
        let changes = self.nodes.values().filter_map(|entry| {
            let drain = entry.row.drain();
            service::next_change(now, drain.as_ref(), on(&self.windows, &entry.row))
        });
        changes.min()
    }

    pub(super) async fn set_drain(
        &mut self,
        node: &NodeName,
        NodeOrder { drain, by }: NodeOrder,
    ) -> Result<Option<NodeInfo>, ActorProcessingErr> {
        let Some(entry) = self.nodes.get_mut(node) else {
            return Ok(None);
        };
        self.failed_launches.remove(node);
        entry.row.deadline = drain.as_ref().and_then(|drain| drain.deadline);
        entry.row.drained = drain.map(|drain| drain.reason);
        entry.row.ordered_by = by;
        let change = Change::PutNode(entry.row.clone());
        self.args.store.commit_and_wait(vec![change]).await?;
        self.look_at_duties()?;
        Ok(self.nodes.get(node).map(|entry| self.info(entry)))
    }

    pub(super) async fn add_window(
        &mut self,
        new: NewWindow,
    ) -> Result<Window, ActorProcessingErr> {
        let window = Window {
            id: self.last_window + 1,
            scope: new.scope,
            from: new.from,
            until: new.until,
            why: new.why,
            made_by: new.made_by,
            made_at: clock::now(),
        };
        let number = Change::PutMeta {
            key: WINDOWS.to_owned(),
            value: window.id.to_string(),
        };
        let words = format!("{}: {}", window.made_by, window.words(window.made_at));
        let note = self.noted(&window, Kind::MaintenancePlanned, &words);
        let changes = vec![number, Change::put(&window), note];
        self.args.store.commit_and_wait(changes).await?;
        self.last_window = window.id;
        self.windows.insert(window.id, window.clone());
        tracing::info!(
            id = window.id,
            by = window.made_by,
            why = window.why,
            "maintenance is planned"
        );
        self.windows_changed()?;
        Ok(window)
    }

    pub(super) async fn remove_window(
        &mut self,
        id: u64,
        by: &str,
    ) -> Result<Option<Window>, ActorProcessingErr> {
        let Some(window) = self.windows.get(&id).cloned() else {
            return Ok(None);
        };
        let what = window.words(clock::now());
        let words = format!(
            "{by} has taken back what {} planned: {what}",
            window.made_by
        );
        tracing::info!(id, by, "maintenance is taken back");
        let note = self.noted(&window, Kind::MaintenanceRemoved, &words);
        self.forget(&[id], Some(note)).await?;
        Ok(Some(window))
    }

    /// About the nodes that it covers now.
    fn noted(&self, window: &Window, kind: Kind, words: &str) -> Change {
        let nodes = self.nodes.values().map(|entry| &entry.row);
        let nodes = nodes.filter(|row| {
            let labels = label::texts(&row.all_labels());
            window.covers(&row.name, &labels)
        });
        let nodes = nodes.map(|row| row.name.clone());
        let words = format!("maintenance {}, {words}", window.id);
        let note = Decision::of_nodes(clock::now(), kind, nodes, words);
        Change::Note(vec![note])
    }

    /// In one commit, however many they are.
    async fn forget(
        &mut self,
        windows: &[u64],
        note: Option<Change>,
    ) -> Result<(), ActorProcessingErr> {
        let gone = windows.iter();
        let gone = gone.map(|id| Change::remove::<Window>(key(*id)));
        let changes = gone.chain(note).collect();
        self.args.store.commit_and_wait(changes).await?;
        self.windows.retain(|id, _| !windows.contains(id));
        self.windows_changed()
    }

    fn windows_changed(&mut self) -> Result<(), ActorProcessingErr> {
        self.args.scheduler.cast(told(&self.windows))?;
        self.look_at_duties()
    }

    /// Windows begin and end; those that were over long ago are forgotten.
    pub(super) async fn look_at_windows(&mut self) -> Result<(), ActorProcessingErr> {
        self.steady.look(clock::now());
        let old = self.steady.forgotten(self.windows.values());
        if !old.is_empty() {
            self.forget(&old, None).await?;
        }
        self.look_at_duties()
    }

    /// Nodes do what they should do now. Of those that are to be empty whoever is left hears of it at each look.
    pub(super) fn look_at_duties(&mut self) -> Result<(), ActorProcessingErr> {
        let now = clock::now();
        let mut changed = Vec::new();
        for (name, entry) in &mut self.nodes {
            let duty = duty_of(&self.windows, &entry.row, now);
            if duty != entry.duty {
                tracing::info!(node = %name, was = ?entry.duty, is = ?duty, "the node's duty has changed");
                entry.duty = duty;
                changed.push(name.clone());
            }
        }
        for name in changed {
            self.tell_scheduler(&name)?;
        }
        for (name, entry) in &self.nodes {
            if let Duty::Vacating(why) = &entry.duty {
                let vacate = SchedulerMsg::Vacate(name.clone(), why.clone());
                self.args.scheduler.cast(vacate)?;
            }
        }
        Ok(())
    }
}
