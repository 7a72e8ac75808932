//! Tables by dense number, and sets of such numbers as bits.
//!
//! Owns nothing but the two containers. A number that is not of its table is a bug of the policy, and panics with
//! words; what comes from outside is looked up by `get`.

use std::{
    marker::PhantomData,
    ops::{Index, IndexMut},
};

/// A number that counts from zero without gaps.
pub trait Dense: Copy {
    /// As a place in a table.
    fn place(self) -> usize;
    /// From a place in a table.
    fn at(place: usize) -> Self;
}

/// Declares such a number.
macro_rules! dense {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);
        impl $crate::sched::policy::dense::Dense for $name {
            fn place(self) -> usize {
                usize::try_from(self.0).unwrap_or(usize::MAX)
            }
            fn at(place: usize) -> Self {
                Self(u32::try_from(place).unwrap_or(u32::MAX))
            }
        }
    };
}
pub(crate) use dense;

/// A table by `K`.
#[derive(Clone, Debug)]
pub struct Table<K, T> {
    rows: Vec<T>,
    key: PhantomData<K>,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            key: PhantomData,
        }
    }
}

impl<K: Dense, T> Table<K, T> {
    /// Adds a row and says its number.
    pub fn push(&mut self, row: T) -> K {
        self.rows.push(row);
        K::at(self.rows.len() - 1)
    }

    /// A row that may not be there.
    #[must_use]
    pub fn get(&self, key: K) -> Option<&T> {
        self.rows.get(key.place())
    }

    /// A row that may not be there, to change it.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.rows.get_mut(key.place())
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        let numbered = self.rows.iter().enumerate();
        numbered.map(|(place, row)| (K::at(place), row))
    }

    /// All rows, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut T)> {
        let numbered = self.rows.iter_mut().enumerate();
        numbered.map(|(place, row)| (K::at(place), row))
    }

    /// All numbers.
    pub fn keys(&self) -> impl Iterator<Item = K> + use<K, T> {
        (0..self.rows.len()).map(K::at)
    }
}

impl<K: Dense, T> Table<K, Option<T>> {
    /// Sets a row, of a table that grows as it has to.
    pub fn set(&mut self, key: K, row: Option<T>) {
        if self.rows.len() <= key.place() {
            if row.is_none() {
                return;
            }
            self.rows.resize_with(key.place() + 1, || None);
        }
        if let Some(place) = self.rows.get_mut(key.place()) {
            *place = row;
        }
    }
}

impl<K: Dense, T> Index<K> for Table<K, T> {
    type Output = T;
    fn index(&self, key: K) -> &T {
        self.rows.get(key.place()).expect("a number of this table")
    }
}

impl<K: Dense, T> IndexMut<K> for Table<K, T> {
    fn index_mut(&mut self, key: K) -> &mut T {
        self.rows
            .get_mut(key.place())
            .expect("a number of this table")
    }
}

impl<K: Dense, T> FromIterator<T> for Table<K, T> {
    fn from_iter<I: IntoIterator<Item = T>>(rows: I) -> Self {
        Self {
            rows: rows.into_iter().collect(),
            key: PhantomData,
        }
    }
}

/// A set of dense numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Puts a number in, or takes it out.
    pub fn set<K: Dense>(&mut self, key: K, on: bool) {
        let (word, bit) = (key.place() / 64, key.place() % 64);
        if self.0.len() <= word {
            if !on {
                return;
            }
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            if on {
                *word |= 1 << bit;
            } else {
                *word &= !(1 << bit);
            }
        }
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether a number is in.
    #[must_use]
    pub fn has<K: Dense>(&self, key: K) -> bool {
        let (word, bit) = (key.place() / 64, key.place() % 64);
        self.0.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// The numbers that are in this set and in `also`, ascending.
    pub fn both<'a, K: Dense + 'a>(&'a self, also: &'a Self) -> impl Iterator<Item = K> + 'a {
        let words = self.0.iter().zip(&also.0).enumerate();
        words.flat_map(|(place, (one, two))| ones(place, one & two))
    }

    /// How many are in this set and in `also`.
    #[must_use]
    pub fn count_both(&self, also: &Self) -> u32 {
        let words = self.0.iter().zip(&also.0);
        words.map(|(one, two)| (one & two).count_ones()).sum()
    }

    /// The numbers of this set that are in `also` too.
    #[must_use]
    pub fn and(&self, also: &Self) -> Self {
        let words = self.0.iter().zip(&also.0);
        Self(words.map(|(one, two)| one & two).collect())
    }

    /// All numbers, ascending.
    pub fn iter<'a, K: Dense + 'a>(&'a self) -> impl Iterator<Item = K> + 'a {
        let words = self.0.iter().enumerate();
        words.flat_map(|(place, word)| ones(place, *word))
    }
}

fn ones<K: Dense>(place: usize, mut word: u64) -> impl Iterator<Item = K> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(K::at(place * 64 + usize::try_from(bit).unwrap_or(0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::policy::cluster::NodeIx as Key;

    #[test]
    fn what_is_put_in_is_found_in_order_until_it_is_taken_out() {
        let mut bits = Bits::default();
        for number in [130, 3, 64] {
            bits.set(Key(number), true);
        }
        assert_eq!(
            bits.iter::<Key>().collect::<Vec<_>>(),
            [Key(3), Key(64), Key(130)]
        );
        bits.set(Key(64), false);
        bits.set(Key(999), false);
        let mut other = Bits::default();
        other.set(Key(3), true);
        other.set(Key(64), true);
        assert_eq!(bits.both::<Key>(&other).collect::<Vec<_>>(), [Key(3)]);
        assert_eq!(bits.count_both(&other), 1);
        assert!(bits.has(Key(130)) && !bits.has(Key(64)));
    }
}
