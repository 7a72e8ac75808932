//! Flags and files as one specification.

use std::time::Duration;

use clap::Parser as _;

use super::*;
use crate::args::{Arguments, ClientCommand, Command};

fn read(line: &[&str]) -> anyhow::Result<JobSpec> {
    let line = ["trainyard", "submit"].iter().chain(line);
    let Command::Client(ClientCommand::Submit(args)) = Arguments::try_parse_from(line)?.command
    else {
        anyhow::bail!("the line is not submit's");
    };
    specification(&args)
}

#[test]
fn flags_make_a_whole_job() {
    let line = "--framework ultralytics --model yolo11n --task detection --dataset /data/set \
        --epochs 3 --batch 8 --lr 0.02 --imgsz 160 --gpus 2 --gpu-model h100 --gpu-memory 40GiB \
        --memory 8GiB --cpus 4 --priority 5 --time-limit 1h30m --grace 3s --env A=b=c --tag x \
        --tag y --set optimizer.type=SGD --set cos_lr=true --project 7";
    let line: Vec<_> = line.split_whitespace().collect();
    let spec = read(&line).unwrap();
    assert_eq!(spec.check(), []);
    let sizes = (spec.epochs, spec.batch_size, spec.image_size);
    assert_eq!(sizes, (3, 8, Some(160)));
    assert_eq!(spec.resources.gpu_memory_bytes, 40 << 30);
    assert_eq!((spec.priority, spec.project_id), (5, Some(7)));
    assert_eq!(spec.time_limit, Some(Duration::from_secs(5_400)));
    assert_eq!(spec.grace_period, Duration::from_secs(3));
    assert_eq!(spec.environment["A"], "b=c");
    assert_eq!(spec.tags.unwrap(), ["x", "y"]);
    let advanced = json!({"optimizer": {"type": "SGD"}, "cos_lr": true});
    assert_eq!(spec.advanced_config, Some(advanced));
}

#[test]
fn a_gang_is_asked_for_by_flags_and_by_a_file() {
    let line = [
        "--nodes",
        "2",
        "--launcher",
        "torchrun",
        "--procs-per-node",
        "4",
        "--",
        "t.py",
    ];
    let spec = read(&line).unwrap();
    assert_eq!(spec.check(), []);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.toml");
    let text = "framework = \"command\"\ncommand = [\"t.py\"]\nnodes = 2\nlauncher = \"torchrun\"\nprocs_per_node = 4\n";
    fs::write(&path, text).unwrap();
    assert_eq!(read(&["-f", path.to_str().unwrap()]).unwrap(), spec);
    assert_eq!((spec.nodes, spec.procs_per_node), (2, Some(4)));
}

#[test]
fn a_command_needs_no_framework() {
    let spec = read(&["--", "sh", "-c", "exit 3"]).unwrap();
    assert_eq!(spec.framework, "command");
    assert_eq!(spec.command, ["sh", "-c", "exit 3"]);
    assert_eq!(spec.check(), []);
    let error = read(&["--framework", "sklearn", "--", "ls"]).unwrap_err();
    assert!(error.to_string().contains("not sklearn"), "{error}");
}

#[test]
fn a_flag_goes_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.yaml");
    fs::write(&path, "framework: sklearn\nepochs: 2\nlr: 0.5\n").unwrap();
    let spec = read(&["-f", path.to_str().unwrap(), "--epochs", "9"]).unwrap();
    assert_eq!((spec.epochs, spec.framework.as_str()), (9, "sklearn"));
    assert!((spec.learning_rate - 0.5).abs() < 1e-9);
}

#[test]
fn settings_come_from_a_file_and_set_goes_over_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("advanced.json");
    fs::write(&path, r#"{"seed": 1, "mosaic": 0.5}"#).unwrap();
    let file = path.to_str().unwrap();
    let line = [
        "--framework",
        "x",
        "--advanced-file",
        file,
        "--set",
        "seed=2",
    ];
    let spec = read(&line).unwrap();
    assert_eq!(
        spec.advanced_config.unwrap(),
        json!({"seed": 2, "mosaic": 0.5})
    );
}

