//! BGP peers that misbehave: each gets a NOTIFICATION, and other sessions are unaffected.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kube_vip::bgp::packet::{Capability, Notification, Open, keepalive};
use kube_vip::model::Family;
use kube_vip_lab::alerts::{self, Recording};
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Namespace, Neighbour, Router, RouterKind, RouterOptions, now, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::bgp::{agents, status, wait_for_status};
use crate::services::wait_for_event;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("peers_that_misbehave_get_a_notification_and_others_are_unaffected", rude),
        trial("a_peer_that_always_refuses_is_retried_with_back_off", storm),
        trial("a_session_change_is_in_log_metrics_events_and_dump", reported),
    ]
}

/// A message with a header that is as it should be.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

fn open(asn: u32, hold_time: u16) -> Vec<u8> {
    let identifier = Ipv4Addr::new(10, 42, 0, 254);
    let capabilities = vec![Capability::Family(Family::V4), Capability::FourOctets(asn)];
    Open { asn, hold_time, identifier, capabilities }.encode()
}

/// Answers every connection with the same bytes, and counts them. `close` closes the connection afterwards.
fn answer_with(
    namespace: &Namespace,
    bytes: Vec<u8>,
    close: bool,
    count: Arc<AtomicUsize>,
) -> Result<JoinHandle<()>, Failed> {
    let listener = namespace.block_on(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 179)))?;
    Ok(namespace.spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let mut theirs = [0; 4096];
            // Their OPEN comes first.
            drop(stream.read(&mut theirs).await);
            drop(stream.write_all(&bytes).await);
            if close {
                drop(stream.shutdown().await);
                // What is left unread would make an end of the connection a reset.
                while stream.read(&mut theirs).await.is_ok_and(|read| read > 0) {}
            } else {
                kept.push(stream);
            }
        }
    }))
}

fn rude() -> Outcome {
    let established = [open(65_001, 90), keepalive()].concat();
    let update = |body: &[u8]| [established.clone(), message(2, body)].concat();
    // ORIGIN 7, an empty AS_PATH, a next hop; 10.0.0.0/8.
    let bad_origin = update(&[0, 0, 0, 14, 0x40, 1, 1, 7, 0x40, 2, 0, 0x40, 3, 4, 10, 42, 0, 254, 8, 10]);
    let too_long = [&[0xff; 16][..], &5000_u16.to_be_bytes(), &[2]].concat();
    let cases: [(&str, Vec<u8>, bool, &str); 8] = [
        ("a hold time of one second", open(65_001, 1), false, "unacceptable hold time (2/6)"),
        ("a hold time of two seconds", open(65_001, 2), false, "unacceptable hold time (2/6)"),
        ("another AS", open(65_009, 90), false, "bad peer AS (2/2)"),
        ("no marker", vec![0; 40], false, "connection not synchronized (1/1)"),
        ("a message that is too long", too_long, false, "bad message length (1/2)"),
        ("a withdrawal that is cut short", update(&[0, 9, 0, 0]), false, "malformed attribute list (3/1)"),
        ("an attribute that cannot be", bad_origin, false, "malformed attributes (types [1])"),
        (
            "the end in the middle of a message",
            open(65_001, 90)[..30].to_vec(),
            true,
            "closed the connection",
        ),
    ];
    let lab = agents("10.42.0.254:65001,10.42.0.253:65001", &[])?;
    let good = RouterOptions::new(RouterKind::Bird, 65_001, vec![Neighbour::new("10.42.0.11", 65_000)]);
    let good = Router::start_as(&lab.lab, "router2", 253, good)?;
    lab.serve("web", "10.43.0.1")?;
    let agent = kube_vip_lab::Agent::start(lab.lab.host(0), &lab.options)?;
    good.wait_for_next_hops("10.43.0.1/32", &["10.42.0.11"])?;
    let rude = lab.lab.machine("rude", 254)?;
    let silent = answer_with(&rude, Vec::new(), false, Arc::default())?;
    wait_for_status(&lab, 0, "OpenSent")?;
    silent.abort();
    wait_for("the port to be free", 5, || silent.is_finished().then_some(()))?;
    for (what, bytes, close, expected) in cases {
        let task = answer_with(&rude, bytes, close, Arc::default())?;
        wait_for_status(&lab, 0, expected).map_err(|error| format!("{what}: {error:?}"))?;
        task.abort();
        wait_for("the port to be free", 5, || task.is_finished().then_some(()))?;
        let good = status(&lab, 0, &[])?;
        assert!(good.contains("10.42.0.253:179 (AS 65001): Established"), "{what}: {good}");
    }
    assert_eq!(good.next_hops("10.43.0.1/32"), ["10.42.0.11"]);
    assert!(agent.log().matches("panicked").count() == 0);
    Ok(())
}

