//! The way in for components of the same process.

mod support;

use futures::StreamExt;
use knarr_apiserver::authn::{MASTERS, User};
use knarr_core::{
    GroupVersionResource,
    api::{EventType, Reply, Request, Transport, Verb},
    json,
};
use knarr_schema::codec;
use support::Cluster;

fn request(verb: Verb, name: Option<&str>) -> Request {
    Request { namespace: Some("default".into()), name: name.map(str::to_owned), ..Request::new(verb, GroupVersionResource::new("", "v1", "configmaps")) }
}

#[tokio::test]
async fn a_component_sees_what_clients_see_without_encoding() {
    let cluster = Cluster::start().await;
    let admin = cluster.server.transport(User { name: "system:test".into(), groups: vec![MASTERS.into()], ..User::default() });
    let list = admin.list(request(Verb::List, None)).await.unwrap();
    let mut watch_from = request(Verb::Watch, None);
    watch_from.options.resource_version = Some(list.resource_version.to_string());
    let mut watch = admin.watch(watch_from).await.unwrap();
    let mut create = request(Verb::Create, None);
    create.body = Some(json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"}}));
    let Reply::Object(created) = admin.call(create.clone()).await.unwrap() else { panic!("a create answers with the object") };
    assert_eq!(codec::meta(&created).name, "a");
    let event = watch.next().await.unwrap().unwrap();
    assert_eq!((event.event_type, event.object.resource_version), (EventType::Added, created.resource_version));
    assert_eq!(event.object.bytes.as_ptr(), created.bytes.as_ptr(), "all share the same bytes");
    assert!(admin.call(create).await.unwrap_err().is_already_exists());
    let Reply::Value(status) = admin.call(request(Verb::Delete, Some("a"))).await.unwrap() else { panic!("a delete answers with a status") };
    assert_eq!(status["status"], "Success");
    assert_eq!(watch.next().await.unwrap().unwrap().event_type, EventType::Deleted);
    let nobody = cluster.server.transport(User::anonymous());
    assert_eq!(nobody.list(request(Verb::List, None)).await.unwrap_err().code, 403);
}

/// Tools leave fields alone by the name of their manager, so ours have upstream's.
#[tokio::test]
async fn fields_of_controllers_belong_to_the_controller_manager() {
    let cluster = Cluster::start().await;
    for (user, manager) in [
        (User::service_account("kube-system", "replicaset-controller"), "kube-controller-manager"),
        (User { name: "system:kube-scheduler".into(), ..User::default() }, "kube-scheduler"),
    ] {
        let own = cluster.server.transport(User { groups: vec![MASTERS.into()], ..user });
        let mut create = request(Verb::Create, None);
        create.body = Some(json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": manager}, "data": {"k": "v"}}));
        let Reply::Object(created) = own.call(create).await.unwrap() else { panic!("a create answers with the object") };
        assert_eq!(codec::to_value(&created).unwrap()["metadata"]["managedFields"][0]["manager"], manager);
    }
}
