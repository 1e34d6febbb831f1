//! Who may come in, what is admitted and what is served, by kube-apiserver's flags: the chains of authenticators and authorizers with the
//! files that they are read from anew while the server runs, the admission plugins, and the resources. The API server alone and the cluster's own both get theirs here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use knarr_apiserver::Server;
use knarr_apiserver::admission::{self, DefaultTolerationSeconds, Objects, Plugin};
use knarr_apiserver::authn::jwt::config::{Configuration as Authentication, OidcFlags};
use knarr_apiserver::authn::jwt::{ALGORITHMS, JwtAuthenticators, Settings};
use knarr_apiserver::authn::{
    self, Anonymous, Authenticator, ClientCertificates, ForOwnAudiences, FrontProxy, RequestHeaders, SignedBy, TokenFile, WebhookTokens,
};
use knarr_apiserver::authz::config::{Configuration as Authorization, WebhookFlags, duration};
use knarr_apiserver::authz::{self, Authorizer};
use knarr_apiserver::outside::ReviewHook;
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_core::clock::Env;
use knarr_schema::registry::{Registry, RuntimeConfig};
use knarr_sys::inotify::{CREATE, DELETE, Inotify, MODIFY, MOVED_TO};

use super::flags::Flags;

/// Flags that are read here.
pub const FLAGS: &[&str] = &[
    "admission-control-config-file",
    "anonymous-auth",
    "authentication-config",
    "authentication-token-webhook-cache-ttl",
    "authentication-token-webhook-config-file",
    "authentication-token-webhook-version",
    "authorization-config",
    "authorization-mode",
    "authorization-webhook-cache-authorized-ttl",
    "authorization-webhook-cache-unauthorized-ttl",
    "authorization-webhook-config-file",
    "authorization-webhook-version",
    "default-not-ready-toleration-seconds",
    "default-unreachable-toleration-seconds",
    "disable-admission-plugins",
    "enable-admission-plugins",
    "oidc-ca-file",
    "oidc-client-id",
    "oidc-groups-claim",
    "oidc-groups-prefix",
    "oidc-issuer-url",
    "oidc-required-claim",
    "oidc-signing-algs",
    "oidc-username-claim",
    "oidc-username-prefix",
    "requestheader-allowed-names",
    "requestheader-client-ca-file",
    "requestheader-extra-headers-prefix",
    "requestheader-group-headers",
    "requestheader-uid-headers",
    "requestheader-username-headers",
    "runtime-config",
    "token-auth-file",
];
/// How long a token webhook may take (upstream: `defaultRequestTimeout`).
const TOKEN_WEBHOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// What the server has of its own.
pub struct Own {
    pub env: Env,
    /// PEM; empty: nobody comes by certificate.
    pub client_ca: String,
    /// Where it was read, if it may change.
    pub client_ca_file: Option<PathBuf>,
    /// The front proxy that is believed without a flag that names one.
    pub front_proxy: Option<FrontProxy>,
    /// Authenticators of the cluster's own tokens, in order.
    pub tokens: Vec<Arc<dyn Authenticator>>,
    /// Audiences and issuers of service account tokens.
    pub audiences: Vec<String>,
    pub issuers: Vec<String>,
    /// Authorizers by type, and those that are asked without a flag.
    pub authorizers: BTreeMap<&'static str, Arc<dyn Authorizer>>,
    pub modes: &'static [&'static str],
}

/// The chains, and what they come from.
pub struct Access {
    pub authenticator: Arc<authn::Union>,
    pub authorizer: Arc<authz::Union>,
    pub trusted: Trusted,
    /// Headers that no handler may see.
    pub front_proxy_headers: Vec<String>,
    /// Files of CAs, what they held, and who goes by them.
    ca_files: Vec<(PathBuf, String, Arc<SignedBy>, Place)>,
    authentication_file: Option<(PathBuf, String, Arc<JwtAuthenticators>)>,
    authorization_file: Option<(PathBuf, String, Locals)>,
}

