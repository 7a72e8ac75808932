//! How a trainer starts, or why it does not, and what it finds.

use std::{io::ErrorKind::NotFound, os::unix::fs::PermissionsExt, time::Duration};

use trainyard_agent::exec::{
    ProcIdent,
    launch::{LaunchError, read_processes},
    watch::request_stop,
};

use crate::support::*;

pub(crate) async fn an_exit_code_is_recorded() {
    let task = folder();
    let record = finish(&task, "exit 7").await;
    assert_eq!((record.code, record.signal), (Some(7), None));
    assert!(record.max_rss_bytes > 0);
    assert!(record.started_at_us <= record.ended_at_us);
    assert!(record.ran_us.is_some_and(|ran| ran > 0));
    assert_eq!((record.killed_leftovers, record.output_lost_bytes), (0, 0));
}

pub(crate) async fn a_death_by_signal_is_recorded() {
    let task = folder();
    let record = finish(&task, "kill -SEGV $$").await;
    assert_eq!((record.code, record.signal), (None, Some(11)));
    assert!(!record.oom_killed);
}

pub(crate) async fn a_missing_program_is_named() {
    let task = folder();
    let error = refusal(&task, &spec(&["no-such-trainer"])).await;
    assert!(matches!(error, LaunchError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("no-such-trainer"), "{error}");
    assert_eq!(read_processes(task.path()).expect("no file is fine"), None);
}

pub(crate) async fn a_file_without_x_bit_is_named() {
    let task = folder();
    let file = task.path().join("train.py");
    std::fs::write(&file, "print()").expect("the file is written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let path = file.display().to_string();
    let error = refusal(&task, &spec(&[&path])).await;
    assert!(
        matches!(error, LaunchError::NotExecutable { .. }),
        "{error}"
    );
    assert!(error.to_string().contains(&path), "{error}");
}

pub(crate) async fn what_no_machine_could_start_is_the_jobs_own_fault() {
    let task = folder();
    let ring = task.path().join("ring");
    std::os::unix::fs::symlink(&ring, &ring).expect("a link to itself");
    let ring = ring.display().to_string();
    let one_word = format!("python train.py {}", "--x 1 ".repeat(60));
    let long = "x".repeat(200_000);
    let cases: [(&[&str], &str); 4] = [
        (&[&one_word], "255 bytes"),
        (&[&ring], "symbolic links"),
        (&["true", &long], "128 KiB"),
        (&["true", "\0"], "NUL"),
    ];
    for (argv, words) in cases {
        let error = refusal(&task, &spec(argv)).await;
        assert!(matches!(error, LaunchError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let folder = task.path().display().to_string();
    let error = refusal(&task, &spec(&[&folder])).await;
    assert!(
        matches!(error, LaunchError::NotExecutable { .. }),
        "{error}"
    );
}

pub(crate) async fn a_program_that_is_being_written_is_nobodys_fault() {
    let task = folder();
    let program = task.path().join("program");
    std::fs::copy("/bin/true", &program).expect("a copy");
    let writer = std::fs::File::options().append(true).open(&program);
    let writer = writer.expect("it is opened");
    let path = program.display().to_string();
    let error = refusal(&task, &spec(&[&path])).await;
    assert!(matches!(error, LaunchError::Busy { .. }), "{error}");
    drop(writer);
}

pub(crate) async fn a_missing_folder_is_named() {
    let task = folder();
    let mut spec = spec(&["true"]);
    spec.cwd = task.path().join("nowhere");
    let error = refusal(&task, &spec).await;
    assert!(error.to_string().contains("nowhere"), "{error}");
}

pub(crate) async fn the_environment_is_whole_and_nothing_is_inherited() {
    let task = folder();
    finish(&task, "exec env").await;
    let mut lines = texts(&task);
    // The shell adds its own, and the launcher its mark.
    lines.retain(|line| {
        !["PWD=", "OLDPWD=", "SHLVL=", "_=", "TRAINYARD_MARK="]
            .iter()
            .any(|own| line.starts_with(own))
    });
    lines.sort();
    let dir = format!("DIR={}", task.path().display());
    assert_eq!(lines, [dir.as_str(), "PATH=/usr/bin:/bin"]);
}

pub(crate) async fn a_running_task_is_not_launched_twice() {
    let task = folder();
    let mut launched = start(&task, "sleep 1000").await;
    let error = refusal(&task, &spec(&["true"])).await;
    assert!(
        matches!(error, LaunchError::AlreadyRunning { .. }),
        "{error}"
    );
    request_stop(task.path(), &launched.shim, Duration::ZERO).expect("it is signalled");
    end_of(&task, &mut launched).await;
}

pub(crate) async fn a_shim_that_has_not_said_who_it_is_keeps_a_second_one_away() {
    let task = folder();
    let mut launched = start(&task, "sleep 1000").await;
    // As it is found by an agent whose predecessor died in the middle of the launch.
    std::fs::remove_file(task.path().join("proc.json")).expect("it is there");
    let error = refusal(&task, &spec(&["true"])).await;
    let LaunchError::AlreadyRunning { pid, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(pid, launched.shim.pid);
    // Nor does one that is started by other hands.
    let command = shim_command();
    let (program, arguments) = command.split_first().expect("it is not empty");
    let mut by_hand = std::process::Command::new(program);
    let output = by_hand.args(arguments).arg(task.path()).output();
    let said = String::from_utf8(output.expect("it ends").stdout).expect("text");
    assert_eq!(said.trim(), format!(r#"{{"RunsAlready":{pid}}}"#));
    request_stop(task.path(), &launched.shim, Duration::ZERO).expect("it is signalled");
    end_of(&task, &mut launched).await;
}

pub(crate) async fn many_launches_leave_no_zombie() {
    for code in 0..20 {
        let task = folder();
        let mut launched = start(&task, &format!("echo {code}; exit {code}")).await;
        assert_eq!(end_of(&task, &mut launched).await.code, Some(code));
        assert!(ProcIdent::of(launched.shim.pid).is_err_and(|gone| gone.kind() == NotFound));
        assert_eq!(texts(&task), [code.to_string()]);
    }
}
