//! A remote command as the one who runs it sees it, whichever protocol it came by (upstream: `cri-streaming/remotecommand`).

use std::collections::BTreeMap;

use knarr_core::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::STREAM_CREATION_TIMEOUT;
use super::spdy::{Accepted, Ender, Session, Writer};
use super::websocket::{Channels, Protocol};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Bytes of one terminal size.
const SIZE_BYTES_MAX: usize = 1024;

/// The protocols that SPDY clients name in `X-Stream-Protocol-Version`, the newest first.
pub const SPDY_PROTOCOLS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// The streams that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Exited(i32),
    /// It could not be run, or nobody knows how it ended.
    Failed(String),
}

impl Outcome {
    /// The last status as `v4` and later tell it.
    pub fn status(&self) -> Value {
        match self {
            Self::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exited(code) => json!({"metadata": {}, "status": "Failure",
                "message": format!("command terminated with non-zero exit code: exit status {code}"), "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
            Self::Failed(why) => json!({"metadata": {}, "status": "Failure", "message": format!("Internal error occurred: {why}"), "reason": "InternalError",
                "details": {"causes": [{"message": why}]}, "code": 500}),
        }
    }

    /// The same as text; nothing when all went well.
    fn text(&self) -> String {
        match self {
            Self::Exited(0) => String::new(),
            other => other.status()["message"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// The ends of a remote command's streams.
pub struct Remote {
    pub stdin: Option<BoxRead>,
    pub stdout: Option<BoxWrite>,
    pub stderr: Option<BoxWrite>,
    pub resize: Option<mpsc::Receiver<(u16, u16)>>,
    pub ending: Ending,
}

/// What is left to do with the connection when the command has ended.
pub struct Ending {
    json_status: bool,
    way: Way,
}

enum Way {
    Spdy { session: Session, error: Box<Writer>, halves: Vec<Ender> },
    WebSocket(Channels),
}

impl Ending {
    /// Waits until the client has gone.
    pub async fn client_left(&mut self) {
        match &mut self.way {
            // More streams than were asked for are of no use.
            Way::Spdy { session, .. } => while session.accept().await.is_some() {},
            Way::WebSocket(channels) => channels.closed().await,
        }
    }

    /// Tells how the command has ended and closes the connection.
    pub async fn finish(self, outcome: &Outcome) {
        let last = if self.json_status { outcome.status().to_string() } else { outcome.text() };
        match self.way {
            Way::Spdy { session, mut error, halves } => {
                for half in halves {
                    half.end().await;
                }
                let told = async {
                    error.write_all(last.as_bytes()).await?;
                    error.shutdown().await
                };
                if let Err(error) = told.await {
                    tracing::debug!(%error, "a client left before it heard how its command ended");
                }
                drop(error);
                session.go_away().await;
            }
            Way::WebSocket(channels) => {
                channels.send(ERROR, last.as_bytes()).await;
                channels.close().await;
            }
        }
    }
}

/// The streams of a WebSocket client.
pub async fn over_websocket<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(connection: S, protocol: Protocol, wanted: Wanted) -> Remote {
    let inputs: Vec<u8> = [(STDIN, wanted.stdin), (RESIZE, true)].into_iter().filter(|(_, on)| *on).map(|(c, _)| c).collect();
    let mut channels = Channels::start(connection, protocol, &inputs).await;
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    // An empty message tells the client that the connection stands.
    channels.send(first, b"").await;
    let writer = |on: bool, channel: u8| on.then(|| Box::new(channels.writer(channel)) as BoxWrite);
    let (stdout, stderr) = (writer(wanted.stdout, STDOUT), writer(wanted.stderr, STDERR));
    Remote {
        stdin: channels.reader(STDIN).map(|r| Box::new(r) as BoxRead),
        stdout,
        stderr,
        resize: channels.reader(RESIZE).map(sizes),
        ending: Ending { json_status: protocol.json_status, way: Way::WebSocket(channels) },
    }
}

/// The streams of a SPDY client; it opens them one after the other.
///
/// # Errors
/// It did not open them in time.
pub async fn over_spdy<S: AsyncRead + AsyncWrite + Send + 'static>(connection: S, protocol: &str, wanted: Wanted) -> Result<Remote, &'static str> {
    let mut session = Session::start(connection);
    let resizes = wanted.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let awaited = [("error", true), ("stdin", wanted.stdin), ("stdout", wanted.stdout), ("stderr", wanted.stderr), ("resize", resizes)];
    let count = awaited.iter().filter(|(_, on)| *on).count();
    let collected = tokio::time::timeout(STREAM_CREATION_TIMEOUT, collect(&mut session, count)).await;
    let mut streams = collected.map_err(|_| "timed out waiting for client to create streams")?.ok_or("the client left")?;
    let error = streams.remove("error").ok_or("the client opened no error stream")?;
    let mut halves = Vec::new();
    let mut output = |stream: Option<Accepted>| {
        stream.map(|s| {
            halves.extend(s.writer.ender());
            Box::new(s.writer) as BoxWrite
        })
    };
    let (stdout, stderr) = (output(streams.remove("stdout")), output(streams.remove("stderr")));
    Ok(Remote {
        stdin: streams.remove("stdin").map(|s| Box::new(s.reader) as BoxRead),
        stdout,
        stderr,
        resize: streams.remove("resize").map(|s| sizes(s.reader)),
        ending: Ending { json_status: protocol == "v4.channel.k8s.io", way: Way::Spdy { session, error: Box::new(error.writer), halves } },
    })
}

async fn collect(session: &mut Session, count: usize) -> Option<BTreeMap<String, Accepted>> {
    let mut streams = BTreeMap::new();
    while streams.len() < count {
        let stream = session.accept().await?;
        let kind = stream.header("streamtype").unwrap_or_default().to_lowercase();
        streams.insert(kind, stream);
    }
    Some(streams)
}

/// Reads terminal sizes, `{"Width":80,"Height":24}` one after the other.
fn sizes(mut reader: impl AsyncRead + Send + Unpin + 'static) -> mpsc::Receiver<(u16, u16)> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut text = Vec::new();
        while let Ok(1..) = reader.read_buf(&mut text).await {
            let mut objects = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
            while let Some(Ok(size)) = objects.next() {
                let side = |name: &str| size[name].as_u64().and_then(|n| u16::try_from(n).ok());
                if let (Some(width), Some(height)) = (side("Width"), side("Height"))
                    && width > 0
                    && height > 0
                    && sender.send((width, height)).await.is_err()
                {
                    return;
                }
            }
            let read = objects.byte_offset();
            text.drain(..read);
            if text.len() > SIZE_BYTES_MAX {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_status_tells_the_exit_code() {
        assert_eq!(Outcome::Exited(0).status().to_string(), r#"{"metadata":{},"status":"Success"}"#);
        let failed = Outcome::Exited(3).status();
        assert_eq!((failed["reason"].as_str(), failed["details"]["causes"][0]["message"].as_str()), (Some("NonZeroExitCode"), Some("3")));
        assert_eq!(Outcome::Failed("x".into()).status()["message"], "Internal error occurred: x");
    }

    #[tokio::test]
    async fn terminal_sizes_are_read_as_they_come() {
        let (mut near, far) = tokio::io::duplex(64);
        let mut sizes = sizes(far);
        near.write_all(b"{\"Width\":80,\"Height\":24}{\"Width\":1").await.unwrap();
        assert_eq!(sizes.recv().await, Some((80, 24)));
        near.write_all(b"00,\"Height\":30}\n").await.unwrap();
        assert_eq!(sizes.recv().await, Some((100, 30)));
    }
}
