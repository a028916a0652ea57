//! The lab as a whole.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::AuditLog;
use crate::netns::sweep;
use crate::pki::Pki;
use crate::process::Process;
use crate::segment::{Direction, Segment};
use crate::{Namespace, Result, io, rights};

/// The first three parts of every IPv4 address of a lab.
pub const PREFIX_V4: &str = "10.42.0";
/// The beginning of every IPv6 address of a lab.
pub const PREFIX_V6: &str = "fd42:";

/// The number of the default gateway.
pub const GATEWAY: u8 = 254;

/// What a lab should have.
#[derive(Debug, Clone, Copy)]
pub struct LabOptions {
    /// Control-plane hosts.
    pub hosts: u8,
    /// Start etcd and the API servers, and give `admin.conf` its rights.
    pub control_plane: bool,
}

/// Hosts on a segment, and a client.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: processes before the namespaces they live in, the folder last.
    /// The control-plane hosts.
    pub hosts: Vec<Host>,
    /// A host without any part in the cluster.
    pub client_host: Namespace,
    /// What connects them.
    pub segment: Segment,
    /// The authority behind all certificates.
    pub pki: Arc<Pki>,
    /// Whether it began with API servers: then programs can have rights before they start.
    pub control_plane: bool,
    /// The IPv4 VIP of the control plane.
    pub vip_v4: Ipv4Addr,
    pub vip_v6: Ipv6Addr,
    folder: Folder,
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its port at the switch, and the last part of its addresses.
    pub number: u8,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Where its files are.
    pub folder: PathBuf,
    /// The API server that runs here.
    pub api_server: Option<Process>,
    /// The etcd member that runs here.
    pub etcd: Option<Process>,
    pub(crate) etcd_command: Vec<String>,
    pub(crate) audit: AuditLog,
    /// Its namespace.
    pub namespace: Namespace,
}

/// A folder that is removed when it is dropped, unless `LAB_KEEP_LOGS` is set.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if std::env::var_os("LAB_KEEP_LOGS").is_none() {
            let _turn = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
            drop(std::fs::remove_dir_all(&self.0));
            // The folder above is removed with this process's last lab.
            self.0.parent().map(std::fs::remove_dir).transpose().ok();
        }
    }
}

/// Where the files of the labs of a process are.
pub(crate) fn directory(owner: &str) -> PathBuf {
    std::env::temp_dir().join(format!("kvlab-{owner}"))
}

static COUNT: AtomicU32 = AtomicU32::new(0);
/// Held while the folder that all labs of this process share is made or removed.
static FOLDERS: Mutex<()> = Mutex::new(());

