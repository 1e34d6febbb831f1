//! A small blocking HTTP/1.1 client over TLS, which shows an answer as it came: status, headers, body.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longer than any answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came back. The body is text if it can be, hexadecimal digits after `hex:` otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    /// What stands for the end of a connection, twice, without an answer.
    pub fn none() -> Self {
        Self { status: 0, headers: BTreeMap::new(), body: "the connection ended".into() }
    }

    pub fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.body).ok()
    }
}

pub struct Client {
    address: SocketAddr,
    token: String,
    config: Arc<ClientConfig>,
}

pub struct Connection<'a> {
    client: &'a Client,
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl Client {
    /// Believes whatever certificate the server shows: it was started a moment ago on this machine.
    pub fn new(address: SocketAddr, token: &str) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        Ok(Self { address, token: token.to_owned(), config: Arc::new(config) })
    }

    pub fn connect(&self) -> Result<Connection<'_>> {
        let tcp = TcpStream::connect(self.address)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        let tls = ClientConnection::new(self.config.clone(), ServerName::from(self.address.ip()))?;
        Ok(Connection { client: self, stream: BufReader::new(StreamOwned::new(tls, tcp)) })
    }
}

impl Connection<'_> {
    /// Sends a request and reads the whole answer. Headers are lower case; the bearer token is added unless there is an
    /// `Authorization`.
    pub fn ask(&mut self, method: &str, path: &str, headers: &BTreeMap<String, String>, body: Option<&str>) -> Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: differential/1\r\n", self.client.address);
        let mut all: BTreeMap<String, String> =
            BTreeMap::from([("Authorization".into(), format!("Bearer {}", self.client.token)), ("Accept".into(), "application/json".into())]);
        if body.is_some() {
            all.insert("Content-Type".into(), "application/json".into());
        }
        all.extend(headers.clone());
        for (name, value) in all.iter().filter(|(_, v)| !v.is_empty()) {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = body {
            head += &format!("Content-Length: {}\r\n", body.len());
        } else if matches!(method, "POST" | "PUT" | "PATCH") {
            head += "Content-Length: 0\r\n";
        }
        head += "\r\n";
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.unwrap_or_default().as_bytes())?;
        stream.flush()?;
        self.read(method)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the connection ended");
        }
        Ok(line.trim_end().to_owned())
    }

    fn read(&mut self, method: &str) -> Result<Answer> {
        let first = self.line()?;
        let status: u16 = first.split(' ').nth(1).and_then(|s| s.parse().ok()).with_context(|| first.clone())?;
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            let (name, value) = (name.to_ascii_lowercase(), value.trim());
            headers.entry(name).and_modify(|v| *v = format!("{v}\n{value}")).or_insert_with(|| value.to_owned());
        }
        let bytes = self.body(method, status, &headers)?;
        let body = String::from_utf8(bytes).unwrap_or_else(|e| format!("hex:{}", knarr_core::hex::encode(e.as_bytes())));
        Ok(Answer { status, headers, body })
    }

    fn body(&mut self, method: &str, status: u16, headers: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        if method == "HEAD" || matches!(status, 204 | 304) {
            return Ok(body);
        }
        if headers.get("transfer-encoding").is_some_and(|v| v == "chunked") {
            loop {
                let size = usize::from_str_radix(self.line()?.split(';').next().unwrap_or_default(), 16)?;
                let mut chunk = vec![0; size];
                self.stream.read_exact(&mut chunk)?;
                body.extend(chunk);
                self.line()?;
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        if let Some(length) = headers.get("content-length") {
            body = vec![0; length.parse()?];
            self.stream.read_exact(&mut body)?;
        } else {
            self.stream.read_to_end(&mut body)?;
        }
        Ok(body)
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
