//! Numbers that check themselves.

use std::sync::LazyLock;

use regex::Regex;

/// How the numbers of the cards begin, and how long they are then.
static CARD: LazyLock<Regex> = LazyLock::new(|| {
    let visa = "4[0-9]{12}(?:[0-9]{3})?";
    let mastercard = "5[1-5][0-9]{14}";
    let discover = "6(?:011|5[0-9][0-9])[0-9]{12}";
    let american_express = "3[47][0-9]{13}";
    let diners = "3(?:0[0-5]|[68][0-9])[0-9]{11}";
    let jcb = "(?:2131|1800|35[0-9]{3})[0-9]{11}";
    Regex::new(&format!("^(?:{visa}|{mastercard}|{discover}|{american_express}|{diners}|{jcb})$")).expect("the pattern is constant")
});

/// A card's number by its sum (Luhn's), with anything between its digits.
pub fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let twice = |n: u32| if n >= 5 { n * 2 - 9 } else { n * 2 };
    let sum: u32 = digits.bytes().rev().map(|b| u32::from(b - b'0')).enumerate().map(|(i, n)| if i % 2 == 1 { twice(n) } else { n }).sum();
    CARD.is_match(&digits) && sum.is_multiple_of(10)
}

/// The digits of a book's number, which may stand apart.
fn joined(text: &str) -> Vec<u8> {
    text.bytes().filter(|b| !matches!(b, b' ' | b'\t' | b'\n' | 0x0c | b'\r' | b'-')).collect()
}

fn values(digits: &[u8]) -> Option<Vec<u32>> {
    digits.iter().map(|b| char::from(*b).to_digit(10)).collect()
}

/// Nine digits and one that checks them, which may be X.
pub fn is_isbn10(text: &str) -> bool {
    let joined = joined(text);
    let (Some((last, digits)), 10) = (joined.split_last(), joined.len()) else { return false };
    let last = if *last == b'X' { Some(10) } else { char::from(*last).to_digit(10) };
    values(digits).zip(last).is_some_and(|(digits, last)| (digits.iter().zip(1..).map(|(n, weight)| n * weight).sum::<u32>() + 10 * last).is_multiple_of(11))
}

/// Thirteen digits, the last of which checks the others.
pub fn is_isbn13(text: &str) -> bool {
    let joined = joined(text);
    let weighed = |digits: Vec<u32>| digits.iter().enumerate().map(|(i, n)| if i % 2 == 1 { 3 * n } else { *n }).sum::<u32>();
    joined.len() == 13 && values(&joined).is_some_and(|digits| weighed(digits).is_multiple_of(10))
}
