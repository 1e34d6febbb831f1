//! Images.
use clap::Subcommand;
use knarr_cli::cluster::config::Cluster;
use knarr_cli::cluster::failure::Result;
#[derive(Subcommand)]
pub enum ImageVerb {
    /// List
    Ls,
}
pub async fn run(_: Cluster, _: ImageVerb) -> Result<()> {
    Ok(())
}
