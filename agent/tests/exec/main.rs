//! The process side with real processes: this very binary is the shim when it is asked to be.
//!
//! Owns the cases that only a kernel can answer. It never sleeps: it waits for conditions, bounded.
//! `cargo test` calls it.

mod remains;
mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::Signal;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::ErrorKind::NotFound;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use trainyard_agent::exec::launch::{LaunchError, launch, read_processes};
use trainyard_agent::exec::output::{OutputReader, Stream};
use trainyard_agent::exec::shims::Shims;
use trainyard_agent::exec::watch::{Stop, request_stop, wait_exit};
use trainyard_agent::exec::{LaunchSpec, ProcIdent, ident, shim};

use remains::*;
use support::*;

const LIMIT: Duration = Duration::from_secs(30);
/// The command under which this binary watches a task without any file descriptor left.
const STARVED: &str = "starved";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, task_dir] = arguments.as_slice()
        && command == "shim"
    {
        return ExitCode::from(u8::try_from(shim::main(Path::new(task_dir))).unwrap_or(u8::MAX));
    }
    if let [_, command, task_dir] = arguments.as_slice()
        && command == STARVED
    {
        return starved(Path::new(task_dir));
    }
    libtest_mimic::run(&Arguments::from_args(), cases()).exit_code()
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        fn cases() -> Vec<Trial> {
            vec![$(Trial::test(stringify!($name), || run(stringify!($name), $name()))),*]
        }
    };
}

cases! {
    an_exit_code_is_recorded, a_death_by_signal_is_recorded, a_missing_program_is_named,
    a_file_without_x_bit_is_named, a_missing_folder_is_named,
    the_environment_is_whole_and_nothing_is_inherited,
    a_trainer_that_ignores_sigterm_is_killed_after_the_grace,
    a_trainer_that_heeds_sigterm_ends_by_itself,
    a_second_stop_can_shorten_the_grace_and_a_late_one_reaches_nobody,
    leftovers_are_killed_even_in_a_session_of_their_own, lines_of_both_streams_keep_their_order,
    a_line_of_one_megabyte_is_whole_in_pieces, a_progress_bar_leaves_its_last_state,
    a_last_line_without_end_is_kept, bytes_that_are_not_text_are_read_leniently,
    output_that_cannot_be_written_is_counted_and_blocks_nobody, reading_goes_on_where_it_was_left,
    a_stopped_trainer_is_woken_to_be_ended, a_task_is_found_again_by_its_folder,
    a_running_task_is_not_launched_twice,
    a_shim_that_has_not_said_who_it_is_keeps_a_second_one_away,
    shims_are_forked_from_one_process_that_ends_with_whoever_kept_it,
    what_a_forked_shim_cannot_start_is_named, a_killed_zygote_takes_no_task_with_it_and_is_replaced,
    an_order_that_a_stopped_zygote_reads_late_does_not_run_a_task_again_that_has_ended,
    tasks_begun_while_zygotes_are_killed_again_and_again_all_run_once, a_killed_shim_leaves_no_process_of_its_trainer,
    a_killed_shim_leaves_no_process_of_its_trainer_where_there_are_no_control_groups,
    what_a_shim_left_that_never_said_who_it_is_ends_before_the_task_is_launched_again,
    many_launches_leave_no_zombie, a_task_that_cannot_be_looked_at_is_not_given_up,
}

fn run(name: &str, case: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, case).await })
        .map_err(|_late| Failed::from(format!("{name} took more than {LIMIT:?}")))
}

async fn an_exit_code_is_recorded() {
    let task = folder();
    let record = finish(&task, "exit 7").await;
    assert_eq!((record.code, record.signal), (Some(7), None));
    assert!(record.max_rss_bytes > 0);
    assert!(record.started_at_us <= record.ended_at_us);
    assert_eq!((record.killed_leftovers, record.output_lost_bytes), (0, 0));
}

async fn a_death_by_signal_is_recorded() {
    let task = folder();
    let record = finish(&task, "kill -SEGV $$").await;
    assert_eq!((record.code, record.signal), (None, Some(11)));
    assert!(!record.oom_killed);
}

