//! What goes wrong on the way: reports that never came, nodes that forgot, tasks that nobody wants.

use serde_json::json;
use trainyard_core::record::LogStream;
use trainyard_proto::v1::{self, connect_request, connect_response::Frame};

use crate::{
    agent::{Agent, epoch, exited, hello, line, running},
    jobs::cancel,
    world::{PATIENCE, World, command, yolo},
};

async fn state(world: &World, job_id: u64) -> v1::JobState {
    let answer = world
        .jobs()
        .await
        .get_job(v1::GetJobRequest { job_id })
        .await;
    answer.unwrap().into_inner().job.unwrap().state()
}

async fn until(world: &World, job_id: u64, wanted: v1::JobState) {
    let reached = async { while state(world, job_id).await != wanted {} };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("job {job_id} is not {wanted:?}"));
}

#[tokio::test]
async fn a_cancel_while_the_last_records_are_under_way_is_accepted_and_changes_nothing_of_the_end()
{
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job_id = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    agent.report(exited(task, 0, 1)).await;
    until(&world, job_id, v1::JobState::Finishing).await;
    let request = v1::CancelJobRequest {
        job_id,
        ..Default::default()
    };
    let answer = world.jobs().await.cancel_job(request).await.unwrap();
    let job = answer.into_inner().job.unwrap();
    assert_eq!(job.state(), v1::JobState::Finishing);

    let mut data = agent.attach(&world).await;
    data.deliver(task, 1, &[epoch(1, &[("loss", 0.5)])]).await;
    // No stop comes before it: there is nothing left to stop.
    assert_eq!(agent.forget().await, task);
    let (_, job) = world.get(&format!("/training/jobs/{job_id}")).await;
    assert_eq!(
        (&job["status"], &job["error_message"]),
        (&json!("completed"), &json!(null))
    );
}

#[tokio::test]
async fn a_short_task_has_started_even_if_only_its_end_is_reported() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job = world.submit(&command()).await;
    let task = agent.start().await.task.unwrap();
    let mut report = exited(task, 0, 0);
    report.started_at = running(task).started_at;
    agent.report(report).await;
    agent.forget().await;
    let (_, job) = world.get(&format!("/training/jobs/{job}")).await;
    assert_eq!(job["status"], "completed");
    assert!(job["started_at"].is_string(), "{job}");
}

#[tokio::test]
async fn a_batch_without_records_is_no_record() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    let mut data = agent.attach(&world).await;
    let empty = v1::RecordBatch {
        task: Some(task),
        first_seq: 1,
        records: Vec::new(),
        kept_from_seq: 0,
    };
    data.send(connect_request::Frame::Batch(empty)).await;
    let Frame::Ack(ack) = data.next().await else {
        panic!("not an acknowledgement");
    };
    assert_eq!(ack.seq, 0);
    data.deliver(task, 1, &[line(LogStream::Stdout, "", "one")])
        .await;
    let (_, lines) = world.get(&format!("/training/jobs/{job}/logs")).await;
    assert_eq!(lines[0]["content"], "one");
}

#[tokio::test]
async fn a_node_gets_no_job_while_a_task_that_nobody_wants_runs_there() {
    let world = World::start().await;
    let job = world.submit(&command()).await;
    let stray = v1::TaskKey {
        job_id: 99,
        attempt: 1,
        rank: 0,
    };
    let mut known = hello(&world, "n1", 1);
    known.tasks = vec![running(stray)];
    let mut agent = Agent::connect(&world, known).await;
    let stop = agent.stop().await;
    assert_eq!(
        (stop.task, stop.cause()),
        (Some(stray), v1::StopCause::Fenced)
    );
    agent.report(exited(stray, 0, 0)).await;
    assert_eq!(agent.forget().await, stray);
    assert_eq!(agent.start().await.task.unwrap().job_id, job);
}

#[tokio::test]
async fn a_cancelled_job_is_cancelled_if_its_node_comes_back_without_it() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job_id = world.submit(&yolo()).await;
    agent.start().await;
    drop(agent);
    let request = v1::CancelJobRequest {
        job_id,
        ..Default::default()
    };
    world.jobs().await.cancel_job(request).await.unwrap();
    let _agent = Agent::join(&world, "n1", 4).await;
    until(&world, job_id, v1::JobState::Cancelled).await;
}

#[tokio::test]
async fn a_report_from_a_node_that_the_task_is_not_on_changes_nothing() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job_id = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    until(&world, job_id, v1::JobState::Running).await;
    // Its data folder is a copy of the other's.
    let mut copy = Agent::join(&world, "n2", 1).await;
    copy.report(exited(task, 1, 0)).await;
    assert_eq!(copy.forget().await, task);
    assert_eq!(state(&world, job_id).await, v1::JobState::Running);
}

