//! From the claims of a good token to a user: by name and prefix, or by expressions (upstream: `token/oidc/oidc.go`). Pure.

use knarr_cel::{
    Value as Cel,
    authentication::{Expression, texts},
};
use knarr_core::{Value, ValueExt, field::go_quote, json};

use super::super::User;

/// Extra of a user whose token has an id.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Where a part of a user comes from.
#[derive(Debug)]
pub enum Source {
    Claim { claim: String, prefix: String },
    Expression(Expression),
}

/// A claim that must have a value.
#[derive(Debug)]
pub struct ClaimRule {
    pub claim: String,
    pub value: String,
}

/// An expression that must be true.
#[derive(Debug)]
pub struct Rule {
    pub expression: Expression,
    pub message: String,
}

/// All that an issuer's tokens are read by.
#[derive(Debug, Default)]
pub struct Mapping {
    pub username: Option<Source>,
    pub groups: Option<Source>,
    pub uid: Option<Source>,
    pub extra: Vec<(String, Expression)>,
    pub required: Vec<ClaimRule>,
    pub claim_rules: Vec<Rule>,
    pub user_rules: Vec<Rule>,
}

impl Mapping {
    /// The claim that groups come from, if they come from one by name: it may have to be fetched from elsewhere.
    pub fn groups_claim(&self) -> Option<&str> {
        if let Some(Source::Claim { claim, .. }) = &self.groups { Some(claim) } else { None }
    }

    /// The user that claims name.
    ///
    /// # Errors
    /// A claim that is missing or of another form, an expression that fails, a rule that does not hold.
    pub fn user(&self, claims: &Value) -> Result<User, String> {
        let claims = &as_go_reads(claims);
        let user = User { name: self.name(claims)?, groups: self.groups(claims)?, uid: self.uid(claims)?, extra: self.extra(claims)? };
        for rule in &self.required {
            let found = claims.get(&rule.claim).ok_or_else(|| format!("oidc: required claim {} not present in ID token", rule.claim))?;
            let found = text(found).map_err(|why| format!("oidc: parse claim {}: {why}", rule.claim))?;
            if found != rule.value {
                return Err(format!("oidc: required claim {} value does not match. Got = {found}, want = {}", rule.claim, rule.value));
            }
        }
        hold(&self.claim_rules, claims).map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
        let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        hold(&self.user_rules, &shown).map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
        Ok(user)
    }

    fn name(&self, claims: &Value) -> Result<String, String> {
        match &self.username {
            None => Err("oidc: no username mapping".into()),
            Some(Source::Claim { claim, prefix }) => {
                let name = claim_text(claims, claim).map_err(|why| format!("oidc: parse username claims {}: {why}", go_quote(claim)))?;
                if claim == "email" {
                    check_email(claims)?;
                }
                Ok(format!("{prefix}{name}"))
            }
            Some(Source::Expression(expression)) => {
                let failed = |why: String| format!("oidc: error evaluating username claim expression: {why}");
                match expression.eval(claims).map_err(failed)? {
                    Cel::String(name) if name.is_empty() => Err("oidc: empty username via CEL expression is not allowed".into()),
                    Cel::String(name) => Ok((*name).to_owned()),
                    _ => Err(failed("username claim expression must return a string".into())),
                }
            }
        }
    }

    fn groups(&self, claims: &Value) -> Result<Vec<String>, String> {
        match &self.groups {
            None => Ok(Vec::new()),
            Some(Source::Claim { claim, prefix }) => {
                let Some(found) = claims.get(claim) else { return Ok(Vec::new()) };
                let groups = text_or_list(found).map_err(|why| format!("oidc: parse groups claim {}: {why}", go_quote(claim)))?;
                Ok(groups.into_iter().map(|g| format!("{prefix}{g}")).collect())
            }
            Some(Source::Expression(expression)) => {
                expression.eval(claims).and_then(|v| texts(&v)).map_err(|why| format!("oidc: error evaluating group claim expression: {why}"))
            }
        }
    }

    fn uid(&self, claims: &Value) -> Result<String, String> {
        let failed = |why: String| format!("oidc: error evaluating uid claim expression: {why}");
        match &self.uid {
            None => Ok(String::new()),
            Some(Source::Claim { claim, .. }) => claim_text(claims, claim).map_err(|why| format!("oidc: parse uid claim {}: {why}", go_quote(claim))),
            Some(Source::Expression(expression)) => match expression.eval(claims).map_err(failed)? {
                Cel::String(uid) => Ok((*uid).to_owned()),
                _ => Err(failed("uid claim expression must return a string".into())),
            },
        }
    }

    fn extra(&self, claims: &Value) -> Result<std::collections::BTreeMap<String, Vec<String>>, String> {
        let mut extra = std::collections::BTreeMap::new();
        if let Some(id) = claims.str_at(&["jti"]).filter(|id| !id.is_empty()) {
            extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, expression) in &self.extra {
            let values =
                texts(&expression.eval(claims)?).map_err(|why| format!("oidc: error evaluating extra claim expression: {}: {why}", expression.text))?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        Ok(extra)
    }
}

/// Go reads every number of a token as a float.
fn as_go_reads(value: &Value) -> Value {
    match value {
        Value::Number(n) => n.as_f64().and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number),
        Value::Array(items) => Value::Array(items.iter().map(as_go_reads).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), as_go_reads(v))).collect()),
        other => other.clone(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        other => Err(format!("json: cannot unmarshal {} into Go value of type string", kind(other))),
    }
}

fn claim_text(claims: &Value, claim: &str) -> Result<String, String> {
    claims.get(claim).ok_or_else(|| "claim not present".to_owned()).and_then(text)
}

