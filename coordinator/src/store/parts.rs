//! Very many rows, read by several threads: a start of a coordinator with 100,000 jobs waits for little else.
//!
//! Owns how they are shared out. What is read comes in the order in which it was asked for.

use std::{num::NonZero, thread};

use super::ReadError;

/// Below that a thread costs more than it saves.
const WORTHWHILE: usize = 2_000;
/// Those that read share memory and disk: more of them gain nothing.
const MOST: usize = 8;

/// What `read` makes of parts of the numbers, in their order, or the first error of these. Where no more threads are to be had
/// this one reads.
pub(super) fn by_parts<T: Send>(
    numbers: &[u64],
    read: impl Fn(&[u64]) -> Result<T, ReadError> + Sync,
) -> Result<Vec<T>, ReadError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let parts = threads.min(MOST).min(numbers.len() / WORTHWHILE).max(1);
    if parts == 1 {
        return Ok(vec![read(numbers)?]);
    }
    let read = &read;
    thread::scope(|scope| {
        let chunks = numbers.chunks(numbers.len().div_ceil(parts));
        let running: Vec<_> = chunks
            .map(|chunk| {
                let spawned = thread::Builder::new().spawn_scoped(scope, move || read(chunk));
                (chunk, spawned)
            })
            .collect();
        running
            .into_iter()
            .map(
                |(chunk, spawned)| match spawned.map(thread::ScopedJoinHandle::join) {
                    Ok(Ok(read)) => read,
                    Ok(Err(panic)) => std::panic::resume_unwind(panic),
                    Err(_none) => read(chunk),
                },
            )
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_order_and_the_first_error_ends_all() {
        let numbers: Vec<u64> = (0..10 * WORTHWHILE as u64).collect();
        let parts = by_parts(&numbers, |part| Ok(part.to_vec())).unwrap();
        assert_eq!(parts.concat(), numbers);
        let few = by_parts(&[3, 2], |part| Ok(part.to_vec())).unwrap();
        assert_eq!(few, [vec![3, 2]]);
        let last = numbers.len() as u64 - 1;
        let failed = by_parts(&numbers, |part| match part.contains(&last) {
            true => Err(ReadError::Contradiction {
                table: "jobs".to_owned(),
                key: last.to_string(),
                reason: "is not there".to_owned(),
            }),
            false => Ok(()),
        });
        assert!(failed.is_err());
    }
}
