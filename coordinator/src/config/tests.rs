//! The settings: what goes before what, and every message.

use std::fs;

use super::*;

fn file_error(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, text).unwrap();
    Config::load(Some(&path), []).unwrap_err().to_string()
}

fn with_env(name: &str, value: &str) -> Result<Config, ConfigError> {
    Config::load(None, [(name.to_owned(), value.to_owned())])
}

fn text(result: Result<Config, ConfigError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_shipped_defaults_have_every_key_and_a_comment_each() {
    let config = Config::load(None, []).unwrap();
    assert_eq!(config.server.listen.port(), 8000);
    assert_eq!(config.store.cache_mib, 64);
    assert_eq!(config.auth.access_token_minutes, 60);
    assert_eq!(config.lease(), Lease::default());
    let mut before = "";
    for line in DEFAULTS.lines() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(before.starts_with("# "), "no comment above: {line}");
        }
        before = line;
    }
}

#[test]
fn the_file_goes_before_the_defaults_and_the_environment_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, "[store]\ncache_mib = 8\nreserve_mib = 0").unwrap();
    let variable = ("TRAINYARD__STORE__CACHE_MIB".into(), "9".into());
    let other = ("PATH".into(), "/bin".into());
    let config = Config::load(Some(&path), [variable, other]).unwrap();
    assert_eq!(config.store.cache_mib, 9);
    assert_eq!(config.store.reserve_mib, 0);
    assert_eq!(config.limits.open_jobs, 10_000);
}

#[test]
fn nodes_are_kept_for_who_has_waited_too_long_unless_the_settings_say_otherwise() {
    use trainyard_core::sched::policy::Reserve;
    let kept = |config: Config| config.scheduling.policy().reserve;
    assert_eq!(kept(Config::load(None, []).unwrap()), Reserve::Guard);
    for (name, reserve) in [("off", Reserve::Off), ("top", Reserve::Top)] {
        let config = with_env("TRAINYARD__SCHEDULING__RESERVE", name);
        assert_eq!(kept(config.unwrap()), reserve);
    }
    let told = text(with_env("TRAINYARD__SCHEDULING__RESERVE", "all"));
    assert!(told.contains("scheduling.reserve"), "{told}");
}

#[test]
fn each_part_of_the_policy_is_chosen_by_the_settings_and_what_makes_no_sense_is_refused() {
    use trainyard_core::sched::policy::{self, RankBy};
    let shipped = Config::load(None, []).unwrap().scheduling.policy();
    assert_eq!(shipped, policy::Config::default());
    let set = |key: &str, value: &str| {
        let config = with_env(&format!("TRAINYARD__SCHEDULING__{key}"), value);
        config.unwrap().scheduling.policy()
    };
    assert_eq!(set("RANK", "attained").rank, RankBy::Attained);
    assert_eq!(set("RANK", "arrival").rank, RankBy::Arrival);
    assert!(!set("PREEMPT", "false").preempt);
    assert!((set("MARGIN_PERCENT", "100").margin - 2.0).abs() < 1e-9);
    assert!((set("IDLE_ONE_IN", "10").most_idle - 0.1).abs() < 1e-9);
    assert!(set("FAIR_SHARE_PERCENT", "0").fairness.abs() < 1e-9);
    for (key, value) in [
        ("RANK", "size"),
        ("IDLE_ONE_IN", "0"),
        ("MARGIN_PERCENT", "0"),
        ("FAIR_SHARE_PERCENT", "101"),
    ] {
        let told = text(with_env(&format!("TRAINYARD__SCHEDULING__{key}"), value));
        let named = format!("scheduling.{}", key.to_lowercase());
        assert!(told.contains(&named), "{told}");
    }
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    let error = file_error("[store]\ncach_mib = 8");
    assert!(
        error.starts_with("unknown key 'store.cach_mib' in "),
        "{error}"
    );
    assert!(
        error.ends_with("did you mean 'store.cache_mib'?"),
        "{error}"
    );
    let error = file_error("[stor]\ncache_mib = 8");
    assert!(error.ends_with("did you mean 'store'?"), "{error}");
    assert_eq!(
        text(with_env("TRAINYARD__SERVER__LISTN", "x")),
        "unknown key 'server.listn' in the environment (TRAINYARD__SERVER__LISTN); did you mean 'server.listen'?"
    );
}

