//! Nodes that are labelled anew, or are reached no more, while a place there is chosen and not taken yet.

use super::*;

fn label(planner: &mut Planner, now: i64, node: u32, zone: &str) {
    planner.set_labels(at(now), &name(node), [format!("zone={zone}")].into());
}

/// Two nodes of a zone each, with a job that may be told to go on both, and one that asks for this and is promised a place.
fn promised(asks: impl FnOnce(&mut QueuedJob)) -> Planner {
    let mut planner = cluster(2);
    label(&mut planner, 0, 0, "a");
    label(&mut planner, 0, 1, "a");
    planner.queued(at(0), job(1, 2, 4));
    assert_eq!(solve(&mut planner, 0).0, [1]);
    let mut wants = urgent(2, 1, 4);
    asks(&mut wants);
    planner.queued(at(10), wants);
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    assert!(planner.chosen(JobId(2)).is_some());
    planner
}

/// Both nodes are free from now on.
fn both_are_left(planner: &mut Planner, now: i64) -> Vec<u64> {
    planner.gone(at(now), JobId(1), Some(Duration::from_secs(400)));
    solve(planner, now).0
}

/// Where its ranks are.
fn places(planner: &Planner, job: u64) -> Vec<String> {
    let held = planner.ledger().held_by(JobId(job));
    let mut nodes: Vec<String> = held.iter().map(|held| held.node.0.clone()).collect();
    nodes.sort();
    nodes
}

fn in_zone(zone: &str) -> BTreeSet<String> {
    [format!("zone={zone}")].into()
}

#[test]
fn a_place_on_a_node_that_is_labelled_otherwise_before_it_is_free_is_given_up() {
    let with: fn(&mut QueuedJob) = |job| job.placement.labels = in_zone("a");
    let without: fn(&mut QueuedJob) = |job| job.placement.anti_labels = in_zone("b");
    for asks in [with, without] {
        let mut planner = promised(asks);
        label(&mut planner, 401, 0, "b");
        label(&mut planner, 401, 1, "b");
        assert_eq!(planner.chosen(JobId(2)), None);
        assert_eq!(both_are_left(&mut planner, 430), [0; 0]);
        label(&mut planner, 440, 1, "a");
        assert_eq!(solve(&mut planner, 440).0, [2]);
        assert_eq!(places(&planner, 2), ["n1"]);
    }
}

#[test]
fn a_place_stays_chosen_where_the_labels_that_change_are_not_asked_for() {
    let mut planner = promised(|job| job.placement.labels = in_zone("a"));
    for node in 0..2 {
        let labels = ["zone=a".to_owned(), "disk=new".to_owned()];
        planner.set_labels(at(401), &name(node), labels.into());
    }
    assert!(planner.chosen(JobId(2)).is_some());
    assert_eq!(both_are_left(&mut planner, 430), [2]);
}

#[test]
fn a_gang_does_not_start_over_two_fabrics_since_one_node_has_come_to_another_meanwhile() {
    let mut planner = promised(|job| {
        job.nodes = 2;
        job.placement.fabric = Some("zone".into());
    });
    label(&mut planner, 401, 1, "b");
    assert_eq!(planner.chosen(JobId(2)), None);
    assert_eq!(both_are_left(&mut planner, 430), [0; 0]);
    label(&mut planner, 440, 0, "b");
    assert_eq!(solve(&mut planner, 440).0, [2]);
}

#[test]
fn a_gang_does_not_start_on_a_node_whose_address_is_not_known_any_more() {
    let mut planner = promised(|job| job.nodes = 2);
    planner.set_address(at(401), &name(0), String::new());
    assert_eq!(planner.chosen(JobId(2)), None);
    assert_eq!(both_are_left(&mut planner, 430), [0; 0]);
    planner.set_address(at(440), &name(0), "10.0.0.7".into());
    assert_eq!(solve(&mut planner, 440).0, [2]);
}

#[test]
fn what_is_left_over_of_room_is_given_up_too_where_the_labels_change_before_it_is_free() {
    let mut planner = cluster(1);
    label(&mut planner, 0, 0, "a");
    planner.queued(at(0), job(1, 1, 4));
    solve(&mut planner, 0);
    planner.queued(at(10), urgent(2, 1, 2));
    assert_eq!(solve(&mut planner, 400).1, [(1, 2)]);
    let mut more = job(3, 1, 2);
    more.placement.labels = in_zone("a");
    planner.queued(at(401), more);
    solve(&mut planner, 401);
    assert!(planner.chosen(JobId(3)).is_some());
    label(&mut planner, 402, 0, "b");
    assert_eq!(planner.chosen(JobId(3)), None);
    planner.queued(at(410), job(1, 1, 4));
    assert_eq!(solve(&mut planner, 410).0, [2]);
}

#[test]
fn a_place_that_the_policy_believes_good_is_not_taken_where_the_books_say_otherwise() {
    let mut planner = promised(|job| job.placement.labels = in_zone("a"));
    for node in 0..2 {
        planner.ledger.set_labels(name(node), in_zone("b"));
    }
    assert_eq!(both_are_left(&mut planner, 430), [0; 0]);
}

#[test]
fn a_node_that_is_promised_to_one_who_wants_it_alone_lets_nobody_into_what_it_has_gained_meanwhile()
{
    let mut planner = promised(|wants| wants.placement.exclusive = true);
    for node in 0..2 {
        let mut larger = Capacity::clone(&planner.ledger().node(&name(node)).unwrap().capacity);
        larger.cpus += 8;
        planner.set_node(at(410), &name(node), larger, true);
    }
    planner.queued(at(420), job(3, 1, 0));
    solve(&mut planner, 420);
    let begun = both_are_left(&mut planner, 430);
    assert!(begun.contains(&2), "{begun:?}");
}
