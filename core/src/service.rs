//! Whether a node is in service: drains by operators, and maintenance windows.
//!
//! Owns what a node does at a moment, which is one of three things, and which jobs may still start before a window. Pure:
//! it is told the time, and the same time gives the same answer, so that a restart or a clock that is set changes nothing.
//! Never closes a node: the coordinator's supervisor of nodes asks it again and again. Used by that and by the planner.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ids::NodeName, time::Timestamp};

/// What becomes of those who are left at the deadline of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtDeadline {
    /// They save their work, go, and go on elsewhere.
    #[default]
    Preempt,
    /// They go on for as long as they take.
    Wait,
}

impl AtDeadline {
    /// The name in JSON and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preempt => "preempt",
            Self::Wait => "wait",
        }
    }

    /// From such a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Preempt, Self::Wait]
            .into_iter()
            .find(|one| one.name() == name)
    }
}

/// Until when jobs may end by themselves, and what is done with those that have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// When.
    pub at: Timestamp,
    /// What then.
    pub then: AtDeadline,
}

/// An operator wants no new jobs on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Why, for people.
    pub reason: String,
    /// Without one those that run there go on for as long as they take.
    pub deadline: Option<Deadline>,
}

impl Drain {
    /// What those are told who are left at its deadline.
    #[must_use]
    pub fn words(&self, node: &NodeName) -> String {
        format!("node {node} is drained: {}", self.reason)
    }
}

/// On which nodes a window is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// On all, those that come later too.
    All,
    /// On these.
    Nodes(BTreeSet<NodeName>),
    /// On those that have all of these labels at the time, each `key=value`.
    Labels(BTreeSet<String>),
}

/// A span in which nodes are out of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From 1, over all that there ever were.
    pub id: u64,
    /// Where.
    pub scope: Scope,
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
    /// Why, for people.
    pub why: String,
    /// The e-mail address of who made it.
    pub made_by: String,
    /// When.
    pub made_at: Timestamp,
}

/// Of a window what is told beside each of its nodes: not on which others it is, and not all of its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closure {
    /// The window's number.
    pub id: u64,
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
    /// Why, in short.
    pub why: String,
    /// Until when the node is closed from then on, since others follow without a gap or overlap it.
    pub closed_until: Timestamp,
    /// Those, by number: the first few.
    pub others: Vec<u64>,
}

/// So many other windows are named beside a node.
const OTHERS: usize = 10;

/// Characters of a reason that are told beside each node and each job that it concerns: they may be many.
const SHORT: usize = 100;

impl Window {
    /// The beginning of its reason.
    fn short(&self) -> String {
        let mut why: String = self.why.chars().take(SHORT).collect();
        if why.len() < self.why.len() {
            why.push('…');
        }
        why
    }

    /// Whether it is on a node with these labels.
    #[must_use]
    pub fn covers(&self, node: &NodeName, labels: &BTreeSet<String>) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Nodes(nodes) => nodes.contains(node),
            Scope::Labels(wanted) => wanted.is_subset(labels),
        }
    }

    /// Whether it has begun and is not over.
    #[must_use]
    pub fn is_on(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }

    /// Whether a job that starts now and takes so long would reach into it.
    #[must_use]
    pub fn is_reached(&self, now: Timestamp, span: Duration) -> bool {
        !self.is_over(now) && now.plus(span) > self.from
    }

    /// Such as `until 18:00 UTC (new fan)`, or with when it begins.
    #[must_use]
    pub fn words(&self, now: Timestamp) -> String {
        let until = self.until.moment(now);
        let why = match self.short() {
            none if none.is_empty() => none,
            why => format!(" ({why})"),
        };
        match self.is_on(now) {
            true => format!("until {until}{why}"),
            false => format!("from {} until {until}{why}", self.from.moment(now)),
        }
    }
}

/// Of windows that cover a node the one that is named: of those that are on the one that ends last, since until then the
/// node is closed; where none is on the one that comes next, and of several such the longest.
#[must_use]
pub fn foremost<'w>(
    now: Timestamp,
    windows: impl IntoIterator<Item = &'w Window>,
) -> Option<&'w Window> {
    let left = windows.into_iter().filter(|window| !window.is_over(now));
    left.min_by_key(|window| {
        let begins = window.from.max(now);
        (begins, Reverse(window.until), Reverse(window.id))
    })
}

