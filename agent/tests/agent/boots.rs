//! How an agent begins, or why it does not.

use trainyard_agent::boot::AgentOptions;

use crate::fake::Fake;
use crate::harness::{cluster, folder, launch, options, shell, start_of, until};

/// Why an agent with these options does not go on.
pub(crate) async fn refusal(options: AgentOptions) -> String {
    let agent = launch(options);
    let outcome = agent.ended.await.expect("the agent does not panic");
    outcome.expect_err("it cannot go on").to_string()
}

pub(crate) async fn a_wrong_token_ends_the_agent() {
    let (fake, data) = (Fake::start().await, folder());
    let mut options = options(&fake, data.path());
    options.token = "wrong-token".to_owned();
    assert!(!format!("{options:?}").contains("wrong-token"));
    let error = refusal(options).await;
    assert!(
        error.ends_with("refused this agent: unknown join token"),
        "{error}"
    );
    assert!(!error.contains("wrong-token"), "{error}");
}

pub(crate) async fn a_coordinator_that_comes_later_is_found() {
    let (gone, data) = (Fake::start().await, folder());
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("its address");
    drop(free);
    let mut options = options(&gone, data.path());
    options.coordinator = format!("http://{address}");
    options.ready_file = Some(data.path().join("ready.json"));
    let agent = launch(options);
    // It serves trainers already, and has found nobody yet.
    until(|| data.path().join("callback-port").exists()).await;
    assert!(!data.path().join("ready.json").exists());
    let fake = Fake::start_at(address).await;
    fake.send(start_of(1, shell("exit 0"))).await;
    assert_eq!(fake.whole_end(1).await.exit_code, Some(0));
    until(|| data.path().join("ready.json").exists()).await;
    let ready = std::fs::read_to_string(data.path().join("ready.json")).expect("the ready file");
    assert!(
        ready.contains(r#""name":"n1""#) && ready.contains("127.0.0.1:"),
        "{ready}"
    );
    agent.stop().await;
}

pub(crate) async fn a_data_folder_has_one_agent() {
    let (fake, agent, data) = cluster().await;
    fake.until(|known| known.hellos.first().map(drop)).await;
    let error = refusal(options(&fake, data.path())).await;
    assert!(error.contains("is in use by another agent"), "{error}");
    agent.stop().await;
    launch(options(&fake, data.path())).stop().await;
}

pub(crate) async fn a_data_folder_that_cannot_be_written_is_named() {
    let (fake, data) = (Fake::start().await, folder());
    let file = data.path().join("file");
    std::fs::write(&file, "").expect("a file in the way");
    let error = refusal(options(&fake, &file)).await;
    assert!(error.contains(&file.display().to_string()), "{error}");
    assert!(error.contains("--data-dir"), "{error}");
}
