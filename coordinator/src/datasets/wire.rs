//! Datasets as gRPC shows them. Pure.

use trainyard_proto::{convert::timestamp, v1};

use super::DatasetRow;

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
