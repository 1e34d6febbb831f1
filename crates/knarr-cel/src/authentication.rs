//! Expressions of structured authentication: over the claims of a token, or over the user that was made of them
//! (upstream: `apiserver/pkg/authentication/cel`).

use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;

use crate::{
    Env, PER_CALL_LIMIT, Program, Type, Value,
    admission::{go_type, user_types},
    ast::{Expr, Kind, Literal, op},
    check, issue, parser, schema, types,
    value::Text,
};

/// What an expression is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Claims,
    User,
}

impl Subject {
    fn variable(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::User => "user",
        }
    }
}

static CLAIMS: LazyLock<Env> = LazyLock::new(|| Env::new([("claims", types::map(Type::String, Type::Dyn))], Arc::new(user_types())));
static USER: LazyLock<Env> = LazyLock::new(|| Env::new([("user", types::object("kubernetes.UserInfo"))], Arc::new(user_types())));

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    pub text: String,
    subject: Subject,
    program: Program,
}

impl Expression {
    /// Compiles an expression; a condition must give a boolean, any other anything.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn new(text: &str, subject: Subject, condition: bool) -> Result<Self, String> {
        let env: &Env = if subject == Subject::Claims { &CLAIMS } else { &USER };
        let checked = parser::parse(text).and_then(|mut parsed| {
            if subject == Subject::Claims {
                unescape(&mut parsed.root);
            }
            check::check(parsed, env)
        });
        let program = checked.map(Program::new).map_err(|issues| format!("compilation failed: {}", issue::display(text, &issues)))?;
        if condition && *program.checked().result_type() != Type::Bool {
            return Err(format!("must evaluate to {}", go_type(&Type::Bool)));
        }
        Ok(Self { text: text.to_owned(), subject, program })
    }

    /// Evaluates it over the claims, or the user as a `UserInfo` with all its fields.
    ///
    /// # Errors
    /// What failed, in upstream's words.
    pub fn eval<'a>(&self, input: &'a Json) -> Result<Value<'a>, String> {
        let variables = [(self.subject.variable(), Value::plain(input))];
        let outcome = self.program.eval(&variables, None, PER_CALL_LIMIT);
        outcome.value.map_err(|e| format!("expression '{}' resulted in error: {e}", self.text))
    }

    /// Whether it reads this claim: `claims.name` or `claims.?name` (upstream: `hasSelectExp`).
    pub fn uses_claim(&self, name: &str) -> bool {
        let of_claims = |e: &Expr| matches!(&e.kind, Kind::Ident(ident) if ident == Subject::Claims.variable());
        let mut found = false;
        self.program.checked().root.walk(&mut |e| {
            found |= match &e.kind {
                Kind::Select { operand, field, .. } => field == name && of_claims(operand),
                Kind::Call { function, target: None, args } if function == op::OPT_SELECT => {
                    matches!(&args[..], [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }] if field == name && of_claims(operand))
                }
                _ => false,
            };
        });
        found
    }
}

/// Claims may have names that are no identifiers: `claims.kubernetes__dot__io` is the claim `kubernetes.io`.
fn unescape(e: &mut Expr) {
    if let Kind::Select { field, .. } = &mut e.kind
        && let Some(name) = schema::unescape(field)
    {
        *field = name;
    }
    e.children_mut().into_iter().for_each(unescape);
}

/// The string, or strings, that a mapping gave: none for null and for what is empty
/// (upstream: `convertCELValueToStringList`).
///
/// # Errors
/// Anything else.
pub fn texts(value: &Value<'_>) -> Result<Vec<String>, String> {
    const WRONG: &str = "expression must return a string or a list of strings";
    let text = |t: &Text<'_>| -> String { (**t).to_owned() };
    let all = match value {
        Value::Null => Vec::new(),
        Value::String(one) => vec![text(one)],
        Value::List(items) => {
            let one = |item: Value<'_>| if let Value::String(t) = item { Ok(text(&t)) } else { Err(WRONG.to_owned()) };
            items.iter().map(|item| one(item.map_err(|_| WRONG.to_owned())?)).collect::<Result<_, String>>()?
        }
        _ => return Err(WRONG.into()),
    };
    Ok(all.into_iter().filter(|t| !t.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(text: &str) -> Result<Vec<String>, String> {
        let claims = json!({"sub": "jane", "groups": ["a", "", "b"], "kubernetes.io": {"pod-name": "p"}, "email": "j@x", "n": 1.0, "none": null});
        texts(&Expression::new(text, Subject::Claims, false)?.eval(&claims)?)
    }

    #[test]
    fn claims_become_strings() {
        assert_eq!(claims("'x-' + claims.sub"), Ok(vec!["x-jane".into()]));
        assert_eq!(claims("claims.groups"), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(claims("claims.kubernetes__dot__io.pod__dash__name"), Ok(vec!["p".into()]));
        assert_eq!(claims("claims['kubernetes.io']['pod-name']"), Ok(vec!["p".into()]));
        assert_eq!(claims("claims.none"), Ok(vec![]));
        assert_eq!(claims("claims.?absent.orValue('')"), Ok(vec![]));
        assert_eq!(claims("claims.n"), Err("expression must return a string or a list of strings".into()));
        assert_eq!(claims("claims.absent"), Err("expression 'claims.absent' resulted in error: no such key: absent".into()));
        assert!(claims("claims.").unwrap_err().starts_with("compilation failed: ERROR: <input>:1:8"));
    }

    #[test]
    fn a_condition_is_a_boolean() {
        assert_eq!(Expression::new("claims.sub", Subject::Claims, true).unwrap_err(), "must evaluate to bool");
        let user = json!({"username": "system:x", "uid": "", "groups": [], "extra": {}});
        let condition = Expression::new("!user.username.startsWith('system:')", Subject::User, true).unwrap();
        assert!(matches!(condition.eval(&user), Ok(Value::Bool(false))));
        assert!(Expression::new("user.name == ''", Subject::User, true).is_err());
    }

    #[test]
    fn it_is_known_which_claims_are_read() {
        let uses = |text: &str| Expression::new(text, Subject::Claims, false).unwrap().uses_claim("email");
        assert!(uses("claims.email") && uses("[claims.?email.orValue('')]") && uses("has(claims.email) ? 'a' : 'b'"));
        assert!(!uses("claims.other.email") && !uses("claims['email']"));
    }
}
