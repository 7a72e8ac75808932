//! `trainyard service-accounts`, `api-keys` and `keys`: how CI calls, and what signs tokens.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use trainyard_proto::{
    convert::duration,
    v1::{
        ApiKey, CreateApiKeyRequest, CreateServiceAccountRequest, ListApiKeysRequest,
        ListUsersRequest, RevokeApiKeyRequest, RotateKeysRequest,
        user_service_client::UserServiceClient,
    },
};

use super::{Context, users};
use crate::{
    clock,
    exit::Exit,
    output::{
        Screen,
        table::{Lean, Table},
    },
    text,
};

/// What `trainyard service-accounts` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum AccountsCommand {
    /// List service accounts
    List,
    /// Make a service account, which calls with API keys
    Create {
        /// Its name: a-z, 0-9, '-', '_' and '.'
        name: String,
        /// guest, standard_engineer, advanced_engineer, manager or admin
        #[arg(long, default_value = "standard_engineer")]
        role: String,
        /// The project that it joins
        #[arg(
            long,
            value_name = "ID",
            default_value_t = 0,
            hide_default_value = true
        )]
        project: i64,
        /// As what it joins: viewer, member or admin
        #[arg(long, value_name = "ROLE", default_value = "member")]
        project_role: String,
    },
}

/// What `trainyard api-keys` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeysCommand {
    /// List API keys, of one service account or of all
    List {
        /// The service account
        account: Option<String>,
    },
    /// Make an API key; it is shown this once
    Create {
        /// The service account
        account: String,
        /// What the key is for: a-z, 0-9, '-', '_' and '.'
        #[arg(long, default_value = "default")]
        name: String,
        /// How long it is good, such as 720h [default: until it is revoked]
        #[arg(long, value_name = "SPAN", value_parser = text::parse_span)]
        expires_in: Option<Duration>,
    },
    /// Refuse an API key from now on
    Revoke {
        /// The part between the two underscores of the key
        id: String,
    },
}

/// What `trainyard keys` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Sign users' tokens with a new key; those of the older ones stay good until they expire
    Rotate {
        /// Refuse the older keys' tokens at once: everybody logs in anew
        #[arg(long)]
        drop_old: bool,
    },
}

/// Runs a command of `service-accounts`.
pub(crate) async fn accounts(
    context: &Context<'_>,
    command: AccountsCommand,
) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    match command {
        AccountsCommand::List => {
            let request = ListUsersRequest { only_service: true };
            let answer = client
                .call(async |via| UserServiceClient::new(via).list_users(request).await)
                .await?;
            context.screen.show(
                || json!({"users": answer.users.iter().map(users::document).collect::<Vec<_>>()}),
                || users::table(&context.screen, &answer.users),
            )?;
        }
        AccountsCommand::Create {
            name,
            role,
            project,
            project_role,
        } => {
            let request = CreateServiceAccountRequest {
                name,
                role,
                project_id: project,
                project_role,
            };
            let answer = client
                .call(async |via| {
                    UserServiceClient::new(via)
                        .create_service_account(request.clone())
                        .await
                })
                .await?;
            let user = answer.user.unwrap_or_default();
            let words = "make a key for it with `trainyard api-keys create";
            context.screen.show(
                || users::document(&user),
                || {
                    format!(
                        "made {}, a {}\n{words} {}`",
                        user.email, user.role, request.name
                    )
                },
            )?;
        }
    }
    Ok(Exit::Ok)
}

/// Runs a command of `api-keys`.
pub(crate) async fn api_keys(
    context: &Context<'_>,
    command: ApiKeysCommand,
) -> anyhow::Result<Exit> {
    match command {
        ApiKeysCommand::List { account } => list(context, account.unwrap_or_default()).await?,
        ApiKeysCommand::Create {
            account,
            name,
            expires_in,
        } => {
            let request = CreateApiKeyRequest {
                account,
                name,
                expires_in: expires_in.map(duration),
            };
            create(context, request).await?;
        }
        ApiKeysCommand::Revoke { id } => revoke(context, id).await?,
    }
    Ok(Exit::Ok)
}

