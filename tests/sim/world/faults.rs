//! What a fault of the plan does to the cluster, and how programs and machines stop and start again.
//!
//! Owns no state of its own. Called by the run of a world, at the times of the plan.

use super::*;

impl World {
    pub(super) fn happen(&mut self, sim: &mut Sim<'_>, fault: &Fault) {
        let name = |number: &usize| self.nodes.get(*number).map(|node| node.name.clone());
        let name = |number: &usize| name(number).unwrap_or_default();
        match fault {
            Fault::Cut(node) => sim.partition(COORDINATOR, name(node).as_str()),
            Fault::Deaf(node) => sim.partition_oneway(COORDINATOR, name(node).as_str()),
            Fault::Mute(node) => sim.partition_oneway(name(node).as_str(), COORDINATOR),
            Fault::Mend(node) => sim.repair(COORDINATOR, name(node).as_str()),
            Fault::Hold(node) => sim.hold(COORDINATOR, name(node).as_str()),
            Fault::Release(node) => sim.release(COORDINATOR, name(node).as_str()),
            Fault::KillAgent(node) => self.kill_agent(sim, *node),
            Fault::StartAgent(node) => self.start_agent(sim, *node),
            Fault::KillNode(node) => {
                self.kill_agent(sim, *node);
                if let Some(node) = self.nodes.get_mut(*node) {
                    node.power_off();
                }
            }
            Fault::StartNode(number, has) => {
                let honest = self.plan.cluster.honest;
                if let Some(node) = self.nodes.get_mut(*number) {
                    let is_on = std::mem::replace(&mut node.on, true);
                    if !(is_on && honest) {
                        *node
                            .post
                            .capacity
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner) = capacity(*number, *has);
                    }
                }
                self.start_agent(sim, *number);
            }
            Fault::FailAgent(node, writes, moment, gone) => {
                self.fail_agent(*node, (*writes, *moment, *gone));
            }
            Fault::KillTrainer(node, which, shim_too) => {
                if let Some(node) = self.nodes.get(*node) {
                    node.post.yard.kill(*which, *shim_too);
                }
            }
            Fault::KillCoordinator => {
                self.stop_coordinator(sim);
                self.disk.cut(&mut self.rng);
            }
            Fault::KillProgram => self.stop_coordinator(sim),
            Fault::FailDisk(syncs, moment) => self.disk.fail_after(*syncs, *moment),
            Fault::FillDisk(room) => self.disk.fill(*room),
            Fault::SlowStore(time) => Disk::Store.takes_for_each_sync(*time),
            Fault::SlowSpools(time) => Disk::Spools.takes_for_each_sync(*time),
            Fault::FillAgent(node, writes) => self.crowd(*node, Some(*writes)),
            Fault::EmptyAgent(node) => self.crowd(*node, None),
            Fault::StartCoordinator => self.start_coordinator(sim),
            Fault::Jump(seconds) => self.jump(*seconds),
            Fault::JumpAlone(node, seconds) => self.jump_alone(*node, *seconds),
            Fault::Spare => {
                self.disk.spare();
                self.nodes.iter().for_each(|node| node.post.files.calm());
            }
        }
    }

    pub(super) fn fail_agent(
        &self,
        node: usize,
        (writes, moment, gone): (u32, disk::Moment, Gone),
    ) {
        let Some(node) = self.nodes.get(node) else {
            return;
        };
        if self.plan.cluster.patient {
            node.post.files.fails_next(writes, moment, gone);
        } else {
            node.post.files.fail_after(writes, moment, gone);
        }
    }

    fn jump(&self, seconds: i64) {
        nature::jump(seconds);
        for node in &self.nodes {
            node.post.yard.clock_was_set(seconds);
        }
    }

    pub(super) fn jump_alone(&mut self, node: usize, seconds: i64) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.ahead += seconds;
            clocks::set_one(&node.name, node.ahead);
            node.post.yard.clock_was_set(seconds);
        }
    }

    /// As by SIGKILL: it reaches its disk no more, on which all is that it has written. A disk whose power has failed
    /// loses what was not synced.
    pub(super) fn stop_coordinator(&mut self, sim: &mut Sim<'_>) {
        self.again = None;
        if !self.serves {
            return;
        }
        self.serves = false;
        if self.disk.has_failed() {
            self.disk.cut(&mut self.rng);
        }
        self.disk.leave();
        sim.crash(COORDINATOR);
    }

    /// Up to plan 7 its disk has room and power at once.
    pub(super) fn ended_by_itself(&mut self, sim: &mut Sim<'_>, now: Duration) {
        if !self.plan.cluster.lasting {
            self.start_coordinator(sim);
        } else if self.disk.has_failed() {
            self.trace.note("coordinator: its machine is off");
            if self.plan.cluster.patient {
                let later = Duration::from_millis(self.rng.random_range(BACK));
                self.again = Some(now + later);
            }
        } else {
            self.again = Some(now + PAUSE);
        }
    }

    /// One that serves is stopped first: what its disk had to suffer is over.
    pub(super) fn start_coordinator(&mut self, sim: &mut Sim<'_>) {
        self.stop_coordinator(sim);
        self.disk.boot();
        self.serve(sim);
    }

    pub(super) fn serve(&mut self, sim: &mut Sim<'_>) {
        self.again = None;
        self.serves = true;
        self.checker.forget_commits();
        sim.bounce(COORDINATOR);
    }

    pub(super) fn kill_agent(&mut self, sim: &mut Sim<'_>, node: usize) {
        let torn = self.rng.random_range(0..40);
        let Some(node) = self.nodes.get(node) else {
            return;
        };
        if sim.is_host_running(node.name.as_str()) {
            sim.crash(node.name.as_str());
            tear(&node.post.data_dir, torn);
        }
    }

    pub(super) fn start_agent(&mut self, sim: &mut Sim<'_>, number: usize) {
        let Some(node) = self.nodes.get(number).filter(|node| node.on) else {
            return;
        };
        if !self.plan.cluster.patient {
            node.post.files.calm();
        }
        self.back.remove(&number);
        if !sim.is_host_running(node.name.as_str()) {
            node.post.files.boot();
            sim.bounce(node.name.as_str());
        }
    }

    /// The disk of a node is full after so many writes, or has room.
    pub(super) fn crowd(&self, node: usize, writes: Option<u32>) {
        if let Some(node) = self.nodes.get(node) {
            node.post.files.fill_after(writes);
        }
    }
}