#[tokio::test]
async fn a_finishing_job_survives_a_restart_of_the_coordinator_and_ends_with_its_records() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job_id = world.submit(&yolo()).await;
    let task = agent.run().await.task.unwrap();
    agent.report(exited(task, 0, 1)).await;
    until(&world, job_id, v1::JobState::Finishing).await;
    drop(agent);
    let world = World::on(world.stop().await).await;
    assert_eq!(state(&world, job_id).await, v1::JobState::Finishing);
    let mut back = hello(&world, "n1", 4);
    back.tasks = vec![exited(task, 0, 1)];
    let mut agent = Agent::connect(&world, back).await;
    let mut data = agent.attach(&world).await;
    data.deliver(task, 1, &[epoch(1, &[("loss", 0.5)])]).await;
    assert_eq!(agent.forget().await, task);
    assert_eq!(state(&world, job_id).await, v1::JobState::Completed);
}

#[tokio::test]
async fn a_start_that_was_lost_is_told_again_after_a_restart_of_the_coordinator() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let job_id = world.submit(&yolo()).await;
    let told = agent.start().await;
    drop(agent);
    let world = World::on(world.stop().await).await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let again = agent.start().await;
    assert_eq!((again.task, again.secret), (told.task, told.secret));
    agent.report(exited(again.task.unwrap(), 0, 0)).await;
    agent.forget().await;
    assert_eq!(state(&world, job_id).await, v1::JobState::Completed);
}

/// As a backup that was made before the last records came knows it.
#[tokio::test]
async fn a_job_whose_agent_has_let_go_of_all_records_that_a_restored_store_lacks_ends() {
    let world = World::start().await;
    for finishing in [false, true] {
        let mut agent = Agent::join(&world, "n1", 1).await;
        let job = world.submit(&command()).await;
        let task = agent.run().await.task.unwrap();
        let mut data = agent.attach(&world).await;
        let one = line(LogStream::Stdout, "", "one");
        data.deliver(task, 1, &[one]).await;
        if finishing {
            agent.report(exited(task, 0, 5)).await;
            until(&world, job, v1::JobState::Finishing).await;
        }
        drop((agent, data));
        let mut back = hello(&world, "n1", 1);
        back.tasks = vec![v1::TaskReport {
            kept_from_seq: 6,
            ..exited(task, 0, 5)
        }];
        let mut agent = Agent::connect(&world, back).await;
        assert_eq!(agent.forget().await, task);
        world.until(job, "completed").await;
    }
}

#[tokio::test]
async fn what_a_running_task_has_let_go_of_is_not_waited_for_and_what_it_tells_then_is_taken() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let job = world.submit(&command()).await;
    let task = agent.run().await.task.unwrap();
    let report = v1::TaskReport {
        kept_from_seq: 4,
        ..running(task)
    };
    agent.report(report).await;
    let mut data = agent.attach(&world).await;
    // As an agent of before batches said it.
    let four = line(LogStream::Stdout, "", "four");
    data.deliver_from((task, 0), 4, &[four]).await;
    agent.report(exited(task, 0, 4)).await;
    assert_eq!(agent.forget().await, task);
    world.until(job, "completed").await;
}

/// A backup knows less than was acknowledged after it was made, and nobody has that any more.
#[tokio::test]
async fn records_that_a_restored_store_lacks_hold_up_neither_those_after_them_nor_the_end_of_the_job()
 {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let job = world.submit(&command()).await;
    let task = agent.run().await.task.unwrap();
    let mut data = agent.attach(&world).await;
    let said = |text: &str| line(LogStream::Stdout, "", text);
    data.deliver(task, 1, &[said("one"), said("two")]).await;
    data.deliver_from((task, 5), 5, &[said("five")]).await;
    agent.report(exited(task, 0, 5)).await;
    assert_eq!(agent.forget().await, task);
    world.until(job, "completed").await;
    let (_, lines) = world.get(&format!("/training/jobs/{job}/logs")).await;
    let lines = lines.as_array().unwrap();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let lost = |line: &&serde_json::Value| line["content"].as_str().unwrap().contains(" lost");
    let said: Vec<_> = lines.iter().filter(lost).collect();
    assert!(
        said.len() == 1
            && said[0]["content"]
                .as_str()
                .unwrap()
                .contains("numbers 3 to 4")
    );
}

