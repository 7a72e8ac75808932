//! What a caller may do: the one check behind every call of both doors.
//!
//! Owns the rows of projects and their members, and how a caller stands to a job or a project. The
//! decision itself is `core::access`. What a caller may not see answers as if it were not there.

use serde::{Deserialize, Serialize};
use trainyard_core::{
    access::{Permission, ProjectRole, Standing, SystemRole},
    job::Job,
    time::Timestamp,
};
use trainyard_proto::status::Kind;

use super::{ApiError, Caller, Service, users::not_authenticated};
use crate::store::{Document, ReadError, Store};

/// A project: owner of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRow {
    /// From 1.
    pub id: i64,
    /// For people, unique.
    pub name: String,
    /// What it is about.
    #[serde(default)]
    pub description: String,
    /// The e-mail address of who founded it.
    #[serde(default)]
    pub created_by: String,
    /// When.
    #[serde(default)]
    pub created_at: Timestamp,
}

impl Document for ProjectRow {
    const KIND: &'static str = "project";

    fn key(&self) -> String {
        format!("{:020}", self.id)
    }
}

/// A user's role in a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// The project.
    pub project_id: i64,
    /// The user.
    pub user_id: u64,
    /// What the user may do in it.
    pub role: ProjectRole,
}

impl MemberRow {
    /// The key of a user's membership in a project.
    #[must_use]
    pub fn key_of(project_id: i64, user_id: u64) -> String {
        format!("{project_id:020}/{user_id:020}")
    }
}

impl Document for MemberRow {
    const KIND: &'static str = "project_member";

    fn key(&self) -> String {
        Self::key_of(self.project_id, self.user_id)
    }
}

/// What a call is about.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The cluster.
    Cluster,
    /// A project, by its number.
    Project(i64),
    /// A job of a project, or one of its submitter's own.
    Job(&'a Job),
    /// Something new of the caller's own, or of a project if one is named.
    New(Option<i64>),
}

impl Service {
    /// Lets a call through, or says why not.
    ///
    /// # Errors
    /// `Project not found` for a project that is not there or that the caller is not in; that of an
    /// unknown job for one that the caller may not read; else what the caller lacks.
    pub fn require(
        &self,
        caller: &Caller,
        wanted: Permission,
        target: Target<'_>,
    ) -> Result<(), ApiError> {
        if caller.is_anonymous() && wanted != Permission::ReadJob {
            return Err(not_authenticated());
        }
        let standing = standing(self.store(), caller, target)?;
        // Whom a token speaks for must not see less than somebody without one.
        if standing.allows(wanted) || (wanted == Permission::ReadJob && self.open_reads()) {
            return Ok(());
        }
        let hidden = |seen: Permission| !standing.allows(seen);
        match target {
            Target::Job(_) if hidden(Permission::ReadJob) => Err(ApiError::no_job()),
            Target::Project(_) | Target::New(Some(_)) if hidden(Permission::ReadProject) => {
                Err(no_project())
            }
            Target::Cluster | Target::Project(_) | Target::Job(_) | Target::New(_) => {
                Err(ApiError::new(Kind::Forbidden, lacking(wanted, standing)))
            }
        }
    }
}

/// How the caller stands to the target, as the store has it now.
fn standing(store: &Store, caller: &Caller, target: Target<'_>) -> Result<Standing, ApiError> {
    let (project, own) = match target {
        Target::Cluster => (None, false),
        Target::Project(id) => (Some(id), false),
        Target::New(id) => (id, id.is_none()),
        Target::Job(job) => {
            let own = job.spec.project_id.is_none() && job.submitted_by == caller.user.email;
            (job.spec.project_id, own)
        }
    };
    let role = match project {
        Some(id) => member(store, id, caller.user.id)?,
        None => None,
    };
    if let Target::Project(id) | Target::New(Some(id)) = target {
        let key = format!("{id:020}");
        if store.document::<ProjectRow>(&key)?.is_none() {
            return Err(no_project());
        }
    }
    Ok(Standing {
        system: SystemRole::parse(&caller.user.role).unwrap_or_default(),
        project: role,
        own,
    })
}

/// A user's role in a project.
pub(super) fn member(
    store: &Store,
    project: i64,
    user: u64,
) -> Result<Option<ProjectRole>, ReadError> {
    let row = store.document::<MemberRow>(&MemberRow::key_of(project, user))?;
    Ok(row.map(|row| row.role))
}

/// The contract's answer to an unknown project.
pub(super) fn no_project() -> ApiError {
    ApiError::new(Kind::NotFound, "Project not found")
}

fn lacking(wanted: Permission, standing: Standing) -> String {
    let what = match wanted {
        Permission::ReadJob => "read this job",
        Permission::SubmitJob => "submit jobs here",
        Permission::ChangeJob => "change this job",
        Permission::ReadProject => "see this project",
        Permission::AdministerProject => "change this project",
        Permission::CreateProject => "create projects",
        Permission::ReadDatasets => "see datasets",
        Permission::RegisterDatasets => "register or remove datasets",
        Permission::ReadNodes => "see nodes",
        Permission::Operate => "operate the cluster",
        Permission::AdministerUsers => "administer users",
    };
    let role = standing.system.name();
    match standing.project {
        Some(project) => format!(
            "role '{role}' with '{}' in the project may not {what}; ask an administrator of the project",
            project.name()
        ),
        None => format!("role '{role}' may not {what}; ask an administrator"),
    }
}
