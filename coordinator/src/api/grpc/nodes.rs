//! `NodeService`: machines, and taking them out of service.

use tonic::{Request, Response, Status, async_trait};
use trainyard_core::join::JoinToken;
use trainyard_proto::{
    convert::{WireError, span, time, timestamp},
    v1::{self, node_service_server::NodeService},
};

use super::caller;
use crate::{
    actors::{nodes::LabelChange, scheduler::NodeView},
    api::{ApiError, AskedWindow, NewDrain, NewJoinToken, Node, Service, ShownDuty},
};

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
        let request = request.into_inner();
        let deadline = request.deadline.as_ref();
        let deadline = deadline.map(|deadline| span("deadline", deadline));
        let asked = NewDrain {
            deadline: deadline.transpose().map_err(ApiError::from)?,
            then: known(request.at_deadline)?.into(),
            reason: request.reason,
        };
        let node = self.0.drain(&caller, &request.name, asked).await?;
        let node = Some(wire(node));
        Ok(Response::new(v1::DrainResponse { node }))
    }

    async fn cordon(
        &self,
        request: Request<v1::CordonRequest>,
    ) -> Result<Response<v1::CordonResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let v1::CordonRequest { name, reason } = request.into_inner();
        let asked = NewDrain {
            reason,
            ..NewDrain::default()
        };
        let node = Some(wire(self.0.drain(&caller, &name, asked).await?));
        Ok(Response::new(v1::CordonResponse { node }))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::ResumeResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let node = self.0.resume(&caller, &request.into_inner().name).await?;
        let node = Some(wire(node));
        Ok(Response::new(v1::ResumeResponse { node }))
    }

    async fn list_maintenance(
        &self,
        request: Request<v1::ListMaintenanceRequest>,
    ) -> Result<Response<v1::ListMaintenanceResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let windows = self.0.windows(&caller).await?;
        let windows = windows.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListMaintenanceResponse { windows }))
    }

    async fn add_maintenance(
        &self,
        request: Request<v1::AddMaintenanceRequest>,
    ) -> Result<Response<v1::AddMaintenanceResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let request = request.into_inner();
        let length = request.length.unwrap_or_default();
        let asked = AskedWindow {
            all: request.all_nodes,
            nodes: request.nodes.into_iter().collect(),
            labels: request.labels.into_iter().collect(),
            from: request.from.as_ref().map(time),
            length: span("length", &length).map_err(ApiError::from)?,
            why: request.why,
        };
        let planned = self.0.add_window(&caller, asked).await?;
        Ok(Response::new(v1::AddMaintenanceResponse {
            window: Some(planned.window.into()),
            warnings: planned.warnings,
        }))
    }

    async fn remove_maintenance(
        &self,
        request: Request<v1::RemoveMaintenanceRequest>,
    ) -> Result<Response<v1::RemoveMaintenanceResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        self.0
            .remove_window(&caller, request.into_inner().id)
            .await?;
        Ok(Response::new(v1::RemoveMaintenanceResponse {}))
    }

    async fn set_labels(
        &self,
        request: Request<v1::SetLabelsRequest>,
    ) -> Result<Response<v1::SetLabelsResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let v1::SetLabelsRequest { name, set, remove } = request.into_inner();
        let remove = remove.into_iter().collect();
        let change = LabelChange {
            set,
            remove,
            ..LabelChange::default()
        };
        let node = Some(wire(self.0.set_labels(&caller, &name, change).await?));
        Ok(Response::new(v1::SetLabelsResponse { node }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let asked = request.into_inner();
        let ttl = asked.ttl.as_ref().map(|ttl| span("ttl", ttl));
        let ttl = ttl.transpose().map_err(ApiError::from)?;
        let new = NewJoinToken {
            ttl: ttl.unwrap_or(NewJoinToken::TTL),
            node: Some(asked.node_name).filter(|name| !name.is_empty()),
            uses: asked.uses.max(1),
        };
        let (made, token) = self.0.create_join_token(&caller, new).await?;
        let join_token = Some(wire_token(made));
        Ok(Response::new(v1::CreateJoinTokenResponse {
            token,
            join_token,
        }))
    }

    async fn list_join_tokens(
        &self,
        request: Request<v1::ListJoinTokensRequest>,
    ) -> Result<Response<v1::ListJoinTokensResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let tokens = self.0.join_tokens(&caller)?;
        let join_tokens = tokens.into_iter().map(wire_token).collect();
        Ok(Response::new(v1::ListJoinTokensResponse { join_tokens }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<v1::RevokeJoinTokenRequest>,
    ) -> Result<Response<v1::RevokeJoinTokenResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let id = request.into_inner().id;
        self.0.revoke_join_token(&caller, &id).await?;
        Ok(Response::new(v1::RevokeJoinTokenResponse {}))
    }

    async fn revoke_node(
        &self,
        request: Request<v1::RevokeNodeRequest>,
    ) -> Result<Response<v1::RevokeNodeResponse>, Status> {
        let caller = caller(&self.0, &request)?;
        let name = request.into_inner().name;
        self.0.revoke_agent(&caller, &name).await?;
        Ok(Response::new(v1::RevokeNodeResponse {}))
    }
}

