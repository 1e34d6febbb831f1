//! A container's streams over WebSocket (`v5.channel.k8s.io`): what `exec`, `attach`, `cp`, `run -it` and `debug -it` share.

use std::io::Write;

use futures::{SinkExt, StreamExt};
use knarr_core::{Value, ValueExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::failure::{Failure, Result};
use super::session::{Session, encode};

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Which streams there shall be, and what they belong to.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    pub namespace: String,
    pub pod: String,
    pub container: Option<String>,
    /// Absent: attach to what runs already.
    pub command: Option<Vec<String>>,
    pub stdin: bool,
    pub tty: bool,
    pub quiet: bool,
    /// The keys that end an attached session and leave what runs alone; none are looked for without a terminal.
    pub detach: Vec<u8>,
}

/// Detaches a terminal, as docker's clients know it.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Reads `ctrl-p,ctrl-q` (`github.com/moby/term.ToBytes`).
pub fn detach_keys(text: &str) -> Result<Vec<u8>> {
    let text = if text.is_empty() { DETACH_KEYS } else { text };
    let key = |name: &str| match name.as_bytes() {
        [one] => Ok(*one),
        [b'c', b't', b'r', b'l', b'-', key] => match key {
            b'a'..=b'z' => Ok(key - b'a' + 1),
            b'@' => Ok(0),
            b'[' => Ok(27),
            b'\\' => Ok(28),
            b']' => Ok(29),
            b'^' => Ok(30),
            b'_' => Ok(31),
            _ => Err(name.to_owned()),
        },
        _ => Err(name.to_owned()),
    };
    let read: std::result::Result<Vec<u8>, String> = text.split(',').map(key).collect();
    read.map_err(|name| format!("could not bind detach keys: Unknown character: '{name}'").into())
}

/// Looks for the detach keys in what is typed.
struct Detach<'a> {
    keys: &'a [u8],
    /// How many of them have been typed; they are held back until it is clear what they are.
    seen: usize,
}

impl Detach<'_> {
    /// What is to be sent of it, and whether the session ends.
    fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.seen]);
            self.seen = usize::from(self.keys.first() == Some(byte));
            if self.seen == 0 {
                out.push(*byte);
            }
        }
        (out, false)
    }
}

impl Streams {
    fn path(&self) -> String {
        let mut query: Vec<String> = self.command.iter().flatten().map(|c| format!("command={}", encode(c))).collect();
        query.extend(self.container.iter().map(|c| format!("container={}", encode(c))));
        for (key, on) in [("stdin", self.stdin), ("stdout", true), ("stderr", !self.tty), ("tty", self.tty)] {
            if on {
                query.push(format!("{key}=true"));
            }
        }
        let what = if self.command.is_some() { "exec" } else { "attach" };
        format!("/api/v1/namespaces/{}/pods/{}/{what}?{}", encode(&self.namespace), encode(&self.pod), query.join("&"))
    }

    /// Joins the streams with those of this process until the other side ends.
    pub async fn run(&self, session: &Session) -> Result<()> {
        let _raw = self.tty.then(RawTerminal::enter).flatten();
        self.exchange(session, &mut tokio::io::stdin(), &mut std::io::stdout(), &mut std::io::stderr()).await
    }

    /// The same with other ends.
    pub async fn exchange(&self, session: &Session, input: &mut (impl AsyncRead + Unpin), out: &mut impl Write, err: &mut impl Write) -> Result<()> {
        let upgraded = session.upgrade(&self.path(), PROTOCOL).await?;
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
        let mut buffer = vec![0; 32 << 10];
        let mut reading = self.stdin;
        let mut detach = Detach { keys: if self.tty { &self.detach } else { &[] }, seen: 0 };
        let mut resized = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?;
        if self.tty {
            send_size(&mut socket).await?;
        }
        loop {
            tokio::select! {
                read = input.read(&mut buffer), if reading => match read? {
                    0 => {
                        reading = false;
                        send(&mut socket, CLOSE, &[STDIN]).await?;
                    }
                    n => match detach.pass(&buffer[..n]) {
                        (_, true) => return Ok(()),
                        (text, false) if text.is_empty() => {}
                        (text, false) => send(&mut socket, STDIN, &text).await?,
                    },
                },
                _ = resized.recv(), if self.tty => send_size(&mut socket).await?,
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(data))) => match data.split_first() {
                        Some((&STDOUT, rest)) => {
                            out.write_all(rest)?;
                            out.flush()?;
                        }
                        Some((&STDERR, rest)) => {
                            err.write_all(rest)?;
                            err.flush()?;
                        }
                        Some((&ERROR, rest)) => return outcome(rest),
                        _ => {}
                    },
                    Some(Ok(Message::Close(_))) | None => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(e)) => return Err(e.to_string().into()),
                },
            }
        }
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>, channel: u8, data: &[u8]) -> Result<()> {
    let mut frame = Vec::with_capacity(data.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(data);
    socket.send(Message::Binary(frame.into())).await.map_err(|e| e.to_string().into())
}

async fn send_size<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Result<()> {
    match knarr_sys::process::window_size(std::os::fd::AsFd::as_fd(&std::io::stdout())) {
        Some((width, height)) => send(socket, RESIZE, format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes()).await,
        None => Ok(()),
    }
}

/// The `Status` on the error channel.
fn outcome(body: &[u8]) -> Result<()> {
    let status: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if status.str_at(&["status"]) == Some("Success") {
        return Ok(());
    }
    let causes = status.list_at(&["details", "causes"]);
    let code = causes.iter().find(|c| c["reason"] == "ExitCode").and_then(|c| c.str_at(&["message"])).and_then(|m| m.parse::<u8>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Err(Failure::Exit(code))
        }
        None => Err(status.str_at(&["message"]).unwrap_or("the command failed").to_owned().into()),
    }
}

/// Whether standard input is a terminal.
pub fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdin())
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
    fn detach_keys_end_a_session_and_nothing_else_does() {
        assert_eq!(detach_keys(DETACH_KEYS).unwrap(), [16, 17]);
        assert_eq!(detach_keys("ctrl-x").and_then(|a| detach_keys("z,ctrl-\\").map(|b| [a, b].concat())).unwrap(), [24, b'z', 28]);
        assert_eq!(detach_keys("ctrl-1").unwrap_err().to_string(), "error: could not bind detach keys: Unknown character: 'ctrl-1'");
        let keys = [16, 17];
        let mut detach = Detach { keys: &keys, seen: 0 };
        assert_eq!(detach.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(detach.pass(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(detach.pass(b"\x10\x10x"), (b"\x10\x10x".to_vec(), false));
        assert_eq!(detach.pass(b"d\x10"), (b"d".to_vec(), false));
        assert_eq!(detach.pass(b"\x11e"), (Vec::new(), true));
        let mut none = Detach { keys: &[], seen: 0 };
        assert_eq!(none.pass(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }

    #[test]
    fn the_error_channel_tells_the_exit_code() {
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(outcome(failed).unwrap_err().code(), 3);
        assert!(outcome(br#"{"status":"Success"}"#).is_ok());
        assert_eq!(outcome(br#"{"status":"Failure","message":"no such container"}"#).unwrap_err().to_string(), "error: no such container");
    }
}
