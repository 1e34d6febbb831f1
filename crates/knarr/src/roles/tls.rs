//! TLS configurations of the roles: who shows what to whom; and what kube-apiserver's flags say of it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knarr_apiserver::pki::{ByName, Identity, Shown};
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::access;
use super::flags::Flags;
use super::values::NamedCertKey;

/// Flags that are read here.
pub const FLAGS: &[&str] = &["disable-http2-serving", "tls-cipher-suites", "tls-curve-preferences", "tls-min-version", "tls-sni-cert-key"];

/// Suites of TLS 1.3, whose choice is not ours; and those that Go's TLS has and ours does not: they are weak, or their modes are.
const SUITES_OF_TLS13: [&str; 3] = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
const SUITES_MISSING: [&str; 16] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];
/// Ways to exchange keys by their number, with Go's name: those that are here, and those that are not.
const CURVES: [(u16, &str); 3] = [(23, "CurveP256"), (24, "CurveP384"), (29, "X25519")];
const CURVES_MISSING: [(u16, &str); 4] = [(25, "CurveP521"), (4587, "SecP256r1MLKEM768"), (4588, "X25519MLKEM768"), (4589, "SecP384r1MLKEM1024")];

/// How the API server speaks TLS, by its flags.
#[derive(Debug)]
pub struct Spoken {
    versions: Vec<&'static SupportedProtocolVersion>,
    provider: CryptoProvider,
    /// Files of certificates that are shown for names.
    named: Vec<NamedCertKey>,
    http2: bool,
}

impl Spoken {
    /// Reads flags and files (upstream: `SecureServingOptions.ApplyTo`).
    ///
    /// # Errors
    /// Names that mean nothing, what cannot be done here, files that cannot be read.
    pub fn of(flags: &Flags) -> Result<Self> {
        let mut provider = rustls::crypto::ring::default_provider();
        let mut versions = versions(flags)?;
        let http2 = !flags.is_on("disable-http2-serving", false);
        choose_suites(&mut provider.cipher_suites, &flags.list("tls-cipher-suites"), versions.contains(&&version::TLS12) && http2)?;
        if !provider.cipher_suites.iter().any(|suite| suite.tls13().is_none()) {
            versions.retain(|v| *v != &version::TLS12);
        }
        let curves = curves(flags)?;
        provider.kx_groups.retain(|group| curves.is_empty() || curves.contains(&u16::from(group.name())));
        let named = flags.all("tls-sni-cert-key").map(named).collect::<Result<Vec<_>>>()?;
        Ok(Self { versions, provider, named, http2 })
    }

    /// The files that [`Self::server`] reads.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.named.iter().flat_map(|named| [Path::new(&named.certificate), Path::new(&named.key)])
    }

    /// The API server's own configuration, with what the files hold now; see [`server`].
    ///
    /// # Errors
    /// A certificate or key that is none, a CA that is none, files that cannot be read.
    pub fn server(&self, shown: Arc<Shown>, client_ca: Option<&str>) -> Result<Arc<ServerConfig>> {
        let alpn: &[&str] = if self.http2 { &["h2", "http/1.1"] } else { &["http/1.1"] };
        if self.named.is_empty() {
            return configured(self.provider.clone(), &self.versions, shown, client_ca, alpn);
        }
        let named = self.named.iter().map(read).collect::<Result<Vec<_>>>()?;
        let by_name = ByName::new(&named, shown).map_err(|why| refused(format!("--tls-sni-cert-key: {why}")))?;
        configured(self.provider.clone(), &self.versions, Arc::new(by_name), client_ca, alpn)
    }
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::new("USAGE", Exit::Usage, why, "see kube-apiserver --help")
}

fn versions(flags: &Flags) -> Result<Vec<&'static SupportedProtocolVersion>> {
    match flags.get("tls-min-version") {
        None | Some("VersionTLS12") => Ok(vec![&version::TLS13, &version::TLS12]),
        Some("VersionTLS13") => Ok(vec![&version::TLS13]),
        Some(old @ ("VersionTLS10" | "VersionTLS11")) => {
            Err(refused(format!("--tls-min-version={old}: versions before TLS 1.2 are not spoken here; VersionTLS12 and VersionTLS13 are")))
        }
        Some(other) => Err(refused(format!("unknown tls version {other:?}"))),
    }
}

