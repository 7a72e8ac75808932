//! The queue over time as a picture: GPUs in use and GPUs that are waited for.

use crate::engine::{Outcome, Sample};

const WIDTH: i64 = 1_000;
const HEIGHT: i64 = 240;

/// One picture for each policy, above one another.
#[must_use]
pub fn draw(policies: &[(String, &Outcome)], capacity: u32) -> String {
    let rows = i64::try_from(policies.len()).unwrap_or(0);
    let height = rows * (HEIGHT + 30);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    let samples = || policies.iter().flat_map(|(_, outcome)| &outcome.queue);
    let first = samples().map(|(then, ..)| *then).min().unwrap_or(0);
    let last = samples()
        .map(|(then, ..)| *then)
        .max()
        .unwrap_or(1)
        .max(first + 1);
    let most = samples()
        .map(|(_, _, waiting, _)| *waiting)
        .max()
        .unwrap_or(0)
        .max(u64::from(capacity));
    let highest = i64::try_from(most).unwrap_or(i64::MAX);
    for (row, (name, outcome)) in (0i64..).zip(policies) {
        let top = row * (HEIGHT + 30) + 20;
        let words = format!("{name}: GPUs in use (blue) and waited for (orange), up to {most}");
        svg.push_str(&format!("<text x=\"4\" y=\"{}\">{words}</text>\n", top - 6));
        let (waited, used) = columns(&outcome.queue, first, last);
        for (values, colour) in [(&waited, "#e8833a"), (&used, "#3a6ea8")] {
            let points = (0i64..).zip(values).map(|(x, value)| {
                format!("{x},{}", top + HEIGHT - value * HEIGHT / highest.max(1))
            });
            let points: Vec<String> = points.collect();
            let points = points.join(" ");
            svg.push_str(&format!(
                "<polyline fill=\"none\" stroke=\"{colour}\" points=\"{points}\"/>\n"
            ));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// GPUs that were waited for, and those in use, for each column from `first` to `last`. A column shows the most that there
/// was in its time; where nothing changed that is what the last change left.
fn columns(queue: &[Sample], first: i64, last: i64) -> (Vec<i64>, Vec<i64>) {
    let mut waited = Line::default();
    let mut used = Line::default();
    for (then, _, waiting, busy) in queue {
        let column = (then - first) * (WIDTH - 1) / (last - first);
        let column = usize::try_from(column).unwrap_or(0);
        waited.add(column, i64::try_from(*waiting).unwrap_or(i64::MAX));
        used.add(column, i64::from(*busy));
    }
    (waited.whole(), used.whole())
}

/// Columns up to the newest change, each with the most that there was in its time.
#[derive(Default)]
struct Line {
    values: Vec<i64>,
    now: i64,
}

impl Line {
    /// From `column` on there is `value`.
    fn add(&mut self, column: usize, value: i64) {
        self.values.resize(column + 1, self.now);
        self.now = value;
        if let Some(highest) = self.values.last_mut() {
            *highest = value.max(*highest);
        }
    }

    /// With what there is now up to the last column.
    fn whole(mut self) -> Vec<i64> {
        self.values
            .resize(usize::try_from(WIDTH).unwrap_or(0), self.now);
        self.values
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trainyard_core::sched::policy::cluster::Cluster;

    use super::*;
    use crate::{anchors::Anchor, engine, trace::sample::job};

    #[test]
    fn where_nothing_changes_the_picture_shows_what_the_last_change_left() {
        // One node: busy from 0 to 2,000 with one after the other, the second of which waits from 500 to 1,000.
        let jobs = [job(1, 0, 8, 1_000), job(2, 500, 8, 1_000)];
        let mut player = Anchor::FifoStrict.player(&jobs, &[], Cluster::uniform(1, 8), 60);
        let went = engine::replay(&jobs, 60, player.as_mut(), &|| Duration::ZERO);
        let (waited, used) = columns(&went.queue, 0, 2_000);
        assert_eq!(used, [8; 1_000]);
        let waits: Vec<usize> = (0..1_000).filter(|column| waited[*column] > 0).collect();
        assert_eq!(waits, (249..=499).collect::<Vec<_>>());
        assert!(waits.iter().all(|column| waited[*column] == 8));
        let drawn = draw(&[("fifo".into(), &went)], 8);
        let lines: Vec<&str> = drawn
            .lines()
            .filter(|line| line.contains("points"))
            .collect();
        assert_eq!(lines.len(), 2);
        // The top of the picture all along: eight of eight.
        assert_eq!(lines[1].matches(",20").count(), 1_000, "{}", lines[1]);
    }

    #[test]
    fn a_column_shows_the_most_that_there_was_in_its_time_and_none_before_the_first_change() {
        // Three changes within the fifth column, which lasts from 401 to 500.
        let queue = [(410, 1, 6, 2), (450, 1, 9, 4), (500, 0, 3, 1)];
        let (waited, used) = columns(&queue, 0, 100_000);
        assert_eq!(waited[3..7], [0, 9, 3, 3]);
        assert_eq!(used[3..7], [0, 4, 1, 1]);
        assert_eq!((waited[999], used[999], waited.len()), (3, 1, 1_000));
    }
}
