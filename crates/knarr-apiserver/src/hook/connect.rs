//! From a webhook's place to a connection: an endpoint of a Service or a host of the network, over TLS.

use std::{net::IpAddr, sync::Arc};

use base64::Engine;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use knarr_core::{Value, ValueExt, field};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Place;
use crate::{
    admission::Objects,
    streaming::{target, trust},
};

pub type Tls = Arc<ClientConfig>;

/// Trusts the bundle; without one, whom the machine trusts.
pub fn tls(ca_bundle: &str) -> Result<Tls, String> {
    let pem = base64::engine::general_purpose::STANDARD.decode(ca_bundle).map_err(|e| format!("unable to load root certificates: {e}"))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = if pem.iter().all(u8::is_ascii_whitespace) {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(trust::bundle(&pem)?)
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The host and port to dial.
fn resolve(objects: &dyn Objects, place: &Place) -> Result<(String, u16), String> {
    let Place::Service { namespace, name, port } = place else {
        let Place::Url { host, port } = place else { return Err("no place".into()) };
        return Ok((host.clone(), *port));
    };
    let quoted = field::go_quote(name);
    let service = objects.value("", "services", namespace, name).ok_or_else(|| format!("service {quoted} not found"))?;
    if service.str_at(&["spec", "type"]) == Some("ExternalName") {
        let host = service.str_at(&["spec", "externalName"]).unwrap_or_default();
        return Ok((host.to_owned(), u16::try_from(*port).map_err(|e| e.to_string())?));
    }
    let found = service.list_at(&["spec", "ports"]).iter().find(|p| p.i64_at(&["port"]) == Some(*port));
    let port_name = found.and_then(|p| p.at(&["name"])).and_then(Value::as_str).unwrap_or_default();
    found.ok_or_else(|| format!("no service port {port} found for service {quoted}"))?;
    target::endpoint(objects, namespace, name, port_name).ok_or_else(|| format!("no endpoints available for service {quoted}"))
}

/// Dials and shakes hands.
pub async fn connect(objects: &dyn Objects, place: &Place, server_name: &str, tls: &Tls) -> Result<SendRequest<Full<Bytes>>, String> {
    let (host, port) = resolve(objects, place)?;
    let shown = if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|e| format!("dial tcp {shown}: {}", refused(&e)))?;
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let name = ServerName::try_from(server_name.to_owned()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await.map_err(|e| format!("tls: failed to verify certificate: {}", certificate(&e)))?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a webhook ended");
        }
    });
    Ok(sender)
}

fn refused(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::ConnectionRefused { "connect: connection refused".into() } else { error.to_string() }
}

/// What is wrong with the other side's certificate, in Go's words where Go has some.
fn certificate(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => "x509: certificate signed by unknown authority".into(),
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}
