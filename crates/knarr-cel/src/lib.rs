//! CEL as Kubernetes has it: the language, the libraries, values that point into JSON, the type check against schemas, the
//! static estimate of costs and the limits at run time. It knows nothing of requests or the server.
//!
//! ```text
//!  text ─ parser ─▶ tree ─ check (env, schema) ─▶ checked ─ eval ─▶ value and what it did cost
//! ```

pub mod admission;
pub mod ast;
pub mod authentication;
pub mod authorization;
pub mod authz;
pub mod check;
pub mod device;
pub mod env;
pub mod estimate;
pub mod eval;
pub mod issue;
mod lexer;
pub mod library;
pub mod mutation;
pub mod parser;
mod runtime_cost;
pub mod schema;
pub mod time;
pub mod types;
pub mod value;

pub use env::Env;
pub use eval::{Activation, Outcome, Program};
pub use types::Type;
pub use value::{Error, Value};

/// Most that one evaluation may cost (upstream: `PerCallLimit`).
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Most that all rules of an object, or of a policy binding, may cost together (upstream: `RuntimeCELCostBudget`).
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// Most that match conditions may cost together (upstream: `RuntimeCELCostBudgetMatchConditions`).
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;

/// Parses and checks an expression.
///
/// # Errors
/// What is wrong with it, as cel-go shows it.
pub fn compile(source: &str, env: &Env) -> Result<Program, String> {
    let checked = parser::parse(source).and_then(|parsed| check::check(parsed, env));
    checked.map(Program::new).map_err(|issues| issue::display(source, &issues))
}

#[cfg(test)]
mod tests;
