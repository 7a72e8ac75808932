//! `NodeService`: machines, and taking them out of service.

use tonic::{Request, Response, Status, async_trait};
use trainyard_proto::{
    convert::timestamp,
    v1::{self, node_service_server::NodeService},
};

use super::caller;
use crate::api::{Node, Service};

/// The door; all is in the service.
#[derive(Debug)]
pub(super) struct NodeDoor(pub(super) Service);

#[async_trait]
impl NodeService for NodeDoor {
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let nodes = self.0.nodes(&caller).await?.into_iter().map(wire).collect();
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn get_node(
        &self,
        request: Request<v1::GetNodeRequest>,
    ) -> Result<Response<v1::GetNodeResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let node = self.0.node(&caller, &request.into_inner().name).await?;
        let node = Some(wire(node));
        Ok(Response::new(v1::GetNodeResponse { node }))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let v1::DrainRequest { name, reason } = request.into_inner();
        let reason = match reason.is_empty() {
            true => format!("drained by {}", caller.user.email),
            false => reason,
        };
        let node = Some(wire(self.0.set_drain(&caller, &name, Some(reason)).await?));
        Ok(Response::new(v1::DrainResponse { node }))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ResumeResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let node = self
            .0
            .set_drain(&caller, &request.into_inner().name, None)
            .await?;
        let node = Some(wire(node));
        Ok(Response::new(v1::ResumeResponse { node }))
    }
}

fn wire(node: Node) -> v1::Node {
    let Node { info, view } = node;
    let row = info.row;
    let (free, jobs) = match view {
        Some(view) => (view.free, view.jobs),
        None => (row.capacity.clone(), Vec::new()),
    };
    v1::Node {
        name: row.name.0,
        state: v1::NodeState::from(info.state).into(),
        draining: row.drained.is_some(),
        drain_reason: row.drained.unwrap_or_default(),
        capacity: Some(row.capacity.into()),
        free: Some(free.into()),
        job_ids: jobs.into_iter().map(|job| job.0).collect(),
        labels: row.labels,
        agent_version: row.agent_version,
        last_seen_at: Some(timestamp(row.seen_at)),
    }
}
