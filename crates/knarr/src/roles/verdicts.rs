//! What becomes of each flag of kube-apiserver: it is acted on, it is refused, or it changes nothing. `docs/flags.md` tells it to people; the
//! tests here hold list and code together.

use knarr_cli::cluster::failure::{Exit, Failure, Result};

use super::flags::Flags;
use super::{access, audit, encryption, gates, kube_apiserver, service_accounts, serving, telemetry, tls};

/// What a flag does to the server alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Acts,
    /// Taken and named in the log.
    Nothing,
    Refused,
}

/// Flags that the server alone and a cluster's own act on alike.
const COMMON: &[&[&str]] =
    &[access::FLAGS, audit::FLAGS, encryption::FLAGS, gates::FLAGS, service_accounts::FLAGS, serving::FLAGS, telemetry::FLAGS, tls::FLAGS];

/// A flag whose silent loss would leave a server less safe, or another one than was asked for.
struct Refusal {
    flag: &'static str,
    /// Values that ask for nothing else than what is done anyway.
    taken: &'static [&'static str],
    why: &'static str,
}

const REFUSALS: &[Refusal] = &[
    Refusal { flag: "admission-control", taken: &[], why: "plugins are chosen by --enable-admission-plugins and --disable-admission-plugins" },
    Refusal { flag: "aggregator-reject-forwarding-redirect", taken: &["true"], why: "redirects of aggregated servers are never handed on" },
    Refusal {
        flag: "allow-privileged",
        taken: &["true"],
        why: "privileged pods are kept out by PodSecurity: label the namespaces, or set its defaults by --admission-control-config-file",
    },
    Refusal { flag: "authorization-policy-file", taken: &[], why: "there is no ABAC: use RBAC, or a webhook" },
    Refusal { flag: "egress-selector-config-file", taken: &[], why: "connections go out directly" },
    Refusal { flag: "emulated-version", taken: &["1.37", "kube=1.37"], why: "this is 1.37 and emulates no other version" },
    Refusal { flag: "emulation-forward-compatible", taken: &["false"], why: "no other version is emulated" },
    Refusal { flag: "etcd-servers-overrides", taken: &[], why: "all objects lie in one store" },
    Refusal { flag: "max-connection-bytes-per-sec", taken: &["0"], why: "connections are not slowed down" },
    Refusal { flag: "runtime-config-emulation-forward-compatible", taken: &["false"], why: "no other version is emulated" },
    Refusal { flag: "service-account-signing-endpoint", taken: &[], why: "tokens are signed by the key of --service-account-signing-key-file" },
    Refusal { flag: "storage-backend", taken: &["etcd3"], why: "there is etcd3 only" },
    Refusal { flag: "storage-media-type", taken: &["application/vnd.kubernetes.protobuf"], why: "objects lie as Protobuf, custom ones as JSON" },
];

/// What becomes of a flag.
pub fn of(name: &str) -> Verdict {
    if COMMON.concat().contains(&name) || kube_apiserver::HONOURED.contains(&name) {
        Verdict::Acts
    } else if REFUSALS.iter().any(|refusal| refusal.flag == name) {
        Verdict::Refused
    } else {
        Verdict::Nothing
    }
}

/// Whether a cluster takes it by `--apiserver-arg`.
pub fn is_of_cluster(name: &str) -> bool {
    COMMON.concat().contains(&name)
}

