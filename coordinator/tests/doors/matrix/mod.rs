//! Every call of both doors × every kind of caller, compared with one table; and every way not to be
//! known, at every call that needs a user.

mod agents;
mod calls;
mod stage;
mod strangers;
mod table;

use std::collections::BTreeSet;

use trainyard_proto::DESCRIPTORS;

use self::{
    stage::Stage,
    table::{CALLERS, Row, UNDESCRIBED, rows, shape},
};
use crate::world::World;

/// Methods of our services, but for those of agents.
fn methods() -> BTreeSet<String> {
    let set = <prost_types::FileDescriptorSet as prost::Message>::decode(DESCRIPTORS).unwrap();
    let ours = set
        .file
        .iter()
        .filter(|file| file.package() == "trainyard.v1");
    let services = ours.flat_map(|file| &file.service);
    let services = services.filter(|service| service.name() != "AgentService");
    let methods = services.flat_map(|service| {
        let methods = service.method.iter();
        methods.map(move |method| format!("{}/{}", service.name(), method.name()))
    });
    methods.collect()
}

#[tokio::test]
async fn the_table_names_every_route_and_every_method_there_is() {
    let world = World::start().await;
    let (_, document) = world.get("/openapi.json").await;
    let mut routes = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = shape(path.strip_prefix("/api/v1").unwrap());
        for method in item.as_object().unwrap().keys() {
            if ["get", "post", "put", "patch", "delete"].contains(&method.as_str()) {
                routes.insert(format!("{}:{path}", method.to_uppercase()));
            }
        }
    }
    routes.extend(UNDESCRIBED.map(str::to_owned));
    let rows = rows();
    let named: BTreeSet<_> = rows.iter().filter_map(Row::route).collect();
    assert_eq!(routes, named);
    let named = rows.iter().map(|row| row.grpc.to_owned());
    let named: BTreeSet<_> = named.filter(|name| name != "-").collect();
    assert_eq!(methods(), named);
}

/// What the cell of a row and a caller is answered, where it is not what the table says.
async fn cell(stage: &Stage, row: &Row, at: usize) -> Vec<String> {
    let (caller, expected) = (CALLERS[at], row.statuses[at]);
    let ends = row.rest.starts_with("POST:/auth/logout");
    let mut wrong = Vec::new();
    if row.route().is_some() {
        let target = stage.target(row.rest).await;
        let token = stage.token(caller, ends).await;
        let answer = calls::rest_answer(stage, row, &target, token.as_deref()).await;
        let found = answer.map_or(0, |answer| answer.status().as_u16());
        if found != expected {
            wrong.push(format!("{} as {caller}: {found}, not {expected}", row.rest));
        }
    }
    if row.grpc != "-" {
        let target = stage.target(row.rest).await;
        let token = stage.token(caller, ends).await;
        let message = calls::message(stage, row, &target).await;
        let channel = stage.channel();
        let answer = calls::grpc(channel, row.grpc, message, token.as_deref()).await;
        let expected = calls::code(expected);
        let found = answer.map_or_else(|status| status.code(), |()| tonic::Code::Ok);
        if found != expected {
            let words = format!("{} as {caller}: {found:?}, not {expected:?}", row.grpc);
            wrong.push(words);
        }
    }
    wrong
}

#[tokio::test]
async fn both_doors_answer_every_caller_at_every_call_as_the_table_says() {
    let world = World::with(|config| {
        // Wrong passwords and accounts are many here.
        config.login.failures_per_address = 10_000;
        config.login.registrations_per_address = 10_000;
        // Else only administrators may register folders.
        config.datasets.local_roots = "/".to_owned();
    })
    .await;
    let stage = Stage::set(world).await;
    let mut wrong = Vec::new();
    for row in rows() {
        for at in 0..CALLERS.len() {
            wrong.extend(cell(&stage, &row, at).await);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
