//! `kube-vip doctor`: nothing on healthy hosts of each kind, and one finding for each fault.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_vip_lab::home_router::HomeRouter;
use kube_vip_lab::process::Process;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{
    AgentOptions, DhcpServer, Host, Kubeconfig, Neighbour, Router, RouterKind, RouterOptions, ServerKind,
    ServerOptions, ServiceLab, wait_for,
};
use serde_json::json;

use crate::bgp::{HOSTS, router_with};
use crate::harness::{PROGRAM, ServicesGuard, services};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_healthy_host_has_no_finding", healthy),
        trial("each_fault_of_a_host_is_found", host_faults),
        trial("missing_capabilities_and_routes_of_a_host_are_found", missing),
        trial("each_fault_of_the_cluster_is_found", cluster_faults),
        trial("faults_of_bgp_peers_are_found", peers),
        trial("faults_of_the_network_are_found", network_faults),
        trial("the_rights_of_a_daemon_set_are_those_of_its_service_account", service_account),
        trial("a_second_host_with_the_vip_is_found", second_host).alone(),
    ]
}

const VIP: &str = "10.42.0.100";
const BASE: [(&str, &str); 2] = [("cp_enable", "true"), ("address", VIP)];

/// Where the control plane has no VIP: the server in the kubeconfig is the VIP.
const LOCAL: (&str, &str) = ("kubernetes_addr", "https://127.0.0.1:6443");

/// A lab whose hosts forward packets, as nodes do, and options with the rights of an administrator.
fn lab(env: &[(&str, &str)]) -> Result<ServicesGuard, Failed> {
    let mut lab = services(env)?;
    for host in &lab.lab.hosts {
        host.namespace.sysctl("net.ipv4.ip_forward", "1")?;
        host.namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    }
    lab.options.kubeconfig = Kubeconfig::File(lab.lab.path("super-admin.conf"));
    Ok(lab)
}

/// The exit code, and the lines with findings.
fn examine(lab: &ServiceLab, options: &AgentOptions) -> Result<(Option<i32>, Vec<String>), Failed> {
    let (code, text) = options.run(lab.lab.host(0), &["doctor"])?;
    let is_finding = |line: &&str| line.starts_with("warning ") || line.starts_with("error ");
    let findings: Vec<String> = text.lines().filter(is_finding).map(str::to_owned).collect();
    assert!(text.contains("checks: "), "{text}");
    Ok((code, findings))
}

fn wait_for_no_finding(lab: &ServiceLab, options: &AgentOptions, when: &str) -> Outcome {
    let examined = || examine(lab, options).ok().filter(|found| *found == (Some(0), vec![])).map(drop);
    Ok(wait_for(&format!("no finding {when}"), 30, examined)?)
}

fn healthy() -> Outcome {
    let kinds: [&[(&str, &str)]; 5] = [
        &BASE,
        &[("cp_enable", "true"), ("address", "10.42.0.100,fd42::100")],
        &[("cp_enable", "true"), ("address", "fd42::100"), ("svc_enable", "false")],
        &[("svc_election", "true"), LOCAL],
        &[("cp_enable", "true"), ("address", VIP), ("vip_arp", "false"), ("vip_routingtable", "true")],
    ];
    for env in kinds {
        let mut lab = lab(env)?;
        // Before kube-vip runs, and while it does. Addresses of the trial before may still expire.
        wait_for_no_finding(&lab, &lab.options, &format!("with {env:?}"))?;
        lab.start_agents()?;
        let address = env.iter().find(|(name, _)| *name == "address").map(|(_, value)| *value);
        if let Some(first) = address.and_then(|text| text.split(',').next()) {
            let held = |host: &Host| {
                host.namespace.ip(&["address"]).is_ok_and(|text| text.contains(&format!(" {first}/")))
            };
            wait_for("a holder", 20, || lab.lab.hosts.iter().any(held).then_some(()))?;
        }
        wait_for_no_finding(&lab, &lab.options, &format!("beside an agent with {env:?}"))?;
        let (code, text) = lab.options.run(lab.lab.host(0), &["doctor", "--output", "json"])?;
        let report: serde_json::Value = serde_json::from_str(&text)?;
        assert!(code == Some(0) && report["checks"].as_array().is_some_and(|all| all.len() > 5), "{text}");
    }
    Ok(())
}

