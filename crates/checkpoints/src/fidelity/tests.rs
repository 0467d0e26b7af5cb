//! What is told apart, and what is not.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::*;

fn of<T: Serialize + ?Sized>(value: &T) -> u64 {
    fingerprint(value, false).unwrap()
}

#[test]
fn kinds_and_widths_differ() {
    let digests = HashSet::from([
        of(&1_u8),
        of(&1_u16),
        of(&1_i64),
        of(&1_u128),
        of(&(1_u128 << 64)),
        of(&true),
        of(&1.0_f64),
        of("1"),
        of(&'1'),
        of(&()),
        of(&None::<u8>),
        of(&Some(1_u8)),
        of(&Some(Some(1_u8))),
        of(&(1_u8, 2_u8)),
        of(&(2_u8, 1_u8)),
        of(&[0_u8; 0]),
        of(&vec![0_u8]),
        of(&vec![0_u8, 0]),
        of(&BTreeMap::from([(1_u8, 2_u8)])),
        of(&BTreeMap::from([(2_u8, 1_u8)])),
        of(&Ok::<u8, u8>(1)),
        of(&Err::<u8, u8>(1)),
    ]);
    assert_eq!(digests.len(), 22);
}

#[test]
fn hash_maps_and_hash_sets_of_the_same_content_are_the_same() {
    let forward: HashMap<u32, String> = (0..100).map(|n| (n, n.to_string())).collect();
    let backward: HashMap<u32, String> = (0..100).rev().map(|n| (n, n.to_string())).collect();
    assert_eq!(of(&forward), of(&backward));
    let forward: HashSet<u32> = (0..100).collect();
    let backward: HashSet<u32> = (0..100).rev().collect();
    assert_eq!(of(&forward), of(&backward));
}
