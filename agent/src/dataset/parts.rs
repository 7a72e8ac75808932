//! A checkpoint that is too large for one request: each part by a way of its own.
//!
//! Owns that a part that was stored is not sent again, and that an upload which comes to nothing is given
//! up, for its parts take room in the store. Called by the uploads.

use std::path::Path;

use tonic::Status;
use trainyard_proto::v1::{CompleteUploadRequest, UploadPart, UploadParts};

use super::{
    Datasets,
    put::{Refusal, Span, put},
    retry::Retry,
    upload::{SIGN, refusal},
};
use crate::folder::Order;

impl Datasets {
    /// Stores a file in parts and has one upload made of them.
    pub(super) async fn store_parts(
        &self,
        order: &Order,
        path: &Path,
        parts: &UploadParts,
        retry: &mut Retry,
    ) -> Result<(), Refusal> {
        let stored = match self.send(path, &parts.parts, retry).await {
            Ok(tags) => self.end(order, parts, tags).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = stored {
            if let Err(error) = self.end(order, parts, Vec::new()).await {
                tracing::warn!(task = ?order.task, ?error, "parts of a checkpoint stay in the store");
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
            match put(&self.http, url, span).await {
                Err(Refusal::Passing(why)) => {
                    if !retry.again().await {
                        return Err(Refusal::Passing(why));
                    }
                }
                done => return done,
            }
        }
    }

    /// Tells the coordinator that the parts are there, or that they will not be.
    async fn end(
        &self,
        order: &Order,
        parts: &UploadParts,
        tags: Vec<String>,
    ) -> Result<(), Refusal> {
        let request = CompleteUploadRequest {
            task: Some(order.task.into()),
            secret: order.secret.expose().to_owned(),
            upload_id: parts.upload_id.clone(),
            key: parts.key.clone(),
            tags,
        };
        let asking = async { self.calls().await?.complete_upload(request).await };
        let late = |_| Status::deadline_exceeded(format!("no answer within {SIGN:?}"));
        let answer = tokio::time::timeout(SIGN, asking).await;
        let answer = answer.unwrap_or_else(|elapsed| Err(late(elapsed)));
        answer.map(drop).map_err(|status| refusal(&status))
    }
}
