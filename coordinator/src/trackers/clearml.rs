//! ClearML: its REST calls, with a token that is renewed before it expires.
//!
//! Owns its envelope of answers and its credentials; what is sent looks as `entries` says. Events of the same
//! metric, variant and iteration are one event there; the other calls say a whole state, and are
//! forced, so that each may be repeated. Never decides what is to be sent: the feed does.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{Client, header::CONTENT_TYPE};
use serde_json::{Value, json};
use trainyard_core::{job::Tracker, time::Timestamp};

mod entries;

use entries::{artifact, events, last_parameters, parameters};

use super::{
    feed::{News, Notes, Sink},
    http::{self, Answer, Failure},
    refusals::{Item, Refusals},
    runs::{End, Run, Verdict, cut},
};
use crate::{clock, config::ClearmlConfig};

/// Life of a token that is asked for.
const LIFE: Duration = Duration::from_secs(3_600);
/// Events in one call.
const EVENTS: usize = 1_000;
/// Parameters or artifacts in one call.
const LIST: usize = 500;
const PARAMETERS: (&str, &str) = ("tasks.edit_hyper_params", "hyperparams");
const ARTIFACTS: (&str, &str) = ("tasks.add_or_update_artifacts", "artifacts");
/// Characters of a name.
const NAME: usize = 250;
/// Characters of a value or a message.
const VALUE: usize = 5_000;
/// Projects whose ids are remembered.
const PROJECTS: usize = 1_000;

/// A ClearML server.
#[derive(Debug)]
pub(super) struct Clearml {
    client: Client,
    config: ClearmlConfig,
    /// With the time at which it is renewed.
    token: Option<(trainyard_config::Secret, Timestamp)>,
    /// Id by name.
    projects: BTreeMap<String, String>,
}

impl Clearml {
    pub(super) fn new(client: Client, config: ClearmlConfig) -> Self {
        Self {
            client,
            config,
            token: None,
            projects: BTreeMap::new(),
        }
    }

    /// One call with a JSON body; what stands under `data`.
    async fn call(&mut self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(path, "application/json", body.to_string()).await
    }

    /// With a token; one that is refused is renewed once.
    async fn send(&mut self, path: &str, kind: &str, body: String) -> Result<Value, Failure> {
        let had_token = self.token.is_some();
        match self.send_once(path, kind, body.clone()).await {
            Err(Failure::Refused(_)) if had_token => {
                self.token = None;
                self.send_once(path, kind, body).await
            }
            answer => answer,
        }
    }

    async fn send_once(&mut self, path: &str, kind: &str, body: String) -> Result<Value, Failure> {
        let token = self.token().await?;
        let request = self
            .client
            .post(self.url(path))
            .bearer_auth(token.expose())
            .header(CONTENT_TYPE, kind)
            .body(body);
        let answer = http::send(request).await?;
        let data = self.data(&answer, Some(&token));
        if matches!(data, Err(Failure::Refused(_))) {
            self.token = None;
        }
        data
    }

    /// A token that is good for a while yet.
    async fn token(&mut self) -> Result<trainyard_config::Secret, Failure> {
        let now = clock::now();
        if let Some((token, renew_at)) = &self.token
            && now < *renew_at
        {
            return Ok(token.clone());
        }
        let config = &self.config;
        let request = self
            .client
            .post(self.url("auth.login"))
            .basic_auth(&config.access_key, Some(config.secret_key.expose()))
            .json(&json!({"expiration_sec": LIFE.as_secs()}));
        let answer = http::send(request).await?;
        let data = self.data(&answer, None)?;
        let token = trainyard_config::Secret::new(text(&data, "token")?);
        self.token = Some((token.clone(), now.plus(LIFE / 2)));
        Ok(token)
    }

