//! `knarr token`: bootstrap tokens, by which machines that are to become nodes show that they may ask for a certificate. Each is a
//! Secret of Kubernetes' own form (`bootstrap-token-ID` in `kube-system`), so kubeadm's tools see them, too.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use knarr_client::{Client, TlsTransport};
use knarr_core::api::Options;
use knarr_core::{GroupVersionResource, Status, Value, ValueExt, json, time};
use rand::Rng as _;
use sha2::Digest as _;

use super::config::Cluster;
use super::failure::{Exit, Failure, Result};
use super::kubeconfig;

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const RBAC: &str = "rbac.authorization.k8s.io";
const GET_NODES: &str = "kubeadm:get-nodes";
/// The group that tokens are in, and what it may do: kubeadm's names.
const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
const BINDINGS: &[(&str, &str, &str)] = &[
    (GET_NODES, GET_NODES, GROUP),
    ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", GROUP),
    ("kubeadm:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", GROUP),
    ("kubeadm:node-autoapprove-certificate-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"),
    // Service proxy, DNS and network policies of a node that joined have no certificate of their own: they ask as the node.
    ("knarr:node-proxier", "system:node-proxier", "system:nodes"),
    ("knarr:node-dns", "system:coredns", "system:nodes"),
    ("knarr:node-network-policies", "system:node-network-policies", "system:nodes"),
];

#[derive(Clone, Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token, and say by what the cluster is known
    Create {
        /// The token itself, as ID.SECRET (default: a random one)
        token: Option<String>,
        /// How long it is good, as 24h or 30m; 0 is for ever
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// Print the whole command by which another machine joins
        #[arg(long)]
        print_join_command: bool,
    },
    /// List the tokens
    List,
    /// Delete a token, by its ID or whole
    Delete { token: String },
}

/// Runs one of them.
pub async fn run(cluster: &Cluster, verb: TokenVerb) -> Result<()> {
    let client = TlsTransport::new(kubeconfig::client_config(cluster)?).map_err(Failure::program)?.client();
    match verb {
        TokenVerb::Create { token, ttl, description, print_join_command } => {
            let token = create(cluster, &client, token, &ttl, &description).await?;
            tell(cluster, &token, print_join_command)
        }
        TokenVerb::List => list(&client).await,
        TokenVerb::Delete { token } => delete(&client, &token).await,
    }
}

fn refused(status: Status) -> Failure {
    Failure::new("API", Exit::Cluster, status.message, "knarr status")
}

fn secrets(client: &Client) -> knarr_client::DynamicApi {
    client.dynamic(GroupVersionResource::new("", "v1", "secrets"), Some(NAMESPACE))
}

pub(super) fn bad_token(token: &str) -> Failure {
    Failure::new("BAD_TOKEN", Exit::Usage, format!("{token:?} is no token: 6 characters of a-z and 0-9, a dot, 16 more"), "knarr token create")
}

