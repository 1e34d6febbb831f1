//! Tokens of other issuers and of webhooks, from the wire to the user that a handler sees.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use knarr_apiserver::{
    authn::{
        Anonymous, Authenticator, ForOwnAudiences, TokenFile, Union, WebhookTokens,
        jwt::{ALGORITHMS, JwtAuthenticators, Settings, config::Configuration},
    },
    outside::ReviewHook,
};
use knarr_core::{Value, clock::Env, json};
use parking_lot::Mutex;
use support::{
    Answer, Cluster,
    outside::{FakeIssuer, Outside, Signer},
    until,
};

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A token of a file that may do everything.
const ADMIN: &str = "admin-token";

async fn cluster(member: Arc<dyn Authenticator>, anonymous: impl Into<Anonymous>) -> Cluster {
    let cluster = Cluster::start().await;
    let file = TokenFile::parse(&format!("{ADMIN},admin,1,system:masters\n")).unwrap();
    let file = Arc::new(ForOwnAudiences { audiences: vec!["api".into()], inner: Arc::new(file) });
    cluster.server.set_authenticator(Arc::new(Union::new(vec![file, member], anonymous)));
    cluster
}

fn configuration(jwt: &Value) -> Configuration {
    Configuration::parse(&text(jwt)).unwrap()
}

