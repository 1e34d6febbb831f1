//! Who may write roles and bindings grants no more than what they have.

mod support;

use std::sync::Arc;

use knarr_apiserver::authz::{Union, feed, node::NodeAuthorizer, rbac::Rbac};
use knarr_apiserver::{admission, bootstrap, stored::Stored};
use knarr_core::{Value, ValueExt, json};
use support::{Answer, Cluster, until};

const CLUSTER: &str = "/apis/rbac.authorization.k8s.io/v1";
const NAMESPACE: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    let objects: Arc<dyn admission::Objects> = Arc::new(Stored(cluster.storage.clone()));
    cluster.server.set_plugins(admission::default_plugins(&objects));
    let (rbac, node) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::new(&bootstrap::system_node_role())));
    feed::start(&cluster.storage, &rbac, &node).await;
    cluster.server.set_authorizer(Arc::new(Union(vec![rbac])));
    cluster
}

fn role(kind: &str, name: &str, rules: Value) -> Value {
    json!({"kind": kind, "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, role: (&str, &str), user: &str) -> Value {
    json!({"kind": "RoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})
}

async fn as_jane(cluster: &Cluster, method: &str, path: &str, body: &Value) -> Answer {
    cluster.send(method, path, &[("content-type", "application/json"), ("impersonate-user", "jane")], body.to_string()).await
}

/// What jane is allowed is known as soon as the authorizer has seen it.
async fn jane_may(cluster: &Cluster, rules: Value) {
    assert_eq!(cluster.post(&format!("{NAMESPACE}/roles"), &role("Role", "janes", rules)).await.code, 201);
    assert_eq!(cluster.post(&format!("{NAMESPACE}/rolebindings"), &binding("janes", ("Role", "janes"), "jane")).await.code, 201);
    let path = format!("{NAMESPACE}/roles/janes");
    until("jane may read", async || as_jane(cluster, "GET", &path, &Value::Null).await.code != 403).await;
}

fn pods(verbs: &[&str]) -> Value {
    json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}])
}

#[tokio::test]
async fn roles_hold_no_more_than_their_writer() {
    let cluster = cluster().await;
    let rbac = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["get", "create", "update"]});
    jane_may(&cluster, json!([rbac, pods(&["get"])[0]])).await;
    let roles = format!("{NAMESPACE}/roles");
    assert_eq!(as_jane(&cluster, "POST", &roles, &role("Role", "less", pods(&["get"]))).await.code, 201);
    let refused = as_jane(&cluster, "POST", &roles, &role("Role", "more", pods(&["get", "delete"]))).await;
    let text = "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC \
                permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}";
    assert_eq!((refused.code, refused.json().str_at(&["message"])), (403, Some(text)));
    let grown = as_jane(&cluster, "PUT", &format!("{roles}/less"), &role("Role", "less", pods(&["*"]))).await;
    assert_eq!(grown.code, 403, "{}", grown.text());
}

#[tokio::test]
async fn bindings_give_no_more_than_their_writer_has() {
    let cluster = cluster().await;
    assert_eq!(cluster.post(&format!("{CLUSTER}/clusterroles"), &role("ClusterRole", "killer", pods(&["delete"]))).await.code, 201);
    assert_eq!(cluster.post(&format!("{CLUSTER}/clusterroles"), &role("ClusterRole", "handed", pods(&["delete"]))).await.code, 201);
    let rbac = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["get", "create", "update"]});
    let bind = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["handed"], "verbs": ["bind"]});
    jane_may(&cluster, json!([rbac, bind])).await;
    let bindings = format!("{NAMESPACE}/rolebindings");
    let code = async |name: &str, role: (&str, &str)| as_jane(&cluster, "POST", &bindings, &binding(name, role, "jane")).await.code;
    assert_eq!(code("a", ("ClusterRole", "killer")).await, 403);
    assert_eq!(code("b", ("ClusterRole", "handed")).await, 201, "who may bind a role need not hold it");
    assert_eq!(code("c", ("Role", "absent")).await, 404);
    assert_eq!(code("d", ("Role", "janes")).await, 201, "what is held may be given");
}

#[tokio::test]
async fn who_may_escalate_writes_any_role() {
    let cluster = cluster().await;
    jane_may(&cluster, json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["get", "create", "escalate"]}])).await;
    assert_eq!(as_jane(&cluster, "POST", &format!("{NAMESPACE}/roles"), &role("Role", "more", pods(&["*"]))).await.code, 201);
}
