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
/// The group that tokens are in, and what it may do: kubeadm's names.
const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";
const BINDINGS: &[(&str, &str, &str)] = &[
    ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", GROUP),
    ("kubeadm:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", GROUP),
    ("kubeadm:node-autoapprove-certificate-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"),
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
        TokenVerb::Create { token, ttl, description } => create(cluster, &client, token, &ttl, &description).await,
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

fn bad_token(token: &str) -> Failure {
    Failure::new("BAD_TOKEN", Exit::Usage, format!("{token:?} is no token: 6 characters of a-z and 0-9, a dot, 16 more"), "knarr token create")
}

/// A token taken apart, if it has the form `[a-z0-9]{6}.[a-z0-9]{16}`.
fn parts(token: &str) -> Option<(&str, &str)> {
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

async fn create(cluster: &Cluster, client: &Client, token: Option<String>, ttl: &str, description: &str) -> Result<()> {
    let seconds = crate::kubectl::flags::go_duration(ttl)
        .filter(|s| *s >= 0.0)
        .ok_or_else(|| Failure::new("BAD_TTL", Exit::Usage, format!("{ttl:?} is no duration"), "knarr token create --ttl 24h"))?;
    let expires = if seconds == 0.0 { None } else { Some(Timestamp::now().checked_add(SignedDuration::from_secs(seconds as i64)).map_err(Failure::program)?) };
    let token = token.unwrap_or_else(|| format!("{}.{}", random(6), random(16)));
    let (id, rest) = parts(&token).ok_or_else(|| bad_token(&token))?;
    allow(client).await?;
    publish(cluster, client).await?;
    secrets(client).create(secret(id, rest, expires, description)).await.map_err(refused)?;
    println!("{token}");
    eprintln!("It is good at {}, whose authority has the key {}", cluster.server_url(), ca_hash(cluster)?);
    Ok(())
}

/// What who holds a token may do: ask for a node's certificate, and get it without anybody looking.
async fn allow(client: &Client) -> Result<()> {
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

/// Lets everybody read where the cluster is and which authority it trusts (`kube-public/cluster-info`): who knows the hash of the
/// authority's key needs nothing else to find a server that he can trust.
async fn publish(cluster: &Cluster, client: &Client) -> Result<()> {
    let authority = read(cluster, "ca.crt")?;
    let config = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: {}\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nusers: null\n",
        STANDARD.encode(authority),
        cluster.server_url()
    );
    let within = |group: &str, plural: &str| client.dynamic(GroupVersionResource::new(group, "v1", plural), Some("kube-public"));
    let rbac = "rbac.authorization.k8s.io";
    made(within("", "configmaps").create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"}, "data": {"kubeconfig": config}})).await)?;
    let name = "kubeadm:bootstrap-signer-clusterinfo";
    let role = json!({"apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": {"name": name, "namespace": "kube-public"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}]});
    made(within(rbac, "roles").create(role).await)?;
    let binding = json!({"apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": {"name": name, "namespace": "kube-public"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name}, "subjects": [{"kind": "User", "apiGroup": rbac, "name": "system:anonymous"}]});
    made(within(rbac, "rolebindings").create(binding).await)
}

fn read(cluster: &Cluster, name: &str) -> Result<Vec<u8>> {
    let path = cluster.pki().join(name);
    std::fs::read(&path).map_err(|e| Failure::file(&path, &e))
}

/// `sha256:` of the public key of the cluster's authority, as kubeadm pins it.
fn ca_hash(cluster: &Cluster) -> Result<String> {
    let pem = read(cluster, "ca.crt")?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).map_err(Failure::program)?;
    let certificate = block.parse_x509().map_err(Failure::program)?;
    let digest = sha2::Sha256::digest(certificate.public_key().raw);
    Ok(format!("sha256:{}", digest.iter().map(|b| format!("{b:02x}")).collect::<String>()))
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
