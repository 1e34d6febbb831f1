//! Certificates for requests: subject, names and key are those of the request, usages and times those that its signer grants.
//!
//! Written out here, since rcgen keeps one value of each attribute of a subject, and a user may have many groups. Follows
//! `k8s.io/kubernetes/pkg/controller/certificates/authority` (`PermissiveSigningPolicy`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use knarr_core::pem;
use knarr_kinds::certificates::request::{AlternativeNames, CertificateRequest, Subject};
use rcgen::{KeyPair, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use x509_parser::prelude::{FromDer, X509Certificate};
use yasna::models::{GeneralizedTime, ObjectIdentifier, UTCTime};
use yasna::{DERWriter, DERWriterSeq, Tag};

use super::{Authority, moment};

/// Clocks of those who check a certificate may be behind by this much.
const BACKDATE_SECONDS: i64 = 300;
/// A certificate that lives shorter than this loses nothing of its time to the backdating.
const SHORT_SECONDS: i64 = 8 * 3600;

/// Bits of `KeyUsage` by Kubernetes' names.
const KEY_USAGES: &[(&str, u16)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Purposes of `ExtendedKeyUsage` by Kubernetes' names, in the order in which Go writes them.
const EXTENDED_KEY_USAGES: &[(&str, &[u64])] = &[
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

impl Authority {
    /// A certificate in PEM for whoever holds the key of `request`. It ends with the authority at the latest.
    ///
    /// # Errors
    /// A request that its key's holder has not signed, an unknown usage, an authority that has ended.
    pub fn sign(&self, request: &CertificateRequest, usages: &[&str], seconds: i64, now: jiff::Timestamp) -> Result<String, String> {
        request.check_signature().map_err(|e| format!("unable to verify certificate request signature: {e}"))?;
        let unknown = |usage: &&&str| !KEY_USAGES.iter().any(|(name, _)| name == *usage) && !EXTENDED_KEY_USAGES.iter().any(|(name, _)| name == *usage);
        let unrecognized: Vec<&&str> = usages.iter().filter(unknown).collect();
        if !unrecognized.is_empty() {
            return Err(format!("unrecognized usage values: {unrecognized:?}"));
        }
        let block = pem::blocks(self.certificate.as_bytes()).into_iter().next().ok_or("the authority has no certificate")?;
        let (_, authority) = X509Certificate::from_der(&block.der).map_err(|e| format!("the authority's certificate: {e}"))?;
        let end = authority.validity().not_after.timestamp();
        if now.as_second() >= end {
            return Err(format!("the signer has expired: NotAfter={}", moment(end)));
        }
        let backdate = if seconds < SHORT_SECONDS { 0 } else { BACKDATE_SECONDS };
        let certificate = Certificate {
            request,
            usages,
            not_before: now.as_second() - BACKDATE_SECONDS,
            not_after: (now.as_second() + seconds - backdate).min(end),
            serial: serial_number()?,
            authority: &authority,
        };
        let key = self.issuer.key();
        let body = yasna::construct_der(|w| certificate.body(w, key));
        let signature = key.sign(&body).map_err(|e| format!("failed to sign certificate: {e}"))?;
        let der = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_der(&body);
                signature_algorithm(w.next(), key);
                w.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem::encode("CERTIFICATE", &der))
    }
}

/// 127 random bits.
fn serial_number() -> Result<[u8; 16], String> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| "unable to generate a serial number")?;
    serial[0] &= 0x7f;
    Ok(serial)
}

struct Certificate<'a> {
    request: &'a CertificateRequest,
    usages: &'a [&'a str],
    not_before: i64,
    not_after: i64,
    serial: [u8; 16],
    authority: &'a X509Certificate<'a>,
}

