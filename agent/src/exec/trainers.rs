//! Who starts, watches and stops the trainers of a node: shims on a machine, or a simulation.
//!
//! Owns the seam between the two and nothing else. The run actor calls it.

use std::{collections::BTreeSet, fmt, future::Future, io, path::Path, pin::Pin, time::Duration};

use super::{
    files::{ExitRecord, LaunchSpec},
    ident::ProcIdent,
    launch::{LaunchError, Launched, launch},
    shims::Shims,
    watch::{self, ShimVanished, Stop, StopError, wait_exit},
};

/// What a trainer is waited for with.
pub type Waiting<'w, T> = Pin<Box<dyn Future<Output = T> + Send + 'w>>;

/// The trainers of a node. What is said of a task stands in its folder, whoever runs it.
pub trait Trainers: fmt::Debug + Send + Sync {
    /// As [`launch`].
    fn launch<'w>(
        &'w self,
        task_dir: &'w Path,
        spec: &'w LaunchSpec,
    ) -> Waiting<'w, Result<Launched, LaunchError>>;

    /// As [`wait_exit`].
    fn wait_exit<'w>(
        &'w self,
        task_dir: &'w Path,
        shim: &'w ProcIdent,
    ) -> Waiting<'w, Result<ExitRecord, ShimVanished>>;

    /// As [`watch::request_stop`].
    ///
    /// # Errors
    /// When the trainer could not be told.
    fn request_stop(
        &self,
        task_dir: &Path,
        shim: &ProcIdent,
        grace: Duration,
    ) -> Result<Stop, StopError>;

    /// As [`super::remains::remains`]; nothing where trainers are no processes.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn remains(&self, _task_dir: &Path) -> io::Result<BTreeSet<i32>> {
        Ok(BTreeSet::new())
    }

    /// Makes the next launch quick.
    fn keep_ready(&self);
}

impl Trainers for Shims {
    fn launch<'w>(
        &'w self,
        task_dir: &'w Path,
        spec: &'w LaunchSpec,
    ) -> Waiting<'w, Result<Launched, LaunchError>> {
        Box::pin(launch(self, task_dir, spec))
    }

    fn wait_exit<'w>(
        &'w self,
        task_dir: &'w Path,
        shim: &'w ProcIdent,
    ) -> Waiting<'w, Result<ExitRecord, ShimVanished>> {
        Box::pin(wait_exit(task_dir, shim))
    }

    fn request_stop(
        &self,
        task_dir: &Path,
        shim: &ProcIdent,
        grace: Duration,
    ) -> Result<Stop, StopError> {
        watch::request_stop(task_dir, shim, grace)
    }

    fn remains(&self, task_dir: &Path) -> io::Result<BTreeSet<i32>> {
        super::remains::remains(task_dir)
    }

    fn keep_ready(&self) {
        Shims::keep_ready(self);
    }
}
