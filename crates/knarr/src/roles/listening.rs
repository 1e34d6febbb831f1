//! How the API server's listener speaks TLS while it runs: files may change whom it asks for a certificate, and what it shows for a name
//! (upstream: `DynamicServingCertificateController`).

use std::path::PathBuf;
use std::sync::Arc;

use knarr_apiserver::http::Tls;
use knarr_apiserver::pki::Shown;
use knarr_apiserver::{Server, bootstrap};
use knarr_cli::cluster::failure::Result;
use knarr_core::api::Transport;
use parking_lot::Mutex;

use super::access::{self, Renewed, Trusted};
use super::tls::Spoken;

/// See the module.
pub struct Listening {
    spoken: Spoken,
    shown: Arc<Shown>,
    /// PEM of the CAs of clients; empty: nobody is asked for a certificate.
    client_cas: Mutex<String>,
    tls: Tls,
    /// Files of certificates for names, and what they held first.
    files: Vec<(PathBuf, String)>,
}

impl Listening {
    /// Shows what `shown` holds where no other certificate is for the name, and lets in whom `client_cas` have signed.
    ///
    /// # Errors
    /// As [`Spoken::server`].
    pub fn new(spoken: Spoken, shown: Arc<Shown>, client_cas: String) -> Result<Arc<Self>> {
        let files = spoken.files().map(|path| (path.to_owned(), std::fs::read_to_string(path).unwrap_or_default())).collect();
        let tls = spoken.server(shown.clone(), given(&client_cas))?.into();
        Ok(Arc::new(Self { spoken, shown, client_cas: Mutex::new(client_cas), tls, files }))
    }

    /// What the listener goes by.
    pub fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Reads certificates for names again as their files change.
    pub fn follow(self: &Arc<Self>) {
        for (path, text) in self.files.iter().cloned() {
            let listening = self.clone();
            let apply = async move |_: String| listening.speak(&listening.client_cas.lock());
            tokio::spawn(access::follow(path, text, apply));
        }
    }

    /// Other CAs count from now on.
    fn trust(&self, client_cas: String) -> std::result::Result<(), String> {
        let mut current = self.client_cas.lock();
        self.speak(&client_cas)?;
        *current = client_cas;
        Ok(())
    }

    fn speak(&self, client_cas: &str) -> std::result::Result<(), String> {
        self.tls.set(self.spoken.server(self.shown.clone(), given(client_cas)).map_err(|failure| failure.cause)?);
        Ok(())
    }
}

fn given(client_cas: &str) -> Option<&str> {
    Some(client_cas).filter(|cas| !cas.is_empty())
}

