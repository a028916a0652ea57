//! Addresses on a link: how they are put there, and what happens when others put or take them.

use std::time::Duration;

use kube_vip_lab::alerts::Recording;
use kube_vip_lab::fake_api_server::{FakeApiServer, Mode};
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Agent, AgentOptions, Lab, LabOptions, ServiceLab, wait_for};

use crate::harness::{PROGRAM, services};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("an_address_is_deprecated_tagged_fenced_and_has_its_prefix", form),
        trial("a_name_is_followed_when_its_address_changes", name),
        trial("an_address_configured_by_another_program_is_left_alone", foreign),
        trial("the_interface_of_a_service_proxy_is_not_in_the_way", service_proxy),
        trial("what_the_go_program_left_behind_is_adopted", adopted),
        trial("a_flushed_interface_gets_its_address_again", flushed),
        trial("a_host_without_ipv4_needs_no_interface_name", ipv6_only),
        trial("on_the_loopback_interface_the_scope_follows_the_configuration", loopback),
        trial("an_interface_that_is_down_is_refused_unless_allowed", down),
        trial("an_interface_that_stays_down_ends_the_claim_where_configured", lost_link),
        trial("an_overloaded_api_server_does_not_make_the_address_wander", overloaded),
        trial("a_new_holder_does_not_take_an_address_that_another_host_has", occupied),
        trial("a_successor_does_not_take_it_either_and_clients_still_reach_it", succeeded),
        trial("a_second_interface_on_the_segment_is_no_other_host", second_interface),
    ]
}

struct Scene {
    agent: Agent,
    sampler: Sampler,
    lab: Lab,
    server: FakeApiServer,
}

fn scene(
    prepare: impl FnOnce(&Lab, &FakeApiServer, AgentOptions) -> Result<AgentOptions, Failed>,
) -> Result<Scene, Failed> {
    let lab = Lab::start(LabOptions { hosts: 1, control_plane: false })?;
    let server = FakeApiServer::start(&lab, &lab.client_host)?;
    let sampler = Sampler::start(&lab)?;
    let options =
        AgentOptions::new(&lab, PROGRAM).with("kubernetes_addr", &format!("https://{}", server.address));
    let options = prepare(&lab, &server, options)?;
    let agent = Agent::start(lab.host(0), &options)?;
    Ok(Scene { agent, sampler, lab, server })
}

impl Scene {
    /// What `ip` shows of eth0.
    fn link(&self) -> String {
        self.lab.host(0).namespace.ip(&["-d", "address", "show", "dev", "eth0"]).unwrap_or_default()
    }

    fn wait_for_link(&self, text: &str) -> Result<String, Failed> {
        let shown = kube_vip_lab::wait_for(&format!("`{text}` on eth0"), 10, || {
            Some(self.link()).filter(|shown| shown.contains(text))
        });
        shown.map_err(|error| format!("{error}\n{}\n{}", self.link(), self.agent.log()).into())
    }

    fn wait_for_log(&self, text: &str) -> Outcome {
        Ok(self.agent.wait_for_log(text, 10)?)
    }
}

fn form() -> Outcome {
    let scene = scene(|_, _, options| Ok(options.with("vip_subnet", "24,64")))?;
    let shown = scene.wait_for_link("10.42.0.100/24")?;
    let after = |address: &str| {
        let rest = shown.split(address).nth(1).unwrap_or_default();
        rest.lines().take(2).collect::<Vec<_>>().join(" ")
    };
    for address in ["10.42.0.100/24", "fd42::100/64"] {
        let line = after(address);
        assert!(line.contains("deprecated") && line.contains("preferred_lft 0sec"), "{shown}");
        let lifetime = ["valid_lft 4sec", "valid_lft 3sec", "valid_lft 2sec"];
        assert!(lifetime.iter().any(|text| line.contains(text)), "{shown}");
    }
    let namespace = &scene.lab.host(0).namespace;
    let hops = ["nexthop", "via", "10.42.0.253", "nexthop", "via", "10.42.0.254"];
    namespace.ip(&[&["route", "add", "default", "table", "77"], &hops[..]].concat())?;
    let (addresses, gateways) = namespace.block_on(async {
        let (netlink, _changes) = kube_vip::net::netlink::Netlink::open(kube_vip::model::Tags::default())?;
        let addresses = netlink.addresses().await.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>((addresses, netlink.gateways().await.map_err(std::io::Error::other)?))
    })?;
    for gateway in ["10.42.0.253", "10.42.0.254"] {
        assert!(gateways.contains(&gateway.parse()?), "{gateways:?}");
    }
    let tagged: Vec<String> = addresses
        .iter()
        .filter(|address| address.tag == kube_vip::model::Tag::Ours)
        .map(|address| address.vip.to_string())
        .collect();
    assert_eq!(tagged, ["10.42.0.100/24", "fd42::100/64"]);
    Ok(())
}

