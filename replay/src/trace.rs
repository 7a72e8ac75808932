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
    /// Its number in the source, or one that is made of its name there.
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
    /// How long its user said that it may run; 0 where there is no limit.
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
    /// A job without a name.
    #[error("line {line} of {path}: job_id is empty; give each job a number or a text of its own")]
    Nameless {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: u64,
    },
    /// A number that no job has.
    #[error(
        "line {line} of {path}: {column} is {value}, and a replay takes {least} to {most}{hint}"
    )]
    Range {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: u64,
        /// Which column.
        column: &'static str,
        /// What stands there.
        value: i64,
        /// The least that is taken.
        least: i64,
        /// The most that is taken.
        most: i64,
        /// What to do about it.
        hint: &'static str,
    },
}

/// No job runs for longer than a hundred years.
const LONGEST: i64 = 36_525 * 86_400;

/// What a column may hold, and what to do about what it may not.
struct Limits {
    least: i64,
    most: i64,
    hint: &'static str,
}

const SUBMITS: Limits = Limits {
    least: -10 * LONGEST,
    most: 10 * LONGEST,
    hint: " seconds; write it in seconds",
};

const GPUS: Limits = Limits {
    least: 1,
    most: 1_000_000,
    hint: " GPUs; leave jobs without GPUs out",
};

const DURATIONS: Limits = Limits {
    least: 0,
    most: LONGEST,
    hint: " seconds (a hundred years); write it in seconds, or leave the job out",
};

/// What is below 0 says that it is not known, as in other formats.
const TIME_LIMITS: Limits = Limits {
    least: i64::MIN,
    most: LONGEST,
    hint: " seconds (a hundred years); leave it empty where there is no limit",
};

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
                line: line_of(row),
                column: name,
                value: field.to_owned(),
            })
        };
        let within = |column: usize, name: &'static str, limits: &Limits| {
            let value = number(column, name)?;
            if (limits.least..=limits.most).contains(&value) {
                return Ok(value);
            }
            Err(limits.refuse(path, line_of(row), name, value))
        };
        // One that has no limit in a trace where others have; a line may end before its column.
        let says = |limit: &usize| row.get(*limit).is_some_and(|field| !field.is_empty());
        let limit = self.limit.filter(says);
        let limit = match limit {
            Some(column) => within(column, "walltime_s", &TIME_LIMITS)?.max(0),
            None => 0,
        };
        let gpus = within(self.gpus, "gpus", &GPUS)?;
        let id = row.get(self.id).and_then(id_of);
        Ok(TraceJob {
            id: id.ok_or_else(|| TraceError::Nameless {
                path: path.to_owned(),
                line: line_of(row),
            })?,
            submit: within(self.submit, "submit_time_s", &SUBMITS)?,
            user: text_of(self.user),
            vc: text_of(self.vc),
            name: text_of(self.name),
            gpus: u32::try_from(gpus).unwrap_or(u32::MAX),
            nodes: 0,
            preemptible: None,
            priority: 0,
            duration: within(self.duration, "duration_s", &DURATIONS)?,
            limit,
        })
    }
}

fn line_of(row: &StringRecord) -> u64 {
    row.position().map_or(0, csv::Position::line)
}

impl Limits {
    fn refuse(&self, path: &Path, line: u64, column: &'static str, value: i64) -> TraceError {
        TraceError::Range {
            path: path.to_owned(),
            line,
            column,
            value,
            least: self.least,
            most: self.most,
            hint: self.hint,
        }
    }
}

