//! Secrets of type `kubernetes.io/service-account-token`: each gets a token of its account, the cluster's authority and its
//! namespace, and goes with the account. An account forgets a Secret of its own that is gone.
//! Upstream: `pkg/controller/serviceaccount/tokens_controller.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use knarr_client::{Client, Deletion, Informer, Item, Key, Meta, Outcome, Project, Query, WorkQueue, client, read};
use knarr_core::{Object, Result};
use serde::Deserialize;

use crate::context::{ClusterKeys, ControllerContext};

pub const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// What is kept of a Secret: never what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSecret {
    pub uid: String,
    pub account: String,
    /// Empty until the token was made.
    pub account_uid: String,
}

impl Project for TokenSecret {
    fn project(object: &Object) -> Result<Self> {
        #[derive(Deserialize)]
        struct Whole {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        struct Metadata {
            uid: String,
            #[serde(default)]
            annotations: BTreeMap<String, String>,
        }
        knarr_client::partial!(Whole);
        let mut metadata = read::typed::<Whole>(object)?.metadata;
        let mut annotation = |key: &str| metadata.annotations.remove(key).unwrap_or_default();
        Ok(Self { account: annotation(ACCOUNT_NAME), account_uid: annotation(ACCOUNT_UID), uid: metadata.uid })
    }
}

impl TokenSecret {
    /// Whether it belongs to an account (upstream: `IsServiceAccountToken`).
    pub fn is_of(&self, name: &str, uid: &str) -> bool {
        self.account == name && (self.account_uid.is_empty() || self.account_uid == uid)
    }
}

/// The Secrets that hold tokens.
pub fn informer(context: &ControllerContext) -> Informer<TokenSecret> {
    context.informers.get(Query::all::<Secret>().fields(&format!("type={TYPE}")))
}

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// A Secret that is there.
    Secret(Key),
    /// A Secret that is gone: Secret, account and the account's uid.
    GoneSecret(Key, String, String),
    /// An account that is gone, with its uid.
    GoneAccount(Key, String),
}

pub fn start(context: &ControllerContext) {
    let Some(keys) = context.keys.clone() else { return };
    let this = Arc::new(Controller {
        client: context.manager.clone(),
        keys,
        root_ca: context.config.root_ca.clone(),
        secrets: informer(context),
        accounts: context.informer::<ServiceAccount, Meta>(),
    });
    let queue: WorkQueue<Subject> = context.queue("serviceaccount_tokens_service");
    let woken = queue.clone();
    this.secrets.on_change(move |change| match (&change.old, &change.new) {
        (_, Some(secret)) => woken.add(Subject::Secret(secret.key.clone())),
        (Some(gone), None) => woken.add(Subject::GoneSecret(gone.key.clone(), gone.view.account.clone(), gone.view.account_uid.clone())),
        (None, None) => {}
    });
    let woken = queue.clone();
    this.accounts.on_change(move |change| {
        let replaced = |old: &Item<Meta>| change.new.as_ref().is_none_or(|new| new.view.uid != old.view.uid);
        if let Some(gone) = change.old.as_ref().filter(|old| replaced(old)) {
            woken.add(Subject::GoneAccount(gone.key.clone(), gone.view.uid.clone()));
        }
    });
    context.run("tokens-controller", queue, move |subject: Subject| {
        let this = this.clone();
        async move {
            match subject {
                Subject::Secret(key) => this.secret(&key).await,
                Subject::GoneSecret(key, account, uid) => this.forget(&key, &account, &uid).await,
                Subject::GoneAccount(key, uid) => this.account_gone(&key, &uid).await,
            }
            .map(|()| Outcome::Done)
        }
    });
}

struct Controller {
    client: Client,
    keys: Arc<dyn ClusterKeys>,
    root_ca: String,
    secrets: Informer<TokenSecret>,
    accounts: Informer<Meta>,
}

/// What is to become of a Secret.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Keep,
    Fill { ca: bool, namespace: bool, token: bool },
}

impl Controller {
    async fn secret(&self, key: &Key) -> Result<()> {
        let Some(item) = self.secrets.store().get(key).filter(|item| !item.view.account.is_empty()) else { return Ok(()) };
        match self.account(key.namespace(), &item.view).await? {
            None => self.delete(&item).await,
            Some(uid) => self.fill(&item, &uid).await,
        }
    }

    /// The uid of a Secret's account. An account that the informer does not know yet is asked for.
    async fn account(&self, namespace: &str, secret: &TokenSecret) -> Result<Option<String>> {
        let known = self.accounts.store().find(namespace, &secret.account).map(|a| a.view.uid.clone());
        if let Some(uid) = known.filter(|uid| secret.is_of(&secret.account, uid)) {
            return Ok(Some(uid));
        }
        let found = self.client.within::<ServiceAccount>(namespace).find(&secret.account).await?;
        Ok(found.and_then(|account| account.metadata.uid).filter(|uid| secret.is_of(&secret.account, uid)))
    }

