//! A home router: the default gateway, with a firewall, and miniupnpd in secure mode.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::lab::{GATEWAY, Lab};
use crate::process::Process;
use crate::{Namespace, Result, io, run, wait_for};

/// The router's external address. miniupnpd refuses private and reserved ones.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(100, 200, 0, 1);

/// Packets from outside are dropped except for the rules that miniupnpd adds to these chains.
const RULES: &str = "\
table inet filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
        iifname \"eth0\" accept
        ct state established,related accept
        jump miniupnpd
    }
    chain miniupnpd { }
    chain prerouting {
        type nat hook prerouting priority -100; policy accept;
        jump prerouting_miniupnpd
    }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        jump postrouting_miniupnpd
        oifname \"wan\" meta nfproto ipv4 masquerade
    }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
";

/// The router of a lab.
#[derive(Debug)]
pub struct HomeRouter {
    daemon: Option<Process>,
    folder: PathBuf,
    /// Its namespace.
    pub namespace: Namespace,
    /// A host outside, at `100.200.0.2`.
    pub outside: Namespace,
}

impl HomeRouter {
    /// The default gateway, without UPnP yet.
    pub fn start(lab: &Lab) -> Result<Self> {
        let namespace = lab.machine("home", GATEWAY)?;
        let outside = lab.detached("outside")?;
        namespace.ip(&[
            "link",
            "add",
            "wan",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            outside.name(),
        ])?;
        namespace.ip(&["addr", "add", &format!("{OUTSIDE}/24"), "dev", "wan"])?;
        namespace.ip(&["addr", "add", "2a00:1:1::1/64", "dev", "wan", "nodad"])?;
        namespace.ip(&["link", "set", "wan", "up"])?;
        outside.ip(&["addr", "add", "100.200.0.2/24", "dev", "eth0"])?;
        outside.ip(&["addr", "add", "2a00:1:1::2/64", "dev", "eth0", "nodad"])?;
        outside.ip(&["link", "set", "eth0", "up"])?;
        outside.ip(&["-6", "route", "add", "fd42::/64", "via", "2a00:1:1::1"])?;
        namespace.sysctl("net.ipv4.ip_forward", "1")?;
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        // The hosts' way out for IPv6.
        for host in lab.hosts.iter().map(|host| &host.namespace) {
            host.ip(&["-6", "route", "replace", "default", "via", "fd42::254", "dev", "eth0"])?;
        }
        let folder = lab.path("home");
        std::fs::create_dir_all(&folder).map_err(io("the router's folder"))?;
        let rules = folder.join("rules");
        std::fs::write(&rules, RULES).map_err(io("the router's rules"))?;
        namespace.run(&["nft", "-f", &rules.to_string_lossy()])?;
        Ok(Self { daemon: None, folder, namespace, outside })
    }

    /// Switch UPnP on. `allow` has the permission rules of miniupnpd's configuration.
    pub fn switch_on(&mut self, allow: &str) -> Result<()> {
        let conf = format!(
            "ext_ifname=wan\nlistening_ip=eth0\nport=5000\nenable_upnp=yes\nenable_natpmp=no\nsecure_mode=yes\n\
             system_uptime=yes\nnotify_interval=900\nuuid=253141a5-b987-4dbe-a333-0b2654afaf1d\n\
             upnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n{allow}\n"
        );
        let path = self.folder.join("conf");
        std::fs::write(&path, conf).map_err(io("miniupnpd's configuration"))?;
        let (conf, pid) = (path.to_string_lossy().into_owned(), self.folder.join("pid"));
        let pid = pid.to_string_lossy().into_owned();
        let log = self.folder.join("log");
        self.daemon =
            Some(Process::start(&self.namespace, &["miniupnpd", "-d", "-f", &conf, "-P", &pid], &[], &log)?);
        wait_for("miniupnpd to listen", 10, || {
            let table = self.namespace.run(&["ss", "-Hlnt"]).unwrap_or_default();
            table.contains(":5000 ").then_some(())
        })
    }

    /// Switch UPnP off, or the whole router: what was open is closed and forgotten.
    pub fn switch_off(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
        for chain in ["miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"] {
            self.namespace.run(&["nft", "flush", "chain", "inet", "filter", chain])?;
        }
        Ok(())
    }

    /// The ports that are open: the rules that lead inside.
    pub fn open(&self) -> String {
        let chains = ["prerouting_miniupnpd", "miniupnpd"];
        let list = |chain| {
            self.namespace.run(&["nft", "list", "chain", "inet", "filter", chain]).unwrap_or_default()
        };
        chains.map(list).concat()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Whether a host outside gets an answer to a GET.
    pub fn reaches(&self, url: &str) -> bool {
        let curl = ["curl", "-gsS", "-m", "2", "-o", "/dev/null", url];
        run(&[&["ip", "netns", "exec", self.outside.name()][..], &curl].concat()).is_ok()
    }
}
