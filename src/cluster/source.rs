//! Sources of credentials and addresses of API servers: the first match, in the Go program's order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::config::api::ADMIN_CONF;
use crate::model::Family;

/// A name in every API server certificate made by kubeadm.
const KUBERNETES: &str = "kubernetes";

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
    /// This host's own addresses, for `cp_detect`.
    pub own: Vec<IpAddr>,
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
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("there is no kubeconfig{}, and no service account: waiting for one", missing(.0))]
    Missing(String),
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
    #[error("kubernetes_addr: `{0}` is not an address or a URL")]
    Address(String),
    #[error("cannot create a client for {url}: {why}")]
    Client { url: String, why: String },
    #[error("no API server is known yet")]
    NoServer,
}

fn missing(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" at {path} yet (k8s_config_file)") }
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
            None => Err(SourceError::Missing(settings.kubeconfig.clone())),
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
    let kubeconfig = Kubeconfig::read_from(&path).map_err(|error| unusable(error.to_string()))?;
    let base = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable(error.to_string()))?;
    let host = base.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let through_vip = host.parse().is_ok_and(|address: IpAddr| environment.vips.contains(&address));
    let endpoints = match &settings.address {
        Some(address) => vec![configured(address, settings.port)?],
        None if rewrite || (through_vip && environment.control_plane) => local(settings, environment),
        None => {
            let tls_name = base.tls_server_name.clone();
            vec![Endpoint::given(&base.cluster_url.to_string(), tls_name, is_own(&host, environment))]
        }
    };
    Ok(Source { origin: path, base, endpoints })
}

fn in_cluster(settings: &crate::config::Api, environment: &Environment) -> Result<Source, SourceError> {
    let base = Config::incluster_env().map_err(|error| SourceError::ServiceAccount(error.to_string()))?;
    let mut endpoints = match &settings.address {
        Some(address) => vec![configured(address, settings.port)?],
        None if environment.control_plane => local(settings, environment),
        None => Vec::new(),
    };
    endpoints.push(Endpoint::given(&base.cluster_url.to_string(), None, false));
    Ok(Source { origin: "the pod's service account".into(), base, endpoints })
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
fn configured(text: &str, port: u16) -> Result<Endpoint, SourceError> {
    let url = match (text.contains("://"), text.parse::<IpAddr>()) {
        (true, _) => text.to_owned(),
        (false, Ok(address)) => url_of(address, port),
        (false, Err(_)) if text.contains(':') => format!("https://{text}"),
        (false, Err(_)) => format!("https://{text}:{port}"),
    };
    let parsed: http::Uri = url.parse().map_err(|_| SourceError::Address(text.to_owned()))?;
    parsed.host().ok_or_else(|| SourceError::Address(text.to_owned()))?;
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

    /// The URL's address; none if the URL has a name.
    pub fn address(&self) -> Option<IpAddr> {
        let url: http::Uri = self.url.parse().ok()?;
        url.host()?.trim_matches(['[', ']']).parse().ok()
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
            assert_eq!(configured(text, 6443).unwrap().url, url);
        }
        assert!(configured("http://", 6443).is_err());
    }
}