/// As of an agent that was started anew and cannot open what the task had told: it knows of none of it.
#[tokio::test]
async fn a_job_whose_node_cannot_read_its_last_records_any_more_ends_and_says_which_are_lost() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let job = world.submit(&command()).await;
    let task = agent.run().await.task.unwrap();
    let mut data = agent.attach(&world).await;
    let said = |text: &str| line(LogStream::Stdout, "", text);
    data.deliver(task, 1, &[said("one"), said("two")]).await;
    agent.report(exited(task, 0, 5)).await;
    until(&world, job, v1::JobState::Finishing).await;
    agent.report(exited(task, 0, 0)).await;
    assert_eq!(agent.forget().await, task);
    world.until(job, "completed").await;
    let (_, lines) = world.get(&format!("/training/jobs/{job}/logs")).await;
    let texts = lines.as_array().unwrap().iter();
    let texts: Vec<_> = texts
        .map(|line| line["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts[..2], ["one", "two"]);
    assert!(
        texts[2].contains("3 records are lost, numbers 3 to 5"),
        "{texts:?}"
    );
}

/// As of an agent that was started anew before it had told the end, and cannot open what the task had told: from its first
/// word on it says what the last record was, and that it has none.
#[tokio::test]
async fn an_end_that_is_told_first_where_nothing_can_be_read_any_more_says_which_records_are_lost()
{
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    for (runs, last_seq, lost) in [
        (true, 5, Some("3 records are lost, numbers 3 to 5")),
        (false, 5, Some("3 records are lost, numbers 3 to 5")),
        (true, 2, None),
    ] {
        let job = world.submit(&command()).await;
        let task = agent.start().await.task.unwrap();
        if runs {
            agent.report(running(task)).await;
        }
        let mut data = agent.attach(&world).await;
        let said = |text: &str| line(LogStream::Stdout, "", text);
        data.deliver(task, 1, &[said("one"), said("two")]).await;
        let report = v1::TaskReport {
            kept_from_seq: last_seq + 1,
            started_at: running(task).started_at,
            ..exited(task, 0, last_seq)
        };
        agent.report(report).await;
        assert_eq!(agent.forget().await, task);
        world.until(job, "completed").await;
        let (_, lines) = world.get(&format!("/training/jobs/{job}/logs")).await;
        let texts = lines.as_array().unwrap().iter();
        let texts: Vec<_> = texts
            .map(|line| line["content"].as_str().unwrap())
            .collect();
        assert_eq!(texts[..2], ["one", "two"]);
        assert_eq!(texts.len() > 2, lost.is_some(), "{texts:?}");
        assert!(
            lost.is_none_or(|words| texts[2].contains(words)),
            "{texts:?}"
        );
    }
}

/// An agent that cannot read for now what the task had told does not tell its end.
#[tokio::test]
async fn a_node_that_waits_for_records_it_cannot_read_hears_that_the_job_is_cancelled() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let job = world.submit(&command()).await;
    let task = agent.run().await.task.unwrap();
    agent.report(exited(task, 0, 1)).await;
    until(&world, job, v1::JobState::Finishing).await;
    cancel(&world, job, false).await;
    agent.report(running(task)).await;
    let stop = agent.stop().await;
    assert_eq!(
        (stop.task, stop.cause()),
        (Some(task), v1::StopCause::Cancelled)
    );
    let report = v1::TaskReport {
        kept_from_seq: 2,
        ..exited(task, 0, 1)
    };
    agent.report(report).await;
    world.until(job, "completed").await;
}

/// As in a frame with all tasks of a node of which many have ended.
#[tokio::test]
async fn an_end_that_is_told_again_with_fewer_last_lines_keeps_those_that_are_stored() {
    let world = World::start().await;
    let mut agent = Agent::join(&world, "n1", 1).await;
    let job_id = world.submit(&command()).await;
    let task = agent.run().await.task.unwrap();
    let said = |lines: &[&str]| {
        let mut report = exited(task, 1, 1);
        if let Some(end) = &mut report.end {
            end.last_lines = lines.iter().map(|line| (*line).to_owned()).collect();
        }
        report
    };
    agent.report(said(&["one", "two"])).await;
    until(&world, job_id, v1::JobState::Finishing).await;
    agent.report(said(&["two"])).await;
    let mut data = agent.attach(&world).await;
    data.deliver(task, 1, &[line(LogStream::Stdout, "", "one")])
        .await;
    assert_eq!(agent.forget().await, task);
    let request = v1::GetJobRequest { job_id };
    let answer = world.jobs().await.get_job(request).await.unwrap();
    let outcome = answer.into_inner().job.unwrap().outcome.unwrap();
    assert_eq!(outcome.last_lines, ["one", "two"]);
}
