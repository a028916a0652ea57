//! etcd and kube-apiserver on a host.

use std::path::Path;
use std::time::Duration;

use kube::Client;
use nix::sys::signal::Signal;

use crate::lab::{Host, Lab, PREFIX_V4};
use crate::process::Process;
use crate::{LabError, Namespace, Result, audit, binaries, io, rights, wait_for};

/// The API server of a host, from there.
pub(crate) const LOCAL: &str = "https://127.0.0.1:6443";

impl Lab {
    /// Start etcd on every control-plane host, as one cluster.
    pub fn start_etcd(&mut self) -> Result<()> {
        let members: Vec<String> =
            self.hosts.iter().map(|host| format!("{}=http://{}:2380", host.name, host.v4)).collect();
        let cluster = members.join(",");
        for host in &mut self.hosts {
            host.start_etcd(&cluster)?;
        }
        Ok(())
    }

    /// Start the API server on every control-plane host, and wait until each is ready.
    pub fn start_api_servers(&mut self) -> Result<()> {
        for index in 0..self.hosts.len() {
            self.start_api_server(index)?;
        }
        (0..self.hosts.len()).try_for_each(|index| self.wait_for_api_server(index))
    }

    /// Start the API server on one host.
    pub fn start_api_server(&mut self, index: usize) -> Result<()> {
        let addresses = self.server_addresses(index);
        let host = self.host(index);
        let files = self.pki.server(&host.name, &addresses)?;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut args = vec![
            binaries::find("kube-apiserver")?,
            "--etcd-servers=http://127.0.0.1:2379".into(),
            "--secure-port=6443".into(),
            "--bind-address=::".into(),
            format!("--advertise-address={}", host.v4),
            "--service-cluster-ip-range=10.96.0.0/16,fd96::/112".into(),
            format!("--tls-cert-file={}", path(&files.certificate)),
            format!("--tls-private-key-file={}", path(&files.key)),
            format!("--client-ca-file={}", self.pki.path("ca.crt")),
            format!("--service-account-key-file={}", self.pki.path("sa.pub")),
            format!("--service-account-signing-key-file={}", self.pki.path("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged=true".into(),
            "--endpoint-reconciler-type=lease".into(),
            "--profiling=false".into(),
            "--enable-priority-and-fairness=true".into(),
            "--v=0".into(),
        ];
        if rights::are_compared() {
            let policy = self.path("audit-policy.json");
            std::fs::write(&policy, audit::policy()).map_err(io("audit-policy.json"))?;
            args.push(format!("--audit-policy-file={}", path(&policy)));
            args.push(format!("--audit-log-path={}", path(host.audit.path())));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let host = self.host_mut(index);
        let log = host.folder.join("apiserver.log");
        host.api_server = Some(Process::start(&host.namespace, &args, &[], &log)?);
        Ok(())
    }

    /// Wait until the API server on one host is ready, and the namespace of the Leases exists.
    pub fn wait_for_api_server(&mut self, index: usize) -> Result<()> {
        let client = self.client(index)?;
        let host = self.host_mut(index);
        wait_for(&format!("the API server on {}", host.name), 120, || {
            let client = client.clone();
            let ready = host.namespace.block_on(async move {
                let request = http::Request::get("/readyz").body(Vec::new()).ok()?;
                let answer = tokio::time::timeout(Duration::from_secs(2), client.request_text(request));
                answer.await.ok()?.ok()
            });
            ready.or_else(|| {
                std::thread::sleep(Duration::from_millis(100));
                None
            })
        })?;
        Ok(())
    }

    /// Disconnect a host and kill its servers. The caller kills its agent.
    pub fn lose_host(&mut self, index: usize) -> Result<()> {
        self.segment.pull_cable(self.host(index).number)?;
        let host = self.host_mut(index);
        host.kill_api_server();
        host.etcd = None;
        Ok(())
    }

    /// Mend the segment, and bring back the servers that are down or stopped.
    pub fn heal(&mut self) -> Result<()> {
        self.segment.mend()?;
        for index in 0..self.hosts.len() {
            self.segment.plug_cable(self.host(index).number)?;
            self.host(index).thaw_api_server();
            if self.host(index).etcd.is_none() {
                self.host_mut(index).restart_etcd()?;
            }
            if self.host(index).api_server.is_none() {
                self.start_api_server(index)?;
            }
        }
        (0..self.hosts.len()).try_for_each(|index| self.wait_for_api_server(index))
    }

    /// A client with all rights for the API server on one host. Use it inside the host's namespace.
    pub fn client(&self, index: usize) -> Result<Client> {
        client(&self.path("super-admin.conf"), LOCAL, &self.host(index).namespace)
    }

    /// The same for a user with the rights of a group.
    pub fn client_as(&self, index: usize, user: &str, group: &str) -> Result<Client> {
        let file = format!("{user}.conf");
        std::fs::write(self.path(&file), self.pki.kubeconfig(user, group, LOCAL)?).map_err(io(&file))?;
        client(&self.path(&file), LOCAL, &self.host(index).namespace)
    }

    /// The version of the API server behind the VIP, queried by an administrator on the client host.
    pub fn version_through_vip(&self) -> Result<String> {
        let server = format!("https://{}:6443", self.vip_v4);
        let client = client(&self.path("admin.conf"), &server, &self.client_host)?;
        self.client_host.block_on(async move {
            let answer = tokio::time::timeout(Duration::from_secs(10), client.apiserver_version()).await;
            match answer {
                Ok(Ok(version)) => Ok(version.git_version),
                Ok(Err(error)) => Err(LabError::Api(error.to_string())),
                Err(_) => Err(LabError::Timeout { what: "the version behind the VIP".into(), seconds: 10 }),
            }
        })
    }

    /// The rights that `kubeadm init` gives to `admin.conf`, which has none before.
    pub fn bind_admin(&self, index: usize) -> Result<()> {
        let binding: k8s_openapi::api::rbac::v1::ClusterRoleBinding = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "kubeadm:cluster-admins" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "kubeadm:cluster-admins" }],
        }))
        .map_err(|error| LabError::Api(error.to_string()))?;
        let client = self.client(index)?;
        self.host(index).namespace.block_on(async move {
            let bindings = kube::Api::all(client);
            match bindings.create(&Default::default(), &binding).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                result => result.map(drop).map_err(|error| LabError::Api(error.to_string())),
            }
        })
    }

    /// Change the holder in the Lease as an operator would, or delete the Lease, through the API server of one host.
    pub fn edit_lease(&self, index: usize, holder: Option<&str>) -> Result<()> {
        use k8s_openapi::api::coordination::v1::Lease;
        const NAME: &str = "plndr-cp-lock";
        let client = self.client(index)?;
        let patch = holder.map(|holder| serde_json::json!({ "spec": { "holderIdentity": holder } }));
        self.host(index).namespace.block_on(async move {
            let leases = kube::Api::<Lease>::namespaced(client, "kube-system");
            let edited = match patch {
                Some(patch) => {
                    let patch = kube::api::Patch::Merge(patch);
                    leases.patch(NAME, &Default::default(), &patch).await.map(drop)
                }
                None => leases.delete(NAME, &Default::default()).await.map(drop),
            };
            edited.map_err(|error| LabError::Api(error.to_string()))
        })
    }

    fn server_addresses(&self, index: usize) -> Vec<std::net::IpAddr> {
        let host = self.host(index);
        let mut addresses = vec![host.v4.into(), host.v6.into(), self.vip_v4.into(), self.vip_v6.into()];
        let fixed = ["127.0.0.1", "::1", "10.96.0.1", &format!("{PREFIX_V4}.0")];
        addresses.extend(fixed.iter().filter_map(|address| address.parse::<std::net::IpAddr>().ok()));
        addresses
    }
}

