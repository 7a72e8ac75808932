//! Names of files: which are refused, and what they tell. Pure; called by all of `dataset`.

use super::DatasetError;

/// What counts as an image, by the end of its name.
const IMAGES: [&str; 11] = [
    "png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp", "dng", "mpo", "avif",
];

/// Longer names and paths fit no file system.
const MOST_NAME: usize = 255;
const MOST_PATH: usize = 3_000;

/// Refuses a path that could lead out of the folder that it is joined to.
///
/// # Errors
/// Names the path and why.
pub fn check_path(path: &str) -> Result<(), DatasetError> {
    let why = if path.is_empty() {
        "it is empty"
    } else if path.chars().any(char::is_control) {
        "it holds a control character"
    } else if path.starts_with('/') {
        "it is absolute"
    } else if path.len() > MOST_PATH || path.split('/').any(|name| name.len() > MOST_NAME) {
        "it is too long"
    } else if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        "it leads out of its folder"
    } else {
        return Ok(());
    };
    Err(DatasetError::Path {
        path: path
            .chars()
            .take(200)
            .flat_map(char::escape_debug)
            .collect(),
        why,
    })
}

/// Whether the name says so.
pub(super) fn is_image(path: &str) -> bool {
    let name = file_name(path);
    !name.starts_with('.')
        && name
            .rsplit_once('.')
            .is_some_and(|(_, end)| IMAGES.iter().any(|image| end.eq_ignore_ascii_case(image)))
}

pub(super) fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

pub(super) fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Without the ending of its last name.
pub(super) fn stem(path: &str) -> &str {
    match path.rsplit_once('.') {
        Some((stem, end)) if !end.contains('/') => stem,
        Some(_) | None => path,
    }
}

/// A name for a folder, whatever a document calls a class.
pub(super) fn as_name(text: &str) -> String {
    let plain = |c: char| if c == '/' || c.is_control() { '_' } else { c };
    let mut name: String = text.chars().map(plain).take(60).collect();
    if name.is_empty() || name.starts_with('.') {
        name.insert(0, '_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_out_of_its_folder_is_refused_by_name() {
        for path in ["a", "a/b.png", "a..b/c", "...", "ü/ n.png"] {
            check_path(path).unwrap();
        }
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "a//b",
            "./a",
            "a/",
            "a\0b",
            "a\nb",
        ] {
            let error = check_path(path).unwrap_err().to_string();
            assert!(error.contains("is refused"), "{error}");
        }
        assert!(check_path(&"x".repeat(256)).is_err());
    }

    #[test]
    fn a_class_always_has_a_name_for_its_folder() {
        for (text, name) in [("cat", "cat"), ("../x", "_.._x"), ("", "_"), ("a/b", "a_b")] {
            assert_eq!(as_name(text), name);
            check_path(&as_name(text)).unwrap();
        }
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(
            (file_name("a/b.c"), folder("a/b.c"), stem("a/b.c")),
            ("b.c", "a", "a/b")
        );
        assert_eq!((folder("b"), stem("a.d/b")), ("", "a.d/b"));
        assert!(is_image("a/b.JPG") && !is_image("a/.b.jpg") && !is_image("a/jpg"));
    }
}
