//! `kubectl create -f`, and the shortest generators.

use clap::Subcommand;
use knarr_core::{Value, json};

use super::apply::place;
use crate::kubectl::manifest::Files;
use crate::kubectl::session::{Result, Session};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    #[command(subcommand)]
    generator: Option<Generator>,
}

#[derive(Subcommand)]
enum Generator {
    /// Create a namespace
    #[command(alias = "ns")]
    Namespace { name: String },
    /// Create a deployment
    #[command(alias = "deploy")]
    Deployment {
        name: String,
        #[arg(long, required = true)]
        image: Vec<String>,
        #[arg(long, default_value_t = 1)]
        replicas: i32,
        #[arg(long)]
        port: Option<i32>,
        /// Command of the container
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Create a config map from literals
    #[command(alias = "cm")]
    Configmap {
        name: String,
        #[arg(long)]
        from_literal: Vec<String>,
    },
    /// Create a service account
    #[command(alias = "sa")]
    Serviceaccount { name: String },
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    let objects = match &args.generator {
        Some(generator) => vec![generate(generator)?],
        None => args.files.read()?,
    };
    for object in objects {
        let (meant, _, api) = place(session, &object).await?;
        let created = knarr_client::read::value(&api.create(object).await?)?;
        println!("{}/{} created", meant.title, created["metadata"]["name"].as_str().unwrap_or_default());
    }
    Ok(())
}

fn generate(generator: &Generator) -> Result<Value> {
    Ok(match generator {
        Generator::Namespace { name } => json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        Generator::Serviceaccount { name } => json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}),
        Generator::Configmap { name, from_literal } => {
            let mut data = serde_json::Map::new();
            for literal in from_literal {
                let (key, value) = literal.split_once('=').ok_or_else(|| format!("invalid literal source {literal}, expected key=value"))?;
                data.insert(key.to_owned(), value.into());
            }
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
        }
        Generator::Deployment { name, image, replicas, port, command } => deployment(name, image, *replicas, *port, command),
    })
}

fn deployment(name: &str, images: &[String], replicas: i32, port: Option<i32>, command: &[String]) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .map(|image| {
            let base = image.rsplit('/').next().unwrap_or(image);
            let mut container = json!({"name": base.split([':', '@']).next().unwrap_or(base), "image": image});
            if !command.is_empty() {
                container["command"] = json!(command);
            }
            if let Some(port) = port {
                container["ports"] = json!([{"containerPort": port}]);
            }
            container
        })
        .collect();
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_after_its_image() {
        let made = deployment("web", &["registry:5000/a/nginx:1.27".into()], 2, Some(80), &[]);
        let container = &made["spec"]["template"]["spec"]["containers"][0];
        assert_eq!((container["name"].as_str(), container["ports"][0]["containerPort"].as_i64()), (Some("nginx"), Some(80)));
    }
}
