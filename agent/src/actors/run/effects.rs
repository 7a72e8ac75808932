//! How a run carries its effects out: preparation, launch, watch, stop, drain, end.
//!
//! Decides nothing: core's machine of a task has. Called by the run actor alone.

use std::{io, path::Path, sync::Arc, time::Duration};

use ractor::ActorProcessingErr;
use trainyard_core::{
    task::{Ended, Failure, Fault, Gone, Input, Meeting, Stop},
    time::Timestamp,
};

use super::{RunMsg, RunRef, State, blocking};
use crate::{
    actors::{
        gang::{self, Prepared},
        node::Node,
        prepare::Preparation,
        release,
        scribe::Level,
        words,
    },
    address,
    callbacks::{TaskEndpoint, take_unsent},
    clock,
    exec::{ExitRecord, LaunchSpec, launch::LaunchError, watch::ShimVanished},
    ports,
};

/// How soon a file is written again that the disk refused.
const AGAIN: Duration = Duration::from_secs(1);

impl State {
    pub(super) fn prepare(&self, myself: &RunRef) {
        let Some(scribe) = self.scribe.clone() else {
            return;
        };
        let preparation = Preparation {
            node: Arc::clone(&self.args.node),
            order: Arc::clone(&self.args.order),
            scribe,
        };
        let (myself, given_up) = (myself.clone(), self.preparation.clone());
        self.tasks.spawn(async move {
            let teller = myself.clone();
            let tell = move |detail| drop(teller.cast(RunMsg::Detail(detail)));
            let prepared = given_up.run_until_cancelled(preparation.run(tell)).await;
            if let Some(prepared) = prepared {
                // Nobody is there any more only when the agent ends.
                myself.cast(RunMsg::Prepared(prepared)).ok();
            }
        });
    }

    /// Cannot be interrupted; what comes meanwhile waits in the mailbox.
    pub(super) async fn launch(
        &mut self,
        meeting: Option<Meeting>,
    ) -> Result<Input, ActorProcessingErr> {
        let prepared = self.prepared.take().ok_or("nothing was prepared")?;
        let spec = match self.complete(*prepared, meeting).await {
            Ok(spec) => spec,
            Err(failure) => return Ok(Input::Failed(failure)),
        };
        let trainers = &self.args.node.trainers;
        let launched = trainers.launch(self.folder.path(), &spec).await;
        trainers.keep_ready();
        match launched {
            Ok(launched) => {
                let pid = launched.trainer.pid;
                self.shim = Some(launched.shim);
                self.child = launched.child;
                self.detail.clear();
                self.note(Level::Info, format!("trainer started as process {pid}"));
                Ok(Input::Started(clock::now()))
            }
            Err(LaunchError::AlreadyRunning { .. }) => {
                let found = self.adopt().await?;
                Ok(found.ok_or("it runs and does not run")?)
            }
            Err(error) => Ok(Input::Failed(words::not_launched(&error))),
        }
    }

    /// With what its gang adds, if it is of one. Its port is looked at once more: the gang may have waited for long.
    async fn complete(
        &self,
        prepared: Prepared,
        meeting: Option<Meeting>,
    ) -> Result<LaunchSpec, Failure> {
        let order = &self.args.order;
        let Some(meeting) = meeting else {
            return gang::complete(prepared, order, None);
        };
        let rank = usize::try_from(order.task.rank.0).ok();
        let own = rank.and_then(|rank| meeting.addresses.get(rank)).cloned();
        let port = prepared.port;
        let look = move || {
            let taken = port.and_then(|port| ports::check(port).err());
            let interface = own.and_then(|own| address::interface_of(&own));
            Ok((taken, interface))
        };
        let (taken, interface) = blocking(look).await.unwrap_or_default();
        if let Some(taken) = taken {
            return Err(Failure {
                error: taken.to_string(),
                fault: Fault::Node,
            });
        }
        let addresses = meeting.addresses.join(", ");
        let text = format!("all nodes of the gang are prepared: {addresses}");
        self.note(Level::Info, text);
        gang::complete(prepared, order, Some((&meeting, interface)))
    }

    pub(super) fn watch(&mut self, myself: &RunRef) {
        let Some(shim) = self.shim.clone() else {
            return;
        };
        if let Some(scribe) = &self.scribe {
            scribe.follow();
            let rounds = self.courier.clone().go_round(scribe.clone());
            self.tasks.spawn(rounds);
        }
        let (folder, child) = (self.folder.clone(), self.child.take());
        let (myself, end) = (myself.clone(), self.end.clone());
        let node = Arc::clone(&self.args.node);
        self.tasks.spawn(async move {
            let work = async {
                let gone = node.trainers.wait_exit(folder.path(), &shim).await;
                // Nobody is there any more only when the agent ends.
                myself.cast(RunMsg::Gone(Box::new(gone))).ok();
                if let Some(mut child) = child {
                    child.wait().await.ok();
                }
            };
            end.run_until_cancelled(work).await;
        });
    }

    pub(super) fn watch_limit(&self, myself: &RunRef, at: Timestamp) {
        let wait = at.since(clock::now());
        let (myself, end) = (myself.clone(), self.end.clone());
        self.tasks.spawn(async move {
            let over = end.run_until_cancelled(tokio::time::sleep(wait)).await;
            if over.is_some() {
                // Nobody is there any more only when the task has ended.
                myself.cast(RunMsg::LimitReached).ok();
            }
        });
    }

