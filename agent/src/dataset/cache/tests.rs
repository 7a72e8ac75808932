//! What is kept, what goes, and how often something is fetched.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn digest(text: &str) -> Digest {
    *blake3::hash(text.as_bytes()).as_bytes()
}

async fn put(cache: &Cache, lease: &Lease, text: &str) -> bool {
    let get = |path: PathBuf| async move {
        fs::write(path, text).unwrap();
        Ok(())
    };
    let size = text.len() as u64;
    cache.get(lease, digest(text), size, get).await.unwrap()
}

#[tokio::test]
async fn concurrent_wishes_for_one_content_fetch_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path().join("cache"), (1 << 20, 0)).unwrap();
    let (lease, fetched) = (cache.lease(), AtomicUsize::new(0));
    let one = || {
        let get = |path: PathBuf| async {
            fetched.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            fs::write(path, "same").unwrap();
            Ok(())
        };
        cache.get(&lease, digest("same"), 4, get)
    };
    let all = futures::future::join_all([one(), one(), one()]).await;
    let there = all.into_iter().filter(|there| *there == Ok(true)).count();
    assert_eq!((fetched.into_inner(), there), (1, 2));
}

#[tokio::test]
async fn the_longest_unused_goes_but_never_what_a_view_or_a_lease_has() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path().join("cache"), (40, 0)).unwrap();
    let texts = ["a", "b", "c", "d"].map(|letter| letter.repeat(10));
    for text in &texts {
        put(&cache, &cache.lease(), text).await;
    }
    let shown = folder.path().join("shown");
    cache.link(&digest(&texts[0]), &shown).unwrap();
    let lease = cache.lease();
    assert!(put(&cache, &lease, &texts[1]).await);
    put(&cache, &cache.lease(), &"e".repeat(10)).await;
    let there = texts
        .each_ref()
        .map(|text| cache.read(&digest(text)).is_ok());
    assert_eq!(there, [true, true, false, false]);
    assert_eq!(cache.total(), 30);
    // A look at a file is a use of it too, so the newest is used once more.
    assert!(put(&cache, &lease, &"e".repeat(10)).await);
    drop(lease);
    fs::remove_file(shown).unwrap();
    drop(cache);
    let cache = Cache::open(folder.path().join("cache"), (20, 0)).unwrap();
    assert_eq!(cache.total(), 10, "a later life keeps the bound too");
    assert!(
        cache.read(&digest(&"e".repeat(10))).is_ok(),
        "the newest stays"
    );
}

#[tokio::test]
async fn what_somebody_has_written_to_is_fetched_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path().join("cache"), (1 << 20, 0)).unwrap();
    put(&cache, &cache.lease(), "good").await;
    assert!(put(&cache, &cache.lease(), "good").await);
    let path = cache.0.path(&digest("good"));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, "evil").unwrap();
    assert!(!put(&cache, &cache.lease(), "good").await);
    assert_eq!(cache.read(&digest("good")).unwrap(), b"good");
}

#[tokio::test]
async fn a_fetch_that_is_given_up_leaves_nothing_and_blocks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path().join("cache"), (1 << 20, 0)).unwrap();
    let lease = cache.lease();
    let never = |path: PathBuf| async move {
        fs::write(path, "ha").unwrap();
        std::future::pending().await
    };
    let mut stuck = Box::pin(cache.get(&lease, digest("half"), 4, never));
    let tmp = folder.path().join("cache/tmp");
    while fs::read_dir(&tmp).unwrap().count() == 0 {
        tokio::select! {
            _ = &mut stuck => panic!("it is stuck"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(stuck);
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    assert!(!put(&cache, &lease, "half").await);
}

#[tokio::test]
async fn a_disk_that_is_too_full_costs_what_is_unused_and_then_says_so() {
    let folder = tempfile::tempdir().unwrap();
    // No disk has so much free.
    let cache = Cache::open(folder.path().join("cache"), (1 << 20, 1 << 60)).unwrap();
    put(&cache, &cache.lease(), "unused").await;
    let lease = cache.lease();
    put(&cache, &lease, "leased").await;
    let error = cache.make_room(1 << 30).await.unwrap_err().to_string();
    assert!(
        error.contains("free where") && error.contains("datasets.reserve_mib"),
        "{error}"
    );
    assert!(cache.read(&digest("unused")).is_err());
    assert_eq!(cache.read(&digest("leased")).unwrap(), b"leased");
    let roomy = Cache::open(folder.path().join("other"), (1 << 20, 0)).unwrap();
    roomy.make_room(1).await.unwrap();
}
