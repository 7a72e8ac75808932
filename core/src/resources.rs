//! What nodes offer and jobs ask for, and the texts in which people write both.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One GPU of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// The driver's UUID, unique in the cluster.
    pub uuid: String,
    /// The model's name as the driver gives it.
    pub model: String,
    /// Total memory in bytes.
    pub memory_bytes: u64,
}

/// All that a node offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// CPU slots.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Its GPUs.
    pub gpus: Vec<Gpu>,
}

/// What one task of a job holds while it runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceRequest {
    /// CPU slots, at least 1.
    pub cpus: u32,
    /// Memory in bytes; 0 asks for none in particular.
    pub memory_bytes: u64,
    /// Number of GPUs.
    pub gpus: u32,
    /// A case-insensitive part of the GPU model's name; empty takes any.
    pub gpu_model: String,
    /// The least memory of each GPU in bytes.
    pub gpu_memory_bytes: u64,
    /// The most memory of each GPU in bytes; 0 for any.
    #[serde(skip_serializing_if = "is_zero")]
    pub gpu_memory_max_bytes: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl Default for ResourceRequest {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory_bytes: 0,
            gpus: 0,
            gpu_model: String::new(),
            gpu_memory_bytes: 0,
            gpu_memory_max_bytes: 0,
        }
    }
}

impl ResourceRequest {
    /// Whether it says which GPUs will do.
    #[must_use]
    pub fn names_gpus(&self) -> bool {
        !self.gpu_model.is_empty() || self.gpu_memory_bytes > 0 || self.gpu_memory_max_bytes > 0
    }

    /// Whether `gpu` is of the wanted model and size.
    #[must_use]
    pub fn accepts(&self, gpu: &Gpu) -> bool {
        let most = self.gpu_memory_max_bytes;
        gpu.memory_bytes >= self.gpu_memory_bytes
            && (most == 0 || gpu.memory_bytes <= most)
            && (self.gpu_model.is_empty()
                || gpu
                    .model
                    .to_lowercase()
                    .contains(&self.gpu_model.to_lowercase()))
    }

    /// Whether `offer` is large enough in every dimension.
    #[must_use]
    pub fn fits(&self, offer: &Capacity) -> bool {
        let fitting = || offer.gpus.iter().filter(|gpu| self.accepts(gpu)).count();
        self.cpus <= offer.cpus
            && self.memory_bytes <= offer.memory_bytes
            && (self.gpus == 0 || usize::try_from(self.gpus).unwrap_or(usize::MAX) <= fitting())
    }

    /// The first dimension in which `offer` is too small, in words; `None` when the request fits.
    #[must_use]
    pub fn shortage(&self, offer: &Capacity) -> Option<String> {
        let lacks = self.lacks(offer).into_iter().next();
        lacks.map(|lack| lack.words)
    }

    /// All dimensions in which `offer` is too small.
    #[must_use]
    pub fn lacks(&self, offer: &Capacity) -> Vec<Lack> {
        let fitting = offer.gpus.iter().filter(|gpu| self.accepts(gpu)).count();
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
        let memory = |bytes| format_bytes(bytes);
        let rows = [
            (
                u64::from(self.cpus),
                u64::from(offer.cpus),
                format!("cpus: asks for {}, has {}", self.cpus, offer.cpus),
            ),
            (
                self.memory_bytes,
                offer.memory_bytes,
                format!(
                    "memory: asks for {}, has {}",
                    memory(self.memory_bytes),
                    memory(offer.memory_bytes)
                ),
            ),
            (
                u64::from(self.gpus),
                u64::from(fitting),
                format!(
                    "gpus: asks for {}{}, has {fitting}",
                    self.gpus,
                    self.gpu_words()
                ),
            ),
        ];
        let short = rows.into_iter().filter(|(asked, has, _)| asked > has);
        let lack = |(asked, has, words): (u64, u64, String)| Lack {
            words,
            permille: u128::from(asked - has) * 1_000 / u128::from(asked.max(1)),
        };
        short.map(lack).collect()
    }

    /// Which GPUs, for people; empty for any.
    #[must_use]
    pub fn gpu_words(&self) -> String {
        let mut words = String::new();
        if !self.gpu_model.is_empty() {
            words.push_str(" of model ");
            words.push_str(&self.gpu_model);
        }
        if self.gpu_memory_bytes > 0 {
            words.push_str(" with at least ");
            words.push_str(&format_bytes(self.gpu_memory_bytes));
        }
        if self.gpu_memory_max_bytes > 0 {
            let and = if self.gpu_memory_bytes > 0 {
                " and"
            } else {
                " with"
            };
            words.push_str(and);
            words.push_str(" at most ");
            words.push_str(&format_bytes(self.gpu_memory_max_bytes));
        }
        words
    }
}

