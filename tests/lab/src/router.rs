//! BGP routers: FRR, BIRD and GoBGP.

use std::path::PathBuf;

use crate::lab::{GATEWAY, Host, Lab};
use crate::process::Process;
use crate::{Namespace, Result, io, run, wait_for};

/// Which software.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterKind {
    /// FRRouting: zebra, bgpd and bfdd.
    Frr,
    /// BIRD 2.
    Bird,
    /// GoBGP, which leaves the kernel alone.
    GoBgp,
}

impl RouterKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Frr, Self::Bird, Self::GoBgp];
}

/// A BGP neighbour of a router.
#[derive(Debug, Clone)]
pub struct Neighbour {
    /// Its address; or a link, for FRR's unnumbered peers.
    pub address: String,
    /// Its AS.
    pub asn: u32,
    /// The password.
    pub password: Option<String>,
    /// It is more than one hop away.
    pub multihop: bool,
    /// The router opens the connection.
    pub connects: bool,
    /// BFD: milliseconds, and how many packets may be lost.
    pub bfd: Option<(u32, u32)>,
    /// GTSM with one hop (RFC 5082).
    pub ttl_security: bool,
}

impl Neighbour {
    /// One that connects to us.
    pub fn new(address: &str, asn: u32) -> Self {
        Self {
            address: address.to_owned(),
            asn,
            password: None,
            multihop: false,
            connects: false,
            bfd: None,
            ttl_security: false,
        }
    }
}

/// What a router should be like.
#[derive(Debug, Clone)]
pub struct RouterOptions {
    /// Which software.
    pub kind: RouterKind,
    /// Its AS.
    pub asn: u32,
    /// Seconds of silence that end a session.
    pub hold: u16,
    /// It keeps routes of peers that restart (RFC 4724).
    pub graceful_restart: bool,
    pub neighbours: Vec<Neighbour>,
    /// Its own routes: agents have to ignore them.
    pub networks: Vec<String>,
    /// Redistribute the routes of this kernel table.
    pub table: Option<u32>,
    /// A complete configuration, which replaces the fields above.
    pub written: Option<Written>,
}

/// A configuration in the router's own language.
#[derive(Debug, Clone)]
pub struct Written {
    /// BIRD's, or that of FRR's bgpd.
    pub bgp: String,
    /// What FRR's zebra has.
    pub zebra: String,
}

impl RouterOptions {
    /// A router for these neighbours.
    pub fn new(kind: RouterKind, asn: u32, neighbours: Vec<Neighbour>) -> Self {
        Self {
            kind,
            asn,
            hold: 9,
            graceful_restart: true,
            neighbours,
            networks: Vec::new(),
            table: None,
            written: None,
        }
    }
}

/// A router on the segment.
#[derive(Debug)]
pub struct Router {
    processes: Vec<Process>,
    options: RouterOptions,
    folder: PathBuf,
    number: u8,
    /// Its namespace.
    pub namespace: Namespace,
}

const FRR: &str = "/usr/lib/frr";

impl Router {
    /// The default gateway.
    pub fn start(lab: &Lab, options: RouterOptions) -> Result<Self> {
        Self::start_as(lab, "router", GATEWAY, options)
    }

    /// A router with this name and number.
    pub fn start_as(lab: &Lab, name: &str, number: u8, options: RouterOptions) -> Result<Self> {
        let namespace = lab.machine(name, number)?;
        namespace.sysctl("net.ipv4.ip_forward", "1")?;
        namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        // Hosts are to use the router, though its next hops are on their own link.
        namespace.sysctl("net.ipv4.conf.all.send_redirects", "0")?;
        namespace.sysctl("net.ipv4.conf.eth0.send_redirects", "0")?;
        // Flows, and not only pairs of hosts, are spread over paths.
        namespace.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
        namespace.sysctl("net.ipv6.fib_multipath_hash_policy", "1")?;
        let folder = lab.path(name);
        std::fs::create_dir_all(&folder).map_err(io(folder.to_string_lossy()))?;
        Self::on(namespace, folder, number, options)
    }

