//! What is stored, in a few words that can be compared: of each table how many rows it has, and a digest of them.
//!
//! Owns what goes into a digest: keys and values, in the order of the keys, as they lie in the file; where in the file they
//! lie does not count. Only reads. Called by the simulation, whose seeds must leave the same store each time.

use redb::{Key, ReadTransaction, ReadableTable as _, TableDefinition, TableHandle as _, Value};

use super::{
    Store,
    error::ReadError,
    tables::{self, Visit},
};

/// What one table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDigest {
    /// Its name.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// Of all of them, in hexadecimal digits.
    pub digest: String,
}

impl Store {
    /// Of each table, in an order that never changes. Blocks, for as long as all of the store takes to be read.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn digest(&self) -> Result<Vec<TableDigest>, ReadError> {
        let txn = self.read()?;
        let mut digester = Digester {
            txn: &txn,
            tables: Vec::new(),
        };
        tables::visit_all(&mut digester)?;
        Ok(digester.tables)
    }
}

struct Digester<'t> {
    txn: &'t ReadTransaction,
    tables: Vec<TableDigest>,
}

impl Visit for Digester<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
    ) -> Result<(), ReadError> {
        let (mut hasher, mut rows) = (blake3::Hasher::new(), 0);
        for row in self.txn.open_table(definition)?.iter()? {
            let (key, value) = row?;
            take_in(&mut hasher, K::as_bytes(&key.value()).as_ref());
            take_in(&mut hasher, V::as_bytes(&value.value()).as_ref());
            rows += 1;
        }
        self.tables.push(TableDigest {
            table: definition.name().to_owned(),
            rows,
            digest: hasher.finalize().to_hex().to_string(),
        });
        Ok(())
    }
}

/// With its length before it: of two neighbours it counts where one ends.
fn take_in(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    hasher.update(&length.to_le_bytes());
    hasher.update(bytes);
}