impl Certificate<'_> {
    /// `TBSCertificate` of RFC 5280.
    fn body(&self, w: DERWriter<'_>, key: &KeyPair) {
        w.write_sequence(|w| {
            w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
            w.next().write_bigint_bytes(&self.serial, true);
            signature_algorithm(w.next(), key);
            w.next().write_der(self.authority.subject().as_raw());
            w.next().write_sequence(|w| {
                time(w.next(), self.not_before);
                time(w.next(), self.not_after);
            });
            subject(w.next(), &self.request.subject);
            w.next().write_der(&self.request.public_key);
            w.next().write_tagged(Tag::context(3), |w| w.write_sequence(|w| self.extensions(w)));
        });
    }

    fn extensions(&self, w: &mut DERWriterSeq<'_>) {
        let bits: u16 = KEY_USAGES.iter().filter(|(name, _)| self.usages.contains(name)).fold(0, |bits, (_, bit)| bits | 0x8000 >> bit);
        if bits != 0 {
            let length = 16 - bits.trailing_zeros() as usize;
            extension(w, &[2, 5, 29, 15], true, |w| w.write_bitvec_bytes(&bits.to_be_bytes()[..length.div_ceil(8)], length));
        }
        let mut written = BTreeSet::new();
        let purposes: Vec<&[u64]> =
            EXTENDED_KEY_USAGES.iter().filter(|(name, oid)| self.usages.contains(name) && written.insert(*oid)).map(|(_, oid)| *oid).collect();
        if !purposes.is_empty() {
            extension(w, &[2, 5, 29, 37], false, |w| w.write_sequence(|w| purposes.iter().for_each(|oid| self::oid(w.next(), oid))));
        }
        extension(w, &[2, 5, 29, 19], true, |w| w.write_sequence(|_| ()));
        if let Some(id) = subject_key_id(self.authority) {
            extension(w, &[2, 5, 29, 35], false, |w| w.write_sequence(|w| w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(id))));
        }
        if !self.request.names.is_empty() {
            let critical = self.request.subject == Subject::default();
            extension(w, &[2, 5, 29, 17], critical, |w| alternative_names(w, &self.request.names));
        }
    }
}

fn subject_key_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|e| match e.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

fn oid(w: DERWriter<'_>, components: &[u64]) {
    w.write_oid(&ObjectIdentifier::from_slice(components));
}

fn extension(w: &mut DERWriterSeq<'_>, id: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    w.next().write_sequence(|w| {
        oid(w.next(), id);
        if critical {
            w.next().write_bool(true);
        }
        w.next().write_bytes(&yasna::construct_der(value));
    });
}

fn alternative_names(w: DERWriter<'_>, names: &AlternativeNames) {
    w.write_sequence(|w| {
        let mut text = |tag: u64, text: &str| w.next().write_tagged_implicit(Tag::context(tag), |w| w.write_ia5_string(text));
        names.dns_names.iter().for_each(|name| text(2, name));
        names.email_addresses.iter().for_each(|address| text(1, address));
        for address in &names.addresses {
            let bytes = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            w.next().write_tagged_implicit(Tag::context(7), |w| w.write_bytes(&bytes));
        }
        for uri in &names.uris {
            w.next().write_tagged_implicit(Tag::context(6), |w| w.write_ia5_string(uri));
        }
    });
}

/// A relative distinguished name for each value, in the order in which Go writes the attributes.
fn subject(w: DERWriter<'_>, subject: &Subject) {
    let one = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
    let (common_name, serial_number) = (one(&subject.common_name), one(&subject.serial_number));
    w.write_sequence(|w| {
        for (attribute, values) in [
            (6, &subject.country),
            (10, &subject.organization),
            (11, &subject.organizational_unit),
            (7, &subject.locality),
            (8, &subject.province),
            (9, &subject.street_address),
            (17, &subject.postal_code),
            (3, &common_name),
            (5, &serial_number),
        ] {
            for value in values {
                w.next().write_set(|w| {
                    w.next().write_sequence(|w| {
                        oid(w.next(), &[2, 5, 4, attribute]);
                        directory_string(w.next(), value);
                    });
                });
            }
        }
    });
}

fn directory_string(w: DERWriter<'_>, text: &str) {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b)) {
        w.write_printable_string(text);
    } else {
        w.write_utf8_string(text);
    }
}

fn time(w: DERWriter<'_>, seconds: i64) {
    let at = moment(seconds);
    match UTCTime::from_datetime_opt(at) {
        Some(time) => w.write_utctime(&time),
        None => w.write_generalized_time(&GeneralizedTime::from_datetime(at)),
    }
}

