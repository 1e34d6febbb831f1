//! What the binary does when it is called `etcd`: it takes etcd's flags and answers that it is well, for harnesses that start an
//! etcd before their API server (controller-runtime's envtest). The objects live in the API server that comes next, which knows
//! this etcd by the answer of `/version`. It is no key-value store: clients of etcd need a real one.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_cli::cluster::failure::{Failure, Result};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::flags::Known;

const FLAGS: &str = include_str!("../../data/etcd-flags.txt");
const DEFAULT_URL: &str = "http://localhost:2379";
/// Member of `/version` by which this etcd is told from a real one.
pub const MARK: &str = "knarr";
/// The release whose flags these are.
const VERSION: &str = "3.6.0";

/// Runs until told to stop.
pub fn run(args: &[String]) -> Result<()> {
    let known = Known::new(FLAGS);
    if args.iter().any(|a| a == "--help" || a == "-h") {
        print!("{}", known.help("etcd", "Answers harnesses that start an etcd before their API server"));
        return Ok(());
    }
    if args.iter().any(|a| a == "--version") {
        println!("etcd Version: {VERSION}");
        return Ok(());
    }
    let flags = known.parse(args)?;
    let urls = flags.list("listen-client-urls");
    let urls: Vec<String> = if urls.is_empty() { vec![DEFAULT_URL.into()] } else { urls.into_iter().map(str::to_owned).collect() };
    super::small_runtime()?.block_on(async {
        for url in urls {
            let listener = TcpListener::bind(address(&url)?).await.map_err(|e| Failure::program(format!("{url}: {e}")))?;
            tokio::spawn(serve(listener));
        }
        super::until_told_to_stop().await
    })
}

/// `host:port` of a URL of plain HTTP.
fn address(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| Failure::program(format!("{url}: only http is served here")))?;
    let host = rest.split('/').next().unwrap_or_default();
    Ok(if host.contains(':') { host.to_owned() } else { format!("{host}:2379") })
}

async fn serve(listener: TcpListener) {
    while let Ok((connection, _)) = listener.accept().await {
        let service = service_fn(|request: Request<hyper::body::Incoming>| async move { Ok::<_, std::convert::Infallible>(answer(request.uri().path())) });
        tokio::spawn(async move {
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away in the middle is nobody's concern.
            drop(builder.serve_connection(TokioIo::new(connection), service).await);
        });
    }
}

fn answer(path: &str) -> Response<Full<Bytes>> {
    let (code, body) = match path {
        "/health" => (200, json!({"health": "true", "reason": ""}).to_string()),
        "/livez" | "/readyz" => (200, "ok\n".to_owned()),
        "/version" => (200, json!({"etcdserver": VERSION, "etcdcluster": VERSION, "storage": VERSION, MARK: env!("CARGO_PKG_VERSION")}).to_string()),
        _ => (404, "404 page not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}

/// Whether the etcd at `url` is this one and not a real etcd.
pub async fn is_ours(url: &str) -> bool {
    let Ok(address) = address(url.trim_end_matches('/')) else { return false };
    let ask = async {
        let stream = tokio::net::TcpStream::connect(&address).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = Request::get("/version").header(http::header::HOST, &address).body(http_body_util::Empty::<Bytes>::new()).ok()?;
        let body = http_body_util::BodyExt::collect(sender.send_request(request).await.ok()?.into_body()).await.ok()?.to_bytes();
        let version: Value = serde_json::from_slice(&body).ok()?;
        version.get(MARK).map(drop)
    };
    ask.await.is_some()
}

/// The first free address of this machine, for tests.
#[cfg(test)]
fn free() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_server_that_comes_next_knows_this_etcd() {
        let address = free();
        tokio::spawn(serve(TcpListener::bind(address).await.unwrap()));
        assert!(is_ours(&format!("http://{address}")).await);
        assert!(!is_ours(&format!("http://{}", free())).await);
    }

    #[test]
    fn harnesses_find_the_flag_that_saves_syncs() {
        let help = Known::new(FLAGS).help("etcd", "");
        assert!(help.lines().any(|l| l.trim_start().starts_with("--unsafe-no-fsync")));
        let args = ["--listen-peer-urls=http://127.0.0.1:1", "--data-dir=/tmp/x", "--unsafe-no-fsync=true", "--advertise-client-urls=http://127.0.0.1:2"];
        Known::new(FLAGS).parse(&args.map(str::to_owned)).unwrap();
    }
}
