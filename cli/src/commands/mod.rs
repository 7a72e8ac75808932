//! The client commands, one file each. Never keep anything between calls; the coordinator does.
//! Called by `main`.

pub(crate) mod cancel;
pub(crate) mod dataset;
pub(crate) mod drain;
pub(crate) mod events;
pub(crate) mod explain;
mod follow;
pub(crate) mod jobs;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod machines;
pub(crate) mod maintenance;
pub(crate) mod metrics;
pub(crate) mod node;
pub(crate) mod nodes;
pub(crate) mod projects;
pub(crate) mod replay;
pub(crate) mod show;
pub(crate) mod store;
pub(crate) mod submit;
pub(crate) mod tls;
pub(crate) mod trackers;
pub(crate) mod usage;
pub(crate) mod users;
pub(crate) mod watch;

use trainyard_proto::v1::{GetJobRequest, Job};

use crate::{
    args::{ClientCommand, PeopleCommand},
    client,
    client::Client,
    exit::Exit,
    output::Screen,
    transport::Transport,
};

/// What all commands are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// Where output goes.
    pub(crate) screen: Screen,
    /// The coordinator that was asked for.
    pub(crate) coordinator: Option<&'a str>,
    /// How it is reached.
    pub(crate) transport: &'a Transport,
}

impl Context<'_> {
    /// Connects with the tokens that are there.
    async fn client(&self) -> anyhow::Result<Client> {
        Client::open(self.coordinator, self.transport).await
    }
}

/// Runs one of them.
#[expect(clippy::cognitive_complexity, reason = "one arm for each command")]
pub(crate) async fn run(context: &Context<'_>, command: ClientCommand) -> anyhow::Result<Exit> {
    match command {
        ClientCommand::People(command) => Box::pin(people(context, command)).await,
        ClientCommand::Submit(args) => Box::pin(submit::run(context, *args)).await,
        ClientCommand::Jobs(args) => jobs::run(context, args).await,
        ClientCommand::Show { id } => show::run(context, id).await,
        ClientCommand::Watch { id } => Box::pin(watch::run(context, id)).await,
        ClientCommand::Logs(args) => Box::pin(logs::run(context, args)).await,
        ClientCommand::Metrics(args) => Box::pin(metrics::run(context, args)).await,
        ClientCommand::Cancel { ids, array } => cancel::run(context, ids, array).await,
        ClientCommand::Explain { id } => explain::run(context, id).await,
        ClientCommand::Dataset(command) => Box::pin(dataset::run(context, command)).await,
        ClientCommand::Nodes { name } => nodes::show(context, name).await,
        ClientCommand::Node(command) => Box::pin(node::run(context, command)).await,
        ClientCommand::Drain(args) => drain::drain(context, args).await,
        ClientCommand::Resume { node } => drain::resume(context, node).await,
        ClientCommand::Store(command) => Box::pin(store::run(context, command)).await,
        ClientCommand::Events(args) => Box::pin(events::run(context, args)).await,
        ClientCommand::Usage(args) => usage::run(context, args).await,
        ClientCommand::Trackers => trackers::run(context).await,
    }
}

async fn people(context: &Context<'_>, command: PeopleCommand) -> anyhow::Result<Exit> {
    match command {
        PeopleCommand::Login(args) => login::login(context, args).await,
        PeopleCommand::Status => login::status(context).await,
        PeopleCommand::Logout => login::logout(context).await,
        PeopleCommand::Users { command } => users::run(context, command).await,
        PeopleCommand::Projects { command } => projects::run(context, command).await,
        PeopleCommand::ServiceAccounts { command } => machines::accounts(context, command).await,
        PeopleCommand::ApiKeys { command } => machines::api_keys(context, command).await,
        PeopleCommand::Keys { command } => machines::keys(context, command).await,
    }
}

/// One job as it is now.
pub(crate) async fn get_job(client: &mut Client, job_id: u64) -> anyhow::Result<Job> {
    let answer = client
        .call(async |via| {
            client::job_service(via)
                .get_job(GetJobRequest { job_id })
                .await
        })
        .await?;
    Ok(answer.job.unwrap_or_default())
}
