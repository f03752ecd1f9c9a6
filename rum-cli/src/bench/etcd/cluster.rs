//! Three etcd members on this machine's loopback, which end with this value, or with this process.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use tempfile::TempDir;

use super::super::stage::BenchError;
use crate::tied;

const MEMBERS: usize = 3;

/// Where etcd is.
pub fn find() -> Result<PathBuf, BenchError> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|path| path.join("etcd")).find(|path| path.is_file());
    found.ok_or_else(|| BenchError::Impossible("there is no etcd in the PATH (Debian: etcd-server)".to_owned()))
}

/// See the module's documentation.
pub struct Cluster {
    members: Vec<Child>,
    clients: Vec<u16>,
    _folder: TempDir,
}

impl Cluster {
    /// With data below `parent`, or in the usual place for temporary files.
    pub fn start(parent: Option<&Path>) -> Result<Self, BenchError> {
        let program = find()?;
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("rum-etcd-");
        let folder = match parent {
            Some(parent) => builder.tempdir_in(parent)?,
            None => builder.tempdir()?,
        };
        let ports = free_ports(2 * MEMBERS)?;
        let (clients, peers) = ports.split_at(MEMBERS);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> = (0..MEMBERS).map(|number| format!("m{number}={}", url(peers[number]))).collect();
        let mut cluster = Self { members: Vec::new(), clients: clients.to_vec(), _folder: folder };
        for number in 0..MEMBERS {
            let (client, peer) = (url(clients[number]), url(peers[number]));
            let data = cluster._folder.path().join(format!("m{number}"));
            let log = File::create(cluster._folder.path().join(format!("m{number}.log")))?;
            let mut command = tied::command(program.as_os_str(), false)?;
            command.args(["--name", &format!("m{number}"), "--initial-cluster", &all.join(",")]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--log-level", "error", "--data-dir"]).arg(data);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            cluster.members.push(command.spawn()?);
        }
        Ok(cluster)
    }

    /// The ports for clients, with commas.
    pub fn ports(&self) -> String {
        let ports: Vec<String> = self.clients.iter().map(ToString::to_string).collect();
        ports.join(",")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Ports that nobody listens at.
fn free_ports(count: usize) -> Result<Vec<u16>, BenchError> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    Ok(listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?)
}
