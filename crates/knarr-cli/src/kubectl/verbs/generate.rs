//! The objects that `create`, `run`, `expose` and `autoscale` make out of flags: each a plain function, with the empty parts that
//! kubectl's typed objects print.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use knarr_core::field::go_quote;
use knarr_core::quantity::Quantity;
use knarr_core::{Map, Value, ValueExt, json, names};

use crate::kubectl::failure::{Failure, Result, go_io};
use crate::kubectl::flags::Flags;

/// The name of a container after its image.
fn container_name(image: &str) -> String {
    let base = image.rsplit('/').next().unwrap_or(image);
    let base = base.split(':').next().unwrap_or(base);
    base.split('@').next().unwrap_or(base).to_owned()
}

/// A name that a container may have, and no other container has.
fn unique(name: &str, taken: &[String]) -> String {
    let clean: String = name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    let clean = clean.trim_matches('-').to_owned();
    if clean == name && !taken.contains(&clean) {
        return clean;
    }
    let suffix: String = (0..5).map(|_| char::from(b"bcdfghjklmnpqrstvwxz2456789"[rand::random_range(0..27)])).collect();
    format!("{clean}-{suffix}")
}

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {}, "status": {}})
}

pub fn service_account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

pub fn deployment(flags: &Flags, name: &str, command: &[String]) -> Result<Value> {
    let images = flags.all("image");
    if images.len() > 1 && !command.is_empty() {
        return Err("cannot specify multiple --image options and command".into());
    }
    let mut taken: Vec<String> = Vec::new();
    let mut containers = Vec::new();
    for image in &images {
        let own = unique(&container_name(image), &taken);
        taken.push(own.clone());
        let mut container = json!({"name": own, "image": image, "resources": {}});
        if !command.is_empty() {
            container["command"] = json!(command);
        }
        containers.push(container);
    }
    if flags.int("port") >= 0 {
        containers[0]["ports"] = json!([{"containerPort": flags.int("port")}]);
    }
    Ok(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": flags.int("replicas"), "selector": {"matchLabels": {"app": name}}, "strategy": {},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}}, "status": {}}))
}

/// `--from-literal`, `--from-file`, `--from-env-file`: keys with their bytes.
fn data(flags: &Flags, kind: &str, name: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let (files, literals, env) = (flags.all("from-file"), flags.all("from-literal"), flags.all("from-env-file"));
    if !env.is_empty() && !(files.is_empty() && literals.is_empty()) {
        return Err("from-env-file cannot be combined with from-file or from-literal".into());
    }
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for source in files {
        from_file(&source, &mut found)?;
    }
    for literal in literals {
        let (key, value) =
            literal.split_once('=').filter(|(k, _)| !k.is_empty()).ok_or_else(|| format!("invalid literal source {literal}, expected key=value"))?;
        // Quotes around the whole value are the shell's leftovers.
        let quoted = value.len() >= 2 && ((value.starts_with('"') && value.ends_with('"')) || (value.starts_with('\'') && value.ends_with('\'')));
        let value = if quoted { &value[1..value.len() - 1] } else { value };
        found.push((key.to_owned(), value.as_bytes().to_vec()));
    }
    for path in env {
        from_env_file(&path, &mut found)?;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (key, _) in &found {
        let bad = names::is_config_key(key);
        if !bad.is_empty() {
            return Err(format!("{} is not a valid key name for a {kind}: {}", go_quote(key), bad.join(",")).into());
        }
        if !seen.insert(key.clone()) {
            return Err(if kind == "ConfigMap" {
                format!("cannot add key {}, another key by that name already exists in Data for ConfigMap {}", go_quote(key), go_quote(name))
            } else {
                format!("cannot add key {key}, another key by that name already exists")
            }
            .into());
        }
    }
    Ok(found)
}

fn from_file(source: &str, found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let (key, path) = match source.split_once('=') {
        Some(("", _)) => return Err(format!("key name for file path {} missing", source.trim_start_matches('=')).into()),
        Some((key, "")) => return Err(format!("file path for key name {key} missing").into()),
        Some((key, path)) if path.contains('=') => {
            return Err(format!("key names or file paths cannot contain '=' ({key})").replace(&format!(" ({key})"), "").into());
        }
        Some((key, path)) => (Some(key), path),
        None => (None, source),
    };
    let meta = std::fs::metadata(path).map_err(|e| format!("error reading {path}: {}", go_io(&e)))?;
    let read = |path: &std::path::Path| std::fs::read(path).map_err(|e| Failure::from(format!("open {}: {}", path.display(), go_io(&e))));
    let base = |path: &std::path::Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let path = std::path::Path::new(path);
    if !meta.is_dir() {
        found.push((key.map_or_else(|| base(path), str::to_owned), read(path)?));
        return Ok(());
    }
    if key.is_some() {
        return Err("cannot give a key name for a directory path".into());
    }
    let mut inside: Vec<_> = std::fs::read_dir(path)?.flatten().map(|e| e.path()).filter(|p| p.symlink_metadata().is_ok_and(|m| m.is_file())).collect();
    inside.sort();
    for file in inside {
        found.push((base(&file), read(&file)?));
    }
    Ok(())
}

fn from_env_file(path: &str, found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let meta = std::fs::metadata(path).map_err(|e| format!("error reading {path}: {}", go_io(&e)))?;
    if meta.is_dir() {
        return Err("env config file cannot be a directory".into());
    }
    for line in std::fs::read_to_string(path)?.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((key, value)) => found.push((key.to_owned(), value.as_bytes().to_vec())),
            None => found.push((line.to_owned(), std::env::var(line).unwrap_or_default().into_bytes())),
        }
    }
    Ok(())
}

