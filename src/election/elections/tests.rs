//! Which Leases are watched, and elections whose Lease is deleted.

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
}

impl Script {
    fn new() -> Self {
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
        let config =
            Config { settings, interface: InterfacePolicy::default(), hand_over_time: Duration::ZERO };
        Self {
            elections: Elections::new(config),
            now: 0,
            watches: BTreeSet::new(),
            requests: Vec::new(),
            roles: BTreeMap::new(),
            holders: BTreeMap::new(),
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
    let member = Candidacy { eligible: true, kind: CandidacyKind::Membership, ..Candidacy::default() };
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
    assert!(matches!(created, LeaseRequest::Create(Write { holder, .. }) if holder == ME));
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
    assert!(matches!(follower.respond(name, LeaseResponse::Conflict), LeaseRequest::Create(_)));
    assert!(!follower.leads(name));
    follower.respond(name, present(OTHER, 4, true));
    assert!(!follower.leads(name));
}