/// A storm of NOTIFICATIONs is answered with pauses that grow.
fn storm() -> Outcome {
    let lab = agents("10.42.0.254:65001", &[])?;
    let rude = lab.lab.machine("rude", 254)?;
    let count = Arc::new(AtomicUsize::new(0));
    let refusal = Notification::BAD_PEER_AS.encode();
    let _task = answer_with(&rude, refusal, true, count.clone())?;
    let _agent = kube_vip_lab::Agent::start(lab.lab.host(0), &lab.options)?;
    wait_for("the first refusal", 20, || (count.load(Ordering::Relaxed) > 0).then_some(()))?;
    let started = now();
    wait_for("four more", 30, || (count.load(Ordering::Relaxed) >= 5).then_some(()))?;
    // Half a second, one, two and four, each less a quarter at most.
    assert!(now().since(started) >= Duration::from_millis(5_600), "{:?}", now().since(started));
    wait_for_status(&lab, 0, "bad peer AS (2/2)")?;
    Ok(())
}

/// Log, metrics, Events on the Node, status and dump agree.
fn reported() -> Outcome {
    let lab = agents("10.42.0.254:65001", &[("prometheus_server", ":2112")])?;
    let mut router = Router::start(
        &lab.lab,
        RouterOptions::new(RouterKind::Bird, 65_001, vec![Neighbour::new("10.42.0.11", 65_000)]),
    )?;
    lab.serve("web", "10.43.0.1")?;
    let agent = kube_vip_lab::Agent::start(lab.lab.host(0), &lab.options)?;
    let state = |name: &str| {
        let line = format!(
            "kube_vip_manager_bgp_session_info{{state=\"SESSION_STATE_{name}\",peer=\"10.42.0.254:179\"}} 1"
        );
        let metrics = || lab.lab.host(0).namespace.http_get(2112, "/metrics").ok();
        wait_for(&line, 20, || metrics()?.contains(&line).then_some(()))
    };
    let event = |reason: &str, part: &str| wait_for_event(&lab, "node-1", reason, part);
    state("ESTABLISHED")?;
    event("BGPSessionUp", "10.42.0.254:179")?;
    // Of the three hosts one has an agent.
    let agents = || alerts::agents(&lab.lab).into_iter().take(1).collect::<Vec<_>>();
    let mut recording = Recording::default();
    recording.scrape(agents());
    recording.expect(&[])?;
    agent.signal(nix::sys::signal::Signal::SIGUSR1);
    wait_for("the dump", 5, || {
        let log = agent.log();
        (log.contains("END OF CONFIGURATION DUMP") && log.contains("BGP peer")).then_some(())
    })?;
    router.terminate();
    event("BGPSessionDown", "administrative")?;
    agent.wait_for_log("the BGP session is down", 5)?;
    wait_for("another state", 20, || {
        let metrics = lab.lab.host(0).namespace.http_get(2112, "/metrics").ok()?;
        metrics.contains("SESSION_STATE_ESTABLISHED\",peer=\"10.42.0.254:179\"} 0").then_some(())
    })?;
    recording.scrape(agents());
    recording.expect_at_least(&["KubeVipBgpNoSession", "KubeVipBgpSessionDown", "KubeVipBgpSessionFlaps"])?;
    router.launch()?;
    state("ESTABLISHED")?;
    Ok(())
}