/// Without its secret.
fn wire_token(token: JoinToken) -> v1::JoinToken {
    v1::JoinToken {
        id: token.id,
        node_name: token.node.unwrap_or_default(),
        uses: token.uses,
        joined: token.joined.into_iter().map(|who| who.node).collect(),
        created_by: token.created_by,
        created_at: Some(timestamp(token.created_at)),
        expires_at: Some(timestamp(token.expires_at)),
    }
}

/// A value that nobody has defined is none.
fn known(at_deadline: i32) -> Result<v1::AtDeadline, ApiError> {
    let known = v1::AtDeadline::try_from(at_deadline);
    known.map_err(|_unknown| WireError::Unknown("at_deadline").into())
}

fn duty(node: &Node) -> v1::NodeDuty {
    match node.duty() {
        ShownDuty::Open => v1::NodeDuty::Open,
        ShownDuty::Draining => v1::NodeDuty::Draining,
        ShownDuty::Vacating => v1::NodeDuty::Vacating,
        ShownDuty::Drained => v1::NodeDuty::Drained,
    }
}

fn wire(node: Node) -> v1::Node {
    let (duty, closed_for) = (duty(&node), node.closed_for());
    let drained_by = node.drained_by();
    let Node { info, view } = node;
    let blocked = info.blocked.into_iter();
    let blocked = blocked.map(|(uuid, reason)| v1::BlockedGpu { uuid, reason });
    let row = info.row;
    let labels = row.all_labels();
    let view = view.unwrap_or_else(|| NodeView {
        name: row.name.clone(),
        free: row.capacity.clone(),
        jobs: Vec::new(),
        strays: 0,
    });
    v1::Node {
        name: row.name.0,
        state: v1::NodeState::from(info.state).into(),
        draining: duty != v1::NodeDuty::Open,
        drain_reason: closed_for.unwrap_or_default(),
        duty: duty.into(),
        drain_deadline: row.deadline.map(|deadline| timestamp(deadline.at)),
        at_deadline: row
            .deadline
            .map_or(v1::AtDeadline::Unspecified, |deadline| deadline.then.into())
            .into(),
        maintenance: info.window.map(Into::into),
        drained_by: drained_by.unwrap_or_default(),
        capacity: Some(row.capacity.into()),
        free: Some(view.free.into()),
        job_ids: view.jobs.into_iter().map(|job| job.0).collect(),
        stray_tasks: u32::try_from(view.strays).unwrap_or(u32::MAX),
        revoked: row.revoked,
        labels,
        set_labels: row.set_labels,
        agent_version: row.agent_version,
        last_seen_at: Some(timestamp(row.seen_at)),
        blocked_gpus: blocked.collect(),
        condition: info.condition,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;
    use trainyard_core::{
        ids::NodeName,
        node::NodeState,
        service::{Duty, Scope, Window, closure},
        time::Timestamp,
    };

    use super::*;
    use crate::{actors::nodes::NodeInfo, store::NodeRow};

    /// Clients take 4 MiB.
    #[test]
    fn a_list_of_a_thousand_nodes_in_one_window_fits_a_message() {
        let names: Vec<_> = (0..1_000)
            .map(|node| NodeName(format!("a-node-with-a-name-of-its-own-{node}")))
            .collect();
        let window = Window {
            id: 1,
            scope: Scope::Nodes(names.iter().cloned().collect()),
            from: Timestamp(0),
            until: Timestamp(i64::MAX),
            why: "because ".repeat(125),
            made_by: String::new(),
            made_at: Timestamp(0),
        };
        let nodes = names.into_iter().map(|name| {
            let info = NodeInfo {
                row: NodeRow::named(&name.0),
                state: NodeState::Ready,
                blocked: BTreeMap::new(),
                condition: String::new(),
                duty: Duty::Vacating(window.words(Timestamp(0))),
                window: closure(Timestamp(0), [&window]),
            };
            wire(Node { info, view: None })
        });
        let list = v1::ListNodesResponse {
            nodes: nodes.collect(),
        };
        assert!(list.encoded_len() < 1 << 20, "{} bytes", list.encoded_len());
    }
}
