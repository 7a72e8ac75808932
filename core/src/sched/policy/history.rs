//! What is known of jobs like this one, learnt as they end.
//!
//! Owns classes, of which those of nobody's jobs are forgotten when there are too many, the longest unused first: the finest (user, project, name pattern, GPUs), then the GPUs alone, then nothing, for which
//! attained service in four queues stands in. Never sees a duration before the job has ended.

use std::collections::{BTreeMap, VecDeque};

use super::{
    config::Seconds,
    dense::{Table as Rows, dense},
    gittins::Table,
};

dense!(
    /// A class of jobs that are alike.
    ClassIx
);

/// So many ends make a class of its own worth believing.
const ENOUGH: usize = 30;
/// Older ends are forgotten: habits change.
const REMEMBERED: usize = 1_000;
/// So many classes finer than a width are kept, and as many more as there are jobs of: names are free, and users make up ever
/// new ones.
const MOST: usize = 4_096;
/// Borders of the four queues, in seconds of a GPU, and where the last would end.
const QUEUES: [f64; 4] = [3_600.0, 28_800.0, 230_400.0, 1_843_200.0];

/// What makes jobs alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One user's jobs of one name and width in one project.
    Own(String, String, String, u32),
    /// Jobs of about this width: as a power of two.
    Width(u32),
}

impl Kind {
    /// The kinds of a job, the finest first. Digits in a name are taken for counters.
    #[must_use]
    pub fn of(user: &str, project: &str, name: &str, gpus: u32) -> [Self; 2] {
        let mut pattern = String::new();
        for letter in name.chars() {
            let shown = if letter.is_ascii_digit() { '#' } else { letter };
            if shown != '#' || !pattern.ends_with('#') {
                pattern.push(shown);
            }
        }
        let own = Self::Own(user.to_owned(), project.to_owned(), pattern, gpus);
        [own, Self::Width(width(gpus))]
    }
}

/// Like widths share a class.
fn width(gpus: u32) -> u32 {
    gpus.checked_next_power_of_two().unwrap_or(u32::MAX)
}

#[derive(Clone, Debug, Default)]
struct Class {
    times: VecDeque<Seconds>,
    /// Ends since the table was made.
    fresh: usize,
    table: Option<Table>,
    /// What stands in for it while it is small.
    wider: Option<ClassIx>,
    /// By which it is known; none of one that is forgotten.
    kind: Option<Kind>,
    /// Jobs of it that are known, whether they wait or run.
    jobs: usize,
    /// Among those of nobody's jobs, when it was used last.
    used: u64,
    /// Rises with each new table.
    version: u32,
}

/// All classes.
#[derive(Clone, Debug, Default)]
pub struct History {
    classes: Rows<ClassIx, Class>,
    known: BTreeMap<Kind, ClassIx>,
    /// Classes of nobody's jobs, the longest unused first.
    idle: BTreeMap<u64, ClassIx>,
    /// Counts uses.
    uses: u64,
    vacant: Vec<ClassIx>,
}

impl History {
    /// The class of such jobs.
    pub fn class(&mut self, user: &str, project: &str, name: &str, gpus: u32) -> ClassIx {
        let [own, width] = Kind::of(user, project, name, gpus);
        let wider = self.of_kind(width, None);
        // Nothing but the width is known: there is nothing finer.
        if user.is_empty() && project.is_empty() && name.is_empty() {
            return wider;
        }
        self.of_kind(own, Some(wider))
    }

    fn of_kind(&mut self, kind: Kind, wider: Option<ClassIx>) -> ClassIx {
        if let Some(known) = self.known.get(&kind).copied() {
            self.touch(known);
            return known;
        }
        while wider.is_some() && self.known.len() >= MOST {
            let Some((_, oldest)) = self.idle.pop_first() else {
                break;
            };
            let class = std::mem::take(&mut self.classes[oldest]);
            class.kind.map(|kind| self.known.remove(&kind));
            self.vacant.push(oldest);
        }
        let class = Class {
            wider,
            kind: Some(kind.clone()),
            ..Class::default()
        };
        let ix = match self.vacant.pop() {
            Some(ix) => {
                self.classes[ix] = class;
                ix
            }
            None => self.classes.push(class),
        };
        self.known.insert(kind, ix);
        self.touch(ix);
        ix
    }

    /// One more job of the class is known: it is kept as long as there is one.
    pub fn join(&mut self, class: ClassIx) {
        let row = &mut self.classes[class];
        row.jobs += 1;
        self.idle.remove(&row.used);
    }

    /// One less.
    pub fn part(&mut self, class: ClassIx) {
        let row = &mut self.classes[class];
        row.jobs = row.jobs.saturating_sub(1);
        self.touch(class);
    }

    fn touch(&mut self, ix: ClassIx) {
        let class = &mut self.classes[ix];
        if class.jobs > 0 || class.wider.is_none() {
            return;
        }
        self.idle.remove(&class.used);
        self.uses += 1;
        class.used = self.uses;
        self.idle.insert(self.uses, ix);
    }

    /// A job of the class has ended after running for so long.
    pub fn ended(&mut self, class: ClassIx, ran: Seconds) {
        self.touch(class);
        let mut next = Some(class);
        while let Some(ix) = next {
            let class = &mut self.classes[ix];
            class.learn(ran);
            next = class.wider;
        }
    }

