//! The part of every image: seeded, and the same whatever the order of a listing and the machine.
//!
//! Pure; called by coordinator and agent with what `split` has resolved.

use std::collections::BTreeMap;

use super::{
    DatasetError, Image, Part,
    split::{Resolved, Rest},
};

/// The part of every image that is not excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    parts: BTreeMap<String, Part>,
}

impl Assignment {
    /// The part of an image; `None` when it is excluded or unknown.
    #[must_use]
    pub fn part_of(&self, key: &str) -> Option<Part> {
        self.parts.get(key).copied()
    }

    /// Keys of images and their parts, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Part)> {
        self.parts.iter().map(|(key, part)| (key.as_str(), *part))
    }

    /// How many images each part has that has some.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Part, u64> {
        let mut counts = BTreeMap::new();
        for part in self.parts.values() {
            *counts.entry(*part).or_default() += 1;
        }
        counts
    }

    /// blake3 over the part of every image, in hex.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"trainyard split version 1\n");
        for (key, part) in self.iter() {
            hasher.update(&(key.len() as u64).to_le_bytes());
            hasher.update(key.as_bytes());
            hasher.update(part.name().as_bytes());
            hasher.update(b"\n");
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Gives every image its part.
///
/// # Errors
/// When a part that the split wants would be empty.
pub fn assign(images: &[Image], resolved: &Resolved) -> Result<Assignment, DatasetError> {
    let mut parts = BTreeMap::new();
    let mut pool = Vec::new();
    let kept = || {
        images
            .iter()
            .filter(|image| !resolved.excluded.contains(&image.key))
    };
    let has_val = kept().any(|image| image.part == Some(Part::Val));
    for image in kept() {
        match (resolved.named.get(&image.key), resolved.rest) {
            (Some(part), _) => {
                parts.insert(image.key.clone(), *part);
            }
            (None, Rest::Ratio) => pool.push(image),
            (None, Rest::Train) => {
                parts.insert(image.key.clone(), Part::Train);
            }
            (None, Rest::Declared) => {
                // Some datasets call what they validate on `test`.
                let part = match image.part.unwrap_or(Part::Train) {
                    Part::Test if !has_val => Part::Val,
                    part @ (Part::Train | Part::Val | Part::Test) => part,
                };
                parts.insert(image.key.clone(), part);
            }
        }
    }
    let divided = divide(&pool, resolved, true);
    let divided = match first_empty(&parts, &divided, resolved) {
        // Classes of one image each: then all together.
        Some(_) => divide(&pool, resolved, false),
        None => divided,
    };
    if let Some(part) = first_empty(&parts, &divided, resolved) {
        let (left, all) = (parts.len() + divided.len(), images.len());
        return Err(DatasetError::split(
            "split_strategy",
            format!(
                "leaves no images for {}: {left} of {all} images are left; add images, exclude fewer or change the split",
                part.name()
            ),
        ));
    }
    parts.extend(divided);
    Ok(Assignment { parts })
}

type Parts = BTreeMap<String, Part>;

/// The first part that must have images and has none.
fn first_empty(named: &Parts, divided: &Parts, resolved: &Resolved) -> Option<Part> {
    let has = |part| {
        named
            .values()
            .chain(divided.values())
            .any(|have| *have == part)
    };
    let test = resolved.rest == Rest::Ratio && resolved.ratio[2] > 0;
    Part::ALL
        .into_iter()
        .filter(|part| *part != Part::Test || test)
        .find(|part| !has(*part))
}

/// Divides by ratio and seed, class by class where images have one.
fn divide(pool: &[&Image], resolved: &Resolved, by_class: bool) -> Parts {
    let mut groups: BTreeMap<Option<&str>, Vec<([u8; 32], &str)>> = BTreeMap::new();
    for image in pool {
        let class = image.class.as_deref().filter(|_| by_class);
        let ranked = (rank(resolved.seed, &image.key), image.key.as_str());
        groups.entry(class).or_default().push(ranked);
    }
    let mut parts = Parts::new();
    for mut group in groups.into_values() {
        group.sort_unstable();
        let counts = counts(group.len(), resolved.ratio);
        let wanted = Part::ALL.into_iter().zip(counts);
        let order = wanted.flat_map(|(part, count)| std::iter::repeat_n(part, count));
        let given = group.into_iter().zip(order);
        parts.extend(given.map(|((_, key), part)| (key.to_owned(), part)));
    }
    parts
}

fn rank(seed: i64, key: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(key.as_bytes());
    *hasher.finalize().as_bytes()
}

/// How many of `total` each part gets: within one of its share, and at least one where there is
/// enough.
fn counts(total: usize, ratio: [u32; 3]) -> [usize; 3] {
    let whole: u128 = ratio
        .iter()
        .map(|share| u128::from(*share))
        .sum::<u128>()
        .max(1);
    let mut counts = [0_usize; 3];
    let mut left = total;
    let mut remainders = Vec::new();
    for (number, (count, share)) in counts.iter_mut().zip(ratio).enumerate() {
        let exact = total as u128 * u128::from(share);
        *count = usize::try_from(exact / whole).unwrap_or(total).min(left);
        left -= *count;
        remainders.push((std::cmp::Reverse(exact % whole), number));
    }
    remainders.sort_unstable();
    for (_, number) in remainders.into_iter().take(left) {
        if let Some(count) = counts.get_mut(number) {
            *count += 1;
        }
    }
    for number in [1, 2] {
        let lacks = counts.get(number) == Some(&0) && ratio.get(number) > Some(&0);
        if let [largest, val, test] = &mut counts
            && lacks
            && *largest > 1
        {
            *largest -= 1;
            *(if number == 1 { val } else { test }) += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dataset::{Inventory, Resolved};
    use serde_json::json;

    fn images(count: usize, classes: usize) -> Vec<Image> {
        let image = |number: usize| Image {
            key: format!("images/{number:05}.png"),
            id: number.to_string(),
            part: None,
            class: (classes > 0).then(|| format!("c{}", number % classes.max(1))),
        };
        (0..count).map(image).collect()
    }

    fn resolve(images: &[Image], wish: &serde_json::Value) -> Resolved {
        let inventory = Inventory {
            images: images.to_vec(),
            ..Inventory::default()
        };
        Resolved::new(Some(wish), &inventory).unwrap()
    }

    #[test]
    fn the_parts_of_a_known_dataset_never_change() {
        let images = images(10, 0);
        let resolved = resolve(&images, &json!({"method": "auto"}));
        let assignment = assign(&images, &resolved).unwrap();
        let val: Vec<&str> = assignment
            .iter()
            .filter(|(_, part)| *part == Part::Val)
            .map(|(key, _)| key)
            .collect();
        assert_eq!(val, ["images/00001.png", "images/00006.png"]);
        assert_eq!(
            assignment.hash(),
            "f48c07295ea1d240ccb3a10bcb8d6a68ba962f0698fc006daf6bff4fdadb7da5"
        );
    }

    #[test]
    fn small_classes_are_in_both_parts_and_classes_of_one_are_divided_together() {
        let resolved = |images: &[Image]| resolve(images, &json!({"method": "auto"}));
        let small = images(20, 10);
        let assignment = assign(&small, &resolved(&small)).unwrap();
        assert_eq!(
            assignment.counts(),
            [(Part::Train, 10), (Part::Val, 10)].into()
        );
        let single = images(10, 10);
        let assignment = assign(&single, &resolved(&single)).unwrap();
        assert_eq!(
            assignment.counts(),
            [(Part::Train, 8), (Part::Val, 2)].into()
        );
    }

    #[test]
    fn an_empty_part_is_an_error_that_counts() {
        let images = images(3, 0);
        let wish = json!({"method": "auto", "exclude_images": ["0", "1"]});
        let error = assign(&images, &resolve(&images, &wish))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("split_strategy: leaves no images for val: 1 of 3"),
            "{error}"
        );
    }

    proptest! {
        #![proptest_config(crate::cases::cases(64))]

        #[test]
        fn every_image_that_is_not_excluded_has_one_part_in_any_order_of_the_listing(
            count in 6_usize..200,
            classes in 0_usize..4,
            seed in any::<i64>(),
            train in 100_u32..800,
            test in prop::bool::ANY,
            excluded in 0_usize..3,
            order in any::<u64>(),
        ) {
            let listed = images(count, classes);
            let rest = f64::from(1000 - train) / 1000.0;
            let train = f64::from(train) / 1000.0;
            let ratio = if test { vec![train, rest / 2.0, rest / 2.0] } else { vec![train, rest] };
            let names: Vec<String> = (0..excluded).map(|number| number.to_string()).collect();
            let wish = json!({"method": "auto", "ratio": ratio, "seed": seed, "exclude_images": names});
            let resolved = resolve(&listed, &wish);
            let groups = classes.max(1);
            let total = u32::try_from(count - excluded).unwrap();
            let assignment = match assign(&listed, &resolved) {
                Ok(assignment) => assignment,
                // Of so few there is none for each part.
                Err(error) => {
                    let least = ratio.iter().copied().fold(1.0, f64::min) * f64::from(total);
                    prop_assert!(least < f64::from(u32::try_from(groups).unwrap()), "{error}");
                    return Ok(());
                }
            };
            for (number, image) in listed.iter().enumerate() {
                prop_assert_eq!(assignment.part_of(&image.key).is_none(), number < excluded);
            }
            let mut shuffled = listed.clone();
            shuffled.sort_by_key(|image| blake3::hash(format!("{order}{}", image.key).as_bytes()).to_hex());
            prop_assert_eq!(&assign(&shuffled, &resolve(&shuffled, &wish)).unwrap(), &assignment);
            let read = Resolved::read(&resolved.summary(&assignment), resolved.named_parts().as_ref());
            prop_assert_eq!(&assign(&listed, &read.unwrap()).unwrap().hash(), &assignment.hash());
            for (part, share) in Part::ALL.into_iter().zip(ratio) {
                let got = assignment.counts().get(&part).copied().unwrap_or(0);
                let off = (f64::from(u32::try_from(got).unwrap()) - share * f64::from(total)).abs();
                prop_assert!(off <= f64::from(u32::try_from(2 * groups).unwrap()), "{part:?} {got} of {total}");
            }
        }
    }
}
