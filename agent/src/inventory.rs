//! What this node has: processors, memory, GPUs, and who it is. Never changes anything on the node
//! and never decides what runs. Called when the agent starts, before it registers.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

const GIB: u64 = 1 << 30;
/// More GPUs than any node has; keeps a slip of the finger from filling the memory.
const MOST_SIMULATED: usize = 1024;
const EXAMPLE: &str = "2xA100-40GB,1xT4-16GB";

/// What the operator has asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// CPU slots to offer; without it as many as processors.
    pub slots: Option<u32>,
    /// GPUs to pretend to have. When given, real ones are not looked for.
    pub simulated_gpus: Option<Vec<SimulatedGpu>>,
    /// The node's name in the ids of simulated GPUs; without it the host's name.
    pub node: Option<String>,
}

/// A GPU to pretend to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedGpu {
    /// Such as `H100`.
    pub model: String,
    /// Its memory; 1 GB is 2^30 bytes, as on the box.
    pub memory_bytes: u64,
}

/// A GPU, real or simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As the driver names it, or `GPU-SIM-<node>-<n>`.
    pub uuid: String,
    /// As the driver names it.
    pub model: String,
    /// All of its memory.
    pub memory_bytes: u64,
}

/// What a node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// CPU slots: as many as the operator wants, else the processors that this process may use; at
    /// least 1.
    pub cpus: u32,
    /// The machine's memory or the cgroup's limit, whichever is less; 0 where unknown.
    pub memory_bytes: u64,
    /// In the driver's order.
    pub gpus: Vec<Gpu>,
    /// The host's name; `localhost` where unknown.
    pub hostname: String,
    /// Changes when the machine starts anew; empty where unknown.
    pub boot_id: String,
}

/// Why a list of simulated GPUs was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulatedGpusError {
    /// Nothing in the list.
    #[error("the list of simulated GPUs is empty; write it like {EXAMPLE}")]
    Empty,
    /// One piece is not understood.
    #[error("cannot read the simulated GPUs {piece:?}: {fault}; write them like {EXAMPLE}")]
    Piece {
        /// The piece as it was written.
        piece: String,
        /// What is wrong with it.
        fault: PieceFault,
    },
    /// More than a node may have.
    #[error("more than {MOST_SIMULATED} simulated GPUs on one node; ask for fewer, like {EXAMPLE}")]
    TooMany,
}

/// What is wrong with one piece of a list of simulated GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceFault {
    /// No whole number from 1 and an `x` at the start.
    Count,
    /// No model between the count and the memory.
    Model,
    /// No whole number from 1 and `GB` at the end.
    Memory,
}

impl fmt::Display for PieceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Count => "it must start with how many there are (1 or more) and an x",
            Self::Model => "the model must be letters, digits, '.', '_' or '-'",
            Self::Memory => "it must end with a dash and the memory of each in GB (1 or more)",
        })
    }
}

/// Reads `"4xH100-80GB"` or a list of such pieces with commas between.
pub fn parse_simulated_gpus(text: &str) -> Result<Vec<SimulatedGpu>, SimulatedGpusError> {
    if text.trim().is_empty() {
        return Err(SimulatedGpusError::Empty);
    }
    let mut gpus = Vec::new();
    for piece in text.split(',').map(str::trim) {
        let (count, gpu) = parse_piece(piece).map_err(|fault| SimulatedGpusError::Piece {
            piece: piece.to_owned(),
            fault,
        })?;
        if count > MOST_SIMULATED - gpus.len() {
            return Err(SimulatedGpusError::TooMany);
        }
        gpus.extend(std::iter::repeat_n(gpu, count));
    }
    Ok(gpus)
}

