//! Errors of API servers, from a fake one that returns them on request.

use std::net::IpAddr;
use std::time::Duration;

use kube_vip_lab::fake_api_server::{FakeApiServer, Mode};
use kube_vip_lab::note;
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Agent, AgentOptions, Lab, LabOptions};

use crate::harness::PROGRAM;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("api_errors_cause_neither_a_restart_nor_two_holders", bad_days),
        trial("services_created_during_api_errors_are_served_after_them", bad_days_for_services),
        trial("a_black_hole_of_any_length_ends_the_claim_and_no_process", black_holes),
        trial("followers_send_nothing_and_the_holder_writes_once_per_retry_period", quiet),
    ]
}

struct Scene {
    agents: Vec<Agent>,
    sampler: Sampler,
    server: FakeApiServer,
    lab: Lab,
}

fn scene() -> Result<Scene, Failed> {
    let lab = Lab::start(LabOptions { hosts: 2, control_plane: false })?;
    let server = FakeApiServer::start(&lab, &lab.client_host)?;
    let sampler = Sampler::start(&lab)?;
    let options =
        AgentOptions::new(&lab, PROGRAM).with("kubernetes_addr", &format!("https://{}", server.address));
    let mut agents = Vec::new();
    for host in &lab.hosts {
        agents.push(Agent::start(host, &options)?);
    }
    sampler.wait_for_holder(10)?;
    Ok(Scene { agents, sampler, server, lab })
}

/// The claim ends in time; no agent exits; the VIP is back soon after the first good answer.
fn bad_days() -> Outcome {
    let mut scene = scene()?;
    let start = kube_vip_lab::now();
    let modes = [
        Mode::Status(403),
        Mode::Status(409),
        Mode::Status(429),
        Mode::Status(500),
        Mode::Status(401),
        Mode::Silent,
    ];
    for mode in modes {
        scene.sampler.wait_for_holder(20)?;
        scene.server.set(mode);
        let gone = || {
            let sample = scene.sampler.latest()?;
            sample.holds.iter().all(Vec::is_empty).then_some(())
        };
        kube_vip_lab::wait_for(&format!("the address to go, {mode:?}"), 6, gone)?;
        // No process may end while the errors last.
        std::thread::sleep(Duration::from_secs(3));
        scene.server.set(Mode::Healthy);
        let healed = kube_vip_lab::now();
        scene.sampler.wait_for_holder(20)?;
        note!(
            "{mode:?}: back {:?} after the first good answer was to be had",
            kube_vip_lab::now().since(healed)
        );
    }
    // A watch that is compacted away, again and again, does not cost the claim.
    let holder = scene.sampler.wait_for_holder(20)?;
    scene.server.set(Mode::WatchError(410));
    let broken = kube_vip_lab::now();
    std::thread::sleep(Duration::from_secs(7));
    let held = scene.sampler.since(broken).iter().all(|sample| sample.holds[holder].len() == 2);
    assert!(held, "the address went away because a watch did");
    scene.server.set(Mode::Healthy);
    assert_eq!(scene.sampler.overlap(start), Duration::ZERO);
    for agent in &mut scene.agents {
        assert!(agent.ended().is_none(), "{}", agent.log());
    }
    assert_eq!(scene.server.holder(), Some(scene.lab.host(holder).name.clone()));
    Ok(())
}

/// A Service that is created during errors is served as soon as the server answers again.
fn bad_days_for_services() -> Outcome {
    let lab = Lab::start(LabOptions { hosts: 1, control_plane: false })?;
    let server = FakeApiServer::start(&lab, &lab.client_host)?;
    let address = |number: usize| format!("10.42.0.{}", 150 + number);
    let watched: Vec<IpAddr> = (0..8).map(|number| address(number).parse().unwrap()).collect();
    let sampler = Sampler::watching(&lab, &watched)?;
    let options = AgentOptions { address: String::new(), ..AgentOptions::new(&lab, PROGRAM) };
    let options = options
        .with("cp_enable", "false")
        .with("svc_enable", "true")
        .with("kubernetes_addr", &format!("https://{}", server.address));
    let mut agent = Agent::start(lab.host(0), &options)?;
    let serve = |number: usize| server.serve(&format!("web-{number}"), &address(number));
    let served = |number: usize| {
        kube_vip_lab::wait_for(&format!("Service {number} to be announced"), 20, || {
            let sample = sampler.latest()?;
            (!sample.holders(watched[number]).is_empty()).then_some(())
        })
    };
    serve(0);
    served(0)?;
    // A watch that is compacted away, again and again, costs a list each time and nothing more.
    server.set(Mode::WatchError(410));
    serve(1);
    served(1)?;
    let modes = [Mode::Status(401), Mode::Status(403), Mode::Status(429), Mode::Status(500), Mode::Silent];
    for (number, mode) in modes.into_iter().enumerate() {
        server.set(mode);
        // For longer than a lease duration.
        std::thread::sleep(Duration::from_secs(6));
        serve(number + 2);
        server.set(Mode::Healthy);
        let healed = kube_vip_lab::now();
        served(number + 2)?;
        served(0)?;
        note!("{mode:?}: served {:?} after its end", kube_vip_lab::now().since(healed));
    }
    assert!(agent.ended().is_none(), "{}", agent.log());
    Ok(())
}

/// Three labs side by side, each with a hole of its own length between the agents and their only API server.
fn black_holes() -> Outcome {
    let holes = [5, 20, 60].map(|seconds| {
        std::thread::spawn(move || black_hole(seconds).map_err(|failed| format!("{seconds} s: {failed:?}")))
    });
    for hole in holes {
        match hole.join() {
            Ok(outcome) => outcome?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(())
}

fn black_hole(seconds: u64) -> Outcome {
    let mut scene = scene()?;
    let start = kube_vip_lab::now();
    scene.lab.client_host.black_hole("eth0", scene.server.address.port())?;
    let gone = || scene.sampler.latest()?.holds.iter().all(Vec::is_empty).then_some(());
    kube_vip_lab::wait_for("the address to go", 5, gone)?;
    let left = Duration::from_secs(seconds).saturating_sub(kube_vip_lab::now().since(start));
    std::thread::sleep(left);
    assert!(gone().is_some(), "an address is held without a Lease");
    scene.lab.client_host.fill_black_hole()?;
    let healed = kube_vip_lab::now();
    scene.sampler.wait_for_holder(20)?;
    note!("{seconds} s: back {:?} after the end of the black hole", kube_vip_lab::now().since(healed));
    assert_eq!(scene.sampler.overlap(start), Duration::ZERO);
    for agent in &mut scene.agents {
        assert!(agent.ended().is_none(), "{}", agent.log());
    }
    Ok(())
}

fn quiet() -> Outcome {
    let scene = scene()?;
    // The requests of the start are over by then.
    std::thread::sleep(Duration::from_secs(3));
    scene.server.requests();
    std::thread::sleep(Duration::from_secs(10));
    let requests = scene.server.requests();
    let leases: Vec<&String> = requests.iter().filter(|request| request.contains("/leases")).collect();
    let writes = leases.iter().filter(|request| request.starts_with("PUT")).count();
    note!("{writes} writes, {} other requests for the Lease in 10 s", leases.len() - writes);
    assert!((8..=12).contains(&writes), "{leases:?}");
    assert_eq!(leases.len(), writes, "{leases:?}");
    Ok(())
}
