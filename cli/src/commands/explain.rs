//! `trainyard explain` and `submit --dry-run`: why a job waits, until when, and what would start it now.

use serde_json::{Value, json};
use trainyard_core::{spec::JobSpec, time::Timestamp};
use trainyard_proto::v1::{
    ExplainJobRequest, Explanation, ForeseeJobRequest, ShortNode, SuggestedChange,
};

use super::Context;
use crate::{
    client, clock,
    exit::Exit,
    output::{
        Screen,
        table::{Block, Lean, Table},
    },
    text,
};

/// Says why a job waits.
pub(crate) async fn run(context: &Context<'_>, job_id: u64) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let request = ExplainJobRequest { job_id };
    let answer = client
        .call(async |via| client::job_service(via).explain_job(request).await)
        .await?;
    let job = answer.job.unwrap_or_default();
    let now = clock::now();
    let state = text::state(job.state());
    let document = || json!({"job_id": job_id, "state": state, "explanation": answer.explanation.as_ref().map(json)});
    context
        .screen
        .show(document, || match &answer.explanation {
            Some(why) => page(&context.screen, &format!("job {job_id} waits"), why, now),
            None => {
                let node = job.attempts.last().map(|attempt| attempt.node.as_str());
                let at = node.filter(|_| !text::has_ended(job.state()));
                let at = at.map(|node| format!(" on {node}")).unwrap_or_default();
                format!(
                    "job {job_id} does not wait: it is {state}{at}; see `trainyard show {job_id}`"
                )
            }
        })?;
    Ok(Exit::Ok)
}

/// Says what would become of a job.
pub(crate) async fn foresee(context: &Context<'_>, spec: JobSpec) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let request = ForeseeJobRequest {
        spec: Some(spec.into()),
    };
    let answer = client
        .call(async |via| client::job_service(via).foresee_job(request.clone()).await)
        .await?;
    let now = clock::now();
    let document =
        || json!({"nodes": answer.nodes, "explanation": answer.explanation.as_ref().map(json)});
    context
        .screen
        .show(document, || match &answer.explanation {
            Some(why) => page(&context.screen, "it would wait", why, now),
            None => format!(
                "it would start at once on {}; nothing was submitted",
                answer.nodes.join(", ")
            ),
        })?;
    Ok(Exit::Ok)
}

fn page(screen: &Screen, head: &str, why: &Explanation, now: Timestamp) -> String {
    let mut block = Block::default();
    block.add(head, why.reason.clone());
    if let Some(place) = &why.place {
        let ahead = match place.ahead {
            0 => "first".to_owned(),
            ahead => format!("{ahead} ahead of it"),
        };
        block
            .add(
                "its turn",
                format!("{ahead}, of {} that wait", place.waiting),
            )
            .add("because", place.because.clone());
    }
    block.add("expected to start", expected(why, now));
    let alone = suggested(&why.changes, ", or ");
    let changes = alone.or_else(|| suggested(&why.together, " and "));
    if let Some(changes) = changes {
        block.add("would start now with", changes);
    }
    let page = block.render();
    if why.short_nodes.is_empty() {
        return page;
    }
    let columns = [
        ("NODE", Lean::Left),
        ("SHORT", Lean::Left),
        ("HELD BY", Lean::Left),
    ];
    let mut table = Table::new(screen, &columns);
    for node in &why.short_nodes {
        table.row(&[node.node.clone(), node.lacks.clone(), holders(node, now)]);
    }
    let more = match why.more_short_nodes {
        0 => String::new(),
        more => format!("and {more} more nodes\n"),
    };
    format!("{page}\n{}{more}", table.render())
}

/// Changes in words; nothing if there are none.
fn suggested(changes: &[SuggestedChange], between: &str) -> Option<String> {
    let words = changes.iter();
    let words: Vec<_> = words
        .map(|change| format!("{} {} instead of {}", change.field, change.to, change.from))
        .collect();
    (!words.is_empty()).then(|| words.join(between))
}

fn holders(node: &ShortNode, now: Timestamp) -> String {
    let seen = node.holders.iter().map(|holder| {
        let mut words = format!("job {}", holder.job_id);
        if holder.total_epochs > 0 {
            words.push_str(&format!(" (epoch {}/{}", holder.epoch, holder.total_epochs));
            if let Some(end) = &holder.expected_end {
                words.push_str(&format!(", {} left", until(end, now)));
            }
            words.push(')');
        }
        words
    });
    let others = (node.others > 0).then(|| format!("{} others", node.others));
    let all: Vec<_> = seen.chain(others).collect();
    all.join(", ")
}

fn expected(why: &Explanation, now: Timestamp) -> String {
    match (
        &why.expected_early,
        &why.expected_middle,
        &why.expected_late,
    ) {
        (Some(early), Some(middle), Some(late)) => format!(
            "in {} (in four cases of five between {} and {} from now)",
            until(middle, now),
            until(early, now),
            until(late, now)
        ),
        _ => String::new(),
    }
}

/// How far a moment is ahead.
fn until(then: &prost_types::Timestamp, now: Timestamp) -> String {
    let then = Timestamp(then.seconds.saturating_mul(1_000_000) + i64::from(then.nanos) / 1_000);
    text::span(std::time::Duration::from_secs(then.since(now).as_secs()))
}

fn json(why: &Explanation) -> Value {
    let moment = |at: &Option<prost_types::Timestamp>| at.as_ref().map(text::rfc3339);
    let nodes = why.short_nodes.iter().map(|node| {
        let holders = node.holders.iter().map(|holder| {
            json!({
                "job_id": holder.job_id,
                "epoch": holder.epoch,
                "total_epochs": holder.total_epochs,
                "expected_end": moment(&holder.expected_end),
            })
        });
        json!({
            "node": node.node,
            "lacks": node.lacks,
            "holders": holders.collect::<Vec<_>>(),
            "others": node.others,
        })
    });
    let changes = |all: &[SuggestedChange]| {
        let changes = all.iter();
        let changes = changes
            .map(|change| json!({"field": change.field, "from": change.from, "to": change.to}));
        changes.collect::<Vec<_>>()
    };
    json!({
        "reason": why.reason,
        "place": why.place.as_ref().map(|place| json!({
            "ahead": place.ahead,
            "waiting": place.waiting,
            "because": place.because,
        })),
        "short_nodes": nodes.collect::<Vec<_>>(),
        "more_short_nodes": why.more_short_nodes,
        "changes": changes(&why.changes),
        "together": changes(&why.together),
        "expected_early": moment(&why.expected_early),
        "expected_middle": moment(&why.expected_middle),
        "expected_late": moment(&why.expected_late),
    })
}