/// The window that is named of those that cover a node, and how long they keep it closed.
#[must_use]
pub fn closure<'w>(
    now: Timestamp,
    windows: impl IntoIterator<Item = &'w Window>,
) -> Option<Closure> {
    let mut left: Vec<&Window> = windows.into_iter().collect();
    left.retain(|window| !window.is_over(now));
    left.sort_by_key(|window| (window.from, window.id));
    let named = foremost(now, left.iter().copied())?;
    let (mut closed_until, mut others) = (named.until, Vec::new());
    for window in left {
        if window.from > closed_until {
            break;
        }
        closed_until = closed_until.max(window.until);
        if window.id != named.id {
            others.push(window.id);
        }
    }
    others.truncate(OTHERS);
    Some(Closure {
        id: named.id,
        from: named.from,
        until: named.until,
        why: named.short(),
        closed_until,
        others,
    })
}

/// So long a window is kept that is over.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// A clock that was set is not believed for so long, where something would be gone for good.
const DOUBTED: Duration = Duration::from_secs(3_600);
/// Between two looks a clock goes on by less, unless it is set or nobody looked.
const STEP: Duration = Duration::from_secs(600);

/// Since when a clock goes on as clocks do. One that is set far ahead for a moment would end what is to last for days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    since: Timestamp,
    looked: Timestamp,
}

impl Steady {
    /// From now on.
    #[must_use]
    pub fn from(now: Timestamp) -> Self {
        let (since, looked) = (now, now);
        Self { since, looked }
    }

    /// It was looked at.
    pub fn look(&mut self, now: Timestamp) {
        let before = std::mem::replace(&mut self.looked, now);
        if now < before || now.since(before) > STEP {
            self.since = now;
        }
    }

    /// Of these windows those that were over a day ago, by a clock that was not set for an hour.
    #[must_use]
    pub fn forgotten<'w>(&self, windows: impl IntoIterator<Item = &'w Window>) -> Vec<u64> {
        let now = self.looked;
        let believed = now.since(self.since) >= DOUBTED;
        let windows = windows.into_iter().filter(|_| believed);
        let old = windows.filter(|window| window.until.plus(KEPT) <= now);
        old.map(|window| window.id).collect()
    }
}

/// How long a job is taken to have its place for a window that is to come: its limit, and what starting costs, `least`,
/// since the limit counts from when the trainer runs. One without a limit may run for any time, and is told to go when the
/// window begins; it starts as long as that leaves it `least`.
#[must_use]
pub fn span(limit: Option<Duration>, least: Duration) -> Duration {
    limit.unwrap_or_default().saturating_add(least)
}

/// What a node does at a moment, as far as its operators have a say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It gets jobs.
    Open,
    /// It gets none; those that run there go on.
    Draining,
    /// It gets none; those that run there are to save their work and go, for this reason.
    Vacating(String),
}

/// What a node does now, by its drain and the windows that cover it, in any order.
#[must_use]
pub fn duty<'w>(
    now: Timestamp,
    node: &NodeName,
    drain: Option<&Drain>,
    windows: impl IntoIterator<Item = &'w Window>,
) -> Duty {
    let on = foremost(now, windows).filter(|window| window.is_on(now));
    if let Some(window) = on {
        return Duty::Vacating(format!("maintenance of node {node} {}", window.words(now)));
    }
    let Some(drain) = drain else {
        return Duty::Open;
    };
    match drain.deadline {
        Some(Deadline {
            at,
            then: AtDeadline::Preempt,
        }) if at <= now => Duty::Vacating(drain.words(node)),
        Some(_) | None => Duty::Draining,
    }
}

