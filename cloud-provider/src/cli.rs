//! The command line and the environment of the provider.
//!
//! The Go program is built on a framework with some seventy flags. Those that mean something here do what they say;
//! the others are accepted with a warning, so that an old Deployment goes on working.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::builder::Command as Clap;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};
use kube_vip::config::{Election, LogFormat};
use kube_vip::model::go::{parse_bool, parse_duration};

use crate::plan::Class;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Give addresses, until told to stop.
    Run,
    /// Print pools, their use, and who waits.
    Pools {
        /// As JSON.
        json: bool,
    },
    /// Read a ConfigMap from a file and say what is wrong with it.
    Check {
        /// The file; `-` is standard input.
        file: String,
    },
    /// Print the objects that run the provider in a cluster.
    Manifest {
        /// Its image.
        image: String,
    },
    /// Print version and build.
    Version,
}

/// How to do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The kubeconfig; none means the service account of the pod.
    pub kubeconfig: Option<String>,
    /// The API server's URL, if not the kubeconfig's.
    pub server: Option<String>,
    /// Namespace and name of the ConfigMap with the pools.
    pub config_map: (String, String),
    /// Which Services are looked after.
    pub class: Class,
    /// The election; none means that this is the only process.
    pub election: Option<Election>,
    /// How many Services are written to at once.
    pub writes: usize,
    /// Where metrics and probes are served.
    pub http: Option<String>,
    /// As in Go's slog: -4 debug, 0 info.
    pub log_level: i64,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// The interface on which DHCP servers are asked, where this process asks them.
    pub dhcp_interface: Option<String>,
    /// Ports of the network's gateway are opened for Services that ask for it.
    pub upnp: bool,
}

/// What was typed, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cli {
    /// What to do.
    pub command: Command,
    /// How.
    pub options: Options,
    /// Worth a warning.
    pub notes: Vec<String>,
}

/// What is wrong with the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// Not an error: text that was asked for.
    Text(String),
    /// Lines for stderr, and the exit code.
    Wrong(Vec<String>, u8),
}

/// The environment's names, as in the Go program.
const CONFIG_MAP: &str = "KUBEVIP_CONFIG_MAP";
const NAMESPACE: &str = "KUBEVIP_NAMESPACE";
const CLASS_SWITCH: &str = "KUBEVIP_ENABLE_LOADBALANCERCLASS";
const CLASS_NAME: &str = "KUBEVIP_CUSTOM_LOADBALANCERCLASS_NAME";
const DEFAULT_CLASS: &str = "kube-vip.io/kube-vip-class";

const IMAGE: &str = "ghcr.io/kube-vip/kube-vip-cloud-provider";
/// How many Services are written to at once. The Go program gives addresses twice with more than one.
const WRITES: &str = "16";
const PORT: &str = "10258";

/// The framework's flags without a meaning here: switches, and those with a value.
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
    "secure-port",
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

/// As Go reads them: `--x`, `--x=false`, never `--x false`.
fn switch(name: &'static str, help: &'static str) -> Arg {
    value(name, help).num_args(0..=1).require_equals(true).default_missing_value("true")
}

fn clap() -> Clap {
    let ours = [
        value("kubeconfig", "Path of a kubeconfig. Without it the pod's service account is used."),
        switch("OutSideCluster", "Use $HOME/.kube/config.").default_value("false"),
        value("master", "URL of the API server, if not the kubeconfig's."),
        switch("leader-elect", "Elect the one process that gives addresses.").default_value("true"),
        value("leader-elect-resource-name", "Name of the Lease.").default_value("kube-vip-cloud-controller"),
        value("leader-elect-resource-namespace", "Namespace of the Lease.").default_value("kube-system"),
        value("leader-elect-lease-duration", "How long others stay away after the last renewal.")
            .default_value("15s"),
        value("leader-elect-renew-deadline", "How long the holder acts on it.").default_value("10s"),
        value("leader-elect-retry-period", "From one renewal to the next.").default_value("2s"),
        value("concurrent-service-syncs", "How many Services are written to at once.").default_value(WRITES),
        value("bind-address", "Where metrics and probes are served.").default_value("::"),
        value("http-port", "Port of /metrics, /healthz and /readyz, plain HTTP; 0 switches it off.")
            .default_value(PORT),
        value("v", "From 2 on, more is logged.").short('v').default_value("0"),
        value("logging-format", "text or json.").default_value("text"),
        value(
            "dhcp-interface",
            "The interface on which a DHCP server is asked for the addresses of pools that are `dhcp`; needs the \
             host's network. Without it the node that announces a Service asks.",
        ),
        switch(
            "upnp",
            "Have ports of the network's gateway opened, by UPnP, for Services with the annotation \
             kube-vip.io/forwardUPNP: by the node that announces them.",
        )
        .default_value("false"),
    ];
    let ignored = SWITCHES.iter().map(|name| switch(name, "Without effect here.").hide(true));
    let ignored = ignored.chain(VALUES.iter().map(|name| value(name, "Without effect here.").hide(true)));
    let sub = |name: &'static str, about: &'static str| Clap::new(name).about(about);
    Clap::new("kube-vip-cloud-provider")
        .about("Gives Services of type LoadBalancer their addresses, from pools in a ConfigMap")
        .disable_help_subcommand(true)
        .args(ours)
        .args(ignored)
        .subcommand(
            sub("pools", "Print the pools, how full they are, and which Services wait").arg(
                Arg::new("output")
                    .short('o')
                    .long("output")
                    .help("text or json")
                    .value_parser(["text", "json"])
                    .default_value("text"),
            ),
        )
        .subcommand(sub("check", "Say what is wrong with a ConfigMap, without a cluster").arg(
            Arg::new("file").short('f').long("filename").required(true).help("The file; - is standard input"),
        ))
        .subcommand(
            sub("manifest", "Print the objects that run the provider in a cluster")
                .arg(Arg::new("image").long("image").help("Image of the container").default_value(IMAGE)),
        )
        .subcommand(sub("version", "Print version and build"))
}