/// One finding, with this exit code, name and text.
fn assert_found(lab: &ServiceLab, options: &AgentOptions, code: i32, name: &str, part: &str) -> Outcome {
    let (found, findings) = examine(lab, options)?;
    let [finding] = findings.as_slice() else { panic!("{part}: {findings:#?}") };
    assert!(finding.contains(&format!(" {name}: ")) && finding.contains(part), "{part}: {finding}");
    assert_eq!(found, Some(code), "{finding}");
    Ok(())
}

fn host_faults() -> Outcome {
    let lab = lab(&BASE)?;
    let host = &lab.lab.host(0).namespace;
    let options = &lab.options;
    for (sysctl, value, usual, name) in
        [("net.ipv4.conf.eth0.arp_ignore", "8", "0", "arp"), ("net.ipv4.ip_forward", "0", "1", "forwarding")]
    {
        host.sysctl(sysctl, value)?;
        assert_found(&lab, options, 2, name, &format!("is {value}"))?;
        host.sysctl(sysctl, usual)?;
    }
    // The VIP on a second interface, whose clients the default route does not lead to.
    host.ip(&["link", "add", "second0", "type", "veth", "peer", "name", "second1"])?;
    for interface in ["second0", "second1"] {
        host.ip(&["link", "set", interface, "up"])?;
    }
    host.ip(&["address", "add", "10.99.0.1/24", "dev", "second0"])?;
    let second = options.clone().with("vip_interface", "second0").with("address", "10.99.0.9");
    for (value, is_found) in [("1", true), ("2", false)] {
        host.sysctl("net.ipv4.conf.second0.rp_filter", value)?;
        let (_, findings) = examine(&lab, &second)?;
        let found = findings
            .iter()
            .any(|line| line.contains("reverse-path") && line.contains("rp_filter of second0 is 1"));
        assert_eq!(found, is_found, "{findings:?}");
    }
    host.ip(&["link", "del", "second0"])?;
    host.ip(&["link", "add", "down0", "type", "veth", "peer", "name", "down1"])?;
    assert_found(&lab, &options.clone().with("vip_interface", "down0"), 2, "settings", "`down0` is not up")?;
    host.ip(&["link", "del", "down0"])?;
    assert_found(&lab, &options.clone().with("vip_interface", "eth9"), 2, "settings", "eth9")?;
    for line in [
        "add table ip firewall",
        "add chain ip firewall fw { type filter hook forward priority 0; policy drop; }",
    ] {
        host.run(&["nft", line])?;
    }
    assert_found(
        &lab,
        options,
        1,
        "forward-policy",
        "chain fw of table ip firewall drops all forwarded packets",
    )?;
    host.run(&["nft", "add chain ip firewall KUBE-FORWARD"])?;
    host.run(&["nft", "add rule ip firewall fw jump KUBE-FORWARD"])?;
    assert_eq!(examine(&lab, options)?, (Some(0), vec![]));
    host.run(&["nft", "delete table ip firewall"])?;
    let server = ["python3", "-m", "http.server", "2112"];
    let other = Process::start(host, &server, &[], &lab.lab.path("port.log"))?;
    wait_for("the port to be taken", 10, || {
        host.run(&["ss", "-tlnH"]).ok()?.contains(":2112").then_some(())
    })?;
    assert_found(&lab, options, 1, "ports", "prometheus_server: [::]:2112 cannot be bound")?;
    drop(other);
    let confined = AgentOptions { confined: true, ..options.clone() };
    assert_eq!(examine(&lab, &confined)?, (Some(0), vec![]));
    Ok(())
}

