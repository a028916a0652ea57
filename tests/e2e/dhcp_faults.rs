//! DHCP servers that go away, change their mind, or do what no server should.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use kube_vip_lab::alerts::{self, Recording};
use kube_vip_lab::fake_dhcp::{FakeDhcpServer, Request, Scripted, honest, kind};
use kube_vip_lab::fake_dhcp6 as v6;
use kube_vip_lab::process::Process;
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{DhcpServer, FakeDhcp6Server, ServerKind, ServerOptions, ServiceLab, now, wait_for};
use serde_json::json;

use crate::dhcp::leased;
use crate::harness::services;
use crate::services::wait_for_event;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("an_address_is_removed_when_its_lease_expires", server_away),
        trial("a_network_that_is_renumbered_is_followed", renumbered),
        trial("an_assigned_address_in_conflict_is_declined", conflict),
        trial("an_offered_address_of_another_service_is_declined", forgetful),
        trial("servers_that_misbehave_cost_no_more_than_time", hostile),
        trial("servers_for_ipv6_that_misbehave_cost_no_more_than_time", hostile_v6),
        trial("a_missing_server_and_a_wrong_interface_are_reported", unanswered),
        trial("a_relay_is_as_good_as_a_server", relay),
    ]
}

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 150);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 151);

fn wait_for_status(lab: &ServiceLab, address: Ipv4Addr) -> Outcome {
    lab.wait_for_status("web", &[&address.to_string()])?;
    lab.wait_for_holder(&address.to_string())?;
    Ok(())
}

/// A server that is away for longer than the lease; leases of five seconds are renewed until then.
fn server_away() -> Outcome {
    let mut lab = services(&[])?;
    let mut server = DhcpServer::start(&lab.lab, ServerOptions::new(ServerKind::Isc, 5))?;
    lab.start_agents()?;
    lab.serve("web", "0.0.0.0")?;
    let address = leased(&lab, "web", 1)?[0].to_string();
    let granted = now();
    wait_for("two renewals", 15, || (server.log().matches("DHCPACK").count() >= 3).then_some(()))?;
    assert!(now().since(granted) < Duration::from_secs(15));
    assert_eq!(leased(&lab, "web", 1)?[0].to_string(), address);
    let mut recording = Recording::begin(&lab.lab)?;
    recording.expect(&[])?;
    server.stop()?;
    lab.wait_until_no_host_has(&address)?;
    lab.wait_for_status("web", &[])?;
    wait_for_event(&lab, "web", "NoLease", "lease expired")?;
    recording.scrape(alerts::agents(&lab.lab));
    recording.expect_at_least(&["KubeVipDhcpLeaseLost", "KubeVipDhcpNoLease"])?;
    server.launch()?;
    // What it had is free: it has it again.
    assert_eq!(leased(&lab, "web", 1)?[0].to_string(), address);
    lab.wait_for_holder(&address)?;
    Ok(())
}

/// The server refuses to give more time, and gives another address.
fn renumbered() -> Outcome {
    let mut lab = services(&[])?;
    let server = FakeDhcpServer::start(&lab.lab, honest(ADDRESS, 4))?;
    lab.start_agents()?;
    lab.serve("web", "0.0.0.0")?;
    wait_for_status(&lab, ADDRESS)?;
    server.play(honest(OTHER, 600));
    wait_for_status(&lab, OTHER)?;
    lab.wait_until_no_host_has(&ADDRESS.to_string())?;
    wait_for_event(&lab, "web", "NoLease", "refused")?;
    wait_for_event(&lab, "web", "AddressLeased", "10.42.0.151")?;
    // Never both at once.
    let both = lab.sampler.since(lab.started());
    let both = both.iter().filter(|sample| {
        !sample.holders(ADDRESS.into()).is_empty() && !sample.holders(OTHER.into()).is_empty()
    });
    assert_eq!(both.count(), 0);
    Ok(())
}