    /// The finest class that is known well enough, and its table.
    fn known(&self, class: ClassIx) -> Option<&Table> {
        let mut next = Some(class);
        while let Some(ix) = next {
            let class = &self.classes[ix];
            if class.table.is_some() {
                return class.table.as_ref();
            }
            next = class.wider;
        }
        None
    }

    /// The rank of a job of the class on so many GPUs, after running for so long: GPU-seconds, lower first.
    #[must_use]
    pub fn rank(&self, class: ClassIx, gpus: u32, ran: Seconds, stoppable: bool) -> f64 {
        let many = f64::from(gpus.max(1));
        match self.known(class) {
            Some(table) if stoppable => many * table.rank(ran),
            Some(table) => many * 2.0 * table.mean(ran),
            None => attained(gpus, ran),
        }
    }

    /// How many ends a class is known by, and whether they are of jobs that are alike in more than their width.
    #[must_use]
    pub fn basis(&self, class: ClassIx) -> Option<(usize, bool)> {
        let mut next = Some(class);
        while let Some(ix) = next {
            let class = &self.classes[ix];
            if class.table.is_some() {
                return Some((class.times.len(), class.wider.is_some()));
            }
            next = class.wider;
        }
        None
    }

    /// How long such a job still runs by the median, as far as that is known; what is added up to how long it has run stays
    /// the same until it is late.
    #[must_use]
    pub fn median_left(&self, class: ClassIx, ran: Seconds) -> Option<Seconds> {
        self.known(class)?.median_left(ran)
    }

    /// How long such a job still runs in 10, 50 and 90 % of cases, as far as that is known.
    #[must_use]
    pub fn left(&self, class: ClassIx, ran: Seconds) -> Option<[f64; 3]> {
        self.known(class).map(|table| table.left(ran))
    }
}

/// The rank by GPU time that was attained on so many GPUs, in four queues: all in one rank alike.
pub(super) fn attained(gpus: u32, ran: Seconds) -> f64 {
    queue(f64::from(gpus.max(1)) * as_float(ran))
}

fn queue(attained: f64) -> f64 {
    let [.., last] = QUEUES;
    let border = QUEUES.into_iter().find(|border| attained < *border);
    border.unwrap_or(last)
}

pub(super) fn as_float(value: Seconds) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
    let float = value as f64;
    float
}

impl Class {
    fn learn(&mut self, ran: Seconds) {
        self.times.push_back(ran);
        if self.times.len() > REMEMBERED {
            self.times.pop_front();
        }
        self.fresh += 1;
        let due = self.fresh * 8 >= self.times.len();
        if self.times.len() >= ENOUGH && (due || self.table.is_none()) {
            self.fresh = 0;
            self.version += 1;
            self.table = Some(Table::of(self.times.make_contiguous()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_class_leans_on_its_width_and_that_on_attained_service() {
        let mut history = History::default();
        let rare = history.class("ann", "vision", "run-17", 8);
        assert_eq!(
            rare,
            history.class("ann", "vision", "run-2", 8),
            "a counter"
        );
        assert!(
            (history.rank(rare, 8, 0, true) - 3_600.0).abs() < 1e-9,
            "nothing known"
        );
        let common = history.class("bob", "vision", "x", 8);
        for _ in 0..ENOUGH {
            history.ended(common, 100);
        }
        assert!(
            history.rank(rare, 8, 0, true) < 1_000.0,
            "as others of its width"
        );
        for _ in 0..ENOUGH {
            history.ended(rare, 50_000);
        }
        assert!(
            history.rank(rare, 8, 0, true) > 100_000.0,
            "it is known by itself now"
        );
    }

    #[test]
    fn of_more_classes_than_are_kept_the_longest_unused_are_forgotten_and_none_of_a_job_that_is_known()
     {
        let mut history = History::default();
        let of = |history: &mut History, number: usize| {
            // Digits would be one name.
            let name: String = format!("{number:06}")
                .bytes()
                .map(|digit| char::from(digit + b'a' - b'0'))
                .collect();
            history.class("ann", "vision", &name, 1)
        };
        let kept = of(&mut history, 0);
        history.join(kept);
        let old = of(&mut history, 1);
        for _ in 0..ENOUGH {
            history.ended(kept, 100);
            history.ended(old, 50_000);
        }
        assert_eq!(history.basis(old), Some((ENOUGH, true)));
        for number in 2..3 * MOST {
            let class = of(&mut history, number);
            history.ended(class, 7);
        }
        assert!(history.known.len() <= MOST && history.classes.len() <= MOST + 1);
        assert_eq!(of(&mut history, 0), kept);
        assert_eq!(history.basis(kept), Some((ENOUGH, true)));
        let anew = of(&mut history, 1);
        let basis = history.basis(anew).unwrap();
        assert!(!basis.1, "it is known by its width alone: {basis:?}");
        history.part(kept);
        for number in 3 * MOST..5 * MOST {
            of(&mut history, number);
        }
        let anew = of(&mut history, 0);
        assert!(!history.basis(anew).unwrap().1);
    }
}
