//! MLflow: its REST calls (API 2.0), within the limits of its requests.
//!
//! Owns how names are spelled for it and how much goes into one call. Sending the same metric, tag or
//! parameter again changes nothing there. Never decides what is to be sent: the feed does.

use std::collections::BTreeMap;

use reqwest::Client;
use serde_json::{Value, json};
use trainyard_config::Secret;
use trainyard_core::job::Tracker;

use super::{
    feed::{News, Notes, Sink},
    http::{self, Answer, Failure},
    names::Names,
    refusals::{Item, Refusals},
    runs::{End, Run, Verdict, cut, millis},
};
use crate::config::MlflowConfig;

/// Metrics in one call; with the tags of a call it stays below 1,000 entries in all.
const METRICS: usize = 900;
/// Parameters or tags in one call.
const PAIRS: usize = 100;
/// Characters of a name.
const NAME: usize = 250;
/// Characters of a parameter's value, as old servers take them.
const VALUE: usize = 500;
/// Characters of a tag's value.
const TAG: usize = 5_000;
/// Experiments whose numbers are remembered.
const EXPERIMENTS: usize = 1_000;

/// An MLflow tracking server.
#[derive(Debug)]
pub(super) struct Mlflow {
    client: Client,
    config: MlflowConfig,
    /// Number by name.
    experiments: BTreeMap<String, String>,
}

impl Mlflow {
    pub(super) fn new(client: Client, config: MlflowConfig) -> Self {
        Self {
            client,
            config,
            experiments: BTreeMap::new(),
        }
    }

    /// One call; the answer's body when it succeeded.
    async fn call(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.post(path, body).await?;
        if answer.status.is_success() {
            return Ok(answer.json());
        }
        Err(self.refusal(&answer))
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        let base = self.config.url.trim_end_matches('/');
        let url = format!("{base}/api/2.0/mlflow/{path}");
        http::send(self.authorised(self.client.post(url)).json(body)).await
    }

    fn authorised(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let config = &self.config;
        if !config.token.expose().is_empty() {
            request.bearer_auth(config.token.expose())
        } else if !config.username.is_empty() {
            request.basic_auth(&config.username, Some(config.password.expose()))
        } else {
            request
        }
    }

    fn refusal(&self, answer: &Answer) -> Failure {
        let body = answer.json();
        let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
        let code = text("error_code");
        let secrets: [&Secret; 2] = [&self.config.token, &self.config.password];
        let words = match code {
            "" => http::without(&secrets, &answer.text),
            code => http::without(&secrets, &format!("{code}: {}", text("message"))),
        };
        let failure = http::judge(answer, &words);
        if let Failure::Never(said) = &failure
            && code.is_empty()
        {
            // Whatever stands at that address is no MLflow.
            let words = format!("{said}; is trackers.mlflow.url the address of an MLflow server?");
            return Failure::Later(words, answer.retry_after);
        }
        failure
    }

    /// The number of an experiment, which is made if need be.
    async fn experiment(&mut self, name: &str) -> Result<String, Failure> {
        if let Some(id) = self.experiments.get(name) {
            return Ok(id.clone());
        }
        let id = match self.find_experiment(name).await? {
            Some(id) => id,
            None => self.create_experiment(name).await?,
        };
        if self.experiments.len() >= EXPERIMENTS {
            self.experiments.clear();
        }
        self.experiments.insert(name.to_owned(), id.clone());
        Ok(id)
    }

    async fn find_experiment(&self, name: &str) -> Result<Option<String>, Failure> {
        let base = self.config.url.trim_end_matches('/');
        let url = format!("{base}/api/2.0/mlflow/experiments/get-by-name");
        let request = self.client.get(url).query(&[("experiment_name", name)]);
        let answer = http::send(self.authorised(request)).await?;
        let body = answer.json();
        if answer.status.is_success() {
            let found = body.get("experiment").unwrap_or(&Value::Null);
            if found.get("lifecycle_stage") == Some(&json!("deleted")) {
                return Err(Failure::later(format!(
                    "its experiment '{name}' is deleted; restore it there, or set trackers.mlflow.experiment"
                )));
            }
            return text(found, "experiment_id").map(Some);
        }
        if body.get("error_code") == Some(&json!("RESOURCE_DOES_NOT_EXIST")) {
            return Ok(None);
        }
        Err(self.refusal(&answer))
    }

