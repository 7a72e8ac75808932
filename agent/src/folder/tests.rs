//! What is found again in the folders of tasks, on a real disk. Owns no product code; called by the test runner.

use super::*;
use crate::exec::ProcIdent;

fn order() -> Order {
    let mut spec = JobSpec::default();
    spec.environment.insert("KEY".into(), "hunter2".into());
    Order {
        task: TaskKey {
            job: JobId(7),
            attempt: AttemptNo(2),
            rank: Rank(0),
        },
        spec,
        gpu_uuids: vec!["GPU-1".into()],
        world_size: 1,
        secret: Secret::new("s3cret".into()),
        snapshot: None,
    }
}

#[test]
fn a_folder_is_found_again_with_its_order() {
    let tasks = tempfile::tempdir().unwrap();
    let folder = TaskFolder::of(tasks.path(), order().task);
    let data = tempfile::tempdir().unwrap();
    let spares = Spares::below(data.path());
    folder.create(&order(), &spares).unwrap();
    assert!(folder.path().ends_with("7-2-0"));
    let [found] = find(tasks.path()).unwrap().0.try_into().unwrap();
    assert_eq!((&found.folder, found.task), (&folder, order().task));
    assert_eq!(found.order.unwrap(), order());
    folder.remove(None).unwrap();
    folder.remove(None).unwrap();
    assert_eq!(fs::read_dir(tasks.path()).unwrap().count(), 0);
    // What could not be removed of an earlier one of its name is in the way of none.
    fs::create_dir_all(tasks.path().join(".gone-7-2-0/left")).unwrap();
    folder.create(&order(), &spares).unwrap();
    folder.remove(None).unwrap();
    assert_eq!(fs::read_dir(tasks.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_is_used_again_and_spare_ones_are_removed_at_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    let tasks = data.path().join("tasks");
    fs::create_dir(&tasks).unwrap();
    let next = TaskKey {
        job: JobId(8),
        ..order().task
    };
    let folder = TaskFolder::of(&tasks, order().task);
    let next = TaskFolder::of(&tasks, next);
    let spares = Spares::below(data.path());
    let count = |name: &str| fs::read_dir(data.path().join(name)).unwrap().count();
    folder.create(&order(), &spares).unwrap();
    folder.remove(Some(&spares)).unwrap();
    assert_eq!((count("tasks"), count("spares")), (0, 1));
    next.create(&order(), &spares).unwrap();
    assert_eq!((count("tasks"), count("spares")), (1, 0));
    assert!(next.created().unwrap() && !next.launched().unwrap());
    next.remove(Some(&spares)).unwrap();
    drop(Spares::below(data.path()));
    assert_eq!((count("tasks"), count("spares")), (0, 0));
}

#[test]
fn a_folder_whose_order_cannot_be_read_is_found_by_its_name() {
    let tasks = tempfile::tempdir().unwrap();
    let folder = TaskFolder::of(tasks.path(), order().task);
    let file = folder.path().join(TASK);
    fs::create_dir_all(&file).unwrap();
    let found = || find(tasks.path()).unwrap().0.pop().unwrap();
    assert!(found().order.is_err() && !found().is_damaged());
    fs::remove_dir(&file).unwrap();
    fs::write(&file, "{\"task\":").unwrap();
    assert!(found().is_damaged());
    assert_eq!(found().task, order().task);
    // One of a later version is not lost.
    fs::write(&file, "{\"task\":\"7-2-0\"}").unwrap();
    assert!(found().order.is_err() && !found().is_damaged());
}

#[test]
fn half_a_folder_is_cleared_away() {
    let tasks = tempfile::tempdir().unwrap();
    fs::create_dir(tasks.path().join("8-1-0")).unwrap();
    let folder = TaskFolder::of(&tasks.path().join(".."), order().task);
    let gone = tasks.path().join(format!("{GONE}7-2-0"));
    fs::create_dir(&gone).unwrap();
    durable::write_json(&gone.join(TASK), &order()).unwrap();
    assert!(find(tasks.path()).unwrap().0.is_empty());
    assert_eq!(fs::read_dir(tasks.path()).unwrap().count(), 0);
    assert!(!folder.launched().unwrap());
}

#[test]
fn what_cannot_be_cleared_away_hides_no_task() {
    let tasks = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(tasks.path().join(format!("{GONE}6-1-0"))).unwrap();
    fs::create_dir(tasks.path().join("8-1-0")).unwrap();
    let folder = TaskFolder::of(tasks.path(), order().task);
    folder
        .create(&order(), &Spares::below(data.path()))
        .unwrap();
    let found = find_and(tasks.path(), |_| Err(io::ErrorKind::ResourceBusy.into()));
    let (found, left) = found.unwrap();
    let [found] = found.try_into().unwrap();
    assert_eq!(found.task, order().task);
    let eighth = TaskKey {
        job: JobId(8),
        attempt: AttemptNo(1),
        rank: Rank(0),
    };
    assert_eq!(left, [eighth], "no order begins in it");
}

#[test]
fn neither_the_secret_nor_a_variable_is_shown() {
    let shown = format!("{:?}", order());
    assert!(
        !shown.contains("s3cret") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn since_when_a_trainer_runs_is_told_by_its_process_whatever_the_clock_was_when_it_began() {
    let place = tempfile::tempdir().unwrap();
    let folder = TaskFolder::of(place.path(), order().task);
    fs::create_dir(folder.path()).unwrap();
    let own = ProcIdent::current().unwrap();
    let record = |trainer: &ProcIdent| ProcRecord {
        shim: own.clone(),
        trainer: trainer.clone(),
        cgroup: None,
    };
    let path = folder.path().join("proc.json");
    let now = fs::metadata(folder.path()).unwrap().modified().unwrap();
    let two_hours_ago = now - std::time::Duration::from_secs(7_200);
    let write = |trainer: &ProcIdent| {
        fs::write(&path, serde_json::to_vec(&record(trainer)).unwrap()).unwrap();
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(two_hours_ago).unwrap();
    };
    write(&own);
    let (_, since) = folder.processes().unwrap().unwrap();
    assert!(clock::now().since(since) < std::time::Duration::from_secs(3_600));
    // Nothing else is known of a process of another boot.
    let gone = ProcIdent {
        boot_id: "another".to_owned(),
        ..own.clone()
    };
    write(&gone);
    let (_, since) = folder.processes().unwrap().unwrap();
    assert_eq!(since, clock::of(two_hours_ago));
}
