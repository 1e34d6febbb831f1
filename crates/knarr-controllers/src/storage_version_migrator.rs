//! StorageVersionMigrations: every object of a resource that was written before is written once more, so that all of them are
//! at rest in the version that is stored now. Upstream: `pkg/controller/storageversionmigrator` (KEP-4192).
//!
//! A migration goes through four steps, each of which is a write of its status: it is marked as running (one for each resource
//! at a time), gets the revision up to which it has to go, migrates, and is cleaned up.

use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use knarr_client::{Client, Informer, Meta, Outcome, Patch, client};
use knarr_core::{GroupVersionResource, Reason, Result, Status, Value, ValueExt, api::Options, clock::Env, json, time};

use crate::context::ControllerContext;
use crate::resources::{ResourceInfo, Resources};

const NAME: &str = "storage-version-migrator-controller";
/// How long a resource may be unknown before its migration fails.
const UNKNOWN_SECONDS: i64 = 60;
/// How many objects are read at once.
const PAGE: i64 = 500;

/// What is to be done next for the migrations of one resource.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Start,
    SetRevision,
    Migrate,
    CleanUp,
}

/// Keys are group and resource.
pub fn start(context: &ControllerContext, resources: &Resources) {
    let (migrations, queue) = (context.informer::<StorageVersionMigration, Meta>(), context.queue("storage_version_migrator"));
    let changed = queue.clone();
    migrations.on_change(move |change| {
        let entry = change.new.as_ref().or(change.old.as_ref());
        if let Some(Ok(migration)) = entry.map(|e| knarr_schema::codec::to_value(&e.object)) {
            changed.add(subject(&migration));
        }
    });
    let work = Work { client: context.client(NAME).with_field_manager(NAME), env: context.env.clone(), migrations, resources: resources.clone() };
    context.run("storage-version-migrator", queue, move |(group, resource): (String, String)| {
        let work = work.clone();
        async move { work.reconcile(&group, &resource).await }
    });
}

/// Group and resource.
fn subject(migration: &Value) -> (String, String) {
    let text = |key: &str| migration.str_at(&["spec", "resource", key]).unwrap_or_default().to_owned();
    (text("group"), text("resource"))
}

fn is_true(object: &Value, kind: &str) -> bool {
    object.list_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == Some(kind) && c.str_at(&["status"]) == Some("True"))
}

fn is_over(migration: &Value) -> bool {
    is_true(migration, "Succeeded") || is_true(migration, "Failed")
}

/// The next step among the migrations of one resource; older ones come first.
fn next(migrations: &[Value]) -> Option<(Step, &Value)> {
    let age = |m: &&Value| {
        let text = |key: &str| m.str_at(&["metadata", key]).unwrap_or_default().to_owned();
        (text("creationTimestamp"), text("name"))
    };
    let running = |m: &&Value| is_true(m, "Running");
    if let Some(done) = migrations.iter().filter(running).find(|m| is_over(m)) {
        return Some((Step::CleanUp, done));
    }
    if let Some(current) = migrations.iter().filter(running).min_by_key(age) {
        let step = if current.str_at(&["status", "resourceVersion"]).unwrap_or_default().is_empty() { Step::SetRevision } else { Step::Migrate };
        return Some((step, current));
    }
    migrations.iter().filter(|m| !is_over(m)).min_by_key(age).map(|m| (Step::Start, m))
}

#[derive(Clone)]
struct Work {
    client: Client,
    env: Env,
    migrations: Informer<Meta>,
    resources: Resources,
}

