//! `trainyard projects`: projects and who works in them.

use clap::Subcommand;
use serde_json::{Value, json};
use trainyard_proto::v1::{
    CreateProjectRequest, GetProjectRequest, ListProjectsRequest, Project, ProjectMember,
    RemoveMemberRequest, SetMemberRequest, project_service_client::ProjectServiceClient,
};

use super::Context;
use crate::{
    client::Client,
    exit::Exit,
    output::{
        Screen,
        table::{Block, Lean, Table},
    },
    text,
};

/// What `trainyard projects` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ProjectsCommand {
    /// List the projects that you may see
    List,
    /// Found a project
    Create {
        /// Its name
        name: String,
        /// What it is about
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Show a project and its members
    Show {
        /// The project's number
        id: i64,
    },
    /// Make somebody a member, or give a member another role
    AddMember {
        /// The project's number
        id: i64,
        /// The user's e-mail address
        email: String,
        /// viewer, member or admin
        #[arg(long, default_value = "member")]
        role: String,
    },
    /// Take somebody out of a project
    RemoveMember {
        /// The project's number
        id: i64,
        /// The user's e-mail address
        email: String,
    },
}

/// Runs one of them.
pub(crate) async fn run(context: &Context<'_>, command: ProjectsCommand) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    match command {
        ProjectsCommand::List => list(context, &mut client).await?,
        ProjectsCommand::Create { name, description } => {
            let request = CreateProjectRequest { name, description };
            create(context, &mut client, request).await?;
        }
        ProjectsCommand::Show { id } => show(context, &mut client, id).await?,
        ProjectsCommand::AddMember { id, email, role } => {
            let request = SetMemberRequest {
                project_id: id,
                email,
                role,
            };
            add(context, &mut client, request).await?;
        }
        ProjectsCommand::RemoveMember { id, email } => {
            let request = RemoveMemberRequest {
                project_id: id,
                email,
            };
            remove(context, &mut client, request).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn list(context: &Context<'_>, client: &mut Client) -> anyhow::Result<()> {
    let answer = client
        .call(async |via| {
            ProjectServiceClient::new(via)
                .list_projects(ListProjectsRequest {})
                .await
        })
        .await?;
    context.screen.show(
        || json!({"projects": answer.projects.iter().map(document).collect::<Vec<_>>()}),
        || table(&context.screen, &answer.projects),
    )?;
    Ok(())
}

async fn create(
    context: &Context<'_>,
    client: &mut Client,
    request: CreateProjectRequest,
) -> anyhow::Result<()> {
    let answer = client
        .call(async |via| {
            ProjectServiceClient::new(via)
                .create_project(request.clone())
                .await
        })
        .await?;
    let project = answer.project.unwrap_or_default();
    context.screen.show(
        || document(&project),
        || format!("founded project {}, {}", project.project_id, project.name),
    )?;
    Ok(())
}

async fn show(context: &Context<'_>, client: &mut Client, id: i64) -> anyhow::Result<()> {
    let request = GetProjectRequest { project_id: id };
    let answer = client
        .call(async |via| ProjectServiceClient::new(via).get_project(request).await)
        .await?;
    let project = answer.project.unwrap_or_default();
    let members = answer.members;
    context.screen.show(
        || {
            let mut shown = document(&project);
            let members: Vec<_> = members.iter().map(member).collect();
            if let Some(fields) = shown.as_object_mut() {
                fields.insert("members".to_owned(), json!(members));
            }
            shown
        },
        || page(&project, &members),
    )?;
    Ok(())
}

async fn add(
    context: &Context<'_>,
    client: &mut Client,
    request: SetMemberRequest,
) -> anyhow::Result<()> {
    let answer = client
        .call(async |via| {
            ProjectServiceClient::new(via)
                .set_member(request.clone())
                .await
        })
        .await?;
    let set = answer.member.unwrap_or_default();
    let id = request.project_id;
    context.screen.show(
        || member(&set),
        || format!("{} is a {} of project {id}", set.email, set.role),
    )?;
    Ok(())
}

async fn remove(
    context: &Context<'_>,
    client: &mut Client,
    request: RemoveMemberRequest,
) -> anyhow::Result<()> {
    client
        .call(async |via| {
            ProjectServiceClient::new(via)
                .remove_member(request.clone())
                .await
        })
        .await?;
    let RemoveMemberRequest { project_id, email } = request;
    context.screen.show(
        || json!({"project_id": project_id, "removed": email}),
        || format!("{email} is no longer in project {project_id}"),
    )?;
    Ok(())
}

fn document(project: &Project) -> Value {
    json!({
        "project_id": project.project_id,
        "name": project.name,
        "description": project.description,
        "created_by": project.created_by,
        "created_at": project.created_at.as_ref().map(text::rfc3339),
    })
}

fn member(member: &ProjectMember) -> Value {
    json!({"user_id": member.user_id, "email": member.email, "role": member.role})
}

fn table(screen: &Screen, projects: &[Project]) -> String {
    if projects.is_empty() {
        return "no projects; found one with `trainyard projects create NAME`".to_owned();
    }
    let columns = [
        ("ID", Lean::Right),
        ("NAME", Lean::Left),
        ("FOUNDED BY", Lean::Left),
        ("DESCRIPTION", Lean::Left),
    ];
    let mut table = Table::new(screen, &columns);
    for project in projects {
        table.row(&[
            project.project_id.to_string(),
            project.name.clone(),
            project.created_by.clone(),
            project.description.clone(),
        ]);
    }
    table.render()
}

fn page(project: &Project, members: &[ProjectMember]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|member| format!("{} ({})", member.email, member.role))
        .collect();
    let mut block = Block::default();
    block
        .add("project", project.project_id.to_string())
        .add("name", project.name.as_str())
        .add("description", project.description.as_str())
        .add("founded by", project.created_by.as_str())
        .add("members", members.join("\n"));
    block.render()
}