fn conflict() -> Outcome {
    let mut lab = services(&[])?;
    let other = lab.lab.machine("other", 248)?;
    other.ip(&["addr", "add", "10.42.0.150/24", "dev", "eth0"])?;
    let server = FakeDhcpServer::start(&lab.lab, honest(ADDRESS, 600))?;
    lab.start_agents()?;
    lab.serve("web", "0.0.0.0")?;
    wait_for("a DECLINE", 20, || server.kinds().contains(&kind::DECLINE).then_some(()))?;
    wait_for_event(&lab, "web", "NoLease", "address conflict: 10.42.0.150")?;
    assert!(lab.holders("10.42.0.150").is_empty());
    let declined = server.seen().into_iter().find(|request| request.kind() == kind::DECLINE).unwrap();
    assert_eq!(declined.requested(), Some(ADDRESS));
    server.play(honest(OTHER, 600));
    wait_for_status(&lab, OTHER)?;
    Ok(())
}

/// A server that lost its leases offers addresses in use. A host does not answer its own probes for those it has itself.
fn forgetful() -> Outcome {
    let mut lab = services(&[])?;
    let server = FakeDhcpServer::start(&lab.lab, honest(ADDRESS, 600))?;
    lab.start_agents()?;
    lab.serve("web", "0.0.0.0")?;
    wait_for_status(&lab, ADDRESS)?;
    lab.serve("hand", &OTHER.to_string())?;
    lab.wait_for_holder(&OTHER.to_string())?;
    lab.serve("late", "0.0.0.0")?;
    wait_for_event(&lab, "late", "NoLease", "10.42.0.150 is leased to Service default/web, too")?;
    let declines = |count: usize| {
        wait_for(&format!("{count} DECLINEs"), 20, || {
            let declined = server.kinds().into_iter().filter(|kind| *kind == kind::DECLINE).count();
            (declined >= count).then_some(())
        })
    };
    declines(1)?;
    server.play(honest(OTHER, 600));
    declines(2)?;
    wait_for_event(&lab, "late", "NoLease", "10.42.0.151 belongs to Service default/hand")?;
    let free = Ipv4Addr::new(10, 42, 0, 152);
    server.play(honest(free, 600));
    assert_eq!(leased(&lab, "late", 1)?, [free]);
    lab.wait_for_holder(&free.to_string())?;
    wait_for_status(&lab, ADDRESS)?;
    Ok(())
}

/// Whatever the server does: in the end, when it behaves, there is an address; and it was not flooded.
fn hostile() -> Outcome {
    type Script = fn(usize, &Request) -> Vec<Vec<u8>>;
    let cases: [(&str, Script); 8] = [
        ("refuses every request", |_, request| match request.kind() {
            kind::DISCOVER => vec![request.answer(kind::OFFER, ADDRESS, 600)],
            kind::REQUEST => vec![request.answer(kind::NAK, Ipv4Addr::UNSPECIFIED, 0)],
            _ => Vec::new(),
        }),
        ("refuses to offer", |_, request| vec![request.answer(kind::NAK, Ipv4Addr::UNSPECIFIED, 0)]),
        ("offers, and is silent then", |_, request| match request.kind() {
            kind::DISCOVER => vec![request.answer(kind::OFFER, ADDRESS, 600)],
            _ => Vec::new(),
        }),
        ("answers another transaction", |number, request| {
            let mut answer = honest(ADDRESS, 600)(number, request);
            answer.iter_mut().for_each(|answer| answer[7] ^= 1);
            answer
        }),
        ("answers another client", |number, request| {
            let mut answer = honest(ADDRESS, 600)(number, request);
            answer.iter_mut().for_each(|answer| answer[33] ^= 1);
            answer
        }),
        ("cuts its options short", |number, request| {
            let mut answer = honest(ADDRESS, 600)(number, request);
            answer.iter_mut().for_each(|answer| answer.truncate(250));
            answer
        }),
        ("gives an address that no host can have", |number, request| {
            honest(Ipv4Addr::LOCALHOST, 600)(number, request)
        }),
        ("answers a thousand times", |_, request| {
            vec![request.answer(kind::OFFER, Ipv4Addr::UNSPECIFIED, 600); 1000]
        }),
    ];
    let mut lab = services(&[])?;
    let server = FakeDhcpServer::start(&lab.lab, honest(ADDRESS, 600))?;
    lab.start_agents()?;
    outlast(&lab, &server, ("0.0.0.0", "10.42.0.150"), cases, |seconds| honest(ADDRESS, seconds))
}