fn text(jwt: &Value) -> String {
    json!({"kind": "AuthenticationConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "jwt": jwt}).to_string()
}

fn settings() -> Settings {
    Settings { audiences: vec!["api".into()], own_issuers: Vec::new(), algorithms: ALGORITHMS.map(str::to_owned).to_vec(), env: Env::system() }
}

/// An issuer as a configuration names it, with a mapping by names.
fn jwt(issuer: &FakeIssuer) -> Value {
    json!({"issuer": {"url": issuer.url(), "certificateAuthority": issuer.server.ca, "audiences": ["cluster"]},
        "claimMappings": {"username": {"claim": "sub", "prefix": "o:"}, "groups": {"claim": "groups", "prefix": ""}}})
}

fn now() -> i64 {
    Env::system().now().as_second()
}

fn claims(issuer: &FakeIssuer, more: &Value) -> Value {
    let mut claims = json!({"iss": issuer.url(), "aud": "cluster", "sub": "jane", "exp": now() + 60, "groups": ["dev"]});
    more.as_object().unwrap().iter().for_each(|(k, v)| claims[k] = v.clone());
    claims
}

async fn ask(cluster: &Cluster, path: &str, token: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    cluster.send("POST", path, &[("content-type", "application/json"), ("authorization", &bearer)], body.to_string()).await
}

/// Who a token is, or the code of the refusal.
async fn who(cluster: &Cluster, token: &str) -> Result<Value, u16> {
    let answer = ask(cluster, WHO, token, &json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"})).await;
    if answer.code == 201 { Ok(answer.json()["status"]["userInfo"].clone()) } else { Err(answer.code) }
}

/// Lets everybody ask who they are.
fn let_everybody_ask(cluster: &Cluster) {
    use knarr_apiserver::authz::{Always, Decision};
    cluster.server.set_authorizer(Arc::new(Always(Decision::Allow)));
}

async fn with_issuer(issuer: &FakeIssuer, jwt: Value) -> (Cluster, Arc<JwtAuthenticators>) {
    let _ = issuer;
    let tokens = Arc::new(JwtAuthenticators::new(&configuration(&json!([jwt])), settings()).unwrap());
    let cluster = cluster(tokens.clone(), true).await;
    let_everybody_ask(&cluster);
    (cluster, tokens)
}

fn nothing_else(_: &support::outside::Asked) -> (u16, Value) {
    (404, json!("nothing here"))
}

#[tokio::test]
async fn a_token_of_an_issuer_is_its_user() {
    let signer = Signer::new("1");
    let issuer = FakeIssuer::start(vec![signer.jwk()], nothing_else).await;
    let (cluster, _) = with_issuer(&issuer, jwt(&issuer)).await;
    let user = who(&cluster, &signer.sign(&claims(&issuer, &json!({"jti": "t"})))).await.unwrap();
    assert_eq!(
        user,
        json!({"username": "o:jane", "groups": ["dev", "system:authenticated"], "extra": {"authentication.kubernetes.io/credential-id": ["JTI=t"]}})
    );
    for bad in [json!({"aud": "other"}), json!({"exp": now() - 1}), json!({"nbf": now() + 600}), json!({"sub": 7}), json!({"iss": "https://other.example"})] {
        assert_eq!(who(&cluster, &signer.sign(&claims(&issuer, &bad))).await, Err(401), "{bad}");
    }
    assert_eq!(who(&cluster, &Signer::new("1").sign(&claims(&issuer, &json!({})))).await, Err(401), "signed by somebody else");
}

#[tokio::test]
async fn keys_may_change_and_are_fetched_no_more_often_than_needed() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = FakeIssuer::start(vec![old.jwk()], nothing_else).await;
    let (cluster, _) = with_issuer(&issuer, jwt(&issuer)).await;
    for _ in 0..3 {
        assert!(who(&cluster, &old.sign(&claims(&issuer, &json!({})))).await.is_ok());
    }
    assert_eq!(*issuer.asked.lock(), ["/.well-known/openid-configuration", "/keys"]);
    *issuer.keys.lock() = vec![new.jwk()];
    let mut tries = 0;
    while who(&cluster, &new.sign(&claims(&issuer, &json!({})))).await.is_err() {
        tries += 1;
        assert!(tries < 10_000, "the new key was never fetched");
    }
    assert_eq!(issuer.asked.lock().len(), 3, "one more fetch, however often the token came");
    assert_eq!(who(&cluster, &old.sign(&claims(&issuer, &json!({})))).await, Err(401), "a key that was taken away");
}

#[tokio::test]
async fn reviews_of_tokens_go_the_same_way() {
    let signer = Signer::new("1");
    let issuer = FakeIssuer::start(vec![signer.jwk()], nothing_else).await;
    let (cluster, _) = with_issuer(&issuer, jwt(&issuer)).await;
    let review = async |token: &str, audiences: Value| {
        let spec = json!({"token": token, "audiences": audiences});
        let answer = ask(&cluster, REVIEWS, ADMIN, &json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": spec})).await;
        assert_eq!(answer.code, 201, "{}", answer.text());
        answer.json()["status"].clone()
    };
    let good = signer.sign(&claims(&issuer, &json!({})));
    let status = review(&good, json!([])).await;
    assert_eq!((&status["authenticated"], &status["user"]["username"], &status["audiences"]), (&json!(true), &json!("o:jane"), &json!(["api"])));
    assert_eq!(review(&good, json!(["other"])).await["error"], json!("invalid bearer token"), "it is for this API server only");
    let old = review(&signer.sign(&claims(&issuer, &json!({"exp": 1}))), json!([])).await;
    assert_eq!((&old["authenticated"], &old["error"]), (&Value::Null, &json!("oidc: verify token: oidc: token is expired")));
    assert_eq!(review(ADMIN, json!(["api"])).await["user"]["groups"], json!(["system:masters", "system:authenticated"]));
    let empty = ask(&cluster, REVIEWS, ADMIN, &json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {}})).await;
    assert_eq!((empty.code, empty.json()["message"].as_str()), (400, Some("token is required for TokenReview in authentication")));
}

#[tokio::test]
async fn discovery_may_be_somewhere_else_and_the_ca_must_be_right() {
    let signer = Signer::new("1");
    let issuer = FakeIssuer::start(vec![signer.jwk()], nothing_else).await;
    let mut moved = jwt(&issuer);
    moved["issuer"]["discoveryURL"] = format!("{}/moved/discovery", issuer.url()).into();
    let (cluster, _) = with_issuer(&issuer, moved).await;
    assert!(who(&cluster, &signer.sign(&claims(&issuer, &json!({})))).await.is_ok());
    assert_eq!(issuer.asked.lock()[0], "/moved/discovery");
    let other = FakeIssuer::start(vec![], nothing_else).await;
    let mut untrusted = jwt(&issuer);
    untrusted["issuer"]["certificateAuthority"] = other.server.ca.as_str().into();
    let (cluster, _) = with_issuer(&issuer, untrusted).await;
    assert_eq!(who(&cluster, &signer.sign(&claims(&issuer, &json!({})))).await, Err(401));
}

#[tokio::test]
async fn an_issuer_that_was_away_is_asked_again() {
    let signer = Signer::new("1");
    let away = Arc::new(AtomicUsize::new(1));
    let shared = away.clone();
    let issuer = FakeIssuer::start(vec![signer.jwk()], move |asked| {
        assert_eq!(asked.path, "/sometimes");
        if shared.load(Relaxed) == 1 { (503, json!("away")) } else { (302, json!("-> /moved/discovery")) }
    })
    .await;
    let mut jwt = jwt(&issuer);
    jwt["issuer"]["discoveryURL"] = format!("{}/sometimes", issuer.url()).into();
    let (cluster, _) = with_issuer(&issuer, jwt).await;
    let token = signer.sign(&claims(&issuer, &json!({})));
    assert_eq!(who(&cluster, &token).await, Err(401));
    away.store(0, Relaxed);
    until("the token is known", async || who(&cluster, &token).await.is_ok()).await;
}

#[tokio::test]
async fn groups_may_stand_in_a_token_elsewhere() {
    let signer = Arc::new(Signer::new("1"));
    let (theirs, url) = (signer.clone(), Arc::new(Mutex::new(String::new())));
    let shared = url.clone();
    let issuer = FakeIssuer::start(vec![signer.jwk()], move |asked| {
        assert_eq!((asked.path.as_str(), asked.authorization.as_str()), ("/groups", "Bearer key"));
        (200, json!(theirs.sign(&json!({"iss": *shared.lock(), "aud": "cluster", "exp": now() + 60, "groups": ["far", "away"]}))))
    })
    .await;
    *url.lock() = issuer.url();
    let (cluster, _) = with_issuer(&issuer, jwt(&issuer)).await;
    let mut claims = claims(
        &issuer,
        &json!({"_claim_names": {"groups": "s"}, "_claim_sources": {"s": {"endpoint": format!("{}/groups", issuer.url()), "access_token": "key"}}}),
    );
    claims.as_object_mut().unwrap().remove("groups");
    assert_eq!(who(&cluster, &signer.sign(&claims)).await.unwrap()["groups"], json!(["far", "away", "system:authenticated"]));
}

#[tokio::test]
async fn a_configuration_is_taken_over_while_the_server_runs() {
    let signer = Signer::new("1");
    let (first, second) = (FakeIssuer::start(vec![signer.jwk()], nothing_else).await, FakeIssuer::start(vec![signer.jwk()], nothing_else).await);
    let (cluster, tokens) = with_issuer(&first, jwt(&first)).await;
    let of = |issuer: &FakeIssuer| signer.sign(&claims(issuer, &json!({})));
    assert_eq!(who(&cluster, &of(&second)).await, Err(401));
    let mut renamed = jwt(&second);
    renamed["claimMappings"]["username"] = json!({"expression": "'new:' + claims.sub"});
    tokens.reload(&text(&json!([renamed]))).await.unwrap();
    assert_eq!(who(&cluster, &of(&second)).await.unwrap()["username"], json!("new:jane"));
    assert_eq!(who(&cluster, &of(&first)).await, Err(401));
    let mut wrong = jwt(&first);
    wrong["claimMappings"] = json!({});
    assert!(tokens.reload(&text(&json!([wrong]))).await.unwrap_err().contains("jwt[0].claimMappings.username: Required value"));
    let anonymous = json!({"kind": "AuthenticationConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "anonymous": {"enabled": true}});
    assert!(tokens.reload(&anonymous.to_string()).await.unwrap_err().contains("changed from initial configuration file"));
    assert!(who(&cluster, &of(&second)).await.is_ok(), "what was before goes on to count");
}

/// A webhook that knows one token, and how often it was asked.
async fn token_webhook(version: &'static str) -> (Outside, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let shared = asked.clone();
    let webhook = Outside::start(move |request| {
        let n = shared.fetch_add(1, Relaxed);
        assert_eq!((request.path.as_str(), request.authorization.as_str()), ("/authenticate?timeout=5s", "Bearer of-the-server"));
        assert_eq!(request.body["apiVersion"], json!(format!("authentication.k8s.io/{version}")));
        assert_eq!(request.body["spec"]["audiences"], json!(["api"]));
        let status = match request.body["spec"]["token"].as_str().unwrap() {
            "good" => json!({"authenticated": true, "user": {"username": "jane", "uid": "7", "groups": ["dev"], "extra": {"example.com/k": ["v"]}}}),
            "shy" if n == 0 => {
                return (500, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "message": "not now", "reason": "InternalError"}));
            }
            "shy" => json!({"authenticated": true, "user": {"username": "shy"}}),
            "broken" => return (200, json!("no JSON")),
            _ => json!({"authenticated": false}),
        };
        (200, json!({"kind": "TokenReview", "apiVersion": format!("authentication.k8s.io/{version}"), "status": status}))
    })
    .await;
    (webhook, asked)
}

async fn with_webhook(version: &'static str) -> (Cluster, Arc<AtomicUsize>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (webhook, asked) = token_webhook(version).await;
    let hook = ReviewHook::from_kubeconfig(&webhook.kubeconfig(folder.path(), "/authenticate"), Duration::from_secs(5)).unwrap();
    let tokens = WebhookTokens::new(hook, version, vec!["api".into()], Duration::from_secs(120)).unwrap();
    let cluster = cluster(Arc::new(tokens), true).await;
    let_everybody_ask(&cluster);
    (cluster, asked, folder)
}

#[tokio::test]
async fn a_webhook_knows_tokens_and_is_asked_once_for_each() {
    for version in ["v1", "v1beta1"] {
        let (cluster, asked, _folder) = with_webhook(version).await;
        for _ in 0..3 {
            let user = who(&cluster, "good").await.unwrap();
            let wanted = json!({"username": "jane", "uid": "7", "groups": ["dev", "system:authenticated"], "extra": {"example.com/k": ["v"]}});
            assert_eq!(user, wanted);
            assert_eq!(who(&cluster, "bad").await, Err(401));
        }
        assert_eq!(asked.load(Relaxed), 2);
        // What went wrong is not remembered.
        assert_eq!((who(&cluster, "broken").await, who(&cluster, "broken").await), (Err(401), Err(401)));
        assert_eq!(asked.load(Relaxed), 4);
    }
}

#[tokio::test]
async fn a_webhook_that_fails_once_is_asked_again() {
    let (cluster, asked, _folder) = with_webhook("v1").await;
    assert_eq!(who(&cluster, "shy").await.unwrap()["username"], json!("shy"));
    assert_eq!(asked.load(Relaxed), 2);
}

#[tokio::test]
async fn anonymous_users_may_be_let_in_on_some_paths_only() {
    let config = Configuration::parse(
        "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n",
    )
    .unwrap();
    let anonymous = Anonymous::from(config.anonymous.as_ref().unwrap());
    let tokens = Arc::new(JwtAuthenticators::new(&config, settings()).unwrap());
    let cluster = cluster(tokens, anonymous).await;
    let_everybody_ask(&cluster);
    assert_eq!(cluster.get("/livez").await.code, 200);
    assert_eq!(cluster.get("/readyz").await.code, 401);
    assert_eq!(cluster.get("/api/v1/namespaces").await.code, 401);
}

#[tokio::test]
async fn a_browser_sends_its_token_as_a_protocol() {
    use base64::Engine;
    let signer = Signer::new("1");
    let issuer = FakeIssuer::start(vec![signer.jwk()], nothing_else).await;
    let (cluster, _) = with_issuer(&issuer, jwt(&issuer)).await;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(signer.sign(&claims(&issuer, &json!({}))));
    let protocols = format!("base64url.bearer.authorization.k8s.io.{encoded}, v4.channel.k8s.io");
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", protocols.as_str())];
    let answer = cluster
        .send(
            "POST",
            WHO,
            &[&upgrade[..], &[("content-type", "application/json")]].concat(),
            json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}).to_string(),
        )
        .await;
    assert_eq!(answer.json()["status"]["userInfo"]["username"], json!("o:jane"), "{}", answer.text());
}
