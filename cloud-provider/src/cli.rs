//! Command line and environment: pure.
//!
//! The Go program has about seventy flags from its framework. Those with a meaning here are implemented; the others are
//! accepted with a warning, so that existing Deployments work.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::builder::{ArgPredicate, Command as Clap};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};
use kube_vip::config::{Election, LogFormat};
use kube_vip::model::LeaseName;
use kube_vip::model::go::{parse_bool, parse_duration};

use crate::plan::Class;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Allocate addresses.
    Run,
    /// Print the pools, their usage, and waiting Services.
    Pools {
        json: bool,
    },
    /// Validate a ConfigMap.
    Check {
        /// A path; `-` is standard input.
        file: String,
    },
    /// Print the objects that run the provider in a cluster.
    Manifest {
        /// None: that of the program.
        image: Option<String>,
    },
    Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Path of the kubeconfig; None: the service account of the pod.
    pub kubeconfig: Option<String>,
    /// URL of the API server; None: the one in the kubeconfig.
    pub server: Option<String>,
    /// Namespace and name of the ConfigMap with the pools.
    pub config_map: (String, String),
    pub class: Class,
    /// None: this is the only process.
    pub election: Option<Election>,
    /// Limit of concurrent writes to Services.
    pub writes: usize,
    /// Address and port for metrics and probes.
    pub http: Option<String>,
    /// As in Go's slog: -4 debug, 0 info.
    pub log_level: i64,
    pub log_format: LogFormat,
    /// The interface of the DHCP clients; None: the announcing nodes run them.
    pub dhcp_interface: Option<String>,
    /// Services may choose any hardware address for DHCP.
    pub any_hardware_address: bool,
    /// Port mappings that Services request are delegated to the announcing node.
    pub upnp: bool,
}

/// What was given, for a manifest that repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// Flags with an effect, without dashes, and their values.
    pub flags: Vec<(String, String)>,
    /// Environment variables.
    pub variables: Vec<(&'static str, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cli {
    pub command: Command,
    pub options: Options,
    pub given: Given,
    /// To be logged.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsageError {
    /// Help or version was requested.
    Help(String),
    /// Lines for stderr, and the exit status.
    Invalid(Vec<String>, u8),
}

/// Names of environment variables, as in the Go program.
const CONFIG_MAP: &str = "KUBEVIP_CONFIG_MAP";
const NAMESPACE: &str = "KUBEVIP_NAMESPACE";
const CLASS_SWITCH: &str = "KUBEVIP_ENABLE_LOADBALANCERCLASS";
const CLASS_NAME: &str = "KUBEVIP_CUSTOM_LOADBALANCERCLASS_NAME";
const DEFAULT_CLASS: &str = "kube-vip.io/kube-vip-class";

/// Default limit of concurrent writes to Services. More than one makes the Go program allocate addresses twice.
const WRITES: &str = "16";
const PORT: &str = "10258";
/// With `--dhcp-interface`: on the network of a host other cloud controller managers use 10258.
const HOST_PORT: &str = "2115";

/// Flags of the Go program's framework without effect: switches, and flags with a value.
const SWITCHES: &[&str] = &[
    "allocate-node-cidrs",
    "allow-untagged-cloud",
    "authentication-skip-lookup",
    "authentication-tolerate-lookup-failure",
    "configure-cloud-routes",
    "contention-profiling",
    "disable-http2-serving",
    "enable-leader-migration",
    "leader-elect-release-on-cancel",
    "log-json-split-stream",
    "log-text-split-stream",
    "permit-address-sharing",
    "permit-port-sharing",
    "profiling",
    "use-service-account-credentials",
];
const VALUES: &[&str] = &[
    "allow-metric-labels",
    "allow-metric-labels-manifest",
    "authentication-kubeconfig",
    "authentication-token-webhook-cache-ttl",
    "authorization-always-allow-paths",
    "authorization-kubeconfig",
    "authorization-webhook-cache-authorized-ttl",
    "authorization-webhook-cache-unauthorized-ttl",
    "cert-dir",
    "cidr-allocator-type",
    "client-ca-file",
    "cloud-config",
    "cloud-provider",
    "cluster-cidr",
    "cluster-name",
    "concurrent-node-syncs",
    "controller-start-interval",
    "controllers",
    "disabled-metrics",
    "emulated-version",
    "external-cloud-volume-plugin",
    "feature-gates",
    "http2-max-streams-per-connection",
    "kube-api-burst",
    "kube-api-content-type",
    "kube-api-qps",
    "leader-elect-resource-lock",
    "leader-migration-config",
    "log-flush-frequency",
    "log-json-info-buffer-size",
    "log-text-info-buffer-size",
    "min-resync-period",
    "node-monitor-period",
    "node-status-update-frequency",
    "node-sync-period",
    "requestheader-allowed-names",
    "requestheader-client-ca-file",
    "requestheader-extra-headers-prefix",
    "requestheader-group-headers",
    "requestheader-uid-headers",
    "requestheader-username-headers",
    "route-reconciliation-period",
    "show-hidden-metrics-for-version",
    "tls-cert-file",
    "tls-cipher-suites",
    "tls-min-version",
    "tls-private-key-file",
    "tls-sni-cert-key",
    "vmodule",
    "webhook-bind-address",
    "webhook-cert-dir",
    "webhook-secure-port",
    "webhooks",
];

