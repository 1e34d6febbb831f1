//! `kubectl port-forward`, over WebSocket (`v2.portforward.k8s.io`'s SPDY frames are not needed: each connection has a socket of its own).

use std::net::IpAddr;
use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use knarr_core::{Value, ValueExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::pods::{first_pod, pods_of};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{list, time};
use crate::kubectl::select::{Info, Selection};

/// The two channels of the first port: data, and errors.
const DATA: u8 = 0;
const ERROR: u8 = 1;
/// Bytes in one frame at most.
const FRAME_MAX: usize = 32 << 10;

pub static VERB: Verb = Verb {
    name: "port-forward",
    usage: "TYPE/NAME [options] [LOCAL_PORT:]REMOTE_PORT [...[LOCAL_PORT_N:]REMOTE_PORT_N] [flags]",
    about: "Forward one or more local ports to a pod",
    flags: &[&[
        list("address", "Addresses to listen on (comma separated); localhost by default"),
        time("pod-running-timeout", "1m0s", "How long to wait until at least one pod is running"),
    ]],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let [target, ports @ ..] = cx.words() else { return Err(cx.usage("TYPE/NAME and list of ports are required for port-forward")) };
    if ports.is_empty() {
        return Err(cx.usage("TYPE/NAME and list of ports are required for port-forward"));
    }
    let session = cx.session()?;
    let words = if target.contains('/') { vec![target.clone()] } else { vec!["pods".to_owned(), target.clone()] };
    let info = Selection::of(session, &cx.flags).objects(&words).await?.all()?.into_iter().next().ok_or("no object")?;
    let pod = match info.meant.kind.as_str() {
        "Pod" => info.object.clone(),
        _ => first_pod(pods_of(session, &info).await?).ok_or("timed out waiting for the condition")?,
    };
    let phase = pod.str_at(&["status", "phase"]).unwrap_or_default();
    if phase != "Running" {
        return Err(format!("unable to forward port because pod is not running. Current status={phase}").into());
    }
    let text = |key: &str| pod.str_at(&["metadata", key]).unwrap_or_default().to_owned();
    let base = Arc::new(format!("/api/v1/namespaces/{}/pods/{}/portforward", text("namespace"), text("name")));
    let mut tasks = tokio::task::JoinSet::new();
    for spec in ports {
        let (local, remote) = port_pair(spec, &info, &pod)?;
        for (shown, address) in addresses(&cx.flags.all("address"))? {
            let listener = match TcpListener::bind((address, local)).await {
                Ok(listener) => listener,
                // A machine without IPv6 listens on the other address only.
                Err(_) if address.is_ipv6() && shown == "localhost" => continue,
                Err(e) => return Err(format!("unable to listen on port {local}: Listeners failed to create with the following errors: [unable to create listener: Error listen tcp4 {address}:{local}: bind: {}]", crate::kubectl::failure::go_io(&e)).into()),
            };
            let at = listener.local_addr()?;
            println!("Forwarding from {at} -> {remote}");
            let (transport, path) = (session.transport.clone(), base.clone());
            tasks.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    println!("Handling connection for {}", at.port());
                    let (transport, path) = (transport.clone(), path.clone());
                    tokio::spawn(async move {
                        if let Err(e) = forward(&transport, &path, remote, stream).await {
                            eprintln!("an error occurred forwarding {} -> {remote}: {e}", at.port());
                        }
                    });
                }
            });
        }
    }
    if tasks.is_empty() {
        return Err("unable to listen on any of the requested ports".into());
    }
    tokio::select! {
        _ = tasks.join_next() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

fn addresses(named: &[String]) -> Result<Vec<(String, IpAddr)>> {
    let named = if named.is_empty() { vec!["localhost".to_owned()] } else { named.to_vec() };
    let mut found = Vec::new();
    for name in named {
        if name == "localhost" {
            found.push((name.clone(), IpAddr::from([127, 0, 0, 1])));
            found.push((name, IpAddr::from(std::net::Ipv6Addr::LOCALHOST)));
        } else {
            let address = name.parse().map_err(|_| format!("{name} is not a valid IP"))?;
            found.push((name, address));
        }
    }
    Ok(found)
}

/// `8080:80`, `:80`, `80`, `8080:http`; a Service's port becomes its pod's.
fn port_pair(spec: &str, info: &Info, pod: &Value) -> Result<(u16, u16)> {
    let (local, remote) = spec.split_once(':').map_or((spec, spec), |(l, r)| (if l.is_empty() { "0" } else { l }, r));
    if remote.is_empty() {
        return Err("remote port cannot be empty".into());
    }
    let mut remote_port = remote.parse::<u16>().ok();
    if info.meant.kind == "Service" {
        remote_port = Some(service_port(info, pod, remote)?);
    } else if remote_port.is_none() {
        remote_port = named_port(pod, remote);
    }
    let remote_port = remote_port.ok_or_else(|| format!("Pod '{}' does not have a named port '{remote}'", info.name))?;
    let local_port = match local.parse::<u16>() {
        Ok(port) => port,
        Err(_) if local == remote => remote_port,
        Err(_) => return Err(format!("error parsing local port '{local}': strconv.ParseUint: parsing \"{local}\": invalid syntax").into()),
    };
    Ok((local_port, remote_port))
}

fn named_port(pod: &Value, name: &str) -> Option<u16> {
    let ports = pod.list_at(&["spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"]));
    ports.into_iter().find(|p| p.str_at(&["name"]) == Some(name)).and_then(|p| p.i64_at(&["containerPort"])).and_then(|p| u16::try_from(p).ok())
}

