//! From the objects to what requests are judged by (upstream: `cfgMeal` of `apf_controller.go`).

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering::Relaxed};

use http::HeaderValue;
use knarr_core::{Value, ValueExt};
use parking_lot::Mutex;

use super::{
    Level, Room, Schema,
    allocation::{self, Limits},
    ensure, metrics,
    queue_set::{Discipline, QueueSet},
    schema::{CATCH_ALL, EXEMPT, LevelSpec, SchemaSpec},
};

/// All levels and schemas, as of some moment.
pub struct Configuration {
    /// In the order in which they are asked.
    pub schemas: Vec<Arc<Schema>>,
    pub catch_all: Arc<Schema>,
    pub levels: BTreeMap<String, Arc<Level>>,
}

/// Part of a level's seats that one of its requests may take at most (upstream: `priorityLevelMaxSeatsPercent`).
const SEATS_PART_MAX: f64 = 0.15;

impl Configuration {
    /// What holds before there are objects.
    pub fn mandatory(seats: u32, counts: &metrics::All) -> Self {
        build(&BTreeMap::new(), Vec::new(), Vec::new(), seats, 0, counts)
    }

    /// What holds with these objects. Levels keep their requests; those that nobody wants any more go when they are empty.
    pub fn next(&self, levels: Vec<LevelSpec>, schemas: Vec<SchemaSpec>, seats: u32, now: u64, counts: &metrics::All) -> Self {
        build(&self.levels, levels, schemas, seats, now, counts)
    }

    /// Whether a level is configured: what the condition `Dangling` of a schema is about.
    pub fn has_level(&self, name: &str) -> bool {
        self.levels.get(name).is_some_and(|l| !l.room.quiescing.load(Relaxed))
    }

    /// Adjusts the seats of all levels to what they could use. Gives the fair fraction.
    pub fn adjust(&self, now: u64) -> f64 {
        let mut problem = Vec::with_capacity(self.levels.len());
        for level in self.levels.values() {
            let mut set = level.room.set.lock();
            set.advance(now);
            let mut adjusted = level.room.adjusted.lock();
            adjusted.demand.update(set.demand.reset());
            problem.push(allocation::Level { exempt: level.is_exempt(), limits: level.limits, demand: adjusted.demand, current: set.limit() });
        }
        let (shares, fair) = allocation::share_out(&problem);
        for (level, share) in self.levels.values().zip(shares) {
            level.room.adjusted.lock().target = share.target;
            level.room.set.lock().configure(now, level.spec.discipline, share.seats);
        }
        fair
    }
}

impl Level {
    fn is_exempt(&self) -> bool {
        self.spec.discipline == Discipline::Exempt
    }
}

fn build(
    before: &BTreeMap<String, Arc<Level>>,
    mut levels: Vec<LevelSpec>,
    schemas: Vec<SchemaSpec>,
    seats: u32,
    now: u64,
    counts: &metrics::All,
) -> Configuration {
    let wanted: Vec<String> = levels.iter().map(|l| l.name.clone()).collect();
    for name in [EXEMPT, CATCH_ALL] {
        if !wanted.iter().any(|w| w == name) {
            levels.extend(
                before.get(name).map(|l| l.spec.clone()).or_else(|| imagined("PriorityLevelConfiguration", name).and_then(|o| LevelSpec::new(&o).ok())),
            );
        }
    }
    let kept = levels.iter().map(|l| l.name.clone()).collect::<Vec<_>>();
    let leaving = before.values().filter(|l| !kept.contains(&l.spec.name) && !l.room.set.lock().is_idle());
    levels.extend(leaving.map(|l| l.spec.clone()));
    let shares: u32 = levels.iter().map(|l| l.shares).sum();
    let levels: BTreeMap<String, Arc<Level>> = levels
        .into_iter()
        .map(|spec| {
            let limits = Limits::of(seats, spec.shares, shares, spec.lendable_percent, spec.borrowing_percent);
            let known = before.get(&spec.name).map(|l| l.room.clone());
            let room = known.unwrap_or_else(|| new_room(&spec, limits, now));
            room.quiescing.store(!kept.contains(&spec.name), Relaxed);
            let level = Level { seats_max: seats_max(limits.nominal, spec.discipline), limits, room, spec };
            (level.spec.name.clone(), Arc::new(level))
        })
        .collect();
    let (schemas, catch_all) = schemas_of(schemas, &levels, counts);
    let config = Configuration { schemas, catch_all, levels };
    config.adjust(now);
    config
}

fn new_room(spec: &LevelSpec, limits: Limits, now: u64) -> Arc<Room> {
    Arc::new(Room {
        name: spec.name.clone(),
        set: Mutex::new(QueueSet::new(now, spec.discipline, limits.initial())),
        dropped: Mutex::default(),
        adjusted: Mutex::default(),
        quiescing: Default::default(),
        timed: Default::default(),
    })
}

fn seats_max(nominal: u32, discipline: Discipline) -> u32 {
    let Discipline::Queue { hand_size, .. } = discipline else { return 0 };
    let part = (f64::from(nominal) * SEATS_PART_MAX).ceil() as u32;
    part.min(nominal / u32::try_from(hand_size).unwrap_or(1).max(1)).max(1)
}