fn name() -> Outcome {
    let scene = scene(|_, _, mut options| {
        options.address = "vip.test".into();
        Ok(options)
    })?;
    let hosts = scene.lab.host(0).folder.join("root/etc/hosts");
    scene.wait_for_log("cannot resolve the name; retrying")?;
    std::fs::write(&hosts, "10.42.0.100 vip.test\n")?;
    scene.wait_for_link("10.42.0.100/32")?;
    std::fs::write(&hosts, "10.42.0.99 vip.test\n")?;
    let shown = scene.wait_for_link("10.42.0.99/32")?;
    assert!(!shown.contains("10.42.0.100/32"), "{shown}");
    std::fs::write(&hosts, "")?;
    // The name is looked up every 3 s.
    std::thread::sleep(Duration::from_secs(4));
    assert!(
        scene.link().contains("10.42.0.99/32"),
        "an address was lost because its name could not be resolved"
    );
    Ok(())
}

fn foreign() -> Outcome {
    let mut scene = scene(|lab, _, options| {
        lab.host(0).namespace.ip(&["address", "add", "10.42.0.100/24", "dev", "eth0"])?;
        Ok(options)
    })?;
    scene.wait_for_log("10.42.0.100/24 is configured on this host by another program")?;
    scene.wait_for_link("fd42::100/128")?;
    scene.agent.terminate();
    scene.agent.wait(5)?;
    let shown = scene.link();
    assert!(shown.contains("10.42.0.100/24") && !shown.contains("fd42::100"), "{shown}");
    assert!(
        shown.split("10.42.0.100/24").nth(1).is_some_and(|rest| rest.contains("valid_lft forever")),
        "{shown}"
    );
    Ok(())
}

