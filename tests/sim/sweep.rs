//! Runs of one seed that differ in one thing: at which sync of the store, or at which write of an agent, somebody is gone.
//!
//! Owns nothing. Called by `main`.

use anyhow::{Context as _, Result};

use crate::{Arguments, one, words};

const MOMENTS: [&str; 3] = ["before", "amid", "after"];

/// A run for each sync that a calm run of the seed has once its store is made, and for each moment of it.
pub(crate) fn cuts(arguments: &Arguments) -> Result<Vec<Vec<String>>> {
    let cut = |sync: usize, moment: &str| {
        let mut words = words(arguments, arguments.seed);
        let sync = sync.to_string();
        words.extend(["--cut-at", &sync, "--moment", moment].map(str::to_owned));
        words
    };
    // It never comes to this one.
    let calm = one(&cut(usize::try_from(u32::MAX)?, "amid"))?;
    let said = String::from_utf8_lossy(&calm.stdout).into_owned();
    let syncs = said.lines().find_map(|line| line.strip_prefix("syncs "));
    let syncs = syncs.and_then(|range| range.split_once(' '));
    let (first, end) = syncs.with_context(|| format!("the calm run has failed: {said}"))?;
    let syncs = (first.parse()?..end.parse()?).step_by(arguments.stride.max(1));
    Ok(syncs
        .flat_map(|sync| MOMENTS.map(|moment| cut(sync, moment)))
        .collect())
}

/// A run for each write that is to last which each agent makes in a calm run of the seed, and for each moment of it: the
/// agent is gone then, and in another run its machine, with whose writes those of shims count.
pub(crate) fn ends(arguments: &Arguments) -> Result<Vec<Vec<String>>> {
    let end = |node: usize, (write, moment): (u32, &str), gone: &str| {
        let mut words = words(arguments, arguments.seed);
        let (node, write) = (node.to_string(), write.to_string());
        let more = ["--end-agent", &node, "--at-write", &write];
        words.extend(more.map(str::to_owned));
        words.extend(["--moment", moment, "--gone", gone].map(str::to_owned));
        words
    };
    let calm = one(&end(0, (u32::MAX, "amid"), "program"))?;
    let said = String::from_utf8_lossy(&calm.stdout).into_owned();
    let writes = said.lines().filter_map(|line| line.strip_prefix("writes "));
    let mut runs = Vec::new();
    for (node, writes) in writes.enumerate() {
        let (agents, all) = writes.split_once(' ').context("two numbers")?;
        for (gone, writes) in [("program", agents), ("power", all)] {
            let writes = 0..writes.parse()?;
            let moments = writes.flat_map(|write| MOMENTS.map(|moment| (write, moment)));
            runs.extend(moments.map(|moment| end(node, moment, gone)));
        }
    }
    anyhow::ensure!(!runs.is_empty(), "the calm run has failed: {said}");
    Ok(runs.into_iter().step_by(arguments.stride.max(1)).collect())
}