fn value(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .value_name("VALUE")
        .num_args(1)
        .allow_hyphen_values(true)
        .global(true)
}

/// A switch with Go's syntax: `--x` or `--x=false`, not `--x false`.
fn switch(name: &'static str, help: &'static str) -> Arg {
    value(name, help).num_args(0..=1).require_equals(true).default_missing_value("true")
}

/// The flags with an effect.
fn flags() -> Vec<Arg> {
    vec![
        value("kubeconfig", "Path of the kubeconfig. Default: the pod's service account."),
        switch("OutSideCluster", "Use $HOME/.kube/config.").default_value("false"),
        value("master", "URL of the API server. Default: the one in the kubeconfig."),
        switch("leader-elect", "Elect a leader, which allocates addresses.").default_value("true"),
        value("leader-elect-resource-name", "Name of the Lease.").default_value("kube-vip-cloud-controller"),
        value("leader-elect-resource-namespace", "Namespace of the Lease.").default_value("kube-system"),
        value("leader-elect-lease-duration", "Time from the last renewal until another candidate may acquire the Lease.")
            .default_value("15s"),
        value("leader-elect-renew-deadline", "Time from the last renewal until the leader stops.").default_value("10s"),
        value("leader-elect-retry-period", "Time between renewals.").default_value("2s"),
        value("concurrent-service-syncs", "Limit of concurrent writes to Services.").default_value(WRITES),
        value("bind-address", "Address for metrics and probes.").default_value("::"),
        value("http-port", "Port of /metrics, /healthz and /readyz, plain HTTP; 0 disables it. With --dhcp-interface: 2115.")
            .default_value_if("dhcp-interface", ArgPredicate::Equals("".into()), PORT)
            .default_value_if("dhcp-interface", ArgPredicate::IsPresent, HOST_PORT)
            .default_value(PORT),
        value("secure-port", "The same, for command lines of the Go program; --http-port precedes it."),
        value("v", "Log verbosity; from 2 on debug messages are logged.").short('v').default_value("0"),
        value("logging-format", "text or json.").default_value("text"),
        value(
            "dhcp-interface",
            "Interface of the DHCP clients for pools with the value `dhcp`; requires hostNetwork. Default: the node \
             that announces the Service runs the client.",
        ),
        switch(
            "dhcp-hardware-addresses",
            "With --dhcp-interface, Services may choose any hardware address by the annotation kube-vip.io/hwaddr, not only \
             those that the programs generate.",
        )
        .default_value("false"),
        switch(
            "upnp",
            "Enable UPnP port mappings for Services with the annotation kube-vip.io/forwardUPNP; the node that \
             announces the Service requests them from the gateway.",
        )
        .default_value("false"),
    ]
}

/// The names of all flags, without dashes.
#[must_use]
pub fn flag_names() -> Vec<String> {
    let effective = flags().into_iter().map(|flag| flag.get_id().to_string());
    effective.chain(SWITCHES.iter().chain(VALUES).map(|name| (*name).to_owned())).collect()
}