/// Some name one group by a string instead of a list.
fn text_or_list(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) if items.iter().all(|i| i.is_string() || i.is_null()) => items.iter().map(text).collect(),
        other => text(other).map(|one| vec![one]),
    }
}

/// An address that somebody says is not verified names nobody.
fn check_email(claims: &Value) -> Result<(), String> {
    match claims.get("email_verified") {
        None | Some(Value::Bool(true)) => Ok(()),
        Some(Value::Bool(false) | Value::Null) => Err("oidc: email not verified".into()),
        Some(other) => Err(format!("oidc: parse 'email_verified' claim: json: cannot unmarshal {} into Go value of type bool", kind(other))),
    }
}

fn hold(rules: &[Rule], input: &Value) -> Result<(), String> {
    // All are evaluated before one of them refuses.
    let values = rules.iter().map(|rule| rule.expression.eval(input)).collect::<Result<Vec<_>, _>>()?;
    for (rule, value) in rules.iter().zip(values) {
        match value {
            Cel::Bool(true) => {}
            Cel::Bool(false) => return Err(format!("validation expression '{}' failed: {}", rule.expression.text, rule.message)),
            _ => return Err("validation expression must return a boolean".into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::config::Configuration;
    use super::*;

    fn user(mappings: &str, claims: &Value) -> Result<User, String> {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: 'https://a.example', audiences: [x]}}\n  {mappings}\n"
        );
        let (mut all, errors) = Configuration::parse(&text).unwrap().compile(&[]);
        assert!(errors.is_empty(), "{errors:?}");
        all.remove(0).user(claims)
    }

    #[test]
    fn claims_by_name_get_their_prefix() {
        let claims = json!({"sub": "jane", "roles": ["a", "b"], "id": "7", "jti": "t1"});
        let mapped = user("claimMappings: {username: {claim: sub, prefix: 'o:'}, groups: {claim: roles, prefix: 'g-'}, uid: {claim: id}}", &claims).unwrap();
        assert_eq!((mapped.name.as_str(), mapped.groups, mapped.uid.as_str()), ("o:jane", vec!["g-a".to_owned(), "g-b".into()], "7"));
        assert_eq!(mapped.extra[CREDENTIAL_ID], ["JTI=t1"]);
        let one = user("claimMappings: {username: {claim: sub, prefix: ''}, groups: {claim: roles, prefix: ''}}", &json!({"sub": "jane", "roles": "a"}));
        assert_eq!(one.unwrap().groups, ["a"]);
        let missing = user("claimMappings: {username: {claim: sub, prefix: ''}}", &json!({}));
        assert_eq!(missing, Err("oidc: parse username claims \"sub\": claim not present".into()));
    }

    #[test]
    fn an_address_must_be_verified() {
        let email = |verified: Value| {
            user("claimMappings: {username: {claim: email, prefix: ''}}", &json!({"email": "j@x", "email_verified": verified})).map(|u| u.name)
        };
        assert_eq!(email(json!(true)), Ok("j@x".into()));
        assert_eq!(email(json!(false)), Err("oidc: email not verified".into()));
        assert!(email(json!("true")).is_err());
    }

    #[test]
    fn expressions_map_claims() {
        let mappings = "claimMappings: {username: {expression: 'claims.org + \":\" + claims.sub'}, groups: {expression: 'claims.roles.split(\",\")'}, \
                        uid: {expression: 'claims.sub'}, extra: [{key: example.com/level, valueExpression: 'claims.level > 2 ? \"high\" : \"\"'}]}";
        let mapped = user(mappings, &json!({"org": "x", "sub": "jane", "roles": "a,b", "level": 3})).unwrap();
        assert_eq!((mapped.name.as_str(), mapped.groups, mapped.uid.as_str()), ("x:jane", vec!["a".to_owned(), "b".into()], "jane"));
        assert_eq!(mapped.extra["example.com/level"], ["high"]);
        let low = user(mappings, &json!({"org": "x", "sub": "jane", "roles": "a", "level": 1})).unwrap();
        assert!(low.extra.is_empty());
        let number = user("claimMappings: {username: {expression: 'claims.level'}}", &json!({"level": 1}));
        assert_eq!(number, Err("oidc: error evaluating username claim expression: username claim expression must return a string".into()));
        let empty = user("claimMappings: {username: {expression: 'claims.sub'}}", &json!({"sub": ""}));
        assert_eq!(empty, Err("oidc: empty username via CEL expression is not allowed".into()));
    }

    #[test]
    fn rules_must_hold() {
        let base = "claimMappings: {username: {claim: sub, prefix: ''}}\n  ";
        let required = format!("{base}claimValidationRules: [{{claim: hd, requiredValue: example.com}}]");
        assert!(user(&required, &json!({"sub": "a", "hd": "example.com"})).is_ok());
        assert_eq!(user(&required, &json!({"sub": "a"})), Err("oidc: required claim hd not present in ID token".into()));
        let other = user(&required, &json!({"sub": "a", "hd": "x"}));
        assert_eq!(other, Err("oidc: required claim hd value does not match. Got = x, want = example.com".into()));
        let short = format!("{base}claimValidationRules: [{{expression: 'claims.exp - claims.nbf <= 60', message: too long}}]");
        assert!(user(&short, &json!({"sub": "a", "exp": 100, "nbf": 50})).is_ok());
        let long = user(&short, &json!({"sub": "a", "exp": 1000, "nbf": 50}));
        assert_eq!(
            long,
            Err("oidc: error evaluating claim validation expression: validation expression 'claims.exp - claims.nbf <= 60' failed: too long".into())
        );
        let system = format!("{base}userValidationRules: [{{expression: '!user.username.startsWith(\"system:\")', message: reserved}}]");
        let refused = user(&system, &json!({"sub": "system:admin"}));
        assert!(refused.unwrap_err().ends_with("failed: reserved"));
    }
}
