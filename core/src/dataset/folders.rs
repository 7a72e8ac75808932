//! Datasets with a folder for each class. Pure; called by `dataset`.

use super::{DatasetError, FileEntry, Image, Inventory, Part, paths};

/// Images below `<part>/<class>/` or `<class>/`. What lies beside the class folders is no sample.
pub(super) fn inventory(files: &[FileEntry]) -> Result<Inventory, DatasetError> {
    let samples: Vec<&str> = files
        .iter()
        .map(|file| file.path.as_str())
        .filter(|path| paths::is_image(path))
        .collect();
    let by_part = samples.iter().any(|path| part_and_rest(path).is_some());
    let all = samples.len() as u64;
    let images: Vec<Image> = samples
        .into_iter()
        .filter_map(|path| {
            let (part, rest) = if by_part {
                let (part, rest) = part_and_rest(path)?;
                (Some(part), rest)
            } else {
                (None, path)
            };
            let (class, _) = rest.split_once('/')?;
            Some(Image {
                key: path.to_owned(),
                id: path.to_owned(),
                part,
                class: Some(class.to_owned()),
            })
        })
        .filter(|image| {
            image
                .class
                .as_deref()
                .is_some_and(|class| !class.starts_with('.'))
        })
        .collect();
    let first = images.first().and_then(|image| image.class.as_deref());
    if images.iter().all(|image| image.class.as_deref() == first) {
        return Err(DatasetError::Layout(
            "an imagefolder needs at least 2 class folders: train/<class>/* and val/<class>/*, or <class>/*"
                .to_owned(),
        ));
    }
    Ok(Inventory {
        unclassed: all - images.len() as u64,
        images,
        ..Inventory::default()
    })
}

/// Only when there is a class below: a class may be called `test`.
fn part_and_rest(path: &str) -> Option<(Part, &str)> {
    let (top, rest) = path.split_once('/')?;
    Some((Part::parse(top).filter(|_| rest.contains('/'))?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str]) -> Result<Inventory, DatasetError> {
        let files: Vec<FileEntry> = paths
            .iter()
            .map(|path| FileEntry {
                path: (*path).to_owned(),
                size: 1,
            })
            .collect();
        inventory(&files)
    }

    #[test]
    fn parts_and_classes_come_from_folders() {
        let found = of(&[
            "README.md",
            "train/cat/a.png",
            "train/dog/sub/b.png",
            "valid/cat/c.png",
            "x.png",
        ]);
        let found = found.unwrap();
        assert_eq!(found.unclassed, 1, "x.png is in no folder");
        let images = found.images;
        let told: Vec<_> = images
            .iter()
            .map(|image| (image.part, image.class.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                (Some(Part::Train), Some("cat")),
                (Some(Part::Train), Some("dog")),
                (Some(Part::Val), Some("cat"))
            ]
        );
    }

    #[test]
    fn plain_class_folders_declare_no_part() {
        let images = of(&["cat/a.png", "test/b.png"]).unwrap().images;
        assert!(images.iter().all(|image| image.part.is_none()));
        assert_eq!(images[1].class.as_deref(), Some("test"));
    }

    #[test]
    fn one_class_is_too_few() {
        let error = of(&["cat/a.png", "cat/b.png"]).unwrap_err().to_string();
        assert!(error.contains("at least 2 class folders"), "{error}");
    }
}