    /// A routing daemon on a host, which redistributes the routes of a table to the gateway.
    pub fn beside_agent(host: &Host, kind: RouterKind, table: u32) -> Result<Self> {
        let gateway = Neighbour { connects: true, ..Neighbour::new(&format!("10.42.0.{GATEWAY}"), 65_001) };
        let options = RouterOptions { table: Some(table), ..RouterOptions::new(kind, 65_000, vec![gateway]) };
        Self::on_host(host, options)
    }

    /// A routing daemon on a host.
    pub fn on_host(host: &Host, options: RouterOptions) -> Result<Self> {
        let folder = host.folder.join("router");
        std::fs::create_dir_all(&folder).map_err(io(folder.to_string_lossy()))?;
        Self::on(host.namespace.alias(), folder, host.number, options)
    }

    fn on(namespace: Namespace, folder: PathBuf, number: u8, options: RouterOptions) -> Result<Self> {
        let mut router = Self { processes: Vec::new(), options, folder, number, namespace };
        router.launch()?;
        Ok(router)
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.folder.join(name), text).map_err(io(name))
    }

    /// Start its processes.
    pub fn launch(&mut self) -> Result<()> {
        match self.options.kind {
            RouterKind::Frr => {
                let import =
                    self.options.table.map_or_else(String::new, |table| format!("ip import-table {table}\n"));
                let made = || Written { bgp: self.frr(), zebra: format!("hostname router\n{import}") };
                let Written { bgp, zebra } = self.options.written.clone().unwrap_or_else(made);
                self.write("zebra.conf", &zebra)?;
                self.write("bfdd.conf", "hostname router\n")?;
                self.write("bgpd.conf", &bgp)?;
                // Left by killed daemons, they would look like those of the new ones.
                for left in ["zserv.api", "zebra.vty", "bfdd.vty", "bgpd.vty", "bfdd.sock"] {
                    drop(std::fs::remove_file(self.folder.join(left)));
                }
                // FRR insists on a user of its own.
                run(&["chown", "-R", "frr:frr", &self.folder.to_string_lossy()])?;
                let (socket, folder) = (self.file("zserv.api"), self.folder.to_string_lossy().into_owned());
                for daemon in ["zebra", "bfdd", "bgpd"] {
                    let program = format!("{FRR}/{daemon}");
                    let (config, pid) =
                        (self.file(&format!("{daemon}.conf")), self.file(&format!("{daemon}.pid")));
                    let log = format!("file:{}", self.file(&format!("{daemon}.frr.log")));
                    let mut command = vec![&*program, "-f", &config, "-i", &pid, "-z", &socket];
                    command.extend(["--vty_socket", &folder, "-u", "frr", "-g", "frr", "--log", &log]);
                    let control = self.file("bfdd.sock");
                    if daemon == "bfdd" {
                        command.extend(["--bfdctl", &control]);
                    }
                    let log = self.folder.join(format!("{daemon}.log"));
                    self.processes.push(Process::start(&self.namespace, &command, &[], &log)?);
                    let vty = self.folder.join(format!("{daemon}.vty"));
                    wait_for(&format!("{daemon} of FRR"), 20, || vty.exists().then_some(()))?;
                }
                wait_for("FRR's BGP", 20, || self.query("show bgp summary json").ok())?;
            }
            RouterKind::Bird => {
                let written = self.options.written.as_ref().map(|written| written.bgp.clone());
                self.write("bird.conf", &written.unwrap_or_else(|| self.bird()))?;
                let (config, control, pid) =
                    (self.file("bird.conf"), self.file("bird.ctl"), self.file("bird.pid"));
                let command = ["bird", "-f", "-c", &config, "-s", &control, "-P", &pid];
                let log = self.folder.join("bird.log");
                self.processes.push(Process::start(&self.namespace, &command, &[], &log)?);
                wait_for("BIRD", 20, || self.query("show status").ok())?;
            }
            RouterKind::GoBgp => {
                self.write("gobgp.toml", &self.gobgp())?;
                let config = self.file("gobgp.toml");
                let command = ["gobgpd", "-t", "toml", "-f", &config, "--api-hosts", "127.0.0.1:50051", "-p"];
                let log = self.folder.join("gobgpd.log");
                self.processes.push(Process::start(&self.namespace, &command, &[], &log)?);
                wait_for("GoBGP", 20, || self.query("neighbor").ok())?;
            }
        }
        Ok(())
    }

    /// Stop it with SIGKILL, as a power failure does.
    pub fn kill(&mut self) {
        self.processes.clear();
    }

    /// Stop its processes as an operator does.
    pub fn terminate(&mut self) {
        self.processes.iter().for_each(Process::terminate);
        for process in &mut self.processes {
            drop(process.wait(10));
        }
        self.processes.clear();
    }

    /// The processes.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The output of a command of its command line.
    pub fn query(&self, question: &str) -> Result<String> {
        match self.options.kind {
            RouterKind::Frr => {
                run(&["vtysh", "--vty_socket", &self.folder.to_string_lossy(), "-c", question])
            }
            RouterKind::Bird => run(&["birdc", "-s", &self.file("bird.ctl"), question]),
            RouterKind::GoBgp => {
                let command: Vec<&str> = ["gobgp"].into_iter().chain(question.split_whitespace()).collect();
                self.namespace.run(&command)
            }
        }
    }

    /// How many routes its kernel has from BGP.
    pub fn kernel_routes(&self) -> usize {
        let protocol = if self.options.kind == RouterKind::Bird { "bird" } else { "bgp" };
        let text = self.namespace.ip(&["-4", "route", "show", "proto", protocol]).unwrap_or_default();
        text.lines().filter(|line| !line.starts_with(char::is_whitespace)).count()
    }

    /// Make GoBGP announce these, which have no place in its configuration.
    pub fn announce(&self, prefixes: &[String]) -> Result<()> {
        self.write("prefixes", &prefixes.join("\n"))?;
        let add = "xargs -P 2 -I{} gobgp global rib add {} -a ipv4 <";
        self.namespace.run(&["sh", "-c", &format!("{add} {}", self.file("prefixes"))]).map(drop)
    }

    /// Next hops by which it sends packets for a prefix: in its kernel, for those that use it.
    pub fn next_hops(&self, prefix: &str) -> Vec<String> {
        let mut hops: Vec<String> = match self.options.kind {
            RouterKind::GoBgp => {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                let text = self.query(&format!("global rib -a {family} {prefix} -j")).unwrap_or_default();
                let paths: Vec<serde_json::Value> = match serde_json::from_str(&text) {
                    Ok(serde_json::Value::Array(paths)) => paths,
                    Ok(serde_json::Value::Object(map)) => {
                        let lists = map.into_iter().filter_map(|(_, value)| value.as_array().cloned());
                        lists.flatten().collect()
                    }
                    _ => Vec::new(),
                };
                paths.iter().filter_map(gobgp_next_hop).collect()
            }
            _ => {
                let family = if prefix.contains(':') { "-6" } else { "-4" };
                let args = [family, "-j", "route", "show", "exact", prefix, "table", "main"];
                let text = self.namespace.ip(&args).unwrap_or_default();
                let routes: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
                routes.iter().flat_map(kernel_next_hops).collect()
            }
        };
        hops.sort();
        hops.dedup();
        hops
    }

    /// Wait until packets for a prefix go to exactly these.
    pub fn wait_for_next_hops(&self, prefix: &str, wanted: &[&str]) -> Result<()> {
        let mut wanted: Vec<&str> = wanted.to_vec();
        wanted.sort_unstable();
        let mut last = Vec::new();
        let met = wait_for("next hops", 20, || {
            last = self.next_hops(prefix);
            (last == wanted).then_some(())
        });
        met.map_err(|_| crate::LabError::Timeout {
            what: format!("{:?} to send {prefix} to {wanted:?}; it sends it to {last:?}", self.options.kind),
            seconds: 20,
        })
    }

    /// Everything it knows about the routes for a prefix, as text.
    pub fn about(&self, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let question = match self.options.kind {
            RouterKind::Frr => format!("show bgp {family} unicast {prefix}"),
            RouterKind::Bird => format!("show route for {prefix} all"),
            RouterKind::GoBgp => format!("global rib -a {family} {prefix}"),
        };
        self.query(&question).unwrap_or_else(|error| error.to_string())
    }

    /// How many neighbours it exchanges routes with.
    pub fn established(&self) -> usize {
        match self.options.kind {
            RouterKind::Frr => {
                let text = self.query("show bgp neighbors json").unwrap_or_default();
                text.matches("\"bgpState\":\"Established\"").count()
            }
            RouterKind::Bird => {
                self.query("show protocols").unwrap_or_default().matches("Established").count()
            }
            RouterKind::GoBgp => self.query("neighbor").unwrap_or_default().matches("Establ").count(),
        }
    }

    /// Wait until it exchanges routes with so many neighbours.
    pub fn wait_for_established(&self, count: usize) -> Result<()> {
        let what = format!("{count} sessions of {:?}", self.options.kind);
        wait_for(&what, 20, || (self.established() == count).then_some(()))
    }

    fn identifier(&self) -> String {
        format!("10.42.0.{}", self.number)
    }

    fn frr(&self) -> String {
        let RouterOptions { asn, hold, neighbours, networks, .. } = &self.options;
        let keepalive = (hold / 3).max(1);
        let mut text = format!(
            "hostname router\nrouter bgp {asn}\n bgp router-id {}\n no bgp ebgp-requires-policy\n \
             no bgp default ipv4-unicast\n no bgp network import-check\n bgp bestpath as-path multipath-relax\n bgp log-neighbor-changes\n \
             timers bgp {keepalive} {hold}\n",
            self.identifier()
        );
        if self.options.graceful_restart {
            text.push_str(" bgp graceful-restart\n");
        }
        for neighbour in neighbours {
            let Neighbour { address, asn, .. } = neighbour;
            let how = if address.parse::<std::net::IpAddr>().is_ok() { "" } else { "interface " };
            text.push_str(&format!(
                " neighbor {address} {how}remote-as {asn}\n neighbor {address} timers connect 1\n"
            ));
            let mut line = |wanted: bool, line: &str| {
                if wanted {
                    text.push_str(&format!(" neighbor {address} {line}\n"));
                }
            };
            line(!neighbour.connects && how.is_empty(), "passive");
            line(address.contains(':'), "capability extended-nexthop");
            line(neighbour.multihop, "ebgp-multihop 8");
            line(neighbour.ttl_security, "ttl-security hops 1");
            line(
                neighbour.password.is_some(),
                &format!("password {}", neighbour.password.clone().unwrap_or_default()),
            );
            if let Some((millis, times)) = neighbour.bfd {
                line(true, &format!("bfd {times} {millis} {millis}"));
            }
        }
        for family in ["ipv4", "ipv6"] {
            text.push_str(&format!(
                " address-family {family} unicast\n  maximum-paths 16\n  maximum-paths ibgp 16\n"
            ));
            for Neighbour { address, .. } in neighbours {
                text.push_str(&format!("  neighbor {address} activate\n"));
            }
            for network in networks.iter().filter(|network| network.contains(':') == (family == "ipv6")) {
                text.push_str(&format!("  network {network}\n"));
            }
            if let Some(table) = self.options.table.filter(|_| family == "ipv4") {
                text.push_str(&format!("  redistribute table {table}\n"));
            }
            text.push_str(" exit-address-family\n");
        }
        text
    }

    fn bird(&self) -> String {
        let RouterOptions { asn, hold, neighbours, networks, .. } = &self.options;
        let mut text = format!(
            "log stderr all;\ndebug protocols {{ states, events }};\nrouter id {};\nprotocol device {{ scan time 1; }}\nprotocol direct {{ ipv4; ipv6; }}\n\
             protocol bfd {{}}\n\
             protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; merge paths on; graceful restart; }}\n\
             protocol kernel {{ ipv6 {{ export where source = RTS_BGP; }}; merge paths on; graceful restart; }}\n",
            self.identifier()
        );
        for (index, family) in ["ipv4", "ipv6"].into_iter().enumerate() {
            let of_family = networks.iter().filter(|network| network.contains(':') == (index == 1));
            let routes: String = of_family.map(|network| format!(" route {network} unreachable;")).collect();
            text.push_str(&format!("protocol static own{index} {{ {family};{routes} }}\n"));
        }
        if let Some(table) = self.options.table {
            for family in ["ipv4", "ipv6"] {
                text.push_str(&format!(
                    "{family} table of_{family};\nprotocol kernel {{ kernel table {table}; learn; scan time 1; \
                     {family} {{ table of_{family}; import all; export none; }}; }}\n"
                ));
            }
        }
        let exported = if self.options.table.is_some() { "RTS_INHERIT" } else { "RTS_STATIC" };
        for (index, neighbour) in neighbours.iter().enumerate() {
            let Neighbour { address, asn: remote, .. } = neighbour;
            let channel = |family: &str| {
                let extended = if family == "ipv4" { " extended next hop on;" } else { "" };
                let table = self.options.table.map_or_else(String::new, |_| format!(" table of_{family};"));
                format!(
                    " {family} {{{table} import all; export where source = {exported}; next hop self;{extended} }};\n"
                )
            };
            text.push_str(&format!(
                "protocol bgp peer{index} {{\n local as {asn};\n neighbor {address} as {remote};\n hold time {hold};\n \
                 connect retry time 1;\n connect delay time 1;\n error wait time 1, 2;\n\
                 {}{} graceful restart {};\n passive {};\n{}{}{}{}}}\n",
                channel("ipv4"),
                channel("ipv6"),
                if self.options.graceful_restart { "on" } else { "off" },
                if neighbour.connects { "off" } else { "on" },
                if neighbour.multihop { " multihop 8;\n" } else { " direct;\n" },
                neighbour.password.as_ref().map_or_else(String::new, |password| format!(" password \"{password}\";\n")),
                neighbour.bfd.map_or_else(String::new, |(millis, times)| format!(
                    " bfd {{ min rx interval {millis} ms; min tx interval {millis} ms; multiplier {times}; }};\n"
                )),
                if neighbour.ttl_security { " ttl security on;\n" } else { "" },
            ));
        }
        text
    }

    fn gobgp(&self) -> String {
        let RouterOptions { asn, hold, neighbours, .. } = &self.options;
        let mut text = format!(
            "[global.config]\n as = {asn}\n router-id = \"{}\"\n[global.use-multiple-paths.config]\n enabled = true\n",
            self.identifier()
        );
        for neighbour in neighbours {
            text.push_str(&format!(
                "[[neighbors]]\n[neighbors.config]\n neighbor-address = \"{}\"\n peer-as = {}\n{}\
                 [neighbors.timers.config]\n hold-time = {hold}\n keepalive-interval = {}\n connect-retry = 1\n idle-hold-time-after-reset = 1\n\
                 [neighbors.transport.config]\n passive-mode = {}\n",
                neighbour.address,
                neighbour.asn,
                neighbour.password.as_ref().map_or_else(String::new, |password| format!(" auth-password = \"{password}\"\n")),
                (hold / 3).max(1),
                !neighbour.connects,
            ));
            if neighbour.multihop {
                text.push_str("[neighbors.ebgp-multihop.config]\n enabled = true\n multihop-ttl = 8\n");
            }
            if neighbour.ttl_security {
                text.push_str("[neighbors.ttl-security.config]\n enabled = true\n ttl-min = 255\n");
            }
            if self.options.graceful_restart {
                text.push_str("[neighbors.graceful-restart.config]\n enabled = true\n restart-time = 20\n");
            }
            for family in ["ipv4-unicast", "ipv6-unicast"] {
                text.push_str(&format!(
                    "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n afi-safi-name = \"{family}\"\n"
                ));
                if self.options.graceful_restart {
                    text.push_str("[neighbors.afi-safis.mp-graceful-restart.config]\n enabled = true\n");
                }
            }
        }
        text
    }
}

fn gobgp_next_hop(path: &serde_json::Value) -> Option<String> {
    let attributes = path.get("attrs")?.as_array()?;
    attributes.iter().find_map(|attribute| attribute.get("nexthop")?.as_str().map(str::to_owned))
}

fn kernel_next_hops(route: &serde_json::Value) -> Vec<String> {
    let hop = |value: &serde_json::Value| {
        let via = value.get("gateway").or_else(|| value.get("via")?.get("host"));
        via.and_then(serde_json::Value::as_str).map(str::to_owned)
    };
    match route.get("nexthops").and_then(serde_json::Value::as_array) {
        Some(hops) => hops.iter().filter_map(hop).collect(),
        None => hop(route).into_iter().collect(),
    }
}