/// The hash that `--append-hash` puts after the name (`kubectl/pkg/util/hash`).
fn hash_suffix(kind: &str, object: &Value) -> String {
    let name = object.str_at(&["metadata", "name"]).unwrap_or_default();
    let mut encoded =
        json!({"kind": kind, "name": name, "data": object.at(&["data"]).cloned().unwrap_or_else(|| if kind == "Secret" { Value::Null } else { json!("") })});
    if kind == "Secret" {
        encoded["type"] = object.str_at(&["type"]).unwrap_or_default().into();
    }
    for key in ["binaryData", "immutable"] {
        if let Some(value) = object.at(&[key]) {
            encoded[key] = value.clone();
        }
    }
    use sha2::Digest as _;
    let digest = knarr_core::hex::encode(sha2::Sha256::digest(crate::kubectl::print::go::json_compact(&encoded)));
    digest[..10]
        .chars()
        .map(|c| match c {
            '0' => 'g',
            '1' => 'h',
            '3' => 'k',
            'a' => 'm',
            'e' => 't',
            c => c,
        })
        .collect()
}

fn with_hash(flags: &Flags, kind: &str, mut object: Value) -> Value {
    if flags.on("append-hash") {
        let name = format!("{}-{}", object.str_at(&["metadata", "name"]).unwrap_or_default(), hash_suffix(kind, &object));
        object.set(&["metadata", "name"], name);
    }
    object
}

pub fn config_map(flags: &Flags, name: &str) -> Result<Value> {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    for (key, bytes) in data(flags, "ConfigMap", name)? {
        match String::from_utf8(bytes) {
            Ok(text) => object.set(&["data", &key], text),
            Err(e) => object.set(&["binaryData", &key], STANDARD.encode(e.as_bytes())),
        }
    }
    Ok(with_hash(flags, "ConfigMap", object))
}

pub fn secret(flags: &Flags, name: &str) -> Result<Value> {
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    if let Some(kind) = flags.some("type") {
        object["type"] = kind.into();
    }
    for (key, bytes) in data(flags, "Secret", name)? {
        object.set(&["data", &key], STANDARD.encode(bytes));
    }
    Ok(with_hash(flags, "Secret", object))
}

pub fn secret_tls(flags: &Flags, name: &str) -> Result<Value> {
    let read = |flag: &str| {
        let path = flags.text(flag);
        std::fs::read(path).map_err(|e| Failure::from(format!("Cannot read file {path}, open {path}: {}", go_io(&e))))
    };
    if flags.text("key").is_empty() || flags.text("cert").is_empty() {
        return Err("key and cert must be specified".into());
    }
    let (cert, key) = (read("cert")?, read("key")?);
    let certificates = rustls_pem(&cert);
    if certificates == 0 {
        return Err("tls: failed to find any PEM data in certificate input".into());
    }
    let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
        "data": {"tls.crt": STANDARD.encode(cert), "tls.key": STANDARD.encode(key)}});
    Ok(with_hash(flags, "Secret", object))
}

