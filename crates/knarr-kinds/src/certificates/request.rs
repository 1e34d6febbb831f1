//! Certificate requests (PKCS#10), read as Go's `x509.ParseCertificateRequest` reads them, and what Kubernetes' signers ask
//! of them (upstream: `pkg/apis/certificates/helpers.go`).

use std::net::IpAddr;

use knarr_core::pem;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::keys::{self, KeyType};

/// The label of requests in PEM.
pub const LABEL: &str = "CERTIFICATE REQUEST";

/// Members are nodes.
const NODES_GROUP: &str = "system:nodes";
/// What the common name of a node begins with.
const NODE_USER_PREFIX: &str = "system:node:";

/// The attributes of a subject that Go keeps, in the order in which it writes them (`pkix.Name`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub country: Vec<String>,
    pub organization: Vec<String>,
    pub organizational_unit: Vec<String>,
    pub locality: Vec<String>,
    pub province: Vec<String>,
    pub street_address: Vec<String>,
    pub postal_code: Vec<String>,
    pub common_name: String,
    pub serial_number: String,
}

impl Subject {
    /// Of several common names the last one counts, as in Go.
    pub fn of(name: &X509Name<'_>) -> Self {
        let mut subject = Self::default();
        for attribute in name.iter_attributes() {
            let Ok(text) = attribute.as_str().map(str::to_owned) else { continue };
            match attribute.attr_type().to_id_string().as_str() {
                "2.5.4.6" => subject.country.push(text),
                "2.5.4.10" => subject.organization.push(text),
                "2.5.4.11" => subject.organizational_unit.push(text),
                "2.5.4.7" => subject.locality.push(text),
                "2.5.4.8" => subject.province.push(text),
                "2.5.4.9" => subject.street_address.push(text),
                "2.5.4.17" => subject.postal_code.push(text),
                "2.5.4.3" => subject.common_name = text,
                "2.5.4.5" => subject.serial_number = text,
                _ => {}
            }
        }
        subject
    }
}

/// The names that a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlternativeNames {
    pub dns_names: Vec<String>,
    pub email_addresses: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub uris: Vec<String>,
}

impl AlternativeNames {
    /// Other kinds of names are left out, as Go does.
    ///
    /// # Errors
    /// An address of a wrong length.
    pub fn of(names: &[GeneralName<'_>]) -> Result<Self, String> {
        let mut all = Self::default();
        for name in names {
            match name {
                GeneralName::DNSName(name) => all.dns_names.push((*name).to_owned()),
                GeneralName::RFC822Name(address) => all.email_addresses.push((*address).to_owned()),
                GeneralName::URI(uri) => all.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => all.addresses.push(address(bytes)?),
                _ => {}
            }
        }
        Ok(all)
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(four.into());
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(sixteen) => Ok(sixteen.into()),
        Err(_) => Err(format!("x509: cannot parse IP address of length {}", bytes.len())),
    }
}

/// What a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    pub der: Vec<u8>,
    pub subject: Subject,
    pub names: AlternativeNames,
    pub key_type: KeyType,
    /// `SubjectPublicKeyInfo`, DER.
    pub public_key: Vec<u8>,
}

impl CertificateRequest {
    /// The first block of a text (upstream: `ParseCSR`).
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words where it has some.
    pub fn from_pem(text: &[u8]) -> Result<Self, String> {
        let block = pem::blocks(text).into_iter().next().filter(|b| b.label == LABEL);
        Self::from_der(&block.ok_or("PEM block type must be CERTIFICATE REQUEST")?.der)
    }

    /// # Errors
    /// As [`Self::from_pem`].
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let request = parse(der)?;
        let info = &request.certification_request_info;
        let mut names = AlternativeNames::default();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(found) = extension {
                names = AlternativeNames::of(&found.general_names)?;
            }
        }
        Ok(Self {
            der: der.to_vec(),
            subject: Subject::of(&info.subject),
            names,
            key_type: KeyType::of(&info.subject_pki)?,
            public_key: info.subject_pki.raw.to_vec(),
        })
    }

    /// Whether the holder of the key has signed it.
    ///
    /// # Errors
    /// What is wrong with the signature, in Go's words.
    pub fn check_signature(&self) -> Result<(), String> {
        let request = parse(&self.der)?;
        let info = &request.certification_request_info;
        keys::verify(&info.subject_pki, &request.signature_algorithm, info.raw, &request.signature_value.data)
    }
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, String> {
    match X509CertificationRequest::from_der(der) {
        Ok((rest, request)) if rest.is_empty() => Ok(request),
        Ok(_) => Err("asn1: syntax error: trailing data".into()),
        Err(_) => Err("asn1: structure error: not a certificate request".into()),
    }
}

/// What a node may ask for to show to its clients (upstream: `ValidateKubeletServingCSR`).
///
/// # Errors
/// The first rule that the request breaks.
pub fn validate_kubelet_serving(request: &CertificateRequest, usages: &[&str]) -> Result<(), String> {
    let names = &request.names;
    of_nodes(request)?;
    refuse(names.dns_names.is_empty() && names.addresses.is_empty(), "DNS or IP subjectAltName is required")?;
    refuse(!names.email_addresses.is_empty(), "Email subjectAltNames are not allowed")?;
    refuse(!names.uris.is_empty(), "URI subjectAltNames are not allowed")?;
    only_usages(usages, &["digital signature", "key encipherment", "server auth"])?;
    named_as_node(request)
}

