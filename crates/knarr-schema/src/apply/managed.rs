//! The entries of `managedFields`.

use std::borrow::Cow;

use knarr_core::field::go_quote;
use knarr_core::{Map, Value, ValueExt as _};

use super::fields;
use super::set::Set;

/// How many managers that do not apply an object has at most; the oldest beyond are put together.
const UPDATERS_MAX: usize = 10;
/// The name of those that were put together.
const ANCIENT: &str = "ancient-changes";

/// One entry.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub manager: Cow<'a, str>,
    pub applies: bool,
    pub api_version: Cow<'a, str>,
    pub subresource: Cow<'a, str>,
    pub time: Option<Cow<'a, str>>,
    pub fields: Fields<'a>,
}

/// The fields of an entry: as they came, until somebody has to change them.
#[derive(Clone, Debug)]
pub enum Fields<'a> {
    Given(&'a Value),
    Set(Set<'a>),
}

impl<'a> Entry<'a> {
    /// Whether both are the same entry: appliers are the same in every version.
    pub fn is_same(&self, other: &Entry<'_>) -> bool {
        self.manager == other.manager
            && self.applies == other.applies
            && self.subresource == other.subresource
            && (self.applies || self.api_version == other.api_version)
    }

    /// The fields as a set. They were read before, so they can be read.
    pub fn set(&self) -> Set<'a> {
        match &self.fields {
            Fields::Given(value) => fields::parse(value).unwrap_or_default(),
            Fields::Set(set) => set.clone(),
        }
    }

    /// Whether the fields have a member of `set`, told without reading all of them.
    pub fn touches(&self, set: &Set<'_>) -> bool {
        match &self.fields {
            Fields::Given(value) => fields::touches(value, set),
            Fields::Set(own) => own.intersects(set),
        }
    }

    fn encode(&self) -> Value {
        let operation = if self.applies { "Apply" } else { "Update" };
        let fields = match &self.fields {
            Fields::Given(value) => (*value).clone(),
            Fields::Set(set) => fields::to_value(set),
        };
        let texts = [("apiVersion", &*self.api_version), ("fieldsType", "FieldsV1"), ("manager", &*self.manager), ("operation", operation)];
        let mut map: Map<String, Value> = texts.into_iter().map(|(key, text)| (key.to_owned(), text.into())).collect();
        map.insert("fieldsV1".into(), fields);
        if !self.subresource.is_empty() {
            map.insert("subresource".into(), self.subresource.as_ref().into());
        }
        if let Some(time) = &self.time {
            map.insert("time".into(), time.as_ref().into());
        }
        Value::Object(map)
    }

    fn order(&self) -> (bool, &str, &str, &str, &str) {
        (!self.applies, self.time.as_deref().unwrap_or_default(), &self.manager, &self.api_version, &self.subresource)
    }
}

/// Reads the entries. Of two that are the same the later counts.
///
/// # Errors
/// What is wrong with one, in upstream's words.
pub fn decode(list: &[Value]) -> Result<Vec<Entry<'_>>, String> {
    let mut entries: Vec<Entry<'_>> = Vec::with_capacity(list.len() + 1);
    for (i, value) in list.iter().enumerate() {
        let entry = decode_entry(i, value)?;
        match entries.iter_mut().find(|e| e.is_same(&entry)) {
            Some(same) => *same = entry,
            None => entries.push(entry),
        }
    }
    Ok(entries)
}

fn decode_entry(i: usize, value: &Value) -> Result<Entry<'_>, String> {
    let text = |key: &str| value.str_at(&[key]).unwrap_or_default();
    let applies = match text("operation") {
        "Apply" => true,
        "Update" => false,
        _ => return Err("operation must be `Apply` or `Update`".into()),
    };
    if text("apiVersion").is_empty() {
        return Err("apiVersion must not be empty".into());
    }
    match text("fieldsType") {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
        other => return Err(format!("invalid fieldsType {} in managed fields entry {i}", go_quote(other))),
    }
    let given = value.get("fieldsV1").unwrap_or(&Value::Null);
    fields::check(given).map_err(|why| format!("error decoding set: {why}"))?;
    Ok(Entry {
        manager: text("manager").into(),
        applies,
        api_version: text("apiVersion").into(),
        subresource: text("subresource").into(),
        time: value.str_at(&["time"]).map(Cow::Borrowed),
        fields: Fields::Given(given),
    })
}

/// Writes the entries in upstream's order: appliers first, then by time.
pub fn encode(mut entries: Vec<Entry<'_>>) -> Vec<Value> {
    entries.sort_by(|a, b| a.order().cmp(&b.order()));
    entries.iter().map(Entry::encode).collect()
}

/// Puts the oldest updaters of a version together until there are no more than ten (`capUpdateManagers`).
pub fn cap(entries: &mut Vec<Entry<'_>>) {
    let mut updaters: Vec<usize> = (0..entries.len()).filter(|i| !entries[*i].applies).collect();
    let mut count = updaters.len();
    if count <= UPDATERS_MAX {
        return;
    }
    let identifier = |e: &Entry<'_>| super::conflict::identifier(e);
    updaters.sort_by_cached_key(|i| (entries[*i].time.as_deref().unwrap_or_default().to_owned(), identifier(&entries[*i])));
    // The first of each version, and the entry into which the others of that version go.
    let mut first_of: Vec<(String, usize)> = Vec::new();
    let mut gone = Vec::new();
    for i in updaters {
        if count <= UPDATERS_MAX {
            break;
        }
        let version = entries[i].api_version.to_string();
        let Some((_, first)) = first_of.iter().find(|(v, _)| *v == version) else {
            first_of.push((version, i));
            continue;
        };
        let bucket = *first;
        if i == bucket {
            continue;
        }
        let merged = entries[i].set().union(entries[bucket].set());
        let time = entries[i].time.clone();
        let into = &mut entries[bucket];
        (into.manager, into.subresource, into.time, into.fields) = (ANCIENT.into(), "".into(), time, Fields::Set(merged));
        gone.push(i);
        count -= 1;
    }
    let mut i = 0;
    entries.retain(|_| {
        i += 1;
        !gone.contains(&(i - 1))
    });
}
