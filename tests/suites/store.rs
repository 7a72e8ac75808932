//! `trainyard store` on the store of a real coordinator: backed up while it works, restored, checked.

use std::{fs, path::Path};

use serde_json::Value;
use tests::{cluster::Cluster, jobs, jobs::Jobs};

use crate::{TRAINYARD, text};

/// What a command says in JSON.
fn told(cluster: &Cluster, arguments: &[&str]) -> Value {
    let all: Vec<&str> = ["--json"].iter().chain(arguments).copied().collect();
    let output = cluster.cli(&all);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The figures of the one policy, but for how long it took to find them.
fn replayed(cluster: &Cluster, arguments: &[&str]) -> Value {
    let fixed = ["replay", "--from-store", "--policy", "fifo"];
    let all: Vec<&str> = fixed.iter().chain(arguments).copied().collect();
    let mut document = told(cluster, &all);
    let figures = document.pointer_mut("/policies/0");
    let mut figures = figures.expect("one policy").take();
    let fields = figures.as_object_mut().expect("the policy's figures");
    fields.retain(|name, _| !["pass_p99_us", "wall_s"].contains(&name.as_str()));
    figures
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_run_is_reported_read_back_and_replayed_from_the_coordinator_a_backup_and_an_export()
 {
    let mut cluster = Cluster::start(TRAINYARD).await;
    let machine = ["--slots", "4", "--simulate-gpus", "1xH100-80GB"];
    cluster.agent("n1", &machine).await;
    let mut jobs = Jobs::of(&cluster).await;
    let mut spec = jobs::command(&["sleep", "0.2"]);
    spec.resources.get_or_insert_default().gpus = 1;
    spec.indices = "0-2".to_owned();
    // One submission: all three at one moment, and one GPU.
    let first = jobs.submit(spec).await;
    for job in first..first + 3 {
        jobs.ends(job).await;
    }

    let usage = told(&cluster, &["usage", "--by", "user"]);
    let row = &usage["rows"][0];
    assert_eq!(
        (&row["user"], &row["jobs"]),
        (&Value::from("admin@example.com"), &Value::from(3))
    );
    assert!(row["gpu_hours"].as_f64() >= Some(0.6 / 3_600.0), "{row}");
    let events = told(&cluster, &["events", &first.to_string()]);
    let kinds = events["events"].as_array().expect("a list").iter();
    let kinds: Vec<_> = kinds.map(|event| event["kind"].as_str()).collect();
    assert_eq!(kinds, [Some("accepted"), Some("placed"), Some("completed")]);

    let own = replayed(&cluster, &[]);
    assert!(own["wait_mean"].as_f64() > Some(0.0), "{own}");
    let saved = cluster.path("saved.redb").display().to_string();
    told(&cluster, &["store", "backup", &saved]);
    assert_eq!(replayed(&cluster, &["--store", &saved]), own);
    let lines = cluster.cli(&["store", "export", &saved]).stdout;
    let exported = cluster.path("export.jsonl");
    fs::write(&exported, lines).expect("it is written");
    let exported = exported.display().to_string();
    assert_eq!(replayed(&cluster, &["--store", &exported]), own);
    // The coordinator holds its own: there is another way to ask it.
    let held = cluster.path("coordinator").display().to_string();
    let held = cluster.cli(&["replay", "--from-store", "--store", &held]);
    let words = text(&held.stderr);
    assert_eq!(held.status.code(), Some(1), "{words}");
    assert!(words.contains("leave --store out"), "{words}");
    // What if there were three?
    let more = replayed(&cluster, &["--store", &saved, "--nodes", "1x3"]);
    assert_eq!(more["wait_mean"].as_f64(), Some(0.0), "{more}");
    without_revoked(&mut cluster).await;
    let none = cluster.cli(&["replay", "--from-store", "--since", "2999-01-01"]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none.stderr));
    assert!(text(&none.stderr).contains("has no job"));
}

/// Of a node that is revoked nothing is replayed, whoever tells of it: with its GPU none of the three would wait as long.
async fn without_revoked(cluster: &mut Cluster) {
    let own = replayed(cluster, &[]);
    cluster
        .agent("n2", &["--simulate-gpus", "1xH100-80GB"])
        .await;
    let waits = |figures: &Value| figures.get("wait_mean").and_then(Value::as_f64);
    assert!(waits(&replayed(cluster, &[])) < waits(&own));
    told(cluster, &["node", "revoke", "n2"]);
    assert_eq!(replayed(cluster, &[]), own, "by the coordinator");
    let saved = cluster.path("revoked.redb").display().to_string();
    told(cluster, &["store", "backup", &saved]);
    assert_eq!(replayed(cluster, &["--store", &saved]), own, "by a backup");
    let lines = cluster.cli(&["store", "export", &saved]).stdout;
    let exported = cluster.path("revoked.jsonl");
    fs::write(&exported, lines).expect("it is written");
    let exported = exported.display().to_string();
    assert_eq!(
        replayed(cluster, &["--store", &exported]),
        own,
        "by an export"
    );
}

/// A bit of a job's row is flipped in a copy of the file: it is named, its backup says so, and it can be mended.
fn damaged_and_mended(cluster: &Cluster, file: &Path) {
    let damaged = cluster.path("damaged.redb");
    let mut bytes = fs::read(file).expect("the backup");
    let command = b"\"command\":[\"echo\"";
    let places = bytes.windows(command.len()).enumerate();
    let places = places.filter(|(_, found)| found == command);
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    assert!(!places.is_empty());
    for place in places {
        let byte = bytes.get_mut(place + 2).expect("a place in the file");
        *byte ^= 1;
    }
    fs::write(&damaged, bytes).expect("it is written");
    let name = |path: &Path| path.display().to_string();
    let (damaged, copy) = (name(&damaged), name(&cluster.path("copy.redb")));
    let checked = cluster.cli(&["store", "check", &damaged]);
    assert_eq!(checked.status.code(), Some(1));
    let words = text(&checked.stdout);
    for said in ["its checksum is wrong", "has damaged pages", "store mend"] {
        assert!(words.contains(said), "{words}");
    }
    let copied = cluster.cli(&["store", "backup", "--offline", &damaged, &copy]);
    assert_eq!(copied.status.code(), Some(1));
    assert!(text(&copied.stderr).contains("1 row is damaged in it"));
    let aside = name(&cluster.path("aside.jsonl"));
    let mended = cluster.cli(&["store", "mend", &damaged, "--aside", &aside]);
    assert!(mended.status.success(), "{}", text(&mended.stderr));
    assert!(text(&mended.stdout).contains("damaged.redb.damaged-1"));
    let sound = cluster.cli(&["store", "check", &damaged]);
    assert!(sound.status.success(), "{}", text(&sound.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_working_coordinator_is_a_coordinator_that_knows_its_jobs() {
    let mut cluster = Cluster::start(TRAINYARD).await;
    cluster.agent("n1", &[]).await;
    let mut jobs = Jobs::of(&cluster).await;
    let done = jobs.submit(jobs::command(&["echo", "hello"])).await;
    jobs.ends(done).await;
    let running = jobs.submit(jobs::command(&["sleep", "600"])).await;
    jobs.reaches(running, trainyard_proto::v1::JobState::Running)
        .await;

    let file = cluster.path("saved.redb");
    let name = file.to_str().expect("a plain path");
    let output = cluster.cli(&["--json", "store", "backup", name]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["bytes"], fs::metadata(&file).expect("the file").len());
    let data = cluster.path("coordinator");
    let copies = fs::read_dir(&data).expect("the data folder");
    let copies = copies.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().starts_with("backup-")
    });
    assert_eq!(
        copies.count(),
        0,
        "the copy has no name and goes with its reader"
    );
    let again = cluster.cli(&["store", "backup", name]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("is there already"));

    // While it runs, its own file is not to be opened; the backup is.
    let used = cluster.cli(&["store", "check", data.to_str().expect("a plain path")]);
    assert_eq!(used.status.code(), Some(1));
    assert!(
        text(&used.stderr).contains("in use"),
        "{}",
        text(&used.stderr)
    );
    let sound = cluster.cli(&["store", "check", name]);
    assert!(sound.status.success(), "{}", text(&sound.stdout));

    let exported = cluster.cli(&["store", "export", name, "--job", &done.to_string()]);
    assert!(exported.status.success(), "{}", text(&exported.stderr));
    assert!(text(&exported.stdout).contains("hello"));

    damaged_and_mended(&cluster, &file);

    // The coordinator is lost with its file; what was saved takes its place and goes on.
    cluster.kill_coordinator();
    fs::copy(&file, data.join("trainyard.redb")).expect("it is restored");
    let draft = data.join("backup-00112233445566aa.redb.0badcafe.part");
    fs::write(&draft, "secrets").expect("as of a backup that was cut off");
    cluster.start_coordinator().await;
    assert!(!draft.exists());
    let mut jobs = Jobs::of(&cluster).await;
    let lines = jobs.output(done).await;
    assert_eq!(lines, ["hello"]);
    jobs.cancel(running)
        .await
        .expect("it is known and runs still");
    jobs.ends(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_administers_users_has_the_store() {
    let cluster = Cluster::start(TRAINYARD).await;
    let mut client = cluster.command();
    let file = cluster.path("stolen.redb");
    let output = client
        .env("TRAINYARD_COORDINATOR", cluster.url())
        .args(["store", "backup"])
        .arg(&file)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(77), "{}", text(&output.stderr));
    assert!(!file.exists());
}
