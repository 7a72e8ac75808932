//! What a project may have: whether it could ever hold a job, and whether so many more may wait in it.
//!
//! Part of accepting jobs. Decides by the limits of the configuration, by what nodes offer and by what the scheduler
//! knows. Called by submissions, dry runs, and whatever runs a job again.

use trainyard_core::spec::JobSpec;

use super::{ApiError, Caller, Service, explain::as_queued};
use crate::actors::{ask, jobs::OnTheWay, scheduler::SchedulerMsg};

impl Service {
    /// A project that may not borrow never has more than its own at once. Judged as a pass judges it: who wants nodes alone
    /// holds all GPUs of theirs.
    pub(super) fn may_ever(&self, caller: &Caller, spec: &JobSpec) -> Result<(), ApiError> {
        let most = spec.project_id.and_then(|project| {
            let most = self.limits().gpus.get(&project)?;
            Some((project, *most))
        });
        let Some((project, most)) = most else {
            return Ok(());
        };
        let (field, asked) = match spec.placement.gpus_total {
            Some(total) => ("placement.gpus_total", total),
            None if spec.nodes > 1 => ("nodes", spec.nodes.saturating_mul(spec.resources.gpus)),
            None => ("resources.gpus", spec.resources.gpus),
        };
        let own = format!(
            "project {project} has {most} of its own and may not borrow (scheduling.projects.{project})"
        );
        if asked > most {
            let words = format!(
                "asks for {asked} GPUs in all, and {own}; ask for {most} at most, or have gpus raised or borrow set there"
            );
            return Err(ApiError::field(field, words));
        }
        if !spec.placement.exclusive {
            return Ok(());
        }
        let queued = as_queued(caller, spec.clone())?;
        let least = self.tree().offers.least_gpus(&queued);
        if least <= most {
            return Ok(());
        }
        let words = format!(
            "asks for nodes for itself alone, which have {least} GPUs at least, and {own}; leave exclusive out, ask for fewer or smaller nodes, or have gpus raised or borrow set there"
        );
        Err(ApiError::field("placement.exclusive", words))
    }

    /// Lets so many more jobs wait in the project, where it has a limit: they count from now on, until the scheduler knows them.
    pub(super) async fn admit_to_project(
        &self,
        spec: &JobSpec,
        more: u32,
    ) -> Result<Option<OnTheWay>, ApiError> {
        let Some((project, most)) = self.most_waiting(spec) else {
            return Ok(None);
        };
        fits_at_all(project, more, most)?;
        let own = self.coming().begin(project, more.into());
        self.room_in_project((project, most), more, &|| own.ahead())
            .await?;
        Ok(Some(own))
    }

    /// Whether so many more jobs would be let in now.
    pub(super) async fn would_admit_to_project(
        &self,
        spec: &JobSpec,
        more: u32,
    ) -> Result<(), ApiError> {
        let Some((project, most)) = self.most_waiting(spec) else {
            return Ok(());
        };
        fits_at_all(project, more, most)?;
        let coming = || self.coming().jobs(project);
        self.room_in_project((project, most), more, &coming).await
    }

    fn most_waiting(&self, spec: &JobSpec) -> Option<(i64, u32)> {
        let project = spec.project_id?;
        Some((project, *self.limits().queued.get(&project)?))
    }

    async fn room_in_project(
        &self,
        (project, most): (i64, u32),
        more: u32,
        ahead: &(dyn Fn() -> u64 + Sync),
    ) -> Result<(), ApiError> {
        let mut before = ahead();
        let waiting = loop {
            let question = |reply| SchedulerMsg::WaitingOf(project, reply);
            let waiting = ask(&self.tree().scheduler, question).await?;
            if waiting.saturating_add(before).saturating_add(more.into()) <= most.into() {
                return Ok(());
            }
            // Who has arrived meanwhile may have been counted twice.
            let now = ahead();
            if now >= before {
                break waiting.saturating_add(before);
            }
            before = now;
        };
        let setting = setting(project);
        let wait = match waiting {
            1 => "1 job".to_owned(),
            _ => format!("{waiting} jobs"),
        };
        let words = format!(
            "the project {project} has {wait} waiting already, and may have {most} ({setting}); try again when some have started"
        );
        Err(ApiError::limited(setting, words))
    }
}

/// More than may ever wait at once are refused with words of their own: to try again would not help.
fn fits_at_all(project: i64, more: u32, most: u32) -> Result<(), ApiError> {
    if more <= most {
        return Ok(());
    }
    let setting = setting(project);
    let words = match most {
        0 => format!(
            "no job may wait in project {project} ({setting} = 0); have that raised, or choose another project"
        ),
        _ => format!(
            "the array has {more} jobs, and the project {project} may have {most} waiting ({setting}); give {most} indices at most, or have that raised"
        ),
    };
    Err(ApiError::limited(setting, words))
}

fn setting(project: i64) -> String {
    format!("scheduling.projects.{project}.queued")
}