/// When that changes next by time alone.
#[must_use]
pub fn next_change<'w>(
    now: Timestamp,
    drain: Option<&Drain>,
    windows: impl IntoIterator<Item = &'w Window>,
) -> Option<Timestamp> {
    let deadline = drain.and_then(|drain| drain.deadline);
    let deadline = deadline.map(|deadline| deadline.at);
    let edges = windows.into_iter();
    let edges = edges.flat_map(|window| [window.from, window.until]);
    edges.chain(deadline).filter(|then| *then > now).min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn n1() -> NodeName {
        NodeName("n1".into())
    }

    fn window(id: u64, from: i64, until: i64) -> Window {
        Window {
            id,
            scope: Scope::All,
            from: Timestamp(from),
            until: Timestamp(until),
            why: String::new(),
            made_by: String::new(),
            made_at: Timestamp(0),
        }
    }

    fn drain(at: Option<i64>, then: AtDeadline) -> Drain {
        Drain {
            reason: "new fan".into(),
            deadline: at.map(|at| Deadline {
                at: Timestamp(at),
                then,
            }),
        }
    }

    #[test]
    fn a_drained_node_empties_itself_at_its_deadline_unless_it_is_to_wait() {
        let at = |now, drain: &Drain| duty(Timestamp(now), &n1(), Some(drain), []);
        let goes = drain(Some(10), AtDeadline::Preempt);
        assert_eq!(at(9, &goes), Duty::Draining);
        let words = "node n1 is drained: new fan".to_owned();
        assert_eq!(at(10, &goes), Duty::Vacating(words));
        assert_eq!(at(99, &drain(Some(10), AtDeadline::Wait)), Duty::Draining);
        assert_eq!(at(99, &drain(None, AtDeadline::Preempt)), Duty::Draining);
        assert_eq!(duty(Timestamp(99), &n1(), None, []), Duty::Open);
    }

    #[test]
    fn a_window_closes_its_nodes_from_its_first_moment_to_its_last_whatever_operators_say() {
        let on = window(1, 10, 20);
        let waits = drain(Some(5), AtDeadline::Wait);
        let at = |now, drain| duty(Timestamp(now), &n1(), drain, [&on]);
        assert_eq!(at(9, None), Duty::Open);
        assert!(matches!(at(10, None), Duty::Vacating(_)));
        assert!(matches!(at(19, Some(&waits)), Duty::Vacating(_)));
        assert_eq!(at(20, Some(&waits)), Duty::Draining);
        assert_eq!(at(20, None), Duty::Open);
    }

    #[test]
    fn a_window_is_on_the_nodes_that_it_names_by_name_or_by_all_of_its_labels() {
        let mut one = window(1, 0, 1);
        let labels = BTreeSet::from(["rack=1".to_owned(), "zone=a".to_owned()]);
        one.scope = Scope::Nodes([n1()].into());
        assert!(one.covers(&n1(), &labels) && !one.covers(&NodeName("n2".into()), &labels));
        one.scope = Scope::Labels(["zone=a".to_owned()].into());
        assert!(one.covers(&n1(), &labels) && !one.covers(&n1(), &BTreeSet::new()));
        one.scope = Scope::Labels(["zone=a".to_owned(), "rack=2".to_owned()].into());
        assert!(!one.covers(&n1(), &labels));
    }

    #[test]
    fn of_windows_that_overlap_one_is_named_and_the_node_is_closed_until_the_last_is_over() {
        let windows = [
            window(1, 10, 30),
            window(2, 12, 20),
            window(3, 30, 40),
            window(4, 41, 60),
            window(5, 45, 50),
        ];
        let at = |now, windows: &[Window]| {
            let told = closure(Timestamp(now), windows)?;
            Some((told.id, told.closed_until.0, told.others))
        };
        let named = |now, id, until, others: &[u64]| {
            let mut backwards = windows.to_vec();
            backwards.reverse();
            let told = Some((id, until, others.to_vec()));
            assert_eq!(at(now, &windows), told, "{now}");
            assert_eq!(at(now, &backwards), told, "{now}");
        };
        named(0, 1, 40, &[2, 3]);
        named(15, 1, 40, &[2, 3]);
        named(25, 1, 40, &[3]);
        named(30, 3, 40, &[]);
        named(40, 4, 60, &[5]);
        assert_eq!(at(60, &windows), None);
        // What a node does is said of the same one.
        for now in (10..40).chain(41..60) {
            let told = foremost(Timestamp(now), &windows).unwrap();
            let words = format!("maintenance of node n1 {}", told.words(Timestamp(now)));
            let does = duty(Timestamp(now), &n1(), None, &windows);
            assert_eq!(does, Duty::Vacating(words), "{now}");
        }
        let twins = [window(1, 10, 20), window(2, 10, 20)];
        assert_eq!(at(15, &twins), Some((2, 20, vec![1])));
    }

    #[test]
    fn windows_are_forgotten_a_day_after_their_end_and_by_no_clock_that_was_just_set() {
        let minutes = |minutes: u32| Timestamp(0).plus(Duration::from_secs(60) * minutes);
        let windows = [window(1, 0, 1), window(2, 0, minutes(60).0)];
        let mut steady = Steady::from(minutes(0));
        let day = 24 * 60;
        // Each look, and who is forgotten by it.
        let mut look = |at: u32| {
            steady.look(minutes(at));
            steady.forgotten(&windows)
        };
        assert_eq!(look(10_000), [0; 0], "it is set ahead");
        assert_eq!(look(10_001), [0; 0]);
        assert_eq!(look(1), [0; 0], "and back");
        assert_eq!(look(day + 1), [0; 0], "nobody looked for a day");
        let looks = (1..12).map(|look| day + 5 * look);
        assert!(looks.map(&mut look).all(|gone| gone.is_empty()));
        assert_eq!(look(day + 59), [0; 0]);
        assert_eq!(look(day + 61), [1, 2]);
    }

    #[test]
    fn what_is_told_of_a_window_beside_each_of_its_nodes_is_short() {
        let nodes = (0..1_000).map(|node| NodeName(format!("node-{node}")));
        let mut one = window(7, 10, 20);
        one.scope = Scope::Nodes(nodes.collect());
        one.why = "ü".repeat(1_000);
        let told = closure(Timestamp(15), [&one]).unwrap();
        assert_eq!((told.id, told.why.chars().count()), (7, SHORT + 1));
        assert!(one.words(Timestamp(15)).chars().count() < SHORT + 40);
        one.why = "new fan".into();
        assert_eq!(closure(Timestamp(15), [&one]).unwrap().why, "new fan");
        assert_eq!(one.words(Timestamp(15)), "until 00:00 UTC (new fan)");
    }

    #[test]
    fn a_job_whose_limit_ends_with_the_first_moment_of_a_window_does_not_reach_it() {
        let one = window(1, 10_000_000, 20_000_000);
        let reaches = |now, seconds| {
            let limit = Some(Duration::from_secs(seconds));
            one.is_reached(Timestamp(now), span(limit, Duration::from_secs(1)))
        };
        assert!(!reaches(0, 9) && reaches(1, 9) && reaches(0, 10));
        assert!(reaches(15_000_000, 1) && !reaches(20_000_000, 99));
        let without = |now| one.is_reached(Timestamp(now), span(None, Duration::from_secs(2)));
        assert!(!without(8_000_000) && without(8_000_001));
    }

    fn any_windows() -> impl Strategy<Value = Vec<Window>> {
        let spans = prop::collection::vec((0i64..60, 1i64..40), 0..5);
        spans.prop_map(|spans| {
            let spans = (1..).zip(spans);
            spans
                .map(|(id, (from, long))| window(id, from, from + long))
                .collect()
        })
    }

    fn any_drain() -> impl Strategy<Value = Option<Drain>> {
        let then = prop_oneof![Just(AtDeadline::Preempt), Just(AtDeadline::Wait)];
        prop::option::of((prop::option::of(0i64..100), then).prop_map(|(at, then)| drain(at, then)))
    }

    proptest! {
        #[test]
        fn a_node_does_one_thing_at_each_moment_and_another_only_when_it_was_said_that_it_would(
            windows in any_windows(),
            drain in any_drain(),
        ) {
            let at = |now| duty(Timestamp(now), &n1(), drain.as_ref(), &windows);
            let backwards = |now| duty(Timestamp(now), &n1(), drain.as_ref(), windows.iter().rev());
            let kind = |duty: &Duty| std::mem::discriminant(duty);
            let next = |now| next_change(Timestamp(now), drain.as_ref(), &windows);
            for now in 0i64..120 {
                let does = at(now);
                prop_assert_eq!(&does, &backwards(now), "whatever the order");
                let covered = windows.iter().any(|window| window.is_on(Timestamp(now)));
                prop_assert_eq!(does == Duty::Open, drain.is_none() && !covered);
                if covered {
                    prop_assert!(matches!(does, Duty::Vacating(_)));
                }
                let changes = kind(&does) != kind(&at(now + 1));
                prop_assert!(!changes || next(now) == Some(Timestamp(now + 1)), "{now}");
            }
            let after = at(1_000);
            for now in 0i64..120 {
                let told = closure(Timestamp(now), &windows);
                let until = told.filter(|told| told.from.0 <= now).map(|told| told.closed_until.0);
                let on = |now| windows.iter().any(|window| window.is_on(Timestamp(now)));
                let wanted = on(now).then(|| (now..).find(|then| !on(*then)));
                prop_assert_eq!(until, wanted.flatten(), "closed until then, at {}", now);
            }
            prop_assert_eq!(after == Duty::Open, drain.is_none(), "it is resumed by itself");
            prop_assert_eq!(next(1_000), None);
        }

        #[test]
        fn a_job_that_keeps_its_limit_and_was_let_start_is_never_met_by_a_window(
            windows in any_windows(),
            start in 0i64..100,
            limit in 1i64..40,
        ) {
            let span = Duration::from_micros(limit.unsigned_abs());
            let now = Timestamp(start);
            let may = !windows.iter().any(|window| window.is_reached(now, span));
            let met = (start..start + limit)
                .any(|then| windows.iter().any(|window| window.is_on(Timestamp(then))));
            prop_assert_eq!(may, !met);
        }
    }
}
