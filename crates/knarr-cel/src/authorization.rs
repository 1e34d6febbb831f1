//! Match conditions of authorization webhooks: expressions over a SubjectAccessReview's spec, as `request`
//! (upstream: `apiserver/pkg/authorization/cel`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use serde_json::Value as Json;

use crate::{
    Env, PER_CALL_LIMIT, Type, Value,
    admission::{Compiled, aggregate},
    schema::Types,
    types,
};

static ENV: LazyLock<Env> = LazyLock::new(|| Env::new([("request", types::object("kubernetes.SubjectAccessReviewSpec"))], Arc::new(review_types())));

fn review_types() -> Types {
    let text = || Type::String;
    let texts = || types::list(Type::String);
    let selector = || vec![("rawSelector", text()), ("requirements", types::list(types::object("kubernetes.SelectorRequirement")))];
    let table: [(&str, Vec<(&str, Type)>); 6] = [
        ("kubernetes.SelectorRequirement", vec![("key", text()), ("operator", text()), ("values", texts())]),
        ("kubernetes.FieldSelectorAttributes", selector()),
        ("kubernetes.LabelSelectorAttributes", selector()),
        (
            "kubernetes.ResourceAttributes",
            vec![
                ("namespace", text()),
                ("verb", text()),
                ("group", text()),
                ("version", text()),
                ("resource", text()),
                ("subresource", text()),
                ("name", text()),
                ("fieldSelector", types::object("kubernetes.FieldSelectorAttributes")),
                ("labelSelector", types::object("kubernetes.LabelSelectorAttributes")),
            ],
        ),
        ("kubernetes.NonResourceAttributes", vec![("path", text()), ("verb", text())]),
        (
            "kubernetes.SubjectAccessReviewSpec",
            vec![
                ("resourceAttributes", types::object("kubernetes.ResourceAttributes")),
                ("nonResourceAttributes", types::object("kubernetes.NonResourceAttributes")),
                ("user", text()),
                ("groups", texts()),
                ("extra", types::map(text(), texts())),
                ("uid", text()),
            ],
        ),
    ];
    let fields = |all: Vec<(&str, Type)>| all.into_iter().map(|(f, t)| (f.to_owned(), t)).collect::<BTreeMap<_, _>>();
    Types(table.into_iter().map(|(name, all)| (name.to_owned(), fields(all))).collect::<HashMap<_, _>>())
}

/// Conditions that all must hold for a webhook to be asked.
pub struct Conditions(Vec<Compiled>);

impl Conditions {
    /// Compiles expressions; [`Self::errors`] tells which cannot be.
    pub fn new<'e>(expressions: impl IntoIterator<Item = &'e str>) -> Self {
        Self(expressions.into_iter().map(|e| Compiled::new(e, &ENV, &[Type::Bool])).collect())
    }

    /// Index of each that cannot be compiled, and why.
    pub fn errors(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.iter().enumerate().filter_map(|(i, c)| Some((i, c.program.as_ref().err()?.as_str())))
    }

    /// Whether all hold for a spec that has every field of the user and of the attributes. One that is false decides.
    ///
    /// # Errors
    /// What failed, in upstream's words, when none is false.
    pub fn hold_for(&self, spec: &Json) -> Result<bool, String> {
        let mut errors = Vec::new();
        for condition in &self.0 {
            let program = match &condition.program {
                Ok(program) => program,
                Err(why) => {
                    errors.push(why.clone());
                    continue;
                }
            };
            match program.eval(&[("request", Value::plain(spec))], None, PER_CALL_LIMIT).value {
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(e) => errors.push(format!("cel evaluation error: expression '{}' resulted in error: {e}", condition.expression)),
            }
        }
        if errors.is_empty() { Ok(true) } else { Err(aggregate(&errors)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_that_is_false_decides_whatever_others_could_not_tell() {
        let spec = json!({"user": "jane", "groups": ["dev"], "uid": "", "extra": {}, "resourceAttributes": {"namespace": "a", "verb": "get"}});
        let matches = |all: &[&str]| Conditions::new(all.iter().copied()).hold_for(&spec);
        assert_eq!(matches(&["'dev' in request.groups", "has(request.resourceAttributes)"]), Ok(true));
        assert_eq!(matches(&["request.resourceAttributes.namespace == 'kube-system'"]), Ok(false));
        let error = "cel evaluation error: expression 'request.nonResourceAttributes.path == ''' resulted in error: no such key: nonResourceAttributes";
        assert_eq!(matches(&["request.nonResourceAttributes.path == ''"]), Err(error.into()));
        assert_eq!(matches(&["request.nonResourceAttributes.path == ''", "request.user == 'bob'"]), Ok(false));
    }

    #[test]
    fn what_is_no_condition_is_told() {
        let all = Conditions::new(["request.user", "request.nobody == ''", "true"]);
        let errors: Vec<(usize, &str)> = all.errors().collect();
        assert_eq!(errors[0], (0, "must evaluate to bool but got string"));
        assert!(errors.len() == 2 && errors[1].1.contains("undefined field 'nobody'"), "{errors:?}");
    }
}
