//! A checkpoint that is too large for one request: each part by a way of its own.
//!
//! Owns that a part that was stored is not sent again, and that an upload which comes to nothing is given
//! up, for its parts take room in the store. Called by the uploads.

use std::path::Path;

use tonic::Status;
use trainyard_proto::v1::{CompleteUploadRequest, UploadPart, UploadParts};

use super::{
    Datasets,
    put::{Refusal, Span, limit, put},
    retry::Retry,
    upload::{SIGN, Trip, in_time, insist},
};
use crate::folder::Order;

impl Datasets {
    /// Stores a file in parts and has one upload made of them.
    pub(super) async fn store_parts(
        &self,
        trip: Trip<'_>,
        path: &Path,
        parts: &UploadParts,
        retry: &mut Retry,
    ) -> Result<(), Refusal> {
        let order = trip.order;
        let storing = Box::pin(async {
            let tags = self.send(path, &parts.parts, retry).await?;
            self.complete(order, parts, tags).await
        });
        let stored = trip.unless_given_up(storing).await;
        if let Err(refusal) = stored {
            if let Err(error) = in_time(SIGN, self.end(order, parts, Vec::new())).await {
                tracing::warn!(task = ?order.task, %error, "parts of a checkpoint stay in the store");
            }
            return Err(refusal);
        }
        Ok(())
    }

    /// Sends all parts, one after the other; answers with their tags.
    async fn send(
        &self,
        path: &Path,
        parts: &[UploadPart],
        retry: &mut Retry,
    ) -> Result<Vec<String>, Refusal> {
        let (mut tags, mut from) = (Vec::with_capacity(parts.len()), 0);
        for part in parts {
            let span = Span {
                path,
                from,
                size: part.size_bytes,
            };
            tags.push(self.send_one(&part.url, span, retry).await?);
            retry.progress();
            from += part.size_bytes;
        }
        Ok(tags)
    }

    async fn send_one(
        &self,
        url: &str,
        span: Span<'_>,
        retry: &mut Retry,
    ) -> Result<String, Refusal> {
        loop {
            let url = self.coordinator.join(url);
            let url = url.map_err(|error| Refusal::Final(format!("its way is no URL: {error}")))?;
            match put(&self.http, url, span, retry.moved()).await {
                Err(Refusal::Passing(why)) => {
                    if !retry.again().await {
                        return Err(Refusal::Final(why));
                    }
                }
                done => return done,
            }
        }
    }

    /// Has one upload made of the parts, which may take minutes; the parts are not sent again for it.
    async fn complete(
        &self,
        order: &Order,
        parts: &UploadParts,
        tags: Vec<String>,
    ) -> Result<(), Refusal> {
        let limit = limit(size(parts));
        insist(limit, || self.end(order, parts, tags.clone())).await
    }

    /// Tells the coordinator that the parts are there, or that they will not be.
    async fn end(
        &self,
        order: &Order,
        parts: &UploadParts,
        tags: Vec<String>,
    ) -> Result<(), Status> {
        let request = CompleteUploadRequest {
            task: Some(order.task.into()),
            secret: order.secret.expose().to_owned(),
            upload_id: parts.upload_id.clone(),
            key: parts.key.clone(),
            tags,
            size_bytes: size(parts),
        };
        let answer = self.calls().await?.complete_upload(request).await;
        answer.map(drop)
    }
}

fn size(parts: &UploadParts) -> u64 {
    parts.parts.iter().map(|part| part.size_bytes).sum()
}