impl Work {
    async fn reconcile(&self, group: &str, resource: &str) -> Result<Outcome> {
        let all = self.migrations.store().list();
        let trees = all.iter().map(|m| knarr_schema::codec::to_value(&m.object)).collect::<Result<Vec<Value>>>()?;
        let of_resource: Vec<Value> = trees.into_iter().filter(|m| subject(m) == (group.to_owned(), resource.to_owned())).collect();
        let Some((step, migration)) = next(&of_resource) else { return Ok(Outcome::Done) };
        let mut migration = migration.clone();
        let name = format!("{resource}.{group}");
        let written = match step {
            Step::Start => {
                self.mark_definition(&name, Some(migration.str_at(&["metadata", "name"]).unwrap_or_default()), true).await?;
                self.set(&mut migration, "Running", "True", "MigrationRunning", "The migration is running");
                self.write(migration).await
            }
            Step::CleanUp => {
                self.mark_definition(&name, None, is_true(&migration, "Succeeded")).await?;
                self.set(&mut migration, "Running", "False", "MigrationCompleted", "Migration completed");
                self.write(migration).await
            }
            Step::SetRevision | Step::Migrate => match self.resources.all().into_iter().find(|r| r.gvr.group == group && r.gvr.resource == resource) {
                None if self.is_young(&migration) => return Ok(Outcome::Retry),
                None => self.fail(migration, "resource does not exist in discovery").await,
                Some(found) if !found.supports(&["get", "list", "patch", "update"]) => {
                    let gvr = &found.gvr;
                    let why = format!("resource \"{}/{}, Resource={}\" does not support discovery operations", gvr.group, gvr.version, gvr.resource);
                    self.fail(migration, &why).await
                }
                Some(found) if step == Step::SetRevision => self.set_revision(migration, &found).await,
                Some(found) => self.migrate(migration, &found).await,
            },
        };
        match written {
            // Somebody was faster, or the migration is gone: the next event tells.
            Err(e) if e.is_conflict() || e.is_not_found() => Ok(Outcome::Done),
            other => other.map(|()| Outcome::Done),
        }
    }

    fn is_young(&self, migration: &Value) -> bool {
        let made = migration.str_at(&["metadata", "creationTimestamp"]).and_then(time::parse);
        made.is_some_and(|at| self.env.now().duration_since(at).as_secs() < UNKNOWN_SECONDS)
    }

    /// The revision of now: what is newer is in the new form already.
    async fn set_revision(&self, mut migration: Value, resource: &ResourceInfo) -> Result<()> {
        let list = self.client.dynamic(resource.gvr.clone(), None).list(&Options { limit: Some(1), ..Options::default() }).await?;
        migration.set(&["status", "resourceVersion"], list.resource_version.to_string());
        self.write(migration).await
    }

    async fn migrate(&self, mut migration: Value, resource: &ResourceInfo) -> Result<()> {
        let until: u64 = migration.str_at(&["status", "resourceVersion"]).and_then(|v| v.parse().ok()).unwrap_or(0);
        let (mut total, mut token) = (0_usize, String::new());
        loop {
            let options = Options { limit: Some(PAGE), continue_token: Some(token).filter(|t| !t.is_empty()), ..Options::default() };
            let page = self.client.dynamic(resource.gvr.clone(), None).list(&options).await?;
            total += page.items.len();
            for object in page.items.iter().filter(|o| o.resource_version <= until) {
                match self.rewrite(resource, object).await {
                    // Written or deleted meanwhile: nothing is left to do.
                    Err(e) if e.is_conflict() || e.is_not_found() => {}
                    Err(e) if e.is_retriable() || e.reason == Reason::InternalError => return Err(e),
                    Err(e) => return self.fail(migration, &e.message).await,
                    Ok(()) => {}
                }
            }
            token = page.continue_token;
            if token.is_empty() {
                break;
            }
        }
        let all = if total > 0 { format!("The migration is running, {total} objects verified migrated") } else { "The migration is running".into() };
        self.set(&mut migration, "Running", "True", "MigrationRunning", &all);
        self.set(&mut migration, "Succeeded", "True", "StorageVersionMigrationSucceeded", "Migration completed");
        self.write(migration).await
    }

    /// A patch that says nothing but which version it is for.
    async fn rewrite(&self, resource: &ResourceInfo, object: &knarr_core::Object) -> Result<()> {
        let meta = knarr_schema::codec::meta(object);
        let api_version = if resource.gvr.group.is_empty() { resource.gvr.version.clone() } else { format!("{}/{}", resource.gvr.group, resource.gvr.version) };
        let body = json!({"apiVersion": api_version, "kind": resource.kind, "metadata": {"resourceVersion": object.resource_version.to_string()}});
        let namespace = Some(meta.namespace).filter(|_| resource.namespaced);
        self.client.dynamic(resource.gvr.clone(), namespace).patch(meta.name, Patch::merge(body)).await.map(drop)
    }

    async fn fail(&self, mut migration: Value, why: &str) -> Result<()> {
        self.set(&mut migration, "Failed", "True", "StorageVersionMigrationFailed", &format!("migration encountered unhandled error: {why}"));
        self.write(migration).await
    }