/// Leaves the wanted suites of TLS 1.2. Those of TLS 1.3 stay whatever is wanted, as with Go. HTTP/2 demands one suite of its own
/// (upstream: `http2.ConfigureServer`).
fn choose_suites(suites: &mut Vec<SupportedCipherSuite>, wanted: &[&str], http2_over_tls12: bool) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut chosen = Vec::new();
    for name in wanted {
        let full = if name.ends_with("_CHACHA20_POLY1305") { format!("{name}_SHA256") } else { (*name).to_owned() };
        let here = suites.iter().any(|s| s.tls13().is_none() && s.suite().as_str() == Some(full.as_str()));
        if SUITES_MISSING.contains(name) {
            return Err(refused(format!("--tls-cipher-suites: {name} is not spoken here: name suites of ECDHE with GCM or ChaCha20 only")));
        }
        if !here && !SUITES_OF_TLS13.contains(name) {
            return Err(refused(format!("Cipher suite {name} not supported or doesn't exist")));
        }
        chosen.push(full);
    }
    if http2_over_tls12 && !chosen.iter().any(|name| name.starts_with("TLS_ECDHE_") && name.ends_with("_WITH_AES_128_GCM_SHA256")) {
        return Err(refused("--tls-cipher-suites: HTTP/2 needs TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 or TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"));
    }
    suites.retain(|s| s.tls13().is_some() || s.suite().as_str().is_some_and(|name| chosen.iter().any(|c| c == name)));
    Ok(())
}

/// The wanted ways to exchange keys, by number (upstream: `TLSCurvePreferences`); none: all.
fn curves(flags: &Flags) -> Result<Vec<u16>> {
    let mut curves = Vec::new();
    for text in flags.list("tls-curve-preferences") {
        let id = text.parse::<u16>().ok().filter(|id| *id > 0);
        let id = id.ok_or_else(|| refused(format!("curve preference {text} is out of range (must be 1-65535)")))?;
        if curves.contains(&id) {
            return Err(refused(format!("duplicate curve preference {id}")));
        }
        if let Some((_, name)) = CURVES_MISSING.iter().find(|(missing, _)| *missing == id) {
            let here = CURVES.map(|(id, name)| format!("{id} ({name})")).join(", ");
            return Err(refused(format!("--tls-curve-preferences: {id} ({name}) is not spoken here; there are {here}")));
        }
        if !CURVES.iter().any(|(here, _)| *here == id) {
            return Err(refused(format!("curve preference {id} is not supported")));
        }
        curves.push(id);
    }
    Ok(curves)
}

fn named(value: &str) -> Result<NamedCertKey> {
    let named = NamedCertKey::parse(value).map_err(refused)?;
    if let Some(address) = named.names.iter().find(|name| name.parse::<IpAddr>().is_ok()) {
        return Err(refused(format!("--tls-sni-cert-key: {address}: clients ask for names, and by addresses no certificate is chosen here")));
    }
    Ok(named)
}

fn read(named: &NamedCertKey) -> Result<(Identity, Vec<String>)> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|e| Failure::file(Path::new(path), &e));
    Ok((Identity { certificate: read(&named.certificate)?, key: read(&named.key)? }, named.names.clone()))
}

/// Shows what two files hold, whenever one of them changes (upstream: `DynamicCertKeyPairContent`). As long as they do not belong together, what
/// was shown before is shown on.
pub fn follow(shown: &Arc<Shown>, certificate: &Path, key: &Path, known: Identity) {
    for (path, text) in [(certificate, known.certificate), (key, known.key)] {
        let (shown, certificate, key) = (shown.clone(), certificate.to_owned(), key.to_owned());
        let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let apply = async move |_: String| shown.set(&Identity { certificate: read(&certificate)?, key: read(&key)? });
        tokio::spawn(access::follow(path.to_owned(), text, apply));
    }
}

/// Shows what `shown` holds; takes clients without a certificate, and those whose certificate `client_ca` has signed. Without a
/// `client_ca` nobody is asked for one.
pub fn server(shown: Arc<dyn ResolvesServerCert>, client_ca: Option<&str>, alpn: &[&str]) -> Result<Arc<ServerConfig>> {
    configured(rustls::crypto::ring::default_provider(), rustls::DEFAULT_VERSIONS, shown, client_ca, alpn)
}

