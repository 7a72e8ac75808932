//! `trainyard drain`, `cordon`, `resume`: taking nodes out of service and back, and who is left there.
//!
//! Windows are in `maintenance`, nodes themselves in `nodes`.

use trainyard_core::time::Timestamp;
use trainyard_proto::{
    convert::{self, duration},
    v1::{
        AtDeadline, CordonRequest, DrainRequest, Node, NodeDuty, ResumeRequest,
        node_service_client::NodeServiceClient,
    },
};

use super::{
    Context,
    maintenance::moment,
    node::{DrainArgs, Then},
};
use crate::{clock, exit::Exit, output::json, text};

/// Gives a node no new jobs.
pub(crate) async fn drain(context: &Context<'_>, args: DrainArgs) -> anyhow::Result<Exit> {
    let then = args
        .then
        .map_or(AtDeadline::Unspecified, |then| match then {
            Then::Preempt => AtDeadline::Preempt,
            Then::Wait => AtDeadline::Wait,
        });
    let request = DrainRequest {
        name: args.node,
        reason: args.reason,
        deadline: args.deadline.map(duration),
        at_deadline: then.into(),
    };
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| NodeServiceClient::new(via).drain(request.clone()).await)
        .await?;
    told(context, &answer.node.unwrap_or_default())
}

/// Gives a node no new jobs, whatever deadline it had.
pub(crate) async fn cordon(
    context: &Context<'_>,
    name: String,
    reason: String,
) -> anyhow::Result<Exit> {
    let request = CordonRequest { name, reason };
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| NodeServiceClient::new(via).cordon(request.clone()).await)
        .await?;
    told(context, &answer.node.unwrap_or_default())
}

fn told(context: &Context<'_>, node: &Node) -> anyhow::Result<Exit> {
    context.screen.show(
        || json::node(node),
        || {
            format!(
                "node {} gets no new jobs; {}",
                node.name,
                left(node, clock::now())
            )
        },
    )?;
    Ok(Exit::Ok)
}

/// Who is left on a node that is to be empty, and until when.
pub(super) fn left(node: &Node, now: Timestamp) -> String {
    let jobs: Vec<_> = node.job_ids.iter().map(u64::to_string).collect();
    let jobs = match jobs.as_slice() {
        [] => return held(node),
        [one] => format!("job {one} is left there"),
        several => format!("jobs {} are left there", several.join(", ")),
    };
    let deadline = node.drain_deadline.as_ref().map(convert::time);
    let in_maintenance = || {
        let window = node.maintenance.as_ref();
        let from = window.and_then(|window| window.from.as_ref());
        from.is_some_and(|from| convert::time(from) <= now)
    };
    match (node.duty(), deadline, node.at_deadline()) {
        (NodeDuty::Vacating, _, _) if in_maintenance() => {
            format!("{jobs}, told to go for maintenance")
        }
        (NodeDuty::Vacating, _, _) => format!("{jobs}, told to go"),
        (_, Some(at), AtDeadline::Wait) if at <= now => {
            format!("{jobs}, though the deadline is over")
        }
        (_, Some(at), then) => {
            let span = text::span(at.since(now));
            let then = match then {
                AtDeadline::Wait => "the deadline",
                AtDeadline::Unspecified | AtDeadline::Preempt => "they are told to go",
            };
            format!("{jobs}; {span} until {then}")
        }
        (_, None, _) => jobs,
    }
}

/// What runs on a node that has no job.
fn held(node: &Node) -> String {
    let gpus = node.blocked_gpus.iter();
    let gpus: Vec<_> = gpus.map(|gpu| gpu.uuid.as_str()).collect();
    match (node.stray_tasks, gpus.as_slice()) {
        (0, []) => "nobody is left there".to_owned(),
        (0, [one]) => format!("no job is left there, but GPU {one} is still in use"),
        (0, several) => format!(
            "no job is left there, but GPUs {} are still in use",
            several.join(", ")
        ),
        (1, _) => "no job is left there, but a task that is over still runs".to_owned(),
        (tasks, _) => format!("no job is left there, but {tasks} tasks that are over still run"),
    }
}

/// Gives a node jobs again.
pub(crate) async fn resume(context: &Context<'_>, name: String) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let request = ResumeRequest { name };
    let answer = client
        .call(async |via| NodeServiceClient::new(via).resume(request.clone()).await)
        .await?;
    let node = answer.node.unwrap_or_default();
    context.screen.show(
        || json::node(&node),
        || match node.duty() {
            NodeDuty::Unspecified | NodeDuty::Open => format!("node {} gets jobs again", node.name),
            NodeDuty::Draining | NodeDuty::Vacating | NodeDuty::Drained => in_maintenance(&node),
        },
    )?;
    Ok(Exit::Ok)
}

