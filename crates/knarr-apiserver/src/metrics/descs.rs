//! What the metrics of the server are: upstream's names, labels and buckets (`endpoints/metrics/metrics.go`,
//! `admission/metrics/metrics.go`, `etcd3/metrics/metrics.go`, `slis/metrics.go`).

use knarr_core::metrics::Desc;

const SECONDS: [f64; 23] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
const SLI_SECONDS: [f64; 21] = [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
const BYTES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const ADMISSION_SECONDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOK_SECONDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
const LIFETIMES: [f64; 14] =
    [0.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 345_600.0, 604_800.0, 2_592_000.0, 7_776_000.0, 15_552_000.0, 31_104_000.0];

/// Labels of a request; those of the component come before those of [`super::Labels`].
const REQUEST: &[&str] = &["component", "group", "resource", "scope", "subresource", "verb", "version"];
const REQUEST_CODE: &[&str] = &["code", "component", "group", "resource", "scope", "subresource", "verb", "version"];
const REQUEST_DRY: &[&str] = &["component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"];
const REQUEST_CODE_DRY: &[&str] = &["code", "component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"];

pub static REQUESTS: Desc = Desc::counter(
    "apiserver_request_total",
    "Requests by verb, dry run, group, version, resource, scope, component and HTTP code of the answer.",
    REQUEST_CODE_DRY,
);
pub static DURATION: Desc = Desc::histogram(
    "apiserver_request_duration_seconds",
    "Time to the answer in seconds, by verb, dry run, group, version, resource, scope and component.",
    REQUEST_DRY,
    &SECONDS,
);
pub static SLI_DURATION: Desc = Desc::histogram(
    "apiserver_request_sli_duration_seconds",
    "Time to the answer in seconds without the time spent in webhooks, by verb, group, version, resource, scope and component.",
    REQUEST,
    &SLI_SECONDS,
);
pub static SIZES: Desc =
    Desc::histogram("apiserver_response_sizes", "Bytes of the answers to reads, by verb, group, version, resource, scope and component.", REQUEST, &BYTES);
pub static LONG_RUNNING: Desc =
    Desc::gauge("apiserver_longrunning_requests", "Requests that last and are under way, by verb, group, version, resource, scope and component.", REQUEST);
pub static TERMINATIONS: Desc = Desc::counter("apiserver_request_terminations_total", "Requests that the server ended in its own defence.", REQUEST_CODE);
pub static INFLIGHT: Desc =
    Desc::gauge("apiserver_current_inflight_requests", "Requests under way that count towards the limit of their kind.", &["request_kind"]);
pub static DEPRECATED: Desc = Desc::gauge(
    "apiserver_requested_deprecated_apis",
    "Deprecated APIs that were requested, by group, version, resource, subresource and the release that drops them.",
    &["group", "removed_release", "resource", "subresource", "version"],
);
pub static CERTIFICATES: Desc = Desc::histogram(
    "apiserver_client_certificate_expiration_seconds",
    "Remaining lifetime of the certificates by which requests were authenticated.",
    &[],
    &LIFETIMES,
);
pub static OBJECTS: Desc = Desc::gauge("apiserver_storage_objects", "Stored objects by resource; apiserver_resource_objects tells the same.", &["resource"]);
pub static RESOURCE_OBJECTS: Desc = Desc::gauge("apiserver_resource_objects", "Stored objects by group and resource.", &["group", "resource"]);
pub static STORAGE_SIZE: Desc = Desc::gauge("apiserver_storage_size_bytes", "Bytes that the store takes on disk.", &["storage_cluster_id"]);
pub static CONNECTIONS: Desc = Desc::gauge("apiserver_open_connections", "Open connections of clients.", &[]);

pub static STEPS: Desc = Desc::histogram(
    "apiserver_admission_step_admission_duration_seconds",
    "Time of a whole pass of admission in seconds, by operation and type (admit or validate).",
    &["operation", "rejected", "type"],
    &ADMISSION_SECONDS,
);
pub static CONTROLLERS: Desc = Desc::histogram(
    "apiserver_admission_controller_admission_duration_seconds",
    "Time of one admission plugin in seconds, by name, operation and type (admit or validate).",
    &["name", "operation", "rejected", "type"],
    &ADMISSION_SECONDS,
);
pub static WEBHOOKS: Desc = Desc::histogram(
    "apiserver_admission_webhook_admission_duration_seconds",
    "Time of one admission webhook in seconds, by name, operation and type (admit or validating).",
    &["name", "operation", "rejected", "type"],
    &WEBHOOK_SECONDS,
);
pub static WEBHOOK_REQUESTS: Desc = Desc::counter(
    "apiserver_admission_webhook_request_total",
    "Calls of admission webhooks by name, type, operation, code of the answer and whether the write was refused. Codes above 600 count as 600.",
    &["code", "name", "operation", "rejected", "type"],
);
pub static WEBHOOK_REJECTIONS: Desc = Desc::counter(
    "apiserver_admission_webhook_rejection_count",
    "Writes refused by or because of admission webhooks, by name, type, operation, kind of error and code. Codes above 600 count as 600.",
    &["error_type", "name", "operation", "rejection_code", "type"],
);
pub static WEBHOOK_FAIL_OPEN: Desc = Desc::counter(
    "apiserver_admission_webhook_fail_open_count",
    "Failed calls of admission webhooks that let the write pass, by name and type.",
    &["name", "type"],
);

pub static HEALTHCHECK: Desc = Desc::gauge("kubernetes_healthcheck", "The last result of a health check.", &["name", "type"]);
pub static HEALTHCHECKS: Desc = Desc::counter("kubernetes_healthchecks_total", "Results of health checks.", &["name", "status", "type"]);