/// What a request asks for beyond what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// In words, such as `cpus: asks for 9, has 8`.
    pub words: String,
    /// Of what is asked for so many thousandths are missing.
    pub permille: u128,
}

/// Why a text about resources could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseResourceError {
    /// A size of memory.
    #[error(
        "memory size '{0}' is not a number with a unit; write for example 16GiB, 500MB or 1024"
    )]
    Memory(String),
    /// A negative size.
    #[error("memory size '{0}' is negative; write for example 16GiB")]
    Negative(String),
    /// A list of GPUs.
    #[error(
        "GPU list '{0}' is not COUNTxMODEL-MEMORY; write for example 4xH100-80GB or 2xA100-40GB,1xT4-16GB"
    )]
    Gpus(String),
    /// Which GPUs will do.
    #[error(
        "'{0}' does not say which GPUs; write for example H100, H100:80GB.., A100:40GB..80GB or :..24GB"
    )]
    GpuRange(String),
}

/// Which GPUs will do, as people write it: a part of the model's name, a range of memory, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuRange {
    /// A part of the model's name; empty takes any.
    pub model: String,
    /// The least memory in bytes; 0 takes any.
    pub at_least: u64,
    /// The most memory in bytes; 0 takes any.
    pub at_most: u64,
}

impl GpuRange {
    /// Reads `H100`, `H100:80GB..`, `A100:40GB..80GB`, `:..24GB`.
    ///
    /// A GPU that is sold with 80 GB has up to 80 GiB: at the upper end GB is taken for GiB, so that it is among them.
    ///
    /// # Errors
    /// When it is not written so.
    pub fn parse(text: &str) -> Result<Self, ParseResourceError> {
        let bad = || ParseResourceError::GpuRange(text.to_owned());
        let (model, range) = match text.split_once(':') {
            Some((model, range)) => (model.trim(), Some(range.trim())),
            None => (text.trim(), None),
        };
        let mut read = Self {
            model: model.to_owned(),
            ..Self::default()
        };
        if let Some(range) = range {
            let (least, most) = range.split_once("..").ok_or_else(bad)?;
            if least.is_empty() && most.is_empty() {
                return Err(bad());
            }
            let size = |text: &str| match text {
                "" => Ok(0),
                text => parse_bytes(text),
            };
            read.at_least = size(least)?;
            read.at_most = size(&as_sold(most))?;
        }
        let is_empty = read == Self::default();
        let is_backwards = read.at_most > 0 && read.at_most < read.at_least;
        match is_empty || is_backwards {
            true => Err(bad()),
            false => Ok(read),
        }
    }
}

/// `80GB` as `80GiB`.
fn as_sold(size: &str) -> String {
    let size = size.to_ascii_lowercase();
    match size.strip_suffix('b') {
        Some(start) if start.ends_with(['k', 'm', 'g', 't']) => format!("{start}ib"),
        Some(_) | None => size,
    }
}

/// Reads a size of memory: `1024`, `500MB`, `16GiB`, `16G` (binary, as people mean it for memory).
///
/// # Errors
/// When it is not a number with a known unit, or negative.
pub fn parse_bytes(text: &str) -> Result<u64, ParseResourceError> {
    let trimmed = text.trim();
    if trimmed.starts_with('-') {
        return Err(ParseResourceError::Negative(text.to_owned()));
    }
    let bad = || ParseResourceError::Memory(text.to_owned());
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at_checked(split).ok_or_else(bad)?;
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(bad()),
    };
    let value = number.parse::<f64>().ok().ok_or_else(bad)? * factor;
    if !value.is_finite() || value >= 9.0e18 {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "finite, not negative and far below u64::MAX by the checks above"
    )]
    Ok(value as u64)
}

/// Writes a size of memory with a binary unit and at most one decimal: `16 GiB`, `1.5 MiB`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    for (size, unit) in UNITS {
        if bytes >= size {
            let tenths =
                u64::try_from(u128::from(bytes) * 10 / u128::from(size)).unwrap_or(u64::MAX);
            return if tenths.is_multiple_of(10) {
                format!("{} {unit}", tenths / 10)
            } else {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes} B")
}

