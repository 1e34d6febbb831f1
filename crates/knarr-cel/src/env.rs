//! What an expression may name: functions, types and variables (upstream: `apiserver/pkg/cel/environment/base.go` for the
//! libraries that are on in 1.37).

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use crate::types::{self, Type};

/// One way to call a function.
#[derive(Debug)]
pub struct Overload {
    pub id: String,
    /// Whether it is called on a target, which then is the first argument.
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// Names of its type variables.
    pub params: Vec<Arc<str>>,
}

type Functions = HashMap<String, Vec<Overload>>;

static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let mut functions = Functions::new();
    for line in include_str!("library/functions.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let [name, id, signature, result] = line.split(' ').collect::<Vec<_>>()[..] {
            functions.entry(name.to_owned()).or_default().push(overload(id, signature, result));
        }
    }
    add_comparisons(&mut functions);
    add_over_lists(&mut functions);
    functions
});

fn overload(id: &str, signature: &str, result: &str) -> Overload {
    let open = signature_start(signature);
    let (target, args) = signature.split_at(open);
    let args = args.trim_start_matches('(').strip_suffix(')').unwrap_or_default();
    let target = target.strip_suffix('.');
    let args: Vec<Type> = target.into_iter().chain(split(args)).map(read).collect();
    make(id.to_owned(), target.is_some(), args, read(result))
}

fn make(id: String, member: bool, args: Vec<Type>, result: Type) -> Overload {
    let mut params = Vec::new();
    for t in args.iter().chain([&result]) {
        collect_params(t, &mut params);
    }
    Overload { id, member, args, result, params }
}

fn collect_params(t: &Type, into: &mut Vec<Arc<str>>) {
    if let Type::Param(name) = t
        && !into.contains(name)
    {
        into.push(name.clone());
    }
    t.params().iter().for_each(|t| collect_params(t, into));
}

/// Where the arguments begin: at the parenthesis that is closed last.
fn signature_start(signature: &str) -> usize {
    let mut depth = 0;
    for (i, c) in signature.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    0
}

/// The arguments of a list of types, split at commas outside of parentheses.
fn split(args: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in args.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&args[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    if !args.is_empty() {
        parts.push(&args[start..]);
    }
    parts
}

fn read(text: &str) -> Type {
    if let Some((name, rest)) = text.split_once('(') {
        let of: Vec<Type> = split(rest.strip_suffix(')').unwrap_or_default()).into_iter().map(read).collect();
        return match (name, &of[..]) {
            ("list", [of]) => types::list(of.clone()),
            ("map", [key, value]) => types::map(key.clone(), value.clone()),
            ("optional", [of]) => types::optional(of.clone()),
            ("type", [of]) => Type::Type(Some(Arc::new(of.clone()))),
            _ => Type::Error,
        };
    }
    match text {
        "A" | "B" => types::param(text),
        "net.IP" | "net.CIDR" => Type::Opaque(text.into(), Arc::new([])),
        _ => simple(text).unwrap_or_else(|| types::object(text)),
    }
}

fn simple(name: &str) -> Option<Type> {
    Some(match name {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        _ => return None,
    })
}

const COMPARABLE: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];

fn add_comparisons(functions: &mut Functions) {
    let names = [("_<_", "less"), ("_<=_", "less_equals"), ("_>_", "greater"), ("_>=_", "greater_equals")];
    let shown = |t: &str| if matches!(t, "int" | "uint") { format!("{t}64") } else { t.to_owned() };
    for (function, word) in names {
        let overloads = functions.entry(function.to_owned()).or_default();
        for t in ["bool", "int", "uint", "double", "string", "bytes", "timestamp", "duration"] {
            overloads.push(make(format!("{word}_{}", shown(t)), false, vec![read(t), read(t)], Type::Bool));
            for other in ["double", "int", "uint"] {
                if matches!(t, "int" | "uint" | "double") && t != other {
                    overloads.push(make(format!("{word}_{}_{}", shown(t), shown(other)), false, vec![read(t), read(other)], Type::Bool));
                }
            }
        }
    }
}

fn add_over_lists(functions: &mut Functions) {
    let mut add = |function: &str, id: String, args: Vec<Type>, result: Type| {
        functions.entry(function.to_owned()).or_default().push(make(id, true, args, result));
    };
    for t in COMPARABLE {
        let of = || vec![types::list(read(t))];
        add("isSorted", format!("list_{t}_is_sorted_bool"), of(), Type::Bool);
        add("max", format!("list_{t}_max_{t}"), of(), read(t));
        add("min", format!("list_{t}_min_{t}"), of(), read(t));
        let shown = read(t).runtime_name().to_owned();
        add("sort", format!("list_{shown}_sort"), of(), types::list(read(t)));
        let a = types::param("A");
        add("@sortByAssociatedKeys", format!("list_{shown}_sortByAssociatedKeys"), vec![types::list(a.clone()), types::list(read(t))], types::list(a));
        if matches!(t, "int" | "uint" | "double" | "duration") {
            add("sum", format!("list_{t}_sum_{t}"), of(), read(t));
        }
    }
}

/// The overloads of a function.
pub fn function(name: &str) -> Option<&'static [Overload]> {
    FUNCTIONS.get(name).map(Vec::as_slice)
}

/// Types of objects and their fields.
pub trait TypeProvider: Send + Sync {
    /// Whether there is an object type of this name.
    fn has_type(&self, name: &str) -> bool;
    fn field(&self, type_name: &str, field: &str) -> Option<Type>;
}

/// No object types at all.
pub struct NoTypes;

impl TypeProvider for NoTypes {
    fn has_type(&self, _: &str) -> bool {
        false
    }
    fn field(&self, _: &str, _: &str) -> Option<Type> {
        None
    }
}

/// Names of types that can be used as values.
pub fn type_named(name: &str) -> Option<Type> {
    let dyn_list = || types::list(Type::Dyn);
    Some(match name {
        "list" => dyn_list(),
        "map" => types::map(Type::Dyn, Type::Dyn),
        "null_type" => Type::Null,
        "type" => Type::Type(None),
        "optional_type" => types::optional(Type::Dyn),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "net.IP" | "net.CIDR" => read(name),
        "duration" | "timestamp" | "dyn" => return None,
        _ => return simple(name),
    })
}

/// What an expression is compiled against.
pub struct Env {
    pub variables: HashMap<String, Type>,
    pub types: Arc<dyn TypeProvider>,
}

impl Env {
    /// An environment with variables of these types.
    pub fn new<N: Into<String>>(variables: impl IntoIterator<Item = (N, Type)>, types: Arc<dyn TypeProvider>) -> Self {
        Self { variables: variables.into_iter().map(|(n, t)| (n.into(), t)).collect(), types }
    }
}
