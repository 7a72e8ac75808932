//! Datasets and snapshots as gRPC shows them. Pure.

use trainyard_core::snapshot::Snapshot;
use trainyard_proto::{convert::timestamp, v1};

use super::DatasetRow;

pub(crate) fn snapshot(core: Snapshot) -> v1::Snapshot {
    v1::Snapshot {
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

pub(crate) fn dataset(row: DatasetRow) -> v1::Dataset {
    v1::Dataset {
        dataset_id: row.id,
        storage_path: row.storage_path,
        format: row.format,
        task_type: row.task_type,
        description: row.description,
        owner: row.owner,
        created_at: Some(timestamp(row.created_at)),
    }
}
