//! `trainyard node`: tokens by which agents join, cutting an agent off, taking nodes out of service, and labels.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use trainyard_core::{label, time::Timestamp};
use trainyard_proto::{
    convert::{self, duration},
    v1::{
        CreateJoinTokenRequest, JoinToken, ListJoinTokensRequest, RevokeJoinTokenRequest,
        RevokeNodeRequest, SetLabelsRequest, node_service_client::NodeServiceClient,
    },
};

use super::{Context, drain, maintenance::MaintenanceCommand};
use crate::{
    clock,
    exit::Exit,
    output::{
        Screen,
        table::{Lean, Table},
    },
    text,
};

/// The commands of `trainyard node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Make a token by which an agent joins; it is printed once
    Token {
        /// How long it is good, such as 30m, 1h or 7d
        #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = text::parse_span)]
        ttl: Duration,
        /// Only this node may join with it
        #[arg(long = "node", value_name = "NAME")]
        name: Option<String>,
        /// How many agents may join with it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: u32,
    },
    /// List the join tokens that have not expired
    ListTokens,
    /// Let nobody join with a token any more; agents that have stay
    RevokeToken {
        /// The token's id, as list-tokens shows it
        id: String,
    },
    /// Cut a node's agent off at once; it must join anew
    Revoke {
        /// The node
        name: String,
    },
    /// Give a node no new jobs; those that run go on for as long as they take
    Cordon {
        /// The node
        name: String,
        /// Why, for those who look at it later
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Give a node no new jobs; those that run may end by themselves, until a deadline if there is one
    Drain(DrainArgs),
    /// Give a node jobs again that was cordoned or drained
    Resume {
        /// The node
        name: String,
    },
    /// Plan windows in which nodes are out of service
    #[command(subcommand)]
    Maintenance(MaintenanceCommand),
    /// Set labels by which jobs choose nodes: they go before those of the node's agent
    Label {
        /// The node
        name: String,
        /// KEY=VALUE to set one, KEY- to take it back
        #[arg(required = true, value_name = "LABEL", value_parser = labelling, allow_hyphen_values = true)]
        labels: Vec<Labelling>,
    },
}

/// Flags of `trainyard node drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node
    #[arg(value_name = "NAME")]
    pub(crate) node: String,
    /// Why, for those who look at it later
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    /// How long those that run may end by themselves, such as 2h; 0s for not at all
    #[arg(long, value_name = "SPAN", value_parser = text::parse_span)]
    pub(crate) deadline: Option<Duration>,
    /// What becomes then of those who are left [default: preempt]
    #[arg(long, value_enum, requires = "deadline")]
    pub(crate) then: Option<Then>,
}

/// What becomes of jobs at the deadline of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Then {
    /// They save their work, go, and go on elsewhere, whether they are preemptible or not
    Preempt,
    /// They go on; the node stays drained
    Wait,
}

/// What is done to one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Labelling {
    /// Its value.
    Set(String, String),
    /// No operator says it any more.
    Remove(String),
}

fn labelling(text: &str) -> Result<Labelling, String> {
    if let Some(key) = text.strip_suffix('-').filter(|key| !key.contains('=')) {
        return match label::key_problem(key) {
            Some(words) => Err(words),
            None => Ok(Labelling::Remove(key.to_owned())),
        };
    }
    let (key, value) = crate::args::label(text)?;
    Ok(Labelling::Set(key, value))
}

/// Runs one of them.
pub(crate) async fn run(context: &Context<'_>, command: NodeCommand) -> anyhow::Result<Exit> {
    match command {
        NodeCommand::Token { ttl, name, uses } => {
            let request = CreateJoinTokenRequest {
                ttl: Some(duration(ttl)),
                node_name: name.unwrap_or_default(),
                uses,
            };
            token(context, request).await
        }
        NodeCommand::ListTokens => list_tokens(context).await,
        NodeCommand::RevokeToken { id } => revoke_token(context, id).await,
        NodeCommand::Revoke { name } => revoke(context, name).await,
        NodeCommand::Cordon { name, reason } => drain::cordon(context, name, reason).await,
        NodeCommand::Drain(args) => drain::drain(context, args).await,
        NodeCommand::Resume { name } => drain::resume(context, name).await,
        NodeCommand::Maintenance(command) => super::maintenance::run(context, command).await,
        NodeCommand::Label { name, labels } => label_node(context, name, labels).await,
    }
}

/// Prints the token alone, so that a script can take it.
async fn token(context: &Context<'_>, request: CreateJoinTokenRequest) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| {
            let mut nodes = NodeServiceClient::new(via);
            nodes.create_join_token(request.clone()).await
        })
        .await?;
    let made = answer.join_token.unwrap_or_default();
    context.screen.show(
        || json!({"token": answer.token, "join_token": document(&made)}),
        || answer.token.clone(),
    )?;
    Ok(Exit::Ok)
}

