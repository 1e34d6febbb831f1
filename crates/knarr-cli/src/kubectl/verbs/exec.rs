//! `kubectl exec` over WebSocket (`v5.channel.k8s.io`).

use std::io::Write;
use std::process::ExitCode;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use knarr_core::{Status, Value, ValueExt};
use tokio::io::AsyncReadExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::kubectl::session::{Result, Session};

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

#[derive(clap::Args)]
pub struct Args {
    /// POD, or TYPE/NAME
    pod: String,
    #[arg(short, long)]
    container: Option<String>,
    /// Hand standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Standard input is a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// What to run
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub async fn run(args: &Args, session: &Session) -> Result<ExitCode> {
    let pod = super::logs::first_pod(session, &args.pod).await?;
    let request = http::Request::get(path(args, session, &pod))
        .header(http::header::CONNECTION, "Upgrade")
        .header(http::header::UPGRADE, "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "a25hcnIga25hcnIga25hcg==")
        .header("Sec-WebSocket-Protocol", PROTOCOL)
        .body(Bytes::new())
        .map_err(|e| e.to_string())?;
    let (response, upgraded) = session.transport.upgrade(request).await.map_err(|e| e.to_string())?;
    let Some(upgraded) = upgraded else {
        let status = Status::from_json(response.body());
        return Err(status.unwrap_or_else(|| Status::internal(String::from_utf8_lossy(response.body()))).into());
    };
    let _raw = args.tty.then(RawTerminal::enter).flatten();
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    exchange(socket, args).await
}

fn path(args: &Args, session: &Session, pod: &str) -> String {
    let encode = super::get::encode;
    let mut query: Vec<String> = args.command.iter().map(|c| format!("command={}", encode(c))).collect();
    query.extend(args.container.iter().map(|c| format!("container={}", encode(c))));
    for (key, on) in [("stdin", args.stdin), ("stdout", true), ("stderr", !args.tty), ("tty", args.tty)] {
        query.push(format!("{key}={on}"));
    }
    format!("/api/v1/namespaces/{}/pods/{pod}/exec?{}", session.namespace, query.join("&"))
}

async fn exchange<S>(mut socket: WebSocketStream<S>, args: &Args) -> Result<ExitCode>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut stdin = tokio::io::stdin();
    let mut input = [0; 32 << 10];
    let mut reading = args.stdin;
    if let Some(size) = args.tty.then(terminal_size).flatten() {
        send(&mut socket, RESIZE, format!("{{\"Width\":{},\"Height\":{}}}", size.0, size.1).as_bytes()).await?;
    }
    loop {
        tokio::select! {
            read = stdin.read(&mut input), if reading => match read? {
                0 => {
                    reading = false;
                    send(&mut socket, CLOSE, &[STDIN]).await?;
                }
                n => send(&mut socket, STDIN, &input[..n]).await?,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Binary(data))) => {
                    if let Some(code) = take(&data)? {
                        return Ok(code);
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Ok(ExitCode::SUCCESS),
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.to_string().into()),
            },
        }
    }
}

async fn send<S>(socket: &mut WebSocketStream<S>, channel: u8, data: &[u8]) -> Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut frame = Vec::with_capacity(data.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(data);
    socket.send(Message::Binary(frame.into())).await.map_err(|e| e.to_string().into())
}

/// Prints what came; the exit code when the error channel told it.
fn take(data: &[u8]) -> Result<Option<ExitCode>> {
    let Some((channel, rest)) = data.split_first() else { return Ok(None) };
    match *channel {
        STDOUT => {
            let mut out = std::io::stdout().lock();
            out.write_all(rest)?;
            out.flush()?;
        }
        STDERR => std::io::stderr().write_all(rest)?,
        ERROR => return outcome(rest).map(Some),
        _ => {}
    }
    Ok(None)
}

/// The `Status` on the error channel.
fn outcome(body: &[u8]) -> Result<ExitCode> {
    let status: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if status.str_at(&["status"]) == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.list_at(&["details", "causes"]);
    let code = causes.iter().find(|c| c["reason"] == "ExitCode").and_then(|c| c.str_at(&["message"])).and_then(|m| m.parse::<u8>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(code))
        }
        None => Err(status.str_at(&["message"]).unwrap_or("the command failed").to_owned().into()),
    }
}

fn terminal_size() -> Option<(u16, u16)> {
    knarr_sys::process::window_size(std::os::fd::AsFd::as_fd(&std::io::stdout()))
}

/// Puts the terminal into raw mode, and back when dropped.
struct RawTerminal(nix::sys::termios::Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        if let Err(e) = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0) {
            eprintln!("the terminal stays raw: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_channel_tells_the_exit_code() {
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(format!("{:?}", outcome(failed).unwrap()), format!("{:?}", ExitCode::from(3)));
        assert_eq!(format!("{:?}", outcome(br#"{"status":"Success"}"#).unwrap()), format!("{:?}", ExitCode::SUCCESS));
        assert!(outcome(br#"{"status":"Failure","message":"no such container"}"#).is_err());
    }
}