/// A token taken apart, if it has the form `[a-z0-9]{6}.[a-z0-9]{16}`.
pub(super) fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn random(length: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

/// The Secret of a token.
fn secret(id: &str, secret: &str, expires: Option<Timestamp>, description: &str) -> Value {
    let mut data = vec![
        ("token-id", id.to_owned()),
        ("token-secret", secret.to_owned()),
        ("usage-bootstrap-authentication", "true".into()),
        ("usage-bootstrap-signing", "true".into()),
        ("auth-extra-groups", GROUP.into()),
    ];
    data.extend(expires.map(|at| ("expiration", time::format(at))));
    if !description.is_empty() {
        data.push(("description", description.to_owned()));
    }
    let encoded: serde_json::Map<String, Value> = data.into_iter().map(|(k, v)| (k.to_owned(), STANDARD.encode(v).into())).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{PREFIX}{id}"), "namespace": NAMESPACE}, "type": "bootstrap.kubernetes.io/token", "data": encoded})
}

async fn create(cluster: &Cluster, client: &Client, token: Option<String>, ttl: &str, description: &str) -> Result<String> {
    let seconds = crate::kubectl::flags::go_duration(ttl)
        .filter(|s| *s >= 0.0)
        .ok_or_else(|| Failure::new("BAD_TTL", Exit::Usage, format!("{ttl:?} is no duration"), "knarr token create --ttl 24h"))?;
    let expires = if seconds == 0.0 { None } else { Some(Timestamp::now().checked_add(SignedDuration::from_secs(seconds as i64)).map_err(Failure::program)?) };
    let token = token.unwrap_or_else(|| format!("{}.{}", random(6), random(16)));
    let (id, rest) = parts(&token).ok_or_else(|| bad_token(&token))?;
    if cluster.advertise.is_loopback() {
        return Err(Failure::new(
            "NO_ADDRESS",
            Exit::Host,
            format!("the API server is known at {} alone, where no other machine finds it", cluster.advertise),
            "knarr delete, and knarr start --advertise-address ADDRESS",
        ));
    }
    allow(client).await?;
    secrets(client).create(secret(id, rest, expires, description)).await.map_err(refused)?;
    Ok(token)
}

/// Says what a new node needs: the token, and by what it knows the cluster.
fn tell(cluster: &Cluster, token: &str, whole_command: bool) -> Result<()> {
    let hashes = key_hashes(&read(cluster, "ca.crt")?)?;
    if whole_command {
        let address = std::net::SocketAddr::new(cluster.advertise, cluster.port);
        let pins: String = hashes.iter().map(|hash| format!(" --discovery-token-ca-cert-hash {hash}")).collect();
        println!("knarr join {address} --token {token}{pins}");
        return Ok(());
    }
    println!("{token}");
    eprintln!("It is good at {}, whose authority has the key {}", cluster.server_url(), hashes.join(", "));
    Ok(())
}

/// What who holds a token may do: see whether there is a node of his name, ask for a node's certificate, and get it without
/// anybody looking.
async fn allow(client: &Client) -> Result<()> {
    let rules = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": GET_NODES}, "rules": rules});
    made(client.dynamic(GroupVersionResource::new(RBAC, "v1", "clusterroles"), None).create(role).await)?;
    let bindings = client.dynamic(GroupVersionResource::new("rbac.authorization.k8s.io", "v1", "clusterrolebindings"), None);
    for (name, role, group) in BINDINGS {
        let object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": group}]});
        made(bindings.create(object).await)?;
    }
    Ok(())
}

fn made<T>(outcome: knarr_core::Result<T>) -> Result<()> {
    match outcome {
        Err(status) if !status.is_already_exists() => Err(refused(status)),
        _ => Ok(()),
    }
}

/// What `kube-public/cluster-info` says: a kubeconfig without a user.
pub(super) fn cluster_info(authority: &[u8], server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {server}\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nusers: null\n",
        STANDARD.encode(authority)
    )
}

/// What nodes must know of the cluster, where kubeadm keeps it: ConfigMap, key, text.
pub(super) fn settings(cluster: &Cluster) -> [(&'static str, &'static str, String); 2] {
    let kubeadm = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nclusterName: {}\ncontrolPlaneEndpoint: {}\nkubernetesVersion: {}\nnetworking:\n  dnsDomain: {}\n  podSubnet: {}\n  serviceSubnet: {}\n",
        cluster.profile,
        std::net::SocketAddr::new(cluster.advertise, cluster.port),
        knarr_core::KUBERNETES_VERSION,
        cluster.cluster_domain,
        cluster.pod_cidr,
        cluster.service_cidr
    );
    let kubelet = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nclusterDNS:\n- {}\nclusterDomain: {}\n",
        cluster.cluster_dns, cluster.cluster_domain
    );
    [("kubeadm-config", "ClusterConfiguration", kubeadm), ("kubelet-config", "kubelet", kubelet)]
}

/// What a server shows to machines that are to become nodes: objects that follow the cluster, and who may read them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    pub kept: Vec<Value>,
    pub made: Vec<Value>,
}

/// Everybody may read where the cluster is and which authority it trusts (`kube-public/cluster-info`): who knows the hash of the
/// authority's key, or a token that signs it, needs nothing else to find a server that he can trust. New nodes may read the cluster's
/// settings, too. All of it is kubeadm's (`kubeadm init phase bootstrap-token`, `upload-config`).
pub fn published(cluster: &Cluster, authority: &[u8]) -> Published {
    let mut all = Published::default();
    let info = cluster_info(authority, &cluster.server_url());
    let reader = json!({"kind": "User", "apiGroup": RBAC, "name": "system:anonymous"});
    all.add(("kube-public", "cluster-info", "kubeconfig", info), "kubeadm:bootstrap-signer-clusterinfo", &[reader]);
    let readers = [GROUP, "system:nodes"].map(|group| json!({"kind": "Group", "apiGroup": RBAC, "name": group}));
    for (name, key, text) in settings(cluster) {
        let role = if name == "kubeadm-config" { "kubeadm:nodes-kubeadm-config" } else { "kubeadm:kubelet-config" };
        all.add(("kube-system", name, key, text), role, &readers);
    }
    all
}

