//! What became of a request to all jobs of an array. Sends nothing.

use trainyard_core::ids::JobId;
use trainyard_proto::status::Kind;

use super::ApiError;

/// Of those that were not reached so many are named.
const NAMED: usize = 20;

/// How many were told to end, of which those that have ended already are none.
///
/// # Errors
/// When some were not reached: which, and how many were.
pub(super) fn told(
    array: JobId,
    answers: Vec<(JobId, Result<(), ApiError>)>,
) -> Result<u32, ApiError> {
    let mut told = 0;
    let mut missed: Vec<(JobId, ApiError)> = Vec::new();
    for (job, answer) in answers {
        match answer {
            Ok(()) => told += 1,
            Err(error) if matches!(error.kind, Kind::Conflict | Kind::NotFound) => {}
            Err(error) => missed.push((job, error)),
        }
    }
    missed.sort_by_key(|(job, _)| *job);
    let Some((_, first)) = missed.first() else {
        return Ok(told);
    };
    let names = missed.iter().take(NAMED).map(|(job, _)| job.to_string());
    let names = names.collect::<Vec<_>>().join(", ");
    let more = match missed.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let words = format!(
        "{told} jobs of array {array} were told to end, and these were not: {names}{more} ({}); cancel the array again",
        first.message
    );
    Err(ApiError::new(first.kind, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_were_not_reached_are_named_after_all_others_were_told() {
        let late = || {
            Err(ApiError::new(
                Kind::Unavailable,
                "it did not answer in time",
            ))
        };
        let over = || Err(ApiError::new(Kind::Conflict, "it has ended"));
        let all = vec![(JobId(9), late()), (JobId(8), Ok(())), (JobId(7), over())];
        let refused = told(JobId(5), all).unwrap_err();
        assert_eq!(refused.kind, Kind::Unavailable);
        let words = "1 jobs of array 5 were told to end, and these were not: 9 (it did not answer in time); cancel the array again";
        assert_eq!(refused.message, words);
        let many: Vec<_> = (0..30).map(|job| (JobId(job), late())).collect();
        let words = told(JobId(0), many).unwrap_err().message;
        assert!(words.contains("18, 19 and 10 more"), "{words}");
        let fine = vec![(JobId(8), Ok(())), (JobId(7), over())];
        assert_eq!(told(JobId(5), fine).unwrap(), 1);
    }
}
