//! Encryption at rest, by kube-apiserver's flags.

use std::path::PathBuf;
use std::sync::Arc;

use knarr_apiserver::encryption;
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_store::Sealer;
use knarr_store::seal::providers::Rules;

use super::access::follow;
use super::flags::Flags;

/// Flags that are read here.
pub const FLAGS: &[&str] = &["encryption-provider-config", "encryption-provider-config-automatic-reload"];

/// What seals, and the file that it is of if that is to be read again as it changes.
pub struct Encryption {
    pub sealer: Option<Arc<dyn Sealer>>,
    file: Option<(PathBuf, String, Arc<Rules>)>,
}

impl Encryption {
    /// Reads flags and file. `own` seals what they say nothing of.
    ///
    /// # Errors
    /// Flags that do not fit together, or a file that cannot be read or is wrong.
    pub fn of(flags: &Flags, own: Option<Arc<dyn Sealer>>) -> Result<Self> {
        let refused = |why: String| Failure::new("USAGE", Exit::Usage, why, "see kube-apiserver --help");
        let reload = flags.is_on("encryption-provider-config-automatic-reload", false);
        let Some(path) = flags.get("encryption-provider-config").filter(|path| !path.is_empty()) else {
            return match reload {
                true => Err(refused("--encryption-provider-config-automatic-reload must be set with --encryption-provider-config".into())),
                false => Ok(Self { sealer: own, file: None }),
            };
        };
        let path = PathBuf::from(path);
        let text = std::fs::read_to_string(&path).map_err(|e| Failure::file(&path, &e))?;
        let rules = encryption::parse(&text).map_err(|why| refused(format!("--encryption-provider-config: {}: {why}", path.display())))?;
        let rules = Arc::new(Rules::new(rules, own));
        Ok(Self { sealer: Some(rules.clone()), file: reload.then(|| (path, text, rules)) })
    }

    /// Reads the file again as it changes, until the server stops.
    pub fn follow(self) {
        if let Some((path, text, rules)) = self.file {
            tokio::spawn(follow(path, text, async move |text: String| {
                rules.exchange(encryption::parse(&text)?);
                Ok(())
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use knarr_store::ResourceKey;

    use super::super::flags::Known;
    use super::super::kube_apiserver;
    use super::*;

    fn of(args: &[String]) -> Result<Encryption> {
        Encryption::of(&Known::new(kube_apiserver::FLAGS).parse(args).unwrap(), None)
    }

    #[test]
    fn a_file_that_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption");
        let flag = format!("--encryption-provider-config={}", path.display());
        assert!(of(&[]).unwrap().sealer.is_none());
        assert!(of(std::slice::from_ref(&flag)).err().unwrap().cause.contains(&path.display().to_string()));
        std::fs::write(&path, "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\n").unwrap();
        let why = of(std::slice::from_ref(&flag)).err().unwrap().cause;
        assert!(why.starts_with(&flag[..28]) && why.ends_with("at least one resources is required"), "{why}");
        let alone = of(&["--encryption-provider-config-automatic-reload".to_owned()]).err().unwrap().cause;
        assert_eq!(alone, "--encryption-provider-config-automatic-reload must be set with --encryption-provider-config");
    }

    #[tokio::test]
    async fn a_key_takes_over_while_the_server_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption");
        let write = |name: &str| {
            let keys = format!("{{name: {name}, secret: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}}");
            let text = format!(
                "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [secrets]\n  providers: [{{secretbox: {{keys: [{keys}]}}}}]\n"
            );
            let other = folder.path().join("other");
            std::fs::write(&other, text).unwrap();
            std::fs::rename(&other, &path).unwrap();
        };
        write("first");
        let flags = [format!("--encryption-provider-config={}", path.display()), "--encryption-provider-config-automatic-reload".to_owned()];
        let encryption = of(&flags).unwrap();
        let (sealer, secrets) = (encryption.sealer.clone().unwrap(), ResourceKey::new("", "secrets"));
        let is_sealed_by = |name: &str| sealer.seal(&secrets, "a", b"x").unwrap().starts_with(format!("k8s:enc:secretbox:v1:{name}:").as_bytes());
        assert!(is_sealed_by("first"));
        encryption.follow();
        write("second");
        tokio::time::timeout(std::time::Duration::from_secs(20), async {
            while !is_sealed_by("second") {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the file has changed");
    }
}