/// The command line, from which completions and the manual page are made, too.
#[must_use]
pub fn command() -> Clap {
    let ignored = SWITCHES.iter().map(|name| switch(name, "No effect.").hide(true));
    let ignored = ignored.chain(VALUES.iter().map(|name| value(name, "No effect.").hide(true)));
    let sub = |name: &'static str, about: &'static str| Clap::new(name).about(about);
    Clap::new("kube-vip-cloud-provider")
        .about("Allocates addresses to Services of type LoadBalancer, from pools in a ConfigMap")
        .disable_help_subcommand(true)
        .args(flags())
        .args(ignored)
        .subcommand(
            sub("pools", "Print the pools, their usage, and the Services that wait for an address").arg(
                Arg::new("output")
                    .short('o')
                    .long("output")
                    .help("text or json")
                    .value_parser(["text", "json"])
                    .default_value("text"),
            ),
        )
        .subcommand(
            sub("check", "Validate a ConfigMap without a cluster").arg(
                Arg::new("file")
                    .short('f')
                    .long("filename")
                    .required(true)
                    .help("Path of the ConfigMap; - is standard input"),
            ),
        )
        .subcommand(
            sub("manifest", "Print the objects that run the provider in a cluster").arg(
                Arg::new("image")
                    .long("image")
                    .help("Image of the container, instead of the image of this program"),
            ),
        )
        .subcommand(sub("version", "Print version and build"))
}

/// Parses the command line and the environment.
///
/// # Errors
/// Requested help, or all invalid values.
pub fn parse(
    args: impl IntoIterator<Item = std::ffi::OsString>,
    env: &BTreeMap<String, String>,
) -> Result<Cli, UsageError> {
    let matches = command().try_get_matches_from(args).map_err(|error| match error.exit_code() {
        0 => UsageError::Help(error.to_string()),
        _ => {
            let text = error.to_string();
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            let lines = lines.map(|line| line.trim_start_matches("error: ").trim().to_owned());
            UsageError::Invalid(lines.collect(), 2)
        }
    })?;
    let (command, inner) = match matches.subcommand() {
        None => (Command::Run, &matches),
        Some((name, inner)) => {
            let text = |id: &str| inner.get_one::<String>(id).cloned().unwrap_or_default();
            let command = match name {
                "pools" => Command::Pools { json: text("output") == "json" },
                "check" => Command::Check { file: text("file") },
                "manifest" => Command::Manifest { image: inner.get_one::<String>("image").cloned() },
                _ => Command::Version,
            };
            (command, inner)
        }
    };
    let mut reader = Reader { matches: inner, env, problems: Vec::new() };
    let options = reader.options();
    let problems = reader.problems;
    if !problems.is_empty() {
        return Err(UsageError::Invalid(problems, 1));
    }
    let ignored = SWITCHES.iter().chain(VALUES);
    let ignored = ignored.filter(|name| inner.value_source(name) == Some(ValueSource::CommandLine));
    let warnings = ignored.map(|name| format!("flag --{name} has no effect: remove it")).collect();
    Ok(Cli { command, options, given: given(inner, env), warnings })
}

fn given(matches: &ArgMatches, env: &BTreeMap<String, String>) -> Given {
    let flag = |flag: Arg| {
        let name = flag.get_id().as_str();
        let given = matches.value_source(name) == Some(ValueSource::CommandLine);
        given.then(|| (name.to_owned(), matches.get_one::<String>(name).cloned().unwrap_or_default()))
    };
    let variable = |name: &'static str| Some((name, env.get(name)?.trim().to_owned()));
    let variables = [NAMESPACE, CONFIG_MAP, CLASS_SWITCH, CLASS_NAME].into_iter().filter_map(variable);
    Given {
        flags: flags().into_iter().filter_map(flag).collect(),
        variables: variables.filter(|(_, value)| !value.is_empty()).collect(),
    }
}

