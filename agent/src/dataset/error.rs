//! Why a dataset cannot be shown, and whose fault that is.

use trainyard_core::{
    dataset::DatasetError,
    snapshot::Snapshot,
    task::{Failure, Fault},
};

/// Why there is no view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// A file is not what the snapshot says.
    #[error("'{path}' {how}")]
    Changed {
        /// The first such file, relative to the dataset.
        path: String,
        /// In what it differs.
        how: String,
    },
    /// The dataset itself is wrong, or a path that it names is refused.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The network, the coordinator or the store.
    #[error("{0}")]
    Infrastructure(String),
    /// This node: its disk.
    #[error("{0}")]
    Node(String),
}

impl FetchError {
    /// In the words that the job's owner reads.
    #[must_use]
    pub fn failure(self, snapshot: &Snapshot) -> Failure {
        let (id, dataset) = (&snapshot.id, &snapshot.dataset_id);
        let fetched =
            |error| format!("dataset '{dataset}' (snapshot {id}) cannot be fetched: {error}");
        match self {
            Self::Changed { path, how } => Failure {
                error: format!(
                    "dataset '{dataset}' has changed since snapshot {id} was made: '{path}' {how}; submit the job again to train on what is there now"
                ),
                fault: Fault::Job,
            },
            Self::Dataset(error) => Failure {
                error: format!("dataset '{dataset}' cannot be used: {error}"),
                fault: Fault::Job,
            },
            Self::Infrastructure(error) => Failure {
                error: fetched(error),
                fault: Fault::Shared,
            },
            Self::Node(error) => Failure {
                error: fetched(error),
                fault: Fault::Node,
            },
        }
    }
}
