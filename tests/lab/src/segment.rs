//! The segment: a bridge in a namespace of its own, with a port for each host.

use crate::{Namespace, Result};

/// A layer 2 segment.
#[derive(Debug)]
pub struct Segment {
    switch: Namespace,
}

/// One direction or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Only frames from the first to the second are lost.
    OneWay,
    /// All frames between them are lost.
    BothWays,
}

impl Segment {
    /// A segment without hosts.
    pub fn new(label: &str) -> Result<Self> {
        let switch = Namespace::new(&format!("{label}sw"))?;
        // Without snooping, multicast is flooded, and no querier is needed.
        switch.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0"])?;
        switch.ip(&["link", "set", "br0", "up"])?;
        switch.run(&["nft", "add table bridge lab"])?;
        switch.run(&["nft", "add chain bridge lab cut { type filter hook forward priority 0 ; }"])?;
        Ok(Self { switch })
    }

    /// Connect `host` by its `eth0` to port `number`.
    pub fn connect(&self, host: &Namespace, number: u8) -> Result<()> {
        self.connect_interface(host, "eth0", number)
    }

    /// Connect `host` by this interface to port `number`.
    pub fn connect_interface(&self, host: &Namespace, interface: &str, number: u8) -> Result<()> {
        let port = port(number);
        // No duplicate address detection for the hosts' own addresses: a lab does not wait for seconds.
        for key in ["all", "default"] {
            host.sysctl(&format!("net.ipv6.conf.{key}.accept_dad"), "0")?;
            host.sysctl(&format!("net.ipv6.conf.{key}.accept_ra"), "0")?;
        }
        // The kernel takes its time to clear away the namespace of a machine that was here before.
        drop(self.switch.ip(&["link", "del", &port]));
        let peer = ["type", "veth", "peer", "name", interface, "netns", host.name()];
        self.switch.ip(&[&["link", "add", &port], &peer[..]].concat())?;
        self.switch.ip(&["link", "set", &port, "master", "br0", "up"])?;
        host.ip(&["link", "set", interface, "up"])?;
        Ok(())
    }

    /// Pull the cable of a host, as the switch sees it: the host loses its carrier.
    pub fn pull_cable(&self, number: u8) -> Result<()> {
        self.switch.ip(&["link", "set", &port(number), "down"]).map(drop)
    }

    /// Put it back.
    pub fn plug_cable(&self, number: u8) -> Result<()> {
        self.switch.ip(&["link", "set", &port(number), "up"]).map(drop)
    }

    /// Lose every frame between two hosts, though both keep their carrier.
    pub fn partition(&self, from: u8, to: u8, direction: Direction) -> Result<()> {
        let rule = |from: u8, to: u8| {
            let rule = format!("add rule bridge lab cut iifname {} oifname {} drop", port(from), port(to));
            self.switch.run(&["nft", &rule]).map(drop)
        };
        rule(from, to)?;
        if direction == Direction::BothWays { rule(to, from) } else { Ok(()) }
    }

    /// Mend every partition.
    pub fn mend(&self) -> Result<()> {
        self.switch.run(&["nft", "flush chain bridge lab cut"]).map(drop)
    }
}

fn port(number: u8) -> String {
    format!("p{number}")
}