/// What a node may ask for to come in with (upstream: `ValidateKubeletClientCSR`).
///
/// # Errors
/// The first rule that the request breaks.
pub fn validate_kubelet_client(request: &CertificateRequest, usages: &[&str]) -> Result<(), String> {
    let names = &request.names;
    of_nodes(request)?;
    refuse(!names.dns_names.is_empty(), "DNS subjectAltNames are not allowed")?;
    refuse(!names.email_addresses.is_empty(), "Email subjectAltNames are not allowed")?;
    refuse(!names.addresses.is_empty(), "IP subjectAltNames are not allowed")?;
    refuse(!names.uris.is_empty(), "URI subjectAltNames are not allowed")?;
    named_as_node(request)?;
    only_usages(usages, &["client auth", "digital signature", "key encipherment"])
}

fn refuse(broken: bool, rule: &str) -> Result<(), String> {
    if broken { Err(rule.to_owned()) } else { Ok(()) }
}

fn of_nodes(request: &CertificateRequest) -> Result<(), String> {
    refuse(request.subject.organization != [NODES_GROUP], "subject organization is not system:nodes")
}

fn named_as_node(request: &CertificateRequest) -> Result<(), String> {
    refuse(!request.subject.common_name.starts_with(NODE_USER_PREFIX), "subject common name does not begin with system:node:")
}

/// Exactly these usages in any order; key encipherment may be missing, since not all keys can do it.
fn only_usages(usages: &[&str], wanted: &[&str]) -> Result<(), String> {
    let optional = "key encipherment";
    let all_known = usages.iter().all(|u| wanted.contains(u));
    let all_there = wanted.iter().all(|w| *w == optional || usages.contains(w));
    refuse(!(all_known && all_there), &format!("usages did not match [{}]", wanted.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by openssl: `-subj "/O=system:nodes/CN=system:node:a" -addext subjectAltName=DNS:a,IP:10.0.0.1`, P-256.
    const SERVING: &str = include_str!("../../fixtures/node-serving.csr");
    /// Made by openssl: RSA 2048, `-subj "/O=one/O=two/CN=first/CN=jane"`.
    const PERSON: &str = include_str!("../../fixtures/person-rsa.csr");

    #[test]
    fn a_request_is_read_as_go_reads_it() {
        let request = CertificateRequest::from_pem(PERSON.as_bytes()).unwrap();
        assert_eq!((request.subject.common_name.as_str(), request.subject.organization.as_slice()), ("jane", &["one".to_owned(), "two".to_owned()][..]));
        assert_eq!((request.key_type, request.check_signature()), (KeyType::Rsa(2048), Ok(())));
        let request = CertificateRequest::from_pem(SERVING.as_bytes()).unwrap();
        assert_eq!((request.names.dns_names.as_slice(), request.names.addresses.as_slice()), (&["a".to_owned()][..], &["10.0.0.1".parse().unwrap()][..]));
        assert_eq!((request.key_type, request.check_signature()), (KeyType::Ecdsa("P-256"), Ok(())));
    }

    #[test]
    fn what_somebody_else_signed_is_refused() {
        let mut request = CertificateRequest::from_pem(PERSON.as_bytes()).unwrap();
        // A letter of the subject.
        let place = request.der.windows(4).position(|w| w == b"jane").unwrap();
        request.der[place] = b'k';
        assert_eq!(request.check_signature(), Err("crypto/rsa: verification error".into()));
        assert_eq!(CertificateRequest::from_pem(b"x"), Err("PEM block type must be CERTIFICATE REQUEST".into()));
        assert!(CertificateRequest::from_pem(pem::encode(LABEL, b"x").as_bytes()).is_err());
    }

    #[test]
    fn nodes_ask_for_what_is_theirs() {
        let mut request = CertificateRequest::from_pem(SERVING.as_bytes()).unwrap();
        let all = ["server auth", "digital signature", "key encipherment"];
        assert_eq!(validate_kubelet_serving(&request, &all), Ok(()));
        assert_eq!(validate_kubelet_serving(&request, &all[..2]), Ok(()));
        let told = "usages did not match [digital signature key encipherment server auth]";
        assert_eq!(validate_kubelet_serving(&request, &all[..1]), Err(told.into()));
        let client = ["client auth", "digital signature"];
        assert_eq!(validate_kubelet_client(&request, &client), Err("DNS subjectAltNames are not allowed".into()));
        request.names = AlternativeNames::default();
        assert_eq!(validate_kubelet_client(&request, &client), Ok(()));
        assert_eq!(validate_kubelet_serving(&request, &all), Err("DNS or IP subjectAltName is required".into()));
        request.subject.common_name = "a".into();
        assert_eq!(validate_kubelet_client(&request, &client), Err("subject common name does not begin with system:node:".into()));
        request.subject.organization.push("system:masters".into());
        assert_eq!(validate_kubelet_client(&request, &client), Err("subject organization is not system:nodes".into()));
    }
}
