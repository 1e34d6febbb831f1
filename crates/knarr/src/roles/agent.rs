//! One node.
use knarr_cli::cluster::config::{Cluster, Node};
use knarr_cli::cluster::failure::Result;
pub fn enter_node(_: &Cluster, _: &Node) -> Result<()> {
    Ok(())
}
pub async fn run(_: &Cluster, _: &Node) -> Result<()> {
    super::until_told_to_stop().await
}
