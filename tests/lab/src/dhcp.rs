//! DHCP servers, as users have them in their routers and racks: dnsmasq, ISC dhcpd, Kea, and BusyBox's udhcpd.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::lab::Lab;
use crate::process::Process;
use crate::{Namespace, Result, io, wait_for};

/// The machine that the server runs on.
const NUMBER: u8 = 250;

/// Which software.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// What most home routers have.
    Dnsmasq,
    /// ISC dhcpd.
    Isc,
    /// Kea.
    Kea,
    /// BusyBox; IPv4 alone.
    Udhcpd,
}

impl ServerKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dnsmasq, Self::Isc, Self::Kea, Self::Udhcpd];

    /// Whether it serves IPv6.
    pub fn serves_v6(self) -> bool {
        self != Self::Udhcpd
    }
}

/// What a server gives.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Which software.
    pub kind: ServerKind,
    /// Seconds; dnsmasq's minimum is 120.
    pub lease: u32,
    /// The first and the last address, by the last part of it: `10.42.0.N`, and `fd42::1N` in hexadecimal.
    pub range: (u8, u8),
    /// IPv6, too.
    pub v6: bool,
    /// Instead so many addresses from 10.43.4.0 on, by dnsmasq.
    pub wide: u16,
}

impl ServerOptions {
    /// Addresses that end in 150 to 157, for so many seconds.
    pub fn new(kind: ServerKind, lease: u32) -> Self {
        Self { kind, lease, range: (150, 157), v6: kind.serves_v6(), wide: 0 }
    }

    fn first_v4(&self) -> String {
        format!("10.42.0.{}", self.range.0)
    }

    fn last_v4(&self) -> String {
        format!("10.42.0.{}", self.range.1)
    }
}

/// The addresses that servers give.
pub fn addresses() -> Vec<IpAddr> {
    let v4 = (150..=157).map(|number| format!("10.42.0.{number}"));
    let v6 = (0x1150..=0x1157).map(|number| format!("fd42::{number:x}"));
    v4.chain(v6).filter_map(|text| text.parse().ok()).collect()
}

/// A server on the segment.
#[derive(Debug)]
pub struct DhcpServer {
    processes: Vec<Process>,
    options: ServerOptions,
    folder: PathBuf,
    /// Its namespace.
    pub namespace: Namespace,
}

