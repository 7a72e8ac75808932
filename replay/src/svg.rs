//! The queue over time as a picture: GPUs in use and GPUs that are waited for.

use crate::engine::Outcome;

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
        .max(capacity);
    for (row, (name, outcome)) in (0i64..).zip(policies) {
        let top = row * (HEIGHT + 30) + 20;
        let words = format!("{name}: GPUs in use (blue) and waited for (orange), up to {most}");
        svg.push_str(&format!("<text x=\"4\" y=\"{}\">{words}</text>\n", top - 6));
        let mut waited: Vec<i64> = vec![0; usize::try_from(WIDTH).unwrap_or(0)];
        let mut used = waited.clone();
        for (then, _, waiting, busy) in &outcome.queue {
            let column = (then - first) * (WIDTH - 1) / (last - first);
            let column = usize::try_from(column).unwrap_or(0);
            raise(&mut waited, column, i64::from(*waiting));
            raise(&mut used, column, i64::from(*busy));
        }
        for (values, colour) in [(&waited, "#e8833a"), (&used, "#3a6ea8")] {
            let points = (0i64..).zip(values).map(|(x, value)| {
                format!(
                    "{x},{}",
                    top + HEIGHT - value * HEIGHT / i64::from(most.max(1))
                )
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

/// A column shows the most that there was in its time.
fn raise(values: &mut [i64], column: usize, value: i64) {
    if let Some(highest) = values.get_mut(column) {
        *highest = value.max(*highest);
    }
}