/// Servers that behave in these ways, and think better of it each time.
fn outlast<R, H>(
    lab: &ServiceLab,
    server: &Scripted<R>,
    (asking, address): (&str, &str),
    cases: impl IntoIterator<Item = (&'static str, fn(usize, &R) -> Vec<Vec<u8>>)>,
    honest: impl Fn(u32) -> H,
) -> Outcome
where
    R: From<Vec<u8>> + Clone + Send + 'static,
    H: Fn(usize, &R) -> Vec<Vec<u8>> + Send + Sync + 'static,
{
    let served = || -> Outcome {
        lab.wait_for_status("web", &[address])?;
        lab.wait_for_holder(address)?;
        Ok(())
    };
    for (what, script) in cases {
        let before = server.seen().len();
        server.play(script);
        let began = now();
        lab.serve("web", asking)?;
        wait_for(&format!("two requests to a server that {what}"), 20, || {
            (server.seen().len() >= before + 2).then_some(())
        })?;
        // Without a usable answer the client retries after a second; after a refusal it waits.
        server.play(honest(600));
        served().map_err(|error| format!("{what}: {error:?}"))?;
        let (asked, seconds) = (server.seen().len() - before, now().since(began).as_secs());
        assert!(asked as u64 <= 6 + 2 * seconds, "{what}: {asked} messages in {seconds} s");
        lab.delete("web")?;
        lab.wait_until_no_host_has(address)?;
    }
    // Leases of a second: asked for as often as is needed, and no more often.
    server.play(honest(1));
    lab.serve("web", asking)?;
    served()?;
    let (before, began) = (server.seen().len(), now());
    wait_for("renewals", 20, || (server.seen().len() >= before + 6).then_some(()))?;
    assert!(now().since(began) > Duration::from_secs(2), "{} messages", server.seen().len());
    Ok(())
}

fn hostile_v6() -> Outcome {
    type Script = fn(usize, &v6::Request) -> Vec<Vec<u8>>;
    const SIX: Ipv6Addr = Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, 0x1150);
    let cases: [(&str, Script); 9] = [
        ("has no address", |_, request| vec![request.refusal(v6::kind::ADVERTISE, 2)]),
        ("advertises, and refuses then", |_, request| match request.kind() {
            v6::kind::SOLICIT => vec![request.answer(v6::kind::ADVERTISE, SIX, 600)],
            _ => vec![request.refusal(v6::kind::REPLY, 2)],
        }),
        ("advertises, and is silent then", |_, request| match request.kind() {
            v6::kind::SOLICIT => vec![request.answer(v6::kind::ADVERTISE, SIX, 600)],
            _ => Vec::new(),
        }),
        ("answers another transaction", |number, request| {
            let mut answer = v6::honest(SIX, 600)(number, request);
            answer.iter_mut().for_each(|answer| answer[3] ^= 1);
            answer
        }),
        ("answers another client", |number, request| {
            let mut answer = v6::honest(SIX, 600)(number, request);
            answer.iter_mut().for_each(|answer| answer[10] ^= 1);
            answer
        }),
        ("cuts its options short", |number, request| {
            let mut answer = v6::honest(SIX, 600)(number, request);
            answer.iter_mut().for_each(|answer| answer.truncate(answer.len() - 7));
            answer
        }),
        ("gives an address that no host can have", |number, request| {
            v6::honest(Ipv6Addr::LOCALHOST, 600)(number, request)
        }),
        ("gives an address for no time", |number, request| v6::honest(SIX, 0)(number, request)),
        ("answers a thousand times", |_, request| {
            vec![request.answer(v6::kind::ADVERTISE, Ipv6Addr::UNSPECIFIED, 600); 1000]
        }),
    ];
    let mut lab = services(&[])?;
    let server = FakeDhcp6Server::start(&lab.lab, v6::honest(SIX, 600))?;
    lab.start_agents()?;
    outlast(&lab, &server, ("::", "fd42::1150"), cases, |seconds| v6::honest(SIX, seconds))
}