/// Whose certificates count, as others are told of it.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    /// PEM; empty: nobody comes by certificate.
    pub client_ca: String,
    pub front_proxy: Option<FrontProxy>,
}

impl Trusted {
    /// PEM of all CAs whose certificates TLS must let in.
    pub fn all(&self) -> String {
        let proxy = self.front_proxy.as_ref().map_or("", |proxy| &proxy.ca);
        format!("{}\n{proxy}", self.client_ca).trim().to_owned()
    }
}

/// Where a CA stands.
type Place = fn(&mut Trusted) -> Option<&mut String>;

/// What is done when other CAs count.
pub type Renewed = Arc<dyn Fn(Trusted) -> BoxFuture<'static, std::result::Result<(), String>> + Send + Sync>;

type Locals = (BTreeMap<&'static str, Arc<dyn Authorizer>>, BTreeSet<String>);

/// What is served, as `--runtime-config` chooses.
///
/// # Errors
/// A choice that means nothing, or that leaves the server without flow control that it is to have.
pub fn registry(flags: &Flags) -> Result<Registry> {
    let given = flags.all("runtime-config").collect::<Vec<_>>().join(",");
    let config = RuntimeConfig::parse(&given).map_err(usage)?;
    match without_flow_control(&given).filter(|_| flags.is_on("enable-priority-and-fairness", true)) {
        Some(choice) => Err(usage(format!("--runtime-config={choice}=false conflicts with --enable-priority-and-fairness=true"))),
        None => Ok(Registry::everything().chosen(&config)),
    }
}

/// The choice that turns the version of flow control off, the more specific first (upstream: `validateAPIPriorityAndFairness`).
fn without_flow_control(given: &str) -> Option<&'static str> {
    let is_given = |key: &str, value: &str| given.contains(&format!("{key}={value}"));
    let decisive = ["flowcontrol.apiserver.k8s.io/v1", "api/ga", "api/all"].into_iter().find(|key| is_given(key, "false") || is_given(key, "true"))?;
    Some(decisive).filter(|key| is_given(key, "false"))
}

/// The admission plugins that flags choose.
///
/// # Errors
/// A plugin that does not exist.
pub fn plugins(flags: &Flags, objects: &Arc<dyn Objects>) -> Result<Vec<Arc<dyn Plugin>>> {
    let settings = admission_settings(flags)?;
    admission::chosen(objects, &flags.list("enable-admission-plugins"), &flags.list("disable-admission-plugins"), &settings).map_err(usage)
}

/// What plugins are told by `--admission-control-config-file`, and by flags of their own.
///
/// # Errors
/// A file that cannot be read or is wrong.
pub fn admission_settings(flags: &Flags) -> Result<admission::Settings> {
    let read = |path: &str| admission::Settings::read(Path::new(path)).map_err(|why| usage(format!("--admission-control-config-file: {why}")));
    let settings = flags.get("admission-control-config-file").map_or_else(|| Ok(admission::Settings::default()), read)?;
    let own = settings.default_tolerations;
    let default_tolerations = DefaultTolerationSeconds {
        not_ready: flags.parsed("default-not-ready-toleration-seconds")?.unwrap_or(own.not_ready),
        unreachable: flags.parsed("default-unreachable-toleration-seconds")?.unwrap_or(own.unreachable),
    };
    Ok(admission::Settings { default_tolerations, ..settings })
}

fn usage(what: impl Into<String>) -> Failure {
    Failure::new("USAGE", Exit::Usage, what, "")
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Failure::file(Path::new(path), &e))
}

fn owned(all: Vec<&str>) -> Vec<String> {
    all.into_iter().map(str::to_owned).collect()
}

