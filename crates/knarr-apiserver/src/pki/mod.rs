//! The cluster's own certificate authority and keys: made on the first start, kept in one folder, read on every later one.
//!
//! Layout (names as kubeadm has them): `ca.{crt,key}`, `front-proxy-ca.{crt,key}`, `apiserver.{crt,key}`, `sa.key`. Keys are
//! P-256; files that hold a key have mode 0600. Serving certificates are made anew when they are near their end, or when the
//! set of names and addresses has changed.

mod shown;
mod sign;

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use shown::{ByName, Shown};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// How long an authority lives.
const CA_YEARS: i64 = 10;
/// How long a leaf lives.
const LEAF_DAYS: i64 = 365;
/// A leaf with less than this left is made anew.
const RENEW_BEFORE_DAYS: i64 = 90;
/// Clocks of clients may be behind by this much.
const BACKDATE_MINUTES: i64 = 5;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

/// A certificate and its key, both as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// What a leaf certificate is for.
pub struct Leaf<'a> {
    pub common_name: &'a str,
    /// `O` of the subject: the group of a client. At most one.
    pub organization: Option<&'a str>,
    pub dns_names: &'a [String],
    pub addresses: &'a [IpAddr],
    pub client: bool,
    pub server: bool,
}

/// A certificate authority with its key.
pub struct Authority {
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Everything that lies in the folder.
pub struct Pki {
    pub folder: PathBuf,
    pub ca: Authority,
    pub front_proxy_ca: Authority,
    /// Signs service account tokens (ES256), PKCS#8 PEM.
    pub service_account_key: String,
}

impl Pki {
    /// Reads the folder, making what is missing.
    ///
    /// # Errors
    /// A file that cannot be read or written, or that holds no certificate.
    pub fn load_or_create(folder: &Path, now: jiff::Timestamp) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|source| Error::File { path: folder.to_owned(), source })?;
        Ok(Self {
            folder: folder.to_owned(),
            ca: Authority::load_or_create(folder, "ca", "kubernetes", now)?,
            front_proxy_ca: Authority::load_or_create(folder, "front-proxy-ca", "front-proxy-ca", now)?,
            service_account_key: load_or(&folder.join("sa.key"), || Ok(KeyPair::generate()?.serialize_pem()))?,
        })
    }

    /// The API server's serving certificate for these names and addresses.
    pub fn serving(&self, dns_names: &[String], addresses: &[IpAddr], now: jiff::Timestamp) -> Result<Identity> {
        self.leaf("apiserver", &Leaf { common_name: "kube-apiserver", organization: None, dns_names, addresses, client: false, server: true }, now)
    }

    /// A leaf kept in the folder under `name`, made anew when it is near its end or was made for something else.
    pub fn leaf(&self, name: &str, wanted: &Leaf<'_>, now: jiff::Timestamp) -> Result<Identity> {
        let (crt, key) = (self.folder.join(format!("{name}.crt")), self.folder.join(format!("{name}.key")));
        if let (Ok(certificate), Ok(key)) = (fs::read_to_string(&crt), fs::read_to_string(&key))
            && still_good(&certificate, wanted, now)
        {
            return Ok(Identity { certificate, key });
        }
        let made = self.ca.issue(wanted, now)?;
        write(&key, &made.key, 0o600)?;
        write(&crt, &made.certificate, 0o644)?;
        Ok(made)
    }
}

