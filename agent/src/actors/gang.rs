//! What a gang adds to the process of one of its ranks: where all meet, in variables, and torchrun before the command.
//!
//! Pure, but for the interface that it is told. Called by the run at the launch, when the meeting is known.

use std::net::IpAddr;

use trainyard_core::{
    spec::Launcher,
    task::{Failure, Fault, Meeting},
};

use crate::{exec::LaunchSpec, folder::Order};

/// Variables that a gang's processes are told, whatever the user wants.
pub(super) const RESERVED: [&str; 7] = [
    "MASTER_ADDR",
    "MASTER_PORT",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "NNODES",
    "TRAINYARD_NODE_ADDRESSES",
];

/// All that a process needs, but where its gang meets.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What is launched; torchrun is not before it yet.
    pub spec: LaunchSpec,
    /// How torchrun is called on this node, where the job wants it.
    pub torchrun: Option<Vec<String>>,
    /// The port that rank 0 of a gang has for it.
    pub port: Option<u16>,
}

/// The words that start torchrun, and those of the command behind its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) torchrun: Vec<String>,
    pub(super) command: Vec<String>,
}

/// How torchrun is called: by the Python that the command names, else by the `torchrun` of PATH. What is no script of
/// Python's is run as it is.
pub(super) fn call(command: &[String]) -> Call {
    let first = command.first().map_or("", String::as_str);
    let name = first.rsplit('/').next().unwrap_or_default();
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.to_owned())
            .collect::<Vec<_>>()
    };
    let torchrun = if name.starts_with("python") {
        words(&[first, "-m", "torch.distributed.run"])
    } else {
        words(&["torchrun"])
    };
    let is_script = first == "-m" || name.ends_with(".py");
    let as_it_is = if is_script { None } else { Some("--no-python") };
    let before = as_it_is.map(str::to_owned).into_iter();
    Call {
        torchrun,
        command: before.chain(command.iter().cloned()).collect(),
    }
}

/// The process with all that its gang adds; `interface` is the one that has this node's address.
pub(super) fn complete(
    prepared: Prepared,
    order: &Order,
    meeting: Option<(&Meeting, Option<String>)>,
) -> Result<LaunchSpec, Failure> {
    let Prepared {
        mut spec, torchrun, ..
    } = prepared;
    let mut options = vec!["--standalone".to_owned()];
    if let Some((meeting, interface)) = meeting {
        let rank = usize::try_from(order.task.rank.0).ok();
        let own = rank.and_then(|rank| meeting.addresses.get(rank));
        let is_whole = u32::try_from(meeting.addresses.len()) == Ok(order.world_size);
        let (Some(own), Some(first), true) = (own, meeting.addresses.first(), is_whole) else {
            return Err(incomplete(order, meeting));
        };
        let reached = |one: &String| !is_loopback(one);
        if is_loopback(own) && meeting.addresses.iter().any(reached) {
            return Err(unreachable(meeting, own));
        }
        spec.env.extend(variables(order, meeting, first));
        if let Some(name) = interface {
            // A name alone would also stand for those that begin with it.
            let exactly = format!("={name}");
            let env = &mut spec.env;
            env.entry("NCCL_SOCKET_IFNAME".to_owned())
                .or_insert(exactly);
            env.entry("GLOO_SOCKET_IFNAME".to_owned()).or_insert(name);
        }
        options = rendezvous(order, (first, meeting.port), own);
    }
    if let Some(torchrun) = torchrun {
        let each = order
            .spec
            .procs_per_node
            .map_or(order.gpu_uuids.len(), |n| {
                usize::try_from(n).unwrap_or(usize::MAX)
            });
        options.push(format!("--nproc-per-node={}", each.max(1)));
        let command = call(&spec.argv).command;
        spec.argv = [torchrun, options, command].concat();
    }
    Ok(spec)
}

fn incomplete(order: &Order, meeting: &Meeting) -> Failure {
    Failure {
        error: format!(
            "the coordinator named the addresses of {} nodes to rank {} of a gang of {}; report this",
            meeting.addresses.len(),
            order.task.rank.0,
            order.world_size
        ),
        fault: Fault::Shared,
    }
}

/// Of an agent beside its coordinator, which it reaches by the loopback.
fn unreachable(meeting: &Meeting, own: &str) -> Failure {
    Failure {
        error: format!(
            "other nodes of the gang ({}) do not reach this one at {own}; set node.address in its agent's settings",
            meeting.addresses.join(", ")
        ),
        fault: Fault::Node,
    }
}

