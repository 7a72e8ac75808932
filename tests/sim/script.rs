//! What the simulation's trainers do: it stands in their arguments, as that of real ones.
//!
//! Pure. Drawn by the plan, read by the yard, and known to the check.

/// How a trainer ends that nobody stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Finish {
    /// After its last epoch.
    #[default]
    Done,
    /// It never does: it has said all, and goes on.
    Never,
    /// The kernel kills it for memory after its first epoch. A command has no batch that could be halved.
    NoMemory,
}

impl Finish {
    fn word(self) -> Option<String> {
        match self {
            Self::Done => None,
            Self::Never => Some("never".to_owned()),
            Self::NoMemory => Some("no-memory".to_owned()),
        }
    }

    fn of(word: &str) -> Option<Self> {
        match word {
            "never" => Some(Self::Never),
            "no-memory" => Some(Self::NoMemory),
            _ => None,
        }
    }
}

/// What a trainer does, as its arguments say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) epochs: u32,
    /// Of an epoch.
    pub(crate) millis: u64,
    pub(crate) code: i32,
    /// Ends of SIGKILL only.
    pub(crate) stubborn: bool,
    /// After so many epochs there is a checkpoint in the store; 0 is never.
    pub(crate) saves: u32,
    pub(crate) finish: Finish,
}

impl Script {
    pub(crate) fn argv(&self) -> Vec<String> {
        let parts = [
            self.epochs.to_string(),
            self.millis.to_string(),
            self.code.to_string(),
            self.stubborn.to_string(),
            self.saves.to_string(),
        ];
        std::iter::once("simulated-trainer".to_owned())
            .chain(parts)
            .chain(self.finish.word())
            .collect()
    }

    pub(crate) fn of(argv: &[String]) -> Option<Self> {
        let [_, epochs, millis, code, stubborn, saves, rest @ ..] = argv else {
            return None;
        };
        let finish = match rest {
            [] => Finish::Done,
            [word, ..] => Finish::of(word)?,
        };
        Some(Self {
            epochs: epochs.parse().ok()?,
            millis: millis.parse().ok()?,
            code: code.parse().ok()?,
            stubborn: stubborn.parse().ok()?,
            saves: saves.parse().ok()?,
            finish,
        })
    }

    /// What it writes at the end of an epoch.
    pub(crate) fn line(epoch: u32) -> String {
        format!("epoch {epoch} is done")
    }

    /// The epoch of such a line.
    pub(crate) fn epoch_in(line: &str) -> Option<u32> {
        line.split(' ').nth(1)?.parse().ok()
    }

    /// Whether it saves what it has after this epoch.
    pub(crate) fn saves_after(&self, epoch: u32) -> bool {
        self.saves > 0 && epoch > 0 && epoch.is_multiple_of(self.saves)
    }

    /// Where that checkpoint is.
    pub(crate) fn checkpoint(job: u64, epoch: u32) -> String {
        format!("yard://{job}/{epoch}")
    }

    /// After which epoch a checkpoint was made.
    pub(crate) fn epoch_of(checkpoint: &str) -> Option<u32> {
        checkpoint.rsplit_once('/')?.1.parse().ok()
    }
}
