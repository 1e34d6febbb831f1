//! The types of CEL, and how the checker compares and unifies them (upstream: cel-go's `common/types` and `checker/types`).

use std::{collections::HashMap, fmt, sync::Arc};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Dyn,
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    /// An object with fields, by name.
    Struct(Arc<str>),
    /// A type that only functions look into, with its parameters (`optional_type(T)`).
    Opaque(Arc<str>, Arc<[Type]>),
    /// The type of types.
    Type(Option<Arc<Type>>),
    /// A variable of the checker.
    Param(Arc<str>),
}

pub fn list(of: Type) -> Type {
    Type::List(Arc::new(of))
}

pub fn map(key: Type, value: Type) -> Type {
    Type::Map(Arc::new((key, value)))
}

pub fn optional(of: Type) -> Type {
    Type::Opaque("optional_type".into(), Arc::new([of]))
}

pub fn object(name: &str) -> Type {
    Type::Struct(name.into())
}

pub fn param(name: &str) -> Type {
    Type::Param(name.into())
}

impl Type {
    pub fn is_dyn(&self) -> bool {
        *self == Self::Dyn
    }

    pub fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// What is in it, if it is an optional.
    pub fn unwrap_optional(&self) -> Option<&Type> {
        match self {
            Self::Opaque(name, params) if &**name == "optional_type" => params.first(),
            _ => None,
        }
    }

    /// Types within it.
    pub fn params(&self) -> Vec<&Type> {
        match self {
            Self::List(of) => vec![of],
            Self::Map(of) => vec![&of.0, &of.1],
            Self::Opaque(_, of) => of.iter().collect(),
            Self::Type(Some(of)) => vec![of],
            _ => Vec::new(),
        }
    }

    /// The name at run time (`type(x)` prints it).
    pub fn runtime_name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Error => "*error*",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Struct(name) | Self::Opaque(name, _) | Self::Param(name) => name,
            Self::Type(_) => "type",
        }
    }

    fn size_class(&self) -> bool {
        matches!(self, Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint)
    }

    /// Whether values of it all have the same size.
    pub fn is_scalar(&self) -> bool {
        self.size_class() || self.unwrap_optional().is_some_and(Self::is_scalar)
    }

    fn nullable(&self) -> bool {
        matches!(self, Self::Opaque(..) | Self::Struct(_) | Self::Duration | Self::Timestamp | Self::Null)
    }

    /// Replaces variables by what stands for them.
    pub fn substitute(&self, bound: &Bindings, free_to_dyn: bool) -> Type {
        let sub = |t: &Type| t.substitute(bound, free_to_dyn);
        match self {
            Self::Param(name) => match bound.get(name) {
                Some(found) => sub(found),
                None if free_to_dyn => Self::Dyn,
                None => self.clone(),
            },
            Self::List(of) => list(sub(of)),
            Self::Map(of) => map(sub(&of.0), sub(&of.1)),
            Self::Opaque(name, of) => Self::Opaque(name.clone(), of.iter().map(sub).collect()),
            Self::Type(Some(of)) => Self::Type(Some(Arc::new(sub(of)))),
            _ => self.clone(),
        }
    }
}

/// As error messages show it (upstream: `FormatCELType`).
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Error => "!error!",
            Self::Null => "null",
            Self::Duration => "duration",
            Self::Timestamp => "timestamp",
            other => other.runtime_name(),
        };
        let params: Vec<String> = self.params().iter().map(ToString::to_string).collect();
        if params.is_empty() { f.write_str(name) } else { write!(f, "{name}({})", params.join(", ")) }
    }
}

/// What the variables of the checker stand for.
pub type Bindings = HashMap<Arc<str>, Type>;

/// Whether the first can stand for the second; if so, what was learned on the way is kept.
pub fn assignable(bound: &mut Bindings, a: &Type, b: &Type) -> bool {
    all_assignable(bound, &[a], &[b])
}

pub fn all_assignable(bound: &mut Bindings, a: &[&Type], b: &[&Type]) -> bool {
    let mut tried = bound.clone();
    let fits = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| unify(&mut tried, a, b));
    if fits {
        *bound = tried;
    }
    fits
}

fn unify(bound: &mut Bindings, a: &Type, b: &Type) -> bool {
    if let Type::Param(_) = b {
        let (valid, known) = stands_for(bound, a, b);
        if valid || known {
            return valid;
        }
    }
    if let Type::Param(_) = a {
        return stands_for(bound, b, a).0;
    }
    match (a, b) {
        _ if a.is_dyn_or_error() || b.is_dyn_or_error() => true,
        (Type::Null, other) | (other, Type::Null) => other.nullable(),
        (Type::Type(_), Type::Type(_)) => true,
        (Type::List(a), Type::List(b)) => unify(bound, a, b),
        (Type::Map(a), Type::Map(b)) => unify(bound, &a.0, &b.0) && unify(bound, &a.1, &b.1),
        (Type::Opaque(a, of_a), Type::Opaque(b, of_b)) => a == b && of_a.len() == of_b.len() && of_a.iter().zip(&**of_b).all(|(a, b)| unify(bound, a, b)),
        _ => a == b,
    }
}

/// Whether `t` can stand for the variable, and whether something already does.
fn stands_for(bound: &mut Bindings, t: &Type, variable: &Type) -> (bool, bool) {
    let Type::Param(name) = variable else { return (false, false) };
    if t == variable {
        return (true, true);
    }
    if let Some(known) = bound.get(name).cloned() {
        if *t == known {
            return (true, true);
        }
        if !unify(bound, t, &known) {
            return (false, true);
        }
        let general = most_general(t, &known);
        if !occurs(bound, variable, &general) {
            bound.insert(name.clone(), general);
        }
        return (true, true);
    }
    if occurs(bound, variable, t) {
        return (false, false);
    }
    bound.insert(name.clone(), t.clone());
    (true, false)
}

fn occurs(bound: &Bindings, variable: &Type, within: &Type) -> bool {
    match within {
        _ if variable == within => true,
        Type::Param(name) => bound.get(name).is_some_and(|t| occurs(bound, variable, t)),
        _ => within.params().iter().any(|t| occurs(bound, variable, t)),
    }
}

pub fn most_general(a: &Type, b: &Type) -> Type {
    if equal_or_less_specific(a, b) { a.clone() } else { b.clone() }
}

fn equal_or_less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::Opaque(x, of_x), Type::Opaque(y, of_y)) => {
            x == y && of_x.len() == of_y.len() && of_x.iter().zip(&**of_y).all(|(x, y)| equal_or_less_specific(x, y))
        }
        (Type::List(x), Type::List(y)) => equal_or_less_specific(x, y),
        (Type::Map(x), Type::Map(y)) => equal_or_less_specific(&x.0, &y.0) && equal_or_less_specific(&x.1, &y.1),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}