/// Refuses what cannot be done.
///
/// # Errors
/// A flag of [`REFUSALS`] that asks for more than what is done anyway.
pub fn check(flags: &Flags) -> Result<()> {
    for Refusal { flag, taken, why } in REFUSALS {
        if let Some(value) = flags.all(flag).find(|value| !value.is_empty() && !taken.contains(value)) {
            let hint = if taken.is_empty() { "leave it out" } else { "leave it out, or as it is by default" };
            return Err(Failure::new("USAGE", Exit::Usage, format!("--{flag}={value} is not supported: {why}"), hint));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::flags::Known;
    use super::*;

    const LIST: &str = include_str!("../../../../docs/flags.md");

    fn known() -> Vec<&'static str> {
        kube_apiserver::FLAGS.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(' ').next()).collect()
    }

    /// Rows by flag: what it does alone, and whether a cluster takes it.
    fn rows() -> BTreeMap<&'static str, (&'static str, &'static str)> {
        let cells = |line: &'static str| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>();
        let mut rows = BTreeMap::new();
        for line in LIST.lines().filter(|l| l.starts_with("| `")) {
            let [flag, alone, cluster] = cells(line)[..] else { panic!("three columns: {line}") };
            assert!(rows.insert(flag.trim_matches('`'), (alone, cluster)).is_none(), "two rows: {flag}");
        }
        rows
    }

    #[test]
    fn the_list_has_a_row_for_every_flag_and_says_what_the_code_does() {
        let rows = rows();
        let without: Vec<&str> = known().into_iter().filter(|flag| !rows.contains_key(flag)).collect();
        assert!(without.is_empty(), "no row: {without:?}");
        for (flag, (alone, cluster)) in &rows {
            assert!(known().contains(flag), "no flag: {flag}");
            let told = match alone {
                _ if alone.starts_with("changes nothing: ") => Verdict::Nothing,
                _ if alone.starts_with("refused: ") => Verdict::Refused,
                _ if !alone.is_empty() && !alone.starts_with("changes nothing") && !alone.starts_with("refused") => Verdict::Acts,
                _ => panic!("{flag}: {alone}"),
            };
            assert_eq!((*flag, told), (*flag, of(flag)));
            assert_eq!((*flag, *cluster), (*flag, if is_of_cluster(flag) { "yes" } else { "no" }));
        }
    }

    #[test]
    fn every_flag_that_is_named_here_is_one_of_upstreams_and_has_one_verdict() {
        let refused: Vec<&str> = REFUSALS.iter().map(|r| r.flag).collect();
        let acted_on = [COMMON.concat(), kube_apiserver::HONOURED.to_vec()].concat();
        assert!(refused.iter().chain(&acted_on).all(|flag| known().contains(flag)), "{refused:?} {acted_on:?}");
        assert!(refused.iter().all(|flag| !acted_on.contains(flag)), "{refused:?}");
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_what_is_done_anyway_is_taken() {
        let cause = |arg: &str| check(&Known::new(kube_apiserver::FLAGS).parse(&[format!("--{arg}")]).unwrap()).err().map(|e| e.cause);
        let wanted = "--authorization-policy-file=/a is not supported: there is no ABAC: use RBAC, or a webhook";
        assert_eq!(cause("authorization-policy-file=/a").as_deref(), Some(wanted));
        assert!(cause("egress-selector-config-file=/a").unwrap().contains("connections go out directly"));
        for taken in ["egress-selector-config-file=", "allow-privileged", "enable-priority-and-fairness=false", "storage-backend=etcd3"] {
            assert_eq!(cause(taken), None, "{taken}");
        }
        assert!(cause("allow-privileged=false").is_some());
    }

    #[test]
    fn what_envtest_and_kubeadm_give_is_taken() {
        for args in [
            // controller-runtime's envtest.
            &["advertise-address=127.0.0.1", "service-cluster-ip-range=10.0.0.0/24", "allow-privileged=true", "disable-admission-plugins=ServiceAccount"][..],
            &["cert-dir=/a", "authorization-mode=RBAC", "bind-address=127.0.0.1", "secure-port=6443", "etcd-servers=http://127.0.0.1:2379"],
            &["service-account-issuer=https://a/", "service-account-key-file=/a", "service-account-signing-key-file=/a", "client-ca-file=/a"],
            // kubeadm.
            &["authorization-mode=Node,RBAC", "enable-admission-plugins=NodeRestriction", "enable-bootstrap-token-auth=true", "etcd-cafile=/a"],
            &["etcd-certfile=/a", "etcd-keyfile=/a", "kubelet-client-certificate=/a", "kubelet-client-key=/a", "tls-cert-file=/a"],
            &["kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname", "proxy-client-cert-file=/a", "proxy-client-key-file=/a"],
            &["requestheader-allowed-names=front-proxy-client", "requestheader-client-ca-file=/a", "requestheader-extra-headers-prefix=X-Remote-Extra-"],
            &["requestheader-group-headers=X-Remote-Group", "requestheader-username-headers=X-Remote-User", "tls-private-key-file=/a"],
        ] {
            let args: Vec<String> = args.iter().map(|a| format!("--{a}")).collect();
            check(&Known::new(kube_apiserver::FLAGS).parse(&args).unwrap()).unwrap();
        }
    }
}