fn configured(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    shown: Arc<dyn ResolvesServerCert>,
    client_ca: Option<&str>,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(provider);
    let config = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).map_err(Failure::program)?;
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?.into(), provider).allow_unauthenticated().build();
            config.with_client_cert_verifier(verifier.map_err(Failure::program)?)
        }
    };
    let mut config = config.with_cert_resolver(shown);
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A certificate and its key out of one text.
pub fn certified_key(pem: &str) -> Result<rustls::sign::CertifiedKey> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| Failure::program(format!("key: {e:?}")))?;
    let signer = rustls::crypto::ring::sign::any_supported_type(&key).map_err(Failure::program)?;
    Ok(rustls::sign::CertifiedKey::new(chain(pem)?, signer))
}

/// Trusts `ca` and shows what `shown` holds.
pub fn client(ca: &str, shown: Arc<Shown>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Failure::program)?
        .with_root_certificates(roots(ca)?)
        .with_client_cert_resolver(shown);
    Ok(Arc::new(config))
}

fn roots(pem: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in chain(pem)? {
        store.add(certificate).map_err(Failure::program)?;
    }
    Ok(store)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<std::result::Result<_, _>>().map_err(|e| Failure::program(format!("certificate: {e:?}")))
}

#[cfg(test)]
pub(super) mod tests {
    use knarr_apiserver::pki::{Leaf, Pki};

    use super::super::flags::Known;
    use super::super::kube_apiserver;
    use super::*;

    fn spoken(args: &[&str]) -> std::result::Result<Spoken, String> {
        let args: Vec<String> = args.iter().map(|a| format!("--{a}")).collect();
        Spoken::of(&Known::new(kube_apiserver::FLAGS).parse(&args).map_err(|e| e.cause)?).map_err(|e| e.cause)
    }

    fn suites(args: &[&str]) -> Vec<String> {
        let spoken = spoken(args).unwrap();
        spoken.provider.cipher_suites.iter().filter(|s| s.tls13().is_none()).filter_map(|s| s.suite().as_str()).map(str::to_owned).collect()
    }

