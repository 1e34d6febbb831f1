//! How the API server serves, by kube-apiserver's flags: times, limits, what browsers and balancers of load are told. The API server alone
//! and a cluster's own both read them here.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use knarr_apiserver::Config;
use knarr_apiserver::http::{Cors, Limits, transport_security};
use knarr_cli::cluster::failure::{Exit, Failure, Result};
use knarr_core::go;

use super::flags::Flags;
use super::values;

/// Flags that are read here.
pub const FLAGS: &[&str] = &[
    "cors-allowed-origins",
    "disabled-metrics",
    "event-ttl",
    "external-hostname",
    "goaway-chance",
    "http2-max-streams-per-connection",
    "kubernetes-service-node-port",
    "livez-grace-period",
    "max-mutating-requests-inflight",
    "max-requests-inflight",
    "min-request-timeout",
    "profiling",
    "request-timeout",
    "service-node-port-range",
    "strict-transport-security-directives",
];
/// More would make clients come anew all the time (upstream: `ServerRunOptions.Validate`).
const GOAWAY_CHANCE_MAX: f64 = 0.02;

/// What the flags say, and of everything else what `own` says.
///
/// # Errors
/// What upstream refuses (`ServerRunOptions.Validate`).
pub fn config(flags: &Flags, own: Config) -> Result<Config> {
    let (read_inflight_max, write_inflight_max) = inflight(flags, &own)?;
    Ok(Config {
        cors: Cors::new(values_of(flags, "cors-allowed-origins")).map_err(refused)?,
        transport_security: transport_security(values_of(flags, "strict-transport-security-directives")).map_err(refused)?,
        disabled_metrics: flags.list("disabled-metrics").into_iter().map(str::to_owned).collect(),
        event_ttl: duration(flags, "event-ttl")?.unwrap_or(own.event_ttl),
        goaway_chance: goaway_chance(flags)?,
        livez_grace: duration(flags, "livez-grace-period")?.unwrap_or(own.livez_grace),
        request_timeout: duration(flags, "request-timeout")?.unwrap_or(own.request_timeout),
        watch_timeout_min: count(flags, "min-request-timeout")?.map_or(own.watch_timeout_min, Duration::from_secs),
        node_ports: node_ports(flags)?.unwrap_or_else(|| own.node_ports.clone()),
        profiling: flags.is_on("profiling", true),
        read_inflight_max,
        write_inflight_max,
        ..own
    })
}

/// What one client may take, by the flags, and of everything else what `own` says.
///
/// # Errors
/// A number of streams that is none.
pub fn limits(flags: &Flags, own: Limits) -> Result<Limits> {
    let streams: Option<i64> = flags.parsed("http2-max-streams-per-connection")?;
    let streams_max = streams.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(own.streams_max);
    Ok(Limits { streams_max, http2: !flags.is_on("disable-http2-serving", false), ..own })
}

/// `host:port` that clients are told: the host of the flag, or what the server has of its own.
pub fn external_address(flags: &Flags, own: SocketAddr) -> String {
    let Some(host) = flags.get("external-hostname") else { return own.to_string() };
    let has_port = host.rsplit_once(':').is_some_and(|(name, _)| !name.contains(':') || name.starts_with('[') && name.ends_with(']'));
    match (has_port, host.contains(':')) {
        (true, _) => host.to_owned(),
        (false, true) => format!("[{host}]:{}", own.port()),
        (false, false) => format!("{host}:{}", own.port()),
    }
}

/// The port of every node by which the Service `kubernetes` is reached; none unless it is asked for.
///
/// # Errors
/// A port that is none, or that no Service may have.
pub fn kubernetes_node_port(flags: &Flags, node_ports: &RangeInclusive<u16>) -> Result<Option<u16>> {
    const RANGE: &str = "must be between 0 and 65535, inclusive. If 0, the Kubernetes master service will be of type ClusterIP";
    let Some(given) = flags.parsed::<i64>("kubernetes-service-node-port")?.filter(|port| *port != 0) else { return Ok(None) };
    let port = u16::try_from(given).map_err(|_| refused(format!("--kubernetes-service-node-port {given} {RANGE}")))?;
    if node_ports.contains(&port) {
        return Ok(Some(port));
    }
    Err(refused(format!("kubernetes service node port range {}-{} doesn't contain {port}", node_ports.start(), node_ports.end())))
}