    /// Sets a condition; its time moves with its status alone.
    fn set(&self, migration: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
        let mut conditions = migration.list_at(&["status", "conditions"]).to_vec();
        let since = conditions.iter().find(|c| c["type"] == kind && c["status"] == status).and_then(|c| c.at(&["lastTransitionTime"]).cloned());
        let condition = json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since.unwrap_or_else(|| time::format(self.env.now()).into()),
        });
        match conditions.iter_mut().find(|c| c["type"] == kind) {
            Some(old) => *old = condition,
            None => conditions.push(condition),
        }
        migration.set(&["status", "conditions"], conditions);
    }

    async fn write(&self, migration: Value) -> Result<()> {
        let api = self.client.dynamic(client::gvr::<StorageVersionMigration>(), None);
        api.update_status(migration).await.map(drop)
    }

    /// Tells in a definition whether its objects are being migrated. After a migration that succeeded only the version that is
    /// stored now is listed, unless the definition has changed meanwhile. What is no custom resource has no definition.
    async fn mark_definition(&self, name: &str, running: Option<&str>, succeeded: bool) -> Result<()> {
        let definitions = GroupVersionResource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
        let api = self.client.dynamic(definitions, None);
        let definition = match api.get(name).await {
            Err(e) if e.is_not_found() => return Ok(()),
            other => knarr_schema::codec::to_value(&other?)?,
        };
        let generation = definition.i64_at(&["metadata", "generation"]).unwrap_or(0);
        let condition = definition.list_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == Some("StorageMigrating"));
        let unchanged = condition.and_then(|c| c.i64_at(&["observedGeneration"])) == Some(generation);
        let (status, reason, message) = match running {
            Some(migration) => ("True", "MigrationRunning", format!("Migration {migration} is running")),
            None if !succeeded => ("False", "MigrationFailed", "The migration has failed".into()),
            None if unchanged => ("False", "MigrationSucceeded", "The migration has succeeded and the stored versions have been updated".into()),
            None => {
                let text = "The migration has succeeded but the stored versions have not been updated due to a generation mismatch";
                ("False", "MigrationSucceeded", text.into())
            }
        };
        let mut wanted = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": name, "resourceVersion": definition.str_at(&["metadata", "resourceVersion"])},
            "status": {"conditions": [{
                "type": "StorageMigrating", "status": status, "reason": reason, "message": message,
                "observedGeneration": generation, "lastTransitionTime": time::format(self.env.now()),
            }]},
        });
        let stored = definition.list_at(&["spec", "versions"]).iter().find(|v| v.bool_at(&["storage"]) == Some(true)).and_then(|v| v.str_at(&["name"]));
        if let (None, true, true, Some(version)) = (running, succeeded, unchanged, stored) {
            wanted.set(&["status", "storedVersions"], json!([version]));
        }
        let options = Options { force: Some(true), field_manager: Some(NAME.into()), ..Options::default() };
        api.patch_with(name, Patch::apply(wanted), Some("status"), &options).await.map(drop).map_err(|e: Status| e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(name: &str, conditions: &[&str], revision: &str) -> Value {
        let conditions: Vec<Value> = conditions.iter().map(|c| json!({"type": c, "status": "True"})).collect();
        json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {"conditions": conditions, "resourceVersion": revision}})
    }

    #[test]
    fn migrations_of_a_resource_run_one_after_the_other() {
        let check = |all: &[Value], wanted: Option<(Step, &str)>| {
            let found = next(all).map(|(step, m)| (step, m.str_at(&["metadata", "name"]).unwrap_or_default().to_owned()));
            assert_eq!(found, wanted.map(|(step, name)| (step, name.to_owned())));
        };
        check(&[migration("b", &[], ""), migration("a", &[], "")], Some((Step::Start, "a")));
        check(&[migration("b", &["Running"], ""), migration("a", &[], "")], Some((Step::SetRevision, "b")));
        check(&[migration("b", &["Running"], "7"), migration("a", &[], "")], Some((Step::Migrate, "b")));
        check(&[migration("b", &["Running", "Succeeded"], "7"), migration("a", &[], "")], Some((Step::CleanUp, "b")));
        check(&[migration("b", &["Failed"], "7"), migration("a", &[], "")], Some((Step::Start, "a")));
        check(&[migration("a", &["Succeeded"], "7")], None);
    }
}
