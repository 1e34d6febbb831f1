//! The flags of service account tokens: which key signs, which ones check, and who issues them to whom.

use std::path::Path;
use std::sync::Arc;

use knarr_apiserver::authn::{Lifetimes, PublicKey, ServiceAccountKey};
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_core::go;

use super::flags::Flags;

/// Flags that are read here.
pub const FLAGS: &[&str] = &[
    "api-audiences",
    "service-account-extend-token-expiration",
    "service-account-issuer",
    "service-account-jwks-uri",
    "service-account-key-file",
    "service-account-lookup",
    "service-account-max-token-expiration",
    "service-account-signing-key-file",
];
/// Shortest and longest `--service-account-max-token-expiration`, in seconds.
const SECONDS_MAX: std::ops::RangeInclusive<u64> = 3600..=1 << 32;

/// What the flags say.
pub struct ServiceAccounts {
    /// The first is named in new tokens; those of the others are taken, too.
    pub issuers: Vec<String>,
    /// The server's own.
    pub audiences: Vec<String>,
    /// Whether the token of a Secret dies with it.
    pub lookup: bool,
    jwks_uri: Option<String>,
    lifetimes: Lifetimes,
    /// Path and text of the key that signs.
    signs: Option<(String, String)>,
    /// Paths and texts of those that check.
    check: Vec<(String, String)>,
}

impl ServiceAccounts {
    /// Reads flags and files (upstream: `BuiltInAuthenticationOptions.Validate`).
    ///
    /// # Errors
    /// An issuer twice, an address that is none, or a file that cannot be read.
    pub fn read(flags: &Flags, default_issuer: &str) -> Result<Self> {
        let mut issuers: Vec<String> = Vec::new();
        for issuer in flags.all("service-account-issuer") {
            match issuer {
                "" => return Err(refused("service-account-issuer should not be an empty string")),
                again if issuers.iter().any(|i| i == again) => return Err(refused(&format!("service-account-issuer {again:?} is already specified"))),
                new => issuers.push(new.to_owned()),
            }
        }
        if issuers.is_empty() {
            issuers.push(default_issuer.to_owned());
        }
        let audiences: Vec<String> = flags.list("api-audiences").into_iter().map(str::to_owned).collect();
        let jwks_uri = flags.get("service-account-jwks-uri").filter(|uri| !uri.is_empty()).map(str::to_owned);
        if let Some(uri) = jwks_uri.as_ref().filter(|uri| !uri.starts_with("https://")) {
            return Err(refused(&format!("service-account-jwks-uri requires https scheme, parsed as: {uri}")));
        }
        Ok(Self {
            audiences: if audiences.is_empty() { issuers.clone() } else { audiences },
            issuers,
            lookup: flags.is_on("service-account-lookup", true),
            jwks_uri,
            lifetimes: Lifetimes { seconds_max: seconds_max(flags)?, extends: flags.is_on("service-account-extend-token-expiration", true) },
            signs: flags.get("service-account-signing-key-file").map(file).transpose()?,
            check: flags.all("service-account-key-file").map(file).collect::<Result<_>>()?,
        })
    }

    /// The keys together. `own` signs where the flags name none that does.
    ///
    /// # Errors
    /// A file without a key, or with one that signs no tokens.
    pub fn key(&self, own: impl FnOnce() -> Result<String>, jwks_uri: &str) -> Result<Arc<ServiceAccountKey>> {
        let issuer = self.issuers.first().map_or("", String::as_str);
        let mut key = match &self.signs {
            Some((path, pem)) => ServiceAccountKey::from_pem(pem, issuer).map_err(|why| unfit("service-account-signing-key-file", path, &why))?,
            None => ServiceAccountKey::from_pem(&own()?, issuer).map_err(Failure::program)?,
        };
        let keys = |(path, pem): &(String, String)| PublicKey::all_of_pem(pem).map_err(|why| unfit("service-account-key-file", path, &why));
        let check: Vec<Vec<PublicKey>> = self.check.iter().map(keys).collect::<Result<_>>()?;
        key.jwks_uri = self.jwks_uri.clone().unwrap_or_else(|| jwks_uri.to_owned());
        key.former_issuers = self.issuers.iter().skip(1).cloned().collect();
        key.audiences.clone_from(&self.audiences);
        key.lifetimes = self.lifetimes;
        Ok(Arc::new(key.checked_by(check.into_iter().flatten().collect())))
    }
}

