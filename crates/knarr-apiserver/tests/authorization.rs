//! The chain of authorizers: webhooks beside RBAC, reviews of access, and impersonation.

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use knarr_apiserver::authz::{Authorizer, config::Configuration, feed, node::NodeAuthorizer, rbac::Rbac};
use knarr_apiserver::bootstrap;
use knarr_core::{Value, json};
use support::{Answer, Cluster, outside::Outside, until};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A webhook by the names of users, and how often it was asked.
async fn webhook() -> (Outside, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let shared = asked.clone();
    let server = Outside::start(move |request| {
        shared.fetch_add(1, Relaxed);
        let spec = &request.body["spec"];
        let status = match spec["user"].as_str().unwrap_or_default() {
            "friend" => json!({"allowed": true, "reason": "a friend"}),
            "enemy" => json!({"allowed": false, "denied": true, "reason": "an enemy"}),
            "lister" => {
                json!({"allowed": spec["resourceAttributes"]["labelSelector"]["requirements"] == json!([{"key": "a", "operator": "In", "values": ["b"]}])})
            }
            "breaker" => return (400, json!("no")),
            _ => json!({"allowed": false}),
        };
        (200, json!({"kind": "SubjectAccessReview", "apiVersion": request.body["apiVersion"], "status": status}))
    })
    .await;
    (server, asked)
}

struct Setup {
    cluster: Cluster,
    asked: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

/// A server that asks the webhook, then RBAC.
async fn setup(failure_policy: &str) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let (webhook, asked) = webhook().await;
    let config = json!({"kind": "AuthorizationConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "authorizers": [
        {"type": "Webhook", "name": "w.example.com", "webhook": {
            "timeout": "5s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1", "failurePolicy": failure_policy,
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": webhook.kubeconfig(folder.path(), "/authorize")},
            "matchConditions": [{"expression": "!request.user.startsWith('ours:')"}, {"expression": "has(request.resourceAttributes)"}],
        }},
        {"type": "RBAC", "name": "rbac"},
    ]});
    let cluster = Cluster::start().await;
    let (rbac, node) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::new(&bootstrap::system_node_role())));
    feed::start(&cluster.storage, &rbac, &node).await;
    let local: BTreeMap<&'static str, Arc<dyn Authorizer>> = [("RBAC", rbac as Arc<dyn Authorizer>)].into();
    let chain = Configuration::parse(&config.to_string()).unwrap().build(&local).unwrap();
    cluster.server.set_authorizer(Arc::new(chain));
    Setup { cluster, asked, _folder: folder }
}

impl Setup {
    async fn get(&self, user: &str, path: &str) -> Answer {
        self.cluster.send("GET", path, &[("x-user", user)], "").await
    }

    /// Gives a user rules for the whole cluster, and waits until they hold.
    async fn grant(&self, user: &str, rules: Value) {
        let name = user.replace(':', "-");
        let role = json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}, "rules": rules});
        assert_eq!(self.cluster.post(&format!("{RBAC}/clusterroles"), &role).await.code, 201);
        let binding = json!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}, {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "probe"}]});
        let probe = json!({"verbs": ["get"], "nonResourceURLs": [format!("/granted/{name}")]});
        let mut rules = rules;
        rules.as_array_mut().unwrap().push(probe);
        let role = json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}, "rules": rules});
        assert_eq!(self.cluster.put(&format!("{RBAC}/clusterroles/{name}"), &role).await.code, 200);
        assert_eq!(self.cluster.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.code, 201);
        until("the rules hold", async || self.get("probe", &format!("/granted/{name}")).await.code != 403).await;
    }
}

#[tokio::test]
async fn a_webhook_allows_denies_or_leaves_it_to_the_next() {
    let setup = setup("NoOpinion").await;
    assert_eq!(setup.get("friend", CONFIG_MAPS).await.code, 200);
    assert_eq!(setup.get("friend", CONFIG_MAPS).await.code, 200);
    assert_eq!(setup.asked.load(Relaxed), 1, "the answer is remembered");
    let denied = setup.get("enemy", CONFIG_MAPS).await;
    let text = "configmaps is forbidden: User \"enemy\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\": an enemy";
    assert_eq!((denied.code, denied.json()["message"].as_str()), (403, Some(text)));
    assert_eq!(setup.get("jane", CONFIG_MAPS).await.code, 403);
    setup.grant("jane", json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}])).await;
    assert_eq!(setup.get("jane", CONFIG_MAPS).await.code, 200, "RBAC is asked next");
    assert_eq!(setup.get("lister", CONFIG_MAPS).await.code, 403);
    assert_eq!(setup.get("lister", &format!("{CONFIG_MAPS}?labelSelector=a%3Db")).await.code, 200, "selectors are part of the question");
}

#[tokio::test]
async fn match_conditions_keep_requests_from_the_webhook() {
    let setup = setup("Deny").await;
    assert_eq!(setup.get("ours:x", CONFIG_MAPS).await.code, 403);
    assert_eq!(setup.get("jane", "/version").await.code, 403);
    assert_eq!(setup.asked.load(Relaxed), 0);
    assert_eq!(setup.cluster.get(CONFIG_MAPS).await.code, 200, "masters are not asked about");
    assert_eq!(setup.asked.load(Relaxed), 0);
}

