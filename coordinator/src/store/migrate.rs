//! A file of an older version becomes one of this version.
//!
//! Owns what each version lacks of the next. Called within the one transaction of the opening, so that a crash leaves the
//! old file or the new one. Never changes a row that a reader sees.

use redb::WriteTransaction;

use super::{
    ReadError, held, numbers,
    tables::{Rows, SCHEMA},
};

/// Fills the tables that are new since version `from`.
pub(super) fn upgrade(txn: &WriteTransaction, from: u32) -> Result<(), ReadError> {
    if from == SCHEMA {
        return Ok(());
    }
    tracing::info!(
        from,
        to = SCHEMA,
        "the store is of an older version; it is read once to bring it up to this one"
    );
    if from < 2 {
        // Blocks, and what each job holds: the chunks stay as they are until they are sealed.
        for rows in Rows::ALL {
            held::recount(txn, rows.series())?;
        }
    }
    numbers::upgrade(txn, from)?;
    tracing::info!(to = SCHEMA, "the store is of this version from now on");
    Ok(())
}