fn is_loopback(address: &str) -> bool {
    let ip = address.parse::<IpAddr>();
    ip.map_or(address == "localhost", |ip| ip.is_loopback())
}

/// For one process a node; torchrun gives those that it starts their own.
fn variables(order: &Order, meeting: &Meeting, first: &str) -> [(String, String); 7] {
    [
        ("MASTER_ADDR", first.to_owned()),
        ("MASTER_PORT", meeting.port.to_string()),
        ("LOCAL_RANK", "0".to_owned()),
        ("LOCAL_WORLD_SIZE", "1".to_owned()),
        ("NODE_RANK", order.task.rank.0.to_string()),
        ("NNODES", order.world_size.to_string()),
        ("TRAINYARD_NODE_ADDRESSES", meeting.addresses.join(",")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// How torchrun finds the others. Its c10d rendezvous orders nodes by `--local-addr` as text, then by the number of the
/// process, and takes no rank from outside. The address counts on rank 0 alone, where all connect to it; those of the
/// others begin with what sorts behind every address, and with their rank.
fn rendezvous(order: &Order, (first, port): (&str, u16), own: &str) -> Vec<String> {
    let (task, rank) = (order.task, order.task.rank.0);
    let endpoint = if first.contains(':') {
        format!("[{first}]:{port}")
    } else {
        format!("{first}:{port}")
    };
    let address = match rank {
        0 => own.to_owned(),
        _ => format!("~{rank:06}@{own}"),
    };
    vec![
        format!("--nnodes={}", order.world_size),
        "--rdzv-backend=c10d".to_owned(),
        format!("--rdzv-id={}-{}", task.job.0, task.attempt.0),
        format!("--rdzv-endpoint={endpoint}"),
        format!("--rdzv-conf=is_host={}", rank == 0),
        format!("--local-addr={address}"),
    ]
}

/// Whether torchrun starts the job's processes.
pub(super) fn wants_torchrun(order: &Order) -> bool {
    match order.spec.launcher {
        Launcher::Torchrun => true,
        Launcher::Plain => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use trainyard_config::Secret;
    use trainyard_core::{
        ids::{AttemptNo, JobId, Rank, TaskKey},
        spec::JobSpec,
    };

    fn order(rank: u32, launcher: Launcher) -> Order {
        Order {
            task: TaskKey {
                job: JobId(7),
                attempt: AttemptNo(2),
                rank: Rank(rank),
            },
            spec: JobSpec {
                nodes: 2,
                launcher,
                ..JobSpec::default()
            },
            gpu_uuids: vec!["GPU-a".into(), "GPU-b".into()],
            world_size: 2,
            secret: Secret::default(),
            snapshot: None,
        }
    }

    fn prepared(argv: &[&str], torchrun: Option<&[&str]>) -> Prepared {
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>()
        };
        Prepared {
            spec: LaunchSpec {
                argv: words(argv),
                cwd: "/w".into(),
                env: BTreeMap::from([("NCCL_SOCKET_IFNAME".to_owned(), "mine".to_owned())]),
                grace_ms: 1,
            },
            torchrun: torchrun.map(words),
            port: None,
        }
    }

    fn meeting(addresses: &[&str]) -> Meeting {
        Meeting {
            addresses: addresses.iter().map(|&one| one.to_owned()).collect(),
            port: 29_501,
        }
    }

    #[test]
    fn a_rank_is_told_where_all_meet_and_keeps_the_interface_that_its_user_has_set() {
        let meeting = meeting(&["10.0.0.9", "10.0.0.10"]);
        let spec = complete(
            prepared(&["./train"], None),
            &order(1, Launcher::Plain),
            Some((&meeting, Some("eth0".into()))),
        );
        let spec = spec.unwrap();
        assert_eq!(spec.argv, ["./train"]);
        let expected = [
            ("GLOO_SOCKET_IFNAME", "eth0"),
            ("LOCAL_RANK", "0"),
            ("LOCAL_WORLD_SIZE", "1"),
            ("MASTER_ADDR", "10.0.0.9"),
            ("MASTER_PORT", "29501"),
            ("NCCL_SOCKET_IFNAME", "mine"),
            ("NNODES", "2"),
            ("NODE_RANK", "1"),
            ("TRAINYARD_NODE_ADDRESSES", "10.0.0.9,10.0.0.10"),
        ];
        let found: Vec<_> = spec
            .env
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(found, expected);
        assert!(RESERVED.iter().all(|name| spec.env.contains_key(*name)));
    }

    #[test]
    fn torchrun_meets_at_rank_0_and_orders_nodes_as_their_ranks_whatever_their_addresses() {
        let meeting = meeting(&["fd00::9", "10.0.0.10"]);
        let torchrun: &[&str] = &["/env/bin/python", "-m", "torch.distributed.run"];
        let mut of_rank = Vec::new();
        for rank in 0..2 {
            let prepared = prepared(&["/env/bin/python", "t.py", "--x"], Some(torchrun));
            let order = order(rank, Launcher::Torchrun);
            let spec = complete(prepared, &order, Some((&meeting, None))).unwrap();
            of_rank.push(spec.argv);
        }
        let expected = [
            "/env/bin/python -m torch.distributed.run --nnodes=2 --rdzv-backend=c10d",
            "--rdzv-id=7-2 --rdzv-endpoint=[fd00::9]:29501 --rdzv-conf=is_host=true --local-addr=fd00::9",
            "--nproc-per-node=2 --no-python /env/bin/python t.py --x",
        ];
        assert_eq!(of_rank[0].join(" "), expected.join(" "));
        let of = |argv: &[String], name: &str| {
            let mut found = argv.iter().filter_map(|word| word.strip_prefix(name));
            found.next().unwrap().to_owned()
        };
        assert_eq!(of(&of_rank[1], "--rdzv-conf="), "is_host=false");
        let [first, second] = [0, 1].map(|rank| of(&of_rank[rank], "--local-addr="));
        assert!(first < second, "{first} {second}");
    }

    #[test]
    fn torchrun_on_one_node_meets_nobody_and_starts_what_the_job_says() {
        let mut order = order(0, Launcher::Torchrun);
        (order.world_size, order.spec.procs_per_node) = (1, Some(4));
        let spec = complete(prepared(&["t.py", "-x"], Some(&["torchrun"])), &order, None);
        let expected = [
            "torchrun",
            "--standalone",
            "--nproc-per-node=4",
            "t.py",
            "-x",
        ];
        assert_eq!(spec.unwrap().argv, expected);
    }

    #[test]
    fn a_script_is_given_to_torchrun_and_a_program_is_run_as_it_is() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let Call { torchrun, command } = call(&words);
            (torchrun.join(" "), command.join(" "))
        };
        let own = |command: &str| ("torchrun".to_owned(), command.to_owned());
        assert_eq!(of(&["/s/train.py", "1"]), own("/s/train.py 1"));
        assert_eq!(of(&["-m", "pkg"]), own("-m pkg"));
        assert_eq!(of(&["bash", "t.sh"]), own("--no-python bash t.sh"));
        let (torchrun, command) = of(&["python3.11", "-u", "t.py"]);
        assert_eq!(torchrun, "python3.11 -m torch.distributed.run");
        assert_eq!(command, "--no-python python3.11 -u t.py");
    }

    #[test]
    fn a_node_that_the_others_cannot_reach_says_so_and_what_to_set() {
        let start = |rank, addresses: &[&str]| {
            let (order, meeting) = (order(rank, Launcher::Plain), meeting(addresses));
            complete(prepared(&["x"], None), &order, Some((&meeting, None)))
        };
        let mixed = ["10.0.0.1", "127.0.0.1"];
        let failure = start(1, &mixed).unwrap_err();
        assert_eq!(failure.fault, Fault::Node);
        assert!(failure.error.contains("set node.address"), "{failure:?}");
        assert!(start(0, &mixed).is_ok(), "it is not this one's fault");
        assert!(start(1, &["127.0.0.1", "127.0.0.2"]).is_ok());
        assert!(start(0, &["localhost", "node-2"]).is_err());
    }

    #[test]
    fn a_meeting_that_does_not_name_every_rank_launches_nothing() {
        for addresses in [&[][..], &["a"], &["a", "b", "c"]] {
            let order = order(1, Launcher::Plain);
            let meeting = meeting(addresses);
            let spec = complete(prepared(&["x"], None), &order, Some((&meeting, None)));
            let failure = spec.unwrap_err();
            assert_eq!(failure.fault, Fault::Shared);
            assert!(
                failure.error.contains("rank 1 of a gang of 2"),
                "{failure:?}"
            );
        }
    }
}
