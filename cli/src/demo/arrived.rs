//! Whether the settings of a job arrived at its training, by the `args.yaml` that its trainer writes
//! into the job's working folder. Never talks to the cluster. Called by `demo`.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde_json::{Map, Value};
use trainyard_proto::v1::Job;

/// Where a trainer writes down what it was given, in the working folder of an attempt.
const RECORD: &str = "runs/train/args.yaml";

/// Compares what its trainer was given in the last attempt of `job` with what is `wanted`; `data`
/// is the folder of the agent that ran it.
pub(super) fn check(job: &Job, data: &Path, wanted: &[(&str, Value)]) -> anyhow::Result<()> {
    let attempt = job.attempts.last().map_or(0, |attempt| attempt.number);
    let folder = data.join(format!("jobs/{}/attempt-{attempt}", job.job_id));
    let path = folder.join(RECORD);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let given: Map<String, Value> = serde_yaml_ng::from_str(&text)
        .with_context(|| format!("{} is not understood", path.display()))?;
    let wrong = differences(&given, wanted);
    anyhow::ensure!(
        wrong.is_empty(),
        "settings of job {} did not arrive at its trainer: {}; see {}",
        job.job_id,
        wrong.join(", "),
        path.display()
    );
    Ok(())
}

fn differences(given: &Map<String, Value>, wanted: &[(&str, Value)]) -> Vec<String> {
    let differs = |(name, value): &&(&str, Value)| given.get(*name) != Some(value);
    wanted
        .iter()
        .filter(differs)
        .map(|(name, value)| match given.get(*name) {
            Some(other) => format!("{name} is {other} instead of {value}"),
            None => format!("{name} is missing instead of {value}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trainyard_proto::v1::Attempt;

    use super::*;

    #[test]
    fn a_setting_that_did_not_arrive_is_named() {
        let data = tempfile::tempdir().unwrap();
        let job = Job {
            job_id: 4,
            attempts: vec![
                Attempt::default(),
                Attempt {
                    number: 2,
                    ..Attempt::default()
                },
            ],
            ..Job::default()
        };
        let wanted = [
            ("lr0", json!(0.003)),
            ("amp", json!(false)),
            ("device", json!("cpu")),
        ];
        let error = check(&job, data.path(), &wanted).unwrap_err().to_string();
        assert!(
            error.contains("jobs/4/attempt-2/runs/train/args.yaml"),
            "{error}"
        );
        let folder = data.path().join("jobs/4/attempt-2/runs/train");
        fs::create_dir_all(&folder).unwrap();
        let record = folder.join("args.yaml");
        fs::write(
            &record,
            "device: cpu\nfreeze: null\nlr0: 0.003\namp: false\n",
        )
        .unwrap();
        check(&job, data.path(), &wanted).unwrap();
        fs::write(&record, "device: cpu\nlr0: 0.01\n").unwrap();
        let error = check(&job, data.path(), &wanted).unwrap_err().to_string();
        for words in ["lr0 is 0.01 instead of 0.003", "amp is missing"] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!error.contains("device"), "{error}");
    }
}
