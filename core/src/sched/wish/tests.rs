//! What is refused for its wishes of nodes, with what is said of it, and for what a job waits.

use super::*;
use crate::{
    ids::{JobId, NodeName},
    resources::{Capacity, parse_gpus},
    sched::Allocation,
};

/// Two nodes of rack 1 and one of rack 2, with four GPUs each.
fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    for (name, labels) in [
        ("n1", ["rack=1", "zone=a"]),
        ("n2", ["rack=1", "zone=b"]),
        ("n3", ["rack=2", "zone=b"]),
    ] {
        let capacity = Capacity {
            cpus: 8,
            memory_bytes: 1 << 34,
            gpus: parse_gpus("4xH100-80GB", name).unwrap(),
        };
        let node = NodeName(name.into());
        ledger.set_node(node.clone(), capacity, true);
        ledger.set_address(node.clone(), format!("10.0.0.{name}"));
        ledger.set_labels(node, labels.iter().map(|&one| one.to_owned()).collect());
    }
    ledger
}

fn words(change: impl FnOnce(&mut Placing, &mut ResourceRequest), nodes: u32) -> String {
    let (mut placement, mut request) = (Placing::default(), ResourceRequest::default());
    change(&mut placement, &mut request);
    let wish = Wish {
        request: &request,
        nodes,
        placement: &placement,
    };
    let unfit = wish.misfit(&ledger());
    unfit.map_or_else(String::new, |unfit| format!("{}: {unfit}", unfit.field()))
}

#[test]
fn a_label_that_no_node_has_is_refused_with_those_that_there_are() {
    let with = |text: &str| {
        let text = text.to_owned();
        words(|placement, _| placement.labels.extend([text]), 1)
    };
    assert_eq!(with("zone=a"), "");
    let told = "placement.labels: no node has zone=c; labels of nodes are zone=a, zone=b";
    assert_eq!(with("zone=c"), told);
    assert!(with("disk=ssd").ends_with("are rack=1, rack=2, zone=a, zone=b"));
    let both = words(
        |placement, _| {
            placement.labels.insert("zone=a".into());
            placement.anti_labels.insert("rack=1".into());
        },
        1,
    );
    assert_eq!(
        both,
        "placement.anti_labels: no node has zone=a and no rack=1; labels of nodes are rack=1, rack=2, zone=a, zone=b; the nearest is n1, which has rack=1"
    );
    let far = words(
        |placement, _| {
            let wanted = ["zone=b", "rack=2", "disk=ssd"];
            placement.labels.extend(wanted.map(str::to_owned));
        },
        1,
    );
    assert!(
        far.ends_with("; the nearest is n3, which lacks disk=ssd"),
        "{far}"
    );
}

#[test]
fn the_node_that_is_named_as_nearest_takes_the_job_without_the_wishes_that_it_is_said_to_break() {
    let all = ["rack=1", "rack=2", "zone=a", "zone=b", "disk=ssd"];
    let some = |bits: usize| {
        let labels = (0..all.len()).filter(move |place| bits & (1 << place) != 0);
        labels
            .map(|place| all[place].to_owned())
            .collect::<BTreeSet<_>>()
    };
    let request = ResourceRequest::default();
    let mut refused = 0;
    for (labels, without) in (0..32).flat_map(|one| (0..32).map(move |two| (one, two))) {
        let mut placement = Placing {
            labels: some(labels),
            anti_labels: some(without & !labels),
            ..Placing::default()
        };
        let misfit = |placement: &Placing| {
            let wish = Wish {
                request: &request,
                nodes: 1,
                placement,
            };
            wish.misfit(&ledger()).map(|unfit| unfit.to_string())
        };
        let told = misfit(&placement);
        let nearest = told
            .as_ref()
            .and_then(|told| told.split_once("the nearest is "));
        let Some((_, nearest)) = nearest else {
            let wishes = placement.labels.len() + placement.anti_labels.len();
            assert!(told.is_none() || wishes < 2, "{told:?}");
            continue;
        };
        refused += 1;
        let (_, broken) = nearest.split_once(", which ").unwrap();
        for one in broken.split(" and ") {
            let (verb, label) = one.split_once(' ').unwrap();
            let wishes = match verb {
                "lacks" => &mut placement.labels,
                _ => &mut placement.anti_labels,
            };
            assert!(wishes.remove(label), "{one} of {nearest}");
        }
        assert_eq!(misfit(&placement), None, "{nearest}");
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn a_gang_wider_than_any_fabric_and_more_gpus_than_there_are_are_refused_with_the_most_there_is() {
    let fabric = |nodes| words(|placement, _| placement.fabric = Some("rack".into()), nodes);
    assert_eq!(fabric(2), "");
    let told = fabric(3);
    assert!(told.starts_with("placement.fabric: "), "{told}");
    assert!(
        told.contains("one value of rack") && told.contains("give 2"),
        "{told}"
    );
    let typo = words(|placement, _| placement.fabric = Some("rak".into()), 2);
    let told = "placement.fabric: no node that will do is labelled with rak; did you mean rack? Keys of labels are rack, zone";
    assert_eq!(typo, told);
    assert_eq!(
        ["rack", "zone", "", "racks"].map(|key| distance("rack", key)),
        [0, 4, 4, 1]
    );
    let total = |gpus, fabric: Option<&str>| {
        let fabric = fabric.map(str::to_owned);
        words(
            |placement, _| {
                placement.gpus_total = Some(gpus);
                placement.fabric = fabric;
            },
            1,
        )
    };
    assert_eq!(total(12, None), "");
    assert!(total(13, None).contains("give 12"), "{}", total(13, None));
    assert_eq!(total(8, Some("rack")), "");
    assert!(total(9, Some("rack")).contains("give 8"));
    let small = words(
        |placement, request| {
            placement.gpus_total = Some(2);
            request.gpu_memory_max_bytes = 40_000_000_000;
        },
        1,
    );
    assert!(small.contains("at most 37.2 GiB"), "{small}");
}

#[test]
fn who_wants_nodes_alone_waits_for_those_who_use_them() {
    let mut ledger = ledger();
    let held = |node: &str| Allocation {
        node: NodeName(node.into()),
        cpus: 1,
        memory_bytes: 0,
        gpus: Vec::new(),
        address: String::new(),
    };
    ledger.take(JobId(1), vec![held("n1"), held("n2")]).unwrap();
    let request = ResourceRequest::default();
    let placement = Placing {
        exclusive: true,
        ..Placing::default()
    };
    let wish = |nodes| Wish {
        request: &request,
        nodes,
        placement: &placement,
    };
    let told = wish(2).reason(&ledger);
    assert!(
        told.ends_with("1 of the 2 that it needs are there"),
        "{told}"
    );
    assert_eq!(wish(1).reason(&ledger), "waits for its turn");
}
