//! On which nodes a job may lie and when it may start, to the wire and back.

use trainyard_core::{
    ids::JobId,
    spec::{Arrange, ArrayPlace, JobSpec, Launcher, Placing},
};

use super::{given, time};
use crate::v1;

impl From<v1::Placement> for Placing {
    fn from(wire: v1::Placement) -> Self {
        let arrange = match wire.arrange() {
            v1::Arrange::Unspecified | v1::Arrange::Pack => Arrange::Pack,
            v1::Arrange::Spread => Arrange::Spread,
        };
        Self {
            labels: wire.labels.into_iter().collect(),
            anti_labels: wire.anti_labels.into_iter().collect(),
            arrange,
            fabric: given(wire.fabric),
            exclusive: wire.exclusive,
            gpus_total: (wire.gpus_total > 0).then_some(wire.gpus_total),
        }
    }
}

impl From<Placing> for v1::Placement {
    fn from(core: Placing) -> Self {
        let arrange = match core.arrange {
            Arrange::Pack => v1::Arrange::Pack,
            Arrange::Spread => v1::Arrange::Spread,
        };
        Self {
            labels: core.labels.into_iter().collect(),
            anti_labels: core.anti_labels.into_iter().collect(),
            arrange: arrange.into(),
            fabric: core.fabric.unwrap_or_default(),
            exclusive: core.exclusive,
            gpus_total: core.gpus_total.unwrap_or_default(),
        }
    }
}

impl From<v1::ArrayPlace> for ArrayPlace {
    fn from(wire: v1::ArrayPlace) -> Self {
        Self {
            id: JobId(wire.id),
            index: wire.index,
            size: wire.size,
            at_most: (wire.at_most > 0).then_some(wire.at_most),
        }
    }
}

impl From<ArrayPlace> for v1::ArrayPlace {
    fn from(core: ArrayPlace) -> Self {
        Self {
            id: core.id.0,
            index: core.index,
            size: core.size,
            at_most: core.at_most.unwrap_or_default(),
        }
    }
}

/// How many nodes, which, and when; all else is as it is by default.
pub(super) fn scheduled(wire: &mut v1::JobSpec) -> JobSpec {
    let launcher = match wire.launcher() {
        v1::Launcher::Unspecified | v1::Launcher::Plain => Launcher::Plain,
        v1::Launcher::Torchrun => Launcher::Torchrun,
    };
    let jobs = |wire: &mut Vec<u64>| std::mem::take(wire).into_iter().map(JobId).collect();
    JobSpec {
        nodes: wire.nodes.max(1),
        launcher,
        procs_per_node: (wire.procs_per_node > 0).then_some(wire.procs_per_node),
        placement: wire.placement.take().unwrap_or_default().into(),
        preemptible: wire.preemptible,
        not_before: wire.not_before.as_ref().map(time),
        after: jobs(&mut wire.after),
        after_any: jobs(&mut wire.after_any),
        indices: given(std::mem::take(&mut wire.indices)),
        array: wire.array.take().map(Into::into),
        ..JobSpec::default()
    }
}

pub(super) fn numbers(core: Vec<JobId>) -> Vec<u64> {
    core.into_iter().map(|job| job.0).collect()
}
