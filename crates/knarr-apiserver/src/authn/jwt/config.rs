//! AuthenticationConfiguration (`apiserver.config.k8s.io`): who may issue tokens, and what becomes of their claims. Read strictly,
//! validated in upstream's words (`apis/apiserver/validation`), and compiled.

use std::collections::HashSet;

use knarr_cel::authentication::{Expression, Subject};
use knarr_core::{
    Value, ValueExt,
    field::{Error, ErrorList, Path},
    yaml,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;

use super::super::{Anonymous, extra::domain_prefixed_path};
use super::claims::{ClaimRule, Mapping, Rule, Source};

/// Versions that say the same in the same words.
const VERSIONS: [&str; 3] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
/// Most issuers.
const ISSUERS_MAX: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    kind: String,
    api_version: String,
    pub jwt: Vec<JwtAuthenticator>,
    pub anonymous: Option<AnonymousConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AnonymousConfig {
    pub enabled: bool,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    pub path: String,
}

impl From<&AnonymousConfig> for Anonymous {
    fn from(config: &AnonymousConfig) -> Self {
        Self { enabled: config.enabled, paths: config.conditions.iter().map(|c| c.path.clone()).collect() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtAuthenticator {
    pub issuer: Issuer,
    pub claim_validation_rules: Vec<ClaimValidationRule>,
    pub claim_mappings: ClaimMappings,
    pub user_validation_rules: Vec<UserValidationRule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    pub url: String,
    #[serde(rename = "discoveryURL")]
    pub discovery_url: String,
    /// PEM; without it whom the machine trusts.
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub audience_match_policy: String,
    pub egress_selector_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimValidationRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimMappings {
    pub username: ClaimOrExpression,
    pub groups: ClaimOrExpression,
    pub uid: ClaimOrExpression,
    pub extra: Vec<ExtraMapping>,
}

/// `uid` has no prefix; that is checked by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimOrExpression {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtraMapping {
    pub key: String,
    pub value_expression: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct UserValidationRule {
    pub expression: String,
    pub message: String,
}

/// What the old flags say of the one issuer that they know.
#[derive(Clone, Debug, Default)]
pub struct OidcFlags {
    pub issuer_url: String,
    pub client_id: String,
    /// PEM.
    pub ca: String,
    pub username_claim: String,
    /// Empty: the issuer and `#`, but for addresses; `-`: none.
    pub username_prefix: String,
    pub groups_claim: String,
    pub groups_prefix: String,
    pub required_claims: Vec<(String, String)>,
}

fn by_claim(claim: &str, prefix: String) -> ClaimOrExpression {
    ClaimOrExpression { claim: claim.to_owned(), prefix: Some(prefix), expression: String::new() }
}

/// Reads YAML or JSON strictly.
///
/// # Errors
/// What cannot be read, or what is of another kind.
pub fn read<T: serde::de::DeserializeOwned>(text: &str, kind: &str, versions: &[&str]) -> Result<T, String> {
    if text.trim().is_empty() {
        return Err("empty config data".into());
    }
    let document = yaml::parse_document(text)?;
    let of = |key: &str| document.value.str_at(&[key]).unwrap_or_default();
    if let Some(duplicate) = document.duplicates.first() {
        return Err(format!("strict decoding error: yaml: unmarshal errors:\n  {duplicate}"));
    }
    if of("kind") != kind || !versions.contains(&of("apiVersion")) {
        return Err(format!("no kind {:?} is registered for version {:?} in scheme \"pkg/apis/apiserver/install\"", of("kind"), of("apiVersion")));
    }
    serde_json::from_value(without_nulls(document.value)).map_err(|e| format!("strict decoding error: {e}"))
}

/// In a configuration null is what is not there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

impl Configuration {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`read`].
    pub fn parse(text: &str) -> Result<Self, String> {
        read(text, "AuthenticationConfiguration", &VERSIONS)
    }

    /// The same out of `--oidc-*` (upstream: `ToAuthenticationConfig`).
    pub fn of_flags(flags: &OidcFlags) -> Self {
        let username_prefix = match (flags.username_prefix.as_str(), flags.username_claim.as_str()) {
            ("-", _) | ("", "email") => String::new(),
            ("", _) => format!("{}#", flags.issuer_url),
            (prefix, _) => prefix.to_owned(),
        };
        let groups = if flags.groups_claim.is_empty() { ClaimOrExpression::default() } else { by_claim(&flags.groups_claim, flags.groups_prefix.clone()) };
        let required = |(claim, value): &(String, String)| ClaimValidationRule { claim: claim.clone(), required_value: value.clone(), ..Default::default() };
        let jwt = JwtAuthenticator {
            issuer: Issuer {
                url: flags.issuer_url.clone(),
                certificate_authority: flags.ca.clone(),
                audiences: vec![flags.client_id.clone()],
                ..Issuer::default()
            },
            claim_validation_rules: flags.required_claims.iter().map(required).collect(),
            claim_mappings: ClaimMappings { username: by_claim(&flags.username_claim, username_prefix), groups, ..ClaimMappings::default() },
            user_validation_rules: Vec::new(),
        };
        Self { jwt: vec![jwt], ..Self::default() }
    }

    /// Compiles all that it says. `own_issuers` are those of service account tokens, whose place nobody may take.
    pub fn compile(&self, own_issuers: &[String]) -> (Vec<Mapping>, ErrorList) {
        let root = Path::new("jwt");
        if self.jwt.len() > ISSUERS_MAX {
            return (Vec::new(), vec![Error::too_many(&root, self.jwt.len(), ISSUERS_MAX as i64)]);
        }
        let (mut errors, mut mappings) = (ErrorList::new(), Vec::new());
        let (mut urls, mut discovery_urls) = (HashSet::new(), HashSet::new());
        for (i, jwt) in self.jwt.iter().enumerate() {
            let place = root.index(i);
            check_issuer(&jwt.issuer, own_issuers, &place.child("issuer"), &mut errors);
            mappings.push(compile(jwt, &place, &mut errors));
            let mut once = |seen: &mut HashSet<String>, value: &String, field: &str| {
                if !value.is_empty() && !seen.insert(value.clone()) {
                    errors.push(Error::duplicate(&place.child("issuer").child(field), value.as_str()));
                }
            };
            once(&mut urls, &jwt.issuer.url, "url");
            once(&mut discovery_urls, &jwt.issuer.discovery_url, "discoveryURL");
        }
        if let Some(anonymous) = self.anonymous.as_ref().filter(|a| !a.enabled && !a.conditions.is_empty()) {
            let shown: Vec<Value> = anonymous.conditions.iter().map(|c| knarr_core::json!({"path": c.path})).collect();
            let place = Path::new("anonymous").child("conditions");
            errors.push(Error::invalid(&place, shown, "enabled should be set to true when conditions are defined"));
        }
        (mappings, errors)
    }
}

fn check_issuer(issuer: &Issuer, own_issuers: &[String], place: &Path, errors: &mut ErrorList) {
    let url = place.child("url");
    if issuer.url.is_empty() {
        errors.push(Error::required(&url, ""));
    } else {
        if own_issuers.contains(&issuer.url) {
            let mut own = own_issuers.to_vec();
            own.sort();
            errors.push(Error::invalid(&url, issuer.url.as_str(), format!("URL must not overlap with disallowed issuers: [{}]", own.join(" "))));
        }
        check_url(&issuer.url, &url, errors);
    }
    let discovery = place.child("discoveryURL");
    if !issuer.discovery_url.is_empty() {
        if !issuer.url.is_empty() && issuer.url.trim_end_matches('/') == issuer.discovery_url.trim_end_matches('/') {
            errors.push(Error::invalid(&discovery, issuer.discovery_url.as_str(), "discoveryURL must be different from URL"));
        }
        check_url(&issuer.discovery_url, &discovery, errors);
    }
    check_audiences(issuer, place, errors);
    if !issuer.certificate_authority.is_empty() && CertificateDer::pem_slice_iter(issuer.certificate_authority.as_bytes()).flatten().next().is_none() {
        let why = "data does not contain any valid RSA or ECDSA certificates";
        errors.push(Error::invalid(&place.child("certificateAuthority"), "<omitted>", why));
    }
    let egress = place.child("egressSelectorType");
    match issuer.egress_selector_type.as_str() {
        "" => {}
        "controlplane" | "cluster" => errors.push(Error::invalid(&egress, issuer.egress_selector_type.as_str(), "egress selection is not configured")),
        other => errors.push(Error::invalid(&egress, other, "egress selector must be either controlplane or cluster")),
    }
}

fn check_url(text: &str, place: &Path, errors: &mut ErrorList) {
    let mut wrong = |why: &str| errors.push(Error::invalid(place, text, why));
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
    if text.bytes().any(|b| b.is_ascii_control() || b == b' ')
        || (scheme == "https" && rest.parse::<http::uri::Authority>().is_err() && authority(rest).is_none())
    {
        return wrong(&format!("parse {}: invalid URL", knarr_core::field::go_quote(text)));
    }
    if !scheme.eq_ignore_ascii_case("https") {
        wrong("URL scheme must be https");
    }
    if authority(rest).is_some_and(|a| a.as_str().contains('@')) {
        wrong("URL must not contain a username or password");
    }
    if !query.is_empty() {
        wrong("URL must not contain a query");
    }
    if !fragment.is_empty() {
        wrong("URL must not contain a fragment");
    }
}

fn authority(rest: &str) -> Option<http::uri::Authority> {
    rest.split('/').next().and_then(|a| a.parse().ok())
}

fn check_audiences(issuer: &Issuer, place: &Path, errors: &mut ErrorList) {
    let audiences = place.child("audiences");
    if issuer.audiences.is_empty() {
        return errors.push(Error::required(&audiences, format!("at least one {audiences} is required")));
    }
    let mut seen = HashSet::new();
    for (i, audience) in issuer.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(Error::required(&audiences.index(i), ""));
        }
        if !seen.insert(audience) {
            errors.push(Error::duplicate(&audiences.index(i), audience.as_str()));
        }
    }
    let (policy, place) = (issuer.audience_match_policy.as_str(), place.child("audienceMatchPolicy"));
    match issuer.audiences.len() {
        1 if !policy.is_empty() && policy != "MatchAny" => {
            errors.push(Error::invalid(&place, policy, "audienceMatchPolicy must be empty or MatchAny for single audience"));
        }
        2.. if policy != "MatchAny" => errors.push(Error::invalid(&place, policy, "audienceMatchPolicy must be MatchAny for multiple audiences")),
        _ => {}
    }
}

/// Compiles one issuer's rules and mappings, as far as they can be.
fn compile(jwt: &JwtAuthenticator, place: &Path, errors: &mut ErrorList) -> Mapping {
    let mut mapping = Mapping::default();
    claim_rules(jwt, &place.child("claimValidationRules"), &mut mapping, errors);
    claim_mappings(&jwt.claim_mappings, &place.child("claimMappings"), &mut mapping, errors);
    let place = place.child("userValidationRules");
    let mut seen = HashSet::new();
    for (i, rule) in jwt.user_validation_rules.iter().enumerate() {
        let place = place.index(i).child("expression");
        if rule.expression.is_empty() {
            errors.push(Error::required(&place, ""));
        } else if !seen.insert(&rule.expression) {
            errors.push(Error::duplicate(&place, rule.expression.as_str()));
        } else if let Some(expression) = expression(&rule.expression, Subject::User, true, &place, errors) {
            mapping.user_rules.push(Rule { expression, message: rule.message.clone() });
        }
    }
    mapping
}

fn expression(text: &str, subject: Subject, condition: bool, place: &Path, errors: &mut ErrorList) -> Option<Expression> {
    Expression::new(text, subject, condition).map_err(|why| errors.push(Error::invalid(place, text, why))).ok()
}

fn claim_rules(jwt: &JwtAuthenticator, place: &Path, mapping: &mut Mapping, errors: &mut ErrorList) {
    let (mut claims, mut expressions) = (HashSet::new(), HashSet::new());
    for (i, rule) in jwt.claim_validation_rules.iter().enumerate() {
        let place = place.index(i);
        match (rule.claim.is_empty(), rule.expression.is_empty()) {
            (false, false) => errors.push(Error::invalid(&place, rule.claim.as_str(), "claim and expression can't both be set")),
            (true, true) => errors.push(Error::required(&place, "claim or expression is required")),
            (false, true) => {
                if !rule.message.is_empty() {
                    errors.push(Error::invalid(&place.child("message"), rule.message.as_str(), "may not be specified when claim is set"));
                }
                if !claims.insert(&rule.claim) {
                    errors.push(Error::duplicate(&place.child("claim"), rule.claim.as_str()));
                }
                mapping.required.push(ClaimRule { claim: rule.claim.clone(), value: rule.required_value.clone() });
            }
            (true, false) => {
                if !rule.required_value.is_empty() {
                    errors.push(Error::invalid(&place.child("requiredValue"), rule.required_value.as_str(), "may not be specified when expression is set"));
                }
                let place = place.child("expression");
                if !expressions.insert(&rule.expression) {
                    errors.push(Error::duplicate(&place, rule.expression.as_str()));
                } else if let Some(expression) = expression(&rule.expression, Subject::Claims, true, &place, errors) {
                    mapping.claim_rules.push(Rule { expression, message: rule.message.clone() });
                }
            }
        }
    }
}

fn claim_mappings(m: &ClaimMappings, place: &Path, mapping: &mut Mapping, errors: &mut ErrorList) {
    mapping.username = source(&m.username, &place.child("username"), true, errors);
    mapping.groups = source(&m.groups, &place.child("groups"), false, errors);
    let uid = place.child("uid");
    if m.uid.prefix.is_some() {
        errors.push(Error::forbidden(&uid.child("prefix"), "a uid has no prefix"));
    }
    mapping.uid = match (m.uid.claim.as_str(), m.uid.expression.as_str()) {
        ("", "") => None,
        ("", text) => expression(text, Subject::Claims, false, &uid.child("expression"), errors).map(Source::Expression),
        (claim, "") => Some(Source::Claim { claim: claim.to_owned(), prefix: String::new() }),
        _ => {
            errors.push(Error::invalid(&uid, "", "claim and expression can't both be set"));
            None
        }
    };
    extra_mappings(&m.extra, &place.child("extra"), mapping, errors);
    let uses = |claim: &str| {
        let rules = mapping.claim_rules.iter().map(|r| &r.expression).chain(mapping.extra.iter().map(|(_, e)| e));
        let username = mapping.username.iter().filter_map(|s| if let Source::Expression(e) = s { Some(e) } else { None });
        (username.clone().any(|e| e.uses_claim(claim)), rules.chain(username).any(|e| e.uses_claim(claim)))
    };
    if uses("email").0 && !uses("email_verified").1 {
        let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or \
                   claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
        errors.push(Error::invalid(&place.child("username").child("expression"), m.username.expression.as_str(), why));
    }
}

fn source(from: &ClaimOrExpression, place: &Path, required: bool, errors: &mut ErrorList) -> Option<Source> {
    match (from.claim.as_str(), from.expression.as_str()) {
        ("", "") if required => errors.push(Error::required(place, "claim or expression is required")),
        ("", "") => {}
        ("", text) => {
            if let Some(prefix) = &from.prefix {
                errors.push(Error::invalid(&place.child("prefix"), prefix.as_str(), "may not be specified when expression is set"));
            }
            return expression(text, Subject::Claims, false, &place.child("expression"), errors).map(Source::Expression);
        }
        (claim, "") => {
            if from.prefix.is_none() {
                let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.push(Error::required(&place.child("prefix"), why));
            }
            return Some(Source::Claim { claim: claim.to_owned(), prefix: from.prefix.clone().unwrap_or_default() });
        }
        _ => errors.push(Error::invalid(place, "", "claim and expression can't both be set")),
    }
    None
}

fn extra_mappings(all: &[ExtraMapping], place: &Path, mapping: &mut Mapping, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (i, one) in all.iter().enumerate() {
        let (place, key) = (place.index(i), one.key.as_str());
        let at_key = place.child("key");
        errors.extend(domain_prefixed_path(&at_key, key));
        if key != key.to_lowercase() {
            errors.push(Error::invalid(&at_key, key, "must be lowercase"));
        }
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        if ["kubernetes.io", "k8s.io"].into_iter().any(|reserved| domain == reserved || domain.ends_with(&format!(".{reserved}"))) {
            errors.push(Error::invalid(&at_key, key, "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"));
        }
        let at_value = place.child("valueExpression");
        if !seen.insert(key) {
            errors.push(Error::duplicate(&at_key, key));
        } else if one.value_expression.is_empty() {
            errors.push(Error::required(&at_value, ""));
        } else if let Some(expression) = expression(&one.value_expression, Subject::Claims, false, &at_value, errors) {
            mapping.extra.push((key.to_owned(), expression));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(jwt: &str) -> Vec<String> {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n{jwt}");
        let config = Configuration::parse(&text).unwrap();
        config.compile(&["https://kubernetes.default.svc".to_owned()]).1.iter().map(ToString::to_string).collect()
    }

    const GOOD: &str = "- issuer: {url: 'https://a.example', audiences: [x]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n";

    #[test]
    fn a_good_one_has_no_errors() {
        assert_eq!(errors(GOOD), Vec::<String>::new());
        let rich = "- issuer: {url: 'https://a.example/x', discoveryURL: 'https://b.example/d', audiences: [x, z], audienceMatchPolicy: MatchAny}\n  \
                    claimMappings: {username: {expression: 'claims.email + (claims.email_verified ? \"\" : \"?\")'}, groups: {claim: g, prefix: 'o:'}, \
                    uid: {claim: sub}, extra: [{key: example.com/t, valueExpression: claims.tenant}]}\n  claimValidationRules: [{claim: hd, requiredValue: e}, \
                    {expression: 'claims.exp - claims.nbf <= 86400', message: long}]\n  userValidationRules: [{expression: '!user.username.startsWith(\"system:\")'}]\n";
        assert_eq!(errors(rich), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert_eq!(errors(&format!("{GOOD}{GOOD}")), ["jwt[1].issuer.url: Duplicate value: \"https://a.example\""]);
        let own = GOOD.replace("a.example", "kubernetes.default.svc");
        assert_eq!(
            errors(&own),
            [
                "jwt[0].issuer.url: Invalid value: \"https://kubernetes.default.svc\": URL must not overlap with disallowed issuers: [https://kubernetes.default.svc]"
            ]
        );
        assert_eq!(errors(&GOOD.replace("https", "http")), ["jwt[0].issuer.url: Invalid value: \"http://a.example\": URL scheme must be https"]);
        assert_eq!(
            errors(&GOOD.replace("[x]", "[x, z]")),
            ["jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences"]
        );
        assert_eq!(
            errors(&GOOD.replace(", prefix: ''", "")),
            [
                "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
            ]
        );
        let email = errors(&GOOD.replace("claim: sub, prefix: ''", "expression: claims.email"));
        assert!(
            email.len() == 1 && email[0].starts_with("jwt[0].claimMappings.username.expression: Invalid value: \"claims.email\": claims.email_verified must")
        );
        let extra = errors(&GOOD.replace("prefix: ''}", "prefix: ''}, extra: [{key: Kubernetes.io/x, valueExpression: '1 +'}]"));
        assert!(extra.iter().any(|e| e.contains("extra[0].key: Invalid value: \"Kubernetes.io/x\": must be lowercase")), "{extra:?}");
        assert!(extra.iter().any(|e| e.contains("extra[0].valueExpression") && e.contains("compilation failed")), "{extra:?}");
    }

    #[test]
    fn flags_are_another_way_to_write_it() {
        let name = |claim: &str, prefix: &str| {
            let flags = OidcFlags {
                issuer_url: "https://a.example".into(),
                client_id: "x".into(),
                username_claim: claim.into(),
                username_prefix: prefix.into(),
                ..OidcFlags::default()
            };
            let (mappings, errors) = Configuration::of_flags(&flags).compile(&[]);
            assert!(errors.is_empty(), "{errors:?}");
            mappings[0].user(&knarr_core::json!({"sub": "jane", "email": "j@x"})).unwrap().name
        };
        assert_eq!(name("sub", ""), "https://a.example#jane");
        assert_eq!(name("sub", "-"), "jane");
        assert_eq!(name("sub", "o:"), "o:jane");
        assert_eq!(name("email", ""), "j@x");
    }

    #[test]
    fn it_is_read_strictly() {
        let read = |text: &str| Configuration::parse(text).map(|_| ());
        assert_eq!(read(""), Err("empty config data".into()));
        assert!(read("apiVersion: v1\nkind: Pod\n").unwrap_err().starts_with("no kind \"Pod\" is registered for version \"v1\""));
        let unknown = read("apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\njwts: []\n").unwrap_err();
        assert!(unknown.starts_with("strict decoding error: unknown field `jwts`"), "{unknown}");
    }

    #[test]
    fn conditions_are_for_those_who_may_come() {
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: false, conditions: [{path: /livez}]}\n";
        let errors = Configuration::parse(text).unwrap().compile(&[]).1;
        assert!(errors[0].to_string().ends_with("enabled should be set to true when conditions are defined"), "{errors:?}");
    }
}