fn seconds_max(flags: &Flags) -> Result<Option<i64>> {
    let Some(text) = flags.get("service-account-max-token-expiration").filter(|text| !text.is_empty()) else { return Ok(None) };
    let given = go::duration(text).ok_or_else(|| refused(&format!("service-account-max-token-expiration: time: invalid duration {text:?}")))?;
    match given.as_secs() {
        0 => Ok(None),
        seconds if SECONDS_MAX.contains(&seconds) => Ok(i64::try_from(seconds).ok()),
        _ => Err(refused("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds")),
    }
}

/// A key that lives as long as this process, in PEM.
///
/// # Errors
/// The machine gives no random numbers.
pub fn passing_key() -> Result<String> {
    rcgen::KeyPair::generate().map(|key| key.serialize_pem()).map_err(Failure::program)
}

fn file(path: &str) -> Result<(String, String)> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file(Path::new(path), &e))?;
    Ok((path.to_owned(), text))
}

fn refused(why: &str) -> Failure {
    Failure::new("USAGE", Exit::Usage, why, "see kube-apiserver --help")
}

fn unfit(flag: &str, path: &str, why: &str) -> Failure {
    Failure::new("USAGE", Exit::Usage, format!("--{flag}: {path}: {why}"), "name a file in PEM with an RSA key, or one of P-256 or P-384")
}

#[cfg(test)]
mod tests {
    use super::super::flags::Known;
    use super::super::kube_apiserver;
    use super::*;

    fn read(args: &[&str]) -> Result<ServiceAccounts> {
        let args: Vec<String> = args.iter().map(|a| format!("--{a}")).collect();
        ServiceAccounts::read(&Known::new(kube_apiserver::FLAGS).parse(&args).unwrap(), "https://a")
    }

    #[test]
    fn the_first_issuer_signs_and_all_are_audiences() {
        let accounts = read(&["service-account-issuer=https://b", "service-account-issuer=https://a", "service-account-jwks-uri=https://c/keys"]).unwrap();
        assert_eq!((&accounts.audiences, &accounts.issuers), (&vec!["https://b".to_owned(), "https://a".to_owned()], &accounts.audiences));
        let key = accounts.key(passing_key, "https://d").unwrap();
        assert_eq!((key.issuer.as_str(), key.jwks_uri.as_str(), &key.former_issuers[..]), ("https://b", "https://c/keys", &["https://a".to_owned()][..]));
        let accounts = read(&["api-audiences=x,y"]).unwrap();
        assert!(accounts.lookup && !read(&["service-account-lookup=false"]).unwrap().lookup);
        assert_eq!((accounts.issuers, accounts.audiences), (vec!["https://a".into()], vec!["x".into(), "y".into()]));
    }

    #[test]
    fn what_signs_checks_too_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (one, other) = (path("1", &passing_key().unwrap()), path("2", &passing_key().unwrap()));
        let keys = |args: &[String]| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            read(&args).unwrap().key(passing_key, "").unwrap().jwks().matches("\"kid\"").count()
        };
        let (signs, checks) = (|path: &str| format!("service-account-signing-key-file={path}"), |path: &str| format!("service-account-key-file={path}"));
        assert_eq!(keys(&[]), 1);
        assert_eq!(keys(&[signs(&one)]), 1);
        assert_eq!(keys(&[signs(&one), checks(&one)]), 1);
        assert_eq!(keys(&[signs(&one), checks(&other), checks(&one)]), 2);
        assert_eq!(keys(&[checks(&one), checks(&other)]), 3);
        let why = read(&[&signs(&path("3", "x"))]).unwrap().key(passing_key, "").err().unwrap();
        assert!(why.cause.starts_with("--service-account-signing-key-file: /") && why.cause.contains("no private key"), "{}", why.cause);
    }

    #[test]
    fn what_upstream_refuses_is_refused_in_its_words() {
        for (args, wanted) in [
            (&["service-account-issuer="][..], "service-account-issuer should not be an empty string"),
            (&["service-account-issuer=a", "service-account-issuer=a"], "service-account-issuer \"a\" is already specified"),
            (&["service-account-max-token-expiration=59m"], "the service-account-max-token-expiration must be between 1 hour and 2^32 seconds"),
            (&["service-account-jwks-uri=http://a"], "service-account-jwks-uri requires https scheme, parsed as: http://a"),
        ] {
            assert_eq!(read(args).err().unwrap().cause, wanted);
        }
    }
}
