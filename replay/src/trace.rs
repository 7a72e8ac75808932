//! A trace: jobs of the past, in the columns of the public suites.
//!
//! Owns the format and nothing else; says in which line what is wrong.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

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
    #[error("line {line} of {path}: {column} is '{value}', which is not a whole number")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: usize,
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
    let file = |source| TraceError::File {
        path: path.to_owned(),
        source,
    };
    let opened = File::open(path).map_err(file)?;
    let packed = path.extension().is_some_and(|ending| ending == "gz");
    let plain: Box<dyn Read> = if packed {
        Box::new(MultiGzDecoder::new(opened))
    } else {
        Box::new(opened)
    };
    let mut lines = BufReader::new(plain).lines();
    let header = lines.next().transpose().map_err(file)?.unwrap_or_default();
    let columns = Columns::of(path, &header)?;
    let mut jobs = Vec::new();
    for (line, text) in (2..).zip(lines) {
        let text = text.map_err(file)?;
        if !text.trim().is_empty() {
            jobs.push(columns.job(path, line, &text)?);
        }
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
    fn of(path: &Path, header: &str) -> Result<Self, TraceError> {
        let names: Vec<&str> = header.split(',').map(str::trim).collect();
        let find = |wanted: &str| names.iter().position(|name| *name == wanted);
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

    fn job(&self, path: &Path, line: usize, text: &str) -> Result<TraceJob, TraceError> {
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        let text_of = |column: Option<usize>| {
            let field = column.and_then(|column| fields.get(column));
            field.copied().unwrap_or_default().to_owned()
        };
        let number = |column: usize, name: &'static str| {
            let field = fields.get(column).copied().unwrap_or_default();
            field.parse::<i64>().map_err(|_unparsed| TraceError::Value {
                path: path.to_owned(),
                line,
                column: name,
                value: field.to_owned(),
            })
        };
        let duration = number(self.duration, "duration_s")?.max(0);
        let limit = match self.limit {
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