/// A job's number; where it has none one that the same text has in each version.
fn id_of(field: &str) -> Option<u64> {
    if let Some(number) = whole(field) {
        return Some(number.unsigned_abs());
    }
    let hash = blake3::hash(field.as_bytes());
    let first = hash.as_bytes().first_chunk().copied();
    first.map(u64::from_le_bytes).filter(|_| !field.is_empty())
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
pub(crate) mod sample {
    use super::TraceJob;

    /// A job of nobody's without a limit.
    pub(crate) fn job(id: u64, submit: i64, gpus: u32, duration: i64) -> TraceJob {
        TraceJob {
            id,
            submit,
            user: String::new(),
            vc: String::new(),
            name: String::new(),
            gpus,
            nodes: 0,
            preemptible: None,
            priority: 0,
            duration,
            limit: 0,
        }
    }
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
    fn a_line_may_end_before_the_limit_that_it_does_not_have() {
        let text = "job_id,submit_time_s,gpus,duration_s,walltime_s\n1,5,1,60\n2,6,1,60,120\n";
        let limits: Vec<i64> = of(text).unwrap().iter().map(|job| job.limit).collect();
        assert_eq!(limits, [0, 120]);
        let short = of("job_id,submit_time_s,gpus,duration_s\n1,5,1\n").unwrap_err();
        assert!(short.to_string().contains("duration_s is ''"), "{short}");
    }

    #[test]
    fn a_job_may_be_named_by_a_text_and_has_the_same_number_for_it_wherever_it_is_read() {
        let ids = |rows: &str| {
            let text = format!("job_id,submit_time_s,gpus,duration_s\n{rows}");
            of(&text).map(|jobs| jobs.iter().map(|job| job.id).collect::<Vec<_>>())
        };
        let text = ids("application_1506638472019_10258,1,1,1\n7,2,1,1\nab-12,3,1,1\n").unwrap();
        // Which ones may be stopped is drawn by these numbers: they must not be others in another version.
        assert_eq!(
            text,
            [7_180_482_728_506_618_837, 7, 1_824_829_487_466_406_066]
        );
        let words = ids("1,1,1,1\n,2,1,1\n").unwrap_err().to_string();
        assert!(
            words.starts_with("line 3 of trace.csv: job_id is empty"),
            "{words}"
        );
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

    #[test]
    fn a_number_that_no_job_has_is_refused_with_its_line_and_column() {
        let century = LONGEST.to_string();
        let refused = [
            (
                "1,0,4000000000,1,",
                "gpus is 4000000000, and a replay takes 1 to 1000000 GPUs",
            ),
            ("1,0,-8,1,", "gpus is -8, and"),
            (
                "1,0,0,1,",
                "gpus is 0, and a replay takes 1 to 1000000 GPUs; leave jobs without GPUs out",
            ),
            ("1,0,1000001,1,", "gpus is 1000001, and"),
            (
                "1,0,1,9223372036854775807,",
                "duration_s is 9223372036854775807, and a replay takes 0 to 3155760000 seconds",
            ),
            ("1,0,1,-1,", "duration_s is -1, and"),
            ("1,0,1,3155760001,", "duration_s is 3155760001, and"),
            ("1,0,1,1,3155760001", "walltime_s is 3155760001, and"),
            (
                "1,9223372036854775807,1,1,",
                "submit_time_s is 9223372036854775807, and",
            ),
            (
                "1,-9223372036854775807,1,1,",
                "submit_time_s is -9223372036854775807, and",
            ),
        ];
        let head = "job_id,submit_time_s,gpus,duration_s,walltime_s\n";
        for (row, told) in refused {
            let words = of(&format!("{head}0,0,1,1,1\n{row}\n"))
                .unwrap_err()
                .to_string();
            assert!(
                words.starts_with(&format!("line 3 of trace.csv: {told}")),
                "{words}"
            );
        }
        let most =
            format!("{head}1,-31557600000,1,0,-1\n2,31557600000,1000000,{century},{century}\n");
        let jobs = of(&most).unwrap();
        let told = jobs.iter().map(|job| (job.gpus, job.duration, job.limit));
        let wanted = [(1, 0, 0), (1_000_000, LONGEST, LONGEST)];
        assert_eq!(told.collect::<Vec<_>>(), wanted);
    }
}