/// kube-proxy in IPVS mode puts every external address on `kube-ipvs0`.
fn service_proxy() -> Outcome {
    let scene = scene(|lab, _, options| {
        let namespace = &lab.host(0).namespace;
        // Down and without ARP, as that one is; not every kernel has its type.
        namespace.ip(&["link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "unused"])?;
        namespace.ip(&["link", "set", "kube-ipvs0", "arp", "off"])?;
        namespace.ip(&["address", "add", "10.42.0.100/32", "dev", "kube-ipvs0"])?;
        Ok(options)
    })?;
    scene.wait_for_link("10.42.0.100/32")?;
    assert!(!scene.agent.log().contains("by another program"), "{}", scene.agent.log());
    Ok(())
}

/// The Go program was killed while it held the Lease; its addresses have an infinite lifetime and no tag.
fn adopted() -> Outcome {
    let scene = scene(|lab, server, options| {
        server.seed(&lab.host(0).name);
        for vip in [format!("{}/32", lab.vip_v4), format!("{}/128", lab.vip_v6)] {
            lab.host(0).namespace.ip(&[
                "address",
                "add",
                &vip,
                "dev",
                "eth0",
                "preferred_lft",
                "0",
                "nodad",
            ])?;
        }
        Ok(options)
    })?;
    let start = kube_vip_lab::now();
    scene.wait_for_log("this node now holds the VIP")?;
    let fenced = || {
        let shown = scene.link();
        let rest = shown.split("10.42.0.100/32").nth(1)?.to_owned();
        (!rest.lines().nth(1)?.contains("forever")).then_some(())
    };
    kube_vip_lab::wait_for("the address to get a lifetime", 5, fenced)?;
    let kept = scene.sampler.since(start).iter().all(|sample| sample.holds[0].len() == 2);
    assert!(kept, "the address was taken away in between");
    Ok(())
}

fn flushed() -> Outcome {
    let scene = scene(|_, _, options| Ok(options))?;
    scene.sampler.wait_for_holder(10)?;
    let namespace = &scene.lab.host(0).namespace;
    namespace.ip(&["address", "flush", "dev", "eth0"])?;
    let flushed = kube_vip_lab::now();
    namespace.ip(&["address", "add", "10.42.0.11/24", "dev", "eth0"])?;
    scene.sampler.wait_for_holder(5)?;
    println!("  repaired {:?} after the flush", kube_vip_lab::now().since(flushed));
    scene.wait_for_log("restored the address: another program had removed it")
}

fn ipv6_only() -> Outcome {
    let scene = scene(|lab, _, mut options| {
        options.address = lab.vip_v6.to_string();
        options.env.insert("vip_interface".into(), String::new());
        let namespace = &lab.host(0).namespace;
        namespace.ip(&["route", "del", "default"])?;
        namespace.ip(&["-6", "route", "add", "default", "via", "fd42::254", "dev", "eth0"])?;
        Ok(options)
    })?;
    scene.wait_for_link("fd42::100/128")?;
    Ok(Recording::begin(&scene.lab)?.expect(&[])?)
}

fn loopback() -> Outcome {
    for (global, scope) in [("false", "scope host"), ("true", "scope global")] {
        let scene = scene(|_, _, options| {
            Ok(options.with("vip_interface", "lo").with("vip_interfaceloglobal", global))
        })?;
        let shown = kube_vip_lab::wait_for("the address on lo", 10, || {
            let shown = scene.lab.host(0).namespace.ip(&["address", "show", "dev", "lo"]).ok()?;
            let line = shown.lines().find(|line| line.contains("10.42.0.100/32"))?;
            Some(line.to_owned())
        })?;
        assert!(shown.contains(scope), "{shown}");
    }
    Ok(())
}

fn down() -> Outcome {
    let link_down = |lab: &Lab| lab.host(0).namespace.ip(&["link", "add", "spare", "type", "bridge"]);
    let mut refused = scene(|lab, _, options| {
        link_down(lab)?;
        Ok(options.with("vip_interface", "spare"))
    })?;
    let status = refused.agent.wait(5)?;
    assert_eq!(status.code(), Some(1));
    refused.wait_for_log("`spare` is not up")?;
    let tolerated = scene(|lab, _, options| {
        link_down(lab)?;
        Ok(options.with("vip_interface", "spare").with("vip_allow_interface_not_up", "true"))
    })?;
    let holds = || tolerated.sampler.latest().filter(|sample| sample.holds[0].len() == 2);
    kube_vip_lab::wait_for("the address on the link that is down", 10, holds)?;
    Ok(())
}

/// The API is reached by another interface: nothing but `vip_loseleadership` ends the claim.
fn lost_link() -> Outcome {
    for (wanted, role) in [("true", "follower for"), ("false", "leader for")] {
        let scene = scene(|lab, _, options| {
            let namespace = &lab.host(0).namespace;
            namespace.ip(&["link", "add", "spare", "type", "veth", "peer", "name", "far"])?;
            namespace.ip(&["link", "set", "far", "up"])?;
            namespace.ip(&["link", "set", "spare", "up"])?;
            Ok(options
                .with("vip_interface", "spare")
                .with("vip_allow_interface_not_up", "true")
                .with("vip_loseleadership", wanted)
                .with("vip_loseleadership_timeout_seconds", "1"))
        })?;
        scene.sampler.wait_for_holder(10)?;
        let namespace = &scene.lab.host(0).namespace;
        let status = || namespace.run(&[PROGRAM, "status"]).unwrap_or_default();
        namespace.ip(&["link", "set", "spare", "down"])?;
        if wanted == "false" {
            // A second of grace, and as long again for what must not happen.
            std::thread::sleep(Duration::from_secs(2));
        }
        kube_vip_lab::wait_for(&format!("`{role}`"), 5, || status().contains(role).then_some(()))
            .map_err(|error| format!("{error}\n{}", status()))?;
        namespace.ip(&["link", "set", "spare", "up"])?;
        scene.sampler.wait_for_holder(10)?;
    }
    Ok(())
}

/// The health check by a configured URL fails, but no other node is healthier: the address stays.
fn overloaded() -> Outcome {
    let scene = scene(|lab, server, options| {
        let root = lab.host(0).folder.join("root/etc");
        std::fs::create_dir_all(&root)?;
        std::fs::copy(lab.pki.path("ca.crt"), root.join("ca.crt"))?;
        Ok(options
            .with("control_plane_health_check_address", &format!("https://{}/livez", server.address))
            .with("control_plane_health_check_period_seconds", "1")
            .with("control_plane_health_check_failure_threshold", "2")
            .with("control_plane_health_check_ca_path", "/etc/ca.crt"))
    })?;
    scene.sampler.wait_for_holder(10)?;
    scene.wait_for_log("health of the local API server changed from=Unknown to=Serving")?;
    let start = kube_vip_lab::now();
    scene.server.set(Mode::Unhealthy);
    scene.wait_for_log("health of the local API server changed from=Serving to=Failing")?;
    std::thread::sleep(Duration::from_secs(2));
    let stayed = scene.sampler.since(start).iter().all(|sample| sample.holds[0].len() == 2);
    assert!(stayed, "the address left a host though no other was better");
    scene.server.set(Mode::Healthy);
    scene.wait_for_log("health of the local API server changed from=Failing to=Serving")
}

fn occupied() -> Outcome {
    let scene = scene(|lab, _, options| {
        let other = &lab.client_host;
        other.ip(&["address", "add", "10.42.0.100/32", "dev", "eth0"])?;
        Ok(options)
    })?;
    scene.wait_for_log("another host answers for the address that this node is to take")?;
    std::thread::sleep(Duration::from_secs(2));
    let touched = scene.sampler.samples().iter().any(|sample| !sample.holds[0].is_empty());
    assert!(!touched, "an address in use was taken");
    scene.lab.client_host.ip(&["address", "del", "10.42.0.100/32", "dev", "eth0"])?;
    scene.sampler.wait_for_holder(5)?;
    Ok(())
}

/// The first holder of the Lease waits for an address that another host has, and so does the next one. Clients notice neither.
fn succeeded() -> Outcome {
    const VIP: &str = "10.42.0.100";
    const WAITS: &str = "another host answers for the address that this node is to take";
    let mut lab = services(&[("cp_enable", "true"), ("svc_enable", "false"), ("address", VIP)])?;
    let client = lab.lab.machine("caller", 246)?;
    let other = lab.lab.client_host.alias();
    other.ip(&["address", "add", "10.42.0.100/32", "dev", "eth0"])?;
    let hardware = other.run(&["cat", "/sys/class/net/eth0/address"])?;
    client.block_on(async {
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
        socket.send_to(b"x", (VIP, 9)).await
    })?;
    let known = || Some(client.ip(&["neighbour", "show", VIP]).ok()?.contains(hardware.trim()));
    wait_for("the client to know the host", 10, || known()?.then_some(()))?;
    lab.start_agents()?;
    let waiting = |lab: &mut ServiceLab, not: Option<usize>| {
        let mut hosts = (0..3).filter(|host| Some(*host) != not);
        hosts.find(|host| lab.agent(*host).log().contains(WAITS))
    };
    let first = wait_for("a holder that waits", 20, || waiting(&mut lab, None))?;
    lab.agent(first).kill();
    wait_for("a successor that waits", 30, || waiting(&mut lab, Some(first)))?;
    assert_eq!((lab.holders(VIP), known()), (vec![], Some(true)), "{}", client.ip(&["neighbour"])?);
    other.ip(&["address", "del", "10.42.0.100/32", "dev", "eth0"])?;
    lab.wait_for_holder(VIP)?;
    Ok(())
}

/// The kernel asks with any of its addresses for a neighbour on any interface (`arp_announce=0`).
fn second_interface() -> Outcome {
    let scene = scene(|lab, _, options| {
        lab.add_interface(0, "eth1", "10.44.0.1/24")?;
        Ok(options)
    })?;
    scene.wait_for_link("10.42.0.100/32")?;
    let ask = |host: &kube_vip_lab::Namespace, neighbour: &'static str| {
        host.block_on(async move {
            let socket = tokio::net::UdpSocket::bind("10.42.0.100:0").await?;
            socket.send_to(b"x", neighbour).await
        })
    };
    let host = &scene.lab.host(0).namespace;
    ask(host, "10.44.0.9:9")?;
    let asked = host.ip(&["neighbour", "show", "10.44.0.9"])?;
    assert!(asked.contains("dev eth1"), "{asked}");
    // The same from another host is a conflict.
    let other = &scene.lab.client_host;
    other.ip(&["address", "add", "10.42.0.100/32", "dev", "eth0"])?;
    ask(other, "10.42.0.99:9")?;
    let conflict = "another host announces our address";
    scene.wait_for_log(conflict)?;
    let log = scene.agent.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(conflict)).collect();
    let own = host.run(&["cat", "/sys/class/net/eth1/address"])?;
    assert!(!lines.iter().any(|line| line.contains(own.trim())), "{lines:?}");
    Ok(())
}
