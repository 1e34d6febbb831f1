//! Distributed tracing, as a collector and a webhook see it.

mod support;

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc};

use base64::Engine;
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_apiserver::{
    Config, admission,
    spans::{
        Tracer, TracingConfiguration,
        message::{Any, ExportTraceServiceRequest, Span},
    },
    stored::Stored,
};
use knarr_core::{Value, clock::Env, json};
use parking_lot::Mutex;
use prost::Message;
use support::{Cluster, config_map, outside::Outside};
use tokio::net::TcpListener;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Who takes spans over gRPC.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self { address: listener.local_addr().unwrap(), spans: Arc::default() };
        let spans = collector.spans.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let spans = spans.clone();
                let service = service_fn(move |request: Request<Incoming>| take(request, spans.clone()));
                tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
            }
        });
        collector
    }

    /// A server that traces this share of a million requests of its own accord.
    async fn cluster(&self, rate: u32) -> (Cluster, Arc<Tracer>) {
        let config = TracingConfiguration { endpoint: self.address.to_string(), sampling_rate_per_million: rate };
        let tracer = Tracer::start(&config, "one", Env::system()).unwrap();
        let cluster = Cluster::start_built(Config::default(), |builder| builder.tracer(Some(tracer.clone()))).await;
        let objects: Arc<dyn admission::Objects> = Arc::new(Stored(cluster.storage.clone()));
        cluster.server.set_plugins(admission::default_plugins(&objects));
        tracer.flush().await;
        self.spans.lock().clear();
        (cluster, tracer)
    }
}

