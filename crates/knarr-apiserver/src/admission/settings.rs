//! AdmissionConfiguration (`--admission-control-config-file`): what plugins are told beside being on or off. PodSecurity is the one that
//! is told something here.

use std::path::Path;

use knarr_core::Value;
use serde::Deserialize;

use super::default_toleration_seconds::DefaultTolerationSeconds;
use super::pod_security;
use crate::authn::jwt::config::read;

/// What plugins are told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub pod_security: pod_security::Configuration,
    /// Of flags: the file tells nothing of it.
    pub default_tolerations: DefaultTolerationSeconds,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    plugins: Vec<PluginConfiguration>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PluginConfiguration {
    name: String,
    /// Of a file, seen from the folder of this one.
    path: String,
    configuration: Option<Value>,
}

impl Settings {
    /// Reads a file and those that it names.
    ///
    /// # Errors
    /// One that cannot be read or is wrong, or a plugin that takes no configuration here.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = |path: &Path| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let config: Configuration =
            read(&text(file)?, "AdmissionConfiguration", &["apiserver.config.k8s.io/v1"]).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut settings = Self::default();
        for plugin in config.plugins {
            let place = file.parent().unwrap_or(Path::new("/")).join(&plugin.path);
            let given = match plugin.configuration {
                Some(nested) => nested.to_string(),
                None if plugin.path.is_empty() => continue,
                None => text(&place)?,
            };
            match plugin.name.as_str() {
                "PodSecurity" => settings.pod_security = pod_security::Configuration::parse(&given).map_err(|e| format!("PodSecurity: {e}"))?,
                other => return Err(format!("plugin {other:?}: its configuration is not acted on; PodSecurity's is")),
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_told_here_or_in_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let read = |plugins: &str| {
            write("admission", &format!("kind: AdmissionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nplugins:\n{plugins}"));
            Settings::read(&folder.path().join("admission")).map(|s| s.pod_security)
        };
        let head = "kind: PodSecurityConfiguration\napiVersion: pod-security.admission.config.k8s.io/v1\n";
        write("own", &format!("{head}defaults: {{enforce: baseline}}\n"));
        let by_file = read("- {name: PodSecurity, path: own}").unwrap();
        let nested = "{kind: PodSecurityConfiguration, apiVersion: pod-security.admission.config.k8s.io/v1, defaults: {enforce: baseline}}";
        assert_eq!(by_file, read(&format!("- {{name: PodSecurity, configuration: {nested}}}")).unwrap());
        assert_ne!(by_file, read("- name: PodSecurity").unwrap());
        assert!(read("- {name: PodSecurity, path: none}").unwrap_err().contains("/none: "));
        assert!(read("- {name: EventRateLimit, path: own}").unwrap_err().contains("\"EventRateLimit\""));
        assert!(read("- {nam: PodSecurity}").unwrap_err().contains("nam"));
    }
}
