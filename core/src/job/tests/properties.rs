//! The job machine under random events: whatever comes, it walks along its edges and keeps its promises.

use proptest::prelude::*;

use super::*;

/// Well or not, by the job's fault or the node's.
fn any_end() -> impl Strategy<Value = TaskEnd> {
    let fault = prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    (0i32..2, fault, 0u64..4).prop_map(|(code, infrastructure, last_seq)| TaskEnd {
        exit_code: Some(code).filter(|_| infrastructure.is_none()),
        error: infrastructure.map(|_| "no space left".to_owned()),
        infrastructure: infrastructure == Some(true),
        last_seq,
        ..TaskEnd::default()
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    let attempt = (1u32..4).prop_map(AttemptNo);
    prop_oneof![
        Just(Event::Prepared),
        Just(placed()),
        attempt
            .clone()
            .prop_map(|a| Event::Preparing(t(a), "builds".into())),
        attempt.clone().prop_map(|a| Event::Started(t(a), T)),
        (attempt.clone(), any_end()).prop_map(|(a, end)| Event::Ended(t(a), end)),
        (attempt.clone(), 0u64..5).prop_map(|(attempt, seq)| Event::Stored(
            t(attempt),
            Box::new(Told {
                seq,
                progress: None,
                completion: None,
                first_epoch: None,
                kept: None
            })
        )),
        Just(Event::CancelRequested),
        Just(Event::RestartRequested),
        Just(Event::StartRequested(Resume::default())),
        attempt
            .clone()
            .prop_map(|a| Event::AttemptLost(t(a), "gone".into())),
        attempt
            .clone()
            .prop_map(|a| Event::NodeLost(a, n1(), "silent".into())),
        attempt.clone().prop_map(|a| Event::Heard(t(a))),
        attempt
            .clone()
            .prop_map(|a| Event::Vacate(a, "its node is drained".into())),
        attempt.prop_map(|a| Event::Tracked(a, Tracker::Mlflow, "run".into())),
    ]
}

proptest! {
    #[test]
    fn random_events_only_walk_along_the_table_of_edges(
        events in prop::collection::vec(any_event(), 0..60),
        waits in any::<bool>(),
    ) {
        let mut job = accepted();
        if waits {
            job.spec.retry.on_lost = OnLost::Wait;
        }
        let mut least = None;
        for event in events {
            let told = if let Event::Ended(_, end) = &event { Some(end.last_seq) } else { None };
            let user = matches!(event, Event::RestartRequested | Event::StartRequested(_));
            let lost = matches!(event, Event::NodeLost(..));
            let Ok(step) = job.step(T, event) else { continue };
            if step.job.state != job.state {
                // Starting may pass through finishing within one step, as may running.
                let edge = EDGES.contains(&(job.state, step.job.state));
                let through = EDGES.contains(&(job.state, JobState::Finishing))
                    && EDGES.contains(&(JobState::Finishing, step.job.state));
                prop_assert!(edge || through, "{:?} -> {:?}", job.state, step.job.state);
                prop_assert!(!job.state.is_terminal() || user, "INV-04");
            }
            let broken = crate::invariants::broken_by(&job, &step.job);
            prop_assert!(broken.is_empty() || user, "{broken:?}");
            let finishing = step.job.state == JobState::Finishing;
            prop_assert!(!(lost && finishing), "a lost node ends every wait for its records");
            least = least.filter(|_| finishing).into_iter().chain(told).min();
            let awaited = step.job.attempts.last().map(|last| last.lead.stored_seq);
            prop_assert!(!finishing || awaited < least, "nothing is awaited that its node does not have");
            let again = job.cancel_requested && step.job.state == JobState::Queued;
            prop_assert!(!again || user, "what a user has cancelled is not tried again");
            let released = step.effects.contains(&Effect::Release);
            let fewer = !job.allocations().is_empty() && step.job.allocations().is_empty();
            prop_assert!(released || !fewer, "what it held is given back");
            prop_assert!(fewer || !released, "and nothing else is");
            prop_assert_eq!(step.job.outcome.is_some(), step.job.state.is_terminal());
            job = step.job;
        }
    }
}
