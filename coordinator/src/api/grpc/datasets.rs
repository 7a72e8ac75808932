//! `DatasetService`: datasets and snapshots for users. What agents fetch is in `agents`.

use tonic::{Request, Response, Status, async_trait};
use trainyard_proto::v1::{self, dataset_service_server::DatasetService};

use super::{caller, pages::size};
use crate::{
    api::{ApiError, Service},
    datasets::{NewDataset, dataset_to_wire},
};

type Answer<T> = Result<Response<T>, Status>;

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct DatasetDoor(pub(super) Service);

#[async_trait]
impl DatasetService for DatasetDoor {
    async fn add_dataset(
        &self,
        request: Request<v1::AddDatasetRequest>,
    ) -> Answer<v1::AddDatasetResponse> {
        let caller = caller(&self.0, &request)?;
        let missing = || ApiError::field("dataset", "is missing; say what is to be registered");
        let asked = request.into_inner().dataset.ok_or_else(missing)?;
        let new = NewDataset {
            id: asked.dataset_id,
            storage_path: asked.storage_path,
            format: asked.format,
            task_type: asked.task_type,
            description: asked.description,
        };
        let dataset = Some(dataset_to_wire(self.0.add_dataset(&caller, new).await?));
        Ok(Response::new(v1::AddDatasetResponse { dataset }))
    }

    async fn list_datasets(
        &self,
        request: Request<v1::ListDatasetsRequest>,
    ) -> Answer<v1::ListDatasetsResponse> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let page = (asked.page_token.as_str(), size(asked.page_size));
        let (rows, next) = self.0.datasets(&caller, page).await?;
        Ok(Response::new(v1::ListDatasetsResponse {
            datasets: rows.into_iter().map(dataset_to_wire).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn get_dataset(
        &self,
        request: Request<v1::GetDatasetRequest>,
    ) -> Answer<v1::GetDatasetResponse> {
        let caller = caller(&self.0, &request)?;
        let id = request.into_inner().dataset_id;
        let dataset = Some(dataset_to_wire(self.0.dataset(&caller, &id).await?));
        Ok(Response::new(v1::GetDatasetResponse { dataset }))
    }

    async fn remove_dataset(
        &self,
        request: Request<v1::RemoveDatasetRequest>,
    ) -> Answer<v1::RemoveDatasetResponse> {
        let caller = caller(&self.0, &request)?;
        let id = request.into_inner().dataset_id;
        self.0.remove_dataset(&caller, &id).await?;
        Ok(Response::new(v1::RemoveDatasetResponse {}))
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Answer<v1::ListSnapshotsResponse> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let dataset = Some(asked.dataset_id).filter(|id| !id.is_empty());
        let page = (asked.page_token.as_str(), size(asked.page_size));
        let (rows, next) = self.0.snapshots(&caller, dataset, page).await?;
        Ok(Response::new(v1::ListSnapshotsResponse {
            snapshots: rows.into_iter().map(Into::into).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Answer<v1::GetSnapshotResponse> {
        let caller = caller(&self.0, &request)?;
        let id = request.into_inner().snapshot_id;
        let snapshot = Some(self.0.snapshot(&caller, &id).await?.into());
        Ok(Response::new(v1::GetSnapshotResponse { snapshot }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<v1::DeleteSnapshotRequest>,
    ) -> Answer<v1::DeleteSnapshotResponse> {
        let caller = caller(&self.0, &request)?;
        let id = request.into_inner().snapshot_id;
        self.0.delete_snapshot(&caller, &id).await?;
        Ok(Response::new(v1::DeleteSnapshotResponse {}))
    }
}