fn rustls_pem(bytes: &[u8]) -> usize {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::pem_slice_iter(bytes).filter(|c| c.is_ok()).count()
}

pub fn secret_docker(flags: &Flags, name: &str) -> Result<Value> {
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "metadata": {"name": name}});
    let files = flags.all("from-file");
    let (user, password, server) = (flags.text("docker-username"), flags.text("docker-password"), flags.text("docker-server"));
    if files.is_empty() && (user.is_empty() || password.is_empty() || server.is_empty()) {
        return Err("either --from-file or the combination of --docker-username, --docker-password and --docker-server is required".into());
    }
    if files.is_empty() {
        let auth = STANDARD.encode(format!("{user}:{password}"));
        let mut entry = String::new();
        for (key, value) in [("username", user), ("password", password), ("email", flags.text("docker-email")), ("auth", auth.as_str())] {
            if !value.is_empty() {
                entry += &format!("{}\"{key}\":{}", if entry.is_empty() { "" } else { "," }, crate::kubectl::print::go::json_compact(&value.into()));
            }
        }
        let config = format!("{{\"auths\":{{{}:{{{entry}}}}}}}", crate::kubectl::print::go::json_compact(&server.into()));
        object.set(&["data", ".dockerconfigjson"], STANDARD.encode(config));
    } else {
        for (key, bytes) in data(flags, "Secret", name)? {
            object.set(&["data", &key], STANDARD.encode(bytes));
        }
    }
    Ok(with_hash(flags, "Secret", object))
}

pub fn job(flags: &Flags, name: &str, command: &[String]) -> Value {
    let mut container = json!({"name": name, "image": flags.text("image"), "resources": {}});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"metadata": {}, "spec": {"containers": [container], "restartPolicy": "Never"}}}, "status": {}})
}

/// A Job as a CronJob would have made it.
pub fn job_from(name: &str, cron: &Value) -> Value {
    let template = cron.at(&["spec", "jobTemplate"]).cloned().unwrap_or_default();
    let mut annotations = json!({"cronjob.kubernetes.io/instantiate": "manual"});
    for (key, value) in template.at(&["metadata", "annotations"]).and_then(Value::as_object).into_iter().flatten() {
        annotations[key] = value.clone();
    }
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "annotations": annotations,
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": cron["metadata"]["name"], "uid": cron["metadata"]["uid"], "controller": true}]},
        "spec": template.at(&["spec"]).cloned().unwrap_or_default(), "status": {}});
    if let Some(labels) = template.at(&["metadata", "labels"]) {
        job.set(&["metadata", "labels"], labels.clone());
    }
    job
}

pub fn cron_job(flags: &Flags, name: &str, command: &[String]) -> Value {
    let restart = if flags.text("restart").is_empty() { "OnFailure" } else { flags.text("restart") };
    let mut container = json!({"name": name, "image": flags.text("image"), "resources": {}});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": {"schedule": flags.text("schedule"),
        "jobTemplate": {"metadata": {"name": name}, "spec": {"template": {"metadata": {}, "spec": {"containers": [container], "restartPolicy": restart}}}}}, "status": {}})
}

/// `port[:target]` of a Service.
fn service_port(text: &str, node_port: i64) -> Result<Value> {
    let mut parts = text.split(':');
    let first = parts.next().unwrap_or_default();
    let port: u16 = first.parse().map_err(|_| {
        format!("strconv.ParseUint: parsing {}: {}", go_quote(first), if first.parse::<i64>().is_ok() { "value out of range" } else { "invalid syntax" })
    })?;
    let target: Value = match parts.next() {
        None => port.into(),
        Some(t) => match t.parse::<i64>() {
            Ok(n) if (1..=65535).contains(&n) => n.into(),
            Ok(_) => return Err("must be between 1 and 65535, inclusive".into()),
            Err(_) => t.into(),
        },
    };
    let mut made = json!({"name": text.replace(':', "-"), "port": port, "protocol": "TCP", "targetPort": target});
    if node_port > 0 {
        made["nodePort"] = node_port.into();
    }
    Ok(made)
}