fn cluster_faults() -> Outcome {
    let lab = lab(&BASE)?;
    let options = &lab.options;
    assert_found(&lab, &options.clone().with("vip_nodename", "elsewhere"), 2, "node", "no Node elsewhere")?;
    assert_found(&lab, &options.clone().with("address", "10.42.0.77"), 2, "certificate", "10.42.0.77")?;
    let without = AgentOptions { kubeconfig: Kubeconfig::Missing, ..options.clone() };
    // Another agent had its kubeconfig there.
    std::fs::remove_file(lab.lab.host(0).folder.join("root/etc/kubernetes/admin.conf")).ok();
    assert_found(&lab, &without, 1, "credentials", "before `kubeadm init`")?;
    let elsewhere = options.clone().with("kubernetes_addr", "https://10.42.0.13:7443");
    assert_found(&lab, &elsewhere, 2, "api-server", "https://10.42.0.13:7443 does not respond")?;
    // A user without any rights, as that of `admin.conf` before kubeadm has bound it.
    let stranger = Kubeconfig::File(lab.lab.kubeconfig("stranger", "strangers")?);
    let unbound = AgentOptions { kubeconfig: stranger, ..options.clone() };
    assert_found(&lab, &unbound, 2, "rights", "create leases in kube-system")?;

    let objects = lab.objects();
    let map = |name: &str, key: &str, text: &str| -> Outcome {
        Ok(objects.create::<ConfigMap>(
            &format!("kube-system/{name}"),
            json!({ "metadata": { "name": name }, "data": { key: text } }),
        )?)
    };
    for (name, key, text, code, check) in [
        ("kubeadm-config", "ClusterConfiguration", "kubernetesVersion: v1.36.3\n", 1, "kubeadm-endpoint"),
        (
            "kubeadm-config",
            "ClusterConfiguration",
            "controlPlaneEndpoint: 10.42.0.11:6443\n",
            1,
            "kubeadm-endpoint",
        ),
        ("kube-proxy", "config.conf", "mode: ipvs\nipvs:\n  strictARP: false\n", 2, "kube-proxy"),
    ] {
        map(name, key, text)?;
        assert_found(&lab, options, code, check, "")?;
        objects.delete::<ConfigMap>(&format!("kube-system/{name}"))?;
    }
    let pools = json!({
        "metadata": { "name": "ipaddresspools.metallb.io" },
        "spec": {
            "group": "metallb.io", "scope": "Namespaced",
            "names": { "plural": "ipaddresspools", "singular": "ipaddresspool", "kind": "IPAddressPool" },
            "versions": [{
                "name": "v1beta1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object" } },
            }],
        },
    });
    objects.create::<CustomResourceDefinition>("ipaddresspools.metallb.io", pools)?;
    wait_for("the API group", 20, || objects.raw("/apis").ok()?.contains("metallb.io").then_some(()))?;
    assert_found(&lab, options, 1, "other-load-balancers", "MetalLB")?;
    objects.delete::<CustomResourceDefinition>("ipaddresspools.metallb.io")?;
    wait_for("the API group to go", 20, || {
        (!objects.raw("/apis").ok()?.contains("metallb.io")).then_some(())
    })?;
    assert_eq!(examine(&lab, options)?, (Some(0), vec![]));
    Ok(())
}

fn peers() -> Outcome {
    let bgp = |asn: &str| {
        let peers = format!("10.42.0.254:{asn}");
        let env = [
            ("vip_arp", "false"),
            ("bgp_enable", "true"),
            ("bgp_as", "65000"),
            ("bgp_peers", peers.as_str()),
            LOCAL,
        ];
        lab(&env)
    };
    let mut healthy = bgp("65001")?;
    assert_found(&healthy, &healthy.options, 1, "bgp-peer", "10.42.0.254:179")?;
    let silent = healthy.lab.machine("silent", 253)?;
    let accepts = ["python3", "-m", "http.server", "179"];
    let _server = Process::start(&silent, &accepts, &[], &healthy.lab.path("silent.log"))?;
    wait_for("the port", 10, || silent.run(&["ss", "-tlnH"]).ok()?.contains(":179").then_some(()))?;
    let of = |peer: &str| healthy.options.clone().with("bgp_peers", peer);
    assert_found(&healthy, &of("10.42.0.253:65001"), 1, "bgp-peer", "sends no OPEN within 3 s")?;
    assert_found(
        &healthy,
        &of("10.42.0.11:65001"),
        1,
        "bgp-peer",
        "refuses the connection: check that BGP runs",
    )?;
    healthy.lab.host(0).namespace.ip(&["route", "add", "unreachable", "198.51.100.0/24"])?;
    assert_found(&healthy, &of("198.51.100.1:65001"), 1, "bgp-peer", "cannot be reached")?;
    let neighbours = HOSTS.iter().map(|host| Neighbour::new(host, 65_000)).collect();
    let router = Router::start(&healthy.lab, RouterOptions::new(RouterKind::Frr, 65_001, neighbours))?;
    wait_for_no_finding(&healthy, &healthy.options, "once the router accepts connections")?;
    let wrong = healthy.options.clone().with("bgp_peers", "10.42.0.254:65002");
    assert_found(&healthy, &wrong, 2, "bgp-peer", "has AS 65001, not 65002")?;
    let with_bfd = healthy.options.clone().with("bgp_peers", "10.42.0.254:65001:::::true;300;300;3");
    assert_found(&healthy, &with_bfd, 1, "bfd", "the BFD session with 10.42.0.254:179 is not up yet")?;
    drop(router);
    let bfd = |neighbour: &mut Neighbour| neighbour.bfd = Some((300, 3));
    let router = router_with(&healthy, RouterKind::Frr, 65_001, &HOSTS, bfd)?;
    wait_for_no_finding(&healthy, &with_bfd, "once the router has BFD")?;
    healthy.options = with_bfd;
    healthy.start_agents()?;
    router.wait_for_established(3)?;
    // A session of BFD comes up after that of BGP.
    wait_for_no_finding(&healthy, &healthy.options, "with both sessions")?;
    drop(router);
    let gone = || examine(&healthy, &healthy.options).ok().filter(|(code, _)| *code == Some(1)).map(drop);
    wait_for("a session that is down to be found", 30, gone)?;
    assert_found(&healthy, &healthy.options, 1, "bgp-peer", "is not established")
}

