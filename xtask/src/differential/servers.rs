//! Starts what is asked: upstream's kube-apiserver on upstream's etcd, and knarr's binary called by those two names. Both get the
//! same flags and end with the value that stands for them.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::http::Client;

const TOKEN: &str = "differential";
const START_PATIENCE: Duration = Duration::from_secs(60);

pub struct Upstream;
pub struct Knarr;

/// A running pair of etcd and API server.
pub struct Running {
    address: SocketAddr,
    etcd: Child,
    server: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.etcd] {
            // Either may have ended already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Running {
    pub fn client(&self) -> Result<Client> {
        Client::new(self.address, TOKEN)
    }
}

impl Upstream {
    pub fn start(&self, binaries: &Path, work: &Path) -> Result<Running> {
        start(&fs::canonicalize(binaries)?, &work.join("upstream"))
    }
}

impl Knarr {
    pub fn start(&self, binary: &Path, work: &Path) -> Result<Running> {
        let binary = fs::canonicalize(binary).with_context(|| binary.display().to_string())?;
        let assets = work.join("assets");
        fs::create_dir_all(&assets)?;
        for name in ["etcd", "kube-apiserver", "kubectl"] {
            let link = assets.join(name);
            if link.symlink_metadata().is_ok() {
                fs::remove_file(&link)?;
            }
            symlink(&binary, link)?;
        }
        start(&fs::canonicalize(assets)?, &work.join("knarr"))
    }
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn start(binaries: &Path, folder: &Path) -> Result<Running> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let folder = fs::canonicalize(folder)?;
    let (clients, peers, address) = (free()?, free()?, free()?);
    let mut etcd = spawn(
        &binaries.join("etcd"),
        &folder,
        &[
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls=http://{clients}"),
            format!("--advertise-client-urls=http://{clients}"),
            format!("--listen-peer-urls=http://{peers}"),
            "--unsafe-no-fsync=true".into(),
        ],
    )?;
    wait_until_listening(&mut etcd, clients)?;
    fs::write(folder.join("tokens.csv"), format!("{TOKEN},admin,admin-uid,\"system:masters\"\n"))?;
    let key = rcgen::KeyPair::generate()?;
    fs::write(folder.join("sa.key"), key.serialize_pem())?;
    fs::write(folder.join("sa.pub"), key.public_key_pem())?;
    let path = |name: &str| folder.join(name).display().to_string();
    let server = spawn(
        &binaries.join("kube-apiserver"),
        &folder,
        &[
            format!("--etcd-servers=http://{clients}"),
            format!("--cert-dir={}", path("pki")),
            format!("--secure-port={}", address.port()),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=10.200.0.1".into(),
            "--service-cluster-ip-range=10.0.0.0/24".into(),
            "--allow-privileged=true".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", path("sa.pub")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--max-requests-inflight=2000".into(),
            "--max-mutating-requests-inflight=1000".into(),
        ],
    )?;
    let mut running = Running { address, etcd, server };
    running.wait_until_ready(&folder)?;
    Ok(running)
}

fn spawn(program: &Path, folder: &Path, args: &[String]) -> Result<Child> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let log: PathBuf = folder.join(format!("{name}.log"));
    let out = File::create(&log)?;
    let mut command = Command::new(program);
    // What a server asks on this machine, it asks itself and not a proxy of whoever started us.
    for name in std::env::vars_os().map(|(name, _)| name) {
        if name.to_string_lossy().to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command.args(args).stdout(out.try_clone()?).stderr(out).spawn().with_context(|| program.display().to_string())
}

fn wait_until_listening(etcd: &mut Child, clients: SocketAddr) -> Result<()> {
    let since = Instant::now();
    while TcpStream::connect(clients).is_err() {
        if etcd.try_wait()?.is_some() || since.elapsed() > START_PATIENCE {
            bail!("no etcd at {clients}");
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl Running {
    fn wait_until_ready(&mut self, folder: &Path) -> Result<()> {
        let (client, since) = (self.client()?, Instant::now());
        loop {
            if client.connect().and_then(|mut c| c.ask("GET", "/readyz", &Default::default(), None)).is_ok_and(|a| a.status == 200) {
                return Ok(());
            }
            if self.server.try_wait()?.is_some() || since.elapsed() > START_PATIENCE {
                bail!("no API server: look into {}", folder.join("kube-apiserver.log").display());
            }
            sleep(Duration::from_millis(20));
        }
    }
}
