//! `trainyard login`, `logout` and `status`: who calls, and whether anybody answers.

use std::io::{self, IsTerminal as _, Read as _};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use trainyard_proto::v1::{
    LogoutRequest, MeRequest, MeResponse, auth_service_client::AuthServiceClient,
    user_service_client::UserServiceClient,
};

use super::Context;
use crate::{
    client::{Client, DEFAULT_URL},
    credentials::{self, Credentials},
    error::CliError,
    exit::Exit,
    output::table::Block,
};

/// Flags of `trainyard login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Who you are; asked for when it is missing
    #[arg(long)]
    email: Option<String>,
    /// Read the password from stdin instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

/// Logs in and keeps both tokens.
pub(crate) async fn login(context: &Context<'_>, args: LoginArgs) -> anyhow::Result<Exit> {
    let path = credentials::path()?;
    let mut kept = Credentials::load(&path)?;
    let url = context
        .coordinator
        .or(kept.last.as_deref())
        .unwrap_or(DEFAULT_URL)
        .to_owned();
    let connection = context.transport.connection(&url, &kept)?;
    // Before anybody types: is there a coordinator at all?
    Client::stranger(connection.clone()).await?;
    let (email, password) = identify(&args)?;
    // A new connection: the coordinator closes one that is silent for as long as people type.
    let mut client = Client::stranger(connection).await?;
    let login = client.login(&email, &password).await?;
    kept.keep(client.url(), login);
    context.transport.keep(client.url(), &mut kept);
    kept.save(&path)?;
    context.screen.show(
        || json!({"coordinator": client.url(), "email": email}),
        || format!("logged in at {} as {email}", client.url()),
    )?;
    Ok(Exit::Ok)
}

/// Email and password: from flags and stdin, else from the terminal.
fn identify(args: &LoginArgs) -> anyhow::Result<(String, String)> {
    let asks = args.email.is_none() || !args.password_stdin;
    if asks && !io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "there is no terminal to ask on; give --email and --password-stdin".to_owned(),
        )
        .into());
    }
    let terminal = console::Term::stderr();
    let email = match &args.email {
        Some(email) => email.clone(),
        None => {
            terminal.write_str("Email: ")?;
            terminal.read_line()?
        }
    };
    let password = secret(args.password_stdin, "Password: ")?;
    Ok((email.trim().to_owned(), password))
}

/// A password: all of stdin, or what is typed unseen.
pub(super) fn secret(from_stdin: bool, prompt: &str) -> anyhow::Result<String> {
    if from_stdin {
        let mut text = String::new();
        io::stdin()
            .read_to_string(&mut text)
            .context("cannot read the password from stdin")?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if !io::stdin().is_terminal() {
        let words = "there is no terminal to ask on; give --password-stdin";
        return Err(CliError::Usage(words.to_owned()).into());
    }
    let terminal = console::Term::stderr();
    terminal.write_str(prompt)?;
    Ok(terminal.read_secure_line()?)
}

/// The present password and the new one.
pub(super) fn two_secrets(from_stdin: bool) -> anyhow::Result<(String, String)> {
    if !from_stdin {
        let current = secret(false, "Present password: ")?;
        return Ok((current, secret(false, "New password: ")?));
    }
    let text = secret(true, "")?;
    let lines = text.split_once('\n').ok_or_else(|| {
        CliError::Usage(
            "stdin must hold the present password and the new one, a line each".to_owned(),
        )
    })?;
    let (current, new) = lines;
    Ok((current.trim_end_matches('\r').to_owned(), new.to_owned()))
}

/// Ends the session at the coordinator and forgets its tokens.
pub(crate) async fn logout(context: &Context<'_>) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let request = LogoutRequest::default();
    let told = client
        .call(async |via| UserServiceClient::new(via).logout(request.clone()).await)
        .await;
    // A session that has ended already is as good.
    if let Err(error) = told
        && Exit::of_error(&error) != Exit::NotLoggedIn
    {
        return Err(error);
    }
    let path = credentials::path()?;
    let mut kept = Credentials::load(&path)?;
    if kept.servers.remove(client.url()).is_some() {
        kept.save(&path)?;
    }
    context.screen.show(
        || json!({"coordinator": client.url(), "logged_in": false}),
        || format!("logged out at {}", client.url()),
    )?;
    Ok(Exit::Ok)
}

/// Whether the coordinator answers, how it is, and who it thinks we are.
pub(crate) async fn status(context: &Context<'_>) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    let health = health(&client).await?;
    let me = client
        .call(async |via| AuthServiceClient::new(via).me(MeRequest {}).await)
        .await;
    let (me, exit) = match me {
        Ok(me) => (Some(me), Exit::Ok),
        // Health is worth telling to somebody who is not logged in yet.
        Err(error) if Exit::of_error(&error) == Exit::NotLoggedIn => (None, Exit::NotLoggedIn),
        Err(error) => return Err(error),
    };
    context.screen.show(
        || document(client.url(), health, me.as_ref()),
        || page(client.url(), health, me.as_ref()),
    )?;
    Ok(exit)
}

async fn health(client: &Client) -> Result<&'static str, CliError> {
    let answer = HealthClient::new(client.channel())
        .check(HealthCheckRequest {
            service: String::new(),
        })
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(status) => return Err(client.diagnosed(status).await),
    };
    Ok(match answer.into_inner().status() {
        ServingStatus::Serving => "serving",
        ServingStatus::NotServing => "not serving",
        ServingStatus::Unknown | ServingStatus::ServiceUnknown => "unknown",
    })
}

fn document(url: &str, health: &str, me: Option<&MeResponse>) -> Value {
    json!({
        "coordinator": url,
        "health": health,
        "client_version": trainyard_proto::version(),
        "user": me.map(|me| json!({
            "user_id": me.user_id,
            "email": me.email,
            "role": me.role,
            "is_active": me.is_active,
        })),
    })
}

fn page(url: &str, health: &str, me: Option<&MeResponse>) -> String {
    let user = match me {
        Some(me) => format!("{} ({})", me.email, me.role),
        None => format!("nobody; log in with `trainyard login --coordinator {url}`"),
    };
    let mut block = Block::default();
    block
        .add("coordinator", url)
        .add("health", health)
        .add("client", trainyard_proto::version())
        .add("you are", user);
    block.render()
}