/// Read the command line and the environment.
///
/// # Errors
/// Help that was asked for, or everything that is wrong.
pub fn parse(
    args: impl IntoIterator<Item = std::ffi::OsString>,
    env: &BTreeMap<String, String>,
) -> Result<Cli, Usage> {
    let matches = clap().try_get_matches_from(args).map_err(|error| match error.exit_code() {
        0 => Usage::Text(error.to_string()),
        _ => {
            let text = error.to_string();
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            let lines = lines.map(|line| line.trim_start_matches("error: ").trim().to_owned());
            Usage::Wrong(lines.collect(), 2)
        }
    })?;
    let (command, inner) = match matches.subcommand() {
        None => (Command::Run, &matches),
        Some((name, inner)) => {
            let text = |id: &str| inner.get_one::<String>(id).cloned().unwrap_or_default();
            let command = match name {
                "pools" => Command::Pools { json: text("output") == "json" },
                "check" => Command::Check { file: text("file") },
                "manifest" => Command::Manifest { image: text("image") },
                _ => Command::Version,
            };
            (command, inner)
        }
    };
    let mut reader = Reader { matches: inner, env, problems: Vec::new() };
    let options = reader.options();
    let problems = reader.problems;
    if !problems.is_empty() {
        return Err(Usage::Wrong(problems, 1));
    }
    let notes = SWITCHES.iter().chain(VALUES).filter(|name| given(inner, name));
    let notes = notes.map(|name| format!("flag --{name} has no effect here; it can be left out")).collect();
    Ok(Cli { command, options, notes })
}

