//! A task that runs is found again by its folder, however little can be seen of it.

use std::{path::Path, process::ExitCode, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use trainyard_agent::exec::{
    ident,
    launch::read_processes,
    watch::{request_stop, wait_exit},
};

use crate::{LIMIT, STARVED, support::*};

pub(crate) async fn a_task_is_found_again_by_its_folder() {
    let task = folder();
    let script = "echo $$ > $DIR/ready; until [ -e $DIR/go ]; do :; done; exit 5";
    let launched = start(&task, script).await;
    let found = read_processes(task.path())
        .expect("proc.json is read")
        .expect("proc.json is there");
    assert_eq!(
        (&found.shim, &found.trainer),
        (&launched.shim, &launched.trainer)
    );
    // Nothing but the folder is left of the launch.
    drop(launched);
    let held = |ident| ident::adopt(ident).expect("it can be looked at").is_some();
    assert!(held(&found.shim) && held(&found.trainer));
    assert_eq!(pid_in(&task, "ready").await, found.trainer.pid);
    std::fs::write(task.path().join("go"), "").expect("the go is given");
    let record = wait_exit(task.path(), &found.shim).await.expect("a record");
    assert_eq!(record.code, Some(5));
    let again = wait_exit(task.path(), &found.shim).await.expect("a record");
    assert_eq!(again, record);
}

pub(crate) async fn a_task_that_cannot_be_looked_at_is_not_given_up() {
    let task = folder();
    let mut launched = start(&task, "sleep 1000").await;
    let me = std::env::current_exe().expect("the path of this test");
    let mut watcher = tokio::process::Command::new(me);
    watcher.arg(STARVED).arg(task.path());
    assert!(watcher.status().await.expect("it runs").success());
    assert!(alive(launched.trainer.pid), "nobody has touched it");
    request_stop(task.path(), &launched.shim, Duration::ZERO).expect("it is signalled");
    end_of(&task, &mut launched).await;
}

/// A process of its own: the limit is one for all of its threads.
pub(crate) fn starved(task_dir: &Path) -> ExitCode {
    let shim = read_processes(task_dir).expect("proc.json is read");
    let shim = shim.expect("proc.json is there").shim;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let limit = |current| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("the limit is set");
    };
    let before = getrlimit(Resource::Nofile).current;
    runtime.block_on(async {
        limit(Some(0));
        assert!(ident::adopt(&shim).is_err(), "not the same as gone");
        assert!(
            request_stop(task_dir, &shim, LIMIT).is_err(),
            "not the same as gone"
        );
        tokio::select! {
            biased;
            gone = wait_exit(task_dir, &shim) => panic!("it runs: {gone:?}"),
            () = std::future::ready(()) => {}
        }
        limit(before);
        assert!(ident::adopt(&shim).expect("it can be looked at").is_some());
    });
    ExitCode::SUCCESS
}
