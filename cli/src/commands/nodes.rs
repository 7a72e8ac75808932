//! `trainyard nodes`, `drain`, `cordon`, `resume`: machines, what they offer and whether they get work.

use serde_json::json;
use trainyard_core::{resources::format_bytes, time::Timestamp};
use trainyard_proto::{
    convert::{self, duration},
    v1::{
        AtDeadline, BlockedGpu, Capacity, CordonRequest, DrainRequest, GetNodeRequest, Gpu,
        ListNodesRequest, Node, NodeDuty, ResumeRequest, node_service_client::NodeServiceClient,
    },
};

use super::{
    Context,
    maintenance::moment,
    node::{DrainArgs, Then},
};
use crate::{
    clock,
    exit::Exit,
    output::{
        Screen, json,
        table::{Block, Lean, Table},
    },
    text,
};

/// Shows one node, or lists all.
pub(crate) async fn show(context: &Context<'_>, name: Option<String>) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let now = clock::now();
    let Some(name) = name else {
        let answer = client
            .call(async |via| {
                NodeServiceClient::new(via)
                    .list_nodes(ListNodesRequest {})
                    .await
            })
            .await?;
        let nodes = answer.nodes;
        context.screen.show(
            || json!({"nodes": nodes.iter().map(json::node).collect::<Vec<_>>()}),
            || table(&context.screen, &nodes, now),
        )?;
        return Ok(Exit::Ok);
    };
    let request = GetNodeRequest { name };
    let answer = client
        .call(async |via| NodeServiceClient::new(via).get_node(request.clone()).await)
        .await?;
    let node = answer.node.unwrap_or_default();
    context
        .screen
        .show(|| json::node(&node), || page(&node, now))?;
    Ok(Exit::Ok)
}

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
fn left(node: &Node, now: Timestamp) -> String {
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

fn table(screen: &Screen, nodes: &[Node], now: Timestamp) -> String {
    if nodes.is_empty() {
        return "no nodes; start an agent with `trainyard agent`".to_owned();
    }
    let mut table = Table::new(
        screen,
        &[
            ("NAME", Lean::Left),
            ("STATE", Lean::Left),
            ("CPUS FREE", Lean::Right),
            ("MEMORY FREE", Lean::Right),
            ("GPUS FREE", Lean::Right),
            ("MODEL", Lean::Left),
            ("JOBS", Lean::Right),
            ("SEEN", Lean::Right),
        ],
    );
    for node in nodes {
        let all = node.capacity.clone().unwrap_or_default();
        let free = node.free.clone().unwrap_or_default();
        table.row(&[
            node.name.clone(),
            state(node).to_owned(),
            format!("{}/{}", free.cpus, all.cpus),
            format_bytes(free.memory_bytes),
            format!("{}/{}", free.gpus.len(), all.gpus.len()),
            models(&all.gpus),
            node.job_ids.len().to_string(),
            text::age(node.last_seen_at.as_ref(), now),
        ]);
    }
    let labelled = nodes.iter().filter(|node| !node.labels.is_empty());
    let labelled = labelled.map(|node| format!("\n{}: {}", node.name, labels(node)));
    let conditions = nodes.iter().filter(|node| !node.condition.is_empty());
    let lines = conditions.map(|node| format!("\n{}: {}", node.name, node.condition));
    let closed = nodes.iter().filter_map(|node| closed(node, now));
    table.render() + &labelled.chain(lines).chain(closed).collect::<String>()
}

/// Why a node gets no jobs, who is left there, or what is to come; a line of its own.
fn closed(node: &Node, now: Timestamp) -> Option<String> {
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

/// A node that is well but gets no work is called so.
fn state(node: &Node) -> &'static str {
    match text::node_state(node.state()) {
        "ready" if node.draining => match node.duty() {
            NodeDuty::Vacating => "vacating",
            NodeDuty::Drained => "drained",
            NodeDuty::Unspecified | NodeDuty::Open | NodeDuty::Draining => "draining",
        },
        "ready" if !node.condition.is_empty() => "full",
        other => other,
    }
}

/// Each model once.
fn models(gpus: &[Gpu]) -> String {
    let mut names: Vec<_> = gpus.iter().map(|gpu| gpu.model.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(", ")
    }
}

fn page(node: &Node, now: Timestamp) -> String {
    let jobs: Vec<_> = node.job_ids.iter().map(u64::to_string).collect();
    let seen = node.last_seen_at.as_ref().map(|at| {
        let age = text::age(Some(at), now);
        format!("{} ({age} ago)", text::rfc3339(at))
    });
    let mut block = Block::default();
    block
        .add("node", node.name.clone())
        .add("state", state(node))
        .add("drained for", node.drain_reason.clone())
        .add("drained by", node.drained_by.clone())
        .add(
            "left there",
            if node.draining {
                left(node, now)
            } else {
                String::new()
            },
        )
        .add("maintenance", maintenance(node))
        .add("condition", node.condition.clone())
        .add("capacity", capacity(node.capacity.as_ref()))
        .add("free", capacity(node.free.as_ref()))
        .add("gpus", gpus(node.capacity.as_ref()))
        .add("blocked gpus", blocked(node))
        .add("jobs", jobs.join(", "))
        .add("labels", labels(node))
        .add("agent", node.agent_version.clone())
        .add("last seen", seen.unwrap_or_default());
    block.render()
}

/// The window that is on, or comes next.
fn maintenance(node: &Node) -> String {
    let Some(window) = &node.maintenance else {
        return String::new();
    };
    let (from, until) = (moment(window.from.as_ref()), moment(window.until.as_ref()));
    let why = match window.why.is_empty() {
        true => String::new(),
        false => format!(" ({})", window.why),
    };
    format!("{from} until {until}{why}")
}

/// In order; with those marked that operators have set.
pub(super) fn labels(node: &Node) -> String {
    let words = |(key, value): (&String, &String)| match node.set_labels.contains_key(key) {
        true => format!("{key}={value} (set)"),
        false => format!("{key}={value}"),
    };
    let labels: Vec<_> = node.labels.iter().map(words).collect();
    labels.join(", ")
}

fn capacity(capacity: Option<&Capacity>) -> String {
    let Some(capacity) = capacity else {
        return String::new();
    };
    format!(
        "{} cpus, {} memory, {} gpus",
        capacity.cpus,
        format_bytes(capacity.memory_bytes),
        capacity.gpus.len()
    )
}

fn gpus(capacity: Option<&Capacity>) -> String {
    let gpus = capacity.map(|all| all.gpus.as_slice()).unwrap_or_default();
    let lines: Vec<_> = gpus
        .iter()
        .map(|gpu| {
            let memory = format_bytes(gpu.memory_bytes);
            format!("{} {memory} {}", gpu.model, gpu.uuid)
        })
        .collect();
    lines.join("\n")
}

/// Those that get no jobs, each with what holds it.
fn blocked(node: &Node) -> String {
    let line = |gpu: &BlockedGpu| format!("{}: {}", gpu.uuid, gpu.reason);
    let lines: Vec<_> = node.blocked_gpus.iter().map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use trainyard_proto::v1::NodeState;

    use super::*;

    fn node() -> Node {
        let gpu = |uuid: &str| Gpu {
            uuid: uuid.into(),
            model: "H100".into(),
            memory_bytes: 80 << 30,
        };
        Node {
            name: "alpha".into(),
            state: NodeState::Ready.into(),
            draining: true,
            drain_reason: "new fan".into(),
            capacity: Some(Capacity {
                cpus: 8,
                memory_bytes: 64 << 30,
                gpus: vec![gpu("GPU-0"), gpu("GPU-1")],
            }),
            free: Some(Capacity {
                cpus: 6,
                memory_bytes: 32 << 30,
                gpus: vec![gpu("GPU-1")],
            }),
            job_ids: vec![4, 9],
            labels: [("rack".into(), "7".into()), ("zone".into(), "b".into())].into(),
            set_labels: [("zone".into(), "b".into())].into(),
            blocked_gpus: vec![BlockedGpu {
                uuid: "GPU-0".into(),
                reason: "3 GiB of its memory are in use".into(),
            }],
            ..Node::default()
        }
    }

    #[test]
    fn a_list_of_nodes_shows_what_is_free_of_how_much() {
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        };
        let text = table(&screen, &[node()], Timestamp(0));
        for word in [
            "alpha",
            "draining",
            "6/8",
            "32 GiB",
            "1/2",
            "H100",
            "alpha: rack=7",
        ] {
            assert!(text.contains(word), "{word}:\n{text}");
        }
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn a_node_that_takes_no_jobs_says_why_in_the_list_and_on_its_page() {
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        };
        let mut node = node();
        (node.draining, node.drain_reason) = (false, String::new());
        node.condition = "disk full: 12 MiB free of 4 GiB, needs 64 MiB".into();
        let text = table(&screen, &[node.clone()], Timestamp(0));
        let line = "\nalpha: disk full: 12 MiB free of 4 GiB, needs 64 MiB";
        assert!(text.ends_with(line) && text.contains(" full "), "{text}");
        let text = page(&node, Timestamp(0));
        assert!(text.contains("disk full: 12 MiB free"), "{text}");
    }

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

    #[test]
    fn a_page_names_every_gpu_and_the_reason_of_a_drain() {
        let text = page(&node(), Timestamp(0));
        let shown: Vec<_> = text.split_whitespace().collect();
        let shown = shown.join(" ");
        for words in [
            "drained for new fan",
            "H100 80 GiB GPU-1",
            "jobs 4, 9",
            "labels rack=7, zone=b (set)",
            "blocked gpus GPU-0: 3 GiB of its memory are in use",
        ] {
            assert!(shown.contains(words), "{words}:\n{text}");
        }
    }
}
