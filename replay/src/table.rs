//! The table of the traces' README as text.

use crate::metrics::{Figures, Predicted};

const HEADS: [&str; 16] = [
    "JCT mean",
    "p50",
    "p99",
    "wait mean",
    "p99",
    "p99.9",
    "max",
    ">=8 GPU",
    "bsld",
    "util %",
    "FTF %",
    "iso %",
    "makespan",
    "preempt",
    "pass p99 us",
    "wall s",
];

/// One line a policy.
#[must_use]
pub fn table(rows: &[&Figures]) -> String {
    let name = rows
        .iter()
        .map(|row| row.policy.len())
        .max()
        .unwrap_or(6)
        .max(6);
    let widths: Vec<usize> = HEADS.iter().map(|head| head.len().max(9)).collect();
    let mut text = format!("{:name$}", "policy");
    for (head, width) in HEADS.iter().zip(&widths) {
        text.push_str(&format!(" {head:>width$}"));
    }
    for row in rows {
        text.push_str(&format!("\n{:name$}", row.policy));
        for (cell, width) in cells(row).iter().zip(&widths) {
            text.push_str(&format!(" {cell:>width$}"));
        }
        if row.stuck > 0 {
            let words = format!(
                "\n  {} jobs never ran: no nodes hold them, or one that none hold stood before them",
                row.stuck
            );
            text.push_str(&words);
        }
    }
    for row in rows {
        if let Some(predicted) = &row.predicted {
            let Predicted { jobs, within } = predicted;
            let percent = within * 100 / (*jobs).max(1);
            let words = format!(
                "\n{}: {within} of {jobs} predicted starts ({percent} %) came between the times told for one and nine cases of ten",
                row.policy
            );
            text.push_str(&words);
        }
    }
    text.push('\n');
    text
}

fn cells(row: &Figures) -> [String; 16] {
    let whole = |value: f64| format!("{value:.0}");
    let iso = row.iso_unfair.map(|share| format!("{share:.2}"));
    [
        whole(row.jct_mean),
        whole(row.jct_p50),
        whole(row.jct_p99),
        whole(row.wait_mean),
        whole(row.wait_p99),
        whole(row.wait_p999),
        whole(row.wait_max),
        whole(row.wait_mean_8gpu),
        format!("{:.1}", row.bsld_mean),
        format!("{:.1}", row.util_window),
        format!("{:.2}", row.ftf_unfair),
        iso.unwrap_or_else(|| "-".into()),
        whole(row.makespan),
        row.preemptions.to_string(),
        format!("{:.1}", row.pass_p99_us),
        format!("{:.2}", row.wall_s),
    ]
}
