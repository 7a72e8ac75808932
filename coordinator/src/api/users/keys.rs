//! The keys that sign user tokens: drawn at the first start, replaced when an administrator says so.

use std::sync::{Arc, PoisonError};

use trainyard_config::Secret;
use trainyard_core::{access::Permission, time::Timestamp};

use super::{Users, draw};
use crate::{
    api::{ApiError, Caller, Service, access::Target},
    auth::{Keys, SigningKeyRow},
    clock,
    store::Change,
};

impl Users {
    /// Draws a key that signs from now on; answers with its name.
    async fn rotate(&self, drop_old: bool) -> Result<String, ApiError> {
        let _alone = self.alone().await;
        let now = clock::now();
        let lives = self.keys().lives();
        let mut rows = self.inner.store.documents::<SigningKeyRow>("")?;
        let mut changes = Vec::new();
        for row in &mut rows {
            row.retired_at = row.retired_at.or(Some(now));
            let over = row
                .retired_at
                .is_some_and(|at| now >= at.plus(lives.refresh));
            changes.push(match over || drop_old {
                true => Change::remove::<SigningKeyRow>(row.kid.clone()),
                false => Change::put(row),
            });
        }
        if drop_old {
            rows.clear();
        }
        let new = new_key(now);
        changes.push(Change::put(&new));
        let kid = new.kid.clone();
        rows.push(new);
        self.inner.store.commit_and_wait(changes).await?;
        let mut keys = self
            .inner
            .keys
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *keys = Arc::new(Keys::new(&rows, lives));
        Ok(kid)
    }
}

/// A key of 256 drawn bits.
pub(crate) fn new_key(now: Timestamp) -> SigningKeyRow {
    let mut kid = draw();
    kid.truncate(16);
    SigningKeyRow {
        kid,
        secret: Secret::new(draw() + &draw()),
        created_at: now,
        retired_at: None,
    }
}

impl Service {
    /// Draws a new signing key; answers with its name. Tokens of the older ones are believed until
    /// they expire, or no longer with `drop_old`: then everybody logs in anew.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn rotate_keys(&self, caller: &Caller, drop_old: bool) -> Result<String, ApiError> {
        self.require(caller, Permission::AdministerUsers, Target::Cluster)?;
        let kid = self.users().rotate(drop_old).await?;
        tracing::info!(%kid, drop_old, by = %caller.user.email, "a new key signs user tokens");
        Ok(kid)
    }
}