fn given(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(name) == Some(ValueSource::CommandLine)
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

    fn wrong(&mut self, origin: &str, name: &str, value: &str, wanted: &str) {
        self.problems.push(format!("{origin} {name}: `{value}` is not {wanted}"));
    }

    fn switch(&mut self, name: &str) -> bool {
        let text = self.text(name);
        parse_bool(&text).unwrap_or_else(|| {
            self.wrong("flag", &format!("--{name}"), &text, "true or false");
            false
        })
    }

    fn duration(&mut self, name: &str) -> Duration {
        let text = self.text(name);
        parse_duration(&text).filter(|duration| !duration.is_zero()).unwrap_or_else(|| {
            self.wrong("flag", &format!("--{name}"), &text, "a duration such as 15s");
            Duration::ZERO
        })
    }

    fn number(&mut self, name: &str, least: i64, most: i64) -> i64 {
        let text = self.text(name);
        let found = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
        found.unwrap_or_else(|| {
            self.wrong("flag", &format!("--{name}"), &text, &format!("a number from {least} to {most}"));
            least
        })
    }

    fn options(&mut self) -> Options {
        let outside = self.switch("OutSideCluster");
        let home = || self.variable("HOME").map(|home| format!("{home}/.kube/config"));
        let kubeconfig = Some(self.text("kubeconfig")).filter(|path| !path.is_empty());
        let kubeconfig = kubeconfig.or_else(|| outside.then(home).flatten());
        let port = self.number("http-port", 0, 65535);
        let address = self.text("bind-address");
        let http = match address.parse::<std::net::IpAddr>() {
            Ok(address) => u16::try_from(port)
                .ok()
                .filter(|port| *port != 0)
                .map(|port| std::net::SocketAddr::new(address, port).to_string()),
            Err(_) => {
                self.wrong("flag", "--bind-address", &address, "an IP address");
                None
            }
        };
        let log_format = match self.text("logging-format").as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                self.wrong("flag", "--logging-format", other, "text or json");
                LogFormat::Text
            }
        };
        let writes = self.number("concurrent-service-syncs", 1, 256);
        Options {
            kubeconfig,
            server: Some(self.text("master")).filter(|url| !url.is_empty()),
            config_map: (
                self.variable(NAMESPACE).unwrap_or_else(|| "kube-system".to_owned()),
                self.variable(CONFIG_MAP).unwrap_or_else(|| "kubevip".to_owned()),
            ),
            class: self.class(),
            election: self.election(),
            writes: usize::try_from(writes).unwrap_or(1),
            http,
            log_level: if self.number("v", 0, 10) >= 2 { -4 } else { 0 },
            log_format,
            dhcp_interface: Some(self.text("dhcp-interface")).filter(|interface| !interface.is_empty()),
            upnp: self.switch("upnp"),
        }
    }

    fn class(&mut self) -> Class {
        let named = match self.variable(CLASS_SWITCH) {
            None => false,
            Some(text) => parse_bool(&text).unwrap_or_else(|| {
                self.wrong("variable", CLASS_SWITCH, &text, "true or false");
                false
            }),
        };
        if named {
            Class::Named(self.variable(CLASS_NAME).unwrap_or_else(|| DEFAULT_CLASS.to_owned()))
        } else {
            Class::Unnamed
        }
    }

    fn election(&mut self) -> Option<Election> {
        if !self.switch("leader-elect") {
            return None;
        }
        let before = self.problems.len();
        let election = Election {
            namespace: self.text("leader-elect-resource-namespace"),
            name: self.text("leader-elect-resource-name"),
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

    fn read(args: &[&str], env: &[(&str, &str)]) -> Result<Cli, Usage> {
        let args = ["kube-vip-cloud-provider"].iter().chain(args).map(Into::into);
        parse(args, &env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    fn wrong(args: &[&str], env: &[(&str, &str)]) -> String {
        match read(args, env) {
            Err(Usage::Wrong(lines, _)) => lines.join("\n"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_the_go_programs() {
        let options = read(&[], &[]).unwrap().options;
        let election = options.election.unwrap();
        assert_eq!(options.config_map, ("kube-system".into(), "kubevip".into()));
        assert_eq!(options.class, Class::Unnamed);
        assert_eq!(
            (election.namespace.as_str(), election.name.as_str()),
            ("kube-system", "kube-vip-cloud-controller")
        );
        let seconds = [election.lease_duration, election.renew_deadline, election.retry_period];
        assert_eq!(seconds.map(|duration| duration.as_secs()), [15, 10, 2]);
        assert_eq!(options.http.as_deref(), Some("[::]:10258"));
        assert_eq!((options.kubeconfig, options.server), (None, None));
    }

    #[test]
    fn the_go_programs_deployment_is_understood() {
        let args = [
            "--leader-elect-resource-name=kube-vip-cloud-controller",
            "--cloud-provider=kubevip",
            "--profiling=false",
        ];
        let cli = read(&args, &[("KUBEVIP_NAMESPACE", "pools"), ("KUBEVIP_CONFIG_MAP", "own")]).unwrap();
        assert_eq!(cli.options.config_map, ("pools".into(), "own".into()));
        assert_eq!(cli.command, Command::Run);
        assert_eq!(cli.notes.len(), 2, "{:?}", cli.notes);
    }

    #[test]
    fn where_the_cluster_is() {
        let home = [("HOME", "/home/me")];
        let outside = read(&["--OutSideCluster"], &home).unwrap().options;
        assert_eq!(outside.kubeconfig.as_deref(), Some("/home/me/.kube/config"));
        let both = read(&["--OutSideCluster=true", "--kubeconfig", "/k"], &home).unwrap().options;
        assert_eq!(both.kubeconfig.as_deref(), Some("/k"));
        let below = read(&["pools", "--kubeconfig=/k", "-o", "json"], &home).unwrap();
        assert_eq!(
            (below.options.kubeconfig.as_deref(), below.command),
            (Some("/k"), Command::Pools { json: true })
        );
    }

    #[test]
    fn classes() {
        let class = |env: &[(&str, &str)]| read(&[], env).unwrap().options.class;
        let named = |name: &str| Class::Named(name.into());
        assert_eq!(class(&[(CLASS_NAME, "x")]), Class::Unnamed);
        assert_eq!(class(&[(CLASS_SWITCH, "true")]), named(DEFAULT_CLASS));
        assert_eq!(class(&[(CLASS_SWITCH, "1"), (CLASS_NAME, "x")]), named("x"));
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let text = wrong(
            &["--leader-elect=maybe", "--concurrent-service-syncs=0", "--http-port=x"],
            &[(CLASS_SWITCH, "yes")],
        );
        for part in
            ["--leader-elect: `maybe`", "--concurrent-service-syncs: `0`", "--http-port: `x`", CLASS_SWITCH]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(wrong(&["--leader-elekt"], &[]).contains("leader-elect"));
        assert!(wrong(&["--leader-elect-renew-deadline=20s"], &[]).contains("must be longer"));
        let several = wrong(&["--leader-elect-renew-deadline=20s", "--concurrent-service-syncs=zero"], &[]);
        assert!(several.contains("must be longer") && several.contains("`zero`"), "{several}");
    }
}
