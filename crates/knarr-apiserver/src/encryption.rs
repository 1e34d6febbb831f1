//! EncryptionConfiguration (`--encryption-provider-config`): which resources lie encrypted, and by which keys. Read strictly and validated in
//! upstream's words (`apis/apiserver/validation/validation_encryption.go`). What seals is in `knarr-store`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Value, json};
use knarr_store::seal::providers::{Keys, Method, Pattern, Provider};
use serde::Deserialize;

use crate::authn::extra::aggregate;
use crate::authn::jwt::config::read;

/// What a file says: each pattern of resources with its providers.
pub type Rules = Vec<(Pattern, Arc<Vec<Provider>>)>;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    kind: String,
    api_version: String,
    resources: Vec<Rule>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rule {
    resources: Vec<String>,
    providers: Vec<ProviderConfiguration>,
}

/// One of these is set.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProviderConfiguration {
    aesgcm: Option<KeyList>,
    aescbc: Option<KeyList>,
    secretbox: Option<KeyList>,
    identity: Option<Identity>,
    kms: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeyList {
    keys: Vec<KeyConfiguration>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeyConfiguration {
    name: String,
    /// Base64.
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

impl ProviderConfiguration {
    /// The one that is set.
    fn keys(&self) -> Option<(Method, &[KeyConfiguration])> {
        let of = |method: Method| match method {
            Method::AesGcm => &self.aesgcm,
            Method::AesCbc => &self.aescbc,
            Method::Secretbox => &self.secretbox,
        };
        Method::ALL.into_iter().find_map(|method| Some((method, of(method).as_ref()?.keys.as_slice())))
    }

    fn set(&self) -> usize {
        let keys = [&self.aesgcm, &self.aescbc, &self.secretbox];
        keys.iter().filter(|k| k.is_some()).count() + usize::from(self.identity.is_some()) + usize::from(self.kms.is_some())
    }
}

/// Reads the text of a file.
///
/// # Errors
/// What cannot be read or is wrong, and where.
pub fn parse(text: &str) -> Result<Rules, String> {
    let config: Configuration = read(text, "EncryptionConfiguration", &["apiserver.config.k8s.io/v1"])?;
    let errors = validate(&config);
    if !errors.is_empty() {
        return Err(aggregate(&errors));
    }
    let mut rules = Rules::new();
    for rule in &config.resources {
        let providers: Arc<Vec<Provider>> = Arc::new(rule.providers.iter().map(provider).collect::<Result<_, _>>()?);
        for resource in &rule.resources {
            let pattern = Pattern::parse(resource);
            if let Some((earlier, _)) = rules.iter().find(|(earlier, _)| masks(earlier, &pattern)) {
                return Err(format!("resource {:?} is masked by earlier rule {:?}", shown(&pattern), shown(earlier)));
            }
            rules.push((pattern, providers.clone()));
        }
    }
    Ok(rules)
}

fn masks(earlier: &Pattern, pattern: &Pattern) -> bool {
    earlier.resource == "*" && (earlier.group == "*" || earlier.group == pattern.group)
}

fn shown(pattern: &Pattern) -> String {
    match (pattern.resource.as_str(), pattern.group.as_str()) {
        ("*", "") => "*.".to_owned(),
        (resource, "") => resource.to_owned(),
        (resource, group) => format!("{resource}.{group}"),
    }
}

fn provider(config: &ProviderConfiguration) -> Result<Provider, String> {
    let Some((method, keys)) = config.keys() else { return Ok(Provider::Identity) };
    let secrets = keys.iter().map(|key| Ok((key.name.as_str(), decode(&key.secret).map_err(|e| e.to_string())?)));
    let secrets: Vec<(&str, Vec<u8>)> = secrets.collect::<Result<_, String>>()?;
    Keys::new(method, secrets.iter().map(|(name, secret)| (*name, secret.as_slice()))).map(Provider::Keys)
}

/// Go passes over breaks of lines.
fn decode(secret: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(secret.replace(['\r', '\n'], ""))
}

fn validate(config: &Configuration) -> ErrorList {
    let (root, mut errors) = (Path::new("resources"), ErrorList::new());
    if config.resources.is_empty() {
        errors.push(Error::required(&root, "at least one resources is required"));
    }
    for (at, rule) in config.resources.iter().enumerate() {
        let (resources, providers) = (root.index(at).child("resources"), root.index(at).child("providers"));
        let none = |path: &Path| Error::required(path, format!("at least one {} is required", path.as_str()));
        errors.extend(rule.resources.is_empty().then(|| none(&resources)));
        overlap(&rule.resources, &resources, &mut errors);
        for (at, resource) in rule.resources.iter().enumerate() {
            errors.extend(unfit(resource).map(|why| Error::invalid(&resources.index(at), resource.as_str(), why)));
        }
        errors.extend(rule.providers.is_empty().then(|| none(&providers)));
        for (at, provider) in rule.providers.iter().enumerate() {
            one_provider(provider, &providers.index(at), &mut errors);
        }
    }
    errors
}

/// Patterns of one rule that stand for the same resource.
fn overlap(resources: &[String], path: &Path, errors: &mut ErrorList) {
    let patterns: Vec<Pattern> = resources.iter().map(|r| Pattern::parse(r)).collect();
    let is_all = |p: &Pattern| p.group == "*" && p.resource == "*";
    let pairs = || patterns.iter().enumerate().flat_map(|(at, one)| patterns.iter().skip(at + 1).map(move |other| (one, other)));
    let is_double = pairs().any(|(one, other)| one == other);
    let is_masked = |(one, other): (&Pattern, &Pattern)| {
        one != other && (is_all(one) || is_all(other) || one.group == other.group && [one, other].iter().any(|p| p.resource == "*"))
    };
    let mut say = |why: &str| errors.push(Error::invalid(path, json!(resources), why));
    if is_double {
        say("the same resource cannot be specified multiple times");
    }
    if pairs().any(is_masked) {
        say("using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked");
    }
}

/// Why a resource cannot be named so.
fn unfit(resource: &str) -> Option<&'static str> {
    if resource.chars().any(char::is_uppercase) {
        return Some("resource name should not contain capital letters");
    }
    let pattern = Pattern::parse(resource);
    match (resource, pattern.group.as_str()) {
        ("*", _) => Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"),
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", _) => Some("resources which do not have REST API/s cannot be encrypted"),
        (_, "events.k8s.io") => Some("'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"),
        (_, "extensions") => Some("'extensions' group has been removed and cannot be used for encryption"),
        (_, "*") if pattern.resource != "*" => Some("encrypting the same resource across groups is not supported"),
        _ => None,
    }
}

fn one_provider(provider: &ProviderConfiguration, path: &Path, errors: &mut ErrorList) {
    match provider.set() {
        0 => {
            let why = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
            errors.push(Error::invalid_omitted(path, why));
        }
        1 => {}
        _ => errors.push(Error::invalid_omitted(path, "more than one provider specified in a single element, should split into different list elements")),
    }
    if provider.kms.is_some() {
        errors.push(Error::forbidden(&path.child("kms"), "knarr asks no KMS plugins: use secretbox, aesgcm or aescbc"));
    }
    if let Some((method, keys)) = provider.keys() {
        let path = path.child(method.name()).child("keys");
        errors.extend(keys.is_empty().then(|| Error::required(&path, "at least one keys is required")));
        keys.iter().enumerate().for_each(|(at, k)| key(k, method, &path.index(at), errors));
    }
}

/// The secret itself is never told.
fn key(key: &KeyConfiguration, method: Method, path: &Path, errors: &mut ErrorList) {
    let secret = path.child("secret");
    if key.name.is_empty() {
        errors.push(Error::required(&path.child("name"), "name is a mandatory field for a key"));
    }
    if key.secret.is_empty() {
        return errors.push(Error::required(&secret, "secret is a mandatory field for a key"));
    }
    match decode(&key.secret) {
        Err(_) => errors.push(Error::invalid(&secret, "REDACTED", "secrets must be base64 encoded")),
        Ok(bytes) if !method.key_lengths().contains(&bytes.len()) => {
            let wanted: Vec<String> = method.key_lengths().iter().map(ToString::to_string).collect();
            let why = format!("secret is not of the expected length, got {}, expected one of [{}]", bytes.len(), wanted.join(" "));
            errors.push(Error::invalid(&secret, "REDACTED", why));
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use knarr_store::{ResourceKey, Sealer, seal::providers};

    use super::*;

    const HEAD: &str = "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n";

    fn read(rest: &str) -> Result<Rules, String> {
        parse(&format!("{HEAD}{rest}"))
    }

    #[test]
    fn a_file_says_what_seals_which_resource() {
        let secret = STANDARD.encode([7; 32]);
        let rules = read(&format!(
            "- resources: [secrets, pandas.awesome.bears.example]\n  providers:\n  - secretbox: {{keys: [{{name: a, secret: {secret}}}]}}\n  - identity: {{}}\n\
             - resources: ['*.apps']\n  providers: [{{aesgcm: {{keys: [{{name: b, secret: {secret}}}, {{name: c, secret: {secret}}}]}}}}]\n"
        ));
        let sealer = providers::Rules::new(rules.unwrap(), None);
        let begins = |group: &str, resource: &str| {
            let key = ResourceKey::new(group, resource);
            sealer.seals(&key).then(|| String::from_utf8_lossy(&sealer.seal(&key, "a", b"x").unwrap()).split(':').take(5).collect::<Vec<_>>().join(":"))
        };
        assert_eq!(begins("", "secrets").unwrap(), "k8s:enc:secretbox:v1:a");
        assert_eq!(begins("awesome.bears.example", "pandas").unwrap(), "k8s:enc:secretbox:v1:a");
        assert_eq!(begins("apps", "deployments").unwrap(), "k8s:enc:aesgcm:v1:b");
        assert_eq!(begins("", "configmaps"), None);
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let overlap = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        for (rest, wanted) in [
            (" []", "resources: Required value: at least one resources is required".to_owned()),
            (
                "- resources: []\n  providers: []",
                "[resources[0].resources: Required value: at least one resources[0].resources is required, \
                 resources[0].providers: Required value: at least one resources[0].providers is required]"
                    .to_owned(),
            ),
            ("- resources: [secrets, '*.']\n  providers: [{identity: {}}]", format!("resources[0].resources: Invalid value: [\"secrets\",\"*.\"]: {overlap}")),
            (
                "- resources: [secrets, secrets]\n  providers: [{identity: {}}]",
                "resources[0].resources: Invalid value: [\"secrets\",\"secrets\"]: the same resource cannot be specified multiple times".to_owned(),
            ),
            (
                "- resources: ['*.']\n  providers: [{identity: {}}]\n- resources: [secrets]\n  providers: [{identity: {}}]",
                "resource \"secrets\" is masked by earlier rule \"*.\"".to_owned(),
            ),
            (
                "- resources: [secrets]\n  providers: [{aesgcm: {keys: [{name: a, secret: YQ==}]}}]",
                "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 1, expected one of [16 24 32]"
                    .to_owned(),
            ),
            (
                "- resources: [secrets]\n  providers: [{secretbox: {keys: [{secret: '!'}]}}]",
                "[resources[0].providers[0].secretbox.keys[0].name: Required value: name is a mandatory field for a key, \
                 resources[0].providers[0].secretbox.keys[0].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded]"
                    .to_owned(),
            ),
            (
                "- resources: [Secrets]\n  providers: [{identity: {}, aescbc: {keys: []}}]",
                "[resources[0].resources[0]: Invalid value: \"Secrets\": resource name should not contain capital letters, resources[0].providers[0]: \
                 Invalid value: more than one provider specified in a single element, should split into different list elements, \
                 resources[0].providers[0].aescbc.keys: Required value: at least one keys is required]"
                    .to_owned(),
            ),
        ] {
            assert_eq!(read(rest).map(|_| ()).unwrap_err(), wanted, "{rest}");
        }
        for resource in ["'*'", "serviceipallocations", "events.events.k8s.io", "'secrets.*'", "ingresses.extensions"] {
            let why = read(&format!("- resources: [{resource}]\n  providers: [{{identity: {{}}}}]")).map(|_| ()).unwrap_err();
            assert!(why.starts_with("resources[0].resources[0]: Invalid value: "), "{why}");
        }
        let kms = "- resources: [secrets]\n  providers: [{kms: {name: a, endpoint: 'unix:///a'}}]";
        assert!(read(kms).map(|_| ()).unwrap_err().starts_with("resources[0].providers[0].kms: Forbidden: "));
        assert!(parse("kind: EncryptionConfiguration\napiVersion: v1\n").is_err());
        assert!(read("- resources: [secrets]\n  providers: [{rot13: {}}]").map(|_| ()).unwrap_err().contains("rot13"));
    }
}