    async fn delete(&self, item: &Item<TokenSecret>) -> Result<()> {
        match self.client.within::<Secret>(item.key.namespace()).delete(item.key.name(), &Deletion::of_uid(&*item.view.uid)).await {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn fill(&self, item: &Item<TokenSecret>, account_uid: &str) -> Result<()> {
        let mut secret: Secret = item.typed()?;
        let Plan::Fill { ca, namespace, token } = plan(&secret, &self.root_ca) else { return Ok(()) };
        let own = item.key.namespace();
        let data = secret.data.get_or_insert_default();
        let mut put = |key: &str, text: String| drop(data.insert(key.to_owned(), ByteString(text.into_bytes())));
        if ca {
            put("ca.crt", self.root_ca.clone());
        }
        if namespace {
            put("namespace", own.to_owned());
        }
        if token {
            put("token", self.keys.secret_token(own, &item.view.account, account_uid, item.key.name())?);
        }
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_NAME.into(), item.view.account.clone());
        annotations.insert(ACCOUNT_UID.into(), account_uid.to_owned());
        match self.client.within::<Secret>(own).dynamic().update(client::tree(&secret)?).await {
            // Whoever changed it has woken us.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Takes a Secret that is gone out of its account's list.
    async fn forget(&self, secret: &Key, account: &str, uid: &str) -> Result<()> {
        if account.is_empty() || self.secrets.store().get(secret).is_some() {
            return Ok(());
        }
        let accounts = self.client.within::<ServiceAccount>(secret.namespace());
        let Some(mut found) = accounts.find(account).await? else { return Ok(()) };
        let listed = found.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(secret.name()));
        if !listed || !uid.is_empty() && found.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        found.secrets.get_or_insert_default().retain(|s| s.name.as_deref() != Some(secret.name()));
        match accounts.update(&found).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn account_gone(&self, account: &Key, uid: &str) -> Result<()> {
        // Another account of that name may have come: what names no uid is its own.
        let again = self.accounts.store().get(account);
        for item in self.secrets.store().within(account.namespace()) {
            let taken_over = again.as_ref().is_some_and(|a| a.view.uid == uid || item.view.is_of(account.name(), &a.view.uid));
            if item.view.is_of(account.name(), uid) && !taken_over {
                self.delete(&item).await?;
            }
        }
        Ok(())
    }
}

/// Upstream: `secretUpdateNeeded`.
fn plan(secret: &Secret, root_ca: &str) -> Plan {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |bytes| &bytes.0);
    let ca = !root_ca.is_empty() && data("ca.crt") != root_ca.as_bytes();
    let (namespace, token) = (data("namespace").is_empty(), data("token").is_empty());
    if ca || namespace || token { Plan::Fill { ca, namespace, token } } else { Plan::Keep }
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;
    use crate::context::{Config, testing::Harness};

    fn account(uid: &str) -> ServiceAccount {
        let secrets = json!([{"name": "s"}, {"name": "other"}]);
        serde_json::from_value(
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "a", "uid": uid}, "secrets": secrets}),
        )
        .unwrap()
    }

    fn secret(name: &str, account: &str, data: Value) -> Secret {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "data": data,
            "metadata": {"name": name, "namespace": "a", "annotations": {ACCOUNT_NAME: account}}}))
        .unwrap()
    }

    #[test]
    fn a_secret_gets_what_it_lacks() {
        assert_eq!(plan(&secret("s", "web", json!({})), "CA"), Plan::Fill { ca: true, namespace: true, token: true });
        let all = json!({"ca.crt": "Q0E=", "namespace": "eA==", "token": "eA=="});
        assert_eq!(plan(&secret("s", "web", all.clone()), "CA"), Plan::Keep);
        assert_eq!(plan(&secret("s", "web", all.clone()), "NEW"), Plan::Fill { ca: true, namespace: false, token: false });
        assert_eq!(plan(&secret("s", "web", all), ""), Plan::Keep);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_and_go_with_their_account() {
        let harness = Harness::with(Config { root_ca: "CA".into(), ..Config::default() });
        start(&harness.context);
        harness.api.seed(&account("u1"));
        harness.api.seed(&secret("s", "web", json!({})));
        harness.api.seed(&secret("stray", "nobody", json!({})));
        let read = |name: &str| harness.api.read::<Secret>("a", name);
        let text = |secret: &Secret, key: &str| String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap();
        harness.api.until(|_| read("stray").is_none() && read("s").is_some_and(|s| s.data.unwrap_or_default().contains_key("token"))).await;
        let filled = read("s").unwrap();
        assert_eq!((text(&filled, "token").as_str(), text(&filled, "ca.crt").as_str(), text(&filled, "namespace").as_str()), ("a/web/u1/s", "CA", "a"));
        assert_eq!(filled.metadata.annotations.unwrap()[ACCOUNT_UID], "u1");
        harness.api.client().within::<ServiceAccount>("a").delete("web", &Deletion::default()).await.unwrap();
        harness.api.until(|_| read("s").is_none()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_forgets_a_secret_that_is_gone() {
        let harness = Harness::new();
        harness.api.seed(&account("u1"));
        harness.api.seed(&secret("s", "web", json!({})));
        start(&harness.context);
        harness.settle().await;
        harness.api.client().within::<Secret>("a").delete("s", &Deletion::default()).await.unwrap();
        let listed =
            || harness.api.read::<ServiceAccount>("a", "web").unwrap().secrets.unwrap_or_default().into_iter().filter_map(|s| s.name).collect::<Vec<_>>();
        harness.api.until(|_| listed() == ["other"]).await;
    }
}
