//! The GPUs of this machine while the agent works: how much of their memory is in use.
//!
//! Owns the border to the driver. Decides nothing: core says when a GPU is free. Called when a task has ended.

use std::{collections::BTreeMap, fmt, sync::Arc};

use nvml_wrapper::Nvml;
use trainyard_core::device::{GivingBack, Used};

/// Who is asked about GPUs: the driver, or a fake.
pub trait Devices: fmt::Debug + Send + Sync {
    /// The memory in use on the GPU of this UUID, in bytes.
    fn used(&self, uuid: &str) -> Used;
}

/// GPUs that are only pretended: nobody can use their memory.
#[derive(Debug)]
pub struct Pretended;

impl Devices for Pretended {
    fn used(&self, _uuid: &str) -> Used {
        Ok(0)
    }
}

#[derive(Debug)]
struct Driver(Nvml);

impl Devices for Driver {
    fn used(&self, uuid: &str) -> Used {
        let device = self.0.device_by_uuid(uuid);
        let memory = device.and_then(|device| device.memory_info());
        memory
            .map(|memory| memory.used)
            .map_err(|error| error.to_string())
    }
}

/// The GPUs of a node, and what is asked of one before it is given back.
#[derive(Clone, Debug)]
pub struct Gpus {
    /// Their UUIDs.
    pub uuids: Vec<String>,
    /// Who knows about them.
    pub devices: Arc<dyn Devices>,
    /// When one is free.
    pub rule: GivingBack,
}

impl Gpus {
    /// The GPUs of these UUIDs, with the devices that are given, else with the machine's driver; pretended ones need none.
    pub(crate) fn find(
        uuids: Vec<String>,
        given: Option<Arc<dyn Devices>>,
        pretended: bool,
        rule: GivingBack,
    ) -> Self {
        let driver = || {
            let none = pretended || uuids.is_empty();
            let nvml = if none {
                None
            } else {
                crate::inventory::driver()
            };
            nvml.map(|nvml| Arc::new(Driver(nvml)) as Arc<dyn Devices>)
        };
        let devices = given.or_else(driver);
        Self {
            devices: devices.unwrap_or_else(|| Arc::new(Pretended)),
            uuids,
            rule,
        }
    }

    /// What is in use on each of these. Blocks on the driver.
    #[must_use]
    pub fn used(&self, uuids: &[String]) -> BTreeMap<String, Used> {
        let ask = |uuid: &String| (uuid.clone(), self.devices.used(uuid));
        uuids.iter().map(ask).collect()
    }
}
