//! Peers from a provider's API.

use kube_vip_lab::fake_api_server::{FakeApiServer, Mode};
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{Agent, Neighbour, Router, RouterKind, RouterOptions};
use serde_json::json;

use crate::bgp::{HOSTS, status, wait_for_status};
use crate::harness::services;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("peers_come_from_a_provider", provider)]
}

/// No session before the provider answers; then sessions to its peers, with its password. Errors leave the peers
/// unchanged; a changed answer is followed.
fn provider() -> Outcome {
    let lab = services(&[
        ("vip_arp", "false"),
        ("bgp_enable", "true"),
        ("bgp_provider_url", "https://10.42.0.101:7443/metadata"),
        ("bgp_provider_token_file", "/etc/token"),
        ("bgp_provider_token_header", "X-Auth-Token"),
        ("bgp_provider_ca_path", "/etc/ca.crt"),
    ])?;
    let etc = lab.lab.host(0).folder.join("root/etc");
    std::fs::create_dir_all(&etc)?;
    std::fs::copy(lab.lab.pki.path("ca.crt"), etc.join("ca.crt"))?;
    std::fs::write(etc.join("token"), "wrong\n")?;
    let neighbour = Neighbour { password: Some("s3cret".into()), ..Neighbour::new(HOSTS[0], 65_000) };
    let router = Router::start(&lab.lab, RouterOptions::new(RouterKind::Frr, 65_001, vec![neighbour]))?;
    let server = FakeApiServer::start(&lab.lab, &lab.lab.client_host)?;
    let metadata = |password: &str, peer: &str| {
        json!({ "bgp_neighbors": [{
            "address_family": 4, "customer_as": 65000, "customer_ip": HOSTS[0], "md5_enabled": true,
            "md5_password": password, "multihop": false, "peer_as": 65001, "peer_ips": [peer],
        }] })
    };
    server.show("/metadata", "t0ken", metadata("s3cret", "10.42.0.254"));
    lab.serve("web", "10.43.0.1")?;
    let agent = Agent::start(lab.lab.host(0), &lab.options)?;
    agent.wait_for_log("status 401 Unauthorized: check the token (bgp_provider_token)", 20)?;
    assert!(!status(&lab, 0, &[])?.contains("10.42.0.254"));
    std::fs::write(etc.join("token"), "t0ken\n")?;
    router.wait_for_next_hops("10.43.0.1/32", &HOSTS[..1])?;
    assert!(!agent.log().contains("s3cret"), "a password is in the log");
    wait_for_status(&lab, 0, "10.42.0.254:179 (AS 65001): Established")?;
    // The provider fails: an agent that starts meanwhile waits.
    server.set(Mode::Status(503));
    drop(agent);
    let agent = Agent::start(lab.lab.host(0), &lab.options)?;
    agent.wait_for_log("status 503 Service Unavailable", 20)?;
    server.set(Mode::Healthy);
    router.wait_for_next_hops("10.43.0.1/32", &HOSTS[..1])?;
    wait_for_status(&lab, 0, "10.42.0.254:179 (AS 65001): Established")?;
    drop(agent);
    // A neighbour without an address is named.
    server.show("/metadata", "t0ken", metadata("s3cret", "nowhere"));
    let agent = Agent::start(lab.lab.host(0), &lab.options)?;
    Ok(agent.wait_for_log(r#"neighbour 1: "nowhere" is not an IP address"#, 20)?)
}
