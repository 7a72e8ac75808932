//! `trainyard users`: accounts, their roles and passwords.

use clap::Subcommand;
use serde_json::{Value, json};
use trainyard_proto::v1::{
    CreateUserRequest, ListUsersRequest, SetMyPasswordRequest, SetPasswordRequest,
    UpdateUserRequest, User, user_service_client::UserServiceClient,
};

use super::{Context, login};
use crate::{
    client::Client,
    exit::Exit,
    output::{
        Screen,
        table::{Lean, Table},
    },
    text,
};

/// What `trainyard users` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum UsersCommand {
    /// List all users
    List,
    /// Make a user
    Add {
        /// The user's e-mail address
        email: String,
        /// guest, standard_engineer, advanced_engineer, manager or admin
        #[arg(long, default_value = "standard_engineer")]
        role: String,
        /// The user's full name
        #[arg(long, default_value = "")]
        name: String,
        /// Read the password from stdin instead of asking for it
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give a user another role
    SetRole {
        /// The user's e-mail address
        email: String,
        /// guest, standard_engineer, advanced_engineer, manager or admin
        role: String,
    },
    /// Refuse a user from now on
    Disable {
        /// The user's e-mail address
        email: String,
    },
    /// Take a user that was disabled again
    Enable {
        /// The user's e-mail address
        email: String,
    },
    /// Set a user's password, or change your own; all sessions of the account end
    Password {
        /// The user's e-mail address [default: yourself]
        email: Option<String>,
        /// Read it from stdin instead of asking: the new password, for yourself the present one on a line before it
        #[arg(long)]
        password_stdin: bool,
    },
}

/// Runs one of them.
pub(crate) async fn run(context: &Context<'_>, command: UsersCommand) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    match command {
        UsersCommand::List => list(context, &mut client).await?,
        UsersCommand::Add {
            email,
            role,
            name,
            password_stdin,
        } => {
            let request = CreateUserRequest {
                email,
                password: login::secret(password_stdin, "Password: ")?,
                full_name: name,
                role,
            };
            add(context, &mut client, request).await?;
        }
        UsersCommand::SetRole { email, role } => {
            let request = UpdateUserRequest {
                email,
                role: Some(role),
                is_active: None,
            };
            update(context, &mut client, request).await?;
        }
        UsersCommand::Disable { email } => activate(context, &mut client, email, false).await?,
        UsersCommand::Enable { email } => activate(context, &mut client, email, true).await?,
        UsersCommand::Password {
            email,
            password_stdin,
        } => password(context, &mut client, email, password_stdin).await?,
    }
    Ok(Exit::Ok)
}

async fn list(context: &Context<'_>, client: &mut Client) -> anyhow::Result<()> {
    let request = ListUsersRequest::default();
    let answer = client
        .call(async |via| UserServiceClient::new(via).list_users(request).await)
        .await?;
    context.screen.show(
        || json!({"users": answer.users.iter().map(document).collect::<Vec<_>>()}),
        || table(&context.screen, &answer.users),
    )?;
    Ok(())
}

async fn add(
    context: &Context<'_>,
    client: &mut Client,
    request: CreateUserRequest,
) -> anyhow::Result<()> {
    let answer = client
        .call(async |via| {
            UserServiceClient::new(via)
                .create_user(request.clone())
                .await
        })
        .await?;
    let user = answer.user.unwrap_or_default();
    context.screen.show(
        || document(&user),
        || format!("made user {}, a {}", user.email, user.role),
    )?;
    Ok(())
}

async fn activate(
    context: &Context<'_>,
    client: &mut Client,
    email: String,
    is_active: bool,
) -> anyhow::Result<()> {
    let request = UpdateUserRequest {
        email,
        role: None,
        is_active: Some(is_active),
    };
    update(context, client, request).await
}

async fn update(
    context: &Context<'_>,
    client: &mut Client,
    request: UpdateUserRequest,
) -> anyhow::Result<()> {
    let answer = client
        .call(async |via| {
            UserServiceClient::new(via)
                .update_user(request.clone())
                .await
        })
        .await?;
    let user = answer.user.unwrap_or_default();
    context.screen.show(
        || document(&user),
        || format!("{} is a {}, {}", user.email, user.role, activity(&user)),
    )?;
    Ok(())
}

async fn password(
    context: &Context<'_>,
    client: &mut Client,
    email: Option<String>,
    from_stdin: bool,
) -> anyhow::Result<()> {
    let whose = email.clone().unwrap_or_else(|| "you".to_owned());
    match email {
        Some(email) => {
            let password = login::secret(from_stdin, "New password: ")?;
            let request = SetPasswordRequest { email, password };
            client
                .call(async |via| {
                    UserServiceClient::new(via)
                        .set_password(request.clone())
                        .await
                })
                .await?;
        }
        None => {
            let (current, new) = login::two_secrets(from_stdin)?;
            let request = SetMyPasswordRequest {
                current_password: current,
                new_password: new,
            };
            client
                .call(async |via| {
                    UserServiceClient::new(via)
                        .set_my_password(request.clone())
                        .await
                })
                .await?;
        }
    }
    context.screen.show(
        || json!({"user": whose, "sessions": "ended"}),
        || format!("password of {whose} set; all sessions of the account have ended"),
    )?;
    Ok(())
}

/// A user as JSON.
pub(super) fn document(user: &User) -> Value {
    json!({
        "user_id": user.user_id,
        "email": user.email,
        "full_name": user.full_name,
        "role": user.role,
        "is_active": user.is_active,
        "is_service": user.is_service,
        "created_at": user.created_at.as_ref().map(text::rfc3339),
    })
}

/// Users as a table.
pub(super) fn table(screen: &Screen, users: &[User]) -> String {
    let columns = [
        ("ID", Lean::Right),
        ("EMAIL", Lean::Left),
        ("NAME", Lean::Left),
        ("ROLE", Lean::Left),
        ("", Lean::Left),
    ];
    let mut table = Table::new(screen, &columns);
    for user in users {
        table.row(&[
            user.user_id.to_string(),
            user.email.clone(),
            user.full_name.clone(),
            user.role.clone(),
            activity(user).to_owned(),
        ]);
    }
    table.render()
}

fn activity(user: &User) -> &'static str {
    if user.is_active { "active" } else { "disabled" }
}
