//! Snapshots of datasets.

use trainyard_core::snapshot::Snapshot;

use super::{WireError, time, timestamp};
use crate::v1;

impl From<Snapshot> for v1::Snapshot {
    fn from(core: Snapshot) -> Self {
        Self {
            snapshot_id: core.id,
            dataset_id: core.dataset_id,
            storage_path: core.storage_path,
            format: core.format,
            split_json: core.split.to_string(),
            version_hash: core.version_hash,
            assignment_hash: core.assignment_hash,
            file_count: core.files,
            total_bytes: core.bytes,
            created_by: core.created_by,
            created_at: Some(timestamp(core.created_at)),
            notes: core.notes,
        }
    }
}

impl TryFrom<v1::Snapshot> for Snapshot {
    type Error = WireError;

    fn try_from(wire: v1::Snapshot) -> Result<Self, WireError> {
        let given = |field, text: &str| match text {
            "" => Err(WireError::Missing(field)),
            _ => Ok(()),
        };
        given("snapshot.snapshot_id", &wire.snapshot_id)?;
        given("snapshot.version_hash", &wire.version_hash)?;
        let split = serde_json::from_str(&wire.split_json).map_err(|error| WireError::Json {
            field: "snapshot.split_json",
            message: error.to_string(),
        })?;
        Ok(Self {
            id: wire.snapshot_id,
            dataset_id: wire.dataset_id,
            storage_path: wire.storage_path,
            format: wire.format,
            split,
            version_hash: wire.version_hash,
            assignment_hash: wire.assignment_hash,
            files: wire.file_count,
            bytes: wire.total_bytes,
            created_by: wire.created_by,
            created_at: wire.created_at.as_ref().map(time).unwrap_or_default(),
            notes: wire.notes,
            // Where files lie is for the coordinator, which hands out ways to them.
            document: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trainyard_core::time::Timestamp;

    #[test]
    fn a_snapshot_comes_back_as_it_went() {
        let snapshot = Snapshot {
            document: None,
            id: "snap_0123456789ab".into(),
            dataset_id: "d".into(),
            storage_path: "s3://bucket/d".into(),
            format: "dice".into(),
            split: serde_json::json!({"source": "auto"}),
            version_hash: "ab".into(),
            assignment_hash: "cd".into(),
            files: 3,
            bytes: 7,
            created_by: "a@example.com".into(),
            created_at: Timestamp(5),
            notes: "n".into(),
        };
        let wire = v1::Snapshot::from(snapshot.clone());
        assert_eq!(Snapshot::try_from(wire.clone()), Ok(snapshot));
        let bad = v1::Snapshot {
            split_json: "{".into(),
            ..wire
        };
        assert_eq!(
            Snapshot::try_from(bad).unwrap_err().field(),
            "snapshot.split_json"
        );
    }
}