    #[test]
    fn versions_suites_and_curves_are_chosen() {
        assert_eq!(spoken(&[]).unwrap().versions.len(), 2);
        assert_eq!(spoken(&["tls-min-version=VersionTLS13"]).unwrap().versions, [&version::TLS13]);
        assert_eq!(suites(&[]).len(), 6);
        assert_eq!(
            suites(&["tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_AES_128_GCM_SHA256"]),
            ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]
        );
        let only_13 = spoken(&["tls-cipher-suites=TLS_AES_128_GCM_SHA256", "disable-http2-serving"]).unwrap();
        assert_eq!((only_13.versions, only_13.http2), (vec![&version::TLS13], false));
        let curves = spoken(&["tls-curve-preferences=24,29"]).unwrap().provider.kx_groups;
        assert_eq!(curves.iter().map(|c| u16::from(c.name())).collect::<Vec<_>>(), [29, 24]);
    }

    #[test]
    fn what_cannot_be_spoken_is_refused() {
        for (arg, why) in [
            ("tls-min-version=VersionTLS10", "versions before TLS 1.2 are not spoken here"),
            ("tls-min-version=x", "unknown tls version \"x\""),
            ("tls-cipher-suites=TLS_RSA_WITH_AES_128_GCM_SHA256", "is not spoken here: name suites of ECDHE"),
            ("tls-cipher-suites=x", "Cipher suite x not supported or doesn't exist"),
            ("tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "HTTP/2 needs TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
            ("tls-curve-preferences=0", "curve preference 0 is out of range (must be 1-65535)"),
            ("tls-curve-preferences=29,29", "duplicate curve preference 29"),
            ("tls-curve-preferences=4588", "4588 (X25519MLKEM768) is not spoken here; there are 23 (CurveP256)"),
            ("tls-curve-preferences=7", "curve preference 7 is not supported"),
            ("tls-sni-cert-key=a,b:127.0.0.1", "by addresses no certificate is chosen here"),
        ] {
            let cause = spoken(&[arg]).unwrap_err();
            assert!(cause.contains(why), "{arg}: {cause}");
        }
    }

    /// Sends what one side has to say to the other. None if that makes no sense of it.
    fn hand_over<A, B>(from: &mut rustls::ConnectionCommon<A>, to: &mut rustls::ConnectionCommon<B>) -> Option<()> {
        let mut said = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut said).unwrap();
        }
        let mut rest = &said[..];
        while !rest.is_empty() {
            to.read_tls(&mut rest).unwrap();
            to.process_new_packets().ok()?;
        }
        Some(())
    }

    /// The certificate that a client sees who asks for a name; none where the two do not agree.
    fn seen(server: Arc<ServerConfig>, ca: &str, name: &'static str, versions: &[&'static SupportedProtocolVersion]) -> Option<Vec<u8>> {
        let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider())).with_protocol_versions(versions).unwrap();
        shake_hands(Arc::new(client.with_root_certificates(roots(ca).unwrap()).with_no_client_auth()), server, name)
    }

    /// The same of any client.
    pub fn shake_hands(client: Arc<ClientConfig>, server: Arc<ServerConfig>, name: &'static str) -> Option<Vec<u8>> {
        let mut client = rustls::ClientConnection::new(client, name.try_into().unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(server).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            hand_over(&mut client, &mut server)?;
            hand_over(&mut server, &mut client)?;
        }
        client.peer_certificates().map(|chain| chain[0].to_vec())
    }

    #[test]
    fn a_client_sees_the_certificate_of_the_name_and_speaks_what_is_spoken() {
        let folder = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::now();
        let pki = Pki::load_or_create(folder.path(), now).unwrap();
        let issue = |name: &str| {
            let leaf = Leaf { common_name: name, organization: None, dns_names: &[name.to_owned()], addresses: &[], client: false, server: true };
            pki.ca.issue(&leaf, now).unwrap()
        };
        let (own, other) = (issue("own.example"), issue("other.example"));
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let sni = format!("tls-sni-cert-key={},{}", path("other.crt", &other.certificate), path("other.pem", &other.key));
        let see = |args: &[&str], name, versions| {
            let config = spoken(args).unwrap().server(Shown::new(&own).unwrap(), None).unwrap();
            seen(config, &pki.ca.certificate, name, versions).map(|der| der == chain(&own.certificate).unwrap()[0].to_vec())
        };
        let (old, all) = (&[&version::TLS12][..], rustls::ALL_VERSIONS);
        assert_eq!((see(&[&sni], "own.example", all), see(&[&sni], "other.example", all)), (Some(true), Some(false)));
        assert_eq!(see(&[], "other.example", all), None, "it is not the name of the only certificate");
        assert_eq!((see(&[], "own.example", old), see(&["tls-min-version=VersionTLS13"], "own.example", old)), (Some(true), None));
        let (ecdsa, rsa) = ("tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
        assert_eq!((see(&[ecdsa], "own.example", old), see(&[rsa], "own.example", old)), (Some(true), None), "the key is one of ECDSA");
    }

    #[tokio::test]
    async fn files_that_change_are_shown_once_they_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::now();
        let pki = Pki::load_or_create(folder.path(), now).unwrap();
        let issue = || {
            let leaf = Leaf { common_name: "a", organization: None, dns_names: &["a.example".to_owned()], addresses: &[], client: false, server: true };
            pki.ca.issue(&leaf, now).unwrap()
        };
        let (first, second) = (issue(), issue());
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let write = |identity: &Identity| {
            std::fs::write(&certificate, &identity.certificate).unwrap();
            std::fs::write(&key, &identity.key).unwrap();
        };
        write(&first);
        let shown = Shown::new(&first).unwrap();
        let config = spoken(&[]).unwrap().server(shown.clone(), None).unwrap();
        let sees = |identity: &Identity| {
            seen(config.clone(), &pki.ca.certificate, "a.example", rustls::ALL_VERSIONS) == Some(chain(&identity.certificate).unwrap()[0].to_vec())
        };
        assert!(sees(&first));
        follow(&shown, &certificate, &key, first.clone());
        write(&second);
        let changed = async {
            while !sees(&second) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), changed).await.expect("the new certificate is shown");
    }

    #[test]
    fn names_of_suites_and_curves_are_told_apart_completely() {
        let all = rustls::crypto::ring::default_provider();
        let here: Vec<u16> = all.kx_groups.iter().map(|c| u16::from(c.name())).collect();
        assert!(CURVES.iter().all(|(id, _)| here.contains(id)) && here.len() == CURVES.len(), "{here:?}");
        let names: Vec<&str> = all.cipher_suites.iter().filter_map(|s| s.suite().as_str()).collect();
        assert!(SUITES_MISSING.iter().all(|missing| !names.contains(missing)), "{names:?}");
    }
}
