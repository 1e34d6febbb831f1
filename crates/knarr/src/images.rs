//! `knarr image`: the content store that the nodes of this machine share.

use std::path::PathBuf;

use clap::Subcommand;
use knarr_cli::cluster::config::Cluster;
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_runtime::{Hosts, Images};

use crate::roles;

#[derive(Subcommand)]
pub enum ImageVerb {
    /// Take images in from an archive (docker save, or an OCI layout)
    Load { archive: PathBuf },
    /// List the images
    #[command(alias = "list")]
    Ls,
    /// Remove images
    Rm { references: Vec<String> },
    /// Pull an image from its registry
    Pull { reference: String },
}

/// Runs one of them.
pub async fn run(cluster: Cluster, verb: ImageVerb) -> Result<()> {
    let failed = |e: knarr_runtime::image::ImageError| Failure::new("IMAGE", Exit::Resource, e.to_string(), String::new());
    let images = Images::open(&roles::images_folder(&cluster), Box::new(Hosts::of_machine()), None).await.map_err(failed)?;
    match verb {
        ImageVerb::Load { archive } => {
            for name in images.load(&archive).await.map_err(failed)? {
                println!("loaded {name}");
            }
        }
        ImageVerb::Ls => {
            for image in images.list().await.map_err(failed)? {
                for name in image.repo_tags.iter().chain(image.repo_tags.is_empty().then_some(&image.id)) {
                    println!("{name:<60} {:>9.1} MB", image.size as f64 / 1e6);
                }
            }
        }
        ImageVerb::Rm { references } => {
            for reference in references {
                images.remove(&reference).await.map_err(failed)?;
                println!("removed {reference}");
            }
        }
        ImageVerb::Pull { reference } => {
            drop(rustls::crypto::ring::default_provider().install_default());
            println!("pulled {reference} as {}", images.pull(&reference, None).await.map_err(failed)?);
        }
    }
    Ok(())
}
