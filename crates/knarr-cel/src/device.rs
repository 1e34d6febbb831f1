//! Selectors of devices: expressions over one `device` of a driver (upstream: `dynamic-resource-allocation/cel`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use crate::{
    Env, Type,
    admission::go_type,
    check, estimate, issue, parser,
    schema::{Decl, DeclKind, Field, Types},
    types,
};

/// Most that a selector may cost (upstream: `CELSelectorExpressionMaxCost`).
const COST_MAX: u64 = 1_000_000;
/// Longest selector, in bytes (upstream: `CELSelectorExpressionMaxLength`).
pub const SELECTOR_BYTES_MAX: usize = 10 * 1024;
/// Longest name of a driver, most attributes of a device, longest value of an attribute.
const DRIVER_MAX: u64 = 63;
const ENTRIES_MAX: u64 = 32;
const VALUE_MAX: u64 = 64;

/// `device`, as expressions see it. Attributes are of any type.
static DEVICE: LazyLock<Decl> = LazyLock::new(|| {
    let decl = |kind, ty, max| Arc::new(Decl { kind, ty: Some(ty), nullable: false, max_elements: Some(max), min_size: 0 });
    let maps = |value: Arc<Decl>| {
        let of = value.ty.clone().unwrap_or(Type::Dyn);
        let inner = types::map(Type::String, of);
        let outer = types::map(Type::String, inner.clone());
        decl(DeclKind::Map(decl(DeclKind::Map(value), inner, ENTRIES_MAX)), outer, ENTRIES_MAX)
    };
    let fields = [
        ("driver", decl(DeclKind::String, Type::String, DRIVER_MAX)),
        ("allowMultipleAllocations", decl(DeclKind::Bool, Type::Bool, 1)),
        ("attributes", maps(decl(DeclKind::Unknown, Type::Dyn, VALUE_MAX))),
        ("capacity", maps(decl(DeclKind::Unknown, types::object("kubernetes.Quantity"), 0))),
    ];
    let fields: BTreeMap<String, Field> = fields.into_iter().map(|(name, decl)| (name.to_owned(), Field { decl, escaped: Some(name.to_owned()) })).collect();
    let kind = DeclKind::Object { fields, escaped: HashMap::new() };
    Decl { kind, ty: Some(types::object("kubernetes.DRADevice")), nullable: false, max_elements: None, min_size: 0 }
});

static ENV: LazyLock<Env> = LazyLock::new(|| Env::new([("device", types::object("kubernetes.DRADevice"))], Arc::new(Types::of([&*DEVICE]))));

/// Why an expression is no selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It cannot be compiled, or does not tell yes or no.
    Invalid(String),
    /// It may cost more than one selector should.
    TooComplex,
}

/// Compiles a selector and estimates its cost.
///
/// # Errors
/// What is wrong with it, in upstream's words.
pub fn check_selector(expression: &str) -> Result<(), Problem> {
    let checked = parser::parse_with_bindings(expression).and_then(|parsed| check::check(parsed, &ENV));
    let checked = checked.map_err(|issues| Problem::Invalid(format!("compilation failed: {}", issue::display(expression, &issues))))?;
    let result = checked.type_of(&checked.root);
    if !matches!(result, Type::Bool | Type::Dyn) {
        return Err(Problem::Invalid(format!("must evaluate to bool or the unknown type, not {}", go_type(result))));
    }
    if estimate::estimate(&checked, &DEVICE).max > COST_MAX { Err(Problem::TooComplex) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_see_a_device() {
        for good in [
            "device.driver == 'd.example.com'",
            "device.attributes['d.example.com'].healthy",
            "device.attributes['d.example.com'].model.matches('^a.*') && device.capacity['d.example.com'].memory.isGreaterThan(quantity('1Gi'))",
            "cel.bind(dra, device.attributes['d.example.com'], dra.one && dra.other == 2)",
            "device.allowMultipleAllocations",
        ] {
            assert_eq!(check_selector(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_no_selector_is_told() {
        let told = |text: &str| match check_selector(text) {
            Err(Problem::Invalid(why)) => why,
            other => format!("{other:?}"),
        };
        assert_eq!(told("device.driver"), "must evaluate to bool or the unknown type, not string");
        assert!(told("text-7").starts_with("compilation failed: ERROR: <input>:1:1: undeclared reference to 'text' (in container '')\n | text-7\n | ^"));
        assert!(told("").starts_with("compilation failed: ERROR: <input>:1:"));
        assert!(told("device.nothing").contains("undefined field 'nothing'"));
    }

    #[test]
    fn loops_in_loops_are_too_complex() {
        let all = "device.attributes.all(a, ".repeat(5) + "true" + &")".repeat(5);
        assert_eq!(check_selector(&all), Err(Problem::TooComplex));
    }
}