#[test]
fn bad_flags_say_what_is_expected() {
    for (line, words) in [
        (vec!["--framework", "x", "--memory", "-4GB"], "is negative"),
        (
            vec!["--framework", "x", "--time-limit", "soon"],
            "such as 1h30m",
        ),
        (vec!["--name", "x"], "nothing says what to run"),
    ] {
        let error = read(&line).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_relative_dataset_means_one_from_here() {
    let spec = read(&["--framework", "x", "--dataset", "set"]).unwrap();
    let here = std::env::current_dir().unwrap().join("set");
    assert_eq!(spec.dataset_path.unwrap(), here.display().to_string());
    let url = read(&["--framework", "x", "--dataset", "s3://b/set"]).unwrap();
    assert_eq!(url.dataset_path.unwrap(), "s3://b/set");
}

#[test]
fn where_and_when_a_job_starts_is_asked_for_by_flags_and_by_a_file() {
    let line = "--gpu A100:40GB..80GB --gpus-total 16 --label zone=a --label disk=ssd --anti-label zone=b \
        --arrange spread --fabric rack --exclusive --preemptible --not-before 2027-01-31T18:00:00Z \
        --after 12,13 --after-any 14 --array 0-99%5 -- t.py";
    let line: Vec<_> = line.split_whitespace().collect();
    let spec = read(&line).unwrap();
    assert_eq!(spec.check(), []);
    assert_eq!(spec.resources.gpu_memory_max_bytes, 80 << 30);
    assert_eq!(spec.placement.labels.len(), 2);
    assert_eq!(spec.after.len(), 2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.toml");
    let text = r#"
framework = "command"
command = ["t.py"]
gpu = "A100:40GB..80GB"
gpus_total = 16
labels = ["zone=a", "disk=ssd"]
anti_labels = ["zone=b"]
preemptible = true
not_before = "2027-01-31T18:00:00Z"
after = [12, 13]
after_any = 14
array = "0-99%5"
[placement]
arrange = "spread"
fabric = "rack"
exclusive = true
"#;
    fs::write(&path, text).unwrap();
    assert_eq!(read(&["-f", path.to_str().unwrap()]).unwrap(), spec);
}

#[test]
fn a_time_from_now_is_one_that_lies_ahead() {
    let before = crate::clock::now();
    let spec = read(&["--not-before", "+2h", "--", "t.py"]).unwrap();
    let ahead = spec.not_before.unwrap().since(before);
    assert!(ahead >= Duration::from_secs(7_200) && ahead < Duration::from_secs(7_300));
    for (line, words) in [
        (["--not-before", "soon"], "2027-01-31T18:00:00Z"),
        (["--gpu", "H100:80GB"], "H100:80GB.."),
    ] {
        let line: Vec<_> = line.into_iter().chain(["--", "t.py"]).collect();
        let error = read(&line).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn which_gpus_on_the_command_line_replace_all_that_a_file_says_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.yaml");
    fs::write(
        &path,
        "framework: command\ncommand: [x]\ngpu: 'H100:80GB..'\n",
    )
    .unwrap();
    let path_text = path.to_str().unwrap();
    let spec = read(&["-f", path_text, "--gpu", "A100", "--gpus", "1"]).unwrap();
    assert_eq!(
        (
            spec.resources.gpu_model.as_str(),
            spec.resources.gpu_memory_bytes
        ),
        ("A100", 0)
    );
    fs::write(&path, "gpu_model: A100\ngpu: H100\n").unwrap();
    let error = read(&["-f", path.to_str().unwrap()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("twice"), "{error}");
}

#[test]
fn a_flag_that_says_which_gpus_needs_one_that_says_how_many() {
    for which in [
        ["--gpu", "H100:80GB.."],
        ["--gpu-model", "H100"],
        ["--gpu-memory", "80GB"],
    ] {
        let line = |more: &[&str]| {
            let all = which.iter().chain(more).chain(&["--", "t.py"]);
            read(&all.copied().collect::<Vec<_>>())
        };
        let error = line(&[]).unwrap_err().to_string();
        let words = format!("{} says which GPUs", which[0]);
        assert!(error.contains(&words), "{error}");
        assert!(error.contains("give --gpus or --gpus-total"), "{error}");
        for count in ["--gpus", "--gpus-total"] {
            assert!(line(&[count, "2"]).is_ok(), "{which:?} {count}");
        }
    }
    // The count may stand in a file, and what only a file says is the coordinator's to check.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.yaml");
    let job = "framework: command\ncommand: [x]\n";
    for (more, flags) in [
        ("gpus: 1\n", vec!["--gpu", "H100"]),
        ("gpu: H100\n", vec![]),
    ] {
        fs::write(&path, format!("{job}{more}")).unwrap();
        let line: Vec<&str> = ["-f", path.to_str().unwrap()]
            .into_iter()
            .chain(flags)
            .collect();
        assert!(read(&line).is_ok(), "{more}");
    }
}