async fn a_missing_program_is_named() {
    let task = folder();
    let error = refusal(&task, &spec(&["no-such-trainer"])).await;
    assert!(matches!(error, LaunchError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("no-such-trainer"), "{error}");
    assert_eq!(read_processes(task.path()).expect("no file is fine"), None);
}

async fn a_file_without_x_bit_is_named() {
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

async fn a_missing_folder_is_named() {
    let task = folder();
    let mut spec = spec(&["true"]);
    spec.cwd = task.path().join("nowhere");
    let error = refusal(&task, &spec).await;
    assert!(error.to_string().contains("nowhere"), "{error}");
}

async fn the_environment_is_whole_and_nothing_is_inherited() {
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

async fn a_trainer_that_ignores_sigterm_is_killed_after_the_grace() {
    let task = folder();
    let script = "trap 'echo asked' TERM; echo $$ > $DIR/ready; while :; do sleep 1000; done";
    let mut launched = start(&task, script).await;
    pid_in(&task, "ready").await;
    // Long enough for its word on a busy machine.
    let grace = Duration::from_secs(2);
    let stop = request_stop(task.path(), &launched.shim, grace).expect("it is signalled");
    assert_eq!(stop, Stop::Asked);
    let record = end_of(&task, &mut launched).await;
    assert_eq!(record.signal, Some(9));
    assert!(!record.oom_killed);
    assert!(texts(&task).contains(&"asked".to_owned()));
}

async fn a_trainer_that_heeds_sigterm_ends_by_itself() {
    let task = folder();
    let script = "trap 'echo saved; exit 3' TERM; echo $$ > $DIR/ready; sleep 1000 & wait";
    let mut launched = start(&task, script).await;
    pid_in(&task, "ready").await;
    request_stop(task.path(), &launched.shim, LIMIT * 10).expect("it is signalled");
    let record = end_of(&task, &mut launched).await;
    assert_eq!(record.code, Some(3));
    assert_eq!(texts(&task), ["saved"]);
}

async fn a_second_stop_can_shorten_the_grace_and_a_late_one_reaches_nobody() {
    let task = folder();
    let mut launched = start(&task, "trap '' TERM; echo $$ > $DIR/ready; sleep 1000").await;
    pid_in(&task, "ready").await;
    request_stop(task.path(), &launched.shim, LIMIT * 10).expect("it is signalled");
    request_stop(task.path(), &launched.shim, Duration::ZERO).expect("it is signalled");
    assert_eq!(end_of(&task, &mut launched).await.signal, Some(9));
    let late = request_stop(task.path(), &launched.shim, Duration::ZERO).expect("no error");
    assert_eq!(late, Stop::AlreadyGone);
}

async fn leftovers_are_killed_even_in_a_session_of_their_own() {
    let task = folder();
    let script = "(setsid sh -c 'echo $$ > $DIR/far; exec sleep 1000' > /dev/null 2>&1 &)
        (sh -c 'echo $$ > $DIR/near; exec sleep 1000' &)
        until [ -s $DIR/far ] && [ -s $DIR/near ]; do :; done; exit 0";
    let record = finish(&task, script).await;
    let (far, near) = (pid_in(&task, "far").await, pid_in(&task, "near").await);
    assert_eq!((record.code, record.killed_leftovers), (Some(0), 2));
    assert!(!alive(far) && !alive(near));
}

async fn lines_of_both_streams_keep_their_order() {
    let task = folder();
    let script = "seen() { until grep -q $1 $DIR/output.log; do :; done; }
        echo one; seen one; echo two >&2; seen two; echo three; seen three; echo four >&2";
    finish(&task, script).await;
    assert_eq!(texts(&task), ["one", "two", "three", "four"]);
    let streams: Vec<Stream> = output(&task).iter().map(|line| line.stream).collect();
    assert_eq!(
        streams,
        [Stream::Out, Stream::Err, Stream::Out, Stream::Err]
    );
}

async fn a_line_of_one_megabyte_is_whole_in_pieces() {
    let task = folder();
    finish(
        &task,
        "head -c 1048576 /dev/zero | tr '\\0' x; echo; echo after",
    )
    .await;
    let mut lines = texts(&task);
    assert_eq!(lines.pop().as_deref(), Some("after"));
    assert!(lines.iter().all(|piece| piece.len() <= 64 * 1024));
    assert_eq!(lines.concat(), "x".repeat(1_048_576));
}

async fn a_progress_bar_leaves_its_last_state() {
    let task = folder();
    finish(&task, r"printf '10%%\r50%%\r100%%\ndone\r\n'").await;
    assert_eq!(texts(&task), ["100%", "done"]);
}

async fn a_last_line_without_end_is_kept() {
    let task = folder();
    finish(&task, "echo first; printf last").await;
    assert_eq!(texts(&task), ["first", "last"]);
}

async fn bytes_that_are_not_text_are_read_leniently() {
    let task = folder();
    finish(&task, r"printf 'a\377b\n'").await;
    assert_eq!(texts(&task), ["a\u{fffd}b"]);
    let raw = std::fs::read(task.path().join("output.log")).expect("the raw output");
    assert!(raw.ends_with(b"\na\xffb\n"));
}

async fn output_that_cannot_be_written_is_counted_and_blocks_nobody() {
    let task = folder();
    std::fs::create_dir(task.path().join("output.log")).expect("a folder in the way");
    let record = finish(&task, "head -c 300000 /dev/zero; echo; echo end >&2").await;
    assert_eq!((record.code, record.output_lost_bytes), (Some(0), 300_003));
}

async fn reading_goes_on_where_it_was_left() {
    let task = folder();
    finish(&task, "echo one; echo two; echo three").await;
    let path = task.path().join("output.log");
    let mut reader = OutputReader::open(&path, 0).expect("it is there");
    let first = reader.read_lines(1).expect("one line").remove(0);
    assert_eq!(first.text, "one");
    let mut later = OutputReader::open(&path, first.offset_after).expect("it is there");
    let rest = later.read_lines(10).expect("two lines");
    assert_eq!(rest, reader.read_lines(10).expect("two lines"));
    assert_eq!(rest.len(), 2);
    assert!(reader.read_lines(10).expect("no line").is_empty());
}

async fn a_stopped_trainer_is_woken_to_be_ended() {
    let task = folder();
    let mut launched = start(
        &task,
        "trap 'exit 4' TERM; kill -STOP $$; while :; do :; done",
    )
    .await;
    let stat = format!("/proc/{}/stat", launched.trainer.pid);
    until(|| std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") T "))).await;
    request_stop(task.path(), &launched.shim, LIMIT * 10).expect("it is signalled");
    assert_eq!(end_of(&task, &mut launched).await.code, Some(4));
}

async fn a_task_is_found_again_by_its_folder() {
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

async fn a_running_task_is_not_launched_twice() {
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

async fn a_shim_that_has_not_said_who_it_is_keeps_a_second_one_away() {
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

async fn shims_are_forked_from_one_process_that_ends_with_whoever_kept_it() {
    let shims = Shims::new(shim_command());
    shims.keep_ready();
    let zygote = shims.zygote().expect("it is there");
    shims.keep_ready();
    for code in [3, 4] {
        let task = folder();
        let script = format!("echo {code}; no-such-word; exit {code}");
        let spec = spec(&["sh", "-c", &script]);
        let mut launched = launch(&shims, task.path(), &spec).await.expect("it starts");
        assert!(launched.child.is_none(), "it was forked");
        let record = end_of(&task, &mut launched).await;
        assert_eq!(record.code, Some(code));
        assert_eq!(texts(&task).first().cloned(), Some(code.to_string()));
        assert!(task.path().join("shim.err").exists());
        let gone = || ProcIdent::of(launched.shim.pid).is_err();
        until(gone).await;
    }
    assert_eq!(shims.zygote(), Some(zygote));
    drop(shims);
    until(|| ProcIdent::of(zygote).is_err()).await;
}

async fn what_a_forked_shim_cannot_start_is_named() {
    let shims = Shims::new(shim_command());
    shims.keep_ready();
    let task = folder();
    let refused = launch(&shims, task.path(), &spec(&["/no/such/program"])).await;
    let error = refused.expect_err("it cannot be started");
    assert!(matches!(error, LaunchError::NotFound { .. }), "{error}");
    let launched = launch(&shims, folder().path(), &spec(&["true"])).await;
    assert!(launched.expect("another is not harmed").child.is_none());
}

async fn a_killed_zygote_takes_no_task_with_it_and_is_replaced() {
    let shims = Shims::new(shim_command());
    shims.keep_ready();
    let task = folder();
    let running = spec(&["sh", "-c", "read line < go; exit 5"]);
    let cwd = task.path().to_owned();
    let running = LaunchSpec { cwd, ..running };
    nix::unistd::mkfifo(&task.path().join("go"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut launched = launch(&shims, task.path(), &running)
        .await
        .expect("it starts");
    let zygote = shims.zygote().expect("it is there");
    kill(zygote);
    // Whatever it has heard of its death by now, the next task is started.
    let other = folder();
    let mut next = launch(&shims, other.path(), &spec(&["sh", "-c", "exit 6"]))
        .await
        .expect("it starts without it");
    assert_eq!(end_of(&other, &mut next).await.code, Some(6));
    until(|| {
        shims.keep_ready();
        shims.zygote().is_some_and(|new| new != zygote)
    })
    .await;
    assert!(alive(launched.trainer.pid) && alive(launched.shim.pid));
    std::fs::write(task.path().join("go"), "on\n").expect("the trainer reads");
    assert_eq!(end_of(&task, &mut launched).await.code, Some(5));
}

async fn tasks_begun_while_zygotes_are_killed_again_and_again_all_run_once() {
    let shims = std::sync::Arc::new(Shims::new(shim_command()));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..24 {
        let shims = std::sync::Arc::clone(&shims);
        shims.keep_ready();
        if number % 3 == 2 {
            // It may be dying already.
            if let Some(zygote) = shims.zygote() {
                kill(zygote);
            }
        }
        tasks.spawn(async move {
            let task = folder();
            let script = format!("mkdir $DIR/ran && exit {number}");
            let mut spec = spec(&["sh", "-c", &script]);
            let dir = task.path().display().to_string();
            spec.env.insert("DIR".to_owned(), dir);
            let mut launched = launch(&shims, task.path(), &spec).await.expect("it starts");
            assert_eq!(end_of(&task, &mut launched).await.code, Some(number));
        });
        tokio::task::yield_now().await;
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("it ran");
    }
}

async fn an_order_that_a_stopped_zygote_reads_late_does_not_run_a_task_again_that_has_ended() {
    for record in ["exit.json", "end.json"] {
        let shims = Shims::new(shim_command());
        shims.keep_ready();
        let zygote = shims.zygote().expect("it is there");
        signal(zygote, Signal::SIGSTOP);
        let task = folder();
        let mut spec = spec(&["sh", "-c", "echo run >> $DIR/runs"]);
        let dir = task.path().display().to_string();
        spec.env.insert("DIR".to_owned(), dir);
        {
            // It has not got further than that when its agent dies.
            let launching = launch(&shims, task.path(), &spec);
            let mut launching = std::pin::pin!(launching);
            let ordered = Duration::from_millis(200);
            let begun = tokio::time::timeout(ordered, &mut launching).await;
            assert!(begun.is_err(), "nobody answers");
            assert!(task.path().join("launch.json").exists());
        }
        drop(shims);
        // The next agent has begun it anew, and it has ended.
        assert_eq!(finish(&task, "echo run >> $DIR/runs").await.code, Some(0));
        if record == "end.json" {
            let (exit, end) = (task.path().join("exit.json"), task.path().join(record));
            std::fs::rename(exit, end).expect("another word of the same");
        }
        signal(zygote, Signal::SIGCONT);
        // It ends when it has done what it was told and its shims have said their word.
        until(|| ProcIdent::of(zygote).is_err()).await;
        until(|| !held(&task)).await;
        let runs = std::fs::read_to_string(task.path().join("runs"));
        assert_eq!(runs.expect("it ran"), "run\n", "with {record}");
    }
}

/// Whether a shim lives that has the task.
fn held(task: &tempfile::TempDir) -> bool {
    let lock = std::fs::File::open(task.path().join("shim.lock")).expect("there was a shim");
    lock.try_lock_shared().is_err()
}

fn signal(pid: i32, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, signal).expect("it is signalled");
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, Signal::SIGKILL).ok();
}

async fn many_launches_leave_no_zombie() {
    for code in 0..20 {
        let task = folder();
        let mut launched = start(&task, &format!("echo {code}; exit {code}")).await;
        assert_eq!(end_of(&task, &mut launched).await.code, Some(code));
        assert!(ProcIdent::of(launched.shim.pid).is_err_and(|gone| gone.kind() == NotFound));
        assert_eq!(texts(&task), [code.to_string()]);
    }
}

async fn a_task_that_cannot_be_looked_at_is_not_given_up() {
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
fn starved(task_dir: &Path) -> ExitCode {
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
