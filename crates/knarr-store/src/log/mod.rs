//! The engine of one machine: an append-only log with snapshots.
