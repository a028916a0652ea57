//! The command line: subcommands by hand, flags from the table of settings.

use clap::builder::{Command, ValueHint};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use crate::config::api::ADMIN_CONF;
use crate::config::problem::{Hint, nearest};
use crate::config::{Kind, SETTINGS, Setting};
use crate::{BUILD, VERSION};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cli {
    pub action: Action,
    /// Settings given as flags, by name.
    pub flags: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run the daemon.
    Manager {
        /// Print what it would do, and exit.
        dry_run: bool,
    },
    /// Print the effective configuration.
    Config,
    /// Print the state of the running process.
    Status {
        json: bool,
    },
    /// Print the state of BGP peers.
    StatusBgp {
        json: bool,
        /// With their routes.
        routes: bool,
    },
    /// Examine this host and what it is connected to.
    /// Remove what the Go program has left on this host.
    Cleanup {
        /// Print it instead.
        dry_run: bool,
    },
    Doctor {
        json: bool,
        /// A manifest with the settings, instead of the environment; `-` is standard input.
        file: Option<String>,
    },
    Drain,
    Undrain,
    Manifest(Manifest),
    /// Create a client certificate, and print or write a kubeconfig with it.
    Kubeconfig(Kubeconfig),
    /// Print a static pod after kubeadm's checks.
    Kubeadm {
        manifest: Manifest,
        /// For `join`: the kubeconfig that has to exist.
        join: Option<String>,
    },
    /// Print a help text, the version or a completion script.
    Print(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub kind: ManifestKind,
    /// Credentials from a service account instead of a kubeconfig.
    pub in_cluster: bool,
    /// None: that of the program.
    pub image: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// The file to write; none prints it.
    pub output: Option<String>,
    pub group: String,
    /// The requested validity of the certificate.
    pub days: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestKind {
    /// A static pod.
    Pod,
    DaemonSet {
        /// Run on control-plane nodes only, and tolerate their taints.
        taint: bool,
    },
    /// ServiceAccount, role and binding.
    Rbac {
        /// A Role instead of a ClusterRole.
        role: bool,
        /// A RoleBinding instead of a ClusterRoleBinding.
        role_binding: bool,
        /// A group that has the rights of the ServiceAccount.
        group: Option<String>,
    },
}

/// The group of certificates by `kube-vip kubeconfig`.
const GROUP: &str = "kube-vip:nodes";
const DAYS: &str = "365";

/// The command line, from which completions and the manual page are made, too.
#[must_use]
pub fn command() -> Command {
    let kubeadm = sub("kubeadm", "Print a static pod for kubeadm")
        .subcommand(sub("init", "Print the static pod for the first host"))
        .subcommand(
            sub("join", "Print the static pod for a joining host").arg(
                Arg::new("config")
                    .long("config")
                    .help("Path of the kubeconfig, which has to exist")
                    .default_value(ADMIN_CONF),
            ),
        );
    let file =
        Arg::new("output").short('o').long("output").value_name("FILE").value_hint(ValueHint::FilePath);
    let kubeconfig =
        sub("kubeconfig", "Create a client certificate for this node, and print a kubeconfig with it")
            .arg(
                file.help(
                    "Write the kubeconfig to this file, with mode 0600; a renewal replaces its content",
                ),
            )
            .arg(
                group("Group of the certificate, as in `kube-vip manifest rbac --group`")
                    .default_value(GROUP),
            )
            .arg(
                Arg::new("days")
                    .long("days")
                    .help("Validity of the certificate, which kube-controller-manager may shorten")
                    .value_parser(clap::value_parser!(u16).range(1..=3650))
                    .default_value(DAYS),
            );
    let output =
        Arg::new("output").short('o').long("output").help("Output format").value_parser(["text", "json"]);
    let doctor =
        sub("doctor", "Examine this host, its API server and its network, with the settings of manager")
            .arg(output.clone())
            .arg(
                Arg::new("filename")
                    .short('f')
                    .long("filename")
                    .value_name("FILE")
                    .value_hint(ValueHint::FilePath)
                    .help(
                        "Manifest with the settings, instead of the environment; flags precede it; `-` is standard input",
                    ),
            );
    let shell = Arg::new("shell").required(true).value_parser(clap::value_parser!(clap_complete::Shell));
    Command::new("kube-vip")
        .about(
            "Virtual IPs for the Kubernetes control plane, and addresses for Services of type LoadBalancer",
        )
        .args(flags())
        .subcommand(
            sub("manager", "Run the daemon")
                .arg(switch("dry-run", "Check the configuration, print what would run, and exit")),
        )
        .subcommand(sub("service", "Run the daemon (former name of manager)"))
        .subcommand(sub("config", "Print the effective configuration, with the origin of each value"))
        .subcommand(
            sub("status", "Show the state of the running process").arg(output.clone()).subcommand(
                sub("bgp", "Show the state of BGP peers")
                    .arg(switch("routes", "Include the routes sent to and received from each peer"))
                    .arg(output),
            ),
        )
        .subcommand(doctor)
        .subcommand(cleanup())
        .subcommand(sub("drain", "Hand over all addresses, and leave all elections"))
        .subcommand(sub("undrain", "Take part in elections again"))
        .subcommand(manifest())
        .subcommand(kubeconfig)
        .subcommand(kubeadm)
        .subcommand(sub("sample", "Print this help"))
        .subcommand(sub("version", "Print version and build"))
        .subcommand(sub("completion", "Print the completion script for a shell").arg(shell))
}

fn cleanup() -> Command {
    let upstream = switch(
        "upstream",
        "Rules, chains, tables and macvlans of the Go program, which must not run any more",
    );
    sub("cleanup", "Remove what another program has left on this host")
        .arg(upstream.required(true))
        .arg(switch("dry-run", "Print what would be removed"))
}

fn manifest() -> Command {
    sub("manifest", "Print a manifest for Kubernetes")
        .arg(switch("inCluster", "Use the service account instead of a kubeconfig").global(true))
        .arg(
            Arg::new("image")
                .long("image")
                .help("Image of the container, instead of the image of this program")
                .global(true),
        )
        .subcommand(sub("pod", "Print a static pod"))
        .subcommand(
            sub("daemonset", "Print a DaemonSet")
                .arg(switch("taint", "Run on control-plane nodes only, and tolerate their taints")),
        )
        .subcommand(
            sub("rbac", "Print the ServiceAccount, roles and bindings")
                .arg(switch("role", "Print a Role instead of a ClusterRole"))
                .arg(switch("rolebinding", "Print a RoleBinding instead of a ClusterRoleBinding"))
                .arg(group("Print roles of a group of `kube-vip kubeconfig`, named after it, instead of those of the ServiceAccount")),
        )
}

fn sub(name: &'static str, about: &'static str) -> Command {
    Command::new(name).about(about)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
}

fn group(help: &'static str) -> Arg {
    Arg::new("group").long("group").help(help).value_parser(valid_group)
}

/// A group that Kubernetes does not define itself.
fn valid_group(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a group has a name".to_owned()),
        // As for the names of roles.
        _ if text.contains(['/', '%']) => {
            Err("roles have the group's name, which may contain neither `/` nor `%`".to_owned())
        }
        _ if text.starts_with("system:") => {
            Err("groups that begin with `system:` belong to Kubernetes".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

/// A global flag for each name of each setting, under the heading of its section; alternative names are hidden.
fn flags() -> Vec<Arg> {
    let mut args = Vec::new();
    for setting in SETTINGS {
        for (position, name) in setting.flags.iter().enumerate() {
            let name = name.trim_start_matches('!');
            let mut arg = Arg::new(name).long(name).help(setting.help).global(true).hide(position > 0);
            arg = arg.help_heading(setting.section);
            arg = match setting.kind {
                // As in Go: `--arp` or `--arp=false`, not `--arp false`.
                Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ => arg.num_args(1).allow_hyphen_values(true),
            };
            arg = match name {
                "namespace" => arg.short('n'),
                "configMap" => arg.short('c'),
                "config-file" | "k8sConfigPath" => arg.value_hint(ValueHint::FilePath),
                _ => arg,
            };
            args.push(arg.value_name("VALUE").action(ArgAction::Append));
        }
    }
    args
}

/// Parses the command line.
///
/// # Errors
/// One line: what is wrong with the command line.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Cli, String> {
    let mut command = command();
    let matches = match command.try_get_matches_from_mut(args) {
        Ok(matches) => matches,
        Err(error) if error.exit_code() == 0 => {
            return Ok(Cli { action: Action::Print(error.to_string()), flags: Vec::new() });
        }
        Err(error) => return Err(usage(&error)),
    };
    let mut path = Vec::new();
    let mut inner = &matches;
    while let Some((name, below)) = inner.subcommand() {
        path.push(name);
        inner = below;
    }
    let action = action(&path, inner, &mut command);
    Ok(Cli { action, flags: given(inner) })
}

fn given(matches: &ArgMatches) -> Vec<(String, String)> {
    let flags = SETTINGS.iter().flat_map(|setting| setting.flags.iter().map(move |name| (setting, name)));
    let value = |(setting, name): (&Setting, &&str)| {
        let name = name.trim_start_matches('!');
        if matches.value_source(name) != Some(ValueSource::CommandLine) {
            return None;
        }
        let mut values = matches.get_many::<String>(name)?;
        let value = match setting.kind {
            // Repeated lists are joined; of any other repeated flag the last value counts.
            Kind::List | Kind::SecretList => values.map(String::as_str).collect::<Vec<_>>().join(","),
            _ => values.next_back()?.clone(),
        };
        Some((name.to_owned(), value))
    };
    flags.filter_map(value).collect()
}

fn action(path: &[&str], matches: &ArgMatches, command: &mut Command) -> Action {
    let on = |name: &str| matches.get_flag(name);
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let json = || matches.get_one::<String>("output").is_some_and(|format| format == "json");
    let manifest =
        |kind| Action::Manifest(Manifest { kind, in_cluster: on("inCluster"), image: text("image") });
    let kubeadm = Manifest { kind: ManifestKind::Pod, in_cluster: false, image: None };
    match path {
        ["manager"] => Action::Manager { dry_run: on("dry-run") },
        ["service"] => Action::Manager { dry_run: false },
        ["config"] => Action::Config,
        ["status"] => Action::Status { json: json() },
        ["status", "bgp"] => Action::StatusBgp { json: json(), routes: on("routes") },
        ["doctor"] => Action::Doctor { json: json(), file: text("filename") },
        ["cleanup"] => Action::Cleanup { dry_run: on("dry-run") },
        ["drain"] => Action::Drain,
        ["undrain"] => Action::Undrain,
        ["version"] => {
            Action::Print(format!("Kube-VIP Release Information\nVersion:  {VERSION}\nBuild:    {BUILD}\n"))
        }
        ["manifest", "pod"] => manifest(ManifestKind::Pod),
        ["manifest", "daemonset"] => manifest(ManifestKind::DaemonSet { taint: on("taint") }),
        ["manifest", "rbac"] => manifest(ManifestKind::Rbac {
            role: on("role"),
            role_binding: on("rolebinding") || on("role"),
            group: text("group"),
        }),
        ["kubeconfig"] => Action::Kubeconfig(Kubeconfig {
            output: text("output"),
            group: text("group").unwrap_or_default(),
            days: matches.get_one("days").copied().unwrap_or_default(),
        }),
        ["kubeadm", "init"] => Action::Kubeadm { manifest: kubeadm, join: None },
        ["kubeadm", "join"] => Action::Kubeadm { manifest: kubeadm, join: text("config") },
        ["completion"] => {
            let shell = matches.get_one::<clap_complete::Shell>("shell").copied();
            Action::Print(completion(shell.unwrap_or(clap_complete::Shell::Bash)))
        }
        _ => {
            let below =
                path.iter().try_fold(&mut *command, |command, name| command.find_subcommand_mut(name));
            Action::Print(below.map(|command| command.render_help().to_string()).unwrap_or_default())
        }
    }
}

/// The completion script for a shell.
fn completion(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "kube-vip", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Flags of versions of the Go program before v1.0, and those that replace them.
const FORMER: [(&str, &str); 1] = [("--cidr", "--vipSubnet")];

/// One line: what is wrong, and a known word that is near.
fn usage(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    for (typed, known) in [
        (ContextKind::InvalidArg, ContextKind::SuggestedArg),
        (ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
        (ContextKind::InvalidValue, ContextKind::SuggestedValue),
    ] {
        let Some(typed) = word(typed) else { continue };
        let several = match error.get(known) {
            Some(ContextValue::Strings(words)) => words.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        let former = FORMER.iter().find(|(flag, _)| *flag == typed).map(|(_, flag)| *flag);
        let hint = match former {
            Some(flag) => Hint(Some(flag.into())),
            None => nearest(typed, several.into_iter().chain(word(known))),
        };
        line.push_str(&hint.to_string());
    }
    // What clap prints in lines of its own.
    for (kind, what) in
        [(ContextKind::ValidValue, "possible values:"), (ContextKind::ValidSubcommand, "subcommands:")]
    {
        if let Some(ContextValue::Strings(words)) = error.get(kind).filter(|_| !line.contains("did you mean"))
        {
            line.push_str(&format!("; {what} {}", words.join(", ")));
        }
    }
    if error.kind() == ErrorKind::MissingRequiredArgument
        && let Some(ContextValue::Strings(words)) = error.get(ContextKind::InvalidArg)
    {
        line = format!("missing argument: {}", words.join(", "));
    }
    if let Some(argument) = word(ContextKind::InvalidArg)
        && matches!(argument, "true" | "false")
    {
        line.push_str("; a boolean takes its value after an equals sign, as in `--arp=false`");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(line: &str) -> Result<Action, String> {
        parse(line.split(' ').map(Into::into)).map(|cli| cli.action)
    }

    #[test]
    fn a_kubeconfig_is_requested_for_a_group_and_a_time_that_are_possible() {
        let wanted = |output: Option<&str>, group: &str, days| {
            let output = output.map(str::to_owned);
            Ok(Action::Kubeconfig(Kubeconfig { output, group: group.to_owned(), days }))
        };
        assert_eq!(action("kube-vip kubeconfig"), wanted(None, "kube-vip:nodes", 365));
        let all = "kube-vip kubeconfig -o /x.conf --group vip --days 30";
        assert_eq!(action(all), wanted(Some("/x.conf"), "vip", 30));
        for (args, problem) in [
            ("--group system:masters", "groups that begin with `system:` belong to Kubernetes"),
            ("--group ", "a group has a name"),
            ("--group a/b", "may contain neither `/` nor `%`"),
            ("--days 0", "0 is not in 1..=3650"),
            ("--days 3651", "3651 is not in 1..=3650"),
        ] {
            let found = action(&format!("kube-vip kubeconfig {args}")).unwrap_err();
            assert!(found.contains(problem), "{args}: {found}");
        }
    }
}
