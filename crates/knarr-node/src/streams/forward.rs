//! Port forwarding: pairs of streams (data and error), each pair a connection to a port (upstream: `cri-streaming/portforward`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::STREAM_CREATION_TIMEOUT;
use super::spdy::{Accepted, Session};
use super::websocket::{Channels, Protocol};

/// The protocol that SPDY clients name.
pub const SPDY_PROTOCOLS: [&str; 1] = ["portforward.k8s.io"];
/// Pairs that a client may have open at once.
const PAIRS_MAX: usize = 500;
/// Ports that a WebSocket client may ask for: two channels each, in one byte.
pub const PORTS_MAX: usize = 64;

/// Opens a connection to a port of the pod.
pub type Connect = Arc<dyn Fn(u16) -> BoxFuture<'static, Result<TcpStream, String>> + Send + Sync>;

/// Serves a SPDY client until it leaves.
pub async fn over_spdy<S: AsyncRead + AsyncWrite + Send + 'static>(connection: S, pod: String, connect: Connect) {
    let mut session = Session::start(connection);
    let mut waiting: BTreeMap<String, (Accepted, tokio::time::Instant)> = BTreeMap::new();
    let mut pairs = tokio::task::JoinSet::new();
    loop {
        let expired = waiting.values().map(|(_, since)| *since + STREAM_CREATION_TIMEOUT).min();
        let expiry = async move {
            match expired {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = session.accept() => match stream {
                None => return,
                Some(stream) => if let Some((data, error)) = matched(&mut waiting, stream) {
                    if pairs.len() >= PAIRS_MAX {
                        data.writer.reset().await;
                        error.writer.reset().await;
                    } else {
                        pairs.spawn(serve_pair(data, error, pod.clone(), connect.clone()));
                    }
                },
            },
            () = expiry => waiting.retain(|_, (_, since)| since.elapsed() < STREAM_CREATION_TIMEOUT),
            Some(_) = pairs.join_next(), if !pairs.is_empty() => {}
        }
    }
}

/// The pair that this stream completes: data first, then error.
fn matched(waiting: &mut BTreeMap<String, (Accepted, tokio::time::Instant)>, stream: Accepted) -> Option<(Accepted, Accepted)> {
    let kind = stream.header("streamtype").unwrap_or_default().to_owned();
    let id = match stream.header("requestid") {
        Some(id) if !id.is_empty() => id.to_owned(),
        // Old clients number nothing: their data stream comes right after their error stream.
        _ if kind == "data" => (stream.id.saturating_sub(2)).to_string(),
        _ => stream.id.to_string(),
    };
    match waiting.remove(&id) {
        None => {
            waiting.insert(id, (stream, tokio::time::Instant::now()));
            None
        }
        Some((other, _)) => match (kind.as_str(), other.header("streamtype")) {
            ("data", Some("error")) => Some((stream, other)),
            ("error", Some("data")) => Some((other, stream)),
            _ => None,
        },
    }
}

async fn serve_pair(mut data: Accepted, mut error: Accepted, pod: String, connect: Connect) {
    let port = data.header("port").and_then(|p| p.parse::<u16>().ok()).filter(|p| *p > 0);
    let result = match port {
        None => Err("\"port\" header is required".to_owned()),
        Some(port) => match connect(port).await {
            Err(why) => Err(why),
            Ok(socket) => copy(socket, &mut data.reader, &mut data.writer).await,
        },
    };
    match result {
        Ok(()) => {
            // A client that has gone needs no end of streams.
            drop(data.writer.shutdown().await);
            drop(error.writer.shutdown().await);
        }
        Err(why) => {
            let text = format!("error forwarding port {} to pod {pod}: {why}", port.unwrap_or_default());
            drop(error.writer.write_all(text.as_bytes()).await);
            data.writer.reset().await;
            drop(error.writer.shutdown().await);
        }
    }
}

/// How long the client's half may stay open after the server's has ended.
const HALF_OPEN_MAX: Duration = Duration::from_secs(10);

/// Carries both ways until both have ended, each half for itself.
async fn copy(socket: TcpStream, from_client: &mut (impl AsyncRead + Unpin), to_client: &mut (impl AsyncWrite + Unpin)) -> Result<(), String> {
    let (mut read, mut write) = socket.into_split();
    let upward = async {
        let result = tokio::io::copy(from_client, &mut write).await;
        drop(write.shutdown().await);
        result
    };
    let downward = async {
        tokio::io::copy(&mut read, to_client).await?;
        // The client hears at once that no more will come.
        to_client.shutdown().await
    };
    tokio::pin!(upward, downward);
    tokio::select! {
        result = &mut downward => {
            result.map_err(|e| e.to_string())?;
            // What the client still sends may matter to a server that only reads.
            drop(tokio::time::timeout(HALF_OPEN_MAX, upward).await);
            Ok(())
        }
        result = &mut upward => {
            result.map_err(|e| e.to_string())?;
            downward.await.map_err(|e| e.to_string())
        }
    }
}

/// Serves a WebSocket client: channels `2n` carry data, `2n+1` errors; each begins with its port in two bytes.
pub async fn over_websocket<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    connection: S,
    protocol: Protocol,
    ports: Vec<u16>,
    pod: String,
    connect: Connect,
) {
    let number = |index: usize| u8::try_from(index * 2).unwrap_or_default();
    let inputs: Vec<u8> = (0..ports.len()).map(number).collect();
    let mut channels = Channels::start(connection, protocol, &inputs).await;
    let mut tasks = tokio::task::JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let (data, error) = (number(index), number(index) + 1);
        channels.send(data, &port.to_le_bytes()).await;
        channels.send(error, &port.to_le_bytes()).await;
        let Some(mut reader) = channels.reader(data) else { continue };
        let (mut to_client, mut to_error) = (channels.writer(data), channels.writer(error));
        let (connect, pod) = (connect.clone(), pod.clone());
        tasks.spawn(async move {
            let result = match connect(port).await {
                Ok(socket) => copy(socket, &mut reader, &mut to_client).await,
                Err(why) => Err(why),
            };
            if let Err(why) = result {
                drop(to_error.write_all(format!("error forwarding port {port} to pod {pod}: {why}").as_bytes()).await);
            }
        });
    }
    tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => {}
        () = channels.closed() => {}
    }
    channels.close().await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_client_hears_at_once_that_the_server_has_ended() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
        let (mut server, _) = listener.accept().await.expect("a connection");
        // The client keeps its own half open throughout.
        let (_client_input, mut from_client) = tokio::io::duplex(64);
        let (mut to_client, mut client_output) = tokio::io::duplex(64);
        let copying = tokio::spawn(async move { copy(near, &mut from_client, &mut to_client).await });
        server.write_all(b"bye").await.expect("it is read");
        server.shutdown().await.expect("it ends");
        let mut heard = String::new();
        client_output.read_to_string(&mut heard).await.expect("an end");
        assert_eq!(heard, "bye");
        assert!(!copying.is_finished(), "the other half is open still");
    }
}
