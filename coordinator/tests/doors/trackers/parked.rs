//! One job that a tracker refuses or fails with is left behind, and holds up no other.

use super::*;

/// What one job comes to, whichever run it is.
fn whole(mlflow: &Mlflow, run: &str) {
    let told = mlflow.told.lock().unwrap();
    let points: Vec<_> = told.points[run]
        .iter()
        .map(|(key, step, value)| (key.as_str(), *step, value.as_str()))
        .collect();
    let expected = [
        ("final/loss", 2, "0.25"),
        ("loss", 1, "0.5"),
        ("loss", 2, "0.25"),
        ("map/50_B_", 2, "\"NaN\""),
    ];
    assert_eq!(points, expected, "{run}");
    assert_eq!(told.status[run], "FINISHED", "{run}");
    let best = &told.runs[run]["trainyard.best_checkpoint"];
    assert_eq!(best, "/c/best.pt", "{run}");
}

#[tokio::test]
async fn a_job_that_is_answered_500_for_ever_holds_up_no_other_and_is_whole_when_that_is_over() {
    let (mlflow, first, mut agent) = with_an_ill_run(500).await;
    for _ in 0..50 {
        job(&first, &mut agent).await;
    }
    let all_but_one = |tracker: &Value| {
        let lacks_one = tracker["jobs_pending"] == 1 && tracker["state"] == "retrying";
        lacks_one && tracker["points_pending"] == 2
    };
    let seen = until_shown(&first, "mlflow", all_but_one).await;
    assert_eq!(
        (&seen["delivered"], &seen["dropped"]),
        (&json!(100), &json!(0))
    );
    assert!(
        seen["last_error"].as_str().unwrap().contains("500"),
        "{seen}"
    );
    (2..=51).for_each(|run| whole(&mlflow, &format!("run-{run}")));

    // It is still left behind after a restart, and still nobody waits for it.
    drop(agent);
    let folder = first.stop().await;
    let again = World::set_up(folder, at(mlflow.receiver.url())).await;
    let mut agent = Agent::join(&again, "n1", 4).await;
    job(&again, &mut agent).await;
    until_shown(&again, "mlflow", |tracker| {
        all_but_one(tracker) && tracker["delivered"] == 102
    })
    .await;
    whole(&mlflow, "run-52");
    assert!(!mlflow.told.lock().unwrap().status.contains_key("run-1"));

    mlflow.told.lock().unwrap().ill = None;
    let seen = until_shown(&again, "mlflow", has_everything).await;
    assert_eq!(
        (&seen["delivered"], &seen["dropped"]),
        (&json!(104), &json!(0))
    );
    whole(&mlflow, "run-1");
}

#[tokio::test]
async fn a_job_that_is_answered_403_is_shown_and_holds_up_no_other() {
    let (mlflow, world, mut agent) = with_an_ill_run(403).await;
    let refused = |tracker: &Value| tracker["state"] == "refused";
    until_shown(&world, "mlflow", refused).await;
    for _ in 0..5 {
        job(&world, &mut agent).await;
    }
    // Credentials are tried each minute: the others do not wait for that.
    // (What is delivered is told before the jobs it was of are counted as done.)
    let others = until_within(PATIENCE, "the others are taken", async || {
        let seen = shown(&world, "mlflow").await;
        let taken = seen["delivered"] == 10 && seen["jobs_pending"] == 1;
        (taken && seen["state"] == "retrying").then_some(seen)
    })
    .await;
    assert_eq!(others["dropped"], 0);
    let words = others["last_error"].as_str().unwrap();
    assert!(words.contains("403"), "{words}");
    (2..=6).for_each(|run| whole(&mlflow, &format!("run-{run}")));
}