/// How the authority signs.
fn signature_algorithm(w: DERWriter<'_>, key: &KeyPair) {
    let rsa = [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_RSA_SHA384, &rcgen::PKCS_RSA_SHA512].iter().position(|a| key.is_compatible(a));
    w.write_sequence(|w| {
        if let Some(which) = rsa {
            oid(w.next(), &[1, 2, 840, 113_549, 1, 1, 11 + which as u64]);
            w.next().write_null();
        } else if key.is_compatible(&rcgen::PKCS_ECDSA_P384_SHA384) {
            oid(w.next(), &[1, 2, 840, 10045, 4, 3, 3]);
        } else if key.is_compatible(&rcgen::PKCS_ED25519) {
            oid(w.next(), &[1, 3, 101, 112]);
        } else {
            oid(w.next(), &[1, 2, 840, 10045, 4, 3, 2]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::Pki;
    use super::*;

    const PERSON: &str = include_str!("../../../knarr-kinds/fixtures/person-rsa.csr");
    const SERVING: &str = include_str!("../../../knarr-kinds/fixtures/node-serving.csr");

    fn at(day: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
    }

    fn signed(text: &str, usages: &[&str], seconds: i64, then: impl FnOnce(&X509Certificate<'_>)) {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(folder.path(), at(0)).unwrap();
        let request = CertificateRequest::from_pem(text.as_bytes()).unwrap();
        let made = pki.ca.sign(&request, usages, seconds, at(0)).unwrap();
        let block = pem::blocks(made.as_bytes()).remove(0);
        let (rest, certificate) = X509Certificate::from_der(&block.der).unwrap();
        assert!(rest.is_empty());
        let authority = pem::blocks(pki.ca.certificate.as_bytes()).remove(0);
        let (_, authority) = X509Certificate::from_der(&authority.der).unwrap();
        certificate.verify_signature(Some(authority.public_key())).unwrap();
        assert_eq!(certificate.issuer(), authority.subject());
        assert_eq!(certificate.public_key().raw, request.public_key);
        then(&certificate);
    }

    #[test]
    fn a_person_gets_all_groups_and_the_usages_that_were_granted() {
        signed(PERSON, &["client auth", "digital signature", "key encipherment"], 86_400, |certificate| {
            let subject = Subject::of(certificate.subject());
            assert_eq!((subject.common_name.as_str(), subject.organization), ("jane", vec!["one".to_owned(), "two".to_owned()]));
            let usage = certificate.key_usage().unwrap().unwrap().value;
            assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
            let purposes = certificate.extended_key_usage().unwrap().unwrap().value;
            assert!(purposes.client_auth && !purposes.server_auth && !purposes.any);
            assert!(!certificate.is_ca());
            // Long-lived: both ends are put back.
            let validity = certificate.validity();
            assert_eq!(validity.not_before.timestamp(), at(0).as_second() - 300);
            assert_eq!(validity.not_after.timestamp(), at(1).as_second() - 300);
        });
    }

    #[test]
    fn a_node_gets_its_names_and_a_short_life_is_not_shortened() {
        signed(SERVING, &["server auth"], 3600, |certificate| {
            let names = certificate.subject_alternative_name().unwrap().unwrap().value;
            let names = AlternativeNames::of(&names.general_names).unwrap();
            assert_eq!((names.dns_names.as_slice(), names.addresses.as_slice()), (&["a".to_owned()][..], &["10.0.0.1".parse().unwrap()][..]));
            assert_eq!(certificate.validity().not_after.timestamp(), at(0).as_second() + 3600);
            assert!(certificate.key_usage().unwrap().is_none());
        });
    }

    #[test]
    fn a_certificate_never_outlives_its_authority() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(folder.path(), at(0)).unwrap();
        let request = CertificateRequest::from_pem(PERSON.as_bytes()).unwrap();
        let sign = |day: i64| pki.ca.sign(&request, &["client auth"], 20 * 365 * 86_400, at(day));
        let end = |pem: String| knarr_kinds::certificates::not_after(pem.as_bytes()).unwrap();
        assert_eq!(end(sign(0).unwrap()), end(pki.ca.certificate.clone()));
        assert!(sign(11 * 365).unwrap_err().starts_with("the signer has expired"));
        assert!(pki.ca.sign(&request, &["nonsense"], 600, at(0)).unwrap_err().contains("nonsense"));
    }
}
