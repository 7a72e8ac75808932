//! Labels of nodes: as their agents say, and as operators set.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::json;
use trainyard_proto::v1;

use crate::{
    agent::{Agent, hello},
    world::World,
};

type Labels = BTreeMap<String, String>;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

async fn join(world: &World, pairs: &[(&str, &str)]) -> Agent {
    let hello = v1::Hello {
        labels: labels(pairs).into_iter().collect(),
        ..hello(world, "n1", 1)
    };
    Agent::connect(world, hello).await
}

async fn set(
    world: &World,
    pairs: &[(&str, &str)],
    remove: &[&str],
) -> Result<v1::Node, tonic::Status> {
    let request = v1::SetLabelsRequest {
        name: "n1".into(),
        set: labels(pairs).into_iter().collect(),
        remove: remove.iter().map(|&key| key.to_owned()).collect(),
    };
    let answer = world.nodes().await.set_labels(request).await?;
    Ok(answer.into_inner().node.unwrap())
}

async fn shown(world: &World) -> (Labels, Labels) {
    let request = v1::GetNodeRequest { name: "n1".into() };
    let answer = world.nodes().await.get_node(request).await.unwrap();
    let node = answer.into_inner().node.unwrap();
    (
        node.labels.into_iter().collect(),
        node.set_labels.into_iter().collect(),
    )
}

#[tokio::test]
async fn labels_of_operators_go_before_those_of_the_agent_and_outlive_it_and_the_coordinator() {
    let world = World::start().await;
    let first = join(&world, &[("zone", "a"), ("room", "7")]).await;
    assert_eq!(
        shown(&world).await.0,
        labels(&[("zone", "a"), ("room", "7")])
    );
    let node = set(&world, &[("zone", "b"), ("rack", "1")], &[])
        .await
        .unwrap();
    assert_eq!(node.set_labels.len(), 2);
    drop(first);
    let again = join(&world, &[("zone", "a"), ("room", "8")]).await;
    let both = labels(&[("zone", "b"), ("rack", "1"), ("room", "8")]);
    assert_eq!(shown(&world).await.0, both);
    drop(again);
    let folder = world.stop().await;
    let world = World::on(folder).await;
    assert_eq!(
        shown(&world).await,
        (both, labels(&[("zone", "b"), ("rack", "1")]))
    );
    let request = json!({"remove": ["zone"], "set": {"rack": "2"}});
    let call = (Method::PATCH, "/nodes/n1/labels");
    let (status, answer) = world.call(&world.token, call, request).await;
    let now = json!({"zone": "a", "rack": "2", "room": "8"});
    assert_eq!((status, &answer["labels"]), (200, &now), "{answer}");
    assert_eq!(answer["set_labels"], json!({"rack": "2"}));
}

#[tokio::test]
async fn a_label_that_is_none_is_refused_with_all_that_is_wrong() {
    let world = World::start().await;
    let _agent = join(&world, &[("zone", "a")]).await;
    let refused = set(&world, &[("my zone", "a")], &["zone", "rack"])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    for words in [
        "'my zone' is not the key of a label",
        "the node's agent says zone=a, in its settings",
        "'rack', which the node has not",
    ] {
        assert!(refused.message().contains(words), "{refused:?}");
    }
    assert_eq!(shown(&world).await.1, Labels::new());
}

#[tokio::test]
async fn whoever_changes_labels_and_what_of_them_is_noted_and_nothing_where_nothing_changes() {
    let world = World::start().await;
    let first = join(&world, &[("zone", "a"), ("room", "7")]).await;
    set(&world, &[("zone", "b"), ("rack", "1")], &[])
        .await
        .unwrap();
    set(&world, &[("zone", "b")], &[]).await.unwrap();
    set(&world, &[("zone", "c")], &["rack"]).await.unwrap();
    drop(first);
    let _again = join(&world, &[("zone", "a"), ("room", "8")]).await;
    let call = (Method::GET, "/events?node=n1");
    let (status, answer) = world
        .call(&world.token, call, serde_json::Value::Null)
        .await;
    assert_eq!(status, 200, "{answer}");
    let told = answer["events"].as_array().unwrap().iter();
    let told = told.map(|event| (&event["kind"], &event["words"], &event["nodes"]));
    let noted = [
        "admin@example.com: rack=1, zone=b",
        "admin@example.com: zone=c, no rack",
        "its agent: room=8",
    ];
    let noted = noted.map(|words| (json!("labelled"), json!(words), json!(["n1"])));
    let noted = noted
        .iter()
        .map(|(kind, words, nodes)| (kind, words, nodes));
    assert!(told.eq(noted), "{answer}");
}
