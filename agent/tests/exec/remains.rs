//! Shims that are killed: nothing of their trainers is left, with control groups and without, also after a restart.
//!
//! Owns these cases. Called by the cases' main.

use std::path::PathBuf;

use tempfile::TempDir;
use trainyard_agent::exec::launch::{Launched, read_processes};
use trainyard_agent::exec::remains::remains;
use trainyard_agent::exec::watch::{ShimVanished, wait_exit};

use crate::support::*;

pub(crate) async fn a_killed_shim_leaves_no_process_of_its_trainer() {
    let task = folder();
    let with_groups = can_make_groups();
    let (mut launched, mut family) = start_family_and(&task, with_groups.then_some(BARE)).await;
    if with_groups {
        let processes = read_processes(task.path()).expect("proc.json is read");
        let group = processes.and_then(|processes| processes.cgroup);
        assert!(group.is_some(), "one can be made here");
        let bare = pid_in(&task, "bare").await;
        let found = remains(task.path()).expect("it is looked at");
        assert!(found.contains(&bare), "by the group alone: {found:?}");
        family.0.push(bare);
    }
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

pub(crate) async fn what_a_trainer_has_put_into_a_control_group_below_its_own_ends_with_the_rest() {
    if !can_make_groups() {
        return;
    }
    let task = folder();
    let mut launched = start(&task, &format!("{BARE}\nexec sleep 1000")).await;
    let bare = pid_in(&task, "bare").await;
    let processes = read_processes(task.path()).expect("proc.json is read");
    let group = processes.and_then(|processes| processes.cgroup);
    let below = group.expect("one can be made here").join("below");
    std::fs::create_dir(&below).expect("a group below");
    std::fs::write(below.join("cgroup.procs"), bare.to_string()).expect("it goes there");
    kill_shim(&mut launched).await;
    // Nothing else of the trainer is left by which it would be looked for.
    until(|| !alive(launched.trainer.pid)).await;
    assert!(alive(bare));
    let error = wait_exit(task.path(), &launched.shim).await;
    let error = error.expect_err("nobody wrote a record");
    assert!(matches!(error, ShimVanished::TrainerGone { .. }), "{error}");
    assert!(!alive(bare));
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
    start_family_and(task, None).await
}

/// One more, without session, parent and mark of the trainer: it is found by the control group alone.
const BARE: &str =
    r#"(env -i setsid sh -c "echo \$\$ > $DIR/bare; exec sleep 1000" > /dev/null 2>&1 &)"#;

async fn start_family_and(task: &TempDir, more: Option<&str>) -> (Launched, Family) {
    let script = "(setsid sh -c 'trap \"\" TERM; echo $$ > $DIR/far; sleep 1000; sleep 1000' > /dev/null 2>&1 &)
        sh -c 'echo $$ > $DIR/child; exec sleep 1000' & sleep 1000";
    let script = format!("{}\n{script}", more.unwrap_or_default());
    let launched = start(task, &script).await;
    let (far, child) = (pid_in(task, "far").await, pid_in(task, "child").await);
    let family = Family(vec![far, child, launched.trainer.pid]);
    assert_eq!(family.living().len(), 3);
    (launched, family)
}

/// Whether a control group that can be killed as a whole can be made below the one of this process.
fn can_make_groups() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (groups, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let whole = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (root == "/" && right.starts_with("cgroup2 ")).then(|| PathBuf::from(place))
    };
    let (Some(own), Some(mount)) = (own, mounts.lines().find_map(whole)) else {
        return false;
    };
    let group = mount
        .join(own)
        .join(format!("trainyard-test-{}", std::process::id()));
    let made = std::fs::create_dir(&group).is_ok();
    let kills = group.join("cgroup.kill").exists();
    if made {
        std::fs::remove_dir(&group).expect("nobody is in it");
    }
    made && kills
}