    async fn create_experiment(&self, name: &str) -> Result<String, Failure> {
        let answer = self
            .post("experiments/create", &json!({"name": name}))
            .await?;
        let body = answer.json();
        if answer.status.is_success() {
            return text(&body, "experiment_id");
        }
        // Somebody else was faster.
        if body.get("error_code") == Some(&json!("RESOURCE_ALREADY_EXISTS"))
            && let Some(id) = self.find_experiment(name).await?
        {
            return Ok(id);
        }
        Err(self.refusal(&answer))
    }

    async fn create_in(&mut self, experiment: &str, run: &Run<'_>) -> Result<String, Failure> {
        let experiment = self.experiment(experiment).await?;
        let body = json!({
            "experiment_id": experiment,
            "run_name": cut(&run.name(), NAME),
            "start_time": millis(run.began()),
            // All others follow, so that one that is refused does not cost the run.
            "tags": [tag("trainyard.label", &run.label())],
        });
        let created = self.call("runs/create", &body).await?;
        text(
            created.pointer("/run/info").unwrap_or(&Value::Null),
            "run_id",
        )
    }

    async fn log(
        &self,
        run: &str,
        kind: &'static str,
        entries: Vec<Value>,
        refusals: &mut Refusals,
    ) -> Result<(), Failure> {
        let most = if kind == "metrics" { METRICS } else { PAIRS };
        let mut parts = refusals.parts(kind, entries.into_iter().map(item).collect(), most);
        while let Some(part) = parts.next(refusals) {
            let batch: Vec<_> = part.iter().map(|item| &item.body).collect();
            let body = json!({"run_id": run, kind: batch});
            match self.call("runs/log-batch", &body).await {
                Ok(_) => {}
                // The run itself is gone.
                Err(Failure::Never(words)) if words.contains("RESOURCE_DOES_NOT_EXIST") => {
                    return Err(Failure::Never(words));
                }
                Err(Failure::Never(words)) => parts.refused(part, &words, refusals),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

impl Sink for Mlflow {
    const TRACKER: Tracker = Tracker::Mlflow;

    async fn find(&mut self, run: &Run<'_>) -> Result<Option<String>, Failure> {
        let experiment = self.experiment(&experiment_name(&self.config, run)).await?;
        let body = json!({
            "experiment_ids": [experiment],
            "filter": format!("tags.\"trainyard.label\" = '{}'", run.label()),
            "run_view_type": "ALL",
            "max_results": 1,
        });
        let found = self.call("runs/search", &body).await?;
        let id = found.pointer("/runs/0/info/run_id").and_then(Value::as_str);
        Ok(id.map(str::to_owned))
    }

    async fn create(&mut self, run: &Run<'_>, _: &mut Notes) -> Result<String, Failure> {
        let name = experiment_name(&self.config, run);
        let remembered = self.experiments.contains_key(&name);
        match self.create_in(&name, run).await {
            // The experiment may have been removed there since.
            Err(Failure::Never(_)) if remembered => {
                self.experiments.remove(&name);
                self.create_in(&name, run).await
            }
            created => created,
        }
    }

    async fn describe(
        &mut self,
        id: &str,
        run: &Run<'_>,
        notes: &mut Notes,
    ) -> Result<(), Failure> {
        self.log(id, "tags", tags(run), &mut notes.refusals).await?;
        self.log(id, "params", params(run), &mut notes.refusals)
            .await
    }

    async fn tell(&mut self, id: &str, news: News<'_>, notes: &mut Notes) -> Result<(), Failure> {
        let metrics = metrics(&news, &mut notes.names);
        self.log(id, "metrics", metrics, &mut notes.refusals)
            .await?;
        let told = [
            ("trainyard.best_checkpoint", news.best),
            ("trainyard.last_checkpoint", news.last),
        ];
        let told = told
            .into_iter()
            .filter_map(|(key, uri)| Some(tag(key, uri?)));
        self.log(id, "tags", told.collect(), &mut notes.refusals)
            .await
    }

    async fn finish(
        &mut self,
        id: &str,
        run: &Run<'_>,
        end: &End,
        notes: &mut Notes,
    ) -> Result<(), Failure> {
        let metrics = last_metrics(run, end, &mut notes.names);
        self.log(id, "metrics", metrics, &mut notes.refusals)
            .await?;
        let mut facts = run.last_facts();
        if !end.message.is_empty() {
            facts.push(("trainyard.outcome", end.message.clone()));
        }
        let facts = facts.iter().map(|(key, value)| tag(key, value));
        self.log(id, "tags", facts.collect(), &mut notes.refusals)
            .await?;
        let status = match end.verdict {
            Verdict::Completed => "FINISHED",
            Verdict::Failed => "FAILED",
            Verdict::Cancelled => "KILLED",
        };
        let body = json!({"run_id": id, "status": status, "end_time": millis(end.at)});
        self.call("runs/update", &body).await.map(drop)
    }
}

fn experiment_name(config: &MlflowConfig, run: &Run<'_>) -> String {
    cut(&run.group(&config.experiment), NAME)
}

fn text(value: &Value, key: &str) -> Result<String, Failure> {
    let found = value.get(key).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| {
        Failure::later(format!(
            "its answer has no {key}; is trackers.mlflow.url the address of an MLflow server?"
        ))
    })
}

/// An entry of a batch, which all have a key.
fn item(body: Value) -> Item {
    let name = body.get("key").and_then(Value::as_str).unwrap_or_default();
    Item {
        name: name.to_owned(),
        body,
    }
}

fn tag(key: &str, value: &str) -> Value {
    json!({"key": key, "value": cut(value, TAG)})
}

fn tags(run: &Run<'_>) -> Vec<Value> {
    let job = run.job;
    let mut tags: Vec<_> = run
        .facts()
        .iter()
        .map(|(key, value)| tag(key, value))
        .collect();
    tags.push(tag("mlflow.user", &job.submitted_by));
    tags.push(tag("mlflow.source.name", "trainyard"));
    tags.push(tag("mlflow.source.type", "JOB"));
    if let Some(notes) = job.spec.notes.as_deref().filter(|notes| !notes.is_empty()) {
        tags.push(tag("mlflow.note.content", notes));
    }
    tags
}

fn params(run: &Run<'_>) -> Vec<Value> {
    let (all, mut names) = (run.parameters(), Names::default());
    names.of_report(all.iter().map(|(name, _)| name), key);
    let param = |(name, value): &(String, String)| json!({"key": names.spell(name, key(name)), "value": cut(value, VALUE)});
    all.iter().map(param).collect()
}

/// Each point has a step of its own: the epoch, or what is counted where steps are reported.
fn metrics(news: &News<'_>, names: &mut Names) -> Vec<Value> {
    let mut found = Vec::new();
    for (point, iteration) in news.points.iter().zip(news.iterations) {
        let report = &point.progress;
        let at = (millis(report.at), *iteration);
        names.of_report(report.values.keys(), key);
        for (name, value) in &report.values {
            found.push(metric(&names.spell(name, key(name)), *value, at));
        }
    }
    found
}

/// Those of the trainer's last word: the last ones, and those of its best epoch. Reports may have the same
/// names, so these are names of their own.
fn last_metrics(run: &Run<'_>, end: &End, names: &mut Names) -> Vec<Value> {
    let epochs = run.attempt.completion.as_ref();
    let last = epochs.map_or(0, |word| word.epochs_completed);
    let (best_epoch, best) = run.best_metrics();
    let mut found = Vec::new();
    for (prefix, values, epoch) in [
        ("final", run.final_metrics(), last),
        ("best", best, best_epoch.unwrap_or(last)),
    ] {
        for (name, value) in values {
            let spelled = key(&format!("{prefix}/{name}"));
            let key = names.spell(&format!("{prefix}: {name}"), spelled);
            found.push(metric(&key, value, (millis(end.at), u64::from(epoch))));
        }
    }
    found
}

/// JSON has no NaN; protobuf's JSON spells it as a text.
fn metric(key: &str, value: f64, (at, step): (i64, u64)) -> Value {
    let value = if value.is_finite() {
        json!(value)
    } else if value.is_nan() {
        json!("NaN")
    } else if value > 0.0 {
        json!("Infinity")
    } else {
        json!("-Infinity")
    };
    json!({"key": key, "value": value, "timestamp": at, "step": step})
}

/// A name of characters that MLflow takes, and no path that leads elsewhere.
fn key(name: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || "_-. /".contains(c);
    let clean: String = name
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .collect();
    let part = |part: &str| match part {
        "" | "." | ".." => "_".to_owned(),
        part => part.to_owned(),
    };
    let parts: Vec<_> = clean.split('/').map(part).collect();
    parts.join("/").chars().take(NAME).collect()
}

#[cfg(test)]
mod tests {
    use trainyard_core::spec::JobSpec;

    use super::{
        super::runs::tests::{report, run, running},
        *,
    };

    #[test]
    fn names_are_spelled_so_that_mlflow_takes_them() {
        assert_eq!(key("metrics/mAP50(B)"), "metrics/mAP50_B_");
        assert_eq!(key("lr/pg0"), "lr/pg0");
        assert_eq!(key("../x//y"), "_/x/_/y");
        assert_eq!(key("/abs"), "_/abs");
        assert_eq!(key(""), "_");
        assert_eq!(key(&"x".repeat(300)).len(), NAME);
    }

    #[test]
    fn parameters_that_look_alike_get_numbers_and_long_ones_are_cut() {
        let config = json!({"a@b": 1, "a#b": 2, "long": "x".repeat(900)});
        let job = running(JobSpec {
            advanced_config: Some(config),
            ..JobSpec::default()
        });
        let params = params(&run(&job, 0));
        let value = |name: &str| {
            let found = params.iter().find(|param| param["key"] == name);
            found.map(|param| param["value"].as_str().unwrap().to_owned())
        };
        assert_eq!(value("advanced_config.a_b").as_deref(), Some("1"));
        assert_eq!(value("advanced_config.a_b_2").as_deref(), Some("2"));
        let long = value("advanced_config.long").unwrap();
        assert_eq!(long.chars().count(), VALUE);
    }

    #[test]
    fn a_point_is_a_metric_for_each_value_with_its_iteration_and_time() {
        let values = [("loss", 0.5), ("nan", f64::NAN), ("inf", f64::NEG_INFINITY)];
        let point = report(&values);
        let news = News {
            points: &[point],
            iterations: &[40],
            best: None,
            last: None,
        };
        let found = metrics(&news, &mut Names::default());
        let expected = |key: &str, value: Value| json!({"key": key, "value": value, "timestamp": 1_795_396_822_543_i64, "step": 40});
        assert_eq!(
            found,
            [
                expected("inf", json!("-Infinity")),
                expected("loss", json!(0.5)),
                expected("nan", json!("NaN"))
            ]
        );
    }

    #[test]
    fn a_run_says_who_and_where_in_its_tags() {
        let job = running(JobSpec {
            tags: Some(vec!["a".into(), "b".into()]),
            notes: Some("try 3".into()),
            ..JobSpec::default()
        });
        let tags = tags(&run(&job, 0));
        let has = |key: &str, value: &str| tags.contains(&json!({"key": key, "value": value}));
        assert!(has("trainyard.job_id", "7") && has("trainyard.node", "n1"));
        assert!(has("mlflow.user", "ada@example.com") && has("trainyard.tags", "a,b"));
        assert!(has("mlflow.note.content", "try 3"), "{tags:?}");
        assert!(!format!("{tags:?}").contains("hush"));
    }
}
