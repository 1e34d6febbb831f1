//! The protocols by which `kubectl exec`, `attach` and `port-forward` come in: several streams over one upgraded connection,
//! either as SPDY/3.1 or as a WebSocket. Nothing here knows of pods.
//!
//! - [`spdy`]: frames, compressed headers, and a session of streams.
//! - [`websocket`]: channels in the first byte of each message, and SPDY tunnelled through messages.
//! - [`remote`]: what both look like to a command: stdin, stdout, stderr, a last status, terminal sizes.
//! - [`forward`]: pairs of streams, each of which leads to a port.

pub mod forward;
pub mod pieces;
pub mod remote;
pub mod spdy;
pub mod websocket;

/// How long a client may take to open the streams that it asked for (upstream: `DefaultStreamCreationTimeout`).
pub const STREAM_CREATION_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);
/// Bytes of one piece of data that is handed on.
pub const CHUNK_BYTES_MAX: usize = 32 * 1024;
/// Pieces of data that wait for a slow reader before the whole connection waits.
pub const PIECES_WAITING_MAX: usize = 16;