/// Servers that the settings need: each is missing, and then there.
fn network_faults() -> Outcome {
    let lab = lab(&BASE)?;
    let leased = lab.options.clone().with("address", "0.0.0.0,::");
    let (code, findings) = examine(&lab, &leased)?;
    let expected = ["no DHCP server on eth0 offers", "no DHCPv6 server on eth0 offers"];
    assert!(code == Some(1) && findings.len() == 2, "{findings:#?}");
    for (finding, part) in findings.iter().zip(expected) {
        assert!(finding.contains(" dhcp: ") && finding.contains(part), "{finding}");
    }
    let server = DhcpServer::start(&lab.lab, ServerOptions::new(ServerKind::Dnsmasq, 600))?;
    wait_for_no_finding(&lab, &leased, "with a DHCP server")?;
    assert!(!server.log().contains("DHCPREQUEST"), "a lease was taken: {}", server.log());

    let forwards = lab.options.clone().with("enable_upnp", "true");
    assert_found(&lab, &forwards, 1, "port-mappings", "no gateway replies to a search by UPnP on eth0")?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on(crate::upnp::ALL)?;
    wait_for_no_finding(&lab, &forwards, "with a gateway")?;

    let named = lab.options.clone().with("address", "missing.invalid");
    let (code, findings) = examine(&lab, &named)?;
    let is_name = |finding: &String| finding.contains(" name: missing.invalid does not resolve");
    assert!(code == Some(2) && findings.iter().any(is_name), "{findings:#?}");
    Ok(())
}

/// The first host alone is sent a router advertisement (RFC 4861, section 4.2): a default route for 1,800 s.
fn advertise(lab: &ServiceLab) -> Outcome {
    const SEND: &str = "import socket, sys\n\
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)\n\
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)\n\
        to = (sys.argv[1], 0, 0, socket.if_nametoindex('eth0'))\n\
        raw.sendto(bytes([134, 0, 0, 0, 64, 0, 7, 8]) + bytes(8), to)";
    let addresses =
        lab.lab.host(0).namespace.ip(&["-6", "-o", "address", "show", "eth0", "scope", "link"])?;
    let of_link =
        addresses.split_whitespace().find(|word| word.starts_with("fe80:")).ok_or(addresses.clone())?;
    let address = of_link.split('/').next().unwrap_or_default();
    lab.lab.client_host.run(&["python3", "-c", SEND, address])?;
    Ok(())
}

