//! `StoreService`: a backup while the coordinator runs.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, async_trait};
use trainyard_proto::v1::{
    self, BackupBegin, BackupEnd, backup_response::Part, store_service_server::StoreService,
};

use super::caller;
use crate::api::{Service, backup::Piece};

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct StoreDoor(pub(super) Service);

#[async_trait]
impl StoreService for StoreDoor {
    type BackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupResponse, Status>> + Send>>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let caller = caller(&self.0, &request)?;
        let pieces = self.0.back_up(caller).await?;
        let stop = self.0.stop().clone();
        let parts = pieces.map(|piece| Ok(wire(piece?)));
        let parts = parts.take_until(stop.cancelled_owned());
        Ok(Response::new(Box::pin(parts)))
    }
}

fn wire(piece: Piece) -> v1::BackupResponse {
    let part = match piece {
        Piece::Begin { bytes, rows } => Part::Begin(BackupBegin {
            size_bytes: bytes,
            rows,
        }),
        Piece::Data(bytes) => Part::Data(bytes),
        Piece::End { digest } => Part::End(BackupEnd { digest }),
    };
    v1::BackupResponse { part: Some(part) }
}
