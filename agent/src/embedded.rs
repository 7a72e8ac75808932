//! The trainers and the Python SDK that travel inside the binary, and their copies in the data
//! folder. Never changes a copy once it stands and never runs one. Called when the agent starts and
//! by its job runner.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "../trainers/"]
#[exclude = "*.pyc"]
#[exclude = "*__pycache__/*"]
#[exclude = "*_cache/*"]
#[exclude = "*.venv/*"]
#[exclude = "tests/*"]
#[exclude = "*/tests/*"]
struct Trainers;

#[derive(RustEmbed)]
#[folder = "../sdk/python/"]
#[exclude = "*.pyc"]
#[exclude = "*__pycache__/*"]
#[exclude = "*_cache/*"]
#[exclude = "*.venv/*"]
#[exclude = "tests/*"]
#[exclude = "*/tests/*"]
struct Sdk;

/// Paths and bytes of one embedded folder, by path.
type Files = BTreeMap<String, Cow<'static, [u8]>>;

/// Why the embedded files could not be laid down.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// A file or folder could not be written or moved.
    #[error("cannot {action} {}: {source}; check the data folder's permissions and free disk space", path.display())]
    File {
        /// What was tried: `create`, `write`, `rename`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl ExtractError {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

/// Where the embedded files stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// Holds one folder for each framework.
    pub trainers_dir: PathBuf,
    /// Goes on PYTHONPATH: holds `trainyard_sdk`.
    pub sdk_dir: PathBuf,
}

impl Extracted {
    /// The folder of the trainer for `framework`: the one in `override_dir` if it is there, else
    /// the embedded one. None where neither is there, or where the name could lead out of them.
    pub fn trainer(&self, framework: &str, override_dir: Option<&Path>) -> Option<PathBuf> {
        if !is_plain(framework) {
            return None;
        }
        override_dir
            .into_iter()
            .chain([self.trainers_dir.as_path()])
            .map(|folder| folder.join(framework))
            .find(|path| path.is_dir())
    }
}

/// One path component that is no hidden file.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(['/', '\\', '\0'])
        && !name.contains("..")
}

/// Lays the embedded trainers and SDK down in `data_dir`, each under the hash of its content. What
/// stands there already is kept; blocks on the disk.
pub fn extract(data_dir: &Path) -> Result<Extracted, ExtractError> {
    Ok(Extracted {
        trainers_dir: lay_down(&data_dir.join("trainers"), &files::<Trainers>())?,
        sdk_dir: lay_down(&data_dir.join("sdk"), &files::<Sdk>())?,
    })
}

fn files<E: RustEmbed>() -> Files {
    E::iter()
        .filter_map(|path| Some((path.to_string(), E::get(&path)?.data)))
        .collect()
}

fn content_hash(files: &Files) -> String {
    let mut hasher = blake3::Hasher::new();
    for (path, bytes) in files {
        for part in [path.as_bytes(), bytes] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Writes `files` beside their place and renames them there at once.
fn lay_down(parent: &Path, files: &Files) -> Result<PathBuf, ExtractError> {
    let hash = content_hash(files);
    let place = parent.join(&hash);
    if place.is_dir() {
        return Ok(place);
    }
    let new = parent.join(format!(".new-{hash}-{:016x}", rand::random::<u64>()));
    let moved = write_all(&new, files).and_then(|()| match fs::rename(&new, &place) {
        // Another process was faster: its copy is the same.
        Err(_) if place.is_dir() => Ok(false),
        result => result
            .map(|()| true)
            .map_err(ExtractError::file("rename", &new)),
    });
    if !matches!(moved, Ok(true))
        && let Err(error) = fs::remove_dir_all(&new)
    {
        tracing::debug!(path = %new.display(), %error, "a half-written copy stays");
    }
    moved.map(|_| place)
}

fn write_all(folder: &Path, files: &Files) -> Result<(), ExtractError> {
    fs::create_dir_all(folder).map_err(ExtractError::file("create", folder))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(ExtractError::file("create", parent))?;
        // Synced, so that after a power cut no copy stands whole in name only.
        File::create(&path)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .map_err(ExtractError::file("write", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trainers_and_sdk_are_laid_down_whole() {
        let data = tempfile::tempdir().unwrap();
        let extracted = extract(data.path()).unwrap();
        let trainer = extracted.trainer("sklearn", None).unwrap();
        assert!(trainer.starts_with(data.path().join("trainers")));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainers/sklearn");
        for name in ["train.py", "pyproject.toml", "uv.lock", "capabilities.json"] {
            let copy = fs::read(trainer.join(name)).unwrap();
            assert_eq!(copy, fs::read(source.join(name)).unwrap(), "{name}");
        }
        assert!(
            extracted
                .sdk_dir
                .join("trainyard_sdk/__init__.py")
                .is_file()
        );
    }

    #[test]
    fn no_caches_environments_or_tests_are_embedded() {
        for path in files::<Trainers>().keys().chain(files::<Sdk>().keys()) {
            let parts: Vec<_> = path.split('/').collect();
            for part in ["__pycache__", ".venv", "tests"] {
                assert!(!parts.contains(&part), "{path}");
            }
            assert!(!path.ends_with(".pyc"), "{path}");
            // Those of tools, such as .mypy_cache.
            assert!(!path.contains("_cache/"), "{path}");
        }
    }

    #[test]
    fn a_second_extract_changes_nothing() {
        let data = tempfile::tempdir().unwrap();
        let first = extract(data.path()).unwrap();
        let mark = first.trainers_dir.join("mark");
        fs::write(&mark, "").unwrap();
        assert_eq!(extract(data.path()).unwrap(), first);
        assert!(mark.exists());
    }

    #[test]
    fn many_at_once_agree_and_leave_no_halves() {
        let data = tempfile::tempdir().unwrap();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| extract(data.path())))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap().unwrap())
                .collect()
        });
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
        for kind in ["trainers", "sdk"] {
            assert_eq!(fs::read_dir(data.path().join(kind)).unwrap().count(), 1);
        }
    }

    #[test]
    fn the_operators_trainer_goes_before_the_embedded_one() {
        let data = tempfile::tempdir().unwrap();
        let own = tempfile::tempdir().unwrap();
        fs::create_dir(own.path().join("mine")).unwrap();
        fs::create_dir(own.path().join("sklearn")).unwrap();
        let extracted = extract(data.path()).unwrap();
        let find = |name| extracted.trainer(name, Some(own.path()));
        assert_eq!(find("mine"), Some(own.path().join("mine")));
        assert_eq!(find("sklearn"), Some(own.path().join("sklearn")));
        let embedded = extracted.trainers_dir.join("ultralytics");
        assert_eq!(find("ultralytics"), Some(embedded));
        assert_eq!(find("nothing"), None);
    }

    #[test]
    fn a_name_that_leads_elsewhere_finds_nothing() {
        let data = tempfile::tempdir().unwrap();
        let extracted = extract(data.path()).unwrap();
        for name in [
            "",
            ".",
            "..",
            "../sdk",
            "/etc",
            "sklearn/",
            "a/../sklearn",
            ".hidden",
        ] {
            assert_eq!(extracted.trainer(name, None), None, "{name:?}");
        }
    }

    #[test]
    fn a_data_folder_that_cannot_be_written_is_named() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("file");
        fs::write(&file, "").unwrap();
        let error = extract(&file).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        assert!(error.contains("permissions"), "{error}");
    }
}
