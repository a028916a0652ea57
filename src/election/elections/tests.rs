//! Which Leases are watched, elections whose Lease is deleted, other schemes, and the order of a stop.

use super::*;
use crate::election::Candidate;
use crate::election::elector::{Input as OfElector, LeaseResponse};
use crate::election::record::{LeaderElectionRecord, MANAGED_BY, Write, sign};

const ME: &str = "node-1";
const HOST: &str = "boot/1";
const OTHER: &str = "node-2";

fn at(milliseconds: u64) -> BootTime {
    BootTime::from_boot(Duration::from_secs(100) + Duration::from_millis(milliseconds))
}

fn lease(name: &str) -> LeaseName {
    LeaseName::parse("default", name).unwrap()
}

fn namespace(name: &str) -> Scope {
    Scope::Namespace(name.to_owned())
}

fn object(holder: &str, version: u64, labelled: bool) -> LeaseObject {
    let (label, value) = MANAGED_BY;
    let record = LeaderElectionRecord {
        holder: holder.to_owned(),
        duration_seconds: if holder.is_empty() { 1 } else { 5 },
        renewed: i64::try_from(version).ok(),
        ..LeaderElectionRecord::default()
    };
    let mut lease = LeaseObject { record, ..LeaseObject::default() };
    lease.meta.resource_version = Some(version.to_string());
    sign(&mut lease.meta, if holder == ME { HOST } else { "elsewhere" }, version.try_into().unwrap());
    lease.meta.labels = labelled.then(|| [(label.to_owned(), value.to_owned())].into());
    lease
}

/// Elections with the watches that are open, and the requests since the last check.
struct Script {
    elections: Elections,
    now: u64,
    watches: BTreeSet<Scope>,
    requests: Vec<(LeaseName, LeaseRequest)>,
    roles: BTreeMap<GroupId, Role>,
    holders: BTreeMap<LeaseName, Holder>,
    scheme_problem: Option<String>,
}

impl Script {
    fn new() -> Self {
        Self::with_scheme(None)
    }

