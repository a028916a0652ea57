//! Sources of credentials and addresses of API servers: the first match, in the Go program's order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::timeout;

use crate::config::VipTarget;
use crate::config::api::ADMIN_CONF;
use crate::model::text::first_line;
use crate::model::{ActualAddress, Family};

/// A name in every API server certificate made by kubeadm.
const KUBERNETES: &str = "kubernetes";
/// Limit for resolving the name of a server: the path to the VIP does not depend on DNS.
const RESOLVE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the choice depends on besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$KUBERNETES_SERVICE_HOST` is set: the process runs in a pod with a service account.
    pub in_cluster: bool,
    /// A control-plane VIP is configured, so this host runs an API server.
    pub control_plane: bool,
    /// The VIPs. They are never used to reach an API server.
    pub vips: Vec<IpAddr>,
    /// The DNS names of VIPs.
    pub vip_names: Vec<String>,
    /// This host's own addresses, for `cp_detect`.
    pub own: Vec<IpAddr>,
}

impl Environment {
    /// That of this process, on a host with these addresses.
    pub fn of(config: &crate::config::Config, addresses: &[ActualAddress]) -> Self {
        Self {
            home: std::env::var_os("HOME").map(Into::into),
            in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty()),
            control_plane: !config.targets.is_empty(),
            vip_names: config.targets.iter().filter_map(VipTarget::name).map(str::to_owned).collect(),
            vips: config.fixed_vips().iter().map(|vip| vip.address).collect(),
            own: addresses.iter().map(|address| address.vip.address).collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub url: String,
    /// The name to verify its certificate for, if it is not the URL's host.
    pub tls_name: Option<String>,
    /// It runs on this host.
    pub local: bool,
    /// Configured, not learnt from the cluster.
    pub given: bool,
}

/// Credentials and the servers they are for.
#[derive(Debug)]
pub struct Source {
    /// The source, for messages.
    pub origin: String,
    pub base: Config,
    /// Best first.
    pub endpoints: Vec<Endpoint>,
    /// A configured server is not used, or not first: why, and what to change.
    pub warning: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("there are no credentials for the API server: {}", missing(.path, .setting))]
    Missing { path: String, setting: &'static str },
    /// Container runtimes create a directory for a mounted file that does not exist.
    #[error(
        "{0} is a directory, not a kubeconfig: the file did not exist on the host when the container was created; \
         remove the directory there, create the file, and restart the pod"
    )]
    Directory(String),
    #[error("kubeconfig {path} cannot be used: {why}")]
    Unusable { path: String, why: String },
    #[error("the pod's service account cannot be used: {0}")]
    ServiceAccount(String),
    #[error("{setting}: `{text}` is not an address or a URL")]
    Address { setting: &'static str, text: String },
    #[error("cannot create a client for {url}: {why}")]
    Client { url: String, why: String },
    #[error("no API server is known yet")]
    NoServer,
}

fn missing(path: &str, setting: &str) -> String {
    let (what, remedy) = match path {
        "" => ("no kubeconfig is given".to_owned(), format!("set {setting}")),
        path => (
            format!("kubeconfig {path} does not exist"),
            format!("create the file, or set {setting} to another one"),
        ),
    };
    format!("{what}, and this process has no service account: {remedy}")
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    /// A kubeconfig; with `rewrite` requests are sent to this host instead of the server named in it.
    File {
        path: String,
        rewrite: bool,
    },
    InCluster,
}

/// The first match of: a configured kubeconfig; kubeadm's; the one in `$HOME`; the service account.
fn choose(configured: &str, environment: &Environment, exists: impl Fn(&str) -> bool) -> Option<Choice> {
    let home = environment.home.as_ref().map(|home| home.join(".kube/config").to_string_lossy().into_owned());
    let own_choice = configured != ADMIN_CONF && Some(configured) != home.as_deref();
    if own_choice && !configured.is_empty() && exists(configured) {
        return Some(Choice::File { path: configured.to_owned(), rewrite: false });
    }
    if exists(ADMIN_CONF) {
        return Some(Choice::File { path: ADMIN_CONF.to_owned(), rewrite: environment.control_plane });
    }
    if let Some(path) = home.filter(|path| exists(path)) {
        return Some(Choice::File { path, rewrite: false });
    }
    environment.in_cluster.then_some(Choice::InCluster)
}

impl Source {
    /// # Errors
    /// If credentials are missing or invalid. A later attempt may succeed.
    pub async fn load(settings: &crate::config::Api, environment: &Environment) -> Result<Self, SourceError> {
        let exists = |path: &str| Path::new(path).exists();
        match choose(&settings.kubeconfig, environment, exists) {
            Some(Choice::File { path, rewrite }) => from_file(path, rewrite, settings, environment).await,
            Some(Choice::InCluster) => in_cluster(settings, environment),
            None => {
                let (path, setting) = (settings.kubeconfig.clone(), settings.names.kubeconfig);
                Err(SourceError::Missing { path, setting })
            }
        }
    }
}

async fn from_file(
    path: String,
    rewrite: bool,
    settings: &crate::config::Api,
    environment: &Environment,
) -> Result<Source, SourceError> {
    if Path::new(&path).is_dir() {
        return Err(SourceError::Directory(path));
    }
    let unusable = |why: String| SourceError::Unusable { path: path.clone(), why };
    let kubeconfig =
        Kubeconfig::read_from(&path).map_err(|error| unusable(first_line(&error.to_string())))?;
    let base = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable(error.to_string()))?;
    let own = || local(settings, environment);
    let (endpoints, warning) = match &settings.address {
        Some(address) => {
            let server = configured(address, settings)?;
            beside_vip(server, settings.names.address, environment, own).await
        }
        None if rewrite => (own(), None),
        None => {
            let url = base.cluster_url.to_string();
            let server = Endpoint::given(&url, base.tls_server_name.clone(), false);
            let server = Endpoint { local: is_own(&server.host(), environment), ..server };
            beside_vip(server, &path, environment, own).await
        }
    };
    Ok(Source { origin: path, base, endpoints, warning })
}

/// How requests to a server depend on the VIPs of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// Not at all.
    Apart,
    /// They are sent to a VIP, which needs this process.
    Through,
    /// The server has a name that could not be resolved.
    Unknown,
}

impl Route {
    /// The route to a host that has these addresses; none while it could not be resolved.
    fn to(host: &str, addresses: Option<&[IpAddr]>, environment: &Environment) -> Self {
        let is_vip = |address: &IpAddr| environment.vips.contains(address);
        let name = host.trim_end_matches('.');
        let named =
            environment.vip_names.iter().any(|vip| vip.trim_end_matches('.').eq_ignore_ascii_case(name));
        match addresses {
            _ if !environment.control_plane => Self::Apart,
            _ if named => Self::Through,
            Some(addresses) if addresses.iter().any(is_vip) => Self::Through,
            Some(_) => Self::Apart,
            None => Self::Unknown,
        }
    }
}

/// The servers for a configured one, which may be the VIP that this process has to bring up first: then those of this host
/// replace it. If that is unknown, they precede it.
async fn beside_vip(
    server: Endpoint,
    setting: &str,
    environment: &Environment,
    own: impl FnOnce() -> Vec<Endpoint>,
) -> (Vec<Endpoint>, Option<String>) {
    let host = server.host();
    let addresses = match host.parse() {
        Ok(address) => Some(vec![address]),
        Err(_) if environment.control_plane => resolve(&host).await,
        Err(_) => None,
    };
    let route = Route::to(&host, addresses.as_deref(), environment);
    let remedy = format!("set the server in {setting} to this node's own API server");
    match route {
        Route::Apart => (vec![server], None),
        Route::Through => {
            let warning = format!(
                "{}, the server in {setting}, is the VIP, which needs an API server to come up: the one on this host is used \
                 instead; {remedy}",
                server.url
            );
            (own(), Some(warning))
        }
        Route::Unknown => {
            let warning = format!(
                "{host}, the server in {setting}, is a name that does not resolve, and may be that of the VIP: the API server \
                 on this host is used first; {remedy}"
            );
            (own().into_iter().chain([Endpoint { local: false, ..server }]).collect(), Some(warning))
        }
    }
}

async fn resolve(host: &str) -> Option<Vec<IpAddr>> {
    let lookup = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, 0))).await.ok()?.ok()?;
    Some(lookup.map(|address| address.ip()).collect())
}

fn in_cluster(settings: &crate::config::Api, environment: &Environment) -> Result<Source, SourceError> {
    let base = Config::incluster_env().map_err(|error| SourceError::ServiceAccount(error.to_string()))?;
    let mut endpoints = match &settings.address {
        Some(address) => vec![configured(address, settings)?],
        None if environment.control_plane => local(settings, environment),
        None => Vec::new(),
    };
    endpoints.push(Endpoint::given(&base.cluster_url.to_string(), None, false));
    Ok(Source { origin: "the pod's service account".into(), base, endpoints, warning: None })
}

/// The server on this host: the address of `kubernetes` in /etc/hosts (the static pod's host alias), else loopback.
fn local(settings: &crate::config::Api, environment: &Environment) -> Vec<Endpoint> {
    let endpoint = |address: IpAddr, tls_name: Option<String>| {
        Endpoint::given(&url_of(address, settings.port), tls_name, true)
    };
    if settings.detect {
        let own = environment.own.iter().filter(|address| !environment.vips.contains(address));
        return own.map(|address| endpoint(*address, None)).collect();
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut addresses = addresses_in_hosts(&hosts, KUBERNETES);
    addresses.retain(|address| !environment.vips.contains(address));
    if addresses.is_empty() {
        addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    addresses.into_iter().map(|address| endpoint(address, Some(KUBERNETES.into()))).collect()
}

/// The addresses of `name` in a hosts(5) file.
fn addresses_in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
        })
        .collect()
}

/// A server configured as `host`, `host:port` or URL.
fn configured(text: &str, settings: &crate::config::Api) -> Result<Endpoint, SourceError> {
    let port = settings.port;
    let wrong = || SourceError::Address { setting: settings.names.address, text: text.to_owned() };
    let url = match (text.contains("://"), text.parse::<IpAddr>()) {
        (true, _) => text.to_owned(),
        (false, Ok(address)) => url_of(address, port),
        (false, Err(_)) if text.contains(':') => format!("https://{text}"),
        (false, Err(_)) => format!("https://{text}:{port}"),
    };
    let parsed: http::Uri = url.parse().map_err(|_| wrong())?;
    parsed.host().ok_or_else(wrong)?;
    Ok(Endpoint::given(&url, None, true))
}

fn url_of(address: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(address, port))
}

fn is_own(host: &str, environment: &Environment) -> bool {
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback() || environment.own.contains(&address))
}

/// The client certificate of a user, as PEM.
pub fn client_certificate(user: &AuthInfo) -> Option<String> {
    let bytes = match (&user.client_certificate_data, &user.client_certificate) {
        (Some(data), _) => serde_json::from_value::<ByteString>(data.trim().into()).ok()?.0,
        (None, Some(path)) => std::fs::read(path).ok()?,
        (None, None) => return None,
    };
    String::from_utf8(bytes).ok()
}

/// Whether the credentials are sent to the server, which could use them itself. A client certificate is not.
fn sends_secret(base: &Config) -> bool {
    let auth = &base.auth_info;
    auth.token.is_some()
        || auth.token_file.is_some()
        || auth.password.is_some()
        || auth.exec.is_some()
        || auth.auth_provider.is_some()
}

impl Endpoint {
    fn given(url: &str, tls_name: Option<String>, local: bool) -> Self {
        Self { url: url.trim_end_matches('/').to_owned(), tls_name, local, given: true }
    }

    /// The URL's host: a name, or an address without brackets.
    fn host(&self) -> String {
        let url: Option<http::Uri> = self.url.parse().ok();
        let host = url.as_ref().and_then(http::Uri::host).unwrap_or_default();
        host.trim_matches(['[', ']']).to_owned()
    }

    /// The URL's address; none if the URL has a name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    /// The family of the URL's address; none if the URL has a name.
    pub fn family(&self) -> Option<Family> {
        self.address().map(Family::of)
    }

    /// The same server by the loopback address of this family.
    #[must_use]
    pub fn on_loopback(&self, family: Family, port: u16) -> Self {
        let address: IpAddr = match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        // The certificate may lack loopback addresses, but always has this name.
        let tls_name = self.tls_name.clone().or_else(|| Some(KUBERNETES.to_owned()));
        Self { url: url_of(address, port), tls_name, ..self.clone() }
    }

    /// The name that the server's certificate must have; none is the host of the URL.
    ///
    /// A server that was learnt from the cluster and gets a secret must have a name of API servers: its address alone is in
    /// the serving certificate of that node's kubelet as well.
    fn verified_name(&self, base: &Config) -> Option<String> {
        let name = self.tls_name.clone().or_else(|| base.tls_server_name.clone());
        name.or_else(|| (!self.given && sends_secret(base)).then(|| KUBERNETES.to_owned()))
    }

    /// A client for this server. It has no timeout: each request brings its own.
    ///
    /// # Errors
    /// If the credentials are invalid.
    pub fn connect(&self, base: &Config) -> Result<Client, SourceError> {
        let why = |why: String| SourceError::Client { url: self.url.clone(), why };
        let mut config = base.clone();
        config.cluster_url =
            self.url.parse().map_err(|error: http::uri::InvalidUri| why(error.to_string()))?;
        config.tls_server_name = self.verified_name(base);
        config.connect_timeout = Some(Duration::from_secs(2));
        config.read_timeout = None;
        config.write_timeout = None;
        config.proxy_url = None;
        config.default_retry = false;
        Client::try_from(config).map_err(|error| why(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_existing_source_is_used() {
        let environment = |in_cluster| Environment {
            home: Some("/root".into()),
            in_cluster,
            control_plane: true,
            ..Default::default()
        };
        let file = |path: &str, rewrite| Some(Choice::File { path: path.into(), rewrite });
        let table: [(&str, &[&str], bool, Option<Choice>); 6] = [
            ("/own.conf", &["/own.conf", ADMIN_CONF], false, file("/own.conf", false)),
            ("/own.conf", &[ADMIN_CONF], false, file(ADMIN_CONF, true)),
            (ADMIN_CONF, &[ADMIN_CONF, "/root/.kube/config"], true, file(ADMIN_CONF, true)),
            (ADMIN_CONF, &["/root/.kube/config"], true, file("/root/.kube/config", false)),
            (ADMIN_CONF, &[], true, Some(Choice::InCluster)),
            (ADMIN_CONF, &[], false, None),
        ];
        for (configured, present, in_cluster, expected) in table {
            let choice = choose(configured, &environment(in_cluster), |path| present.contains(&path));
            assert_eq!(choice, expected, "{configured} {present:?}");
        }
    }

    #[test]
    fn a_token_is_sent_only_to_a_learnt_server_with_a_name_of_api_servers() {
        let certificate = r#"{"client-certificate":"/a","client-key":"/b"}"#;
        let (token, token_file) = (r#"{"token":"secret"}"#, r#"{"tokenFile":"/token"}"#);
        let table: [(&str, bool, Option<&str>, Option<&str>); 7] = [
            (token, false, None, Some(KUBERNETES)),
            (token_file, false, None, Some(KUBERNETES)),
            (token, false, Some("api.example.com"), Some("api.example.com")),
            (token, true, None, None),
            (certificate, false, None, None),
            (certificate, false, Some(KUBERNETES), Some(KUBERNETES)),
            (certificate, true, None, None),
        ];
        for (auth, given, tls_name, verified) in table {
            let mut base = Config::new("https://10.96.0.1:443".parse().unwrap());
            base.auth_info = serde_json::from_str(auth).unwrap();
            let url = "https://192.0.2.1:6443".to_owned();
            let endpoint = Endpoint { url, tls_name: tls_name.map(str::to_owned), local: false, given };
            assert_eq!(endpoint.verified_name(&base).as_deref(), verified, "{auth} {given} {tls_name:?}");
        }
    }

    #[test]
    fn hosts_file_parsing_follows_hosts_5() {
        let text = "127.0.0.1 localhost\n# 10.0.0.1 kubernetes\n10.0.0.2\tfoo Kubernetes # bar\n::1 kubernetes\nx kubernetes\n";
        let expected: Vec<IpAddr> = ["10.0.0.2", "::1"].map(|address| address.parse().unwrap()).into();
        assert_eq!(addresses_in_hosts(text, "kubernetes"), expected);
    }

    #[test]
    fn a_server_is_an_address_a_host_with_port_or_a_url() {
        let table = [
            ("10.0.0.1", "https://10.0.0.1:6443"),
            ("fd00::1", "https://[fd00::1]:6443"),
            ("api.example.com", "https://api.example.com:6443"),
            ("api.example.com:8443", "https://api.example.com:8443"),
            ("https://api.example.com/", "https://api.example.com"),
        ];
        for (text, url) in table {
            assert_eq!(configured(text, &settings()).unwrap().url, url);
        }
        let wrong = configured("http://", &settings()).unwrap_err().to_string();
        assert_eq!(wrong, "kubernetes_addr: `http://` is not an address or a URL");
    }

    fn settings() -> crate::config::Api {
        crate::config::Api {
            kubeconfig: String::new(),
            address: None,
            detect: false,
            port: 6443,
            names: crate::config::api::AGENT,
        }
    }

    fn environment() -> Environment {
        Environment {
            control_plane: true,
            vips: vec!["192.0.2.50".parse().unwrap()],
            vip_names: vec!["api.example.com".into()],
            ..Environment::default()
        }
    }

    #[test]
    fn requests_through_the_vip_are_found_by_address_and_by_name() {
        use Route::{Apart, Through, Unknown};
        let table: [(&str, Option<&[&str]>, Route); 7] = [
            ("192.0.2.50", Some(&["192.0.2.50"]), Through),
            ("192.0.2.1", Some(&["192.0.2.1"]), Apart),
            ("API.example.com.", None, Through),
            ("api.example.com", Some(&["192.0.2.51"]), Through),
            ("other.example.com", Some(&["192.0.2.9", "192.0.2.50"]), Through),
            ("other.example.com", Some(&["192.0.2.9"]), Apart),
            ("other.example.com", None, Unknown),
        ];
        for (host, addresses, route) in table {
            let addresses: Option<Vec<IpAddr>> =
                addresses.map(|all| all.iter().map(|address| address.parse().unwrap()).collect());
            assert_eq!(Route::to(host, addresses.as_deref(), &environment()), route, "{host} {addresses:?}");
            // A process without the VIP does not bring it up.
            let without = Environment { control_plane: false, ..environment() };
            assert_eq!(Route::to(host, addresses.as_deref(), &without), Apart, "{host}");
        }
    }

    #[tokio::test]
    async fn the_servers_of_this_host_replace_the_vip_and_precede_an_unresolved_name() {
        let own = || vec![Endpoint::given("https://127.0.0.1:6443", None, true)];
        for (url, urls, warned) in [
            ("https://192.0.2.50:6443", &["https://127.0.0.1:6443"][..], true),
            ("https://192.0.2.1:6443", &["https://192.0.2.1:6443"], false),
            ("https://api.example.com", &["https://127.0.0.1:6443"], true),
            // Reserved for tests (RFC 6761): it never resolves.
            ("https://vip.invalid", &["https://127.0.0.1:6443", "https://vip.invalid"], true),
        ] {
            let server = Endpoint::given(url, None, true);
            let (endpoints, warning) = beside_vip(server, "/own.conf", &environment(), own).await;
            let found: Vec<(&str, bool)> =
                endpoints.iter().map(|endpoint| (endpoint.url.as_str(), endpoint.local)).collect();
            let expected: Vec<(&str, bool)> =
                urls.iter().map(|url| (*url, *url != "https://vip.invalid")).collect();
            assert_eq!((found, warning.is_some()), (expected, warned), "{url}");
            assert!(warning.is_none_or(|text| {
                text.ends_with("set the server in /own.conf to this node's own API server")
            }));
        }
    }

    #[test]
    fn missing_credentials_name_the_setting_of_the_program() {
        let text = |path: &str, setting| SourceError::Missing { path: path.to_owned(), setting }.to_string();
        assert_eq!(
            text("/k", "k8s_config_file"),
            "there are no credentials for the API server: kubeconfig /k does not exist, and this process has no service \
             account: create the file, or set k8s_config_file to another one"
        );
        assert!(text("", "--kubeconfig").ends_with("no service account: set --kubeconfig"));
    }
}
