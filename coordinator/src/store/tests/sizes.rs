//! How much smaller rows are once they are sealed: curves and logs as trainers of pictures make them.

use redb::{ReadableDatabase as _, ReadableTable as _};
use trainyard_core::ids::{Rank, TaskKey};

use super::{
    blocks::{ended, problems, seal},
    *,
};
use crate::store::tables::{LOGS, POINTS};

/// Noise that is the same each time.
struct Noise(u64);

impl Noise {
    fn draw(&mut self) -> u16 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        u16::try_from(self.0 >> 48).unwrap()
    }

    /// From 0 to 1.
    fn next(&mut self) -> f32 {
        f32::from(self.draw()) / 65_536.0
    }
}

/// What a trainer of pictures tells of an epoch: seven metrics, short floats all.
fn told(noise: &mut Noise, epoch: u16) -> (Progress, String) {
    let mut report = progress(epoch.into());
    report.at = Timestamp(
        1_795_000_000_000_000 + i64::from(epoch) * 61_234_567 + i64::from(noise.draw()) * 15,
    );
    let names = [
        "train/box_loss",
        "train/cls_loss",
        "val/box_loss",
        "metrics/mAP50(B)",
        "metrics/recall(B)",
        "lr/pg0",
    ];
    for (n, name) in (1_u8..).zip(names) {
        let value = f32::from(n) / (1.0 + f32::from(epoch) / 40.0) + 0.05 * noise.next();
        report.values.insert(name.to_owned(), value.into());
    }
    report.values.insert(
        "loss".to_owned(),
        f64::from(3.0 / f32::from(epoch) + 0.1 * noise.next()),
    );
    let [one, two, speed] = [noise.next() * 2.0, noise.next() * 3.0, noise.next() * 9.0];
    let line = format!(
        "{epoch:>7}/300      4.21G {one:>10.4} {two:>10.4}        640: 100%|##########| 128/128 [00:21<00:00, {speed:.2}it/s]"
    );
    (report, line)
}

#[tokio::test]
async fn sealed_rows_take_a_fraction_of_their_chunks() {
    let (folder, store) = fresh();
    let mut noise = Noise(7);
    for id in 1..=4 {
        store.commit_and_wait(put(job(id))).await.unwrap();
        for epoch in 1..=300 {
            let (report, text) = told(&mut noise, epoch);
            let point = Change::AppendPoints {
                task: TaskKey {
                    job: JobId(id),
                    attempt: A1,
                    rank: Rank(0),
                },
                points: vec![report],
            };
            let rows = vec![point, log(id, &text)];
            store.try_commit(rows, Box::new(|_| {})).unwrap();
        }
        store.commit_and_wait(put(ended(id))).await.unwrap();
    }
    let held = |series: tables::Series| -> u64 {
        let txn = store.inner.shared.db.begin_read().unwrap();
        let table = txn.open_table(series.held).unwrap();
        let rows = table.iter().unwrap();
        rows.map(|row| row.unwrap().1.value()).sum()
    };
    let raw = [held(POINTS), held(LOGS)];
    seal(&store).await;
    let sealed = [held(POINTS), held(LOGS)];
    let each = |bytes: [u64; 2]| bytes.map(|n| n / 1_200);
    println!(
        "bytes of values a point, a line: {:?} as they came, {:?} sealed",
        each(raw),
        each(sealed)
    );
    assert!(
        sealed[0] * 3 < raw[0] && sealed[1] * 3 < raw[1],
        "{raw:?} {sealed:?}"
    );
    drop(store);
    assert_eq!(problems(folder.path()), Vec::<String>::new());
}
