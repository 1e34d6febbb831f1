//! This machine.
use knarr_cli::cluster::config::{Cluster, Node};
use knarr_cli::cluster::failure::Result;
use knarr_cli::cluster::start::Machine;
use std::net::IpAddr;
pub struct Local;
#[async_trait::async_trait]
impl Machine for Local {
    async fn make_node(&self, _: &Cluster, _: &Node) -> Result<()> {
        Ok(())
    }
    async fn clear_node(&self, _: &Cluster, _: &Node) -> Result<()> {
        Ok(())
    }
    fn node_address(&self, _: &Cluster, index: usize) -> IpAddr {
        IpAddr::from([10, 89, 0, index as u8])
    }
}