/// A client with the credentials of a kubeconfig, for the API server at `url`. Use it inside `namespace`.
pub(crate) fn client(kubeconfig: &Path, url: &str, namespace: &Namespace) -> Result<Client> {
    let text = std::fs::read_to_string(kubeconfig).map_err(io(kubeconfig.to_string_lossy()))?;
    let wrong = |error: &dyn std::fmt::Display| LabError::Api(error.to_string());
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&text).map_err(|error| wrong(&error))?;
    let url: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(&error))?;
    namespace.block_on(async move {
        let api = |error: &dyn std::fmt::Display| LabError::Api(error.to_string());
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
            .await
            .map_err(|error| api(&error))?;
        config.cluster_url = url;
        config.tls_server_name = Some("kubernetes".into());
        // It would close an idle connection, perhaps while the next request is being sent on it.
        config.read_timeout = None;
        Client::try_from(config).map_err(|error| api(&error))
    })
}

impl Host {
    fn start_etcd(&mut self, cluster: &str) -> Result<()> {
        let peer = format!("http://{}:2380", self.v4);
        let args = [
            binaries::find("etcd")?,
            format!("--name={}", self.name),
            format!("--data-dir={}", self.folder.join("etcd").to_string_lossy()),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={cluster}"),
            "--initial-cluster-state=new".into(),
            // Nothing has to survive a power failure.
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.etcd_command = args.iter().map(|arg| (*arg).to_owned()).collect();
        let log = self.folder.join("etcd.log");
        self.etcd = Some(Process::start(&self.namespace, &args, &[], &log)?);
        Ok(())
    }

    /// Start etcd again with the data it had.
    pub fn restart_etcd(&mut self) -> Result<()> {
        let args: Vec<&str> = self.etcd_command.iter().map(String::as_str).collect();
        let log = self.folder.join("etcd.log");
        self.etcd = Some(Process::start(&self.namespace, &args, &[], &log)?);
        Ok(())
    }

    /// End the API server at once.
    pub fn kill_api_server(&mut self) {
        self.api_server = None;
    }

    /// Stop the API server with SIGSTOP: it accepts connections and never answers.
    pub fn freeze_api_server(&self) {
        if let Some(process) = &self.api_server {
            process.signal(Signal::SIGSTOP);
        }
    }

    /// Continue it.
    pub fn thaw_api_server(&self) {
        if let Some(process) = &self.api_server {
            process.signal(Signal::SIGCONT);
        }
    }
}
