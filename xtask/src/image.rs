//! Packs one static program into a container image: an OCI layout in a tar file, as `knarr image load` takes it.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What an image is made of.
pub struct Image<'a> {
    /// `registry/name:tag`
    pub reference: &'a str,
    /// The program, put at `/NAME`.
    pub program: &'a Path,
    pub name: &'a str,
    /// Names in `/bin` that lead to the program, too.
    pub links: &'a [&'a str],
    pub port: Option<u16>,
}

/// Writes the image to `out`.
pub fn pack(image: &Image<'_>, out: &Path) -> Result<()> {
    let layer = layer(image)?;
    let ports: serde_json::Map<String, Value> = image.port.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [format!("/{}", image.name)], "Env": ["PATH=/bin"], "ExposedPorts": ports, "User": "65532"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": image.reference});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;
    let mut tar = tar::Builder::new(File::create(out)?);
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    add(&mut tar, "index.json", &index, 0o644)?;
    for blob in [&config, &manifest, &layer] {
        add(&mut tar, &format!("blobs/{}", digest(blob).replace(':', "/")), blob, 0o644)?;
    }
    tar.into_inner()?.sync_all()?;
    Ok(())
}

fn layer(image: &Image<'_>) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, image.name, &std::fs::read(image.program)?, 0o755)?;
    for link in image.links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{link}"), format!("/{}", image.name))?;
    }
    Ok(tar.into_inner()?)
}

fn add<W: std::io::Write>(tar: &mut tar::Builder<W>, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    let hash = Sha256::digest(blob);
    format!("sha256:{}", knarr_core::hex::encode(hash))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
