//! What two stores have in common, and in what they differ, by their digests.

use super::*;

/// Two jobs and a line.
async fn with(text: &str) -> (TempDir, Store) {
    let (folder, store) = fresh();
    for change in [put(job(1)), put(job(2)), vec![log(1, text)]] {
        store.commit_and_wait(change).await.unwrap();
    }
    (folder, store)
}

/// What is drawn for each store anew is left out: its identity.
fn digests(store: &Store) -> Vec<TableDigest> {
    let mut all = store.digest().unwrap();
    all.retain(|of| of.table != "meta");
    all
}

#[tokio::test]
async fn stores_with_the_same_rows_have_the_same_digests_and_one_byte_tells_them_apart() {
    let (_one, first) = with("hello").await;
    let (two, second) = with("hello").await;
    assert_eq!(digests(&first), digests(&second));
    let (_three, third) = with("hallo").await;
    let (ours, theirs) = (digests(&first), digests(&third));
    let differ = ours.iter().zip(&theirs).filter(|(one, other)| one != other);
    let differ: Vec<_> = differ
        .map(|(one, _)| (one.table.as_str(), one.rows))
        .collect();
    assert_eq!(differ, [("logs", 1)]);
    // They are of what is stored, not of the program that has it open.
    drop(second);
    let again = open_at(&two.path().join("trainyard.redb"));
    assert_eq!(digests(&first), digests(&again));
}