    /// What an answer holds, or what its envelope says is wrong.
    fn data(
        &self,
        answer: &Answer,
        token: Option<&trainyard_config::Secret>,
    ) -> Result<Value, Failure> {
        let mut body = answer.json();
        let code = body.pointer("/meta/result_code").and_then(Value::as_u64);
        if answer.status.is_success() && code == Some(200) {
            let data = body.get_mut("data").map(Value::take);
            return Ok(data.unwrap_or(Value::Null));
        }
        let said = body.pointer("/meta/result_msg").and_then(Value::as_str);
        let mut secrets = vec![&self.config.secret_key];
        secrets.extend(token);
        let words = http::without(&secrets, said.unwrap_or(&answer.text));
        if answer.status.is_success() || (code.is_none() && answer.status.is_client_error()) {
            return Err(Failure::later(format!(
                "its answer ({}) is not one of ClearML; is trackers.clearml.url the address of the API server?",
                answer.status
            )));
        }
        Err(http::judge(answer, &words))
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.config.url.trim_end_matches('/'))
    }

    /// The id of a project, which is made if need be.
    async fn project(&mut self, name: &str) -> Result<String, Failure> {
        if let Some(id) = self.projects.get(name) {
            return Ok(id.clone());
        }
        // The name is taken for a regular expression there.
        let query = json!({"name": format!("^{}$", escaped(name)), "only_fields": ["id", "name"]});
        let found = self.call("projects.get_all", &query).await?;
        let projects = found.get("projects").and_then(Value::as_array);
        let same = |project: &&Value| project.get("name").and_then(Value::as_str) == Some(name);
        let known = projects.and_then(|all| all.iter().find(same));
        let id = match known {
            Some(project) => text(project, "id")?,
            None => {
                let body = json!({"name": name, "description": "Jobs of Trainyard"});
                text(&self.call("projects.create", &body).await?, "id")?
            }
        };
        if self.projects.len() >= PROJECTS {
            self.projects.clear();
        }
        self.projects.insert(name.to_owned(), id.clone());
        Ok(id)
    }

    /// Without `whole`, only what it is found and known by.
    async fn create_in(
        &mut self,
        project: &str,
        run: &Run<'_>,
        whole: bool,
    ) -> Result<String, Failure> {
        let project = self.project(project).await?;
        let mut tags = vec![run.label(), "trainyard".to_owned()];
        let mut body = json!({"type": "training", "project": project});
        if let Some(fields) = body.as_object_mut() {
            let notes = run.job.spec.notes.as_deref().unwrap_or_default();
            let mut name = format!("job {}", run.job.id);
            if whole {
                name = cut(&run.name(), NAME);
                tags.extend(run.job.spec.tags.clone().unwrap_or_default());
                fields.insert("comment".to_owned(), json!(cut(notes, VALUE)));
            }
            fields.insert("name".to_owned(), json!(name));
            fields.insert("tags".to_owned(), json!(tags));
        }
        text(&self.call("tasks.create", &body).await?, "id")
    }

    async fn events(
        &mut self,
        task: &str,
        news: News<'_>,
        notes: &mut Notes,
    ) -> Result<(), Failure> {
        let events = events(task, &news, &mut notes.names);
        let refusals = &mut notes.refusals;
        let mut parts = refusals.parts("metric", events, EVENTS);
        while let Some(part) = parts.next(refusals) {
            match self.add_batch(&part).await {
                Ok(()) => {}
                Err(Failure::Never(words)) => parts.refused(part, &words, refusals),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// An answer may be a success although some events were not taken: that is a refusal of the batch.
    async fn add_batch(&mut self, events: &[Item]) -> Result<(), Failure> {
        let lines = events.iter().map(|event| format!("{}\n", event.body));
        let kind = "application/json-lines";
        let taken = match self.send("events.add_batch", kind, lines.collect()).await {
            Err(Failure::Never(words)) => return Err(not_added(words)),
            answer => answer?,
        };
        match taken.get("errors").and_then(Value::as_u64) {
            None | Some(0) => Ok(()),
            Some(errors) => {
                let info = taken.get("errors_info").unwrap_or(&Value::Null);
                Err(not_added(format!("{errors} not added: {info}")))
            }
        }
    }

    /// Sends entries of a list, each of which may be refused.
    async fn list(
        &mut self,
        (path, key): (&str, &'static str),
        task: &str,
        items: Vec<Item>,
        refusals: &mut Refusals,
    ) -> Result<(), Failure> {
        let mut parts = refusals.parts(key, items, LIST);
        while let Some(part) = parts.next(refusals) {
            let batch: Vec<_> = part.iter().map(|item| &item.body).collect();
            let body = json!({"task": task, key: batch, "force": true});
            match self.call(path, &body).await {
                Ok(_) => {}
                Err(Failure::Never(words)) => parts.refused(part, &words, refusals),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }
}

impl Sink for Clearml {
    const TRACKER: Tracker = Tracker::Clearml;

    async fn find(&mut self, run: &Run<'_>) -> Result<Option<String>, Failure> {
        let query =
            json!({"tags": [run.label()], "only_fields": ["id"], "page": 0, "page_size": 1});
        let found = self.call("tasks.get_all", &query).await?;
        let id = found.pointer("/tasks/0/id").and_then(Value::as_str);
        Ok(id.map(str::to_owned))
    }

    async fn create(&mut self, run: &Run<'_>, notes: &mut Notes) -> Result<String, Failure> {
        let name = cut(&run.group(&self.config.project), NAME);
        let remembered = self.projects.contains_key(&name);
        let mut created = self.create_in(&name, run, true).await;
        if remembered && matches!(created, Err(Failure::Never(_))) {
            // The project may have been removed there since.
            self.projects.remove(&name);
            created = self.create_in(&name, run, true).await;
        }
        let Err(Failure::Never(words)) = created else {
            return created;
        };
        let id = self.create_in(&name, run, false).await?;
        notes.refusals.note("task", "name, tags and notes", &words);
        Ok(id)
    }

    async fn describe(
        &mut self,
        id: &str,
        run: &Run<'_>,
        notes: &mut Notes,
    ) -> Result<(), Failure> {
        self.list(PARAMETERS, id, parameters(run), &mut notes.refusals)
            .await?;
        let body = json!({"task": id, "force": true, "status_reason": "started by Trainyard"});
        self.call("tasks.started", &body).await.map(drop)
    }

    async fn tell(&mut self, id: &str, news: News<'_>, notes: &mut Notes) -> Result<(), Failure> {
        self.events(id, news, notes).await?;
        let told = [
            ("best_checkpoint", news.best),
            ("last_checkpoint", news.last),
        ];
        let told = told
            .into_iter()
            .filter_map(|(key, uri)| Some(artifact(key, uri?)));
        self.list(ARTIFACTS, id, told.collect(), &mut notes.refusals)
            .await
    }

    async fn finish(
        &mut self,
        id: &str,
        run: &Run<'_>,
        end: &End,
        notes: &mut Notes,
    ) -> Result<(), Failure> {
        self.list(PARAMETERS, id, last_parameters(run), &mut notes.refusals)
            .await?;
        let word = run.attempt.completion.as_ref();
        let model = word.and_then(|word| word.model_artifacts.as_deref());
        let model = model.map(|uri| artifact("model_artifacts", uri));
        self.list(
            ARTIFACTS,
            id,
            model.into_iter().collect(),
            &mut notes.refusals,
        )
        .await?;
        let (path, reason) = match end.verdict {
            Verdict::Completed => ("tasks.completed", "completed"),
            Verdict::Failed => ("tasks.failed", "failed"),
            Verdict::Cancelled => ("tasks.stopped", "cancelled by a user"),
        };
        let body = json!({
            "task": id,
            "force": true,
            "status_reason": reason,
            "status_message": cut(&end.message, VALUE),
        });
        self.call(path, &body).await.map(drop)
    }
}

fn text(value: &Value, key: &str) -> Result<String, Failure> {
    let found = value.get(key).and_then(Value::as_str);
    found
        .map(str::to_owned)
        .ok_or_else(|| Failure::later(format!("its answer has no {key}")))
}

/// As a regular expression that means the text itself.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        if r"\.+*?()|[]{}^$#&-~/".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Why events were not added. What its own store could not take now is tried again; what an event lacks
/// will never be taken.
fn not_added(words: String) -> Failure {
    match words.contains("indexing") {
        true => Failure::later(words),
        false => Failure::Never(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_as_itself() {
        assert_eq!(escaped("a.b (c)/d"), r"a\.b \(c\)\/d");
    }
}
