//! Our own answers, ready to send. The same question gets the same bytes until anything in the cluster changes, so most
//! queries are answered without decoding them: one look into a map, one copy, and the id.

use std::collections::HashMap;

use parking_lot::RwLock;

use super::packet;

/// Answers kept at most; beyond it all go.
const ENTRIES_MAX: usize = 4_096;
/// Longer queries carry something unusual.
const QUERY_LEN_MAX: usize = 320;

#[derive(Default)]
struct Shelf {
    /// What the directory had counted when these answers were made.
    generation: u64,
    answers: HashMap<Box<[u8]>, Box<[u8]>>,
}

#[derive(Default)]
pub(super) struct Prepared(RwLock<Shelf>);

/// All of a query but its id, with the name in lower case. Queries with one key have one answer.
pub(super) struct QueryKey {
    bytes: [u8; QUERY_LEN_MAX],
    len: usize,
    question_len: usize,
}

impl QueryKey {
    /// Absent for queries that are not worth keeping an answer for.
    pub fn of(query: &[u8]) -> Option<Self> {
        let question_len = packet::question(query)?.len();
        let rest = query.get(2..).filter(|r| r.len() <= QUERY_LEN_MAX)?;
        let mut key = Self { bytes: [0; QUERY_LEN_MAX], len: rest.len(), question_len };
        key.bytes[..rest.len()].copy_from_slice(rest);
        let name = packet::HEADER_LEN - 2..packet::HEADER_LEN - 2 + question_len - 4;
        key.bytes[name].make_ascii_lowercase();
        Some(key)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Prepared {
    /// Writes the answer to `query` into `out`, in the query's own spelling, if there is one of this generation.
    pub fn get(&self, generation: u64, key: &QueryKey, query: &[u8], out: &mut Vec<u8>) -> bool {
        let shelf = self.0.read();
        let Some(answer) = (shelf.generation == generation).then(|| shelf.answers.get(key.as_bytes())).flatten() else { return false };
        out.clear();
        out.extend_from_slice(answer);
        drop(shelf);
        let question = packet::HEADER_LEN..packet::HEADER_LEN + key.question_len;
        out[..2].copy_from_slice(&query[..2]);
        out[question.clone()].copy_from_slice(&query[question]);
        true
    }

    /// Keeps an answer that was made when the directory had counted `generation`.
    pub fn put(&self, generation: u64, key: &QueryKey, answer: &[u8]) {
        if answer.len() < packet::HEADER_LEN + key.question_len {
            return;
        }
        let mut shelf = self.0.write();
        if shelf.generation != generation || shelf.answers.len() >= ENTRIES_MAX {
            shelf.answers.clear();
            shelf.generation = generation;
        }
        shelf.answers.insert(key.as_bytes().into(), answer.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(id: u8, name: &[u8]) -> Vec<u8> {
        [&[0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8][..], name, &[0, 0, 1, 0, 1]].concat()
    }

    #[test]
    fn an_answer_is_given_again_in_the_askers_spelling_until_something_changes() {
        let prepared = Prepared::default();
        let (first, second) = (query(1, b"abc"), query(2, b"ABC"));
        let answer = [&first[..], b"records"].concat();
        prepared.put(5, &QueryKey::of(&first).unwrap(), &answer);
        let mut out = Vec::new();
        assert!(prepared.get(5, &QueryKey::of(&second).unwrap(), &second, &mut out));
        assert_eq!(out, [&second[..], b"records"].concat());
        assert!(!prepared.get(6, &QueryKey::of(&second).unwrap(), &second, &mut out));
        assert!(!prepared.get(5, &QueryKey::of(&query(1, b"abd")).unwrap(), &second, &mut out));
    }

    #[test]
    fn a_strange_query_has_no_key() {
        assert!(QueryKey::of(&[0; 11]).is_none());
        assert!(QueryKey::of(&[query(1, b"abc"), vec![0; 400]].concat()).is_none());
    }
}