/// A time of a flag.
///
/// # Errors
/// One below zero.
pub fn duration(flags: &Flags, name: &str) -> Result<Option<Duration>> {
    let Some(text) = flags.get(name) else { return Ok(None) };
    let duration = go::parse_duration(text).map_err(|why| refused(format!("--{name}: {why}")))?;
    Duration::try_from(duration).map(Some).map_err(|_| negative(name))
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::new("USAGE", Exit::Usage, why, "see kube-apiserver --help")
}

fn negative(name: &str) -> Failure {
    let article = if name == "livez-grace-period" { "a " } else { "" };
    refused(format!("--{name} can not be {article}negative value"))
}

/// The values of a list, empty ones too: what makes no sense of those is told.
fn values_of<'a>(flags: &'a Flags, name: &str) -> impl Iterator<Item = &'a str> {
    flags.all(name).filter(|value| !value.is_empty()).flat_map(|value| value.split(','))
}

/// A number that is not below zero.
fn count(flags: &Flags, name: &str) -> Result<Option<u64>> {
    let number: Option<i64> = flags.parsed(name)?;
    number.map(|n| u64::try_from(n).map_err(|_| negative(name))).transpose()
}

fn goaway_chance(flags: &Flags) -> Result<f64> {
    let chance: f64 = flags.parsed("goaway-chance")?.unwrap_or(0.0);
    let good = (0.0..=GOAWAY_CHANCE_MAX).contains(&chance);
    good.then_some(chance).ok_or_else(|| refused("--goaway-chance can not be less than 0 or greater than 0.02"))
}

/// Upstream's two limits, whose sum is what counts.
fn inflight(flags: &Flags, own: &Config) -> Result<(usize, usize)> {
    let limit = |name: &str, own: usize| -> Result<usize> {
        let given = count(flags, name)?.map(|n| usize::try_from(n).map_err(|_| refused(format!("--{name}={n} is more than can be counted")))).transpose()?;
        Ok(given.unwrap_or(own))
    };
    let (read, write) = (limit("max-requests-inflight", own.read_inflight_max)?, limit("max-mutating-requests-inflight", own.write_inflight_max)?);
    if read.saturating_add(write) == 0 {
        // Upstream means no limit by it, where there is no flow control to be had.
        if !flags.is_on("enable-priority-and-fairness", true) {
            return Ok((own.read_inflight_max, own.write_inflight_max));
        }
        let what = "invalid configuration: MaxRequestsInFlight=0 and MaxMutatingRequestsInFlight=0; they must add up to something positive";
        return Err(refused(what));
    }
    Ok((read, write))
}

fn node_ports(flags: &Flags) -> Result<Option<RangeInclusive<u16>>> {
    let range = values::port_range(flags.get("service-node-port-range").unwrap_or_default()).map_err(refused)?;
    Ok(range.map(|(low, high)| low..=high))
}

#[cfg(test)]
mod tests {
    use super::super::flags::Known;
    use super::super::kube_apiserver;
    use super::*;

    fn flags(args: &[&str]) -> Flags {
        let args: Vec<String> = args.iter().map(|a| format!("--{a}")).collect();
        Known::new(kube_apiserver::FLAGS).parse(&args).unwrap()
    }

    fn read(args: &[&str]) -> std::result::Result<Config, String> {
        config(&flags(args), Config::default()).map_err(|e| e.cause)
    }

    #[test]
    fn what_is_not_said_stays() {
        let (read, own) = (read(&[]).unwrap(), Config::default());
        assert_eq!(format!("{read:?}"), format!("{own:?}"));
        assert_eq!(limits(&flags(&[]), Limits::default()).unwrap().streams_max, Limits::default().streams_max);
    }

