//! The example app: answers every HTTP request with the pod's name, its node, and a greeting taken from a ConfigMap. Static, no
//! dependency, so that its image is this one file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// A request whose head is longer than this is not answered.
const HEAD_BYTES_MAX: u64 = 16 << 10;
/// A client that is silent for this long is let go.
const SILENCE_MAX: Duration = Duration::from_secs(30);

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port()))?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(e) = serve(&stream) {
                eprintln!("a connection ended early: {e}");
            }
        });
    }
    Ok(())
}

fn port() -> u16 {
    std::env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(8080)
}

/// Answers the requests of one connection, one after the other, until the client closes it.
fn serve(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    loop {
        let mut lines = BufReader::new(stream.take(HEAD_BYTES_MAX)).lines();
        let Some(first) = lines.next().transpose()? else { return Ok(()) };
        let mut keep_alive = first.ends_with("HTTP/1.1");
        for line in lines.by_ref() {
            let line = line?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            keep_alive &= line != "connection: close";
        }
        println!("{first}");
        answer(stream, &body(), keep_alive)?;
        if !keep_alive {
            return Ok(());
        }
    }
}

fn body() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let greeting = named("GREETING").unwrap_or_else(|| "Hello".into());
    let pod = named("HOSTNAME").unwrap_or_else(|| "nobody".into());
    match named("NODE_NAME") {
        Some(node) => format!("{greeting} from {pod} on {node}\n"),
        None => format!("{greeting} from {pod}\n"),
    }
}

fn answer(mut stream: &TcpStream, body: &str, keep_alive: bool) -> std::io::Result<()> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}", body.len())
}