pub fn service(flags: &Flags, name: &str, kind: &str) -> Result<Value> {
    let cluster_ip = flags.text("clusterip");
    let ports = flags.all("tcp");
    if cluster_ip == "None" && kind != "ClusterIP" {
        return Err("ClusterIP=None can only be used with ClusterIP service type".into());
    }
    if cluster_ip != "None" && ports.is_empty() && kind != "ExternalName" {
        return Err("at least one tcp port specifier must be provided".into());
    }
    if kind == "ExternalName" && !names::is_dns1123_subdomain(flags.text("external-name")).is_empty() {
        return Err(format!("invalid service external name {}", flags.text("external-name")).into());
    }
    let ports = ports.iter().map(|p| service_port(p, flags.int("node-port"))).collect::<Result<Vec<_>>>()?;
    let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"type": kind, "selector": {"app": name}}, "status": {"loadBalancer": {}}});
    if !ports.is_empty() {
        object["spec"]["ports"] = ports.into();
    }
    if !cluster_ip.is_empty() {
        object["spec"]["clusterIP"] = cluster_ip.into();
    }
    if kind == "ExternalName" {
        object["spec"]["externalName"] = flags.text("external-name").into();
    }
    Ok(object)
}

/// `a=b,c=d`
pub fn labels(text: &str) -> Result<Map<String, Value>> {
    let mut found = Map::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (key, value) = part.split_once('=').filter(|(_, v)| !v.contains('=')).ok_or_else(|| format!("unexpected label spec: {part}"))?;
        if key.is_empty() {
            return Err("unexpected empty label key".into());
        }
        found.insert(key.to_owned(), value.into());
    }
    Ok(found)
}

/// `cpu=1,memory=2Gi`
pub fn resource_list(text: &str) -> Result<Map<String, Value>> {
    let mut found = Map::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("Invalid argument syntax {part}, expected <resource>=<value>"))?;
        let quantity: Quantity =
            value.parse().map_err(|_| "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_owned())?;
        found.insert(key.to_owned(), quantity.to_string().into());
    }
    Ok(found)
}

pub fn quota(flags: &Flags, name: &str) -> Result<Value> {
    let mut spec = json!({});
    let hard = resource_list(flags.text("hard"))?;
    if !hard.is_empty() {
        spec["hard"] = Value::Object(hard);
    }
    if let Some(scopes) = flags.some("scopes") {
        spec["scopes"] = scopes.split(',').map(str::trim).collect::<Vec<_>>().into();
    }
    Ok(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec, "status": {}}))
}

/// A number, or a percentage.
fn int_or_string(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| text.into(), Value::from)
}

pub fn disruption_budget(flags: &Flags, name: &str) -> Result<Value> {
    let (selector, min, max) = (flags.text("selector"), flags.text("min-available"), flags.text("max-unavailable"));
    if selector.is_empty() {
        return Err("a selector must be specified".into());
    }
    if min.is_empty() == max.is_empty() {
        return Err(if min.is_empty() {
            "one of min-available or max-unavailable must be specified"
        } else {
            "min-available and max-unavailable cannot be both specified"
        }
        .into());
    }
    let mut spec = json!({"selector": selector_object(selector)?});
    let (key, value) = if min.is_empty() { ("maxUnavailable", max) } else { ("minAvailable", min) };
    spec[key] = int_or_string(value);
    Ok(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec,
        "status": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}}))
}

/// A label selector as an object has it.
fn selector_object(text: &str) -> Result<Value> {
    knarr_core::selector::LabelSelector::parse(text).map_err(|e| format!("couldn't parse the selector string \"{text}\": {e}"))?;
    let mut object = json!({});
    for part in text.split(',') {
        if let Some((key, value)) = part.split_once("!=") {
            let expressions = object.ensure(&["matchExpressions"]);
            if !expressions.is_array() {
                *expressions = json!([]);
            }
            expressions.as_array_mut().into_iter().for_each(|l| l.push(json!({"key": key.trim(), "operator": "NotIn", "values": [value.trim()]})));
        } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            object.set(&["matchLabels", key.trim()], value.trim());
        }
    }
    Ok(object)
}

