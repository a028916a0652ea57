//! avahi: the mDNS of most Linux desktops, on a machine of its own.

use crate::lab::Lab;
use crate::process::Process;
use crate::{Namespace, Result, io, run, wait_for};

/// A machine with an mDNS responder and resolver.
#[derive(Debug)]
pub struct Avahi {
    bus: String,
    _processes: Vec<Process>,
    /// Its namespace.
    pub namespace: Namespace,
}

impl Avahi {
    /// A machine with this name and number.
    pub fn start(lab: &Lab, name: &str, number: u8) -> Result<Self> {
        let namespace = lab.machine(name, number)?;
        let folder = lab.path(&format!("avahi-{name}"));
        std::fs::create_dir_all(&folder).map_err(io("avahi's folder"))?;
        let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
        // A message bus of its own, on which any process may be avahi.
        let bus = format!("unix:path={}", file("bus"));
        let bus_conf = format!(
            "<busconfig><type>system</type><listen>{bus}</listen><auth>EXTERNAL</auth><auth>ANONYMOUS</auth>\
             <allow_anonymous/><policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>\
             <allow send_destination=\"*\"/><allow eavesdrop=\"true\"/></policy></busconfig>"
        );
        std::fs::write(file("bus.conf"), bus_conf).map_err(io("the bus's configuration"))?;
        let conf = format!(
            "[server]\nhost-name={name}\nallow-interfaces=eth0\nuse-ipv4=yes\nuse-ipv6=yes\n[publish]\n\
             publish-hinfo=no\npublish-workstation=no\n"
        );
        std::fs::write(file("avahi.conf"), conf).map_err(io("avahi's configuration"))?;
        let env = [("DBUS_SYSTEM_BUS_ADDRESS".to_owned(), bus.clone())];
        let log = folder.join("log");
        let config = format!("--config-file={}", file("bus.conf"));
        let daemon = Process::start(&namespace, &["dbus-daemon", "--nofork", &config], &env, &log)?;
        wait_for("the message bus", 10, || folder.join("bus").exists().then_some(()))?;
        // The daemon's pid file has a fixed path, where this machine's own avahi has one, too.
        let conf = file("avahi.conf");
        let command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            &format!(
                "mount -t tmpfs none /run && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits --debug -f {conf}"
            ),
        ];
        let avahi = Process::start(&namespace, &command, &env, &log)?;
        let machine = Self { bus, _processes: vec![avahi, daemon], namespace };
        wait_for("avahi to know its own name", 20, || machine.resolve(&format!("{name}.local"), "-4"))?;
        Ok(machine)
    }

    fn query(&self, command: &[&str]) -> Option<String> {
        let bus = format!("DBUS_SYSTEM_BUS_ADDRESS={}", self.bus);
        let inside = ["ip", "netns", "exec", self.namespace.name(), "env", &bus, "timeout", "3"];
        run(&[&inside[..], command].concat()).ok()
    }

    /// The address of a name; `-4` or `-6`.
    pub fn resolve(&self, name: &str, family: &str) -> Option<String> {
        let answer = self.query(&["avahi-resolve", family, "-n", name])?;
        answer.split_whitespace().nth(1).map(str::to_owned)
    }

    /// The services of a type, in avahi's own form.
    pub fn browse(&self, kind: &str) -> String {
        self.query(&["avahi-browse", "-rptk", kind]).unwrap_or_default()
    }
}