/// What a host lacks: NET_RAW, an IPv6 default route that lasts, any default route.
fn missing() -> Outcome {
    let lab = lab(&BASE)?;
    let host = &lab.lab.host(0).namespace;
    let kubeconfig = lab.lab.path("super-admin.conf").to_string_lossy().into_owned();
    let doctor = ["doctor", "--services", "--arp", "--interface", "eth0", "--k8sConfigPath", &kubeconfig];
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", host.name(), "setpriv", "--bounding-set", "-net_raw", PROGRAM])
        .args(doctor)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("error    capabilities: this process lacks NET_RAW"), "{text}");
    assert_eq!(output.status.code(), Some(2));

    host.sysctl("net.ipv6.conf.eth0.accept_ra", "2")?;
    advertise(&lab)?;
    let route = ["-6", "route", "show", "default", "proto", "ra"];
    wait_for("a route by router advertisement", 10, || (!host.ip(&route).ok()?.is_empty()).then_some(()))?;
    assert_eq!(examine(&lab, &lab.options)?, (Some(0), vec![]));
    host.sysctl("net.ipv6.conf.eth0.accept_ra", "1")?;
    assert_found(&lab, &lab.options, 1, "router-advertisements", "accept_ra=1")?;
    // Also one of a trial before.
    host.ip(&["-6", "route", "flush", "default"])?;

    let gateways = host.ip(&["route", "show", "default"])?;
    host.ip(&["route", "flush", "default"])?;
    let any = lab.options.clone().with("vip_interface", "");
    let (code, findings) = examine(&lab, &any)?;
    for gateway in gateways.lines() {
        host.ip(&[&["route", "add"][..], &gateway.split_whitespace().collect::<Vec<_>>()].concat())?;
    }
    let is_interface = |finding: &String| finding.contains("this host has no default route");
    assert!(code == Some(2) && findings.iter().any(is_interface), "{findings:#?}");
    Ok(())
}

/// With an administrator's kubeconfig the rights of the pod are examined, not those of the administrator.
fn service_account() -> Outcome {
    let lab = lab(&BASE)?;
    let manifest = lab.lab.path("daemonset.yaml");
    let generate = ["manifest", "daemonset", "--services", "--arp", "--inCluster", "--interface", "eth0"];
    let server = format!("{}={}", LOCAL.0, LOCAL.1);
    let text = lab.lab.host(0).namespace.run(&[&["env", &server, PROGRAM][..], &generate].concat())?;
    std::fs::write(&manifest, text)?;
    let super_admin = lab.lab.path("super-admin.conf");
    let examine = || {
        let files = [manifest.to_string_lossy().into_owned(), super_admin.to_string_lossy().into_owned()];
        let doctor = ["doctor", "-f", &files[0], "--k8sConfigPath", &files[1]];
        let program = std::process::Command::new("ip")
            .args(["netns", "exec", lab.lab.host(0).namespace.name(), PROGRAM])
            .args(doctor)
            .output()?;
        let text = String::from_utf8_lossy(&program.stdout).into_owned();
        let rights = text.lines().find(|line| line.contains(" rights: ")).map(str::to_owned);
        std::io::Result::Ok((rights.unwrap_or_default(), text))
    };
    let (rights, text) = examine()?;
    let account = "the ServiceAccount kube-system/kube-vip";
    assert!(rights.starts_with("error") && rights.contains(&format!("{account} may not ")), "{text}");
    let binding = json!({
        "metadata": { "name": "pod" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "kube-system", "name": "kube-vip" }],
    });
    lab.objects().create::<ClusterRoleBinding>("pod", binding)?;
    let found =
        || examine().ok().filter(|(rights, _)| rights.contains(&format!("{account} may do"))).map(drop);
    wait_for("the rights of the ServiceAccount", 20, found)?;
    Ok(())
}

/// A host that was given the VIP by hand.
fn second_host() -> Outcome {
    let mut lab = lab(&BASE)?;
    let address = [VIP, "/32"].concat();
    lab.lab.client_host.ip(&["address", "add", &address, "dev", "eth0"])?;
    assert_found(&lab, &lab.options, 2, "vip", "no node holds the Lease")?;
    lab.lab.client_host.ip(&["address", "del", &address, "dev", "eth0"])?;
    lab.start_agents()?;
    let holder = lab.wait_for_holder(VIP)?;
    lab.lab.client_host.ip(&["address", "add", &address, "dev", "eth0"])?;
    let found = examine(&lab, &lab.options)?;
    lab.lab.client_host.ip(&["address", "del", &address, "dev", "eth0"])?;
    let expected = if holder == 0 { "this host and " } else { " and " };
    assert!(found.0 == Some(2) && found.1.iter().any(|line| line.contains(expected)), "{found:?}");
    Ok(())
}
