//! Sets of addresses as disjoint ranges.

use std::collections::BTreeMap;

/// A set of numbers as disjoint ranges that are not adjacent. Every operation costs O(log n) in the number of
/// ranges, plus the ranges it removes, whatever their sizes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeSet {
    /// The last number of each range, by its first.
    ranges: BTreeMap<u128, u128>,
}

impl RangeSet {
    /// Adds `first..=last`, which may be empty.
    pub fn insert(&mut self, first: u128, last: u128) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        // The range before, if it overlaps or is adjacent, then all that begin within.
        if let Some((start, end)) = self.at_or_before(first)
            && end.saturating_add(1) >= first
        {
            self.ranges.remove(&start);
            (first, last) = (start, last.max(end));
        }
        while let Some((start, end)) = self.at_or_after(first)
            && start <= last.saturating_add(1)
        {
            self.ranges.remove(&start);
            last = last.max(end);
        }
        self.ranges.insert(first, last);
    }

    /// Removes `first..=last`, which may be empty.
    pub fn remove(&mut self, first: u128, last: u128) {
        if first > last {
            return;
        }
        if let Some((start, end)) = self.at_or_before(first)
            && end >= first
        {
            self.ranges.remove(&start);
            self.keep(start, first.checked_sub(1));
            if end > last {
                self.ranges.insert(last + 1, end);
            }
        }
        while let Some((start, end)) = self.at_or_after(first)
            && start <= last
        {
            self.ranges.remove(&start);
            if end > last {
                self.ranges.insert(last + 1, end);
            }
        }
    }

    fn keep(&mut self, start: u128, end: Option<u128>) {
        if let Some(end) = end.filter(|end| start <= *end) {
            self.ranges.insert(start, end);
        }
    }

    pub fn contains(&self, number: u128) -> bool {
        self.at_or_before(number).is_some_and(|(_, end)| end >= number)
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The number of elements, saturating at u128::MAX.
    pub fn len(&self) -> u128 {
        let sizes = self.ranges.iter().map(|(first, last)| (last - first).saturating_add(1));
        sizes.fold(0, u128::saturating_add)
    }

    /// The ranges in ascending order.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = (u128, u128)> + '_ {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    pub fn first(&self) -> Option<u128> {
        self.ranges.first_key_value().map(|(first, _)| *first)
    }

    pub fn last(&self) -> Option<u128> {
        self.ranges.last_key_value().map(|(_, last)| *last)
    }

    /// The lowest element that is at least `from`.
    pub fn next(&self, from: u128) -> Option<u128> {
        if self.contains(from) { Some(from) } else { self.at_or_after(from).map(|(start, _)| start) }
    }

    /// The lowest number from `from` on that is no element.
    pub fn next_gap(&self, from: u128) -> Option<u128> {
        match self.at_or_before(from) {
            Some((_, end)) if end >= from => end.checked_add(1),
            _ => Some(from),
        }
    }

    /// The first elements from `first` to `last`, as a range.
    pub fn overlap(&self, first: u128, last: u128) -> Option<(u128, u128)> {
        let start = self.next(first).filter(|start| *start <= last)?;
        let end = self.next_gap(start).map_or(u128::MAX, |gap| gap - 1);
        Some((start, end.min(last)))
    }

    pub fn add_all(&mut self, other: &Self) {
        other.ranges().for_each(|(first, last)| self.insert(first, last));
    }

    pub fn remove_all(&mut self, other: &Self) {
        other.ranges().for_each(|(first, last)| self.remove(first, last));
    }

    fn at_or_before(&self, number: u128) -> Option<(u128, u128)> {
        self.ranges.range(..=number).next_back().map(|(first, last)| (*first, *last))
    }

    fn at_or_after(&self, number: u128) -> Option<(u128, u128)> {
        self.ranges.range(number..).next().map(|(first, last)| (*first, *last))
    }
}

impl FromIterator<(u128, u128)> for RangeSet {
    fn from_iter<T: IntoIterator<Item = (u128, u128)>>(ranges: T) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|(first, last)| set.insert(first, last));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_reach_to_both_ends_of_u128() {
        let mut set = RangeSet::default();
        set.insert(0, u128::MAX);
        assert_eq!(set.len(), u128::MAX);
        assert_eq!(set.next_gap(5), None);
        set.remove(u128::MAX, u128::MAX);
        set.remove(0, 0);
        assert_eq!(set.ranges().collect::<Vec<_>>(), [(1, u128::MAX - 1)]);
        set.insert(u128::MAX, u128::MAX);
        assert_eq!(set.last(), Some(u128::MAX));
    }

    proptest! {
        // A failing input becomes a test of its own, not an entry in a file.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_range_set_equals_a_set_of_single_numbers(edits in prop::collection::vec((any::<bool>(), 0_u128..60, 0_u128..12), 0..60)) {
            let (mut set, mut expected) = (RangeSet::default(), BTreeSet::new());
            for (add, first, size) in edits {
                let last = first + size;
                if add {
                    set.insert(first, last);
                    expected.extend(first..=last);
                } else {
                    set.remove(first, last);
                    expected.retain(|number| !(first..=last).contains(number));
                }
                prop_assert_eq!(set.len(), expected.len() as u128);
                for number in 0..80 {
                    prop_assert_eq!(set.contains(number), expected.contains(&number));
                    prop_assert_eq!(set.next(number), expected.range(number..).next().copied());
                    let gap = (number..).find(|number| !expected.contains(number));
                    prop_assert_eq!(set.next_gap(number), gap);
                }
                let overlap = set.overlap(20, 40);
                let first = expected.range(20..=40).next().copied();
                prop_assert_eq!(overlap.map(|(first, _)| first), first);
                let is_last = |last| last == 40 || !expected.contains(&(last + 1));
                let inside = |(first, last)| {
                    is_last(last) && (first..=last).all(|number| expected.contains(&number))
                };
                prop_assert!(overlap.is_none_or(inside));
                let ranges: Vec<_> = set.ranges().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", ranges);
            }
        }
    }
}
