//! The hash over all files of a dataset. Pure; called by coordinator and agent.

use super::DatasetError;

/// blake3 over name, size and digest of every file, in the order of their names.
#[derive(Clone, Debug)]
pub struct VersionHasher {
    hasher: blake3::Hasher,
    last: Option<String>,
}

impl Default for VersionHasher {
    fn default() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"trainyard dataset version 1\n");
        Self { hasher, last: None }
    }
}

impl VersionHasher {
    /// The next file: its path, its size in bytes and the blake3 of its content.
    ///
    /// # Errors
    /// When it does not come after the one before, by the bytes of their paths.
    pub fn add(&mut self, path: &str, size: u64, digest: &[u8; 32]) -> Result<(), DatasetError> {
        if self.last.as_deref().is_some_and(|last| path <= last) {
            return Err(DatasetError::Layout(format!(
                "the list of files is not in order at '{path}'"
            )));
        }
        self.hasher.update(&(path.len() as u64).to_le_bytes());
        self.hasher.update(path.as_bytes());
        self.hasher.update(&size.to_le_bytes());
        self.hasher.update(digest);
        self.last = Some(path.to_owned());
        Ok(())
    }

    /// In hex.
    #[must_use]
    pub fn finish(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, u64, u8)]) -> Result<String, DatasetError> {
        let mut hasher = VersionHasher::default();
        for (path, size, digest) in files {
            hasher.add(path, *size, &[*digest; 32])?;
        }
        Ok(hasher.finish())
    }

    #[test]
    fn every_name_size_and_digest_counts() {
        let base = of(&[("a", 1, 1), ("b", 2, 2)]).unwrap();
        assert_eq!(base.len(), 64);
        for other in [
            of(&[("a", 1, 1), ("c", 2, 2)]),
            of(&[("a", 1, 1), ("b", 3, 2)]),
            of(&[("a", 1, 1), ("b", 2, 3)]),
            of(&[("a", 1, 1)]),
        ] {
            assert_ne!(other.unwrap(), base);
        }
    }

    #[test]
    fn files_out_of_order_or_twice_are_refused() {
        assert!(of(&[("b", 1, 1), ("a", 1, 1)]).is_err());
        assert!(of(&[("a", 1, 1), ("a", 1, 1)]).is_err());
    }
}
