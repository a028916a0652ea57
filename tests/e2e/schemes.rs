//! A rolling update that changes how Services are elected: which Lease guards an address differs from node to node meanwhile.

use std::net::IpAddr;
use std::time::Duration;

use kube_vip::model::BootTime;
use kube_vip_lab::sweep::Sweep;
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{note, now, wait_for};

use crate::harness::{ServicesGuard, services};
use crate::services::wait_for_event;

/// Settings of all agents.
type Settings<'a> = &'a [(&'a str, &'a str)];

const SIXTEEN: Settings<'_> = &[("svc_election_groups", "16")];
const EIGHT: Settings<'_> = &[("svc_election_groups", "8")];
const PER_SERVICE: Settings<'_> = &[("svc_election", "true")];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_rolling_change_of_the_number_of_groups_leaves_one_holder", || rollout(SIXTEEN, EIGHT)),
        trial("a_rolling_change_from_one_election_to_groups_leaves_one_holder", || rollout(&[], EIGHT)),
        trial("a_rolling_change_from_groups_to_one_election_leaves_one_holder", || rollout(SIXTEEN, &[])),
        trial("a_rolling_change_from_services_to_groups_leaves_one_holder", || rollout(PER_SERVICE, EIGHT)),
    ]
}

fn restart(lab: &mut ServicesGuard, host: usize) -> Outcome {
    lab.agent(host).terminate();
    lab.agent(host).wait(10)?;
    Ok(lab.start_agent(host)?)
}

/// Restarts three agents one after the other with other settings. The addresses stay on nodes with the old settings until the
/// last one stops, and then they are on the others at once.
fn rollout(before: Settings<'_>, after: Settings<'_>) -> Outcome {
    let mut lab = services(before)?;
    let addresses: Vec<String> = (1..=16).map(|number| format!("10.43.0.{number}")).collect();
    let names = (1..=16).map(|number| format!("web-{number}"));
    lab.start_agents()?;
    lab.serve_all(&names.zip(addresses.clone()).collect::<Vec<_>>())?;
    let each_on_one_of = |lab: &ServicesGuard, hosts: &[usize]| {
        let on_one = |address: &String| matches!(lab.holders(address)[..], [host] if hosts.contains(&host));
        wait_for(&format!("each address on one of the hosts {hosts:?}"), 20, || {
            addresses.iter().all(on_one).then_some(())
        })
    };
    each_on_one_of(&lab, &[0, 1, 2])?;
    let watched: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let sweep = Sweep::start(&lab.lab)?;
    sweep.follow(&watched);
    lab.options = after.iter().fold(lab.plain_options(), |options, (name, value)| options.with(name, value));
    for (host, name, old) in [(1, "node-2", &[0, 2][..]), (2, "node-3", &[0][..])] {
        restart(&mut lab, host)?;
        wait_for_event(&lab, name, "ElectionSchemeDiffers", "by another scheme")?;
        each_on_one_of(&lab, old)?;
    }
    let waiting = now();
    // Longer than a lease duration.
    std::thread::sleep(Duration::from_secs(6));
    let taken =
        lab.sampler.since(waiting).iter().any(|sample| sample.holds[1..].iter().any(|it| !it.is_empty()));
    assert!(!taken, "a node with the new settings took an address while one with the old ones had it");
    let last = now();
    restart(&mut lab, 0)?;
    each_on_one_of(&lab, &[0, 1, 2])?;
    let (mut longest, held) = (Duration::ZERO, now());
    for address in watched {
        let answers = wait_for(&format!("two answers of {address}"), 10, || {
            Some(sweep.answers(address))
                .filter(|answers| answers.iter().filter(|(at, _)| *at >= held).count() >= 2)
        })?;
        assert_one_host(address, &answers);
        longest = longest.max(gap(&answers, last));
    }
    note!("longest time without an answer after the last node with the old settings stopped: {longest:?}");
    assert!(longest < Duration::from_secs(3), "an address was away for {longest:?}");
    Ok(())
}

/// No two hosts answer by turns. A planned move after the rollout may bring an address back once.
fn assert_one_host(address: IpAddr, answers: &[(BootTime, Vec<u8>)]) {
    let hosts: Vec<&[(BootTime, Vec<u8>)]> = answers.chunk_by(|one, next| one.1 == next.1).collect();
    for turns in hosts.windows(4) {
        let [first, second, third, fourth] = [0, 1, 2, 3].map(|turn| turns[turn].first().unwrap());
        let by_turns = first.1 == third.1 && second.1 == fourth.1;
        let twice = by_turns && fourth.0.since(first.0) < Duration::from_secs(1);
        assert!(!twice, "two hosts answer for {address}: {first:?}, {second:?}, {third:?}, {fourth:?}");
    }
}

/// The longest time between two answers since `start`.
fn gap(answers: &[(BootTime, Vec<u8>)], start: BootTime) -> Duration {
    let times = answers.iter().map(|(at, _)| *at).filter(|at| *at >= start).collect::<Vec<_>>();
    times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or(Duration::MAX)
}