    fn with_scheme(scheme: Option<Scheme>) -> Self {
        let settings = Settings {
            candidate: Candidate { identity: ME.into(), host: HOST.into() },
            lease_duration: Duration::from_secs(5),
            renew_deadline: Duration::from_secs(3),
            retry_period: Duration::from_secs(1),
            annotations: BTreeMap::new(),
            provisional: false,
            resuming: false,
            seed: 1,
        };
        let config = Config {
            settings,
            interface: InterfacePolicy::default(),
            hand_over_time: Duration::ZERO,
            scheme,
        };
        Self {
            elections: Elections::new(config),
            now: 0,
            watches: BTreeSet::new(),
            requests: Vec::new(),
            roles: BTreeMap::new(),
            holders: BTreeMap::new(),
            scheme_problem: None,
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.elections.poll_output() {
            match output {
                Output::Request(lease, request) => self.requests.push((lease, request)),
                Output::Watch(scope) => assert!(self.watches.insert(scope)),
                Output::Unwatch(scope) => assert!(self.watches.remove(&scope)),
                Output::Role(group, Some(role)) => drop(self.roles.insert(group, role)),
                Output::Role(group, None) => drop(self.roles.remove(&group)),
                Output::Holders(holders) => self.holders = holders,
                Output::SchemeProblem(problem) => self.scheme_problem = problem,
                Output::Segment(GroupId::Lease(lease), SegmentRequest::Probe) => {
                    let free = Input::Elector(lease, OfElector::Probed { taken: false });
                    self.elections.handle_input(at(self.now), free);
                }
                _ => {}
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.elections.handle_input(at(self.now), input);
        self.drain();
    }

    fn wait_until(&mut self, milliseconds: u64) {
        self.now = milliseconds;
        self.elections.handle_timeout(at(milliseconds));
        self.drain();
    }

    /// Services that are elected on these Leases, and no others.
    fn candidacies<'a>(&mut self, leases: impl IntoIterator<Item = &'a str>) {
        let candidacy = Candidacy { eligible: true, ..Candidacy::default() };
        self.input(Input::Candidacies(
            leases.into_iter().map(|name| (lease(name).into(), candidacy)).collect(),
        ));
    }

    /// Responds to the one request since the last check, and returns it.
    fn respond(&mut self, name: &str, response: LeaseResponse) -> LeaseRequest {
        let (requested, request) = self.requests.pop().unwrap();
        assert_eq!((requested, self.requests.len()), (lease(name), 0));
        self.input(Input::Elector(lease(name), OfElector::Response { started: at(self.now), response }));
        request
    }

    /// A Lease is read when its election begins, and again once the watch is open.
    fn respond_to_reads(&mut self, response: impl Fn(&LeaseName) -> LeaseResponse) {
        for (name, request) in std::mem::take(&mut self.requests) {
            assert_eq!(request, LeaseRequest::Read);
            let response = response(&name);
            let input = OfElector::Response { started: at(self.now), response };
            self.input(Input::Elector(name, input));
        }
    }

    fn list(&mut self, scope: &Scope, leases: &[(&str, LeaseObject)]) {
        let all = leases.iter().map(|(name, object)| (lease(name), Box::new(object.clone()))).collect();
        self.input(Input::Leases(scope.clone(), Change::Reset(all)));
    }

    fn event(&mut self, scope: &Scope, name: &str, object: Option<LeaseObject>) {
        let change = match object {
            Some(object) => Change::Applied((lease(name), Box::new(object))),
            None => Change::Deleted((lease(name), Box::default())),
        };
        self.input(Input::Leases(scope.clone(), change));
    }

    fn leads(&self, name: &str) -> bool {
        matches!(self.roles.get(&lease(name).into()), Some(Role::Leader(_)))
    }
}

fn present(holder: &str, version: u64, labelled: bool) -> LeaseResponse {
    LeaseResponse::Object(Box::new(object(holder, version, labelled)))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("n{number}/kubevip-web")).collect()
}

#[test]
fn the_watch_of_a_namespace_ends_with_its_last_candidacy() {
    let mut script = Script::new();
    script.candidacies(["n1/x", "n1/y"]);
    script.candidacies(["n1/y"]);
    assert_eq!(script.watches, [namespace("n1")].into());
    // The elections on the Leases of n1 are still waiting for responses.
    script.candidacies(["n2/x"]);
    assert_eq!(script.watches, [namespace("n2")].into());
    // What that watch had sent before.
    script.list(&namespace("n1"), &[("n1/x", object(OTHER, 1, true))]);
    assert!(script.holders.is_empty());
}

#[test]
fn seventeen_namespaces_have_one_watch() {
    let mut script = Script::new();
    let names = names(17);
    script.candidacies(names.iter().map(String::as_str));
    assert_eq!(script.watches, [Scope::Labelled].into());
    script.candidacies(names.iter().take(3).map(String::as_str));
    assert_eq!(script.watches, ["n0", "n1", "n2"].map(namespace).into());
}

#[test]
fn a_lease_without_our_label_is_read_where_one_watch_shows_all_namespaces() {
    let mut script = Script::new();
    let names = names(17);
    script.candidacies(names.iter().map(String::as_str));
    script.list(&Scope::Labelled, &[("n0/kubevip-web", object(OTHER, 7, true))]);
    // An agent of the Go program holds the Lease in n1. That the watch does not show it means nothing.
    for (name, request) in std::mem::take(&mut script.requests) {
        assert_eq!(request, LeaseRequest::Read);
        let response = present(OTHER, 7, name.namespace != "n1");
        script.input(Input::Elector(name, OfElector::Response { started: at(0), response }));
    }
    assert_eq!(script.holders.len(), 2, "{:?}", script.holders);
    script.requests.clear();
    script.wait_until(1000);
    let read: Vec<LeaseName> = script.requests.drain(..).map(|(name, _)| name).collect();
    assert!(read.contains(&lease("n1/kubevip-web")) && !read.contains(&lease("n0/kubevip-web")), "{read:?}");
    // Once an agent has labelled it, the watch shows it; it is read once more for what came in between.
    script.input(Input::Elector(
        lease("n1/kubevip-web"),
        OfElector::Response { started: at(1000), response: present(OTHER, 8, false) },
    ));
    script.event(&Scope::Labelled, "n1/kubevip-web", Some(object(OTHER, 9, true)));
    script.respond("n1/kubevip-web", present(OTHER, 9, true));
    script.event(&Scope::Labelled, "n1/kubevip-web", Some(object(OTHER, 10, true)));
    assert_eq!(script.requests, []);
    // A Lease that disappears from that watch may have lost its label.
    script.event(&Scope::Labelled, "n1/kubevip-web", None);
    script.wait_until(2000);
    let read: Vec<LeaseName> = script.requests.drain(..).map(|(name, _)| name).collect();
    assert!(read.contains(&lease("n1/kubevip-web")), "{read:?}");
    assert!(!script.leads("n1/kubevip-web"));
}

#[test]
fn other_leases_of_a_watched_namespace_are_not_kept() {
    let mut script = Script::new();
    script.candidacies(["x"]);
    let all = [("x", object(OTHER, 1, true)), ("y", object(OTHER, 2, true))];
    script.list(&namespace("default"), &all);
    script.event(&namespace("default"), "z", Some(object(OTHER, 3, true)));
    assert_eq!(script.holders.keys().cloned().collect::<Vec<_>>(), [lease("x")]);
    // Leases without a candidacy here show the other members of a group.
    let member = Candidacy { eligible: true, kind: CandidacyKind::Heartbeat, ..Candidacy::default() };
    script.input(Input::Candidacies([(lease("svcs-member-node-1").into(), member)].into()));
    script.event(&namespace("default"), "svcs-member-node-2", Some(object(OTHER, 4, true)));
    assert_eq!(script.holders.keys().cloned().collect::<Vec<_>>(), [lease("svcs-member-node-2"), lease("x")]);
}

/// A Service is deleted and created again at once. The garbage collector deletes the Lease, which belongs to the first one,
/// in the middle of the election for the second one.
#[test]
fn a_lease_that_goes_with_an_earlier_service_of_the_same_name_is_created_again() {
    let (scope, name) = (namespace("default"), "kubevip-web");
    let mut leader = Script::new();
    leader.candidacies([name]);
    leader.list(&scope, &[(name, object(OTHER, 1, true))]);
    leader.respond(name, present(OTHER, 1, true));
    leader.event(&scope, name, Some(object("", 2, true)));
    let acquired = leader.respond(name, present(ME, 3, true));
    assert!(matches!(acquired, LeaseRequest::Replace { .. }) && leader.leads(name));
    leader.event(&scope, name, Some(object(ME, 3, true)));
    // The same candidacy again: the planner has never seen the time without a Service.
    leader.candidacies([name]);
    leader.now = 500;
    leader.event(&scope, name, None);
    let created = leader.respond(name, present(ME, 5, true));
    assert!(matches!(created, LeaseRequest::Create { write: Write { holder, .. }, .. } if holder == ME));
    assert!(leader.leads(name), "without an interruption, and without a probe");

    // A follower that has seen it waits for the leader's whole claim.
    let mut follower = Script::new();
    follower.candidacies([name]);
    follower.list(&scope, &[(name, object(OTHER, 2, true))]);
    follower.respond(name, present(OTHER, 2, true));
    follower.now = 500;
    follower.event(&scope, name, None);
    follower.wait_until(5499);
    assert_eq!(follower.requests, []);
    follower.wait_until(5500);
    assert!(matches!(follower.respond(name, LeaseResponse::Conflict), LeaseRequest::Create { .. }));
    assert!(!follower.leads(name));
    follower.respond(name, present(OTHER, 4, true));
    assert!(!follower.leads(name));
}

/// A Lease with the scheme of its holder.
fn by_scheme(kind: &str, holder: &str, version: u64) -> LeaseObject {
    let mut object = object(holder, version, true);
    object.meta.annotations.get_or_insert_default().extend([Scheme::example(kind).annotation()]);
    object
}

/// A node with eight groups that has started, among nodes with sixteen.
fn among_other_groups() -> Script {
    let mut script = Script::with_scheme(Some(Scheme::example("groups-8")));
    let member = Candidacy { eligible: true, kind: CandidacyKind::Heartbeat, ..Candidacy::default() };
    let group = Candidacy { eligible: true, ..Candidacy::default() };
    script.input(Input::Candidacies(
        [(lease("svcs-member-node-1").into(), member), (lease("svcs-3").into(), group)].into(),
    ));
    script.respond_to_reads(|_| present("", 1, true));
    script.list(
        &namespace("default"),
        &[
            ("svcs-3", object("", 1, true)),
            ("svcs-11", by_scheme("groups-16", OTHER, 2)),
            ("svcs-member-node-1", object("", 1, true)),
            ("svcs-member-node-2", by_scheme("groups-16", OTHER, 3)),
        ],
    );
    script.respond_to_reads(|_| present("", 1, true));
    script
}

#[test]
fn a_node_waits_for_the_last_lease_by_another_scheme_and_acquires_at_once() {
    let scope = namespace("default");
    let mut script = among_other_groups();
    script.wait_until(4000);
    assert_eq!(script.requests, []);
    let problem = script.scheme_problem.clone().unwrap();
    assert!(problem.contains("(scheme groups-8)") && problem.contains("node-2 (groups-16)"), "{problem}");
    // The other one stops: its heartbeat is released first.
    script.event(&scope, "svcs-member-node-2", Some(by_scheme("groups-16", "", 10)));
    assert_eq!(script.requests, []);
    script.event(&scope, "svcs-11", Some(by_scheme("groups-16", "", 11)));
    assert_eq!(script.scheme_problem, None);
    let joined = script.respond("svcs-member-node-1", present(ME, 12, true));
    let LeaseRequest::Replace { write, meta } = joined else { panic!("{joined:?}") };
    let (name, text) = Scheme::example("groups-8").annotation();
    assert_eq!((write.holder.as_str(), &meta.annotations.unwrap()[&name]), (ME, &text));
    // Another node may have joined by another scheme just before: the watch tells.
    assert_eq!(script.requests, []);
    script.event(&scope, "svcs-member-node-1", Some(by_scheme("groups-8", ME, 12)));
    assert!(matches!(script.respond("svcs-3", present(ME, 13, true)), LeaseRequest::Replace { .. }));
    assert!(script.leads("svcs-3"));
    // A node that joins later by another scheme changes nothing.
    script.event(&scope, "svcs-member-node-3", Some(by_scheme("groups-16", "node-3", 14)));
    assert!(script.leads("svcs-3") && script.scheme_problem.is_none());
}

#[test]
fn of_two_nodes_that_join_at_once_by_different_schemes_the_later_one_yields() {
    let scope = namespace("default");
    let mut script = among_other_groups();
    script.event(&scope, "svcs-member-node-2", Some(by_scheme("groups-16", "", 10)));
    script.event(&scope, "svcs-11", Some(by_scheme("groups-16", "", 11)));
    script.respond("svcs-member-node-1", present(ME, 13, true));
    script.event(&scope, "svcs-member-node-3", Some(by_scheme("global", "node-3", 12)));
    script.event(&scope, "svcs-member-node-1", Some(by_scheme("groups-8", ME, 13)));
    let released = script.respond("svcs-member-node-1", present("", 14, true));
    assert!(matches!(released, LeaseRequest::Replace { write, .. } if write.holder.is_empty()));
    assert!(script.requests.is_empty() && script.scheme_problem.unwrap().contains("node-3 (global)"));
}

#[test]
fn a_crashed_node_with_another_scheme_counts_until_its_leases_expire() {
    let mut script = among_other_groups();
    script.wait_until(4999);
    assert_eq!(script.requests, []);
    script.wait_until(5000);
    assert_eq!(script.requests.len(), 1, "{:?}", script.requests);
}

#[test]
fn a_leader_without_a_heartbeat_gives_its_leases_back_beside_another_scheme() {
    let scope = namespace("default");
    let mut script = Script::with_scheme(Some(Scheme::example("global")));
    script.candidacies(["kubevip-own", "kubevip-web", "svcs"]);
    // An earlier process of this host led the first one, and another node leads the second one.
    let before = |name: &LeaseName| match name.name.as_str() {
        "kubevip-own" => present(ME, 1, true),
        "kubevip-web" => present(OTHER, 1, true),
        _ => present("", 1, true),
    };
    script.respond_to_reads(before);
    let all = [("kubevip-own", object(ME, 1, true)), ("kubevip-web", object(OTHER, 1, true))];
    script.list(&scope, &[&all[..], &[("svcs", object("", 1, true))]].concat());
    script.respond_to_reads(before);
    let written: Vec<LeaseName> = script.requests.drain(..).map(|(name, _)| name).collect();
    assert_eq!(written, [lease("kubevip-own"), lease("svcs")]);
    let input = OfElector::Response { started: at(0), response: present(ME, 2, true) };
    script.input(Input::Elector(lease("svcs"), input));
    assert!(script.leads("svcs"));
    script.event(&scope, "svcs-member-node-2", Some(by_scheme("groups-16", OTHER, 3)));
    assert!(script.scheme_problem.clone().unwrap().contains("node-2 (groups-16)"));
    // What was requested before is given back, and what this host leads: the other scheme's heartbeat was only written once
    // this one's Lease was free, so this host was cut off.
    let input = OfElector::Response { started: at(0), response: present(ME, 4, true) };
    script.input(Input::Elector(lease("kubevip-own"), input));
    let released = std::mem::take(&mut script.requests);
    assert_eq!(released.len(), 2, "{released:?}");
    for (name, request) in released {
        assert!(
            matches!(&request, LeaseRequest::Replace { write, .. } if write.holder.is_empty()),
            "{request:?}"
        );
        let input = OfElector::Response { started: at(0), response: present("", 5, true) };
        script.input(Input::Elector(name, input));
    }
    script.event(&scope, "kubevip-web", Some(object("", 6, true)));
    assert_eq!(script.requests, []);
    assert!(["svcs", "kubevip-web", "kubevip-own"].iter().all(|name| !script.leads(name)));
}

/// A node with an election for each Service that leads one, outside the namespace of its heartbeat.
fn with_an_election_for_each_service() -> Script {
    let mut script = Script::with_scheme(Some(Scheme::example("per-service")));
    let member = Candidacy { eligible: true, kind: CandidacyKind::Heartbeat, ..Candidacy::default() };
    let service = Candidacy { eligible: true, ..Candidacy::default() };
    script.input(Input::Candidacies(
        [(lease("svcs-member-node-1").into(), member), (lease("shop/web").into(), service)].into(),
    ));
    script.respond_to_reads(|_| present("", 1, true));
    script.list(&namespace("default"), &[("svcs-member-node-1", object("", 1, true))]);
    script.list(&namespace("shop"), &[("shop/web", object("", 1, true))]);
    script.respond_to_reads(|_| present("", 1, true));
    script.respond("svcs-member-node-1", present(ME, 2, true));
    script.event(&namespace("default"), "svcs-member-node-1", Some(by_scheme("per-service", ME, 2)));
    script.respond("shop/web", present(ME, 3, true));
    assert!(script.leads("shop/web"));
    script
}

#[test]
fn a_heartbeat_that_alone_shows_the_scheme_is_released_last() {
    let long_ago = BootTime::from_boot(Duration::from_secs(90));
    for end in [Input::Stop, Input::Drain(true), Input::InterfaceDown(Some(long_ago))] {
        let mut script = with_an_election_for_each_service();
        let what = format!("{end:?}");
        script.input(end);
        script.wait_until(10);
        let releases = |request: &LeaseRequest| matches!(request, LeaseRequest::Replace { write, .. } if write.holder.is_empty());
        assert!(releases(&script.respond("shop/web", present("", 4, true))), "{what}");
        // The address is kept until a successor has it.
        script.wait_until(200);
        assert_eq!(script.requests, [], "{what}");
        script.input(Input::Elector(lease("shop/web"), OfElector::Succeeded));
        assert!(releases(&script.respond("svcs-member-node-1", present("", 5, true))), "{what}");
    }
}

#[test]
fn a_heartbeat_that_is_written_again_has_the_watch_opened_at_once() {
    let mut script = with_an_election_for_each_service();
    // No response for longer than the claims last.
    script.wait_until(1000);
    assert_eq!(script.requests.len(), 2);
    script.wait_until(4000);
    assert!(!script.leads("shop/web"));
    // The list that follows replaces what the watch has shown.
    script.watches.remove(&namespace("default"));
    let response = OfElector::Response { started: at(4000), response: present(ME, 6, true) };
    script.input(Input::Elector(lease("svcs-member-node-1"), response));
    assert!(script.watches.contains(&namespace("default")));
}

#[test]
fn beyond_a_number_of_namespaces_a_lease_without_our_label_still_shows_its_scheme() {
    let mut script = Script::with_scheme(Some(Scheme::example("per-service")));
    let names = names(17);
    let member = Candidacy { eligible: true, kind: CandidacyKind::Heartbeat, ..Candidacy::default() };
    let service = Candidacy { eligible: true, ..Candidacy::default() };
    let services = names.iter().map(|name| (lease(name).into(), service));
    script
        .input(Input::Candidacies(services.chain([(lease("svcs-member-node-1").into(), member)]).collect()));
    assert_eq!(script.watches, [Scope::Labelled, namespace("default")].into());
    // The Go program's election for all Services.
    script.list(&namespace("default"), &[("svcs", object(OTHER, 1, false))]);
    script.list(&Scope::Labelled, &[]);
    assert!(script.scheme_problem.clone().unwrap().contains("node-2 (global)"));
}

/// Leases that still name this host keep it no member once its claims have ended.
#[test]
fn after_an_outage_a_heartbeat_yields_to_another_scheme() {
    let scope = namespace("default");
    let mut script = with_an_election_for_each_service();
    script.wait_until(1000);
    script.wait_until(4000);
    script.requests.clear();
    let failed = || LeaseResponse::Failed { retry_after: None };
    let respond = |script: &mut Script, name: &str, response| {
        script.input(Input::Elector(lease(name), OfElector::Response { started: at(4000), response }));
    };
    respond(&mut script, "shop/web", failed());
    script.watches.clear();
    respond(&mut script, "svcs-member-node-1", present(ME, 6, true));
    script.requests.clear();
    script.event(&scope, "svcs-member-node-2", Some(by_scheme("groups-8", OTHER, 5)));
    assert!(script.scheme_problem.clone().unwrap().contains("node-2 (groups-8)"));
    let released = |(name, request): &(LeaseName, LeaseRequest)| {
        let releases = matches!(request, LeaseRequest::Replace { write, .. } if write.holder.is_empty());
        *name == lease("svcs-member-node-1") && releases
    };
    assert!(script.requests.iter().any(released), "{:?}", script.requests);
}

#[test]
fn a_stop_without_an_api_server_ends_and_waits_meanwhile() {
    let mut script = with_an_election_for_each_service();
    script.input(Input::Stop);
    let mut now = 0;
    while let Some(next) = script.elections.poll_timeout().filter(|_| now <= 5000) {
        assert!(next > at(now), "due at once at {now} ms");
        now = u64::try_from(next.since(at(0)).as_millis()).unwrap();
        script.wait_until(now);
    }
    assert!(script.elections.is_stopped(at(5000)));
}