impl Authority {
    fn load_or_create(folder: &Path, file: &str, common_name: &str, now: jiff::Timestamp) -> Result<Self> {
        let (crt, key_file) = (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")));
        let key = KeyPair::from_pem(&load_or(&key_file, || Ok(KeyPair::generate()?.serialize_pem()))?)?;
        let certificate = load_or(&crt, || Ok(authority_params(common_name, now)?.self_signed(&key)?.pem()))?;
        Self::from_pem(&certificate, key)
    }

    fn from_pem(certificate: &str, key: KeyPair) -> Result<Self> {
        Ok(Self { certificate: certificate.to_owned(), issuer: Issuer::from_ca_cert_pem(certificate, key)? })
    }

    /// A new key and a certificate for it.
    pub fn issue(&self, leaf: &Leaf<'_>, now: jiff::Timestamp) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = leaf_params(leaf, now)?.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A time as certificates have it.
fn moment(seconds: i64) -> time::OffsetDateTime {
    rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn span(params: &mut CertificateParams, now: jiff::Timestamp, days: i64) {
    params.not_before = moment(now.as_second() - BACKDATE_MINUTES * 60);
    params.not_after = moment(now.as_second() + days * 86_400);
}

fn authority_params(common_name: &str, now: jiff::Timestamp) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(vec![common_name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    span(&mut params, now, CA_YEARS * 365);
    Ok(params)
}

fn leaf_params(leaf: &Leaf<'_>, now: jiff::Timestamp) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(leaf.dns_names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, leaf.common_name);
    if let Some(group) = leaf.organization {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.subject_alt_names.extend(leaf.addresses.iter().map(|a| SanType::IpAddress(*a)));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = [(leaf.client, ExtendedKeyUsagePurpose::ClientAuth), (leaf.server, ExtendedKeyUsagePurpose::ServerAuth)]
        .into_iter()
        .filter_map(|(wanted, usage)| wanted.then_some(usage))
        .collect();
    params.use_authority_key_identifier_extension = true;
    span(&mut params, now, LEAF_DAYS);
    Ok(params)
}

/// When a certificate is to be made anew; none for what is no certificate.
pub fn renewal_due(pem: &str) -> Option<jiff::Timestamp> {
    let end = knarr_kinds::certificates::not_after(pem.as_bytes())?;
    jiff::Timestamp::from_second(end - RENEW_BEFORE_DAYS * 86_400 + 1).ok()
}

/// The names for which a certificate is shown if nobody says for which: its common name, unless that is an address or no name, and its DNS
/// names (upstream: `getCertificateNames`). None of what is no certificate.
pub fn names(pem: &str) -> Vec<String> {
    use knarr_core::names::is_dns1123_subdomain;
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return Vec::new() };
    let Ok((_, certificate)) = X509Certificate::from_der(&block.contents) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let is_name = |name: &&str| name.parse::<IpAddr>().is_err() && (*name == "*" || is_dns1123_subdomain(name.strip_prefix("*.").unwrap_or(name)).is_empty());
    let mut names: Vec<String> = common.filter(is_name).map(str::to_owned).collect();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        names.extend(extension.value.general_names.iter().filter_map(|n| if let GeneralName::DNSName(name) = n { Some((*name).to_owned()) } else { None }));
    }
    names
}

/// Whether a certificate on disk has all the wanted names and enough time left.
fn still_good(pem: &str, wanted: &Leaf<'_>, now: jiff::Timestamp) -> bool {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&block.contents) else { return false };
    if certificate.validity().not_after.timestamp() < now.as_second() + RENEW_BEFORE_DAYS * 86_400 {
        return false;
    }
    let names: Vec<&GeneralName<'_>> = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().collect(),
        _ => Vec::new(),
    };
    let has_name = |name: &String| names.iter().any(|n| matches!(n, GeneralName::DNSName(d) if d == name));
    let has_address = |address: &IpAddr| {
        let bytes = match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        names.iter().any(|n| matches!(n, GeneralName::IPAddress(b) if *b == bytes.as_slice()))
    };
    wanted.dns_names.iter().all(has_name) && wanted.addresses.iter().all(has_address)
}

fn load_or(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let text = make()?;
            write(path, &text, if path.extension().is_some_and(|e| e == "key") { 0o600 } else { 0o644 })?;
            Ok(text)
        }
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// Writes a file whole or not at all, durably.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
    }

    #[test]
    fn a_second_start_finds_the_same_authority_and_the_same_leaf() {
        let folder = tempfile::tempdir().unwrap();
        let first = Pki::load_or_create(folder.path(), at(0)).unwrap();
        let names = vec!["kubernetes".to_owned()];
        let leaf = first.serving(&names, &["10.96.0.1".parse().unwrap()], at(0)).unwrap();
        let second = Pki::load_or_create(folder.path(), at(1)).unwrap();
        assert_eq!(first.ca.certificate, second.ca.certificate);
        assert_eq!(first.service_account_key, second.service_account_key);
        assert_eq!(leaf.certificate, second.serving(&names, &["10.96.0.1".parse().unwrap()], at(1)).unwrap().certificate);
    }

    #[test]
    fn a_leaf_is_made_anew_for_a_new_address_and_near_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(folder.path(), at(0)).unwrap();
        let leaf = |address: &str, day| pki.serving(&[], &[address.parse().unwrap()], at(day)).unwrap().certificate;
        let first = leaf("10.96.0.1", 0);
        assert_ne!(first, leaf("10.96.0.2", 0));
        let second = leaf("10.96.0.2", 0);
        assert_ne!(second, leaf("10.96.0.2", LEAF_DAYS - RENEW_BEFORE_DAYS + 1));
    }
}