/// Has the listener and extension servers go by changed CAs. `own` may do anything.
pub fn renewal(listening: &Arc<Listening>, server: &Server, own: &Arc<dyn Transport>) -> Renewed {
    let (listening, server, own) = (listening.clone(), server.clone(), own.clone());
    Arc::new(move |trusted: Trusted| {
        let (listening, server, own) = (listening.clone(), server.clone(), own.clone());
        Box::pin(async move {
            listening.trust(trusted.all())?;
            let told = bootstrap::tell_of_authentication(&own, &server.registry(), &trusted.client_ca, trusted.front_proxy.as_ref()).await;
            told.map_err(|status| format!("extension servers cannot be told: {}", status.message))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use k8s_openapi::api::core::v1::ConfigMap;
    use knarr_apiserver::ServerBuilder;
    use knarr_apiserver::authn::{Authenticator, Credentials, MASTERS, User};
    use knarr_apiserver::pki::{Identity, Leaf, Pki};
    use knarr_client::Client;
    use knarr_core::clock::Env;
    use knarr_store::{MemoryEngine, Storage};
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::super::access::{Access, Own};
    use super::super::flags::{Flags, Known};
    use super::super::tls::tests::shake_hands;
    use super::super::{kube_apiserver, tls};
    use super::*;

    const NAMES: [&str; 2] = ["own.example", "other.example"];

    /// An authority, and what it has issued to a server of these names and to a client.
    struct Authority {
        ca: String,
        own: Identity,
        other: Identity,
        client: Identity,
    }

    impl Authority {
        fn new(folder: &Path, name: &str, env: &Env) -> Self {
            let pki = Pki::load_or_create(&folder.join(name), env.now()).unwrap();
            let issue = |dns: &[String]| {
                let leaf = Leaf { common_name: name, organization: None, dns_names: dns, addresses: &[], client: dns.is_empty(), server: !dns.is_empty() };
                pki.ca.issue(&leaf, env.now()).unwrap()
            };
            let [own, other] = NAMES.map(|name| issue(&[name.to_owned()]));
            Self { ca: pki.ca.certificate.clone(), own, other, client: issue(&[]) }
        }
    }

    fn chain(identity: &Identity) -> Vec<Vec<u8>> {
        CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).map(|der| der.unwrap().to_vec()).collect()
    }

    fn flags(args: &[String]) -> Flags {
        Known::new(kube_apiserver::FLAGS).parse(args).unwrap()
    }

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{what}"));
    }

    fn server(env: &Env) -> (Server, Arc<dyn Transport>) {
        let storage = Storage::open(Arc::new(MemoryEngine::new(env.clock.clone())), env.clone()).unwrap();
        let server = ServerBuilder::new(storage).env(env.clone()).build();
        let own = Arc::new(server.transport(User { groups: vec![MASTERS.into()], ..User::component("system:apiserver") }));
        (server, own)
    }

    #[tokio::test]
    async fn clients_of_another_authority_are_let_in_once_the_file_names_it() {
        let (folder, env) = (tempfile::tempdir().unwrap(), Env::system());
        let [first, second] = ["first", "second"].map(|name| Authority::new(folder.path(), name, &env));
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, &first.ca).unwrap();
        let own = Own {
            env: env.clone(),
            client_ca: first.ca.clone(),
            client_ca_file: Some(file.clone()),
            front_proxy: None,
            tokens: Vec::new(),
            audiences: Vec::new(),
            issuers: Vec::new(),
            authorizers: Default::default(),
            modes: &["AlwaysAllow"],
        };
        let access = Access::new(&flags(&[]), own).unwrap();
        let authenticator = access.authenticator.clone();
        let listening = Listening::new(Spoken::of(&flags(&[])).unwrap(), Shown::new(&first.own).unwrap(), access.trusted.all()).unwrap();
        let (server, own) = server(&env);
        access.follow(&server, renewal(&listening, &server, &own));
        let lets_in = |client: &Identity| {
            let config = tls::client(&first.ca, Shown::new(client).unwrap()).unwrap();
            shake_hands(config, listening.tls().config(), NAMES[0]).is_some()
        };
        let knows = async |client: &Identity| {
            let credentials = Credentials { headers: &Default::default(), peer_certificates: &chain(client), path: "/" };
            authenticator.authenticate(&credentials).await.is_ok_and(|user| user.is_some_and(|user| user.name != "system:anonymous"))
        };
        assert_eq!((lets_in(&first.client), lets_in(&second.client)), (true, false));
        assert_eq!((knows(&first.client).await, knows(&second.client).await), (true, false));
        std::fs::write(&file, "nothing of use").unwrap();
        std::fs::write(&file, &second.ca).unwrap();
        until("the second authority counts", || lets_in(&second.client)).await;
        assert!(!lets_in(&first.client));
        assert_eq!((knows(&first.client).await, knows(&second.client).await), (false, true), "also on a connection that was open");
        let client = Client::new(own);
        let told = async || client.within::<ConfigMap>("kube-system").get("extension-apiserver-authentication").await.ok().and_then(|map| map.data);
        while told().await.is_none_or(|data| data["client-ca-file"] != second.ca) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_certificate_for_a_name_is_another_once_its_files_are() {
        let (folder, env) = (tempfile::tempdir().unwrap(), Env::system());
        let [first, second] = ["first", "second"].map(|name| Authority::new(folder.path(), name, &env));
        let (certificate, key) = (folder.path().join("other.crt"), folder.path().join("other.key"));
        let write = |identity: &Identity| {
            std::fs::write(&certificate, &identity.certificate).unwrap();
            std::fs::write(&key, &identity.key).unwrap();
        };
        write(&first.other);
        let flags = flags(&[format!("--tls-sni-cert-key={},{}", certificate.display(), key.display())]);
        let listening = Listening::new(Spoken::of(&flags).unwrap(), Shown::new(&first.own).unwrap(), String::new()).unwrap();
        listening.follow();
        let sees = |authority: &Authority, name| {
            let config = tls::client(&authority.ca, Shown::new(&authority.client).unwrap()).unwrap();
            shake_hands(config, listening.tls().config(), name)
        };
        assert_eq!(sees(&first, NAMES[1]), Some(chain(&first.other)[0].clone()));
        write(&second.other);
        until("the second certificate is shown", || sees(&second, NAMES[1]) == Some(chain(&second.other)[0].clone())).await;
        assert_eq!(sees(&first, NAMES[0]), Some(chain(&first.own)[0].clone()));
    }
}
