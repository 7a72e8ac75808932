//! Agents that come back: thousands do at once after a restart, so it is to cost little, and nothing for who has given up.

use super::*;

/// The number of the session that the agent is welcomed to.
async fn session_of(frames: &mut Frames) -> u64 {
    loop {
        if let Frame::Welcome(welcome) = *frames.recv().await.unwrap() {
            return welcome.session;
        }
    }
}

async fn comes(world: &World, version: &str) -> u64 {
    let hello = v1::Hello {
        agent_version: version.to_owned(),
        ..v1::Hello::default()
    };
    let (_session, mut frames) = node_as(world, "n1", hello).await;
    session_of(&mut frames).await
}

#[tokio::test]
async fn an_agent_that_comes_back_as_it_was_writes_nothing_and_one_that_differs_does() {
    let world = world(Lease::default()).await;
    let first = comes(&world, "1").await;
    let commits = world.store.commits();
    assert_eq!(comes(&world, "1").await, first + 1);
    assert_eq!(comes(&world, "1").await, first + 2);
    assert_eq!(world.store.commits(), commits);
    assert_eq!(comes(&world, "2").await, first + 3);
    assert_eq!(world.store.commits(), commits + 1);
    let row = world.store.nodes().unwrap().remove(0);
    assert_eq!(row.agent_version, "2");
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn no_number_of_a_session_is_given_twice_also_after_a_restart() {
    let world = world(Lease::default()).await;
    let mut last = 0;
    for _ in 0..3 {
        last = comes(&world, "1").await;
    }
    world.root.stop_and_wait(None, None).await.unwrap();
    let world = world_on((world.store, world.folder), Lease::default()).await;
    assert!(comes(&world, "1").await > last);
    world.root.stop_and_wait(None, None).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_has_given_up_waiting_does_not_become_a_session() {
    let world = world(Lease::default()).await;
    let (outgoing, gone) = mpsc::channel(1);
    drop(gone);
    let hello = Box::new(v1::Hello {
        node_name: "n1".into(),
        ..v1::Hello::default()
    });
    let question = |reply| NodesMsg::Register {
        hello,
        outgoing,
        reply,
    };
    assert!(ask(&world.tree.nodes, question).await.is_err());
    let listed = ask(&world.tree.nodes, NodesMsg::List).await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
    world.root.stop_and_wait(None, None).await.unwrap();
}