impl Access {
    /// Reads flags and files.
    ///
    /// # Errors
    /// Flags that do not fit together, files that cannot be read or are wrong.
    pub fn new(flags: &Flags, own: Own) -> Result<Self> {
        let (authorization, authorization_file) = authorization(flags, &own)?;
        let (jwt, anonymous, authentication_file) = authentication(flags, &own, authorization.local_types().contains("AlwaysAllow"))?;
        let authorizer = authorization.build(&own.authorizers).map_err(usage)?;
        let trusted = Trusted { client_ca: own.client_ca.clone(), front_proxy: front_proxy(flags, &own)? };
        let mut ca_files: Vec<(PathBuf, String, Arc<SignedBy>, Place)> = Vec::new();
        let mut chain: Vec<Arc<dyn Authenticator>> = Vec::new();
        if let Some(proxy) = &trusted.front_proxy {
            let signed_by = signed_by(&proxy.ca, &own.env)?;
            if let Some(path) = flags.get("requestheader-client-ca-file") {
                ca_files.push((path.into(), proxy.ca.clone(), signed_by.clone(), |trusted| trusted.front_proxy.as_mut().map(|proxy| &mut proxy.ca)));
            }
            chain.push(Arc::new(RequestHeaders::new(signed_by, proxy.clone())));
        }
        if !own.client_ca.is_empty() {
            let signed_by = signed_by(&own.client_ca, &own.env)?;
            if let Some(path) = own.client_ca_file {
                ca_files.push((path, own.client_ca.clone(), signed_by.clone(), |trusted| Some(&mut trusted.client_ca)));
            }
            // Where TLS lets in nobody else, and never will, it need not be asked again.
            let only = trusted.front_proxy.is_none() && ca_files.is_empty();
            chain.push(Arc::new(if only { ClientCertificates::default() } else { ClientCertificates::of(signed_by) }));
        }
        if let Some(path) = flags.get("token-auth-file") {
            let file = TokenFile::parse(&read(path)?).map_err(|e| usage(format!("--token-auth-file: {e}")))?;
            chain.push(Arc::new(ForOwnAudiences { audiences: own.audiences.clone(), inner: Arc::new(file) }));
        }
        chain.extend(own.tokens.iter().cloned());
        chain.push(jwt.clone());
        if let Some(path) = flags.get("authentication-token-webhook-config-file") {
            chain.push(Arc::new(token_webhook(flags, path, &own.audiences)?));
        }
        Ok(Self {
            authenticator: Arc::new(authn::Union::new(chain, anonymous)),
            authorizer: Arc::new(authorizer),
            front_proxy_headers: trusted.front_proxy.iter().flat_map(FrontProxy::headers).collect(),
            trusted,
            ca_files,
            authentication_file: authentication_file.map(|(path, text)| (path, text, jwt)),
            authorization_file: authorization_file.map(|(path, text)| (path, text, (own.authorizers, authorization.local_types()))),
        })
    }

    /// Reads the files again as they change, until the server stops. Others are to go by changed CAs as well, which `renewed` sees to.
    pub fn follow(self, server: &Server, renewed: Renewed) {
        let trusted = Arc::new(tokio::sync::Mutex::new(self.trusted));
        for (path, text, signed_by, place) in self.ca_files {
            let (trusted, renewed) = (trusted.clone(), renewed.clone());
            let apply = async move |text: String| {
                signed_by.set(&text)?;
                let mut trusted = trusted.lock().await;
                place(&mut trusted).into_iter().for_each(|ca| ca.clone_from(&text));
                renewed(trusted.clone()).await
            };
            tokio::spawn(follow(path, text, apply));
        }
        if let Some((path, text, jwt)) = self.authentication_file {
            tokio::spawn(follow(path, text, async move |text: String| jwt.reload(&text).await));
        }
        if let Some((path, text, (locals, types))) = self.authorization_file {
            let server = server.clone();
            let reload = async move |text: String| {
                let config = Authorization::parse(&text)?;
                if config.local_types() != types {
                    return Err(format!("the types of authorizers that are no webhooks cannot change while the server runs: {types:?}"));
                }
                server.set_authorizer(Arc::new(config.build(&locals)?));
                Ok(())
            };
            tokio::spawn(follow(path, text, reload));
        }
    }
}

