//! Certificates, tokens and roles from request to use, against the true API server with its admission and RBAC.

mod support;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, ClusterTrustBundle};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use knarr_apiserver::authn::User;
use knarr_client::{Client, Deletion};
use knarr_core::api::Options;
use knarr_core::pem;
use knarr_core::{Value, json};
use support::{Cluster, until};

const CLIENT: &str = include_str!("../../knarr-kinds/fixtures/node-client.csr");
const PERSON: &str = include_str!("../../knarr-kinds/fixtures/person-rsa.csr");

fn request(name: &str, text: &str, signer: &str) -> Value {
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": STANDARD.encode(text), "signerName": format!("kubernetes.io/{signer}"), "usages": ["client auth", "digital signature"]}})
}

fn as_user(cluster: &Cluster, name: &str, groups: &[&str]) -> Client {
    let user = User { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() };
    Client::new(Arc::new(cluster.server.transport(user)))
}

async fn certificate(cluster: &Cluster, name: &str) -> String {
    until("a certificate is there", || async {
        let request = cluster.client.all::<CertificateSigningRequest>().get(name).await.unwrap();
        request.status.and_then(|s| s.certificate).is_some()
    })
    .await;
    let request = cluster.client.all::<CertificateSigningRequest>().get(name).await.unwrap();
    String::from_utf8(request.status.unwrap().certificate.unwrap().0).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_request_is_signed_when_somebody_approves_it() {
    let cluster = Cluster::start().await;
    let requests = cluster.client.all::<CertificateSigningRequest>();
    requests.dynamic().create(request("jane", PERSON, "kube-apiserver-client")).await.unwrap();
    let mut stored = requests.get("jane").await.unwrap();
    assert_eq!(stored.spec.username.as_deref(), Some("admin"));
    let condition = json!({"type": "Approved", "status": "True", "reason": "ByTest"});
    stored.status.get_or_insert_default().conditions = Some(vec![serde_json::from_value(condition).unwrap()]);
    requests.dynamic().update_with(serde_json::to_value(&stored).unwrap(), Some("approval"), &Options::default()).await.unwrap();
    let issued = certificate(&cluster, "jane").await;
    let der = pem::blocks(issued.as_bytes()).remove(0).der;
    assert!(der.windows(4).any(|w| w == b"jane"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_its_certificate_without_anybody_if_it_may() {
    let cluster = Cluster::start().await;
    let token = as_user(&cluster, "system:bootstrap:abcdef", &["system:bootstrappers", "system:authenticated"]);
    let binding = |name: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:bootstrappers"}]})
    };
    cluster.create::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>("", binding("may-ask", "system:node-bootstrapper")).await;
    let requests = token.all::<CertificateSigningRequest>();
    until("the binding counts", || async { requests.dynamic().create(request("node", CLIENT, "kube-apiserver-client-kubelet")).await.is_ok() }).await;
    // It may ask, and nobody has said that it is approved by itself.
    let stored = cluster.client.all::<CertificateSigningRequest>().get("node").await.unwrap();
    assert!(stored.status.unwrap_or_default().conditions.is_none());
    let approved = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";
    cluster.create::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>("", binding("is-approved", approved)).await;
    certificate(&cluster, "node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_holds_a_token_as_long_as_its_account_lives() {
    let cluster = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "default"}});
    cluster.create::<ServiceAccount>("default", account).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "web-token", "namespace": "default", "annotations": {"kubernetes.io/service-account.name": "web"}}});
    cluster.create::<Secret>("default", secret).await;
    let secrets = cluster.client.within::<Secret>("default");
    until("the token is there", || async { secrets.get("web-token").await.unwrap().data.is_some_and(|d| d.contains_key("token")) }).await;
    let data = secrets.get("web-token").await.unwrap().data.unwrap();
    assert_eq!(String::from_utf8_lossy(&data["ca.crt"].0), cluster.pki.ca.certificate);
    assert_eq!(data["namespace"].0, b"default");
    cluster.client.within::<ServiceAccount>("default").delete("web", &Deletion::default()).await.unwrap();
    until("the Secret is gone", || async { secrets.find("web-token").await.unwrap().is_none() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregated_roles_get_their_rules_and_the_servers_authority_is_published() {
    let cluster = Cluster::start().await;
    let roles = cluster.client.all::<ClusterRole>();
    for name in ["admin", "edit", "view"] {
        until(name, || async { roles.get(name).await.unwrap().rules.is_some_and(|r| r.len() > 3) }).await;
    }
    let own = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "cars", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["x.io"], "resources": ["cars"], "verbs": ["get"]}]});
    cluster.create::<ClusterRole>("", own).await;
    let has_cars = |role: ClusterRole| role.rules.unwrap_or_default().iter().any(|r| r.resources.as_deref() == Some(&["cars".to_owned()]));
    for name in ["view", "edit", "admin"] {
        until("cars are there", || async { has_cars(roles.get(name).await.unwrap()) }).await;
    }
    let bundles = cluster.client.all::<ClusterTrustBundle>();
    let published = || async { bundles.list(&Options::default()).await.unwrap().0.iter().any(|b| b.spec.trust_bundle == cluster.pki.ca.certificate) };
    until("the bundle is there", published).await;
}
