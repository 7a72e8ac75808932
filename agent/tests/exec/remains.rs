//! Shims that are killed: nothing of their trainers is left, with control groups and without, also after a restart.
//!
//! Owns these cases. Called by the cases' main.

use tempfile::TempDir;
use trainyard_agent::exec::launch::{Launched, read_processes};
use trainyard_agent::exec::watch::{ShimVanished, wait_exit};

use crate::support::*;

pub(crate) async fn a_killed_shim_leaves_no_process_of_its_trainer() {
    let task = folder();
    let (mut launched, family) = start_family(&task).await;
    kill_shim(&mut launched).await;
    let error = wait_exit(task.path(), &launched.shim).await;
    let error = error.expect_err("nobody wrote a record");
    assert!(matches!(error, ShimVanished::TrainerGone { .. }), "{error}");
    assert_eq!(family.living(), [0; 0]);
}

pub(crate) async fn a_killed_shim_leaves_no_process_of_its_trainer_where_there_are_no_control_groups()
 {
    let task = folder();
    let (mut launched, family) = start_family(&task).await;
    forget_group(&task);
    kill_shim(&mut launched).await;
    // As an agent finds it that was away meanwhile: nothing but the folder is left of the launch.
    let shim = launched.shim.clone();
    drop(launched);
    let error = wait_exit(task.path(), &shim).await;
    let error = error.expect_err("nobody wrote a record");
    assert!(matches!(error, ShimVanished::TrainerGone { .. }), "{error}");
    assert_eq!(family.living(), [0; 0]);
}

pub(crate) async fn what_a_shim_left_that_never_said_who_it_is_ends_before_the_task_is_launched_again()
 {
    let task = folder();
    let (mut launched, family) = start_family(&task).await;
    forget_group(&task);
    std::fs::remove_file(task.path().join("proc.json")).expect("it is there");
    kill_shim(&mut launched).await;
    until(|| !alive(launched.trainer.pid)).await;
    assert!(!family.living().is_empty(), "what has left it lives on");
    let record = finish(&task, "exit 6").await;
    assert_eq!(record.code, Some(6));
    assert_eq!(family.living(), [0; 0]);
}

async fn kill_shim(launched: &mut Launched) {
    let shim = launched.child.as_mut().expect("a shim");
    shim.start_kill().expect("the shim is killed");
    shim.wait().await.expect("the shim is reaped");
}

/// As if none could have been made.
fn forget_group(task: &TempDir) {
    let path = task.path().join("proc.json");
    let mut processes = read_processes(task.path())
        .expect("proc.json is read")
        .expect("proc.json is there");
    processes.cgroup = None;
    let text = serde_json::to_vec(&processes).expect("JSON");
    std::fs::write(path, text).expect("proc.json is written");
}

/// A trainer's child, and one in a session of its own that was forked twice.
struct Family(Vec<i32>);

impl Family {
    fn living(&self) -> Vec<i32> {
        self.0.iter().copied().filter(|&pid| alive(pid)).collect()
    }
}

async fn start_family(task: &TempDir) -> (Launched, Family) {
    let script = "(setsid sh -c 'trap \"\" TERM; echo $$ > $DIR/far; sleep 1000; sleep 1000' > /dev/null 2>&1 &)
        sh -c 'echo $$ > $DIR/child; exec sleep 1000' & sleep 1000";
    let launched = start(task, script).await;
    let (far, child) = (pid_in(task, "far").await, pid_in(task, "child").await);
    let family = Family(vec![far, child, launched.trainer.pid]);
    assert_eq!(family.living().len(), 3);
    (launched, family)
}
