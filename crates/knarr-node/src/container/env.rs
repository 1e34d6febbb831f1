//! A container's environment (upstream: `kubelet_pods.go:makeEnvironmentVariables`, `pkg/kubelet/envvars`).

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::expansion::expand;
use super::fields;
use crate::pod::spec::{PodExt, ResourceList};

/// A Service as variables tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceLink {
    pub name: String,
    pub cluster_ip: String,
    /// Name (may be empty), port, protocol.
    pub ports: Vec<(String, i32, String)>,
}

/// Data of a ConfigMap or Secret, by key.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Where the values come from.
#[async_trait]
pub trait Sources: Send + Sync {
    /// `None` when there is no such ConfigMap.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, String>;
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, String>;
    /// The Services of a namespace that have an address, and `default/kubernetes` first.
    fn services(&self, namespace: &str, links: bool) -> Vec<ServiceLink>;
    /// Where a volume of the pod lies on the node.
    fn volume_path(&self, volume: &str) -> Option<std::path::PathBuf>;
}

/// What the pod and its node have to say.
pub struct Facts<'a> {
    pub pod: &'a Pod,
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
    pub allocatable: &'a ResourceList,
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn host_port(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// The variables of Services, in the manner of Docker's links (upstream: `envvars.FromServices`).
pub fn service_variables(services: &[ServiceLink]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for service in services {
        let prefix = variable_name(&service.name);
        all.insert(format!("{prefix}_SERVICE_HOST"), service.cluster_ip.clone());
        for (index, (name, port, protocol)) in service.ports.iter().enumerate() {
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{}", host_port(&service.cluster_ip, *port));
            if index == 0 {
                all.insert(format!("{prefix}_SERVICE_PORT"), port.to_string());
                all.insert(format!("{prefix}_PORT"), url.clone());
            }
            if !name.is_empty() {
                all.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.to_string());
            }
            let of_port = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
            all.insert(format!("{of_port}_PROTO"), lower);
            all.insert(format!("{of_port}_PORT"), port.to_string());
            all.insert(format!("{of_port}_ADDR"), service.cluster_ip.clone());
            all.insert(of_port, url);
        }
    }
    all
}

/// All variables of a container, by name.
///
/// # Errors
/// The message of a `CreateContainerConfigError`.
pub async fn environment(facts: &Facts<'_>, container: &Container, sources: &dyn Sources) -> Result<BTreeMap<String, String>, String> {
    let pod = facts.pod;
    let links = pod.spec().enable_service_links.unwrap_or(true);
    let services = service_variables(&sources.services(pod.namespace(), links));
    let mut reader = Reader { facts, container, sources, maps: BTreeMap::new(), secrets: BTreeMap::new() };
    let mut own = reader.all_of_env_from().await?;
    for variable in container.env.iter().flatten() {
        let value = variable.value.as_deref().unwrap_or_default();
        let value = if !value.is_empty() {
            Some(expand(value, |name| own.get(name).or_else(|| services.get(name)).cloned()))
        } else if let Some(source) = &variable.value_from {
            reader.value_of(source).await?
        } else {
            Some(String::new())
        };
        if let Some(value) = value {
            own.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        own.entry(name).or_insert(value);
    }
    Ok(own)
}

/// Reads each ConfigMap and Secret once.
struct Reader<'a> {
    facts: &'a Facts<'a>,
    container: &'a Container,
    sources: &'a dyn Sources,
    maps: BTreeMap<String, Option<Data>>,
    secrets: BTreeMap<String, Option<Data>>,
}