/// Applies each new text of a file. One that is wrong is logged, and what was before goes on to count.
pub(super) async fn follow(path: PathBuf, mut known: String, apply: impl AsyncFn(String) -> std::result::Result<(), String>) {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let watched = Inotify::new().and_then(|i| i.watch(folder, MODIFY | CREATE | MOVED_TO | DELETE).map(|()| i));
    let inotify = match watched {
        Ok(inotify) => inotify,
        Err(error) => return tracing::error!(file = %path.display(), %error, "changes of this file will not be seen"),
    };
    loop {
        // First: it may have changed between its first reading and now.
        match std::fs::read_to_string(&path) {
            Ok(text) if text != known && !text.is_empty() => {
                match apply(text.clone()).await {
                    Ok(()) => tracing::info!(file = %path.display(), "a changed configuration was taken over"),
                    Err(why) => tracing::error!(file = %path.display(), why, "a changed configuration is wrong; the one before goes on to count"),
                }
                known = text;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(file = %path.display(), %error, "a configuration cannot be read again"),
        }
        if let Err(error) = inotify.changed().await {
            return tracing::error!(file = %path.display(), %error, "changes of this file will not be seen");
        }
    }
}

fn signed_by(ca: &str, env: &Env) -> Result<Arc<SignedBy>> {
    SignedBy::new(ca, env.clone()).map(Arc::new).map_err(usage)
}

fn front_proxy(flags: &Flags, own: &Own) -> Result<Option<FrontProxy>> {
    let Some(path) = flags.get("requestheader-client-ca-file") else { return Ok(own.front_proxy.clone()) };
    let list = |name: &str| owned(flags.list(name));
    Ok(Some(FrontProxy {
        ca: read(path)?,
        allowed_names: list("requestheader-allowed-names"),
        username_headers: list("requestheader-username-headers"),
        uid_headers: list("requestheader-uid-headers"),
        group_headers: list("requestheader-group-headers"),
        extra_prefixes: list("requestheader-extra-headers-prefix"),
    }))
}

type FileText = Option<(PathBuf, String)>;

/// Issuers of tokens, and who may come without one.
fn authentication(flags: &Flags, own: &Own, everything_allowed: bool) -> Result<(Arc<JwtAuthenticators>, Anonymous, FileText)> {
    let file = flags.get("authentication-config").map(|path| read(path).map(|text| (PathBuf::from(path), text))).transpose()?;
    let of_flags = oidc(flags)?;
    let config = match (&file, of_flags) {
        (Some(_), Some(_)) => return Err(usage("authentication-config file and oidc-* flags are mutually exclusive")),
        (Some((path, text)), None) => Authentication::parse(text)
            .map_err(|why| usage(format!("failed to load authentication configuration from file {:?}: {why}", path.display().to_string())))?,
        (None, Some(oidc)) => Authentication::of_flags(&oidc),
        (None, None) => Authentication::default(),
    };
    let anonymous = match &config.anonymous {
        Some(_) if flags.get("anonymous-auth").is_some() => {
            return Err(usage(
                "anonymous: Forbidden: --anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file",
            ));
        }
        Some(anonymous) => Anonymous::from(anonymous),
        // Where everything is allowed, nobody comes without a name.
        None => (flags.is_on("anonymous-auth", true) && !everything_allowed).into(),
    };
    let algorithms = match (&file, flags.list("oidc-signing-algs")) {
        (Some(_), _) => owned(ALGORITHMS.to_vec()),
        (None, given) if given.is_empty() => vec!["RS256".to_owned()],
        (None, given) => owned(given),
    };
    let settings = Settings { audiences: own.audiences.clone(), own_issuers: own.issuers.clone(), algorithms, env: own.env.clone() };
    let jwt = JwtAuthenticators::new(&config, settings).map_err(usage)?;
    Ok((Arc::new(jwt), anonymous, file))
}

fn oidc(flags: &Flags) -> Result<Option<OidcFlags>> {
    if !flags.names().any(|n| n.starts_with("oidc-")) {
        return Ok(None);
    }
    let text = |name: &str| flags.get(name).unwrap_or_default().to_owned();
    if text("oidc-issuer-url").is_empty() || text("oidc-client-id").is_empty() {
        return Err(usage("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"));
    }
    let claim = |pair: &str| pair.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
    let required = flags
        .all("oidc-required-claim")
        .map(|pair| claim(pair).ok_or_else(|| usage(format!("--oidc-required-claim: malformed pair, expect string=string: {pair}"))));
    Ok(Some(OidcFlags {
        issuer_url: text("oidc-issuer-url"),
        client_id: text("oidc-client-id"),
        ca: flags.get("oidc-ca-file").map(read).transpose()?.unwrap_or_default(),
        username_claim: flags.get("oidc-username-claim").unwrap_or("sub").to_owned(),
        username_prefix: text("oidc-username-prefix"),
        groups_claim: text("oidc-groups-claim"),
        groups_prefix: text("oidc-groups-prefix"),
        required_claims: required.collect::<Result<_>>()?,
    }))
}

fn token_webhook(flags: &Flags, path: &str, audiences: &[String]) -> Result<WebhookTokens> {
    let hook = ReviewHook::from_kubeconfig(Path::new(path), TOKEN_WEBHOOK_TIMEOUT).map_err(usage)?;
    let version = flags.get("authentication-token-webhook-version").unwrap_or("v1beta1");
    let ttl = duration(flags.get("authentication-token-webhook-cache-ttl").unwrap_or("2m0s"));
    WebhookTokens::new(hook, version, audiences.to_vec(), ttl).map_err(usage)
}

fn authorization(flags: &Flags, own: &Own) -> Result<(Authorization, FileText)> {
    let modes = flags.list("authorization-mode");
    if let Some(path) = flags.get("authorization-config") {
        if flags.names().any(|n| n == "authorization-mode" || n.starts_with("authorization-webhook-")) {
            return Err(usage("--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined"));
        }
        let text = read(path)?;
        return Ok((Authorization::parse(&text).map_err(usage)?, Some((path.into(), text))));
    }
    let text = |name: &str, default: &str| flags.get(name).unwrap_or(default).to_owned();
    let webhook = flags.get("authorization-webhook-config-file").map(|path| WebhookFlags {
        config_file: path.into(),
        version: text("authorization-webhook-version", "v1beta1"),
        authorized_ttl: text("authorization-webhook-cache-authorized-ttl", "5m0s"),
        unauthorized_ttl: text("authorization-webhook-cache-unauthorized-ttl", "30s"),
    });
    let modes = if modes.is_empty() { own.modes.to_vec() } else { modes };
    Ok((Authorization::of_modes(&modes, webhook.as_ref()).map_err(usage)?, None))
}

#[cfg(test)]
mod tests {
    use super::super::flags::Known;
    use super::*;

    fn own(modes: &'static [&'static str]) -> Own {
        let always = |d| Arc::new(authz::Always(d)) as Arc<dyn Authorizer>;
        Own {
            env: Env::system(),
            client_ca: String::new(),
            client_ca_file: None,
            front_proxy: None,
            tokens: Vec::new(),
            audiences: vec!["api".into()],
            issuers: vec!["https://own.example".into()],
            authorizers: [("RBAC", always(authz::Decision::NoOpinion)), ("Node", always(authz::Decision::NoOpinion))].into(),
            modes,
        }
    }

    #[test]
    fn what_is_served_is_chosen() {
        let chosen = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            let flags = Known::new(include_str!("../../data/kube-apiserver-flags.txt")).parse(&args).unwrap();
            registry(&flags).map(|r| r.all().len()).map_err(|e| e.cause)
        };
        assert_eq!((chosen(&[]), chosen(&["--runtime-config=api/beta=true,batch/v1=false", "--runtime-config", "api/beta=false"])), (Ok(72), Ok(70)));
        assert_eq!(chosen(&["--runtime-config=foo/v1=true"]), Err("unknown api groups foo/v1".into()));
        assert!(chosen(&["--runtime-config=api/ga=false,apps/v1=true"]).unwrap_err().contains("api/ga=false conflicts with --enable-priority-and-fairness"));
        assert!(chosen(&["--runtime-config=api/all=false,flowcontrol.apiserver.k8s.io/v1=true"]).is_ok());
    }

    fn access(args: &[&str]) -> std::result::Result<Access, String> {
        let known = Known::new(include_str!("../../data/kube-apiserver-flags.txt"));
        let flags = known.parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>()).map_err(|e| e.cause)?;
        Access::new(&flags, own(&["Node", "RBAC"])).map_err(|e| e.cause)
    }

    fn refused(args: &[&str]) -> String {
        access(args).err().unwrap_or_default()
    }

    #[test]
    fn every_flag_is_one_of_upstreams() {
        for name in FLAGS {
            assert!(include_str!("../../data/kube-apiserver-flags.txt").lines().any(|l| l.split(' ').next() == Some(name)), "{name}");
        }
    }

    #[test]
    fn pods_stand_a_nodes_trouble_as_long_as_flags_say() {
        let known = Known::new(include_str!("../../data/kube-apiserver-flags.txt"));
        let told = |args: &[&str]| admission_settings(&known.parse(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>()).unwrap()).unwrap();
        assert_eq!(told(&[]).default_tolerations, DefaultTolerationSeconds { not_ready: 300, unreachable: 300 });
        let chosen = told(&["--default-not-ready-toleration-seconds=5", "--default-unreachable-toleration-seconds=6"]);
        assert_eq!(chosen.default_tolerations, DefaultTolerationSeconds { not_ready: 5, unreachable: 6 });
    }

    #[test]
    fn flags_make_the_chain() {
        let chain = |args: &[&str]| access(args).unwrap().authorizer.0.iter().map(|a| a.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(chain(&[]).len(), 2);
        assert_eq!(chain(&["--authorization-mode=AlwaysAllow"]), ["alwaysallow"]);
        assert_eq!(chain(&["--authorization-mode=AlwaysDeny,AlwaysAllow"]), ["alwaysdeny", "alwaysallow"]);
    }

    #[test]
    fn flags_that_do_not_fit_together_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: ";
        let authentication =
            format!("--authentication-config={}", file("authn", &format!("{head}AuthenticationConfiguration\nanonymous: {{enabled: false}}\n")));
        let authorization =
            format!("--authorization-config={}", file("authz", &format!("{head}AuthorizationConfiguration\nauthorizers: [{{type: RBAC, name: rbac}}]\n")));
        assert!(access(&[&authentication, &authorization]).is_ok());
        assert!(refused(&[&authentication, "--anonymous-auth=true"]).contains("--anonymous-auth flag cannot be set"));
        assert_eq!(
            refused(&[&authentication, "--oidc-issuer-url=https://a", "--oidc-client-id=x"]),
            "authentication-config file and oidc-* flags are mutually exclusive"
        );
        assert!(refused(&[&authorization, "--authorization-mode=RBAC"]).starts_with("--authorization-config can not be specified"));
        assert!(refused(&["--oidc-issuer-url=https://a"]).starts_with("oidc-issuer-url and oidc-client-id must be specified together"));
        assert_eq!(refused(&["--oidc-issuer-url=https://a", "--oidc-client-id=x", "--oidc-signing-algs=none"]), "oidc: unsupported signing alg: \"none\"");
        assert!(refused(&["--oidc-issuer-url=https://own.example", "--oidc-client-id=x"]).contains("must not overlap with disallowed issuers"));
        assert!(refused(&["--authorization-mode=Magic"]).contains("not a valid mode"));
        assert!(refused(&["--authorization-mode=Webhook"]).contains("config file not passed"));
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, "one").unwrap();
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let apply = async move |text: String| {
            sender.send(text.clone()).unwrap();
            if text == "bad" { Err("it is bad".to_owned()) } else { Ok(()) }
        };
        // What changed before anybody watched is seen too.
        tokio::spawn(follow(path.clone(), "none".into(), apply));
        assert_eq!(seen.recv().await.unwrap(), "one");
        for text in ["bad", "two"] {
            let other = folder.path().join("other");
            std::fs::write(&other, text).unwrap();
            std::fs::rename(&other, &path).unwrap();
            assert_eq!(seen.recv().await.unwrap(), text);
        }
    }
}