#[test]
fn a_wrong_value_is_named_with_what_is_expected() {
    let error = file_error("[store]\ncache_mib = \"much\"");
    assert!(error.contains("key 'store.cache_mib' in "), "{error}");
    assert!(error.ends_with("must be a whole number from 1 to 1000000000, not 'much'"));
    assert!(file_error("[store]\ncache_mib = -1").ends_with("not -1"));
    assert!(file_error("store = 3").contains("key 'store' in "));
    assert!(file_error("[store]\ndata_dir = 3").contains("must be a text in quotes, not 3"));
    assert_eq!(
        text(with_env("TRAINYARD__SERVER__LISTEN", "here")),
        "key 'server.listen' in the environment (TRAINYARD__SERVER__LISTEN) must be an address with a port, such as 127.0.0.1:8000, not 'here'"
    );
}

#[test]
fn a_missing_file_and_broken_toml_name_the_file() {
    let error = text(Config::load(Some(Path::new("/nowhere/c.toml")), []));
    assert!(error.starts_with("cannot read the configuration file /nowhere/c.toml: "));
    let error = file_error("[store");
    assert!(error.contains("c.toml is not valid TOML: "), "{error}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert_eq!(
        file_error("[leases]\nlost_after_seconds = 10"),
        "leases.lost_after_seconds is 10 and must be above leases.suspect_after_seconds, which is 10"
    );
    let error = text(with_env(
        "TRAINYARD__AUTH__FIRST_USER_EMAIL",
        "ada@example.org",
    ));
    assert!(
        error.contains("auth.first_user_password is empty"),
        "{error}"
    );
}

