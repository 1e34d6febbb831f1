//! Judges whether what concurrent clients were told can have happened one after the other (linearizability, as porcupine checks
//! it: Wing and Gong's search, with Lowe's memory of the places where it has been). The model is what the API promises of a few
//! objects of one resource: create, conditional and unconditional writes, reads and lists, with resource versions that only grow.

use std::collections::{BTreeMap, HashSet};

/// An object as somebody saw it. Each write has a value of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    pub value: u64,
    pub version: u64,
}

/// What a client asked for; keys are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Create {
        key: usize,
        value: u64,
    },
    /// Replaces what the client has seen, or whatever is there.
    Write {
        key: usize,
        value: u64,
        expected: Option<Seen>,
    },
    Delete {
        key: usize,
        expected: Option<Seen>,
    },
    Get {
        key: usize,
    },
    List,
}

/// What it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A write at this resource version.
    Written(u64),
    Deleted,
    Found(Seen),
    Listed {
        version: u64,
        objects: BTreeMap<usize, Seen>,
    },
    NotFound,
    Exists,
    Conflict,
    /// No answer came: the write has happened or it has not.
    Nothing,
}

/// One request, between the moments of its call and of its answer.
#[derive(Clone, Debug)]
pub struct Operation {
    pub called: u64,
    /// Of a request without an answer: when it can no longer happen; [`NEVER`] if it always can.
    pub returned: u64,
    pub ask: Ask,
    pub told: Told,
}

/// An answer that never comes.
pub const NEVER: u64 = u64::MAX;

/// An object in the model. The version of a write that was not answered lies between two others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Slot {
    value: u64,
    low: u64,
    high: u64,
}

impl Slot {
    fn is(&self, seen: Seen) -> bool {
        self.value == seen.value && (self.low..=self.high).contains(&seen.version)
    }
}

/// The objects, and a version that nothing later is below.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    slots: BTreeMap<usize, Slot>,
    version: u64,
}

impl State {
    /// What a list has shown.
    pub fn listed(version: u64, objects: &BTreeMap<usize, Seen>) -> Self {
        let slots = objects.iter().map(|(key, s)| (*key, Slot { value: s.value, low: s.version, high: s.version })).collect();
        Self { slots, version }
    }

    /// Nothing that is there without a known version was written after this one.
    fn reach(&mut self, version: u64) {
        self.slots.values_mut().filter(|s| s.high == NEVER).for_each(|s| s.high = version);
        self.version = version;
    }

    fn write(&self, key: usize, value: u64, version: Option<u64>) -> Option<Self> {
        let mut next = self.clone();
        let slot = match version {
            Some(version) if version <= self.version => return None,
            Some(version) => {
                next.reach(version - 1);
                next.version = version;
                Slot { value, low: version, high: version }
            }
            None => {
                next.version += 1;
                Slot { value, low: next.version, high: NEVER }
            }
        };
        next.slots.insert(key, slot);
        Some(next)
    }

    fn delete(&self, key: usize) -> Option<Self> {
        let mut next = self.clone();
        next.slots.remove(&key)?;
        next.version += 1;
        Some(next)
    }

    fn holds(&self, key: usize, expected: Option<Seen>) -> bool {
        self.slots.get(&key).is_some_and(|slot| expected.is_none_or(|seen| slot.is(seen)))
    }

    /// The state after a read has shown an object.
    fn found(&self, key: usize, seen: Seen) -> Option<Self> {
        let mut next = self.clone();
        let slot = next.slots.get_mut(&key).filter(|slot| slot.is(seen))?;
        (slot.low, slot.high) = (seen.version, seen.version);
        next.version = next.version.max(seen.version);
        Some(next)
    }

