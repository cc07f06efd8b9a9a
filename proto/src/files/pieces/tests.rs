use super::*;
use proptest::prelude::*;

const P: usize = PIECE as usize;

/// Returns content in which all pieces differ.
fn content(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut reader = Hasher::new_keyed(&[seed; 32]).finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    match bytes {
        [] => vec![bytes],
        _ => bytes.chunks(P).collect(),
    }
}

#[test]
fn the_root_is_the_files_hash_for_sizes_around_every_boundary() {
    for len in [
        0,
        1,
        1024,
        P - 1,
        P,
        P + 1,
        2 * P - 1,
        2 * P,
        3 * P,
        3 * P + 7,
        4 * P,
        5 * P + 1,
        8 * P + 1025,
    ] {
        let bytes = content(len, 1);
        let list = PieceList::of(&bytes);
        assert_eq!(list.root(), Hash::of(&bytes), "{len} bytes");
        assert_eq!(list.count(), pieces(&bytes).len() as u64);
        for (index, piece) in pieces(&bytes).into_iter().enumerate() {
            let index = index as u64;
            assert_eq!(list.verify_piece(index, piece), Ok(()), "{len}: {index}");
            let value = piece_value(len as u64, index, piece).unwrap();
            assert_eq!(list.part(index, 1), [value]);
        }
        assert_eq!(list.verify_piece(list.count(), b""), Err(PieceError::NoPiece(list.count())));
    }
}

#[test]
fn the_list_of_a_file_of_one_piece_is_its_hash() {
    for len in [0, 1, P] {
        let bytes = content(len, 2);
        let hash = Hash::of(&bytes);
        let list = PieceList::single(&hash, len as u64).unwrap();
        assert_eq!(list, PieceList::of(&bytes));
    }
    assert!(PieceList::single(&Hash::of(b""), PIECE + 1).is_none());
}

#[test]
fn a_piece_does_not_pass_for_another() {
    let bytes = content(2 * P, 3);
    let list = PieceList::of(&bytes);
    assert_eq!(list.verify_piece(0, &bytes[P..]), Err(PieceError::BadPiece(0)));
    assert_eq!(list.verify_piece(1, &bytes[..P]), Err(PieceError::BadPiece(1)));
    // Two pieces with the same bytes have different values, because the position is hashed too.
    let same = PieceList::of(&vec![7; 2 * P]);
    assert_ne!(same.values()[0], same.values()[1]);
}

#[test]
fn the_size_of_a_set_is_limited() {
    assert_eq!(PieceSet::of_count(MAX_PIECES + 1), Err(PieceError::TooMany(MAX_PIECES + 1)));
    assert_eq!(PieceSet::of_count(u64::MAX), Err(PieceError::TooMany(u64::MAX)));
    let set = PieceSet::of_count(0).unwrap();
    assert!(set.is_full() && set.is_empty() && set.bits(0, 9).is_empty());
}

#[test]
fn a_wrong_size_shows_in_the_last_piece() {
    let bytes = content(2 * P - 5, 4);
    let list = PieceList::of(&bytes);
    let hash = list.root();
    for size in [P + 1, 2 * P - 6, 2 * P] {
        let lie = PieceList::from_values(size as u64, list.values().to_vec()).unwrap();
        assert_eq!(lie.check(&hash), Ok(()), "the list alone can't show it");
        let mut last = bytes[P..].to_vec();
        last.resize(size - P, 0);
        assert_eq!(lie.verify_piece(1, &last), Err(PieceError::BadPiece(1)));
    }
}

#[test]
fn a_size_is_checked_before_memory_is_taken_for_it() {
    assert_eq!(piece_count(0), Ok(1));
    assert_eq!(piece_count(MAX_FILE), Ok(MAX_FILE / PIECE));
    assert_eq!(piece_count(MAX_FILE + 1), Err(PieceError::TooLarge(MAX_FILE + 1)));
    assert!(IncomingList::new(u64::MAX).is_err());
    assert_eq!(piece_range(u64::MAX, 3), None);
    assert_eq!(piece_range(PIECE + 1, 1), Some(PIECE..PIECE + 1));
    assert_eq!(piece_range(PIECE, 1), None);
    let large = IncomingList::new(MAX_FILE).unwrap();
    assert_eq!(large.values.capacity(), 0);
    assert_eq!(large.next_request(1024), Some((0, 1024)));
}

#[test]
fn a_list_arrives_in_parts() {
    let bytes = content(5 * P + 1, 5);
    let list = PieceList::of(&bytes);
    let mut incoming = IncomingList::new(list.size()).unwrap();
    while let Some((first, count)) = incoming.next_request(4) {
        incoming.push(list.part(first, usize::from(count))).unwrap();
    }
    assert_eq!(incoming.push(&[[0; 32]]), Err(PieceError::Count { given: 7, needed: 6 }));
    assert_eq!(incoming.finish(&list.root()), Ok(list.clone()));

    let mut short = IncomingList::new(list.size()).unwrap();
    short.push(list.part(0, 5)).unwrap();
    assert!(matches!(short.finish(&list.root()), Err(PieceError::Count { .. })));
    assert!(list.part(u64::MAX, 4).is_empty());
    assert_eq!(list.part(4, usize::MAX).len(), 2);
}

