//! Which image is meant by a name: its id, its path, or what is left of it. Pure; called by `split`.

use std::collections::BTreeMap;

use super::{DatasetError, Image, paths};

/// Images by all the names that people have for them, best first.
pub(super) struct Index<'a> {
    images: &'a [Image],
    levels: Vec<BTreeMap<&'a str, (usize, bool)>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(images: &'a [Image]) -> Self {
        let names: [fn(&'a Image) -> &'a str; 5] = [
            |image| &image.id,
            |image| &image.key,
            |image| image.key.strip_prefix("images/").unwrap_or(&image.key),
            |image| paths::file_name(&image.key),
            |image| paths::stem(paths::file_name(&image.key)),
        ];
        let level = |name: fn(&'a Image) -> &'a str| {
            let mut level: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
            for (number, image) in images.iter().enumerate() {
                let entry = level.entry(name(image)).or_insert((number, true));
                entry.1 = entry.0 == number;
            }
            level
        };
        Self {
            images,
            levels: names.into_iter().map(level).collect(),
        }
    }

    /// The key of the image that `name` stands for, if there is one; an error when there are several.
    pub(super) fn look(&self, field: &str, name: &str) -> Result<Option<&'a str>, DatasetError> {
        let found = self.levels.iter().find_map(|level| level.get(name));
        match found {
            None => Ok(None),
            Some((number, true)) => Ok(self.images.get(*number).map(|image| image.key.as_str())),
            Some((_, false)) => Err(DatasetError::split(
                field,
                format!(
                    "names '{name}', which stands for several images; give the path in the dataset"
                ),
            )),
        }
    }

    /// The same, where there must be one.
    pub(super) fn find(&self, field: &str, name: &str) -> Result<&'a str, DatasetError> {
        self.look(field, name)?.ok_or_else(|| {
            let example = self.images.first();
            let example = example.map_or("", |image| image.id.as_str());
            DatasetError::split(
                field,
                format!("names '{name}', which is no image of the dataset; its images are called like '{example}'"),
            )
        })
    }
}