/// What a node does that is resumed amid a window, or amid several.
fn in_maintenance(node: &Node) -> String {
    let window = node.maintenance.clone().unwrap_or_default();
    let others: Vec<_> = window.others.iter().map(u64::to_string).collect();
    let (which, to_end) = match others.as_slice() {
        [] => (String::new(), "to end that now".to_owned()),
        [one] => (
            format!(" {} and {one}", window.id),
            "to end one of them".to_owned(),
        ),
        several => (
            format!(" {}, {}", window.id, several.join(", ")),
            "to end one of them".to_owned(),
        ),
    };
    let until = window.closed_until.as_ref().or(window.until.as_ref());
    format!(
        "node {} is not drained any more, and gets jobs again when its maintenance{which} is over at {}; {to_end}: trainyard node maintenance remove {}",
        node.name,
        moment(until),
        window.id
    )
}

/// Why a node gets no jobs, who is left there, or what is to come; a line of its own.
pub(super) fn closed(node: &Node, now: Timestamp) -> Option<String> {
    let name = &node.name;
    if node.draining {
        let left = left(node, now);
        return Some(format!("\n{name}: {left} ({})", node.drain_reason));
    }
    let window = node.maintenance.as_ref()?;
    let from = convert::time(window.from.as_ref()?);
    let span = text::span(from.since(now));
    Some(format!("\n{name}: maintenance in {span} ({})", window.why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::nodes::{state, tests::node};

    #[test]
    fn a_node_that_is_to_be_empty_says_who_is_left_and_until_when_and_what_is_to_come() {
        let at = |seconds: i64| convert::timestamp(Timestamp(seconds * 1_000_000));
        let mut node = node();
        node.duty = NodeDuty::Draining.into();
        node.drain_deadline = Some(at(5_400));
        let now = Timestamp(0);
        let words = "jobs 4, 9 are left there; 1h30m until they are told to go";
        assert_eq!(left(&node, now), words);
        node.at_deadline = AtDeadline::Wait.into();
        let late = Timestamp(5_400_000_000);
        assert_eq!(
            left(&node, late),
            "jobs 4, 9 are left there, though the deadline is over"
        );
        node.duty = NodeDuty::Vacating.into();
        node.job_ids = vec![4];
        assert_eq!(left(&node, late), "job 4 is left there, told to go");
        assert_eq!(state(&node), "vacating");
        node.job_ids.clear();
        node.stray_tasks = 1;
        let words = "no job is left there, but a task that is over still runs";
        assert_eq!(left(&node, late), words);
        node.stray_tasks = 0;
        let words = "no job is left there, but GPU GPU-0 is still in use";
        assert_eq!(left(&node, late), words);
        node.blocked_gpus.clear();
        node.duty = NodeDuty::Drained.into();
        assert_eq!(state(&node), "drained");
        let line = "\nalpha: nobody is left there (new fan)";
        assert_eq!(closed(&node, late).as_deref(), Some(line));
        node.draining = false;
        assert_eq!(closed(&node, late), None);
        node.maintenance = Some(trainyard_proto::v1::NodeMaintenance {
            from: Some(at(9_000)),
            until: Some(at(9_600)),
            why: "new switch".into(),
            ..Default::default()
        });
        let line = "\nalpha: maintenance in 1h (new switch)";
        assert_eq!(closed(&node, late).as_deref(), Some(line));
    }

    #[test]
    fn a_node_that_is_resumed_amid_maintenance_says_when_all_of_it_is_over() {
        let at = |seconds: i64| Some(convert::timestamp(Timestamp(seconds * 1_000_000)));
        let mut node = node();
        let mut window = trainyard_proto::v1::NodeMaintenance {
            id: 4,
            from: at(0),
            until: at(3_600),
            closed_until: at(3_600),
            ..Default::default()
        };
        node.maintenance = Some(window.clone());
        let words = "node alpha is not drained any more, and gets jobs again when its maintenance is over at 1970-01-01T01:00:00Z; to end that now: trainyard node maintenance remove 4";
        assert_eq!(in_maintenance(&node), words);
        (window.closed_until, window.others) = (at(7_200), vec![6]);
        node.maintenance = Some(window);
        let words = "node alpha is not drained any more, and gets jobs again when its maintenance 4 and 6 is over at 1970-01-01T02:00:00Z; to end one of them: trainyard node maintenance remove 4";
        assert_eq!(in_maintenance(&node), words);
    }
}