    /// The states in which this operation, happening now, may leave things.
    fn after(&self, operation: &Operation) -> Vec<Self> {
        let same = |holds: bool| holds.then(|| self.clone());
        let one = match (&operation.ask, &operation.told) {
            (ask, Told::Nothing) => {
                let happened = match *ask {
                    Ask::Create { key, value } => (!self.slots.contains_key(&key)).then(|| self.write(key, value, None)).flatten(),
                    Ask::Write { key, value, expected } => self.holds(key, expected).then(|| self.write(key, value, None)).flatten(),
                    Ask::Delete { key, expected } => self.holds(key, expected).then(|| self.delete(key)).flatten(),
                    Ask::Get { .. } | Ask::List => None,
                };
                // Whether it happened is not known: first that it did not.
                return std::iter::once(self.clone()).chain(happened).collect();
            }
            (Ask::Create { key, value }, Told::Written(version)) => (!self.slots.contains_key(key)).then(|| self.write(*key, *value, Some(*version))).flatten(),
            (Ask::Write { key, value, expected }, Told::Written(version)) => {
                self.holds(*key, *expected).then(|| self.write(*key, *value, Some(*version))).flatten()
            }
            (Ask::Delete { key, expected }, Told::Deleted) => self.holds(*key, *expected).then(|| self.delete(*key)).flatten(),
            (Ask::Create { key, .. }, Told::Exists) => same(self.slots.contains_key(key)),
            (Ask::Write { key, expected, .. } | Ask::Delete { key, expected }, Told::Conflict) => {
                let slot = self.slots.get(key);
                same(expected.is_some() && slot.is_some() && !self.holds(*key, *expected))
            }
            (Ask::Write { key, .. } | Ask::Delete { key, .. } | Ask::Get { key }, Told::NotFound) => same(!self.slots.contains_key(key)),
            (Ask::Get { key }, Told::Found(seen)) => self.found(*key, *seen),
            (Ask::List, Told::Listed { version, objects }) => self.list(*version, objects),
            _ => None,
        };
        one.into_iter().collect()
    }

    fn list(&self, version: u64, objects: &BTreeMap<usize, Seen>) -> Option<Self> {
        if version < self.version || !self.slots.keys().eq(objects.keys()) {
            return None;
        }
        let mut next = objects.iter().try_fold(self.clone(), |state, (key, seen)| state.found(*key, *seen))?;
        if next.version > version {
            return None;
        }
        next.reach(version);
        Some(next)
    }
}

/// Which operations have happened.
type Done = Vec<u64>;

fn has(done: &Done, index: usize) -> bool {
    done[index / 64] >> (index % 64) & 1 == 1
}

/// A place of the search: what has happened, what that left, and where to go on from here.
struct Place {
    done: Done,
    state: State,
    ways: Vec<(usize, State)>,
}

/// Whether the operations can have happened one after the other from `begin` on, each between its call and its answer.
///
/// # Errors
/// The longest orders that were found, and what does not fit behind them.
pub fn check(begin: &State, operations: &[Operation]) -> Result<(), String> {
    let mut sorted: Vec<&Operation> = operations.iter().collect();
    sorted.sort_by_key(|o| o.called);
    let mut been = HashSet::new();
    let mut longest: (usize, Option<(Done, State)>) = (0, None);
    let begin = Place { done: vec![0; sorted.len().div_ceil(64).max(1)], state: begin.clone(), ways: Vec::new() };
    let mut path = Vec::new();
    if enter(begin, &sorted, &mut path) {
        return Ok(());
    }
    while let Some(place) = path.last_mut() {
        let Some((index, state)) = place.ways.pop() else {
            path.pop();
            continue;
        };
        let mut done = place.done.clone();
        done[index / 64] |= 1 << (index % 64);
        if !been.insert((done.clone(), state.clone())) {
            continue;
        }
        if path.len() > longest.0 {
            longest = (path.len(), Some((done.clone(), state.clone())));
        }
        if enter(Place { done, state, ways: Vec::new() }, &sorted, &mut path) {
            return Ok(());
        }
    }
    let (done, state) = longest.1.unwrap_or_else(|| (vec![0; sorted.len().div_ceil(64).max(1)], State::default()));
    let left: Vec<_> = sorted.iter().enumerate().filter(|(i, _)| !has(&done, *i)).map(|(_, o)| format!("{o:?}")).take(12).collect();
    Err(format!("after {} of {} operations the state is {state:?}, and none of these can be next:\n{}", longest.0, sorted.len(), left.join("\n")))
}