fn service_port(info: &Info, pod: &Value, wanted: &str) -> Result<u16> {
    let number = wanted.parse::<i64>().ok();
    let port = info
        .object
        .list_at(&["spec", "ports"])
        .iter()
        .find(|p| if number.is_some() { p.i64_at(&["port"]) == number } else { p.str_at(&["name"]) == Some(wanted) });
    let port = port.ok_or_else(|| match number {
        Some(n) => format!("Service {} does not have a service port {n}", info.name),
        None => format!("Service '{}' does not have a named port '{wanted}'", info.name),
    })?;
    let headless = info.object.str_at(&["spec", "clusterIP"]) == Some("None");
    let target = match port.at(&["targetPort"]) {
        _ if headless && number.is_some() => port.i64_at(&["port"]).and_then(|p| u16::try_from(p).ok()),
        Some(Value::String(name)) => named_port(pod, name),
        Some(target) => target.as_i64().filter(|t| *t > 0).or_else(|| port.i64_at(&["port"])).and_then(|p| u16::try_from(p).ok()),
        None => port.i64_at(&["port"]).and_then(|p| u16::try_from(p).ok()),
    };
    target.ok_or_else(|| format!("Pod '{}' does not have a named port '{wanted}'", info.name).into())
}

/// Joins one local connection with a port of the pod.
async fn forward(transport: &knarr_client::TlsTransport, path: &str, port: u16, stream: TcpStream) -> Result<()> {
    let request = http::Request::get(format!("{path}?ports={port}"))
        .header(http::header::CONNECTION, "Upgrade")
        .header(http::header::UPGRADE, "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "a25hcnIga25hcnIga25hcg==")
        .header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        .body(bytes::Bytes::new())
        .map_err(|e| e.to_string())?;
    let (response, upgraded) = transport.upgrade(request).await.map_err(|e| e.to_string())?;
    let upgraded = upgraded.ok_or_else(|| Failure::from(String::from_utf8_lossy(response.body()).into_owned()))?;
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    let (mut to_pod, mut from_pod) = socket.split();
    let (mut read, mut write) = stream.into_split();
    // Both channels begin with the number of the port.
    let (mut data_begun, mut error_begun) = (false, false);
    let mut buffer = vec![0; FRAME_MAX];
    let mut reading = true;
    loop {
        tokio::select! {
            count = read.read(&mut buffer), if reading => match count? {
                0 => reading = false,
                count => {
                    let mut frame = Vec::with_capacity(count + 1);
                    frame.push(DATA);
                    frame.extend_from_slice(&buffer[..count]);
                    to_pod.send(Message::Binary(frame.into())).await.map_err(|e| e.to_string())?;
                }
            },
            message = from_pod.next() => match message {
                Some(Ok(Message::Binary(data))) => match data.split_first() {
                    Some((&DATA, rest)) => {
                        let rest = if std::mem::replace(&mut data_begun, true) { rest } else { rest.get(2..).unwrap_or_default() };
                        write.write_all(rest).await?;
                    }
                    Some((&ERROR, rest)) => {
                        let rest = if std::mem::replace(&mut error_begun, true) { rest } else { rest.get(2..).unwrap_or_default() };
                        if !rest.is_empty() {
                            return Err(String::from_utf8_lossy(rest).into_owned().into());
                        }
                    }
                    _ => {}
                },
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.to_string().into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::resources::known;
    use knarr_core::json;

    #[test]
    fn ports_have_names_and_services_have_targets() {
        let pod = json!({"spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let of = |kind: &str, object: Value| Info { object, ..Info::of(&known(kind), Value::Null) };
        let plain = of("pods", pod.clone());
        assert_eq!(port_pair("80", &plain, &pod).unwrap(), (80, 80));
        assert_eq!(port_pair(":80", &plain, &pod).unwrap(), (0, 80));
        assert_eq!(port_pair("9000:http", &plain, &pod).unwrap(), (9000, 8080));
        assert!(port_pair("9000:", &plain, &pod).is_err());
        let service = of("services", json!({"spec": {"clusterIP": "1.2.3.4", "ports": [{"port": 80, "targetPort": "http"}]}}));
        assert_eq!(port_pair("80", &service, &pod).unwrap(), (80, 8080));
        assert!(port_pair("81", &service, &pod).is_err());
    }
}