/// The schemas whose level there is, by precedence, and the one that takes the rest.
fn schemas_of(mut specs: Vec<SchemaSpec>, levels: &BTreeMap<String, Arc<Level>>, counts: &metrics::All) -> (Vec<Arc<Schema>>, Arc<Schema>) {
    specs.retain(|s| levels.get(&s.level).is_some_and(|l| !l.room.quiescing.load(Relaxed)));
    specs.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    let is_missing = |name: &str| !specs.iter().any(|s| s.name == name);
    let (no_exempt, no_catch_all) = (is_missing(EXEMPT), is_missing(CATCH_ALL));
    let mandatory = |name: &str| SchemaSpec::new(&imagined("FlowSchema", name).unwrap_or_default());
    if no_exempt {
        specs.insert(0, mandatory(EXEMPT));
    }
    if no_catch_all {
        specs.push(mandatory(CATCH_ALL));
    }
    let schemas: Vec<Arc<Schema>> = specs.into_iter().filter_map(|spec| schema(spec, levels, counts)).collect();
    let catch_all = schemas.iter().find(|s| s.spec.name == CATCH_ALL).or(schemas.last()).cloned();
    (schemas, catch_all.unwrap_or_else(|| unreachable!("the mandatory schemas are part of the program")))
}

fn schema(spec: SchemaSpec, levels: &BTreeMap<String, Arc<Level>>, counts: &metrics::All) -> Option<Arc<Schema>> {
    let level = levels.get(&spec.level)?.clone();
    let header = |uid: &str| HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""));
    let headers = (header(&spec.uid), header(&level.spec.uid));
    Some(Arc::new(Schema { counts: counts.of(&spec.name, &level.spec.name), headers, level, spec }))
}

/// A mandatory object that is not there.
fn imagined(kind: &str, name: &str) -> Option<Value> {
    ensure::defaults().into_iter().find(|o| o["kind"] == kind && o.str_at(&["metadata", "name"]) == Some(name))
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;

    fn level(name: &str, shares: u32) -> LevelSpec {
        let limited = json!({"nominalConcurrencyShares": shares, "limitResponse": {"type": "Reject"}});
        LevelSpec::new(&json!({"metadata": {"name": name, "uid": name}, "spec": {"type": "Limited", "limited": limited}})).unwrap()
    }

    fn schema(name: &str, precedence: i64, level: &str) -> SchemaSpec {
        SchemaSpec::new(&json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level}}}))
    }

    fn names(config: &Configuration) -> Vec<&str> {
        config.schemas.iter().map(|s| s.spec.name.as_str()).collect()
    }

    #[test]
    fn what_is_mandatory_is_always_there() {
        let counts = metrics::All::default();
        let config = Configuration::mandatory(600, &counts);
        assert_eq!(names(&config), [EXEMPT, CATCH_ALL]);
        assert_eq!(config.levels[CATCH_ALL].limits.nominal, 600);
        assert!(config.levels[EXEMPT].is_exempt());
    }

    #[test]
    fn schemas_are_asked_by_precedence_and_only_with_their_level() {
        let counts = metrics::All::default();
        let empty = Configuration::mandatory(600, &counts);
        let schemas = vec![schema("late", 900, "a"), schema("b", 500, "a"), schema("a", 500, "a"), schema("dangling", 2, "gone")];
        let config = empty.next(vec![level("a", 95)], schemas, 600, 0, &counts);
        assert_eq!(names(&config), [EXEMPT, "a", "b", "late", CATCH_ALL]);
        assert!(config.has_level("a") && !config.has_level("gone"));
        assert_eq!((config.levels["a"].limits.nominal, config.levels[CATCH_ALL].limits.nominal), (570, 30));
    }

    #[test]
    fn a_level_that_nobody_wants_is_used_up_first() {
        let counts = metrics::All::default();
        let config = Configuration::mandatory(600, &counts).next(vec![level("a", 95)], vec![schema("s", 500, "a")], 600, 0, &counts);
        let class = config.schemas[1].clone();
        let guest = super::super::Guest { schema: class, user: Arc::default(), info: Arc::default(), waker: None };
        let set = &config.levels["a"].room.set;
        assert!(matches!(set.lock().arrive(0, super::super::Width::ONE, 0, |_| guest), super::super::Arrival::Executing(0)));
        let without = config.next(Vec::new(), vec![schema("s", 500, "a")], 600, 1, &counts);
        assert_eq!(names(&without), [EXEMPT, CATCH_ALL]);
        assert!(without.levels.contains_key("a") && !without.has_level("a"));
        set.lock().leave(2, 0);
        let later = without.next(Vec::new(), Vec::new(), 600, 3, &counts);
        assert!(!later.levels.contains_key("a"));
    }

    #[test]
    fn one_request_takes_no_more_than_its_part() {
        let queue = |hand_size| Discipline::Queue { queues: 64, hand_size, length_limit: 50 };
        assert_eq!((seats_max(245, queue(8)), seats_max(10, queue(8)), seats_max(1, queue(8)), seats_max(245, Discipline::Reject)), (30, 1, 1, 0));
    }
}
