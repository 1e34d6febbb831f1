//! Shuffle sharding: each flow is dealt a small hand of queues, and takes the shortest of them. Two flows seldom share a whole
//! hand, so a flow that floods its queues leaves the others one that is free (upstream: `util/shufflesharding`).

/// Largest hand that 60 bits can deal.
pub const HAND_MAX: usize = 15;
/// Bits of a flow's hash that may be used up.
const HASH_BITS_MAX: f64 = 60.0;
/// Larger decks are refused.
const DECK_MAX: usize = 1 << 26;

/// Bits that dealing such a hand takes, a little too many.
fn entropy_bits(deck: usize, hand: usize) -> f64 {
    ((deck as f64).log2() * hand as f64).ceil()
}

/// Whether hands of this size can be dealt out of a deck of this size.
pub fn is_possible(deck: usize, hand: usize) -> bool {
    (1..=HAND_MAX).contains(&hand) && hand <= deck && deck <= DECK_MAX && entropy_bits(deck, hand) <= HASH_BITS_MAX
}

/// Deals a hand of different cards of `0..deck`; every hand is as likely as any other. The numbers must be
/// [possible](is_possible).
pub fn deal(mut hash: u64, deck: usize, hand: usize) -> ([usize; HAND_MAX], usize) {
    // Each draw is a place among the cards that are left.
    let mut places = [0; HAND_MAX];
    for (i, place) in places.iter_mut().enumerate().take(hand) {
        let left = (deck - i) as u64;
        *place = (hash % left) as usize;
        hash /= left;
    }
    // To undo the draws before it, the latest first, says which card that was.
    let mut cards = [0; HAND_MAX];
    for i in 0..hand {
        cards[i] = (0..i).rev().fold(places[i], |card, earlier| card + usize::from(card >= places[earlier]));
    }
    (cards, hand)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn hand(hash: u64, deck: usize, size: usize) -> Vec<usize> {
        let (cards, size) = deal(hash, deck, size);
        cards[..size].to_vec()
    }

    #[test]
    fn a_hand_has_no_card_twice() {
        for hash in (0..2000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let cards = hand(hash, 64, 6);
            assert!(cards.iter().all(|c| *c < 64), "{cards:?}");
            assert_eq!(cards.iter().collect::<BTreeSet<_>>().len(), 6, "{cards:?}");
        }
    }

    #[test]
    fn all_hands_are_dealt() {
        // 4 * 3 * 2 orders of three cards out of four.
        let hands: BTreeSet<Vec<usize>> = (0..24).map(|hash| hand(hash, 4, 3)).collect();
        assert_eq!(hands.len(), 24);
        assert_eq!(hand(0, 128, 4), [0, 1, 2, 3]);
    }

    #[test]
    fn impossible_hands_are_refused() {
        assert!(is_possible(128, 6) && is_possible(1, 1) && is_possible(16, 15));
        assert!(!is_possible(4, 5) && !is_possible(4, 0) && !is_possible(1 << 20, 4) && !is_possible(0, 0));
    }
}