    pub(super) fn gone(&mut self, gone: Result<ExitRecord, ShimVanished>) -> Gone {
        self.detail = "keeping the last output".to_owned();
        match gone {
            Ok(exit) => {
                self.words.extend(words::of_exit(&exit));
                Gone::Exited {
                    code: exit.code,
                    signal: exit.signal,
                    oom_killed: exit.oom_killed,
                    by_machine: exit.ended_by_machine,
                    ran: exit.ran(),
                }
            }
            Err(error) => {
                self.words.push((Level::Warning, error.to_string()));
                Gone::Vanished(error.to_string())
            }
        }
    }

    pub(super) async fn note_stop(&self, stop: Stop) {
        self.courier.stop();
        self.args.node.slots.leaves(self.args.order.task);
        self.note(Level::Info, words::of_stop(&stop));
        let (task, folder) = (self.args.order.task, self.folder.clone());
        let note = move || {
            let folder = folder.clone();
            blocking(move || folder.note_stop(&stop))
        };
        let Err(error) = note().await else { return };
        // A full disk must not keep a trainer running: it is stopped now, and the next life of this agent is told as soon
        // as the disk takes it.
        tracing::error!(%task, %error, "why a task is stopped waits for the disk");
        self.insist(note);
    }

    /// Tries again until it goes well, or this run ends.
    fn insist<F>(&self, work: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = io::Result<()>> + Send,
    {
        let end = self.end.clone();
        self.tasks.spawn(async move {
            let trying = async {
                loop {
                    tokio::time::sleep(AGAIN).await;
                    if work().await.is_ok() {
                        return;
                    }
                }
            };
            end.run_until_cancelled(trying).await;
        });
    }

    pub(super) async fn signal(&self, grace: Duration) {
        let Some(shim) = self.shim.clone() else {
            return;
        };
        let (folder, node) = (self.folder.clone(), Arc::clone(&self.args.node));
        let ask = move || {
            let (folder, node, shim) = (folder.clone(), Arc::clone(&node), shim.clone());
            blocking(move || {
                let asked = node.trainers.request_stop(folder.path(), &shim, grace);
                asked.map(drop).map_err(io::Error::other)
            })
        };
        if let Err(error) = ask().await {
            // A limit of time is told once.
            tracing::error!(task = %self.args.order.task, %error, "a trainer cannot be stopped yet; trying on");
            self.insist(ask);
        }
    }

    /// Nobody can call back any more; the scribe answers when all is on disk.
    pub(super) async fn drain(&mut self) {
        let (node, order) = (&self.args.node, &self.args.order);
        let endpoint = node.registry.take(order.secret.expose());
        node.slots.leaves(order.task);
        let words = std::mem::take(&mut self.words);
        let Some(scribe) = self.scribe.clone() else {
            return;
        };
        if self.shim.is_none() {
            scribe.finish(words).await;
            return;
        }
        let (courier, end) = (self.courier.clone(), self.end.clone());
        // A round must name no checkpoint before the report of its epoch, which may come of what was unsent.
        courier.end_rounds();
        let (node, order, folder) = (Arc::clone(node), Arc::clone(order), self.folder.clone());
        self.tasks.spawn(async move {
            let work = async {
                // Neither waits for the other: the coordinator may be away for long.
                let freeing = release::free(&node, &order.gpu_uuids, folder.path());
                let bringing = async {
                    // A checkpoint comes behind the report of its epoch.
                    let unsent = unsent(&node, endpoint, folder.path()).await;
                    [unsent, courier.finish().await].concat()
                };
                let (about, held) = tokio::join!(bringing, freeing);
                [words, about, held].concat()
            };
            if let Some(words) = end.run_until_cancelled(work).await {
                scribe.finish(words).await;
            }
        });
    }

    pub(super) async fn keep_end(
        &mut self,
        myself: &RunRef,
        ended: Box<Ended>,
    ) -> Result<(), ActorProcessingErr> {
        let (folder, kept) = (self.folder.clone(), ended.clone());
        if let Err(error) = blocking(move || folder.note_end(&kept)).await {
            tracing::error!(task = %self.args.order.task, %error, "the end of a task waits for the disk");
            myself.send_after(AGAIN, || RunMsg::KeepEnd(ended));
            return Ok(());
        }
        self.detail.clear();
        self.args.node.ports.give_back(self.args.order.task);
        self.args.node.slots.give_back(self.args.order.task);
        self.report();
        tracing::info!(task = %self.args.order.task, code = ended.end.exit_code, signal = ended.end.signal, "task has ended");
        myself.stop(None);
        Ok(())
    }
}

/// What the trainer had said to nobody when it ended. The words are for the log.
async fn unsent(
    node: &Node,
    endpoint: Option<TaskEndpoint>,
    folder: &Path,
) -> Vec<(Level, String)> {
    let Some(endpoint) = endpoint else {
        return Vec::new();
    };
    let unsent = take_unsent(&node.registry, endpoint, folder).await;
    let taken = (unsent.taken > 0).then(|| {
        let text = format!(
            "taken in after the trainer's end: {} reports and lines that nobody had answered",
            unsent.taken
        );
        (Level::Info, text)
    });
    let more = unsent.losses.saturating_sub(unsent.lost.len() as u64);
    let more = (more > 0).then(|| format!("and {more} more calls that the trainer had kept"));
    let lost = unsent
        .lost
        .into_iter()
        .chain(more)
        .map(|words| (Level::Warning, words));
    taken.into_iter().chain(lost).collect()
}
