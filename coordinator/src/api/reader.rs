//! Which jobs a caller may read or change: the checks of `access` on a job, and on many at once.
//!
//! The part of the service that every call about jobs goes through, whichever door it came by. Owns no
//! rule: those are `core::access`. Called by the service and by what it reads.

use std::collections::BTreeMap;

use trainyard_core::{
    access::{Permission, ProjectRole, Standing, SystemRole},
    ids::JobId,
    job::Job,
};

use super::{
    ApiError, Caller, Service,
    access::{MemberRow, ProjectRow, Target, no_project},
};

/// A caller's standing in every project, so that a list asks the store once.
#[derive(Debug)]
pub(super) struct Reader {
    /// `auth.open_reads`: everybody may.
    open: bool,
    system: SystemRole,
    email: String,
    roles: BTreeMap<i64, ProjectRole>,
}

impl Reader {
    /// Whether the caller may read this job.
    pub(super) fn reads(&self, job: &Job) -> bool {
        let project = job.spec.project_id;
        let standing = Standing {
            system: self.system,
            project: project.and_then(|id| self.roles.get(&id).copied()),
            own: project.is_none() && job.submitted_by == self.email,
        };
        self.open || standing.allows(Permission::ReadJob)
    }
}

impl Service {
    /// The caller's standing everywhere.
    pub(super) fn reader(&self, caller: &Caller) -> Result<Reader, ApiError> {
        let user = caller.user.id;
        let rows = self.store().documents::<MemberRow>("")?.into_iter();
        let own = rows.filter(|row| row.user_id == user);
        Ok(Reader {
            open: self.open_reads(),
            system: SystemRole::parse(&caller.user.role).unwrap_or_default(),
            email: caller.user.email.clone(),
            roles: own.map(|row| (row.project_id, row.role)).collect(),
        })
    }

    /// The job, if the caller may read it.
    pub(super) fn readable(&self, caller: &Caller, id: JobId) -> Result<Job, ApiError> {
        self.job_for(caller, id, Permission::ReadJob)
    }

    /// The job, if the caller may stop it or run it again.
    pub(super) fn changeable(&self, caller: &Caller, id: JobId) -> Result<Job, ApiError> {
        self.job_for(caller, id, Permission::ChangeJob)
    }

    /// Lets whoever may list the jobs of a project through: who sees it, and everybody where reads are
    /// open, for its jobs are no secret then.
    ///
    /// # Errors
    /// `Project not found`.
    pub(super) fn lists(&self, caller: &Caller, project: i64) -> Result<(), ApiError> {
        match self.open_reads() {
            true => self.project_name(project)?.map(drop).ok_or_else(no_project),
            false => self.require(caller, Permission::ReadProject, Target::Project(project)),
        }
    }

    /// The name of a project; none when it is gone.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn project_name(&self, id: i64) -> Result<Option<String>, ApiError> {
        let row = self.store().document::<ProjectRow>(&format!("{id:020}"))?;
        Ok(row.map(|row| row.name))
    }

    fn job_for(&self, caller: &Caller, id: JobId, wanted: Permission) -> Result<Job, ApiError> {
        let job = self.store().job(id)?.ok_or_else(ApiError::no_job)?;
        self.require(caller, wanted, Target::Job(&job))?;
        Ok(job)
    }
}