impl Published {
    /// A ConfigMap with a role to read it and who has the role.
    fn add(&mut self, (namespace, name, key, text): (&str, &str, &str, String), role: &str, readers: &[Value]) {
        self.kept.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {key: text}}));
        let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get"]}]);
        self.made.push(json!({"apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": {"name": role, "namespace": namespace}, "rules": rules}));
        self.made.push(json!({"apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": {"name": role, "namespace": namespace},
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": role}, "subjects": readers}));
    }
}

fn read(cluster: &Cluster, name: &str) -> Result<Vec<u8>> {
    let path = cluster.pki().join(name);
    std::fs::read(&path).map_err(|e| Failure::file(&path, &e))
}

/// `sha256:` of the public key of each certificate, as kubeadm pins authorities.
pub(super) fn key_hashes(pem: &[u8]) -> Result<Vec<String>> {
    let blocks = x509_parser::pem::Pem::iter_from_buffer(pem);
    blocks
        .map(|block| {
            let block = block.map_err(Failure::program)?;
            let certificate = block.parse_x509().map_err(Failure::program)?;
            let digest = sha2::Sha256::digest(certificate.public_key().raw);
            Ok(format!("sha256:{}", knarr_core::hex::encode(digest)))
        })
        .collect()
}

/// A token as it is listed.
fn line(object: &Value) -> Option<[String; 5]> {
    let field = |key: &str| object.str_at(&["data", key]).and_then(|t| STANDARD.decode(t).ok()).map(|b| String::from_utf8_lossy(&b).into_owned());
    let expires = field("expiration");
    let left = match expires.as_deref().and_then(time::parse) {
        None => "<forever>".to_owned(),
        Some(at) => std::time::Duration::try_from(at.duration_since(Timestamp::now())).map_or_else(|_| "<invalid>".into(), time::human_duration),
    };
    Some([
        format!("{}.{}", field("token-id")?, field("token-secret")?),
        left,
        expires.unwrap_or_else(|| "<never>".into()),
        field("description").unwrap_or_else(|| "<none>".into()),
        field("auth-extra-groups").unwrap_or_default(),
    ])
}

async fn list(client: &Client) -> Result<()> {
    let options = Options { field_selector: Some("type=bootstrap.kubernetes.io/token".into()), ..Options::default() };
    let found = secrets(client).list(&options).await.map_err(refused)?;
    let mut text = "TOKEN\tTTL\tEXPIRES\tDESCRIPTION\tEXTRA GROUPS\n".to_owned();
    for item in &found.items {
        let object = knarr_client::read::value(item).map_err(refused)?;
        text.extend(line(&object).map(|cells| cells.join("\t") + "\n"));
    }
    print!("{}", crate::kubectl::print::tabs::layout(&text, 6, 3));
    Ok(())
}

async fn delete(client: &Client, token: &str) -> Result<()> {
    let id = token.split('.').next().unwrap_or_default();
    if id.len() != 6 {
        return Err(bad_token(token));
    }
    secrets(client).delete(&format!("{PREFIX}{id}"), &knarr_client::Deletion::default()).await.map_err(refused)?;
    println!("bootstrap token {id:?} deleted");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_kubeadm_s_form() {
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["abcdef", "abc.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef.short"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
        assert!(parts(&format!("{}.{}", random(6), random(16))).is_some());
    }

    #[test]
    fn a_secret_is_listed_as_its_token() {
        let object = secret("abcdef", "0123456789abcdef", None, "for a test");
        assert_eq!(object["metadata"]["name"], "bootstrap-token-abcdef");
        assert_eq!(line(&object).unwrap(), ["abcdef.0123456789abcdef", "<forever>", "<never>", "for a test", GROUP]);
    }
}