impl DhcpServer {
    /// Start a server without leases.
    pub fn start(lab: &Lab, options: ServerOptions) -> Result<Self> {
        let folder = lab.path("dhcp");
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).map_err(io(folder.to_string_lossy()))?;
        let namespace = lab.machine("dhcp", NUMBER)?;
        let mut server = Self { processes: Vec::new(), options, folder, namespace };
        server.launch()?;
        Ok(server)
    }

    /// Start its processes.
    pub fn launch(&mut self) -> Result<()> {
        match self.options.kind {
            ServerKind::Dnsmasq => self.dnsmasq()?,
            ServerKind::Isc => self.isc()?,
            ServerKind::Kea => self.kea()?,
            ServerKind::Udhcpd => self.udhcpd()?,
        }
        let ports = if self.options.v6 { vec![67, 547] } else { vec![67] };
        for port in ports {
            wait_for(&format!("{:?} to listen on port {port}", self.options.kind), 10, || {
                let table = self.namespace.run(&["ss", "-Hlun"]).unwrap_or_default();
                table.lines().any(|line| line.contains(&format!(":{port} "))).then_some(())
            })?;
        }
        Ok(())
    }

    /// Stop its processes with SIGTERM; it keeps its leases.
    pub fn stop(&mut self) -> Result<()> {
        for mut process in self.processes.drain(..) {
            process.terminate();
            wait_for("the DHCP server to end", 10, || process.ended())?;
        }
        Ok(())
    }

    /// The same, and delete its leases.
    pub fn stop_and_forget(&mut self) -> Result<()> {
        self.stop()?;
        std::fs::remove_dir_all(&self.folder).map_err(io("the server's folder"))?;
        std::fs::create_dir_all(&self.folder).map_err(io("the server's folder"))
    }

    /// Give other addresses from now on.
    pub fn move_range(&mut self, first: u8, last: u8) -> Result<()> {
        self.stop_and_forget()?;
        self.options.range = (first, last);
        self.launch()
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        std::fs::write(self.folder.join(name), text).map_err(io(name))?;
        Ok(self.file(name))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn spawn(&mut self, command: &[&str], env: &[(String, String)]) -> Result<()> {
        let process = Process::start(&self.namespace, command, env, &self.folder.join("log"))?;
        self.processes.push(process);
        Ok(())
    }

    fn v6_range(&self) -> (String, String) {
        (format!("fd42::1{}", self.options.range.0), format!("fd42::1{}", self.options.range.1))
    }

    fn dnsmasq(&mut self) -> Result<()> {
        let ServerOptions { lease, v6, .. } = self.options;
        let (first, last, mask) = match self.options.wide {
            0 => (self.options.first_v4(), self.options.last_v4(), "255.255.255.0"),
            count => {
                self.namespace.ip(&["addr", "replace", "10.43.255.250/16", "dev", "eth0"])?;
                let first = Ipv4Addr::new(10, 43, 4, 0);
                let last = Ipv4Addr::from_bits(first.to_bits() + u32::from(count) - 1);
                (first.to_string(), last.to_string(), "255.255.0.0")
            }
        };
        let range = format!("--dhcp-range={first},{last},{mask},{lease}");
        // By default it gives 1,000 at most.
        let most = format!("--dhcp-lease-max={}", self.options.wide.max(100));
        let leases = format!("--dhcp-leasefile={}", self.file("leases"));
        let (first, last) = self.v6_range();
        let range_v6 = format!("--dhcp-range={first},{last},64,{lease}");
        let mut command = vec![
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--port=0",
            "--interface=eth0",
            "--bind-interfaces",
            "--log-facility=-",
            "--log-dhcp",
            "--no-ping",
            "--dhcp-authoritative",
            &range,
            &most,
            &leases,
        ];
        if v6 {
            command.push(&range_v6);
        }
        self.spawn(&command, &[])
    }

    fn isc(&mut self) -> Result<()> {
        let ServerOptions { lease, v6, .. } = self.options;
        let times = format!(
            "default-lease-time {lease};\nmax-lease-time {lease};\nmin-lease-time 1;\nauthoritative;\n"
        );
        let (first, last) = (self.options.first_v4(), self.options.last_v4());
        let conf = format!(
            "{times}ping-check false;\nsubnet 10.42.0.0 netmask 255.255.255.0 {{ range {first} {last}; }}\n"
        );
        let conf = self.write("v4.conf", &conf)?;
        let leases = self.touch("v4.leases")?;
        let pid = self.file("v4.pid");
        self.spawn(&["dhcpd", "-4", "-d", "-cf", &conf, "-lf", &leases, "-pf", &pid, "eth0"], &[])?;
        if v6 {
            let (first, last) = self.v6_range();
            let conf = format!(
                "{times}preferred-lifetime {lease};\nsubnet6 fd42::/64 {{ range6 {first} {last}; }}\n"
            );
            let conf = self.write("v6.conf", &conf)?;
            let leases = self.touch("v6.leases")?;
            let pid = self.file("v6.pid");
            self.spawn(&["dhcpd", "-6", "-d", "-cf", &conf, "-lf", &leases, "-pf", &pid, "eth0"], &[])?;
        }
        Ok(())
    }

    fn touch(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        std::fs::File::options().create(true).append(true).open(&path).map_err(io(name))?;
        Ok(self.file(name))
    }

    fn kea(&mut self) -> Result<()> {
        let ServerOptions { lease, v6, .. } = self.options;
        let folder = self.folder.to_string_lossy().into_owned();
        let env = ["KEA_PIDFILE_DIR", "KEA_LOCKFILE_DIR"].map(|name| (name.to_owned(), folder.clone()));
        let families = if v6 { vec![4, 6] } else { vec![4] };
        for family in families {
            let (subnet, first, last) = if family == 4 {
                ("10.42.0.0/24".to_owned(), self.options.first_v4(), self.options.last_v4())
            } else {
                let (first, last) = self.v6_range();
                ("fd42::/64".to_owned(), first, last)
            };
            let mut conf = serde_json::json!({
                "interfaces-config": { "interfaces": ["eth0"] },
                "lease-database": { "type": "memfile", "persist": true, "name": self.file(&format!("v{family}.csv")), "lfc-interval": 0 },
                "valid-lifetime": lease,
                "min-valid-lifetime": lease,
                "max-valid-lifetime": lease,
                "loggers": [{ "name": format!("kea-dhcp{family}"), "severity": "INFO", "output_options": [{ "output": "stdout" }] }],
            });
            let subnet = serde_json::json!([{ "id": 1, "subnet": subnet, "interface": "eth0", "pools": [{ "pool": format!("{first} - {last}") }] }]);
            if let Some(conf) = conf.as_object_mut() {
                if family == 4 {
                    conf.insert("authoritative".into(), true.into());
                } else {
                    conf.insert("preferred-lifetime".into(), lease.into());
                    // Otherwise it is kept in a folder of the system's.
                    conf.insert("server-id".into(), serde_json::json!({ "type": "LL", "persist": false }));
                }
                conf.insert(format!("subnet{family}"), subnet);
            }
            let whole = serde_json::json!({ format!("Dhcp{family}"): conf });
            let path = self.write(&format!("v{family}.json"), &whole.to_string())?;
            self.spawn(&[&format!("kea-dhcp{family}"), "-c", &path], &env)?;
        }
        Ok(())
    }

    fn udhcpd(&mut self) -> Result<()> {
        let (first, last) = (self.options.first_v4(), self.options.last_v4());
        let leases = self.touch("leases")?;
        let pid = self.file("pid");
        let lease = self.options.lease;
        let conf = format!(
            "start {first}\nend {last}\ninterface eth0\nlease_file {leases}\npidfile {pid}\nmin_lease 1\nauto_time 1\n\
             opt subnet 255.255.255.0\nopt lease {lease}\n"
        );
        let conf = self.write("conf", &conf)?;
        self.spawn(&["udhcpd", "-f", &conf], &[])
    }
}
