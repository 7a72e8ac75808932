//! The catalog: datasets that were registered here, kept in the store. With the Labeler, what it lists.
//!
//! Never touches a dataset's files. Called by the service.

use std::time::Duration;

use trainyard_core::{
    dataset::{FileEntry, Format},
    spec::{TaskType, Violation},
};
use trainyard_proto::status::Kind;

use super::{Datasets, rows::DatasetRow};
use crate::{
    api::{ApiError, Caller},
    clock,
    storage::Entry,
    store::Change,
};

/// How long a registration may look at a dataset.
const LOOK: Duration = Duration::from_secs(20);

/// What is to be registered.
#[derive(Clone, Debug, Default)]
pub struct NewDataset {
    /// Its name.
    pub id: String,
    /// A folder's path or a URL.
    pub storage_path: String,
    /// Empty to find it out.
    pub format: String,
    /// For people.
    pub task_type: String,
    /// For people.
    pub description: String,
}

impl NewDataset {
    /// Every field that is wrong whatever the storage has, in the words of the wire.
    #[must_use]
    pub fn problems(&self) -> Vec<Violation> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let id = &self.id;
        let mut found = Vec::new();
        let mut add = |field: &str, message: String| {
            let field = field.to_owned();
            found.push(Violation { field, message });
        };
        if !(1..=100).contains(&id.len()) || !id.chars().all(fine) || id.chars().all(|c| c == '.') {
            let shown: String = id.chars().take(100).collect();
            add(
                "dataset_id",
                format!(
                    "'{shown}' is no name for a dataset; use 1 to 100 letters, digits, '.', '_' and '-'"
                ),
            );
        }
        if self.storage_path.is_empty() {
            add(
                "storage_path",
                "is empty; give a folder's absolute path on the coordinator, or a URL".to_owned(),
            );
        }
        for (field, text, most) in [
            ("storage_path", &self.storage_path, 300),
            ("description", &self.description, 2_000),
        ] {
            if text.chars().count() > most {
                add(
                    field,
                    format!("is longer than {most} characters; shorten it"),
                );
            }
        }
        let short = |text: &str| text.chars().take(100).collect::<String>();
        if !self.format.is_empty() && Format::parse(&self.format).is_none() {
            add(
                "format",
                format!(
                    "'{}' is not known; known are dice, yolo, coco and imagefolder",
                    short(&self.format)
                ),
            );
        }
        if !self.task_type.is_empty() && TaskType::parse(&self.task_type).is_none() {
            add(
                "task_type",
                format!(
                    "'{}' is not known; known are classification, detection, segmentation, pose",
                    short(&self.task_type)
                ),
            );
        }
        found
    }
}

impl Datasets {
    /// Registers a dataset.
    ///
    /// # Errors
    /// A name that is none or taken; a place that is not there or that users may not name; a format that is
    /// unknown, or cannot be found out.
    pub async fn add(&self, caller: &Caller, new: NewDataset) -> Result<DatasetRow, ApiError> {
        self.own()?;
        let problems = new.problems();
        if !problems.is_empty() {
            return Err(ApiError::invalid(problems));
        }
        let place = self.inner.storage.place(&new.storage_path).await;
        let place = place.map_err(|error| ApiError::field("storage_path", error.to_string()))?;
        let format = if new.format.is_empty() {
            let look = place.list("", self.inner.most);
            let listed = tokio::time::timeout(LOOK, look).await.ok();
            let late = || ApiError::field("format", "could not be found out within 20 s; say it");
            let listed = listed.ok_or_else(late)?;
            let entries =
                listed.map_err(|error| ApiError::field("storage_path", error.to_string()))?;
            let count = entries.len();
            let looking = trainyard_runtime::blocking(move || detect(entries));
            let found = looking.await.ok().ok_or_else(crate::api::stopping)?;
            found.ok_or_else(|| {
                let words = format!("cannot be told from the {count} files there; say dice, yolo, coco or imagefolder");
                ApiError::field("format", words)
            })?
        } else {
            super::known_format(&new.id, &new.format)?
        };
        let row = DatasetRow {
            id: new.id,
            storage_path: place.name(),
            format: format.name().to_owned(),
            task_type: new.task_type,
            description: new.description,
            owner: caller.user.email.clone(),
            created_at: clock::now(),
        };
        let _lock = self.lock(&row.id).await?;
        if self.inner.store.document::<DatasetRow>(&row.id)?.is_some() {
            let words = format!(
                "dataset '{}' is registered already; remove it first, or choose another name",
                row.id
            );
            return Err(ApiError::new(Kind::Conflict, words));
        }
        self.inner
            .store
            .commit_and_wait(vec![Change::put(&row)])
            .await?;
        Ok(row)
    }

