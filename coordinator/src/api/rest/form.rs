//! Forms as browsers and HTTP clients send them: urlencoded, or in parts (multipart/form-data).
//!
//! Owns reading fields of text; files are no fields of any form here. What is no form has no fields.
//! Called by the login, as the password form of OAuth2 may come either way.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use http::{HeaderMap, header::CONTENT_TYPE};

use super::error::Refusal;

/// Fields of a form in their order.
pub(super) struct Form(pub(super) Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let kind = kind(request.headers()).to_owned();
        let bytes = Bytes::from_request(request, state).await;
        Ok(Self(fields(&kind, &bytes.map_err(Refusal::Body)?)))
    }
}

fn kind(headers: &HeaderMap) -> &str {
    let kind = headers.get(CONTENT_TYPE);
    kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default()
}

fn fields(kind: &str, body: &[u8]) -> Vec<(String, String)> {
    let (essence, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    match essence.trim().to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => {
            url::form_urlencoded::parse(body).into_owned().collect()
        }
        "multipart/form-data" => match parameter(parameters, "boundary") {
            Some(boundary) => parts(body, &boundary),
            None => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The value of `name` among `; key=value` or `; key="value"`.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut each = text.split(';').filter_map(|part| part.split_once('='));
    let (_, value) = each.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    let value = value.trim().trim_matches('"');
    (!value.is_empty()).then(|| value.to_owned())
}

/// Each part between two lines of the boundary that has a name, is no file, and is text.
fn parts(body: &[u8], boundary: &str) -> Vec<(String, String)> {
    let line = format!("--{boundary}");
    let mut rest = match find(body, line.as_bytes()) {
        Some((_, after)) => after,
        None => return Vec::new(),
    };
    let end = format!("\r\n{line}");
    let mut found = Vec::new();
    // After the last one come two dashes.
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let Some((content, after)) = find(part, end.as_bytes()) else {
            break;
        };
        found.extend(part_of(content));
        rest = after;
    }
    found
}

fn part_of(content: &[u8]) -> Option<(String, String)> {
    let (head, value) = find(content, b"\r\n\r\n")?;
    let head = std::str::from_utf8(head).ok()?;
    let disposition = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let wanted = name.trim().eq_ignore_ascii_case("content-disposition");
        wanted.then_some(value)
    })?;
    let (_, parameters) = disposition.split_once(';')?;
    if parameter(parameters, "filename").is_some() {
        return None;
    }
    let name = parameter(parameters, "name")?;
    Some((name, String::from_utf8(value.to_vec()).ok()?))
}

/// What stands before and after the first `mark`.
fn find<'b>(bytes: &'b [u8], mark: &[u8]) -> Option<(&'b [u8], &'b [u8])> {
    let at = bytes.windows(mark.len()).position(|found| found == mark)?;
    let (before, rest) = bytes.split_at(at);
    Some((before, rest.get(mark.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(found: &[(String, String)]) -> Vec<(&str, &str)> {
        let pair = |(name, value): &'_ (String, String)| (name.len(), value.len());
        assert!(found.iter().map(pair).all(|(name, _)| name > 0));
        found
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect()
    }

    const KIND: &str = "multipart/form-data; boundary=\"xyz\"";

    #[test]
    fn parts_are_read_with_all_that_stands_in_their_values() {
        let body = "--xyz\r\nContent-Disposition: form-data; name=\"username\"\r\n\r\na@b.c\r\n--xyz\r\ncontent-type: text/plain\r\ncontent-disposition: form-data; name=password\r\n\r\nline\r\n\r\n--xy=&\r\n--xyz--\r\n";
        let found = fields(KIND, body.as_bytes());
        let wanted = [("username", "a@b.c"), ("password", "line\r\n\r\n--xy=&")];
        assert_eq!(pairs(&found), wanted);
    }

    #[test]
    fn files_and_what_is_no_form_are_no_fields() {
        let file = "--xyz\r\nContent-Disposition: form-data; name=\"username\"; filename=\"a\"\r\n\r\nx\r\n--xyz--";
        for body in [
            file,
            "",
            "--xyz",
            "--xyz\r\n",
            "--xyz\r\nname\r\n--xyz--",
            "--xyz--",
        ] {
            assert_eq!(fields(KIND, body.as_bytes()), [], "{body}");
        }
        assert_eq!(fields("multipart/form-data", file.as_bytes()), []);
        assert_eq!(fields("application/json", b"username=a"), []);
    }

    #[test]
    fn an_urlencoded_form_is_read_as_before() {
        let kind = "application/x-www-form-urlencoded; charset=UTF-8";
        let found = fields(kind, b"username=a%40b.c&password=x+y");
        assert_eq!(pairs(&found), [("username", "a@b.c"), ("password", "x y")]);
    }
}