impl Lab {
    /// Bring everything up.
    pub fn start(options: LabOptions) -> Result<Self> {
        sweep();
        // A second provider would panic; a first one that is there already is the one we want.
        drop(rustls::crypto::ring::default_provider().install_default());
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = Folder(directory(&std::process::id().to_string()).join(number.to_string()));
        {
            let _turn = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
            std::fs::create_dir_all(&folder.0).map_err(io(folder.0.to_string_lossy()))?;
        }
        let label = format!("{number}");
        let segment = Segment::new(&label)?;
        let client_host = Namespace::new(&format!("{label}client"))?;
        attach(&segment, &client_host, 101)?;
        let mut hosts = Vec::new();
        for index in 1..=options.hosts {
            hosts.push(Host::new(&segment, &folder.0, &label, index)?);
        }
        let pki = Arc::new(Pki::new(&folder.0.join("pki"))?);
        let mut lab = Self {
            hosts,
            client_host,
            segment,
            pki,
            control_plane: options.control_plane,
            vip_v4: Ipv4Addr::new(10, 42, 0, 100),
            vip_v6: Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, 0x100),
            folder,
        };
        lab.write_kubeconfigs()?;
        if options.control_plane {
            lab.start_etcd()?;
            lab.start_api_servers()?;
            lab.bind_admin(0)?;
        }
        Ok(lab)
    }

    /// The kubeconfig of a user, whose server is the VIP.
    pub fn kubeconfig(&self, user: &str, group: &str) -> Result<PathBuf> {
        let server = format!("https://{}:6443", self.vip_v4);
        let path = self.path(&format!("{user}.conf"));
        std::fs::write(&path, self.pki.kubeconfig(user, group, &server)?)
            .map_err(io(path.to_string_lossy()))?;
        Ok(path)
    }

    /// As kubeadm has it: both name the VIP as their server; `admin.conf` has no rights until it is bound.
    fn write_kubeconfigs(&self) -> Result<()> {
        let server = format!("https://{}:6443", self.vip_v4);
        let users = [
            ("admin.conf", "kubernetes-admin", "kubeadm:cluster-admins"),
            ("super-admin.conf", "kubernetes-super-admin", "system:masters"),
        ];
        for (file, user, group) in users {
            let text = self.pki.kubeconfig(user, group, &server)?;
            std::fs::write(self.path(file), text).map_err(io(file))?;
        }
        Ok(())
    }

    /// A machine on the segment besides the hosts, such as a router. Its addresses end in `number`.
    pub fn machine(&self, name: &str, number: u8) -> Result<Namespace> {
        let namespace = self.detached(name)?;
        attach(&self.segment, &namespace, number)?;
        // A successor has the same MAC address: neighbour caches stay valid.
        namespace.ip(&["link", "set", "eth0", "address", &format!("02:42:00:00:00:{number:02x}")])?;
        Ok(namespace)
    }

    /// A second interface of a host on the segment, with an address of another subnet.
    pub fn add_interface(&self, index: usize, name: &str, address: &str) -> Result<()> {
        let host = self.host(index);
        self.segment.connect_interface(&host.namespace, name, host.number + 100)?;
        host.namespace.ip(&["address", "add", address, "dev", name]).map(drop)
    }

    /// A machine that is not on the segment.
    pub fn detached(&self, name: &str) -> Result<Namespace> {
        let label = self.folder.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Namespace::new(&format!("{label}{name}"))
    }

    /// The path of a file in the lab's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    /// Lose every frame between one host and the others, not those between it and the client.
    pub fn cut_off(&self, index: usize) -> Result<()> {
        let number = self.host(index).number;
        let mut others = self.hosts.iter().map(|host| host.number).filter(|other| *other != number);
        others.try_for_each(|other| self.segment.partition(number, other, Direction::BothWays))
    }

    /// Remove both VIPs from the interface of a host, as an operator would.
    pub fn remove_vips(&self, index: usize) -> Result<()> {
        let vips = [format!("{}/32", self.vip_v4), format!("{}/128", self.vip_v6)];
        let remove = |vip: &String| self.host(index).namespace.ip(&["addr", "del", vip, "dev", "eth0"]);
        vips.iter().try_for_each(|vip| remove(vip).map(drop))
    }

    /// One host.
    #[expect(clippy::indexing_slicing, reason = "a test may only use hosts that its lab has")]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// One host.
    #[expect(clippy::indexing_slicing, reason = "a test may only use hosts that its lab has")]
    pub fn host_mut(&mut self, index: usize) -> &mut Host {
        &mut self.hosts[index]
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        rights::compare(self);
    }
}

impl Host {
    fn new(segment: &Segment, folder: &std::path::Path, label: &str, number: u8) -> Result<Self> {
        let name = format!("node-{number}");
        let namespace = Namespace::new(&format!("{label}h{number}"))?;
        let last = 10 + number;
        attach(segment, &namespace, last)?;
        let folder = folder.join(&name);
        std::fs::create_dir_all(&folder).map_err(io(folder.to_string_lossy()))?;
        Ok(Self {
            name,
            number: last,
            v4: Ipv4Addr::new(10, 42, 0, last),
            v6: Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, hexadecimal(last)),
            api_server: None,
            etcd: None,
            etcd_command: Vec::new(),
            audit: AuditLog::new(folder.join("audit.log")),
            folder,
            namespace,
        })
    }
}

/// The number that reads in hexadecimal as `number` does in decimal: both addresses of a host look alike.
fn hexadecimal(number: u8) -> u16 {
    u16::from_str_radix(&number.to_string(), 16).unwrap_or(number.into())
}

pub(crate) fn attach(segment: &Segment, host: &Namespace, number: u8) -> Result<()> {
    segment.connect(host, number)?;
    host.ip(&["addr", "add", &format!("{PREFIX_V4}.{number}/24"), "dev", "eth0"])?;
    host.ip(&["addr", "add", &format!("{PREFIX_V6}:{number}/64"), "dev", "eth0", "nodad"])?;
    if number != GATEWAY {
        host.ip(&["route", "add", "default", "via", &format!("{PREFIX_V4}.{GATEWAY}"), "dev", "eth0"])?;
    }
    Ok(())
}
