//! A trace: jobs of the past, in the columns of the public suites.
//!
//! Owns the format and nothing else; says in which line what is wrong.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use csv::{ReaderBuilder, StringRecord, Trim};
use flate2::read::MultiGzDecoder;
use thiserror::Error;
use trainyard_core::sched::policy::ask::Gang;

/// One job of a trace. Times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceJob {
    /// Its number in the source.
    pub id: u64,
    /// When it was submitted.
    pub submit: i64,
    /// Who did, if that is known.
    pub user: String,
    /// The virtual cluster or project, if there is one.
    pub vc: String,
    /// Its name, if the trace has names.
    pub name: String,
    /// GPUs in all.
    pub gpus: u32,
    /// Nodes, with as many of them on each; 0 when it does not matter how they lie.
    pub nodes: u32,
    /// Whether it may be stopped, where that is known.
    pub preemptible: Option<bool>,
    /// Higher first; 0 where that is not known.
    pub priority: i32,
    /// How long it runs. Hidden from the policy until then.
    pub duration: i64,
    /// How long its user said that it may run.
    pub limit: i64,
}

impl TraceJob {
    /// How its GPUs lie on nodes.
    #[must_use]
    pub fn gang(&self) -> Gang {
        match self.gpus.checked_div(self.nodes) {
            Some(gpus) => Gang::Each {
                nodes: self.nodes,
                gpus,
            },
            None => Gang::Packed { gpus: self.gpus },
        }
    }
}

/// Why a trace could not be read.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A column.
    #[error(
        "{0} has no column '{1}'; a trace has job_id, submit_time_s, gpus and duration_s, and may have user, vc, name and walltime_s"
    )]
    Column(PathBuf, &'static str),
    /// A line.
    #[error("line {line} of {path}: {column} is '{value}', which is not a number")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// Which column.
        column: &'static str,
        /// What stands there.
        value: String,
    },
}

/// Reads a trace, packed by gzip or not, in the order of submission.
///
/// # Errors
/// When it cannot be read or a line of it cannot be understood.
pub fn read(path: &Path) -> Result<Vec<TraceJob>, TraceError> {
    let opened = File::open(path).map_err(|source| TraceError::File {
        path: path.to_owned(),
        source,
    })?;
    if path.extension().is_some_and(|ending| ending == "gz") {
        jobs(path, MultiGzDecoder::new(opened))
    } else {
        jobs(path, opened)
    }
}

fn jobs(path: &Path, plain: impl Read) -> Result<Vec<TraceJob>, TraceError> {
    let wrong = |error: csv::Error| TraceError::File {
        path: path.to_owned(),
        source: error.into(),
    };
    let mut rows = ReaderBuilder::new()
        .flexible(true)
        .trim(Trim::All)
        .from_reader(plain);
    let columns = Columns::of(path, rows.headers().map_err(wrong)?)?;
    let mut jobs = Vec::new();
    for row in rows.records() {
        jobs.push(columns.job(path, &row.map_err(wrong)?)?);
    }
    jobs.sort_by_key(|job: &TraceJob| job.submit);
    Ok(jobs)
}

/// Where each column stands.
struct Columns {
    id: usize,
    submit: usize,
    gpus: usize,
    duration: usize,
    user: Option<usize>,
    vc: Option<usize>,
    name: Option<usize>,
    limit: Option<usize>,
}

impl Columns {
    fn of(path: &Path, names: &StringRecord) -> Result<Self, TraceError> {
        let find = |wanted: &str| names.iter().position(|name| name == wanted);
        let must = |wanted| find(wanted).ok_or_else(|| TraceError::Column(path.to_owned(), wanted));
        Ok(Self {
            id: must("job_id")?,
            submit: must("submit_time_s")?,
            gpus: must("gpus")?,
            duration: must("duration_s")?,
            user: find("user"),
            vc: find("vc"),
            name: find("name"),
            limit: find("walltime_s"),
        })
    }

    fn job(&self, path: &Path, row: &StringRecord) -> Result<TraceJob, TraceError> {
        let text_of = |column: Option<usize>| {
            let field = column.and_then(|column| row.get(column));
            field.unwrap_or_default().to_owned()
        };
        let number = |column: usize, name: &'static str| {
            let field = row.get(column).unwrap_or_default();
            whole(field).ok_or_else(|| TraceError::Value {
                path: path.to_owned(),
                line: row.position().map_or(0, csv::Position::line),
                column: name,
                value: field.to_owned(),
            })
        };
        let duration = number(self.duration, "duration_s")?.max(0);
        // One that has no limit in a trace where others have.
        let limit = self.limit.filter(|limit| row.get(*limit) != Some(""));
        let limit = match limit {
            Some(column) => number(column, "walltime_s")?,
            None => 0,
        };
        Ok(TraceJob {
            id: number(self.id, "job_id")?.unsigned_abs(),
            submit: number(self.submit, "submit_time_s")?,
            user: text_of(self.user),
            vc: text_of(self.vc),
            name: text_of(self.name),
            gpus: u32::try_from(number(self.gpus, "gpus")?).unwrap_or(0),
            nodes: 0,
            preemptible: None,
            priority: 0,
            duration,
            limit,
        })
    }
}

/// A number, to the next whole one.
fn whole(field: &str) -> Option<i64> {
    let whole = field.parse().ok();
    whole.or_else(|| {
        let number: f64 = field.parse().ok()?;
        // Of a finite number without decimals the text is the integer's.
        format!("{:.0}", number.round()).parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<TraceJob>, TraceError> {
        jobs(Path::new("trace.csv"), text.as_bytes())
    }

    #[test]
    fn numbers_may_have_decimals_limits_may_be_missing_and_names_may_have_commas() {
        let text = "job_id,submit_time_s,name,gpus,duration_s,walltime_s\n2, 7.6 ,\"train, all\",8,3600.0,\n1,5,eval,1,60,120.4\n\n";
        let jobs = of(text).unwrap();
        let told = jobs
            .iter()
            .map(|job| (job.id, job.submit, job.duration, job.limit));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [(1, 5, 60, 120), (2, 8, 3_600, 0)]
        );
        assert_eq!(jobs[1].name, "train, all");
    }

    #[test]
    fn what_is_no_number_is_named_with_its_line_and_column() {
        for (value, told) in [("NaN", "NaN"), ("soon", "soon"), ("", "")] {
            let text = format!("job_id,submit_time_s,gpus,duration_s\n1,1,1,1\n2,2,1,{value}\n");
            let error = of(&text).unwrap_err().to_string();
            let words =
                format!("line 3 of trace.csv: duration_s is '{told}', which is not a number");
            assert_eq!(error, words);
        }
    }
}