impl Reader<'_> {
    fn namespace(&self) -> &str {
        self.facts.pod.namespace()
    }

    async fn map(&mut self, name: &str) -> Result<Option<&Data>, String> {
        if !self.maps.contains_key(name) {
            let found = self.sources.config_map(self.namespace(), name).await?;
            self.maps.insert(name.into(), found);
        }
        Ok(self.maps.get(name).and_then(Option::as_ref))
    }

    async fn secret(&mut self, name: &str) -> Result<Option<&Data>, String> {
        if !self.secrets.contains_key(name) {
            let found = self.sources.secret(self.namespace(), name).await?;
            self.secrets.insert(name.into(), found);
        }
        Ok(self.secrets.get(name).and_then(Option::as_ref))
    }

    async fn all_of_env_from(&mut self) -> Result<BTreeMap<String, String>, String> {
        let mut all = BTreeMap::new();
        let container = self.container;
        for from in container.env_from.iter().flatten() {
            let (found, kind, name, optional) = if let Some(r) = &from.config_map_ref {
                (self.map(&r.name).await?, "configmap", &r.name, r.optional)
            } else if let Some(r) = &from.secret_ref {
                (self.secret(&r.name).await?, "secret", &r.name, r.optional)
            } else {
                continue;
            };
            let Some(data) = found else {
                if optional == Some(true) {
                    continue;
                }
                return Err(format!("{kind} \"{name}\" not found"));
            };
            let prefix = from.prefix.as_deref().unwrap_or_default();
            all.extend(data.iter().map(|(k, v)| (format!("{prefix}{k}"), text(v))));
        }
        Ok(all)
    }

    /// `None` leaves the variable out.
    async fn value_of(&mut self, source: &EnvVarSource) -> Result<Option<String>, String> {
        let facts = self.facts;
        if let Some(field) = &source.field_ref {
            return fields::env_field(facts.pod, &field.field_path, facts.pod_ips, facts.host_ips).map(Some);
        }
        if let Some(field) = &source.resource_field_ref {
            return fields::resource_field(facts.pod, field, Some(self.container), facts.allocatable).map(Some);
        }
        let namespace = self.namespace().to_owned();
        if let Some(key) = &source.config_map_key_ref {
            let found = self.map(&key.name).await?;
            return pick(found, "configmap", "ConfigMap", &namespace, &key.name, &key.key, key.optional);
        }
        if let Some(key) = &source.secret_key_ref {
            let found = self.secret(&key.name).await?;
            return pick(found, "secret", "Secret", &namespace, &key.name, &key.key, key.optional);
        }
        if let Some(file) = &source.file_key_ref {
            let root = self.sources.volume_path(&file.volume_name);
            let root = root.ok_or_else(|| format!("cannot find the volume \"{}\" referenced by FileKeyRef", file.volume_name))?;
            return file_key(&root, &file.path, &file.key, file.optional == Some(true));
        }
        Ok(Some(String::new()))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pick(found: Option<&Data>, kind: &str, title: &str, namespace: &str, name: &str, key: &str, optional: Option<bool>) -> Result<Option<String>, String> {
    let optional = optional == Some(true);
    match found {
        None if optional => Ok(None),
        None => Err(format!("{kind} \"{name}\" not found")),
        Some(data) => match data.get(key) {
            Some(value) => Ok(Some(text(value))),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {key} in {title} {namespace}/{name}")),
        },
    }
}

fn file_key(root: &Path, path: &str, key: &str, optional: bool) -> Result<Option<String>, String> {
    let content = crate::volumes::beneath::read_to_string(root, Path::new(path)).map_err(|_| "couldn't parse env file".to_owned())?;
    match parse_env_file(&content, key).map_err(|_| "couldn't parse env file".to_owned())? {
        Some(value) if !value.is_empty() => Ok(Some(value)),
        _ if optional => Ok(None),
        _ => Err(format!("environment variable key \"{key}\" not found in file \"{}\"", root.join(path).display())),
    }
}

/// A key out of a file of `NAME='value'` lines, where a value may span lines (upstream: `envutil.ParseEnv`).
///
/// # Errors
/// What is wrong, with the line's number.
pub fn parse_env_file(content: &str, key: &str) -> Result<Option<String>, String> {
    let wrong = |line: usize, what: &str| Err(format!("invalid environment variable format at line {line}: {what}"));
    let mut lines = content.lines().enumerate();
    while let Some((index, raw)) = lines.next() {
        let number = index + 1;
        let line = raw.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { return wrong(number, "missing '='") };
        if name.trim().is_empty() || name.trim_end() != name {
            return wrong(number, "whitespace before '=' is not allowed");
        }
        if value.starts_with([' ', '\t']) {
            if name == key {
                return Ok(Some(String::new()));
            }
            continue;
        }
        let Some(mut rest) = value.strip_prefix('\'') else { return wrong(number, "value must be enclosed in single quotes") };
        let mut whole = String::new();
        loop {
            if let Some((head, tail)) = rest.split_once('\'') {
                whole.push_str(head);
                let tail = tail.trim_start_matches([' ', '\t']);
                if !tail.is_empty() && !tail.starts_with('#') {
                    return wrong(number, "unexpected content after closing quote");
                }
                break;
            }
            whole.push_str(rest);
            whole.push('\n');
            let Some((_, next)) = lines.next() else { return wrong(number, "unclosed single quote") };
            rest = next;
        }
        if name == key {
            return Ok(Some(whole));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;
    use knarr_core::json;

    struct Fixed;

    #[async_trait]
    impl Sources for Fixed {
        async fn config_map(&self, _: &str, name: &str) -> Result<Option<Data>, String> {
            Ok((name == "m").then(|| [("k".to_owned(), b"v".to_vec())].into()))
        }

        async fn secret(&self, _: &str, name: &str) -> Result<Option<Data>, String> {
            Ok((name == "s").then(|| [("k".to_owned(), b"secret".to_vec())].into()))
        }

        fn services(&self, _: &str, _: bool) -> Vec<ServiceLink> {
            vec![ServiceLink { name: "my-svc".into(), cluster_ip: "10.0.0.5".into(), ports: vec![("web".into(), 80, "TCP".into())] }]
        }

        fn volume_path(&self, _: &str) -> Option<std::path::PathBuf> {
            None
        }
    }

    async fn env_of(container: knarr_core::Value) -> Result<String, String> {
        let pod = pod_of(json!({"nodeName": "n", "containers": [container]}));
        let facts = Facts { pod: &pod, pod_ips: &["10.1.1.1".into()], host_ips: &["192.0.2.1".into()], allocatable: &ResourceList::new() };
        let all = environment(&facts, &pod.spec().containers[0], &Fixed).await?;
        Ok(all.iter().filter(|(k, _)| !k.starts_with("MY_SVC")).map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "))
    }

    #[tokio::test]
    async fn values_come_from_everywhere_and_refer_to_each_other() {
        let container = json!({"name": "a", "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "P_"}, {"secretRef": {"name": "none", "optional": true}}], "env": [
            {"name": "A", "value": "a"}, {"name": "B", "value": "$(A)$(P_k) $(MY_SVC_SERVICE_PORT_WEB) $(LATER)"}, {"name": "LATER", "value": "x"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "no", "optional": true}}}]});
        assert_eq!(env_of(container).await.unwrap(), "A=a B=av 80 $(LATER) IP=10.1.1.1 LATER=x P_k=v S=secret");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let of = |source: knarr_core::Value| env_of(json!({"name": "a", "env": [{"name": "A", "valueFrom": source}]}));
        assert_eq!(of(json!({"configMapKeyRef": {"name": "gone", "key": "k"}})).await.unwrap_err(), "configmap \"gone\" not found");
        assert_eq!(of(json!({"secretKeyRef": {"name": "s", "key": "x"}})).await.unwrap_err(), "couldn't find key x in Secret default/s");
    }

    #[test]
    fn services_are_told_in_dockers_way() {
        let text: Vec<_> = service_variables(&Fixed.services("", true)).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text.join(" "),
            "MY_SVC_PORT=tcp://10.0.0.5:80 MY_SVC_PORT_80_TCP=tcp://10.0.0.5:80 MY_SVC_PORT_80_TCP_ADDR=10.0.0.5 MY_SVC_PORT_80_TCP_PORT=80 \
             MY_SVC_PORT_80_TCP_PROTO=tcp MY_SVC_SERVICE_HOST=10.0.0.5 MY_SVC_SERVICE_PORT=80 MY_SVC_SERVICE_PORT_WEB=80"
        );
    }

    #[test]
    fn env_files_follow_the_strict_subset_of_the_shell() {
        let file = "# comment\nA='1'\n  B='two\nlines' # end\nC= 'x'\n";
        assert_eq!(parse_env_file(file, "A"), Ok(Some("1".into())));
        assert_eq!(parse_env_file(file, "B"), Ok(Some("two\nlines".into())));
        assert_eq!(parse_env_file(file, "C"), Ok(Some(String::new())));
        assert_eq!(parse_env_file(file, "D"), Ok(None));
        for bad in ["A=1", "A ='1'", "A='1", "A='1'x", "A"] {
            assert!(parse_env_file(bad, "A").is_err(), "{bad}");
        }
    }
}