#[tokio::test]
async fn the_failure_policy_decides_what_a_broken_webhook_means() {
    for (policy, code) in [("NoOpinion", 200), ("Deny", 500)] {
        let setup = setup(policy).await;
        assert_eq!(setup.get("breaker", CONFIG_MAPS).await.code, 500, "nobody allows it, and one could not tell");
        setup.grant("breaker", json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}])).await;
        assert_eq!(setup.get("breaker", CONFIG_MAPS).await.code, code, "{policy}");
    }
}

#[tokio::test]
async fn reviews_of_access_go_through_the_chain() {
    let setup = setup("NoOpinion").await;
    let review = async |kind: &str, spec: Value| {
        let plural = format!("{}s", kind.to_lowercase());
        let body = json!({"kind": kind, "apiVersion": "authorization.k8s.io/v1", "spec": spec});
        let answer = setup.cluster.post(&format!("/apis/authorization.k8s.io/v1/{plural}"), &body).await;
        (answer.code, answer.json())
    };
    let list = json!({"verb": "list", "resource": "configmaps", "namespace": "default"});
    let status = async |user: &str| review("SubjectAccessReview", json!({"user": user, "resourceAttributes": list})).await.1["status"].clone();
    assert_eq!(status("friend").await, json!({"allowed": true, "reason": "a friend"}));
    assert_eq!(status("enemy").await, json!({"allowed": false, "denied": true, "reason": "an enemy"}));
    assert_eq!(status("jane").await, json!({"allowed": false}));
    let broken = status("breaker").await;
    assert_eq!((&broken["allowed"], broken["evaluationError"].is_string()), (&json!(false), true));
    assert_eq!(review("SelfSubjectAccessReview", json!({"resourceAttributes": list})).await.1["status"]["allowed"], json!(true));
    // Selectors in both forms; what cannot be read is left out and told.
    let select = async |selector: Value| {
        let mut attributes = list.clone();
        attributes["labelSelector"] = selector;
        review("SubjectAccessReview", json!({"user": "lister", "resourceAttributes": attributes})).await
    };
    assert_eq!(select(json!({"rawSelector": "a=b"})).await.1["status"]["allowed"], json!(true));
    assert_eq!(select(json!({"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]})).await.1["status"]["allowed"], json!(true));
    let unread = select(json!({"rawSelector": "a in"})).await.1["status"].clone();
    assert_eq!(unread, json!({"allowed": false, "evaluationError": "spec.resourceAttributes.labelSelector ignored due to parse error"}));
    let both = select(json!({"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "Exists"}]})).await;
    assert_eq!(both.0, 422);
    assert!(
        both.1["message"]
            .as_str()
            .unwrap()
            .contains("spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a=b\": may not specified at the same time as requirements")
    );
}

fn impersonate<'a>(user: &'a str, headers: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("x-user", user)], headers].concat()
}

#[tokio::test]
async fn who_may_impersonate_is_somebody_else_in_all_their_parts() {
    let setup = setup("NoOpinion").await;
    let authentication = |resources: &[&str]| json!({"apiGroups": ["authentication.k8s.io"], "resources": resources, "verbs": ["impersonate"]});
    let rules = json!([
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["dev"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]},
        authentication(&["uids", "userextras/example.com/scope"]),
    ]);
    setup.grant("ours:jane", rules).await;
    setup.grant("bob", json!([{"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]}])).await;
    let who = async |headers: &[(&str, &str)]| {
        let headers = [&impersonate("ours:jane", headers)[..], &[("content-type", "application/json")]].concat();
        let body = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}).to_string();
        let answer = setup.cluster.send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &headers, body).await;
        (answer.code, answer.json())
    };
    let all = [("impersonate-user", "bob"), ("impersonate-group", "dev"), ("impersonate-uid", "7"), ("impersonate-extra-example.com%2fscope", "x")];
    let (code, bob) = who(&all).await;
    assert_eq!(
        (code, &bob["status"]["userInfo"]),
        (201, &json!({"username": "bob", "uid": "7", "groups": ["dev", "system:authenticated"], "extra": {"example.com/scope": ["x"]}}))
    );
    let (code, refused) = who(&[("impersonate-user", "bob"), ("impersonate-group", "admins")]).await;
    assert_eq!(code, 403, "{refused}");
    assert_eq!(who(&[("impersonate-user", "alice")]).await.0, 403);
    let (code, nobody) = who(&[("impersonate-group", "dev")]).await;
    assert_eq!(code, 400);
    assert!(nobody["message"].as_str().unwrap().contains("without impersonating a user name"), "{nobody}");
}

#[tokio::test]
async fn constrained_impersonation_takes_a_right_for_what_is_done() {
    let setup = setup("NoOpinion").await;
    let rules = json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["users"], "resourceNames": ["bob"], "verbs": ["impersonate:user-info"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["impersonate-on:user-info:list"]},
    ]);
    setup.grant("ours:jane", rules).await;
    setup.grant("bob", json!([{"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["list"]}])).await;
    let get = async |path: &str, headers: &[(&str, &str)]| setup.cluster.send("GET", path, &impersonate("ours:jane", headers), "").await;
    assert_eq!(get(CONFIG_MAPS, &[("impersonate-user", "bob")]).await.code, 200);
    let other = get("/api/v1/namespaces/default/secrets", &[("impersonate-user", "bob")]).await;
    let text =
        "secrets is forbidden: User \"ours:jane\" cannot impersonate-on:user-info:list resource \"secrets\" in API group \"\" in the namespace \"default\"";
    assert_eq!((other.code, other.json()["message"].as_str()), (403, Some(text)));
    assert_eq!(get(CONFIG_MAPS, &[("impersonate-user", "bob"), ("impersonate-group", "system:masters")]).await.code, 403);
}