/// Goes to a place and finds its ways on. True when everything that must happen has.
fn enter(mut place: Place, sorted: &[&Operation], path: &mut Vec<Place>) -> bool {
    let left = || sorted.iter().enumerate().filter(|(index, _)| !has(&place.done, *index));
    let deadline = left().map(|(_, o)| o.returned).min().unwrap_or(NEVER);
    if deadline == NEVER {
        return true;
    }
    let mut ways: Vec<(usize, State)> = Vec::new();
    for (index, operation) in left().take_while(|(_, o)| o.called <= deadline) {
        for next in place.state.after(operation) {
            // What may happen at any time and changes nothing need not be tried.
            if operation.returned != NEVER || next != place.state {
                ways.push((index, next));
            }
        }
    }
    // The last is tried first: what was answered soonest; what may never have happened comes at the end.
    ways.sort_by_key(|(index, _)| std::cmp::Reverse((sorted[*index].told == Told::Nothing, sorted[*index].returned)));
    place.ways = ways;
    path.push(place);
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn op(called: u64, returned: u64, ask: Ask, told: Told) -> Operation {
        Operation { called, returned, ask, told }
    }

    fn seen(value: u64, version: u64) -> Seen {
        Seen { value, version }
    }

    fn create(called: u64, returned: u64, value: u64, told: Told) -> Operation {
        op(called, returned, Ask::Create { key: 0, value }, told)
    }

    fn write(called: u64, returned: u64, value: u64, expected: Option<Seen>, told: Told) -> Operation {
        op(called, returned, Ask::Write { key: 0, value, expected }, told)
    }

    fn get(called: u64, returned: u64, told: Told) -> Operation {
        op(called, returned, Ask::Get { key: 0 }, told)
    }

    fn list(called: u64, returned: u64, version: u64, objects: &[(usize, Seen)]) -> Operation {
        op(called, returned, Ask::List, Told::Listed { version, objects: objects.iter().copied().collect() })
    }

    fn is_good(operations: &[Operation]) -> bool {
        check(&State::default(), operations).is_ok()
    }

    #[test]
    fn histories_that_can_have_happened_are_accepted() {
        use Told::{Conflict, Deleted, Exists, Found, NotFound, Nothing, Written};
        assert!(is_good(&[]));
        assert!(is_good(&[create(0, 1, 7, Written(1)), get(2, 3, Found(seen(7, 1))), create(4, 5, 8, Exists)]));
        // Concurrent: the read may be before or after.
        for told in [NotFound, Found(seen(7, 1))] {
            assert!(is_good(&[create(0, 3, 7, Written(1)), get(1, 2, told)]));
        }
        // A write without an answer is seen, or it never is.
        assert!(is_good(&[create(0, NEVER, 7, Nothing), get(1, 2, NotFound), get(3, 4, Found(seen(7, 5)))]));
        assert!(is_good(&[create(0, NEVER, 7, Nothing), get(1, 2, NotFound), create(3, 4, 8, Written(1))]));
        // Of two with the same condition one wins.
        let same = Some(seen(1, 1));
        assert!(is_good(&[create(0, 1, 1, Written(1)), write(2, 5, 2, same, Written(2)), write(3, 4, 3, same, Conflict)]));
        let delete = op(2, 3, Ask::Delete { key: 0, expected: None }, Deleted);
        assert!(is_good(&[create(0, 1, 1, Written(1)), delete, get(4, 5, NotFound), create(6, 7, 2, Written(3))]));
        assert!(is_good(&[create(0, 9, 1, Written(1)), list(1, 2, 0, &[]), list(3, 4, 1, &[(0, seen(1, 1))])]));
    }

    #[test]
    fn histories_that_cannot_have_happened_are_refused() {
        use Told::{Conflict, Exists, Found, NotFound, Nothing, Written};
        let made = create(0, 1, 1, Written(1));
        let same = Some(seen(1, 1));
        let bad: &[(&str, Vec<Operation>)] = &[
            ("a lost write", vec![made.clone(), get(2, 3, NotFound)]),
            ("a stale read", vec![made.clone(), write(2, 3, 2, None, Written(2)), get(4, 5, Found(seen(1, 1)))]),
            ("a lost update", vec![made.clone(), write(2, 5, 2, same, Written(2)), write(3, 4, 3, same, Written(3))]),
            ("made twice", vec![made.clone(), create(2, 3, 2, Written(2))]),
            ("a version given twice", vec![made.clone(), write(2, 3, 2, same, Written(1))]),
            ("a version that goes back", vec![create(0, 1, 1, Written(5)), write(2, 3, 2, None, Written(4))]),
            ("another version than was given", vec![made.clone(), get(2, 3, Found(seen(1, 2)))]),
            ("from nowhere", vec![made.clone(), get(2, 3, Found(seen(9, 2)))]),
            ("there and gone again", vec![create(0, NEVER, 7, Nothing), get(1, 2, Found(seen(7, 1))), get(3, 4, NotFound)]),
            ("a conflict with nobody", vec![made.clone(), write(2, 3, 2, same, Conflict)]),
            ("exists, but nobody made it", vec![create(0, 1, 1, Exists)]),
            ("an old list", vec![made.clone(), list(2, 3, 1, &[])]),
            ("a list of a version that was not yet", vec![made.clone(), list(2, 3, 0, &[(0, seen(1, 1))])]),
            ("a write at a version that a list has shown", vec![made.clone(), list(2, 3, 2, &[(0, seen(1, 1))]), write(4, 5, 2, None, Written(2))]),
            ("after its deadline", vec![create(0, 5, 7, Nothing), get(6, 7, NotFound), get(8, 9, Found(seen(7, 1)))]),
            (
                "a list that tears two writes apart",
                vec![made.clone(), op(2, 3, Ask::Create { key: 1, value: 2 }, Written(2)), list(0, 9, 2, &[(1, seen(2, 2))])],
            ),
            (
                "an unanswered write with a version from before an earlier one",
                vec![
                    made,
                    op(2, NEVER, Ask::Create { key: 1, value: 2 }, Nothing),
                    write(3, 4, 3, None, Written(7)),
                    op(5, 6, Ask::Get { key: 1 }, Found(seen(2, 1))),
                ],
            ),
        ];
        for (what, operations) in bad {
            assert!(check(&State::default(), operations).is_err(), "{what}");
        }
    }

    /// Every order, without wit.
    fn happens(state: &State, left: &[Operation]) -> bool {
        if left.iter().all(|o| o.returned == NEVER) {
            return true;
        }
        (0..left.len()).any(|i| {
            let is_next = left.iter().all(|other| left[i].called <= other.returned);
            let rest: Vec<Operation> = left.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, o)| o.clone()).collect();
            is_next && state.after(&left[i]).iter().any(|next| happens(next, &rest))
        })
    }

    /// What an honest server may have told: each operation happens at a moment between its call and its answer.
    fn honest(random: &mut StdRng, count: usize) -> Vec<Operation> {
        let mut moments: Vec<u64> = (0..count as u64).map(|i| 10 * i + 5).collect();
        let (mut objects, mut version, mut history) = (BTreeMap::<usize, Seen>::new(), 0, Vec::new());
        for (value, moment) in moments.drain(..).enumerate() {
            let value = value as u64;
            let key = random.random_range(0..2);
            let there = objects.get(&key).copied();
            let expected = there.filter(|_| random.random());
            let step = random.random_range(1..3);
            let mut put = |objects: &mut BTreeMap<usize, Seen>| {
                version += step;
                objects.insert(key, Seen { value, version });
                Told::Written(version)
            };
            let (ask, told) = match random.random_range(0..6) {
                0 => (Ask::Get { key }, there.map_or(Told::NotFound, Told::Found)),
                1 => (Ask::List, Told::Listed { version, objects: objects.clone() }),
                2 if there.is_some() => {
                    objects.remove(&key);
                    version += 1;
                    (Ask::Delete { key, expected }, Told::Deleted)
                }
                3 | 4 if there.is_some() => (Ask::Write { key, value, expected }, put(&mut objects)),
                _ if there.is_some() => (Ask::Create { key, value }, Told::Exists),
                _ => (Ask::Create { key, value }, put(&mut objects)),
            };
            let is_lost = matches!(told, Told::Written(_) | Told::Deleted) && random.random_ratio(1, 5);
            let (returned, told) = if is_lost { (NEVER, Told::Nothing) } else { (moment + random.random_range(1..30), told) };
            history.push(Operation { called: moment - random.random_range(1..30).min(moment), returned, ask, told });
        }
        history
    }

    #[test]
    fn honest_histories_are_accepted_and_others_judged_as_by_trying_every_order() {
        let mut random = StdRng::seed_from_u64(1);
        let mut refused = 0;
        for _ in 0..300 {
            let history = honest(&mut random, 40);
            check(&State::default(), &history).unwrap_or_else(|e| panic!("{e}\n{history:#?}"));
        }
        for _ in 0..400 {
            let mut history = honest(&mut random, 6);
            let (i, j) = (random.random_range(0..6), random.random_range(0..6));
            let told = history[i].told.clone();
            history[i].told = std::mem::replace(&mut history[j].told, told);
            let good = check(&State::default(), &history).is_ok();
            refused += usize::from(!good);
            assert_eq!(good, happens(&State::default(), &history), "{history:#?}");
        }
        assert!((50..350).contains(&refused), "{refused} of 400");
    }
}