async fn list(context: &Context<'_>, account: String) -> anyhow::Result<()> {
    let mut client = context.client().await?;
    let request = ListApiKeysRequest { account };
    let answer = client
        .call(async |via| {
            UserServiceClient::new(via)
                .list_api_keys(request.clone())
                .await
        })
        .await?;
    context.screen.show(
        || json!({"keys": answer.keys.iter().map(document).collect::<Vec<_>>()}),
        || table(&context.screen, &answer.keys),
    )?;
    Ok(())
}

async fn create(context: &Context<'_>, request: CreateApiKeyRequest) -> anyhow::Result<()> {
    let mut client = context.client().await?;
    let answer = client
        .call(async |via| {
            UserServiceClient::new(via)
                .create_api_key(request.clone())
                .await
        })
        .await?;
    let key = answer.key.unwrap_or_default();
    let secret = answer.secret;
    context.screen.show(
        || {
            let mut shown = document(&key);
            if let Some(fields) = shown.as_object_mut() {
                fields.insert("key".to_owned(), json!(secret));
            }
            shown
        },
        // The key alone goes to stdout, so that a script can take it.
        || secret.clone(),
    )?;
    if !context.screen.json {
        crate::output::note(&format!(
            "key {} of {}; it is not shown again. Give it as TRAINYARD_API_KEY, or as a bearer token",
            key.key_id, key.account
        ));
    }
    Ok(())
}

async fn revoke(context: &Context<'_>, id: String) -> anyhow::Result<()> {
    let mut client = context.client().await?;
    let request = RevokeApiKeyRequest { key_id: id };
    client
        .call(async |via| {
            UserServiceClient::new(via)
                .revoke_api_key(request.clone())
                .await
        })
        .await?;
    let id = request.key_id;
    context.screen.show(
        || json!({"revoked": id}),
        || format!("key {id} is refused from now on"),
    )?;
    Ok(())
}

/// Runs a command of `keys`.
pub(crate) async fn keys(context: &Context<'_>, command: KeysCommand) -> anyhow::Result<Exit> {
    let KeysCommand::Rotate { drop_old } = command;
    let mut client = context.client().await?;
    let request = RotateKeysRequest { drop_old };
    let answer = client
        .call(async |via| UserServiceClient::new(via).rotate_keys(request).await)
        .await?;
    let old = match drop_old {
        true => "all tokens of older keys are refused: log in again",
        false => "tokens of older keys stay good until they expire",
    };
    context.screen.show(
        || json!({"kid": answer.kid, "dropped_old": drop_old}),
        || format!("key {} signs from now on; {old}", answer.kid),
    )?;
    Ok(Exit::Ok)
}

fn document(key: &ApiKey) -> Value {
    json!({
        "key_id": key.key_id,
        "account": key.account,
        "name": key.name,
        "created_at": key.created_at.as_ref().map(text::rfc3339),
        "expires_at": key.expires_at.as_ref().map(text::rfc3339),
        "last_used_at": key.last_used_at.as_ref().map(text::rfc3339),
    })
}

fn table(screen: &Screen, keys: &[ApiKey]) -> String {
    if keys.is_empty() {
        return "no API keys; make one with `trainyard api-keys create ACCOUNT`".to_owned();
    }
    let columns = [
        ("ID", Lean::Left),
        ("ACCOUNT", Lean::Left),
        ("NAME", Lean::Left),
        ("EXPIRES", Lean::Left),
        ("USED", Lean::Right),
    ];
    let mut table = Table::new(screen, &columns);
    let now = clock::now();
    for key in keys {
        let expires = key.expires_at.as_ref().map(text::rfc3339);
        table.row(&[
            key.key_id.clone(),
            key.account.clone(),
            key.name.clone(),
            expires.unwrap_or_else(|| "never".to_owned()),
            text::age(key.last_used_at.as_ref(), now),
        ]);
    }
    table.render()
}