fn unanswered() -> Outcome {
    let mut lab = services(&[])?;
    lab.start_agents()?;
    lab.serve("web", "0.0.0.0")?;
    wait_for_event(&lab, "web", "NoLease", "no DHCP server replied to 3 messages on interface eth0")?;
    alerts::expect(alerts::agents(&lab.lab), &["KubeVipDhcpNoLease"])?;
    lab.delete("web")?;
    lab.create("wrong", "0.0.0.0", json!({}))?;
    lab.annotate("wrong", json!({ "kube-vip.io/serviceInterface": "eth7" }))?;
    lab.set_endpoints("wrong", "a", &["node-1"])?;
    wait_for_event(
        &lab,
        "wrong",
        "NoLease",
        "interface eth7 for DHCP does not exist on this host; it has: lo, eth0",
    )
}

/// The server is on a link of its own behind a router, which passes everything on.
fn relay() -> Outcome {
    let mut lab = services(&[])?;
    let router = lab.lab.machine("relay", 247)?;
    let server = lab.lab.detached("behind")?;
    router.ip(&["link", "add", "behind", "type", "veth", "peer", "name", "eth0", "netns", server.name()])?;
    for (machine, link, v4, v6) in
        [(&router, "behind", "10.44.0.1/24", "fd44::1/64"), (&server, "eth0", "10.44.0.2/24", "fd44::2/64")]
    {
        machine.ip(&["addr", "add", v4, "dev", link])?;
        machine.ip(&["addr", "add", v6, "dev", link, "nodad"])?;
        machine.ip(&["link", "set", link, "up"])?;
    }
    server.ip(&["route", "add", "default", "via", "10.44.0.1"])?;
    server.ip(&["-6", "route", "add", "default", "via", "fd44::1"])?;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let path = |name: &str| lab.lab.path(name).to_string_lossy().into_owned();
    let log = lab.lab.path("relay.log");
    let leases = format!("--dhcp-leasefile={}", path("relay.leases"));
    let serve = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--port=0",
        "--no-ping",
        "--log-facility=-",
        "--dhcp-range=10.42.0.150,10.42.0.157,255.255.255.0,600",
        "--dhcp-range=fd42::1150,fd42::1157,64,600",
        &leases,
    ];
    let _server = Process::start(&server, &serve, &[], &log)?;
    let pids = ["relay4.pid", "relay6.pid"].map(path);
    let for_v4 = ["dhcrelay", "-d", "-4", "-pf", &pids[0], "-id", "eth0", "-iu", "behind", "10.44.0.2"];
    let for_v6 = ["dhcrelay", "-d", "-6", "-pf", &pids[1], "-l", "eth0", "-u", "fd44::2%behind"];
    let _relays =
        (Process::start(&router, &for_v4, &[], &log)?, Process::start(&router, &for_v6, &[], &log)?);
    lab.start_agents()?;
    lab.serve("web", "0.0.0.0,::")?;
    let log_text = || std::fs::read_to_string(&log).unwrap_or_default();
    for address in leased(&lab, "web", 2).map_err(|error| format!("{error:?}\n{}", log_text()))? {
        lab.wait_for_holder(&address.to_string())?;
    }
    Ok(())
}
