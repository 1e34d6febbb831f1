//! A unit for systemd: whoever dies is started again by it, also after a reboot, and containers outlive all of that.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::config::Cluster;
use super::failure::{Exit, Failure, Result};

/// Where units of the administrator's own live.
const UNITS: &str = "/etc/systemd/system";

/// Whether systemd is this machine's init.
pub fn runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn unit_name(cluster: &Cluster) -> String {
    format!("knarr-{}.service", cluster.profile)
}

/// The unit. `KillMode=process` leaves containers alone when a process of ours ends; `Delegate` leaves their cgroups to us.
fn unit(cluster: &Cluster, program: &Path) -> String {
    format!(
        "[Unit]\nDescription=knarr, Kubernetes cluster {profile}\nDocumentation=https://kubernetes.io/docs/\nAfter=network-online.target\nWants=network-online.target\n\n\
         [Service]\nType=simple\nExecStart={program} start --profile {profile} --data {data} --no-kubeconfig --foreground --keep-pods\nRestart=always\nRestartSec=1\nKillMode=process\nDelegate=yes\nLimitNOFILE=1048576\nLimitNPROC=infinity\nTasksMax=infinity\nOOMScoreAdjust=-999\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        profile = cluster.profile,
        program = program.display(),
        data = cluster.data.display()
    )
}

fn systemctl(args: &[&str]) -> Result<()> {
    let status = Command::new("systemctl").args(args).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(
            "SYSTEMD",
            Exit::Host,
            format!("systemctl {}: {status}", args.join(" ")),
            format!("systemctl status {}", args.last().copied().unwrap_or_default()),
        )),
        Err(e) => Err(Failure::new("SYSTEMD", Exit::Host, format!("systemctl cannot be run: {e}"), "knarr start, without --systemd")),
    }
}

/// Writes the unit and enables it; the cluster itself is started by the caller.
pub fn install(cluster: &Cluster) -> Result<PathBuf> {
    if !runs() {
        return Err(Failure::new(
            "NO_SYSTEMD",
            Exit::Host,
            "systemd is not this machine's init",
            "knarr start, without --systemd; start it again after a reboot",
        ));
    }
    let program = std::env::current_exe().map_err(Failure::program)?;
    let path = Path::new(UNITS).join(unit_name(cluster));
    std::fs::write(&path, unit(cluster, &program)).map_err(|e| Failure::file(&path, &e))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", &unit_name(cluster)])?;
    Ok(path)
}

/// Takes the unit away, if there is one.
pub fn remove(cluster: &Cluster) -> Result<()> {
    let path = Path::new(UNITS).join(unit_name(cluster));
    if !path.exists() {
        return Ok(());
    }
    systemctl(&["disable", &unit_name(cluster)])?;
    std::fs::remove_file(&path).map_err(|e| Failure::file(&path, &e))?;
    systemctl(&["daemon-reload"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_leaves_containers_alone() {
        let cluster = super::super::config::tests::sample(Path::new("/var/lib/knarr/knarr"));
        let text = unit(&cluster, Path::new("/usr/local/bin/knarr"));
        for wanted in ["Restart=always", "KillMode=process", "Delegate=yes", "ExecStart=/usr/local/bin/knarr start --profile knarr --data /var/lib/knarr/knarr"]
        {
            assert!(text.contains(wanted), "{wanted}");
        }
        assert_eq!(unit_name(&cluster), "knarr-knarr.service");
    }
}
