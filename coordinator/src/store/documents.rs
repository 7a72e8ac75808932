//! Rows that are few, read by key and changed as a whole: projects, datasets, tokens and the like.
//!
//! Owns how such a row is named and encoded; a kind is one `impl Document`, so that a new one needs
//! no new table. Never commits. Used by the store and by whoever declares a document.

use redb::{ReadTransaction, ReadableDatabase as _};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Change, ReadError, Store,
    codec::{self, Place},
    tables::DOCUMENTS,
};

/// A row of a kind of its own. Fields added later carry `#[serde(default)]`.
pub trait Document: Serialize + DeserializeOwned {
    /// The kind's name in the file; never changes.
    const KIND: &'static str;

    /// Unique within the kind; rows are listed in the order of their keys.
    fn key(&self) -> String;
}

impl Change {
    /// Writes the whole document, in place of the one with its key.
    #[must_use]
    pub fn put<D: Document>(document: &D) -> Self {
        let body = serde_json::to_string(document);
        Self::PutDocument {
            kind: D::KIND,
            key: document.key(),
            body: body.expect("documents are plain structs with text keys"),
        }
    }

    /// Removes the document with this key, if there is one.
    #[must_use]
    pub fn remove<D: Document>(key: impl Into<String>) -> Self {
        Self::RemoveDocument {
            kind: D::KIND,
            key: key.into(),
        }
    }
}

impl Store {
    /// The document with this key.
    pub fn document<D: Document>(&self, key: &str) -> Result<Option<D>, ReadError> {
        find(&self.inner.shared.db.begin_read()?, key)
    }

    /// Every document of the kind whose key starts with `prefix`, by key; an empty prefix takes all.
    pub fn documents<D: Document>(&self, prefix: &str) -> Result<Vec<D>, ReadError> {
        let txn = self.inner.shared.db.begin_read()?;
        let table = txn.open_table(DOCUMENTS)?;
        let mut found = Vec::new();
        for entry in table.range((D::KIND, prefix)..)? {
            let (key, bytes) = entry?;
            let (kind, key) = key.value();
            if kind != D::KIND || !key.starts_with(prefix) {
                break;
            }
            found.push(codec::from_json(place::<D>(&key), bytes.value())?);
        }
        Ok(found)
    }
}

pub(super) fn find<D: Document>(txn: &ReadTransaction, key: &str) -> Result<Option<D>, ReadError> {
    let table = txn.open_table(DOCUMENTS)?;
    let bytes = table.get((D::KIND, key))?;
    bytes
        .map(|bytes| codec::from_json(place::<D>(&key), bytes.value()))
        .transpose()
}

fn place<'a, D: Document>(key: &'a &'a str) -> Place<'a> {
    Place {
        table: D::KIND,
        key,
    }
}
