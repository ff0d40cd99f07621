use pnet_packet::util;
use proptest::prelude::*;

use super::*;
use crate::host::Buffer;

/// The checksum of a text by pnet, which takes the word at `skip` for zero.
fn theirs(text: &[u8], skip: usize) -> u16 {
    util::checksum(text, skip)
}

proptest! {
    #[test]
    fn a_sum_is_what_others_compute(text in prop::collection::vec(any::<u8>(), 4..80)) {
        let even = &text[..text.len() & !1];
        let buffer = Buffer::new(1, &[&[0; 14][..], even].concat());
        let sum = words::<_, 40>(&buffer, 14, even.len() / 2).unwrap();
        prop_assert_eq!(sum.finish(), theirs(even, 1_000));
        prop_assert!(words::<_, 40>(&buffer, 14, even.len() / 2 + 1).is_none());
    }

    #[test]
    fn an_update_is_a_new_sum(mut text: [u8; 40], at in 1usize..20, new: u16) {
        let before = theirs(&text, 0);
        let old = u16::from_be_bytes([text[at * 2], text[at * 2 + 1]]);
        text[at * 2..at * 2 + 2].copy_from_slice(&new.to_be_bytes());
        let after = update(before, Sum(0).word(new).minus(old));
        // Zero has two forms, of which an all-zero text alone has the other one.
        prop_assume!(text[2..].iter().any(|&b| b != 0));
        prop_assert_eq!(after, theirs(&text, 0));
    }

    #[test]
    fn pieces_add_up(a: [u8; 16], b: [u8; 6], c: [u8; 4]) {
        let text = [&a[..], &b, &c].concat();
        let sum = Sum(0).bytes16(&a).bytes6(b).bytes4(c);
        prop_assert_eq!(sum.finish(), theirs(&text, 1_000));
        prop_assert_eq!(sum.less(Sum(0).bytes6(b)).finish(), theirs(&[&a[..], &c].concat(), 1_000));
    }
}

#[test]
fn more_words_than_allowed_are_refused() {
    let buffer = Buffer::new(1, &[1; 100]);
    assert!(words::<_, 8>(&buffer, 0, 8).is_some());
    assert!(words::<_, 8>(&buffer, 0, 9).is_none());
}