    /// Takes a dataset out of the catalog. Its files and its snapshots stay.
    ///
    /// # Errors
    /// When there is none.
    pub async fn remove(&self, id: &str) -> Result<(), ApiError> {
        self.own()?;
        let _lock = self.lock(id).await?;
        self.registered(id)?;
        let change = Change::remove::<DatasetRow>(id);
        self.inner.store.commit_and_wait(vec![change]).await?;
        Ok(())
    }

    /// One dataset that the caller may see.
    ///
    /// # Errors
    /// As [`Datasets::prepare`] for one that is not there or not for the caller.
    pub async fn dataset(&self, caller: &Caller, id: &str) -> Result<DatasetRow, ApiError> {
        match &self.inner.labeler {
            None => self.registered(id),
            Some(labeler) => Ok(row(&*labeler.dataset(id, caller.user.id).await?)),
        }
    }

    /// A page of datasets after `token`, and the next page's token.
    ///
    /// # Errors
    /// When the Labeler cannot be reached, or the token is none.
    pub async fn datasets(
        &self,
        caller: &Caller,
        (token, limit): (&str, usize),
    ) -> Result<(Vec<DatasetRow>, Option<String>), ApiError> {
        let Some(labeler) = &self.inner.labeler else {
            let all = self.inner.store.documents::<DatasetRow>("")?;
            let after = all.into_iter().filter(|row| row.id.as_str() > token);
            let mut rows: Vec<_> = after.take(limit.saturating_add(1)).collect();
            let more = rows.len() > limit;
            rows.truncate(limit);
            let next = rows.last().filter(|_| more).map(|row| row.id.clone());
            return Ok((rows, next));
        };
        let page = if token.is_empty() {
            Ok(1)
        } else {
            token.parse::<u64>()
        };
        let words = "is not a token of an earlier page; leave it out for the first page";
        let page = page
            .ok()
            .ok_or_else(|| ApiError::field("page_token", words))?;
        let limit = limit.min(100);
        let listed = labeler.list((page, limit), caller.user.id).await?;
        let seen = page.saturating_mul(limit as u64);
        let next =
            (seen < listed.total && !listed.datasets.is_empty()).then(|| (page + 1).to_string());
        Ok((listed.datasets.iter().map(row).collect(), next))
    }

    pub(super) fn registered(&self, id: &str) -> Result<DatasetRow, ApiError> {
        let row = self.inner.store.document::<DatasetRow>(id)?;
        row.ok_or_else(|| {
            let words =
                format!("Dataset '{id}' not found; register it with `trainyard dataset add`");
            ApiError::new(Kind::NotFound, words)
        })
    }

    /// Whether datasets are registered here.
    fn own(&self) -> Result<(), ApiError> {
        let words =
            "datasets are kept by the Labeler (datasets.provider); register and remove them there";
        match &self.inner.labeler {
            None => Ok(()),
            Some(_) => Err(ApiError::new(Kind::Conflict, words)),
        }
    }
}

/// What format these files have. Takes a while for many.
fn detect(entries: Vec<Entry>) -> Option<Format> {
    let file = |entry: Entry| FileEntry {
        path: entry.path,
        size: entry.size,
    };
    let files: Vec<_> = entries.into_iter().map(file).collect();
    Format::detect(&files)
}

/// A dataset of the Labeler.
fn row(told: &super::labeler::Told) -> DatasetRow {
    let plain = |value: &serde_json::Value| match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    let words = [&told.name, &told.description];
    let words: Vec<&str> = words
        .into_iter()
        .filter_map(|text| text.as_deref())
        .filter(|text| !text.is_empty())
        .collect();
    DatasetRow {
        id: plain(&told.id),
        storage_path: told.storage_path.clone().unwrap_or_default(),
        format: told.format.clone().unwrap_or_default(),
        task_type: told.task_type.clone().unwrap_or_default(),
        description: words.join(": "),
        owner: told.owner_id.as_ref().map(plain).unwrap_or_default(),
        created_at: trainyard_core::time::Timestamp::default(),
    }
}
