//! Operators: they take nodes out of service and back, as the plan says, and try until it is done.
//!
//! Called by the world.

use std::time::Duration;

use tonic::{Code, Request as Call, Status};
use trainyard_core::service::AtDeadline;
use trainyard_proto::v1::{
    AddMaintenanceRequest, AtDeadline as Shown, CordonRequest, DrainRequest,
    ListMaintenanceRequest, ListNodesRequest, RemoveMaintenanceRequest, ResumeRequest,
    node_service_client::NodeServiceClient,
};

use crate::{nature, plan::Act, trace::Trace, user::Caller};

/// Does what is planned, one after the other; what a coordinator that is away delays is done later.
pub(crate) async fn operator(
    acts: Vec<(Duration, Act)>,
    caller: Caller,
    trace: Trace,
) -> turmoil::Result {
    let began = tokio::time::Instant::now();
    for (at, act) in acts {
        tokio::time::sleep_until(began + at).await;
        match caller.again(|| done(&caller, &act)).await {
            Ok(()) => trace.note(format!("operator: {act:?}")),
            // Of a node that has not registered yet, or a window that is gone.
            Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => {
                trace.note(format!("operator: {act:?} is refused"));
            }
            Err(status) => return Err(status.into()),
        }
    }
    Ok(())
}

async fn done(caller: &Caller, act: &Act) -> Result<(), Status> {
    match act {
        Act::Cordon(node) => cordon(caller, *node).await,
        Act::Drain(node, seconds, then) => drain(caller, *node, (*seconds, *then)).await,
        Act::Resume(node) => resume(caller, name(*node)).await,
        Act::Maintain(node, from, lasts) => maintain(caller, *node, (*from, *lasts)).await,
        Act::TakeBack => take_back(caller, 1).await,
        Act::OpenAll => {
            let (mut nodes, bearer) = door(caller).await?;
            let all = nodes.list_nodes(signed(ListNodesRequest {}, &bearer));
            for node in all.await?.into_inner().nodes {
                resume(caller, node.name).await?;
            }
            take_back(caller, usize::MAX).await
        }
    }
}

type Nodes = NodeServiceClient<tonic::transport::Channel>;
type Bearer = tonic::metadata::MetadataValue<tonic::metadata::Ascii>;

async fn door(caller: &Caller) -> Result<(Nodes, Bearer), Status> {
    let (channel, bearer) = caller.enter().await?;
    Ok((NodeServiceClient::new(channel), bearer))
}

fn signed<T>(request: T, bearer: &Bearer) -> Call<T> {
    let mut call = Call::new(request);
    call.metadata_mut().insert("authorization", bearer.clone());
    call
}

fn name(node: usize) -> String {
    format!("node-{node}")
}

fn span(seconds: u32) -> prost_types::Duration {
    prost_types::Duration {
        seconds: seconds.into(),
        nanos: 0,
    }
}

async fn cordon(caller: &Caller, node: usize) -> Result<(), Status> {
    let (mut nodes, bearer) = door(caller).await?;
    let request = CordonRequest {
        name: name(node),
        reason: "new fan".to_owned(),
    };
    nodes.cordon(signed(request, &bearer)).await.map(drop)
}

async fn drain(
    caller: &Caller,
    node: usize,
    (seconds, then): (u32, AtDeadline),
) -> Result<(), Status> {
    let (mut nodes, bearer) = door(caller).await?;
    let request = DrainRequest {
        name: name(node),
        reason: "new disk".to_owned(),
        deadline: Some(span(seconds)),
        at_deadline: Shown::from(then).into(),
    };
    nodes.drain(signed(request, &bearer)).await.map(drop)
}

async fn resume(caller: &Caller, name: String) -> Result<(), Status> {
    let (mut nodes, bearer) = door(caller).await?;
    let request = ResumeRequest { name };
    nodes.resume(signed(request, &bearer)).await.map(drop)
}

async fn maintain(
    caller: &Caller,
    node: Option<usize>,
    (from, lasts): (u32, u32),
) -> Result<(), Status> {
    let (mut nodes, bearer) = door(caller).await?;
    // By a clock that may be set meanwhile, as all clocks are.
    let now = nature::wall_us() / 1_000_000;
    let from = now + u64::from(from);
    let request = AddMaintenanceRequest {
        all_nodes: node.is_none(),
        nodes: node.map(name).into_iter().collect(),
        labels: Vec::new(),
        from: Some(prost_types::Timestamp {
            seconds: i64::try_from(from).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        length: Some(span(lasts)),
        why: "new switch".to_owned(),
    };
    let added = nodes.add_maintenance(signed(request, &bearer)).await;
    added.map(drop)
}

/// The first few of those that there are.
async fn take_back(caller: &Caller, most: usize) -> Result<(), Status> {
    let (mut nodes, bearer) = door(caller).await?;
    let all = nodes.list_maintenance(signed(ListMaintenanceRequest {}, &bearer));
    for window in all.await?.into_inner().windows.into_iter().take(most) {
        let request = RemoveMaintenanceRequest { id: window.id };
        match nodes.remove_maintenance(signed(request, &bearer)).await {
            // A try whose answer was lost has done it.
            Err(status) if status.code() == Code::NotFound => {}
            removed => removed.map(drop)?,
        }
    }
    Ok(())
}
