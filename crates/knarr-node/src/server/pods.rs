//! `/pods`, `/runningpods` and `/configz`.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::ToTree;
use knarr_core::{Value, json};

use super::Server;
use crate::context::Context;

/// A pod as a tree with the two fields that lists of typed objects leave out.
fn listed(pods: impl Iterator<Item = Pod>) -> Value {
    let items: Vec<Value> = pods.map(|p| p.to_tree().unwrap_or_default()).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

impl Server {
    /// The pods bound to this node with the status that the agent has for them.
    pub(super) fn all_pods(&self) -> Value {
        listed(self.pods.all().into_iter().map(|handle| {
            let view = handle.view.borrow().clone();
            let mut pod = (*view.pod).clone();
            pod.status = Some((*view.status).clone());
            pod
        }))
    }

    /// What runs, as the runtime has it: names, uids and images only.
    pub(super) fn running_pods(&self) -> Value {
        let running = self.pods.all().into_iter().filter_map(|handle| {
            let view = handle.view.borrow().clone();
            let containers: Vec<Container> =
                view.observed.running().map(|c| Container { name: c.name.clone(), image: Some(c.image.clone()), ..Default::default() }).collect();
            let meta = &view.pod.metadata;
            (!containers.is_empty()).then(|| Pod {
                metadata: ObjectMeta { name: meta.name.clone(), namespace: meta.namespace.clone(), uid: meta.uid.clone(), ..Default::default() },
                spec: Some(PodSpec { containers, ..Default::default() }),
                status: None,
            })
        });
        listed(running)
    }
}

/// The configuration that runs, in the words of `KubeletConfiguration`.
pub fn configuration(context: &Context) -> Value {
    let c = &context.config;
    json!({"kubeletconfig": {
        "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": "0.0.0.0", "port": c.port, "clusterDomain": c.cluster_domain,
        "clusterDNS": c.cluster_dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "maxPods": c.max_pods, "podPidsLimit": c.pod_pids_limit.unwrap_or(-1), "seccompDefault": c.seccomp_default,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true, "cacheTTL": "2m0s"}},
        "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"}},
        "nodeStatusUpdateFrequency": "10s", "nodeStatusReportFrequency": "5m0s", "nodeLeaseDurationSeconds": 40,
        "imageGCHighThresholdPercent": c.image_gc_high_percent, "imageGCLowThresholdPercent": c.image_gc_low_percent,
        "imageMinimumGCAge": format!("{}s", c.image_gc_min_age.as_secs()),
        "containerLogMaxSize": format!("{}Mi", c.container_log_bytes_max >> 20), "containerLogMaxFiles": c.container_log_files_max,
        "cgroupRoot": "/", "cgroupsPerQOS": true, "failSwapOn": false, "enableServer": true, "rotateCertificates": true,
        "podLogsDir": c.pod_log_dir, "resolvConf": c.resolv_conf,
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5m0s"},
    }})
}
