//! Why a job starts now or has to go, in words that are noted with it.

use crate::sched::policy::{Because, Preempt, Start};

pub(super) fn of_start(start: &Start) -> String {
    let words = match start.because {
        Because::Turn => "the first in the order that fitted".to_owned(),
        Because::Guard => {
            "it had waited for so long that it went before others of its priority".to_owned()
        }
        Because::Beside(job) => format!("fits beside the nodes that are kept for job {job}"),
        Because::Room => "other jobs have made room for it".to_owned(),
    };
    match start.borrows {
        true => format!("{words}; its project uses more than its own"),
        false => words,
    }
}

pub(super) fn of_leaving(preempt: &Preempt) -> String {
    let mut words = format!("job {} needs its place", preempt.for_job);
    if preempt.borrowed {
        words.push_str(", which its project had borrowed");
    }
    if preempt.moves {
        words.push_str("; it is expected to go on at once elsewhere");
    }
    words
}