proptest! {
    #[test]
    fn any_tree_shape_has_the_files_hash(len in 0usize..200_000, step in 1usize..5000) {
        // With pieces of one chunk and of four chunks, the trees have up to 200 pieces.
        let bytes = content(len, 6);
        for piece in [1024, 4096] {
            let mut hasher = PieceHasher::with_piece(piece);
            for part in bytes.chunks(step) {
                hasher.update(part);
            }
            let list = hasher.finish();
            prop_assert_eq!(list.root(), Hash::of(&bytes));
            prop_assert_eq!(list.size(), len as u64);
        }
    }

    #[test]
    fn an_altered_list_fails(count in 1usize..100, at in any::<prop::sample::Index>(), bit in 0u8..=255) {
        let mut values: Vec<_> = (0..count).map(|i| *Hash::of(&i.to_le_bytes()).as_bytes()).collect();
        let hash = root(&values);
        values[at.index(count)][usize::from(bit / 8)] ^= 1 << (bit % 8);
        let size = count as u64 * PIECE;
        prop_assert_eq!(PieceList::from_values(size, values.clone()).unwrap().check(&hash), Err(PieceError::BadList));
        values.pop();
        prop_assert!(PieceList::from_values(size, values).is_err());
    }

    #[test]
    fn an_encoded_list_is_decoded_unchanged(count in 1usize..50, cut in any::<prop::sample::Index>()) {
        let values: Vec<_> = (0..count).map(|i| *Hash::of(&i.to_le_bytes()).as_bytes()).collect();
        let list = PieceList::from_values(count as u64 * PIECE, values).unwrap();
        let bytes = list.encode();
        prop_assert!(PieceList::decode(bytes[..cut.index(bytes.len())].to_vec().into()).is_err());
        prop_assert_eq!(PieceList::decode(bytes.into()), Ok(list));
    }

    #[test]
    fn a_set_knows_its_pieces(count in 1u64..300, held in proptest::collection::btree_set(0u64..300, 0..300)) {
        let mut set = PieceSet::of_count(count).unwrap();
        for index in &held {
            prop_assert_eq!(set.insert(*index), *index < count);
            prop_assert!(!set.insert(*index));
        }
        let missing: Vec<u64> = (0..count).filter(|index| !held.contains(index)).collect();
        prop_assert_eq!(set.len(), count - missing.len() as u64);
        prop_assert_eq!(set.is_full(), missing.is_empty());
    }

    #[test]
    fn the_bits_of_a_set_make_an_equal_set(count in 0u64..3000, held in proptest::collection::btree_set(0u64..3000, 0..99), part in 1usize..40) {
        let mut set = PieceSet::of_count(count).unwrap();
        held.iter().for_each(|index| { set.insert(*index); });
        let (mut again, mut first, mut new) = (PieceSet::of_count(count).unwrap(), 0, 0);
        loop {
            let bits = set.bits(first, part);
            if bits.is_empty() {
                break;
            }
            prop_assert!(bits.len() <= part);
            new += again.insert_bits(first, &bits).unwrap();
            first += bits.len() as u64 * 8;
        }
        prop_assert_eq!(first, count.div_ceil(8) * 8);
        prop_assert_eq!(new, set.len());
        prop_assert_eq!(again.insert_bits(0, &set.bits(0, 1000)), Ok(0));
        prop_assert_eq!(&again, &set);
        (0..count).for_each(|piece| { set.insert(piece); });
        prop_assert!(set.is_full() && (0..count).all(|piece| set.contains(piece)));
        prop_assert!(!set.contains(count));
    }

    #[test]
    fn bits_are_refused_if_and_only_if_one_is_beyond_the_last_piece(count in 0u64..100, first in any::<u64>(), bits in any::<Vec<u8>>()) {
        let mut set = PieceSet::of_count(count).unwrap();
        for first in [first, first % 128] {
            let fits = bits.iter().zip(0u64..).all(|(byte, at)| {
                (0..8).all(|bit| byte >> bit & 1 == 0 || first.saturating_add(at * 8 + bit) < count)
            });
            prop_assert_eq!(set.insert_bits(first, &bits).is_ok(), fits);
        }
        prop_assert_eq!(set.len(), (0..count).filter(|piece| set.contains(*piece)).count() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_altered_piece_fails(len in 1usize..(3 * P), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = content(len, 7);
        let list = PieceList::of(&bytes);
        prop_assert_eq!(list.root(), Hash::of(&bytes));
        let at = at.index(len);
        bytes[at] ^= 1 << bit;
        for (index, piece) in pieces(&bytes).into_iter().enumerate() {
            let index = index as u64;
            let expected = if index == (at / P) as u64 { Err(PieceError::BadPiece(index)) } else { Ok(()) };
            prop_assert_eq!(list.verify_piece(index, piece), expected);
            prop_assert!(list.verify_piece(index, &piece[1..]).is_err());
        }
    }
}