async fn list_tokens(context: &Context<'_>) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| {
            let mut nodes = NodeServiceClient::new(via);
            nodes.list_join_tokens(ListJoinTokensRequest {}).await
        })
        .await?;
    let tokens = answer.join_tokens;
    context.screen.show(
        || json!({"tokens": tokens.iter().map(document).collect::<Vec<_>>()}),
        || table(&context.screen, &tokens, clock::now()),
    )?;
    Ok(Exit::Ok)
}

async fn revoke_token(context: &Context<'_>, id: String) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let request = RevokeJoinTokenRequest { id: id.clone() };
    client
        .call(async |via| {
            let mut nodes = NodeServiceClient::new(via);
            nodes.revoke_join_token(request.clone()).await
        })
        .await?;
    context.screen.show(
        || json!({"id": id, "revoked": true}),
        || format!("nobody joins with token {id} any more"),
    )?;
    Ok(Exit::Ok)
}

async fn revoke(context: &Context<'_>, name: String) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let request = RevokeNodeRequest { name: name.clone() };
    client
        .call(async |via| {
            let mut nodes = NodeServiceClient::new(via);
            nodes.revoke_node(request.clone()).await
        })
        .await?;
    context.screen.show(
        || json!({"node": name, "revoked": true}),
        || {
            format!(
                "the agent of node {name} is cut off; its jobs fail when its lease is over, unless it joins again before that (`trainyard node token --node {name}`)"
            )
        },
    )?;
    Ok(Exit::Ok)
}

async fn label_node(
    context: &Context<'_>,
    name: String,
    labels: Vec<Labelling>,
) -> anyhow::Result<Exit> {
    let mut request = SetLabelsRequest {
        name,
        ..SetLabelsRequest::default()
    };
    for change in labels {
        match change {
            Labelling::Set(key, value) => drop(request.set.insert(key, value)),
            Labelling::Remove(key) => request.remove.push(key),
        }
    }
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| {
            NodeServiceClient::new(via)
                .set_labels(request.clone())
                .await
        })
        .await?;
    let node = answer.node.unwrap_or_default();
    context.screen.show(
        || crate::output::json::node(&node),
        || {
            format!(
                "node {} is labelled {}",
                node.name,
                super::nodes::labels(&node)
            )
        },
    )?;
    Ok(Exit::Ok)
}

fn document(token: &JoinToken) -> Value {
    let at = |stamp: &Option<prost_types::Timestamp>| stamp.as_ref().map(text::rfc3339);
    json!({
        "id": token.id,
        "node": Some(&token.node_name).filter(|name| !name.is_empty()),
        "uses": token.uses,
        "joined": token.joined,
        "created_by": token.created_by,
        "created_at": at(&token.created_at),
        "expires_at": at(&token.expires_at),
    })
}

fn table(screen: &Screen, tokens: &[JoinToken], now: Timestamp) -> String {
    if tokens.is_empty() {
        return "no join tokens; make one with `trainyard node token`".to_owned();
    }
    let mut table = Table::new(
        screen,
        &[
            ("ID", Lean::Left),
            ("NODE", Lean::Left),
            ("USED", Lean::Right),
            ("EXPIRES IN", Lean::Right),
            ("MADE BY", Lean::Left),
            ("JOINED", Lean::Left),
        ],
    );
    for token in tokens {
        let left = token.expires_at.as_ref();
        let left = left.map(|at| text::span(convert::time(at).since(now)));
        let any = match token.node_name.is_empty() {
            true => "any",
            false => token.node_name.as_str(),
        };
        table.row(&[
            token.id.clone(),
            any.to_owned(),
            format!("{}/{}", token.joined.len(), token.uses),
            left.unwrap_or_default(),
            token.created_by.clone(),
            token.joined.join(", "),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_taken_back_in_one_line() {
        let set = |key: &str, value: &str| Ok(Labelling::Set(key.into(), value.into()));
        assert_eq!(labelling("zone=a"), set("zone", "a"));
        assert_eq!(labelling("zone=a-"), set("zone", "a-"));
        assert_eq!(labelling("zone-"), Ok(Labelling::Remove("zone".into())));
        for bad in ["zone", "-", "=", "zone="] {
            assert!(labelling(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_of_tokens_shows_what_is_left_of_each_and_no_secret() {
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 100,
        };
        let token = JoinToken {
            id: "0011223344556677".into(),
            uses: 3,
            joined: vec!["a".into()],
            created_by: "o@example.com".into(),
            expires_at: Some(convert::timestamp(Timestamp(3_600_000_000))),
            ..JoinToken::default()
        };
        let text = table(&screen, &[token], Timestamp(0));
        for word in ["0011223344556677", "any", "1/3", "1h", "o@example.com"] {
            assert!(text.contains(word), "{word}:\n{text}");
        }
    }
}