async fn take(
    request: Request<Incoming>,
    spans: Arc<Mutex<Vec<Span>>>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let body = request.into_body().collect().await?.to_bytes();
    let told = ExportTraceServiceRequest::decode(&body[5..]).unwrap();
    for of_resource in told.resource_spans {
        let resource = of_resource.resource.unwrap().attributes;
        assert_eq!(resource.iter().map(|a| a.key.as_str()).collect::<Vec<_>>(), ["service.name", "service.instance.id"]);
        spans.lock().extend(of_resource.scope_spans.into_iter().flat_map(|s| s.spans));
    }
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let frames = [Ok(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
    Ok(Response::builder().header("content-type", "application/grpc").body(StreamBody::new(stream::iter(frames))).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    knarr_core::hex::encode(bytes)
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let text = |any: &Any| match any {
        Any::Text(text) => text.clone(),
        Any::Number(number) => number.to_string(),
    };
    span.attributes.iter().map(|a| (a.key.as_str(), text(a.value.as_ref().unwrap().value.as_ref().unwrap()))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_traces_goes_on_in_the_server_and_at_its_webhooks() {
    let seen = Arc::new(Mutex::new(None));
    let kept = seen.clone();
    let hook = Outside::start(move |asked| {
        *kept.lock() = Some((asked.headers["traceparent"].to_str().unwrap().to_owned(), asked.headers["baggage"].clone()));
        let response = json!({"uid": asked.body["request"]["uid"], "allowed": true});
        (200, json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}))
    })
    .await;
    let collector = Collector::start().await;
    let (cluster, tracer) = collector.cluster(0).await;
    let webhook = json!({
        "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{}/", hook.address), "caBundle": base64::engine::general_purpose::STANDARD.encode(&hook.ca)},
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    });
    let configuration = json!({
        "kind": "ValidatingWebhookConfiguration", "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "c"}, "webhooks": [webhook],
    });
    let created = cluster.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &configuration).await;
    assert_eq!(created.code, 201, "{}", created.text());

    let parent = format!("00-{TRACE}-{CALLER}-01");
    let headers = [("traceparent", &*parent), ("baggage", "who=me"), ("content-type", "application/json"), ("audit-id", "an-id")];
    assert_eq!(cluster.send("POST", CONFIG_MAPS, &headers, config_map("a", json!({})).to_string()).await.code, 201);
    tracer.flush().await;

    let spans = collector.spans.lock().clone();
    let by_name: BTreeMap<&str, &Span> = spans.iter().map(|s| (s.name.as_str(), s)).collect();
    let parent_of = |name: &str| {
        let parent = &by_name[name].parent_span_id;
        spans.iter().find(|s| s.span_id == *parent).map_or_else(|| hex(parent), |s| s.name.clone())
    };
    assert_eq!(spans.len(), by_name.len(), "{by_name:?}");
    assert!(spans.iter().all(|s| hex(&s.trace_id) == TRACE && s.end_time_unix_nano >= s.start_time_unix_nano), "{spans:?}");
    let request = "POST /api/v1/namespaces/{:namespace}/configmaps";
    let tree =
        [(request, CALLER), ("Create", request), ("Call validating webhook", "Create"), ("HTTP POST", "Call validating webhook"), ("SerializeObject", request)];
    assert_eq!(tree.map(|(name, _)| (name, parent_of(name))), tree.map(|(name, parent)| (name, parent.to_owned())));
    assert_eq!(by_name.len(), tree.len(), "{by_name:?}");
    let (traceparent, baggage) = seen.lock().clone().unwrap();
    assert_eq!((traceparent, baggage.to_str().unwrap()), (format!("00-{TRACE}-{}-01", hex(&by_name["HTTP POST"].span_id)), "who=me"));

    let of_request = attributes(by_name[request]);
    let wanted =
        [("audit-id", "an-id"), ("http.request.method", "POST"), ("http.response.status_code", "201"), ("http.target", CONFIG_MAPS), ("url.path", CONFIG_MAPS)];
    assert_eq!(wanted.map(|(key, _)| (key, of_request[key].as_str())), wanted);
    let of_verb = attributes(by_name["Create"]);
    assert_eq!((of_verb["resource"].as_str(), of_verb["namespace"].as_str(), of_verb["scope"].as_str()), ("configmaps", "default", "resource"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_who_are_trusted_decide_what_is_sampled() {
    let collector = Collector::start().await;
    let (cluster, tracer) = collector.cluster(0).await;
    let sampled = format!("00-{TRACE}-{CALLER}-01");
    let headers = [("traceparent", &*sampled), ("x-user", "somebody")];
    assert_eq!(cluster.send("GET", "/version", &headers, "").await.code, 403);
    assert_eq!(cluster.send("GET", "/version", &[], "").await.code, 200, "nobody traces it");
    tracer.flush().await;
    assert!(collector.spans.lock().is_empty(), "{:?}", collector.spans.lock());

    // Where all are sampled, the stranger's trace is another's, and there is a link to it.
    let (cluster, tracer) = collector.cluster(1_000_000).await;
    cluster.send("GET", "/version", &headers, "").await;
    tracer.flush().await;
    let spans = collector.spans.lock().clone();
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_ne!(hex(&span.trace_id), TRACE);
    assert!(span.parent_span_id.is_empty() && span.name == "GET");
    assert_eq!(span.links.iter().map(|l| (hex(&l.trace_id), hex(&l.span_id))).collect::<Vec<_>>(), [(TRACE.to_owned(), CALLER.to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_told_of_when_it_ends() {
    let collector = Collector::start().await;
    let (cluster, tracer) = collector.cluster(1_000_000).await;
    let mut lines = cluster.open(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=0"), &[]).await;
    assert_eq!(cluster.post(CONFIG_MAPS, &config_map("a", json!({}))).await.code, 201);
    assert!(matches!(lines.next().await, Some(Value::Object(_))));
    tracer.flush().await;
    let watches = || collector.spans.lock().iter().filter(|s| s.name.starts_with("GET ")).count();
    assert_eq!(watches(), 0);
    drop(lines);
    let over = async {
        while watches() == 0 {
            tracer.flush().await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), over).await.expect("the span of the watch");
}

#[test]
fn a_configuration_says_what_is_wrong_with_it() {
    let check = |body: &str, wanted: Result<(&str, u32), &str>| {
        let text = format!("kind: TracingConfiguration\napiVersion: apiserver.config.k8s.io/v1\n{body}");
        let read = TracingConfiguration::from_text(&text);
        let read = read.as_ref().map(|c| (c.endpoint.as_str(), c.sampling_rate_per_million)).map_err(String::as_str);
        assert_eq!(read, wanted, "{body}");
    };
    check("", Ok(("localhost:4317", 0)));
    check("endpoint: collector:4317\nsamplingRatePerMillion: 1000000\n", Ok(("collector:4317", 1_000_000)));
    check("endpoint: dns:///collector:4317\n", Ok(("collector:4317", 0)));
    let at = "failed to validate tracing configuration: samplingRatePerMillion: Invalid value: ";
    check("samplingRatePerMillion: -1\n", Err(&format!("{at}-1: sampling rate must be positive")));
    check("samplingRatePerMillion: 1000001\n", Err(&format!("{at}1000001: sampling rate per million must be less than or equal to one million")));
    check(
        "endpoint: http://x\n",
        Err(
            "failed to validate tracing configuration: endpoint: Invalid value: \"http://x\": unsupported scheme: http.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md",
        ),
    );
    check(
        "unknown: 1\n",
        Err(
            "unable to decode tracing configuration data: strict decoding error: unknown field `unknown`, expected one of `kind`, `apiVersion`, `endpoint`, `samplingRatePerMillion`",
        ),
    );
}