pub fn priority_class(flags: &Flags, name: &str) -> Value {
    let mut object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": flags.int("value"),
        "preemptionPolicy": flags.text("preemption-policy")});
    if flags.on("global-default") {
        object["globalDefault"] = true.into();
    }
    if let Some(text) = flags.some("description") {
        object["description"] = text.into();
    }
    object
}

/// A rule for a host: `host/path*=service:port[,tls[=secret]]`.
fn ingress_path(text: &str) -> Result<(Value, String)> {
    let rule = text.split(',').next().unwrap_or_default();
    let bad = || Failure::from(format!("rule {text} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"));
    let (host, rest) = rule.split_once('/').ok_or_else(bad)?;
    let (path, service) = rest.split_once('=').ok_or_else(bad)?;
    let path = format!("/{path}");
    let (path, kind) = path.strip_suffix('*').map_or((path.as_str(), "Exact"), |p| (p, "Prefix"));
    Ok((json!({"path": path, "pathType": kind, "backend": ingress_backend(service).ok_or_else(bad)?}), host.to_owned()))
}

fn ingress_backend(text: &str) -> Option<Value> {
    let (name, port) = text.split_once(':')?;
    let port = port.parse::<i64>().map_or_else(|_| json!({"name": port}), |n| json!({"number": n}));
    Some(json!({"service": {"name": name, "port": port}}))
}

pub fn ingress(flags: &Flags, name: &str) -> Result<Value> {
    let (rules, default) = (flags.all("rule"), flags.text("default-backend"));
    if rules.is_empty() && default.is_empty() {
        return Err("not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)".into());
    }
    let mut spec = json!({});
    if let Some(class) = flags.some("class") {
        spec["ingressClassName"] = class.into();
    }
    if !default.is_empty() {
        spec["defaultBackend"] = ingress_backend(default).ok_or("default-backend should be in format servicename:serviceport")?;
    }
    let (mut hosts, mut tls): (Vec<(String, Vec<Value>)>, Vec<Value>) = (Vec::new(), Vec::new());
    for rule in &rules {
        let (path, host) = ingress_path(rule)?;
        match hosts.iter_mut().find(|(h, _)| *h == host) {
            Some((_, paths)) => paths.push(path),
            None => hosts.push((host.clone(), vec![path])),
        }
        let Some((_, option)) = rule.split_once(',') else { continue };
        let secret = option.split_once('=').map_or("", |(_, s)| s);
        if tls.iter().any(|t| t.list_at(&["hosts"]).iter().any(|h| *h == host)) {
            continue;
        }
        match tls.iter_mut().find(|t| t.str_at(&["secretName"]).unwrap_or_default() == secret) {
            Some(entry) => entry["hosts"].as_array_mut().into_iter().for_each(|l| l.push(host.clone().into())),
            None => {
                let mut entry = json!({});
                if !host.is_empty() {
                    entry["hosts"] = json!([host]);
                }
                if !secret.is_empty() {
                    entry["secretName"] = secret.into();
                }
                tls.push(entry);
            }
        }
    }
    if !tls.is_empty() {
        spec["tls"] = tls.into();
    }
    let rules: Vec<Value> = hosts
        .into_iter()
        .map(|(host, paths)| if host.is_empty() { json!({"http": {"paths": paths}}) } else { json!({"host": host, "http": {"paths": paths}}) })
        .collect();
    if !rules.is_empty() {
        spec["rules"] = rules.into();
    }
    let mut object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name}, "spec": spec, "status": {"loadBalancer": {}}});
    for annotation in flags.all("annotation") {
        let (key, value) = annotation.split_once('=').ok_or_else(|| format!("annotation {annotation} is invalid and should be in format key=[value]"))?;
        object.set(&["metadata", "annotations", key], value);
    }
    Ok(object)
}

/// Subjects of a binding.
fn subjects(flags: &Flags) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for user in flags.all("user") {
        found.push(json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}));
    }
    for group in flags.all("group") {
        found.push(json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": group}));
    }
    for account in flags.all("serviceaccount") {
        let (namespace, name) = account.split_once(':').filter(|(ns, n)| !ns.is_empty() && !n.is_empty()).ok_or("serviceaccount must be <namespace>:<name>")?;
        found.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
    }
    Ok(found)
}

