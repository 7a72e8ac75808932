//! `trainyard nodes`: machines, what they offer and whether they get work. Taking them out of service is in `drain`.

use serde_json::json;
use trainyard_core::{resources::format_bytes, time::Timestamp};
use trainyard_proto::v1::{
    BlockedGpu, Capacity, GetNodeRequest, Gpu, ListNodesRequest, Node, NodeDuty,
    node_service_client::NodeServiceClient,
};

use super::{
    Context,
    drain::{closed, left},
    maintenance::moment,
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

/// A node that is well but gets no work is called so, and one that may never be back.
pub(super) fn state(node: &Node) -> &'static str {
    match text::node_state(node.state()) {
        "suspect" | "lost" if node.revoked => "revoked",
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
pub(super) mod tests {
    use trainyard_proto::v1::NodeState;

    use super::*;

    /// One that is drained, with two jobs.
    pub(in crate::commands) fn node() -> Node {
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

    /// Of a pipe.
    fn screen() -> Screen {
        Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 80,
        }
    }

    #[test]
    fn a_list_of_nodes_shows_what_is_free_of_how_much() {
        let screen = screen();
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
        let screen = screen();
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
    fn a_node_whose_agent_is_revoked_is_called_so_and_not_lost() {
        let screen = screen();
        let mut node = node();
        (node.state, node.revoked) = (NodeState::Lost.into(), true);
        let text = table(&screen, &[node.clone()], Timestamp(0));
        assert!(
            text.contains(" revoked ") && !text.contains("lost"),
            "{text}"
        );
        assert!(page(&node, Timestamp(0)).contains("revoked"));
        assert_eq!(json::node(&node)["revoked"], true);
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
