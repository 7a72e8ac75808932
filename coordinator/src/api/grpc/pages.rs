//! What a call asks of a page: how many rows, and behind which one.
//!
//! Owns the words for a token that is none. Called by all that answer in pages.

use crate::api::ApiError;

/// Rows; the service knows how many it gives.
pub(super) fn size(wanted: u32) -> usize {
    usize::try_from(wanted).unwrap_or(usize::MAX)
}

/// The row that a page goes on behind; none for the first page.
pub(super) fn token(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let words = "is not a token of an earlier page; leave it out for the first page";
    let number = text.parse().ok();
    number
        .map(Some)
        .ok_or_else(|| ApiError::field("page_token", words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_that_is_none_is_named() {
        let error = token("abc").unwrap_err();
        assert!(
            error.message.starts_with("page_token: is not a token"),
            "{error:?}"
        );
    }
}