pub fn binding(flags: &Flags, name: &str, cluster: bool) -> Result<Value> {
    let (role, cluster_role) = (if cluster { "" } else { flags.text("role") }, flags.text("clusterrole"));
    if role.is_empty() == cluster_role.is_empty() {
        return Err("exactly one of clusterrole or role must be specified".into());
    }
    let (kind, target) = if role.is_empty() { ("ClusterRole", cluster_role) } else { ("Role", role) };
    let mut object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": if cluster { "ClusterRoleBinding" } else { "RoleBinding" }, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": target}});
    let subjects = subjects(flags)?;
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    Ok(object)
}

/// The autoscaler of a workload.
pub fn autoscaler(flags: &Flags, name: &str, api_version: &str, kind: &str, target: &str) -> Result<Value> {
    let mut metrics = Vec::new();
    let metric = |resource: &str, target: Value| json!({"type": "Resource", "resource": {"name": resource, "target": target}});
    if flags.int("cpu-percent") > 0 {
        metrics.push(metric("cpu", json!({"type": "Utilization", "averageUtilization": flags.int("cpu-percent")})));
    }
    for resource in ["cpu", "memory"] {
        if let Some(text) = flags.some(resource) {
            metrics.push(metric(resource, metric_target(resource, text)?));
        }
    }
    let mut spec = json!({"scaleTargetRef": {"apiVersion": api_version, "kind": kind, "name": target}, "maxReplicas": flags.int("max")});
    if flags.int("min") > 0 {
        spec["minReplicas"] = flags.int("min").into();
    }
    if !metrics.is_empty() {
        spec["metrics"] = metrics.into();
    }
    Ok(json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": spec,
        "status": {"desiredReplicas": 0, "currentMetrics": null}}))
}

fn metric_target(resource: &str, text: &str) -> Result<Value> {
    if let Some(percent) = text.strip_suffix('%') {
        let n: i64 = percent.parse().map_err(|_| format!("invalid percentage value: {percent}"))?;
        return Ok(json!({"type": "Utilization", "averageUtilization": n}));
    }
    let quantity: Quantity = text.parse().map_err(|_| format!("invalid resource {resource} value: {text}"))?;
    Ok(json!({"type": "AverageValue", "averageValue": quantity.to_string()}))
}

/// Takes the empty parts out that only printing shows: what is sent to the server.
pub fn to_send(object: &Value) -> Value {
    let mut object = object.clone();
    object.as_object_mut().into_iter().for_each(|m| drop(m.remove("status")));
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_named_after_images() {
        for (image, wanted) in [("registry:5000/a/nginx:1.27", "nginx"), ("nginx@sha256:0", "nginx"), ("a/b", "b")] {
            assert_eq!(container_name(image), wanted);
        }
        assert_eq!(unique("nginx", &[]), "nginx");
        assert!(unique("nginx", &["nginx".into()]).starts_with("nginx-"));
        assert!(unique("a_b", &[]).starts_with("a-b-"));
    }

    #[test]
    fn rules_of_an_ingress_share_hosts_and_secrets() {
        let (path, host) = ingress_path("a.b/x*=svc:80,tls=s").unwrap();
        assert_eq!((path["path"].as_str(), path["pathType"].as_str(), host.as_str()), (Some("/x"), Some("Prefix"), "a.b"));
        assert_eq!(path["backend"]["service"]["port"]["number"], 80);
        assert!(ingress_path("nonsense").is_err());
    }

    #[test]
    fn lists_of_pairs_are_read() {
        assert_eq!(Value::Object(labels("a=b,c=").unwrap()), json!({"a": "b", "c": ""}));
        assert_eq!(labels("a").unwrap_err().to_string(), "error: unexpected label spec: a");
        assert_eq!(Value::Object(resource_list("cpu=1,memory=2048Mi").unwrap()), json!({"cpu": "1", "memory": "2Gi"}));
        assert_eq!(service_port("80:http", 0).unwrap(), json!({"name": "80-http", "port": 80, "protocol": "TCP", "targetPort": "http"}));
    }
}
