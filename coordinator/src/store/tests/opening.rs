//! Opening the store: who is refused, and in which words.

use super::*;

#[test]
fn a_second_coordinator_is_told_that_the_store_is_in_use() {
    let (folder, _store) = fresh();
    let path = folder.path().join("trainyard.redb");
    let error = Store::open(StoreOptions::new(&path), no_fatal()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert!(text.contains("in use by another coordinator"), "{text}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let options = StoreOptions::new(file.join("data/trainyard.redb"));
    let error = Store::open(options, no_fatal()).unwrap_err();
    assert!(matches!(error, OpenError::NotWritable { .. }));
    assert!(error.to_string().contains("store.data_dir"), "{error}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let (folder, store) = fresh();
    let path = folder.path().join("trainyard.redb");
    let newer = Change::PutMeta {
        key: "store.schema".into(),
        value: (tables::SCHEMA + 1).to_string(),
    };
    store.commit_and_wait(vec![newer]).await.unwrap();
    drop(store);
    for _ in 0..2 {
        let error = Store::open(StoreOptions::new(&path), no_fatal()).unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::Newer {
                    found: 6,
                    known: 5,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_is_no_store_is_called_damaged_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trainyard.redb");
    fs::write(&path, "not a store ".repeat(1_000)).unwrap();
    let error = Store::open(StoreOptions::new(&path), no_fatal()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(
        fs::read_to_string(&path)
            .unwrap()
            .starts_with("not a store")
    );
}

#[test]
fn less_free_space_than_the_reserve_or_no_folder_is_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut options = StoreOptions::new(data.join("trainyard.redb"));
    options.reserve_bytes = 0;
    Store::open(options.clone(), no_fatal())
        .unwrap()
        .room()
        .unwrap();
    options.reserve_bytes = u64::MAX;
    let store = Store::open(options, no_fatal()).unwrap();
    let words = store.room().unwrap_err().to_string();
    assert!(
        words.contains("nearly full") && words.contains("free some space"),
        "{words}"
    );
    assert!(words.contains(data.to_str().unwrap()), "{words}");
    assert!(words.contains("store.reserve_mib"), "{words}");
    std::fs::remove_dir_all(&data).unwrap();
    let words = store.room().unwrap_err().to_string();
    assert!(words.contains("cannot be looked at"), "{words}");
    assert!(words.contains(data.to_str().unwrap()), "{words}");
}

/// Changes rows behind the store's back.
fn behind(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = redb::Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

#[tokio::test]
async fn a_file_whose_schema_version_or_table_is_under_a_damaged_name_is_not_taken_for_a_new_one() {
    let damages: [fn(&redb::WriteTransaction); 3] = [
        |txn| {
            let mut meta = txn.open_table(tables::META).unwrap();
            let row = meta.remove("store.schema".as_bytes()).unwrap();
            let row = row.map(|row| row.value().to_vec()).unwrap();
            meta.insert("store.schemc".as_bytes(), row.as_slice())
                .unwrap();
        },
        |txn| {
            let other: tables::Named = redb::TableDefinition::new("meti");
            txn.rename_table(tables::META, other).unwrap();
        },
        |txn| {
            let other: tables::Numbered = redb::TableDefinition::new("jnbs");
            txn.rename_table(tables::JOBS, other).unwrap();
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let (folder, store) = fresh();
        let mut ended = job(1);
        ended.state = JobState::Completed;
        store.commit_and_wait(put(ended)).await.unwrap();
        drop(store);
        let path = folder.path().join("trainyard.redb");
        behind(&path, damage);
        for _ in 0..2 {
            let error = Store::open(StoreOptions::new(&path), no_fatal()).unwrap_err();
            assert!(
                matches!(error, OpenError::Damaged { .. }),
                "{number}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn a_file_of_a_coordinator_that_was_killed_opens_without_a_look_at_all_of_it() {
    let (folder, store) = fresh();
    store.commit_and_wait(put(job(1))).await.unwrap();
    store.commit_and_wait(vec![log(1, "hello")]).await.unwrap();
    let copy = folder.path().join("copy.redb");
    fs::copy(folder.path().join("trainyard.redb"), &copy).unwrap();
    let repaired = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&repaired);
    let mut builder = Database::builder();
    builder.set_repair_callback(move |_| told.store(true, Ordering::SeqCst));
    let db = builder.open(&copy).unwrap();
    assert!(!repaired.load(Ordering::SeqCst), "redb has read all pages");
    drop(db);
    assert_eq!(open_at(&copy).count_logs(JobId(1)).unwrap(), 1);
}