#[test]
fn the_password_is_never_shown() {
    let config = with_env("TRAINYARD__AUTH__FIRST_USER_PASSWORD", "hunter2").unwrap();
    assert_eq!(config.auth.first_user_password.expose(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn sections_of_trackers_keep_their_other_defaults_and_webhooks_are_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let hook = "[[trackers.webhooks]]\nurl = \"http://10.0.0.1/x\"\nsecret = \"s3cret\"\nevents = [\"failed\"]";
    let text = format!("[trackers.mlflow]\nurl = \"http://mlflow:5000\"\n{hook}");
    fs::write(&path, text).unwrap();
    let name = "TRAINYARD__TRACKERS__MLFLOW__TOKEN".to_owned();
    let config = Config::load(Some(&path), [(name, "t0ken".to_owned())]).unwrap();
    let trackers = &config.trackers;
    assert_eq!(trackers.mlflow.experiment, "trainyard");
    assert_eq!(trackers.mlflow.token.expose(), "t0ken");
    assert_eq!(trackers.clearml.url, "");
    assert_eq!(trackers.webhooks[0].events, ["failed"]);
    assert!(trackers.webhooks[0].shown_name().starts_with("webhook-"));
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("s3cret") && !shown.contains("t0ken"),
        "{shown}"
    );
}

#[test]
fn settings_of_trackers_that_cannot_work_are_refused_by_name() {
    let error = file_error("[trackers.mlflow]\nurl = \"mlflow:5000\"");
    assert!(error.starts_with("trackers.mlflow.url must be"), "{error}");
    let error = file_error("[trackers.mlflow]\nurl = \"http://a:hunter2@b\"");
    assert!(
        error.contains("without a user") && !error.contains("hunter2"),
        "{error}"
    );
    let error = file_error("[trackers.clearml]\nurl = \"https://api.clear.ml\"");
    assert!(error.contains("access_key and secret_key"), "{error}");
    let error = file_error("[trackers.mlflow]\nurll = \"x\"");
    assert!(
        error.ends_with("did you mean 'trackers.mlflow.url'?"),
        "{error}"
    );
    let hook = "[[trackers.webhooks]]\nurl = \"http://x/\"\nsecret = \"s\"\n";
    let error = file_error(&format!("{hook}events = [\"paused\"]"));
    assert!(
        error.contains("has 'paused'; known are submitted"),
        "{error}"
    );
    let error = file_error(&format!("{hook}{hook}"));
    assert!(error.contains("webhooks[1].name"), "{error}");
    let error = file_error("[[trackers.webhooks]]\nurl = \"http://x/\"");
    assert!(error.contains("secret"), "{error}");
}

#[test]
fn everything_is_kept_for_ever_unless_days_or_a_size_are_asked_for() {
    use trainyard_core::retention::Retention;
    let config = Config::load(None, []).unwrap();
    let keys = Some(Duration::from_secs(7 * 86_400));
    let rows = Retention {
        keys,
        events: Some(Duration::from_secs(90 * 86_400)),
        events_most: Some(1_000_000),
        ..Retention::default()
    };
    assert_eq!(config.retention(), rows);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let text = "[retention]\npoints_days = 0\nlogs_days = 30\nmax_gib = 2";
    fs::write(&path, text).unwrap();
    let asked = Config::load(Some(&path), []).unwrap().retention();
    let expected = Retention {
        points: None,
        lines: Some(Duration::from_secs(30 * 86_400)),
        bytes: Some(2 << 30),
        ..rows
    };
    assert_eq!(asked, expected);
}

#[test]
fn what_projects_may_have_comes_from_a_file_and_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let text = "[scheduling.projects.7]\nshare = 2\ngpus = 16\ngpu_hours = 500\ngpu_hours_per = \"week\"\nborrow = false\n\
                running = 0\nqueued = 200\n[scheduling.projects]\n9 = { queued = 3 }\n";
    fs::write(&path, text).unwrap();
    let variables = [
        ("TRAINYARD__SCHEDULING__PROJECTS__7__GPUS", "4"),
        ("TRAINYARD__SCHEDULING__PROJECTS__8__BORROW", "true"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(Some(&path), variables).unwrap();
    let projects = &config.scheduling.projects;
    let seventh = ProjectConfig {
        share: 2,
        gpus: Some(4),
        gpu_hours: Some(500),
        gpu_hours_per: trainyard_core::sched::policy::Period::Week,
        borrow: false,
        running: Some(0),
        queued: Some(200),
    };
    assert_eq!(projects.get("7"), Some(&seventh));
    assert_eq!(projects.get("8"), Some(&ProjectConfig::default()));
    assert_eq!(config.scheduling.queued(), [(7, 200), (9, 3)].into());
    assert_eq!(config.scheduling.most_gpus(), [(7, 4)].into());
}

#[test]
fn a_wrong_rule_of_a_project_is_named_with_what_is_expected() {
    let told = |line: &str| file_error(&format!("[scheduling.projects.7]\n{line}"));
    for (line, key, expected) in [
        (
            "gpu = 4",
            "unknown key 'scheduling.projects.7.gpu'",
            "did you mean 'scheduling.projects.7.gpus'?",
        ),
        (
            "gpus = \"4\"",
            "'scheduling.projects.7.gpus'",
            "must be a whole number from 0 to 1000000000, not '4'",
        ),
        (
            "borrow = 1",
            "'scheduling.projects.7.borrow'",
            "must be true or false, not 1",
        ),
        (
            "gpu_hours_per = \"year\"",
            "'scheduling.projects.7.gpu_hours_per'",
            "must be 'day', 'week' or 'month', not 'year'",
        ),
        (
            "share = 0",
            "'scheduling.projects.7.share'",
            "must be a whole number from 1 to 1000000000, not 0",
        ),
        (
            "borrow = false",
            "scheduling.projects.7: borrow = false",
            "needs gpus or gpu_hours",
        ),
    ] {
        let error = told(line);
        assert!(
            error.contains(key) && error.contains(expected),
            "{line}: {error}"
        );
    }
    let flat = file_error("[scheduling.projects]\n7 = 4");
    assert!(
        flat.contains("'scheduling.projects.7'") && flat.ends_with("must be a section, not 4"),
        "{flat}"
    );
    for id in ["07", "vision", "0", "-1"] {
        let error = file_error(&format!("[scheduling.projects.{id}]\ngpus = 4"));
        assert!(
            error.contains("by their ids, which are numbers from 1 on"),
            "{error}"
        );
    }
}

#[test]
fn what_the_policy_may_do_without_may_be_zero_and_its_names_are_told() {
    for key in ["PATIENCE_HOURS", "RESTART_COST_SECONDS", "SETTLED_SECONDS"] {
        with_env(&format!("TRAINYARD__SCHEDULING__{key}"), "0").unwrap();
    }
    let error = text(with_env("TRAINYARD__SCHEDULING__GUARD_HOURS", "0"));
    assert!(error.contains("'scheduling.guard_hours'"), "{error}");
    let error = text(with_env("TRAINYARD__SCHEDULING__POLICY", "sjf"));
    assert!(
        error.ends_with("must be 'default', 'fifo', 'easy' or 'throughput', not 'sjf'"),
        "{error}"
    );
    for name in ["default", "fifo", "easy", "throughput"] {
        with_env("TRAINYARD__SCHEDULING__POLICY", name).unwrap();
    }
}