fn parse_piece(piece: &str) -> Result<(usize, SimulatedGpu), PieceFault> {
    let (count, rest) = piece.split_once(['x', 'X']).ok_or(PieceFault::Count)?;
    let count = count.parse().ok().filter(|count| *count > 0);
    let count = count.ok_or(PieceFault::Count)?;
    let (model, memory) = rest.rsplit_once('-').ok_or(PieceFault::Memory)?;
    let memory_bytes = memory
        .strip_suffix("GB")
        .and_then(|number| number.parse::<u64>().ok())
        .filter(|number| *number > 0)
        .and_then(|number| number.checked_mul(GIB))
        .ok_or(PieceFault::Memory)?;
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if model.is_empty() || !model.chars().all(is_fine) {
        return Err(PieceFault::Model);
    }
    let model = model.to_owned();
    Ok((
        count,
        SimulatedGpu {
            model,
            memory_bytes,
        },
    ))
}

/// Looks at this node. Never fails: what cannot be found out is left out, with a line in the log.
pub fn detect(options: Options) -> Inventory {
    detect_below(Path::new("/"), options)
}

fn detect_below(root: &Path, options: Options) -> Inventory {
    let hostname =
        read_word(&root.join("proc/sys/kernel/hostname")).unwrap_or_else(|| "localhost".to_owned());
    let node = options.node.unwrap_or_else(|| hostname.clone());
    let gpus = match options.simulated_gpus {
        Some(simulated) => simulate(&node, simulated),
        None => real_gpus(),
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let processors = u32::try_from(processors).unwrap_or(u32::MAX);
    Inventory {
        cpus: options.slots.unwrap_or(processors).max(1),
        memory_bytes: memory(root),
        gpus,
        boot_id: read_word(&root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default(),
        hostname,
    }
}

fn simulate(node: &str, simulated: Vec<SimulatedGpu>) -> Vec<Gpu> {
    simulated
        .into_iter()
        .enumerate()
        .map(|(n, gpu)| Gpu {
            uuid: format!("GPU-SIM-{node}-{n}"),
            model: gpu.model,
            memory_bytes: gpu.memory_bytes,
        })
        .collect()
}

/// The NVIDIA driver, where there is one that answers.
pub(crate) fn driver() -> Option<Nvml> {
    // The driver installs the library with its version; the plain name comes with developer files.
    let library = std::ffi::OsStr::new("libnvidia-ml.so.1");
    match Nvml::builder().lib_path(library).init() {
        Ok(nvml) => Some(nvml),
        Err(
            error @ (NvmlError::LibloadingError(_)
            | NvmlError::DriverNotLoaded
            | NvmlError::LibraryNotFound),
        ) => {
            tracing::info!(%error, "no NVIDIA driver: this node has no GPUs");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "the NVIDIA driver does not answer: no GPUs are offered");
            None
        }
    }
}

fn real_gpus() -> Vec<Gpu> {
    let Some(nvml) = driver() else {
        return Vec::new();
    };
    let count = nvml.device_count().unwrap_or_else(|error| {
        tracing::warn!(%error, "the NVIDIA driver does not count its GPUs: none are offered");
        0
    });
    (0..count)
        .filter_map(|index| {
            real_gpu(&nvml, index)
                .inspect_err(|error| tracing::warn!(index, %error, "a GPU is left out"))
                .ok()
        })
        .collect()
}

fn real_gpu(nvml: &Nvml, index: u32) -> Result<Gpu, NvmlError> {
    let device = nvml.device_by_index(index)?;
    Ok(Gpu {
        uuid: device.uuid()?,
        model: device.name()?,
        memory_bytes: device.memory_info()?.total,
    })
}

fn memory(root: &Path) -> u64 {
    let text = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let machine = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib.saturating_mul(1024));
    if machine.is_none() {
        tracing::warn!("/proc/meminfo does not tell the memory of this machine");
    }
    let found = machine.into_iter().chain(cgroup_limits(root)).min();
    found.unwrap_or(0)
}

/// The memory limits of this process's cgroup and all above it, of both cgroup versions.
fn cgroup_limits(root: &Path) -> Vec<u64> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut limits = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (top, file): (PathBuf, _) = if controllers.is_empty() {
            (root.join("sys/fs/cgroup"), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            let top = root.join("sys/fs/cgroup/memory");
            (top, "memory.limit_in_bytes")
        } else {
            continue;
        };
        let inner = top.join(path.trim_start_matches('/'));
        let folders = inner
            .ancestors()
            .take_while(|above| above.starts_with(&top));
        // "max" is no number and no limit.
        limits
            .extend(folders.filter_map(|above| read_word(&above.join(file))?.parse::<u64>().ok()));
    }
    limits
}

