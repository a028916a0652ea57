//! The preferred holder of each group. Every node computes the same from the same Leases.
//!
//! A holder keeps a group while the distribution is fair: the loss of a node moves its own groups only, and a node that comes
//! back gets its share. Free groups are assigned by rendezvous hashing (Thaler and Ravishankar, 1998) among the nodes with
//! less than their share.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use crate::model::hash::fnv1a;

/// A node's weight for a key.
fn score(node: &str, what: impl Display) -> u64 {
    // FNV's upper bits change little with the last byte: mix once more (the finalizer of MurmurHash3).
    let mut mixed = fnv1a(format!("{node}/{what}").as_bytes());
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(factor);
    }
    mixed ^ (mixed >> 33)
}

/// The rank of `me` among `others` for a key.
pub fn rank<'a>(me: &str, others: impl Iterator<Item = &'a str>, what: impl Display) -> usize {
    let mine = score(me, &what);
    others.filter(|other| *other != me && score(other, &what) > mine).count()
}

/// At most `most` candidates for each group, in order of preference, given the present `holders`. Shares differ by at most
/// one group.
pub fn candidates(
    groups: usize,
    members: &BTreeSet<String>,
    holders: &BTreeMap<usize, String>,
    most: usize,
) -> Vec<Vec<String>> {
    let chosen = assign(groups, members, holders);
    let list = |group: usize| {
        let first = chosen.get(&group).copied();
        let mut others: Vec<&str> =
            members.iter().map(String::as_str).filter(|node| Some(*node) != first).collect();
        others.sort_by_key(|node| std::cmp::Reverse(score(node, group)));
        first.into_iter().chain(others).take(most).map(str::to_owned).collect()
    };
    (0..groups).map(list).collect()
}

fn assign<'a>(
    groups: usize,
    members: &'a BTreeSet<String>,
    holders: &BTreeMap<usize, String>,
) -> BTreeMap<usize, &'a str> {
    if members.is_empty() {
        return BTreeMap::new();
    }
    let mut held: BTreeMap<&str, Vec<usize>> =
        members.iter().map(|node| (node.as_str(), Vec::new())).collect();
    for (group, holder) in holders.iter().filter(|(group, _)| **group < groups) {
        if let Some(list) = held.get_mut(holder.as_str()) {
            list.push(*group);
        }
    }
    // The remainder of an uneven division stays with the nodes that hold most.
    let (floor, mut extra) = (groups / members.len(), groups % members.len());
    let mut order: Vec<&str> = held.keys().copied().collect();
    order.sort_by_key(|node| (std::cmp::Reverse(held.get(node).map_or(0, Vec::len)), *node));
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for node in order {
        shares.insert(node, floor + usize::from(extra > 0));
        extra = extra.saturating_sub(1);
    }
    let mut chosen = BTreeMap::new();
    for (node, mut list) in held {
        list.sort_by_key(|group| std::cmp::Reverse(score(node, group)));
        let share = shares.get_mut(node);
        let kept = share.as_ref().map_or(0, |share| **share).min(list.len());
        chosen.extend(list.into_iter().take(kept).map(|group| (group, node)));
        if let Some(share) = share {
            *share -= kept;
        }
    }
    let node_of = |name: &str| members.get(name).map(String::as_str);
    let mut result: BTreeMap<usize, &'a str> =
        chosen.into_iter().filter_map(|(group, node)| Some((group, node_of(node)?))).collect();
    for group in 0..groups {
        if result.contains_key(&group) {
            continue;
        }
        let with_room = shares.iter().filter(|(_, room)| **room > 0).map(|(node, _)| *node);
        let Some(best) = with_room.max_by_key(|node| score(node, group)) else { continue };
        if let Some(room) = shares.get_mut(best) {
            *room -= 1;
        }
        if let Some(node) = members.get(best) {
            result.insert(group, node);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn settled(
        groups: usize,
        members: &BTreeSet<String>,
        holders: &BTreeMap<usize, String>,
    ) -> BTreeMap<usize, String> {
        let lists = candidates(groups, members, holders, 3);
        lists.into_iter().enumerate().map(|(group, list)| (group, list[0].clone())).collect()
    }

    fn shares(holders: &BTreeMap<usize, String>) -> Vec<usize> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        holders.values().for_each(|node| *counts.entry(node).or_default() += 1);
        counts.into_values().collect()
    }

    #[test]
    fn shares_are_even_and_a_loss_moves_the_lost_nodes_groups_alone() {
        for groups in [1, 2, 3, 7, 16, 64] {
            let three = nodes(&["a", "b", "c"]);
            let first = settled(groups, &three, &BTreeMap::new());
            let spread = shares(&first);
            assert!(spread.iter().max().unwrap() - spread.iter().min().unwrap() <= 1, "{groups}: {spread:?}");
            assert_eq!(settled(groups, &three, &first), first, "what is fair stays");
            let two = nodes(&["a", "c"]);
            let after = settled(groups, &two, &first);
            for (group, node) in &first {
                assert!(node == "b" || after[group] == *node, "group {group} moved without need");
            }
            let back = settled(groups, &three, &after);
            let moved = back.iter().filter(|(group, node)| after[group] != **node).count();
            assert_eq!(moved, groups / 3, "a returning node gets its share and no more");
        }
    }

    #[test]
    fn candidates_are_limited_and_all_of_them_members() {
        let five = nodes(&["a", "b", "c", "d", "e"]);
        for list in candidates(20, &five, &BTreeMap::new(), 3) {
            let different: BTreeSet<&String> = list.iter().collect();
            assert_eq!((list.len(), different.len()), (3, 3));
            assert!(list.iter().all(|node| five.contains(node)));
        }
        assert!(candidates(2, &nodes(&[]), &BTreeMap::new(), 3).iter().all(Vec::is_empty));
    }

    #[test]
    fn a_holder_that_is_no_member_is_ignored() {
        let holders = (0..4).map(|group| (group, "gone".to_owned())).collect();
        assert_eq!(shares(&settled(4, &nodes(&["a", "b"]), &holders)), [2, 2]);
    }

    #[test]
    fn every_node_computes_the_same_ranks() {
        let names = ["a", "b", "c", "d"];
        for what in 0..20 {
            let mut ranks: Vec<usize> =
                names.iter().map(|me| rank(me, names.iter().copied(), what)).collect();
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2, 3]);
        }
    }
}