/// Reads a list of GPUs such as `4xH100-80GB` or `2xA100-40GB,1xT4-16GB`; uuids are
/// `GPU-SIM-{node}-{index}`.
///
/// # Errors
/// Names the piece that could not be read.
pub fn parse_gpus(text: &str, node: &str) -> Result<Vec<Gpu>, ParseResourceError> {
    let mut gpus = Vec::new();
    for piece in text.split(',').map(str::trim) {
        let bad = || ParseResourceError::Gpus(piece.to_owned());
        let (count, rest) = piece.split_once('x').ok_or_else(bad)?;
        let (model, memory) = rest.rsplit_once('-').ok_or_else(bad)?;
        let count: u32 = count.parse().ok().ok_or_else(bad)?;
        let memory_bytes = parse_bytes(memory).ok().ok_or_else(bad)?;
        if count == 0 || count > 64 || model.is_empty() {
            return Err(bad());
        }
        for _ in 0..count {
            gpus.push(Gpu {
                uuid: format!("GPU-SIM-{node}-{}", gpus.len()),
                model: model.to_owned(),
                memory_bytes,
            });
        }
    }
    Ok(gpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_units_and_written_back() {
        assert_eq!(parse_bytes("16GiB"), Ok(16 << 30));
        assert_eq!(parse_bytes("1.5 g"), Ok(3 << 29));
        assert_eq!(parse_bytes("80GB"), Ok(80_000_000_000));
        assert_eq!(format_bytes(3 << 29), "1.5 GiB");
        assert_eq!(format_bytes(512), "512 B");
    }

    #[test]
    fn negative_and_nonsense_memory_name_the_way_out() {
        let negative = parse_bytes("-4GB").unwrap_err().to_string();
        assert_eq!(
            negative,
            "memory size '-4GB' is negative; write for example 16GiB"
        );
        assert!(parse_bytes("lots").is_err());
        assert!(parse_bytes("1e400").is_err());
        assert!(parse_bytes("").is_err());
    }

    #[test]
    fn a_gpu_list_gives_each_gpu_its_own_uuid() {
        let gpus = parse_gpus("2xA100-40GB,1xRTX-4090-24GB", "n1").unwrap();
        assert_eq!(gpus.len(), 3);
        assert_eq!(gpus[2].uuid, "GPU-SIM-n1-2");
        assert_eq!(gpus[2].model, "RTX-4090");
        assert_eq!(gpus[0].memory_bytes, 40_000_000_000);
    }

    #[test]
    fn a_bad_gpu_list_names_the_bad_piece() {
        for bad in [
            "H100",
            "4H100-80GB",
            "0xH100-80GB",
            "4x-80GB",
            "4xH100-lots",
        ] {
            let text = format!("1xT4-16GB,{bad}");
            let error = parse_gpus(&text, "n").unwrap_err();
            assert_eq!(error, ParseResourceError::Gpus(bad.to_owned()));
        }
    }

    #[test]
    fn a_request_names_the_first_dimension_that_is_short() {
        let offer = Capacity {
            cpus: 8,
            memory_bytes: 1 << 34,
            gpus: parse_gpus("2xH100-80GB", "n").unwrap(),
        };
        let mut request = ResourceRequest {
            gpus: 2,
            gpu_model: "h100".into(),
            ..ResourceRequest::default()
        };
        assert_eq!(request.shortage(&offer), None);
        request.gpus = 3;
        assert_eq!(
            request.shortage(&offer).unwrap(),
            "gpus: asks for 3 of model h100, has 2"
        );
        request.cpus = 9;
        assert_eq!(request.shortage(&offer).unwrap(), "cpus: asks for 9, has 8");
    }

    #[test]
    fn a_range_of_gpus_is_a_model_a_memory_or_both() {
        let read = |text: &str| {
            let read = GpuRange::parse(text).unwrap();
            (read.model, read.at_least, read.at_most)
        };
        let gb = 1_000_000_000;
        assert_eq!(read("H100"), ("H100".to_owned(), 0, 0));
        assert_eq!(read("H100:80GB.."), ("H100".to_owned(), 80 * gb, 0));
        let both = ("A100".to_owned(), 40 * gb, 80 << 30);
        assert_eq!(read("A100: 40GB..80GB"), both);
        assert_eq!(read(":..24GiB"), (String::new(), 0, 24 << 30));
        for bad in [
            "",
            ":",
            ":..",
            "H100:",
            "H100:80GB",
            "H100:80GB..40GB",
            "H100:x..",
            "H100:-1GB..",
        ] {
            assert!(GpuRange::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_gpu_with_more_memory_than_asked_for_will_not_do() {
        let read = GpuRange::parse("a100:..40GB").unwrap();
        let request = ResourceRequest {
            gpus: 1,
            gpu_model: read.model,
            gpu_memory_max_bytes: read.at_most,
            ..ResourceRequest::default()
        };
        let gpu = |memory_bytes| Gpu {
            uuid: "u".into(),
            model: "NVIDIA A100-SXM4".into(),
            memory_bytes,
        };
        // As the driver says it of one that is sold with 40 GB.
        assert!(request.accepts(&gpu(40_536 << 20)));
        assert!(!request.accepts(&gpu(80 << 30)));
        let offer = Capacity {
            cpus: 1,
            memory_bytes: 0,
            gpus: vec![gpu(80 << 30)],
        };
        let words = "gpus: asks for 1 of model a100 with at most 40 GiB, has 0";
        assert_eq!(request.shortage(&offer).unwrap(), words);
    }
}