    #[test]
    fn flags_become_the_configuration() {
        let config = read(&[
            "cors-allowed-origins=//a\\.example(:|$),^https://b$",
            "disabled-metrics=apiserver_request_total",
            "event-ttl=5m",
            "goaway-chance=0.01",
            "livez-grace-period=3s",
            "max-requests-inflight=0",
            "min-request-timeout=60",
            "profiling=false",
            "request-timeout=90s",
            "service-node-port-range=31000+99",
            "strict-transport-security-directives=max-age=1,preload",
        ])
        .unwrap();
        assert_eq!(config.transport_security.as_ref().map(|v| v.as_bytes()), Some(&b"max-age=1; preload"[..]));
        assert_eq!((config.event_ttl, config.livez_grace), (Duration::from_secs(300), Duration::from_secs(3)));
        assert_eq!((config.request_timeout, config.watch_timeout_min), (Duration::from_secs(90), Duration::from_secs(60)));
        assert_eq!((config.read_inflight_max, config.write_inflight_max), (0, 200));
        assert_eq!((config.node_ports, config.goaway_chance, config.profiling), (31000..=31099, 0.01, false));
        assert!(config.disabled_metrics.contains("apiserver_request_total"));
        let limits = limits(&flags(&["http2-max-streams-per-connection=7", "disable-http2-serving"]), Limits::default()).unwrap();
        assert_eq!((limits.streams_max, limits.http2), (7, false));
        // As kwok starts it.
        let unlimited = read(&["max-requests-inflight=0", "max-mutating-requests-inflight=0", "enable-priority-and-fairness=false"]).unwrap();
        assert_eq!(unlimited.read_inflight_max, Config::default().read_inflight_max);
    }

    #[test]
    fn what_upstream_refuses_is_refused_in_its_words() {
        for (args, why) in [
            (&["request-timeout=-5s"][..], "--request-timeout can not be negative value"),
            (&["livez-grace-period=-1s"], "--livez-grace-period can not be a negative value"),
            (&["min-request-timeout=-1"], "--min-request-timeout can not be negative value"),
            (&["max-requests-inflight=-1"], "--max-requests-inflight can not be negative value"),
            (&["goaway-chance=0.03"], "--goaway-chance can not be less than 0 or greater than 0.02"),
            (&["strict-transport-security-directives=preload,"], "empty value in strict-transport-security-directives"),
            (
                &["max-requests-inflight=0", "max-mutating-requests-inflight=0"],
                "invalid configuration: MaxRequestsInFlight=0 and MaxMutatingRequestsInFlight=0; they must add up to something positive",
            ),
        ] {
            assert_eq!(read(args).unwrap_err(), why);
        }
        assert!(read(&["cors-allowed-origins=example.com"]).unwrap_err().contains("does not pin to start/end of host"));
    }

    #[test]
    fn the_service_is_given_a_port_of_every_node() {
        let port = |arg: &str| kubernetes_node_port(&flags(&[arg]), &(30000..=32767)).map_err(|e| e.cause);
        assert_eq!(port("kubernetes-service-node-port=30443"), Ok(Some(30443)));
        assert_eq!(port("kubernetes-service-node-port=0"), Ok(None));
        assert_eq!(port("kubernetes-service-node-port=80"), Err("kubernetes service node port range 30000-32767 doesn't contain 80".into()));
        assert!(port("kubernetes-service-node-port=-1").unwrap_err().starts_with("--kubernetes-service-node-port -1 must be between 0 and 65535"));
    }

    #[test]
    fn clients_are_told_the_host_of_the_flag() {
        let own: SocketAddr = "192.0.2.1:6443".parse().unwrap();
        let told = |arg: &str| external_address(&flags(&[arg]), own);
        assert_eq!(external_address(&flags(&[]), own), "192.0.2.1:6443");
        assert_eq!(told("external-hostname=api.example"), "api.example:6443");
        assert_eq!(told("external-hostname=api.example:443"), "api.example:443");
        assert_eq!(told("external-hostname=2001:db8::1"), "[2001:db8::1]:6443");
        assert_eq!(told("external-hostname=[2001:db8::1]:443"), "[2001:db8::1]:443");
    }
}
