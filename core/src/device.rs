//! When the GPUs of a task that has ended may be given to another.
//!
//! Pure: by what the driver and the kernel say. A process that is gone can leave memory in use for a moment, and one that
//! hangs in the driver for ever; whoever is placed there next would run out of memory by no fault of its own.

use std::{collections::BTreeMap, time::Duration};

use crate::resources::format_bytes;

/// What is asked of a GPU before it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivingBack {
    /// Memory in use below this is nobody's: the driver's own.
    pub free_below: u64,
    /// For how long it is waited for; not at all when zero.
    pub patience: Duration,
}

impl Default for GivingBack {
    fn default() -> Self {
        Self {
            free_below: 1 << 30,
            patience: Duration::from_secs(30),
        }
    }
}

/// What is seen of a GPU: bytes in use, or why the driver does not say.
pub type Used = Result<u64, String>;

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They may be given back.
    Free,
    /// Not yet.
    Wait,
    /// Too long: these get no jobs, for these reasons.
    Blocked(BTreeMap<String, String>),
}

impl GivingBack {
    /// Judges what is left of a task on its GPUs so long after its end: processes, and memory by GPU.
    #[must_use]
    pub fn judge(
        &self,
        waited: Duration,
        processes: &[i32],
        gpus: &BTreeMap<String, Used>,
    ) -> Verdict {
        if self.patience.is_zero() {
            return Verdict::Free;
        }
        let held = |(uuid, used): (&String, &Used)| {
            let why = self.held(processes, used)?;
            Some((uuid.clone(), why))
        };
        let held: BTreeMap<_, _> = gpus.iter().filter_map(held).collect();
        if held.is_empty() {
            Verdict::Free
        } else if waited < self.patience {
            Verdict::Wait
        } else {
            Verdict::Blocked(held)
        }
    }

    /// Why a GPU cannot be given away.
    #[must_use]
    pub fn held(&self, processes: &[i32], used: &Used) -> Option<String> {
        if !processes.is_empty() {
            let pids: Vec<_> = processes.iter().map(ToString::to_string).collect();
            let pids = pids.join(", ");
            return Some(format!(
                "processes of its last task do not end: {pids}; look at them, or start the machine anew"
            ));
        }
        match used {
            Ok(used) if *used < self.free_below => None,
            Ok(used) => Some(format!(
                "{} of its memory are in use though no task holds it; see with nvidia-smi by whom",
                format_bytes(*used)
            )),
            Err(why) => Some(format!("the driver does not say what is in use: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: GivingBack = GivingBack {
        free_below: 1_000,
        patience: Duration::from_secs(30),
    };
    const LATE: Duration = Duration::from_secs(30);

    fn gpus(used: &[Used]) -> BTreeMap<String, Used> {
        let named = |(number, used): (usize, &Used)| (format!("GPU-{number}"), used.clone());
        used.iter().enumerate().map(named).collect()
    }

    #[test]
    fn a_gpu_goes_back_when_its_processes_are_gone_and_its_memory_is_free() {
        let free = gpus(&[Ok(0), Ok(999)]);
        assert_eq!(RULE.judge(Duration::ZERO, &[], &free), Verdict::Free);
        assert_eq!(RULE.judge(Duration::ZERO, &[7], &free), Verdict::Wait);
        let full = gpus(&[Ok(0), Ok(1_000)]);
        assert_eq!(RULE.judge(Duration::ZERO, &[], &full), Verdict::Wait);
    }

    #[test]
    fn after_a_bounded_wait_only_the_gpu_that_is_held_is_blocked_and_says_why() {
        let seen = gpus(&[Ok(0), Ok(2 << 30), Err("it is lost".into())]);
        let Verdict::Blocked(held) = RULE.judge(LATE, &[], &seen) else {
            panic!("it waits on");
        };
        assert_eq!(held.keys().collect::<Vec<_>>(), ["GPU-1", "GPU-2"]);
        assert!(held["GPU-1"].starts_with("2 GiB of its memory"), "{held:?}");
        assert!(held["GPU-2"].ends_with("it is lost"), "{held:?}");
        let Verdict::Blocked(held) = RULE.judge(LATE, &[7, 8], &seen) else {
            panic!("it waits on");
        };
        assert_eq!(held.len(), 3, "a process may hold any of them");
        assert!(held["GPU-0"].contains("7, 8"), "{held:?}");
    }

    #[test]
    fn without_patience_nothing_is_asked() {
        let rule = GivingBack {
            patience: Duration::ZERO,
            ..RULE
        };
        assert_eq!(rule.judge(LATE, &[7], &gpus(&[Ok(1 << 40)])), Verdict::Free);
    }
}