fn read_word(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let word = text.trim();
    (!word.is_empty()).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\n");

    #[test]
    fn this_machine_has_processors_memory_and_a_name() {
        let found = detect(Options::default());
        assert!(found.cpus >= 1);
        assert!(found.memory_bytes > 0);
        assert!(!found.hostname.is_empty());
        assert_eq!(found.boot_id.len(), 36, "{found:?}");
        for gpu in &found.gpus {
            assert!(gpu.uuid.starts_with("GPU-"), "{gpu:?}");
            assert!(gpu.memory_bytes > 0 && !gpu.model.is_empty(), "{gpu:?}");
        }
    }

    #[test]
    fn a_list_of_simulated_gpus_is_read_in_order() {
        let gpus = parse_simulated_gpus("2xA100-40GB, 1xRTX-4090-24GB").unwrap();
        let read: Vec<_> = gpus
            .iter()
            .map(|gpu| (gpu.model.as_str(), gpu.memory_bytes / GIB))
            .collect();
        assert_eq!(read, [("A100", 40), ("A100", 40), ("RTX-4090", 24)]);
        assert_eq!(parse_simulated_gpus("4xH100-80GB").unwrap().len(), 4);
    }

    #[test]
    fn a_bad_piece_is_named_with_an_example() {
        for (piece, fault) in [
            ("H100-80GB", PieceFault::Count),
            ("0xH100-80GB", PieceFault::Count),
            ("-1xH100-80GB", PieceFault::Count),
            ("4x-80GB", PieceFault::Model),
            ("4xH 100-80GB", PieceFault::Model),
            ("4xH100", PieceFault::Memory),
            ("4xH100-80", PieceFault::Memory),
            ("4xH100-0GB", PieceFault::Memory),
            ("4xH100-99999999999999GB", PieceFault::Memory),
            ("", PieceFault::Count),
        ] {
            let error = parse_simulated_gpus(&format!("1xT4-16GB,{piece}")).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("{piece:?}")), "{text}");
            assert!(text.contains(EXAMPLE), "{text}");
            let piece = piece.to_owned();
            assert_eq!(error, SimulatedGpusError::Piece { piece, fault });
        }
        assert_eq!(parse_simulated_gpus(" "), Err(SimulatedGpusError::Empty));
        let many = parse_simulated_gpus("1000xT4-16GB,1000xT4-16GB");
        assert_eq!(many, Err(SimulatedGpusError::TooMany));
    }

    #[test]
    fn simulated_gpus_carry_the_name_of_their_node() {
        let options = Options {
            simulated_gpus: Some(parse_simulated_gpus("2xH100-80GB").unwrap()),
            node: Some("n7".to_owned()),
            ..Options::default()
        };
        let found = detect(options);
        let uuids: Vec<_> = found.gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
        assert_eq!(uuids, ["GPU-SIM-n7-0", "GPU-SIM-n7-1"]);
    }

    #[test]
    fn the_operators_slots_go_before_the_number_of_processors() {
        let options = Options {
            slots: Some(3),
            simulated_gpus: Some(Vec::new()),
            node: None,
        };
        let found = detect(options);
        assert_eq!((found.cpus, found.gpus.len()), (3, 0));
    }

    #[test]
    fn the_least_limit_of_the_cgroups_above_counts() {
        let v2 = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "5000\n"),
        ]);
        assert_eq!(memory(v2.path()), 5000);
        let v1 = root(&[
            MEMINFO,
            ("proc/self/cgroup", "5:cpu,memory:/docker/x\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "7000\n"),
        ]);
        assert_eq!(memory(v1.path()), 7000);
    }

    #[test]
    fn without_a_lower_limit_the_memory_of_the_machine_counts() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "9223372036854771712\n"),
        ]);
        assert_eq!(memory(root.path()), 1000 * 1024);
    }
}
