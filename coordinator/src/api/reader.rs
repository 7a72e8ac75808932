//! Which jobs a caller may read or change: the checks of `access` on a job, and on many at once.
//!
//! The part of the service that every call about jobs goes through, whichever door it came by. Owns no
//! rule: those are `core::access`. Called by the service and by what it reads.

use std::{cell::RefCell, collections::BTreeMap};

use trainyard_core::{
    access::{Permission, ProjectRole, Standing, SystemRole},
    ids::JobId,
    job::Job,
};

use super::{
    ApiError, Caller, Service,
    access::{ProjectRow, Target, member, no_project},
};
use crate::store::{ReadError, Store};

/// A caller's standing in every project that a list comes by. A role is looked up once, when the first row
/// of its project comes: so the work does not grow with the memberships of everybody.
#[derive(Debug)]
pub(super) struct Reader {
    /// `auth.open_reads`: everybody may.
    open: bool,
    system: SystemRole,
    user: u64,
    email: String,
    roles: RefCell<BTreeMap<i64, Option<ProjectRole>>>,
    /// What kept a role from being read.
    failed: RefCell<Option<ReadError>>,
}

impl Reader {
    /// Whether the caller may read this job.
    pub(super) fn reads(&self, store: &Store, job: &Job) -> bool {
        let project = job.spec.project_id;
        let own = project.is_none() && job.submitted_by == self.email;
        self.open || self.allows(store, Permission::ReadJob, (project, own))
    }

    /// Whether the caller may not know of a job of this number. What keeps it from being read is told by
    /// [`Reader::checked`].
    pub(super) fn hides(&self, store: &Store, id: JobId) -> bool {
        match store.job(id) {
            Ok(job) => job.is_none_or(|job| !self.reads(store, &job)),
            Err(error) => {
                self.failed.replace(Some(error));
                true
            }
        }
    }

    /// As [`Reader::reads`], also where everybody reads jobs: what a project uses is its own affair.
    pub(super) fn accounts_for(&self, store: &Store, job: &Job) -> bool {
        let project = job.spec.project_id;
        let own = project.is_none() && job.submitted_by == self.email;
        self.allows(store, Permission::ReadJob, (project, own))
    }

    /// Whether the caller may see this project.
    pub(super) fn sees(&self, store: &Store, project: i64) -> bool {
        self.allows(store, Permission::ReadProject, (Some(project), false))
    }

    /// What was found with it, unless something kept it from looking.
    pub(super) fn checked<T>(self, found: T) -> Result<T, ReadError> {
        self.failed.into_inner().map_or(Ok(found), Err)
    }

    fn allows(
        &self,
        store: &Store,
        wanted: Permission,
        (project, own): (Option<i64>, bool),
    ) -> bool {
        let with = |project| Standing {
            system: self.system,
            project,
            own,
        };
        with(None).allows(wanted)
            || project.is_some_and(|id| with(self.role_in(store, id)).allows(wanted))
    }

    fn role_in(&self, store: &Store, project: i64) -> Option<ProjectRole> {
        let mut roles = self.roles.borrow_mut();
        *roles.entry(project).or_insert_with(|| {
            member(store, project, self.user).unwrap_or_else(|error| {
                self.failed.replace(Some(error));
                None
            })
        })
    }
}

impl Service {
    /// The caller's standing everywhere.
    pub(super) fn reader(&self, caller: &Caller) -> Reader {
        Reader {
            open: self.open_reads(),
            system: SystemRole::parse(&caller.user.role).unwrap_or_default(),
            user: caller.user.id,
            email: caller.user.email.clone(),
            roles: RefCell::default(),
            failed: RefCell::default(),
        }
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