struct Reader<'a> {
    matches: &'a ArgMatches,
    env: &'a BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> String {
        self.matches.get_one::<String>(name).cloned().unwrap_or_default()
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.env.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn invalid(&mut self, origin: &str, name: &str, value: &str, expected: &str) {
        self.problems.push(format!("{origin} {name}: `{value}` is not {expected}"));
    }

    /// The parsed value of a flag; an invalid one is a problem.
    fn flag<T: Default>(&mut self, name: &str, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let text = self.text(name);
        parse(&text).unwrap_or_else(|| {
            self.invalid("flag", &format!("--{name}"), &text, expected);
            T::default()
        })
    }

    fn bool(&mut self, name: &str) -> bool {
        self.flag(name, "true or false", parse_bool)
    }

    fn duration(&mut self, name: &str) -> Duration {
        let positive = |text: &str| parse_duration(text).filter(|duration| !duration.is_zero());
        self.flag(name, "a duration such as 15s", positive)
    }

    fn number(&mut self, name: &str, least: u16, most: u16) -> u16 {
        let within = |text: &str| text.trim().parse().ok().filter(|number| (least..=most).contains(number));
        self.flag(name, &format!("a number from {least} to {most}"), within)
    }

    fn options(&mut self) -> Options {
        let outside = self.bool("OutSideCluster");
        let home = || self.variable("HOME").map(|home| format!("{home}/.kube/config"));
        let kubeconfig = Some(self.text("kubeconfig")).filter(|path| !path.is_empty());
        let kubeconfig = kubeconfig.or_else(|| outside.then(home).flatten());
        let given = |name| self.matches.value_source(name) == Some(ValueSource::CommandLine);
        let port = if given("secure-port") && !given("http-port") { "secure-port" } else { "http-port" };
        let port = self.number(port, 0, u16::MAX);
        let address: Option<IpAddr> =
            self.flag("bind-address", "an IP address", |text| text.parse().ok().map(Some));
        let log_format = self.flag("logging-format", "text or json", |text| match text {
            "text" => Some(Some(LogFormat::Text)),
            "json" => Some(Some(LogFormat::Json)),
            _ => None,
        });
        Options {
            kubeconfig,
            server: Some(self.text("master")).filter(|url| !url.is_empty()),
            config_map: (
                self.variable(NAMESPACE).unwrap_or_else(|| "kube-system".to_owned()),
                self.variable(CONFIG_MAP).unwrap_or_else(|| "kubevip".to_owned()),
            ),
            class: self.class(),
            election: self.election(),
            writes: self.number("concurrent-service-syncs", 1, 256).into(),
            http: address.filter(|_| port != 0).map(|address| SocketAddr::new(address, port).to_string()),
            log_level: if self.number("v", 0, 10) >= 2 { -4 } else { 0 },
            log_format: log_format.unwrap_or(LogFormat::Text),
            dhcp_interface: Some(self.text("dhcp-interface")).filter(|interface| !interface.is_empty()),
            any_hardware_address: self.bool("dhcp-hardware-addresses"),
            upnp: self.bool("upnp"),
        }
    }

    fn class(&mut self) -> Class {
        let text = self.variable(CLASS_SWITCH).unwrap_or_else(|| "false".to_owned());
        match parse_bool(&text) {
            Some(true) => Class::Named(self.variable(CLASS_NAME).unwrap_or_else(|| DEFAULT_CLASS.to_owned())),
            Some(false) => Class::Unnamed,
            None => {
                self.invalid("variable", CLASS_SWITCH, &text, "true or false");
                Class::Unnamed
            }
        }
    }

    fn election(&mut self) -> Option<Election> {
        if !self.bool("leader-elect") {
            return None;
        }
        let before = self.problems.len();
        let (namespace, name) =
            (self.text("leader-elect-resource-namespace"), self.text("leader-elect-resource-name"));
        if LeaseName::parse(&namespace, &name).is_none() {
            self.problems.push(format!(
                "--leader-elect-resource-namespace and --leader-elect-resource-name: `{namespace}/{name}` is not {}",
                LeaseName::ALLOWED
            ));
        }
        let election = Election {
            lease: LeaseName { namespace, name },
            lease_duration: self.duration("leader-elect-lease-duration"),
            renew_deadline: self.duration("leader-elect-renew-deadline"),
            retry_period: self.duration("leader-elect-retry-period"),
            annotations: BTreeMap::new(),
        };
        // client-go's rule: jitter stretches the retry period by up to a fifth.
        let (lease, renew) = (election.lease_duration, election.renew_deadline);
        if self.problems.len() == before && !(lease > renew && renew > election.retry_period.mul_f64(1.2)) {
            self.problems.push(format!(
                "--leader-elect-lease-duration ({lease:?}) must be longer than --leader-elect-renew-deadline \
                 ({renew:?}), and that longer than 1.2 times --leader-elect-retry-period ({:?})",
                election.retry_period
            ));
        }
        Some(election)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str], env: &[(&str, &str)]) -> Result<Cli, UsageError> {
        let args = ["kube-vip-cloud-provider"].iter().chain(args).map(Into::into);
        parse(args, &env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    fn problems(args: &[&str], env: &[(&str, &str)]) -> String {
        match parsed(args, env) {
            Err(UsageError::Invalid(lines, _)) => lines.join("\n"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_go_program() {
        let options = parsed(&[], &[]).unwrap().options;
        let election = options.election.unwrap();
        assert_eq!(options.config_map, ("kube-system".into(), "kubevip".into()));
        assert_eq!(options.class, Class::Unnamed);
        assert_eq!(election.lease.to_string(), "kube-system/kube-vip-cloud-controller");
        let seconds = [election.lease_duration, election.renew_deadline, election.retry_period];
        assert_eq!(seconds.map(|duration| duration.as_secs()), [15, 10, 2]);
        assert_eq!(options.http.as_deref(), Some("[::]:10258"));
        assert_eq!((options.kubeconfig, options.server), (None, None));
    }

    #[test]
    fn the_port_is_that_of_either_flag_or_depends_on_the_network() {
        let http = |args: &[&str]| parsed(args, &[]).unwrap().options.http;
        assert_eq!(http(&["--secure-port=10300"]).as_deref(), Some("[::]:10300"));
        assert_eq!(http(&["--secure-port=0"]), None);
        assert_eq!(http(&["--secure-port=10300", "--http-port=10301"]).as_deref(), Some("[::]:10301"));
        assert_eq!(http(&["--dhcp-interface=eth0"]).as_deref(), Some("[::]:2115"));
        assert_eq!(http(&["--dhcp-interface="]).as_deref(), Some("[::]:10258"));
        assert_eq!(http(&["--dhcp-interface=eth0", "--http-port=10301"]).as_deref(), Some("[::]:10301"));
        let chart = include_str!("../../charts/kube-vip-cloud-provider/templates/deployment.yaml");
        assert!(chart.contains(&format!("ternary \"{HOST_PORT}\" \"{PORT}\"")), "the port of its probes");
    }

    #[test]
    fn the_go_programs_deployment_is_accepted() {
        let args = [
            "--leader-elect-resource-name=kube-vip-cloud-controller",
            "--cloud-provider=kubevip",
            "--profiling=false",
        ];
        let cli = parsed(&args, &[("KUBEVIP_NAMESPACE", "pools"), ("KUBEVIP_CONFIG_MAP", "own")]).unwrap();
        assert_eq!(cli.options.config_map, ("pools".into(), "own".into()));
        assert_eq!(cli.command, Command::Run);
        assert_eq!(cli.warnings.len(), 2, "{:?}", cli.warnings);
    }

    #[test]
    fn the_kubeconfig_is_found() {
        let home = [("HOME", "/home/me")];
        let outside = parsed(&["--OutSideCluster"], &home).unwrap().options;
        assert_eq!(outside.kubeconfig.as_deref(), Some("/home/me/.kube/config"));
        let both = parsed(&["--OutSideCluster=true", "--kubeconfig", "/k"], &home).unwrap().options;
        assert_eq!(both.kubeconfig.as_deref(), Some("/k"));
        let below = parsed(&["pools", "--kubeconfig=/k", "-o", "json"], &home).unwrap();
        assert_eq!(
            (below.options.kubeconfig.as_deref(), below.command),
            (Some("/k"), Command::Pools { json: true })
        );
    }

    #[test]
    fn the_class_comes_from_the_environment() {
        let class = |env: &[(&str, &str)]| parsed(&[], env).unwrap().options.class;
        let named = |name: &str| Class::Named(name.into());
        assert_eq!(class(&[(CLASS_NAME, "x")]), Class::Unnamed);
        assert_eq!(class(&[(CLASS_SWITCH, "true")]), named(DEFAULT_CLASS));
        assert_eq!(class(&[(CLASS_SWITCH, "1"), (CLASS_NAME, "x")]), named("x"));
    }

    #[test]
    fn all_invalid_values_are_reported_at_once() {
        let text = problems(
            &["--leader-elect=maybe", "--concurrent-service-syncs=0", "--http-port=x"],
            &[(CLASS_SWITCH, "yes")],
        );
        for part in
            ["--leader-elect: `maybe`", "--concurrent-service-syncs: `0`", "--http-port: `x`", CLASS_SWITCH]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(problems(&["--leader-elekt"], &[]).contains("leader-elect"));
        assert!(problems(&["--leader-elect-renew-deadline=20s"], &[]).contains("must be longer"));
        let several =
            problems(&["--leader-elect-renew-deadline=20s", "--concurrent-service-syncs=zero"], &[]);
        assert!(several.contains("must be longer") && several.contains("`zero`"), "{several}");
    }
}
