//! `kubectl version`.

use knarr_core::ValueExt;

use crate::kubectl::session::{Result, Session};

#[derive(clap::Args)]
pub struct Args {
    /// Only this program's version
    #[arg(long)]
    client: bool,
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    println!("Client Version: {}", knarr_core::KUBERNETES_VERSION);
    if !args.client {
        let version = session.get_json("/version", "application/json").await?;
        println!("Server Version: {}", version.str_at(&["gitVersion"]).unwrap_or_default());
    }
    Ok(())
}
