//! Every setting: its names as flag, environment variable and file key, its type, default and meaning.
//!
//! The command line, the environment, the file, the documentation, `kube-vip config` and the typed [`Values`] are
//! derived from this table. Names and defaults are those of the Go program, v1.2.3; names that only its documentation
//! uses are accepted as well.

use std::collections::BTreeMap;
use std::time::Duration;

use super::value::{DhcpMode, DnsMode, ElectionStore, Forwarding, LogFormat, NextHopMode, Value};
use super::{Problem, Raw};

/// What a setting accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A boolean in Go's notation.
    Bool,
    Text,
    /// Text whose empty value is a value of its own.
    TextOrNothing,
    /// Text that is never shown.
    Secret,
    /// A list separated by commas whose entries may contain secrets.
    SecretList,
    /// A whole number from the first to the second.
    Int(i64, i64),
    /// One of these words, in any case.
    OneOf(&'static [&'static str]),
    /// Texts separated by commas.
    List,
    /// A duration in Go's notation: `300ms`, `1m30s`.
    Duration,
    /// An http or https URL.
    Url,
    /// A JSON object of strings.
    JsonMap,
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    pub key: Key,
    /// Flags without dashes, the preferred one first. A leading `!` marks one with the opposite sense.
    pub flags: &'static [&'static str],
    /// Environment variables, the preferred one first.
    pub env: &'static [&'static str],
    /// Keys in the configuration file, the preferred one first; a dot descends into a map.
    pub file: &'static [&'static str],
    pub kind: Kind,
    /// The default, as it would be given.
    pub default: &'static str,
    /// One line for `--help` and the documentation.
    pub help: &'static str,
    /// Heading in `--help`, the documentation and `kube-vip config`.
    pub section: &'static str,
}

/// Writes the enum, the table and the typed values from one list, so that they cannot disagree.
macro_rules! settings {
    ($($section:literal { $(
        $key:ident $field:ident: $type:ty as $kind:expr, default $default:literal,
        flags $flags:tt, env $env:tt, file $file:tt,
        $help:literal;
    )* })*) => {
        /// Names a setting in code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key {
            $($(#[doc = $help] $key,)*)*
        }

        /// All settings, in the order of [`Key`].
        pub static SETTINGS: &[Setting] = &[
            $($(Setting {
                key: Key::$key, flags: &$flags, env: &$env, file: &$file,
                kind: $kind, default: $default, help: $help, section: $section,
            },)*)*
        ];

        /// The value of every setting: as given, or its default.
        #[derive(Debug, Clone)]
        pub struct Values {
            $($(#[doc = $help] pub $field: $type,)*)*
            pub raw: Raw,
        }

        impl Values {
            /// # Errors
            /// A value that does not fit its setting's type.
            pub fn read(raw: Raw) -> Result<Self, Vec<Problem>> {
                Ok(Self { $($($field: typed(&raw, Key::$key)?,)*)* raw })
            }
        }
    };
}

fn typed<T: Value>(raw: &Raw, key: Key) -> Result<T, Vec<Problem>> {
    T::read(raw.text(key)).ok_or_else(|| vec![Problem::value(key, raw.origin(key), raw.text(key))])
}

impl Key {
    #[expect(clippy::indexing_slicing, reason = "one macro writes both the enum and the table")]
    pub fn setting(self) -> &'static Setting {
        &SETTINGS[self as usize]
    }

    /// The preferred environment variable, or the flag of a setting that has none.
    pub fn name(self) -> &'static str {
        let setting = self.setting();
        setting.env.first().or(setting.flags.first()).copied().unwrap_or_default()
    }
}

settings! {
    "Address" {
        Interface interface: Option<String> as Kind::Text, default "",
            flags ["interface"], env ["vip_interface"], file ["interface"],
            "Interface that carries the VIP. Empty: the interface of the default route.";
        ServicesInterface services_interface: Option<String> as Kind::Text, default "",
            flags ["serviceInterface", "servicesInterface"], env ["vip_servicesinterface"], file ["servicesInterface"],
            "Interface for the addresses of Services; `auto` picks the interface whose subnet contains the address.";
        AllowInterfaceNotUp allow_interface_not_up: bool as Kind::Bool, default "false",
            flags ["allowInterfaceNotUp"], env ["vip_allow_interface_not_up"], file ["allowInterfaceNotUp"],
            "Start while an interface is down, and keep the VIP on it.";
        Address address: Vec<String> as Kind::Text, default "",
            flags ["address"], env ["address"], file ["address"],
            "The VIP: an IP address, a DNS name, or several separated by commas.";
        VipAddress vip_address: Vec<String> as Kind::Text, default "",
            flags ["vip"], env ["vip_address"], file ["vip", "vipAddress"],
            "Deprecated name of `address`.";
        VipSubnet vip_subnet: Vec<String> as Kind::Text, default "",
            flags ["vipSubnet"], env ["vip_subnet"], file ["vipSubnet"],
            "Prefix length of the VIP: `32`, `128`, or `32,128` for IPv4 and IPv6; for Services also `auto`, that of the interface. Empty: a host route.";
        NodeName node_name: Option<String> as Kind::Text, default "",
            flags ["nodeName"], env ["vip_nodename"], file ["nodeName", "leaseNodeName"],
            "This node's name in Leases, labels and Events, converted to lower case. Empty: the hostname.";
        Port port: u16 as Kind::Int(1, 65535), default "6443",
            flags ["port"], env ["port"], file ["port"],
            "Port of the API server.";
        DnsMode dns_mode: DnsMode as Kind::OneOf(DnsMode::WORDS), default "first",
            flags ["dnsMode"], env ["dns_mode"], file ["dnsMode", "dnsDualStackMode"],
            "Which addresses of a DNS name are used: the first, the first of a family, or the first of each family.";
        Ddns ddns: bool as Kind::Bool, default "false",
            flags ["ddns"], env ["vip_ddns"], file ["ddns"],
            "Request the address for the name in `address` by DHCP.";
        DhcpMode dhcp_mode: DhcpMode as Kind::OneOf(DhcpMode::WORDS), default "",
            flags ["dhcpMode"], env ["dhcp_mode"], file ["dhcpMode", "dhcpDualStackMode"],
            "Families to request by DHCP. Empty: follows `dns_mode`.";
        DhcpBackoffAttempts dhcp_backoff_attempts: u32 as Kind::Int(0, 4294967295), default "3",
            flags ["dhcpBackoffAttempts"], env ["dhcp_backoff_attempts"], file ["dhcpBackoffAttempts"],
            "DISCOVER rounds without a reply before all pauses are a minute; 0: pauses grow from 10 seconds to a minute.";
        Mdns mdns: Option<String> as Kind::Text, default "",
            flags ["mdns"], env ["vip_mdns"], file ["mdns"],
            "Name of the control plane in the local network (mDNS), such as `k8s.local`. No Service gets it, where it is set for the process that announces Services.";
        LoGlobalScope lo_global_scope: bool as Kind::Bool, default "false",
            flags ["loInterfaceGlobalScope"], env ["vip_interfaceloglobal"], file ["loInterfaceGlobalScope"],
            "On `lo`, give the VIP global instead of host scope.";
        SkipDad skip_dad: bool as Kind::Bool, default "false",
            flags ["skipDAD"], env ["vip_skipdad"], file ["skipDAD"],
            "Skip duplicate address detection for IPv6 addresses.";
        SkipArpProbe skip_arp_probe: bool as Kind::Bool, default "false",
            flags ["skipARPProbe"], env ["vip_skip_arp_probe"], file ["skipARPProbe"],
            "Do not probe for IPv4 addresses before use: for segments where a router with proxy ARP answers for every address.";
        ArpRate arp_rate: u32 as Kind::Int(0, 3600000), default "0",
            flags ["arpRate"], env ["vip_arpRate"], file ["arpBroadcastRate"],
            "Milliseconds between announcements of a held VIP; 0: a burst, then one announcement every 60 s.";
        PreserveVip preserve_vip: bool as Kind::Bool, default "false",
            flags ["preserveVipOnLeadershipLoss"], env ["vip_preserve_on_leadership_loss"], file ["preserveVIPOnLeadershipLoss"],
            "After a lost claim, keep the IPv4 VIP on the interface, without announcing it, until its kernel lifetime ends.";
        LoseLeadership lose_leadership: bool as Kind::Bool, default "false",
            flags ["loseLeadership"], env ["vip_loseleadership"], file ["loseLeadership"],
            "Give up the VIP when its interface has been down for `vip_loseleadership_timeout_seconds`, regardless of the state of other nodes.";
        LoseLeadershipTimeout lose_leadership_timeout: u32 as Kind::Int(0, 86400), default "30",
            flags ["loseLeadershiptTimeoutSeconds", "loseLeadershipTimeoutSeconds"], env ["vip_loseleadership_timeout_seconds"], file ["loseLeadershipTimeoutSeconds"],
            "Seconds that an interface may be down before `vip_loseleadership` takes effect.";
    }
    "Mode" {
        Arp arp: bool as Kind::Bool, default "false",
            flags ["arp", "enableARP"], env ["vip_arp"], file ["enableARP"],
            "Announce by ARP and NDP.";
        Bgp bgp: bool as Kind::Bool, default "false",
            flags ["bgp", "enableBGP"], env ["bgp_enable"], file ["enableBGP"],
            "Announce by BGP.";
        RoutingTable routing_table: bool as Kind::Bool, default "false",
            flags ["table"], env ["vip_routingtable"], file ["enableRoutingTable"],
            "Announce by the routing table.";
        Wireguard wireguard: bool as Kind::Bool, default "false",
            flags ["wireguard"], env ["vip_wireguard"], file ["enableWireguard"],
            "Announce through WireGuard tunnels.";
        ControlPlane control_plane: bool as Kind::Bool, default "false",
            flags ["controlplane"], env ["cp_enable"], file ["enableControlPlane"],
            "Hold a VIP for the control plane.";
        Services services: bool as Kind::Bool, default "false",
            flags ["services"], env ["svc_enable"], file ["enableServices"],
            "Announce Services of type LoadBalancer.";
        Namespace namespace: String as Kind::Text, default "kube-system",
            flags ["namespace"], env ["cp_namespace"], file ["namespace"],
            "Namespace of Leases whose names do not contain one; the namespace of a service account takes precedence.";
        InstanceName instance_name: Option<String> as Kind::Text, default "",
            flags ["instanceName"], env ["instance_name", "INSTANCE_NAME"], file ["instanceName"],
            "Distinguishes several instances on one host.";
    }
    "Election" {
        LeaderElection leader_election: bool as Kind::Bool, default "false",
            flags ["leaderElection"], env ["vip_leaderelection"], file ["enableLeaderElection"],
            "Elect a leader also in modes that do without: the control plane by BGP, Services by routing table.";
        LeaderElectionType leader_election_type: ElectionStore as Kind::OneOf(ElectionStore::WORDS), default "kubernetes",
            flags ["leaderElectionType"], env ["vip_leaderelectiontype"], file ["leaderElectionType"],
            "Store of the election.";
        LeaseName lease_name: String as Kind::Text, default "plndr-cp-lock",
            flags ["leaseName"], env ["vip_leasename"], file ["leaseName"],
            "Lease of the control plane, as `name` or `namespace/name`.";
        LeaseDuration lease_duration: u16 as Kind::Int(0, 3600), default "15",
            flags ["leaseDuration"], env ["vip_leaseduration"], file ["leaseDuration"],
            "Seconds after the leader's last renewal before another node may acquire the Lease.";
        RenewDeadline renew_deadline: u16 as Kind::Int(0, 3600), default "10",
            flags ["leaseRenewDuration"], env ["vip_renewdeadline"], file ["renewDeadline"],
            "Seconds after its last renewal for which the leader keeps acting on it.";
        RetryPeriod retry_period: u16 as Kind::Int(0, 3600), default "2",
            flags ["leaseRetry"], env ["vip_retryperiod"], file ["retryPeriod"],
            "Seconds between renewals.";
        LeaseAnnotations lease_annotations: BTreeMap<String, String> as Kind::JsonMap, default "",
            flags ["leaseAnnotations"], env ["vip_leaseannotations"], file ["leaseAnnotations"],
            "Annotations for the control plane's Lease, as a JSON object of strings.";
        EtcdCaCert etcd_ca_cert: Option<String> as Kind::Text, default "",
            flags ["etcdCACert"], env ["etcd_ca_cert"], file ["etcd.caFile"],
            "CA of the etcd servers, for an election in etcd.";
        EtcdCert etcd_cert: Option<String> as Kind::Text, default "",
            flags ["etcdCert"], env ["etcd_cert"], file ["etcd.clientCertFile"],
            "Client certificate for etcd.";
        EtcdKey etcd_key: Option<String> as Kind::Text, default "",
            flags ["etcdKey"], env ["etcd_key"], file ["etcd.clientKeyFile"],
            "Client key for etcd.";
        EtcdEndpoints etcd_endpoints: Vec<String> as Kind::List, default "",
            flags ["etcdEndpoints"], env ["etcd_endpoints"], file ["etcd.endpoints"],
            "Addresses of the etcd servers.";
        SingleNode single_node: bool as Kind::Bool, default "false",
            flags [], env ["vip_singlenode"], file ["singleNode"],
            "Accepted for compatibility; without effect.";
        StartLeader start_leader: bool as Kind::Bool, default "false",
            flags [], env ["vip_startleader"], file ["startAsLeader"],
            "Accepted for compatibility; without effect.";
    }
    "API server" {
        Kubeconfig kubeconfig: String as Kind::Text, default "/etc/kubernetes/admin.conf",
            flags ["k8sConfigPath"], env ["k8s_config_file"], file ["k8sConfigFile"],
            "Path of the kubeconfig; in generated manifests, the host's file to mount.";
        KubernetesAddr kubernetes_addr: Option<String> as Kind::Text, default "",
            flags [], env ["kubernetes_addr"], file ["kubernetesAddr"],
            "Address or URL of the API server, instead of the one in the kubeconfig.";
        DetectControlPlane detect_control_plane: bool as Kind::Bool, default "false",
            flags ["autodetectcp"], env ["cp_detect"], file ["detectControlPlane"],
            "Connect to the local API server at the first of this host's addresses that answers and is in its certificate.";
        HealthAddress health_address: Option<String> as Kind::Url, default "",
            flags ["controlPlaneHealthCheckAddress"], env ["control_plane_health_check_address"], file ["controlPlaneHealthCheck.address"],
            "URL for health checks of the local API server. Empty: its own /livez.";
        HealthPeriod health_period: u32 as Kind::Int(0, 86400), default "5",
            flags ["controlPlaneHealthCheckPeriodSeconds"], env ["control_plane_health_check_period_seconds"], file ["controlPlaneHealthCheck.periodSeconds"],
            "Seconds between health checks of the URL; /livez is checked every 250 ms.";
        HealthTimeout health_timeout: u16 as Kind::Int(1, 3600), default "3",
            flags ["controlPlaneHealthCheckTimeoutSeconds"], env ["control_plane_health_check_timeout_seconds"], file ["controlPlaneHealthCheck.timeoutSeconds"],
            "Timeout of a health check of the URL, in seconds.";
        HealthThreshold health_threshold: u16 as Kind::Int(1, 1000), default "3",
            flags ["controlPlaneHealthCheckFailureThreshold"], env ["control_plane_health_check_failure_threshold"], file ["controlPlaneHealthCheck.failureThreshold"],
            "Consecutive failed health checks of the URL that count as down.";
        HealthCa health_ca: Option<String> as Kind::Text, default "",
            flags ["controlPlaneHealthCheckCAPath"], env ["control_plane_health_check_ca_path"], file ["controlPlaneHealthCheck.caPath"],
            "File with an additional CA for the URL.";
        BackendHealthInterval backend_health_interval: u16 as Kind::Int(1, 3600), default "5",
            flags [], env ["backend_health_check_interval"], file ["backendHealthCheckInterval"],
            "Seconds between checks of IPVS backends and, with `vip_routingrealms`, between replacements of routes.";
        NodeLabeling node_labeling: bool as Kind::Bool, default "false",
            flags ["enableNodeLabeling"], env ["enable_node_labeling"], file ["enableNodeLabeling"],
            "Label the node that holds an address.";
    }
    "Telemetry" {
        LogLevel log_level: i64 as Kind::Int(-100, 100), default "0",
            flags ["log"], env ["vip_loglevel"], file ["logging"],
            "Log level: -4 debug, 0 info, 4 warnings, 8 errors.";
        LogFormat log_format: LogFormat as Kind::OneOf(LogFormat::WORDS), default "text",
            flags ["logFormat"], env ["vip_logformat"], file ["logFormat"],
            "Format of log lines.";
        MetricsAddress metrics_address: Option<String> as Kind::TextOrNothing, default ":2112",
            flags ["prometheusHTTPServer"], env ["prometheus_server"], file ["prometheusHTTPServer"],
            "Address that serves metrics. Empty: off.";
        HealthPort health_port: u16 as Kind::Int(0, 65535), default "0",
            flags ["healthCheckPort"], env ["health_check_port"], file ["healthCheckPort"],
            "Port of /healthz and /readyz, 1024 or above; 0: off.";
    }
    "Services" {
        ServicesElection services_election: bool as Kind::Bool, default "false",
            flags ["servicesElection"], env ["svc_election"], file ["enableServicesElection"],
            "Elect a leader for each Service.";
        ServicesElectionGroups services_election_groups: u16 as Kind::Int(0, 1024), default "0",
            flags ["servicesElectionGroups"], env ["svc_election_groups"], file ["servicesElectionGroups"],
            "Number of elections over which Services are spread by their addresses; 0: one election for all.";
        ServicesLeaseName services_lease_name: String as Kind::Text, default "plndr-svcs-lock",
            flags ["servicesLeaseName"], env ["svc_leasename"], file ["servicesLeaseName"],
            "Lease of the election for all Services, as `name` or `namespace/name`.";
        ServiceNamespace service_namespace: Option<String> as Kind::Text, default "",
            flags ["serviceNamespace"], env ["svc_namespace"], file ["serviceNamespace"],
            "Handle only Services of this namespace; also the namespace of generated manifests.";
        ClassOnly class_only: bool as Kind::Bool, default "false",
            flags ["lbClassOnly"], env ["lb_class_only"], file ["lbClassOnly"],
            "Ignore Services without a load balancer class.";
        ClassName class_name: String as Kind::TextOrNothing, default "kube-vip.io/kube-vip-class",
            flags ["lbClassName"], env ["lb_class_name"], file ["loadBalancerClassName", "lbClassName"],
            "The load balancer class to serve.";
        ClassLegacy class_legacy: bool as Kind::Bool, default "true",
            flags ["lbClassNameLegacyHandling"], env ["lb_class_legacy_handling"], file ["lbClassLegacyHandling"],
            "Serve Services without a class as well.";
        ServiceSecurity service_security: bool as Kind::Bool, default "false",
            flags ["onlyAllowTrafficServicePorts"], env ["enable_service_security"], file ["enableServiceSecurity"],
            "Drop traffic to a Service's address on ports that the Service does not have.";
        OnDemandElection on_demand_election: bool as Kind::Bool, default "false",
            flags ["perServiceElectionOnDemand"], env ["per_service_election_on_demand"], file ["perServiceElectionOnDemand"],
            "Elect a leader for each Service that requests it by annotation.";
        ServicesLocalElection services_local_election: bool as Kind::Bool, default "false",
            flags ["servicesLocalElection"], env ["svc_local_election"], file ["servicesLocalElection"],
            "With one election for all Services, elect a leader for each one with `externalTrafficPolicy: Local`, among the nodes with its endpoints; only where every agent is of this program and has it.";
        DisableServiceUpdates disable_service_updates: bool as Kind::Bool, default "false",
            flags ["disableServiceUpdates"], env ["disable_service_updates"], file ["disableServiceUpdates"],
            "Do not write status and annotations of Services.";
        EnableEndpoints enable_endpoints: bool as Kind::Bool, default "false",
            flags ["enableEndpoints", "!enableEndpointSlices"], env ["enable_endpoints"], file ["enableEndpoints"],
            "Watch Endpoints instead of EndpointSlices.";
        InfrastructureNamespaces infrastructure_namespaces: Vec<String> as Kind::List, default "kube-system",
            flags ["servicesInfrastructureNamespaces"], env ["svc_infrastructure_namespaces"], file ["servicesInfrastructureNamespaces"],
            "Namespaces whose Services may choose interfaces, VLANs, macvlans, hardware addresses and any Lease by annotation; `*`: all.";
        AllowedInterfaces allowed_interfaces: Vec<String> as Kind::List, default "",
            flags ["servicesAllowedInterfaces"], env ["svc_interfaces"], file ["servicesAllowedInterfaces"],
            "Interfaces that every Service may choose by annotation, beside the default one.";
        AllowedVlans allowed_vlans: Vec<String> as Kind::List, default "",
            flags ["servicesAllowedVlans"], env ["svc_vlans"], file ["servicesAllowedVlans"],
            "VLAN interfaces that every Service may choose by annotation, such as `eth0.200`.";
        AllowMacvlan allow_macvlan: bool as Kind::Bool, default "false",
            flags ["servicesAllowMacvlan"], env ["svc_macvlan"], file ["servicesAllowMacvlan"],
            "Every Service may have a macvlan interface by annotation.";
        AllowHardwareAddresses allow_hardware_addresses: bool as Kind::Bool, default "false",
            flags ["servicesAllowHardwareAddresses"], env ["svc_hwaddr"], file ["servicesAllowHardwareAddresses"],
            "Every Service may choose any hardware address for DHCP by annotation, not only those that agents of both programs generate.";
        AllowedLeases allowed_leases: Vec<String> as Kind::List, default "",
            flags ["servicesAllowedLeases"], env ["svc_lease_names"], file ["servicesAllowedLeases"],
            "Leases, as `namespace/name`, that every Service may be elected on by annotation, beside those of its namespace that begin with `kubevip-`.";
        AllowedAddresses allowed_addresses: Vec<String> as Kind::List, default "",
            flags ["servicesAllowedAddresses"], env ["svc_allowed_addresses"], file ["servicesAllowedAddresses"],
            "Networks from which Services may have addresses; empty: any.";
        ShareControlPlane share_control_plane: bool as Kind::Bool, default "false",
            flags ["servicesShareControlPlane"], env ["svc_share_control_plane"], file ["servicesShareControlPlane"],
            "Services may have the control plane's VIP, but never the API server's port on it.";
        ShareAddresses share_addresses: bool as Kind::Bool, default "false",
            flags ["servicesShareAddresses"], env ["svc_share_addresses"], file ["servicesShareAddresses"],
            "Services of several namespaces may have one address without a common sharing key, as the provider's `allow-share-…` gives it to them.";
        MaxAddresses max_addresses: u32 as Kind::Int(1, 1_000_000), default "8192",
            flags ["servicesMaxAddresses"], env ["svc_max_addresses"], file ["servicesMaxAddresses"],
            "Most addresses of all Services together; beyond, those that are not announced yet, the youngest first, lose addresses.";
        MaxLeases max_leases: u32 as Kind::Int(0, 1_000_000), default "64",
            flags ["servicesMaxLeases"], env ["svc_max_leases"], file ["servicesMaxLeases"],
            "Most DHCP leases of the Services of a namespace.";
        WithoutEndpoints without_endpoints: bool as Kind::Bool, default "false",
            flags ["servicesAllowWithoutEndpoints"], env ["svc_allow_without_endpoints"], file ["servicesAllowWithoutEndpoints"],
            "Announce Services with `externalTrafficPolicy: Cluster` although they have no ready endpoints, for clusters that create EndpointSlices only after a Service has its address; the annotation `kube-vip.io/allow-reconcile-without-endpoints` decides for one Service.";
        DebounceTime debounce_time: Duration as Kind::Duration, default "0s",
            flags ["debounceTime"], env ["debounce_time"], file ["debounceTime"],
            "Accepted for compatibility, without effect: changes of Services are collected while a plan is computed.";
        Upnp upnp: bool as Kind::Bool, default "false",
            flags [], env ["enable_upnp", "enableUPNP"], file ["enableUPNP"],
            "Map ports of the network's gateway by UPnP for Services that request it. Explicit `false` also overrides the cloud provider's `--upnp`.";
        UpnpPorts upnp_ports: Vec<String> as Kind::List, default "80,443,1024-65535",
            flags [], env ["upnp_ports"], file ["upnpPorts"],
            "Ports of the gateway that Services may open: ports and ranges.";
        UpnpStatus upnp_status: bool as Kind::Bool, default "true",
            flags [], env ["upnp_status"], file ["upnpStatus"],
            "Publish the gateway's external address in the status of Services with a port mapping.";
        ServicesMdns services_mdns: bool as Kind::Bool, default "false",
            flags ["servicesMdns"], env ["svc_mdns"], file ["servicesMdns"],
            "Publish a name for every Service in the local network (mDNS): `<service>-<namespace>.local`. A name of more than 63 bytes is cut and ends with a hash.";
        MirrorInterface mirror_interface: Option<String> as Kind::Text, default "",
            flags ["mirrorDestInterface"], env ["mirror_dest_interface"], file ["mirrorDestInterface"],
            "Mirror the traffic of the Services' interface to this interface.";
    }
    "Load balancer" {
        LoadBalancer load_balancer: bool as Kind::Bool, default "false",
            flags ["enableLoadBalancer"], env ["lb_enable"], file ["enableLoadBalancer"],
            "Balance control-plane connections over the API servers.";
        LoadBalancerPort load_balancer_port: u16 as Kind::Int(1, 65535), default "6443",
            flags ["lbPort"], env ["lb_port"], file ["loadBalancerPort", "lbPort"],
            "Port on the VIP for balanced connections.";
        LoadBalancerForwarding load_balancer_forwarding: Forwarding as Kind::OneOf(Forwarding::WORDS), default "local",
            flags ["lbForwardingMethod"], env ["lb_fwdmethod"], file ["loadBalancerForwardingMethod", "lbForwardingMethod"],
            "How balanced packets are forwarded.";
    }
    "BGP" {
        BgpAttach bgp_attach: bool as Kind::Bool, default "false",
            flags ["bgpAttachIPToInterface"], env ["bgp_attach_ip_to_interface"], file ["bgpAttachIPToInterface"],
            "Also add the addresses of Services to the interface.";
        BgpRouterId bgp_router_id: Option<String> as Kind::Text, default "",
            flags ["bgpRouterID"], env ["bgp_routerid"], file ["bgpConfig.routerID"],
            "Router ID, as an IPv4 address. Empty: the first IPv4 address of this host.";
        BgpRouterInterface bgp_router_interface: Option<String> as Kind::Text, default "",
            flags [], env ["bgp_routerinterface"], file ["bgpConfig.routerInterface"],
            "Interface whose first IPv4 address is the router ID.";
        BgpSourceIf bgp_source_if: Option<String> as Kind::Text, default "",
            flags ["sourceIF", "sourceif"], env ["bgp_sourceif"], file ["bgpConfig.sourceIF"],
            "Interface to bind sessions to; excludes a source address.";
        BgpSourceIp bgp_source_ip: Option<String> as Kind::Text, default "",
            flags ["sourceIP", "sourceip"], env ["bgp_sourceip"], file ["bgpConfig.sourceIP"],
            "Local address of sessions.";
        BgpAs bgp_as: u32 as Kind::Int(1, 4294967295), default "65000",
            flags ["localAS"], env ["bgp_as"], file ["bgpConfig.as"],
            "Local AS number.";
        BgpHoldTime bgp_hold_time: u16 as Kind::Int(0, 65535), default "30",
            flags ["bgpHoldTimer"], env ["bgp_hold_time"], file ["bgpConfig.holdTime"],
            "Hold time in seconds.";
        BgpKeepalive bgp_keepalive: u16 as Kind::Int(0, 65535), default "10",
            flags ["bgpKeepAliveInterval"], env ["bgp_keepalive_interval"], file ["bgpConfig.keepaliveInterval"],
            "Keepalive interval in seconds.";
        BgpPeerAddress bgp_peer_address: Option<String> as Kind::Text, default "",
            flags ["peerAddress"], env ["bgp_peeraddress"], file ["bgpConfig.peerAddress"],
            "Address of a single peer.";
        BgpPeerAs bgp_peer_as: u32 as Kind::Int(0, 4294967295), default "65000",
            flags ["peerAS"], env ["bgp_peeras"], file ["bgpConfig.peerAS"],
            "AS number of the single peer.";
        BgpPeerPass bgp_peer_pass: Option<String> as Kind::Secret, default "",
            flags ["peerPass"], env ["bgp_peerpass"], file ["bgpConfig.peerPass"],
            "MD5 password of the single peer.";
        BgpMultihop bgp_multihop: bool as Kind::Bool, default "false",
            flags ["multihop", "multiHop"], env ["bgp_multihop"], file ["bgpConfig.multihop"],
            "The single peer is more than one hop away.";
        BgpPeers bgp_peers: String as Kind::SecretList, default "",
            flags ["bgppeers"], env ["bgp_peers"], file ["bgpConfig.peers"],
            "Peers: `address:AS:password:multihop:port:mpbgp:bfd`, separated by commas.";
        BgpAnnotations bgp_annotations: Option<String> as Kind::Text, default "",
            flags ["annotations"], env ["annotation", "annotations"], file ["annotations"],
            "Prefix of the node annotations that hold the BGP configuration.";
        BgpProviderUrl bgp_provider_url: Option<String> as Kind::Url, default "",
            flags ["bgpProviderURL"], env ["bgp_provider_url"], file ["bgpConfig.provider.url"],
            "HTTPS URL of a JSON document with our AS and additional peers.";
        BgpProviderToken bgp_provider_token: Option<String> as Kind::Secret, default "",
            flags ["bgpProviderToken"], env ["bgp_provider_token"], file ["bgpConfig.provider.token"],
            "Token for the provider.";
        BgpProviderTokenFile bgp_provider_token_file: Option<String> as Kind::Text, default "",
            flags ["bgpProviderTokenFile"], env ["bgp_provider_token_file"], file ["bgpConfig.provider.tokenFile"],
            "File with the token for the provider, read before each request.";
        BgpProviderTokenHeader bgp_provider_token_header: String as Kind::Text, default "Authorization",
            flags ["bgpProviderTokenHeader"], env ["bgp_provider_token_header"], file ["bgpConfig.provider.tokenHeader"],
            "Header for the token; in `Authorization` it follows the word `Bearer`.";
        BgpProviderCa bgp_provider_ca: Option<String> as Kind::Text, default "",
            flags ["bgpProviderCAPath"], env ["bgp_provider_ca_path"], file ["bgpConfig.provider.caPath"],
            "File with an additional CA for the provider.";
        BgpProviderShape bgp_provider_shape: Vec<String> as Kind::List, default "equinix",
            flags ["bgpProviderShape"], env ["bgp_provider_shape"], file ["bgpConfig.provider.shape"],
            "Layout of the provider's document: `equinix`, or `field=JSON pointer` for fields elsewhere.";
        MpBgpNexthop mp_bgp_nexthop: NextHopMode as Kind::OneOf(NextHopMode::WORDS), default "",
            flags [], env ["mpbgp_nexthop"], file ["bgpConfig.mpbgpNexthop"],
            "Source of the next hop for the address family that a session does not use.";
        MpBgpIpv4 mp_bgp_ipv4: Option<String> as Kind::Text, default "",
            flags [], env ["mpbgp_ipv4"], file ["bgpConfig.mpbgpIPv4"],
            "Fixed IPv4 next hop.";
        MpBgpIpv6 mp_bgp_ipv6: Option<String> as Kind::Text, default "",
            flags [], env ["mpbgp_ipv6"], file ["bgpConfig.mpbgpIPv6"],
            "Fixed IPv6 next hop.";
        BgpRestartTime bgp_restart_time: u16 as Kind::Int(0, 4095), default "30",
            flags ["bgpGracefulRestartTime"], env ["bgp_graceful_restart_time"], file ["bgpConfig.gracefulRestartTime"],
            "Seconds for which peers keep our routes while kube-vip restarts, without election; 0: no graceful restart.";
        BgpListenPort bgp_listen_port: u16 as Kind::Int(1, 65535), default "179",
            flags ["bgpListenPort"], env ["bgp_listen_port"], file ["bgpConfig.listenPort"],
            "Port for connections from passive peers (`passive: true`).";
        BgpExternalIps bgp_external_ips: bool as Kind::Bool, default "false",
            flags ["bgpAdvertiseExternalIPs"], env ["bgp_advertise_external_ips"], file ["bgpConfig.advertiseExternalIPs"],
            "Advertise the externalIPs of Services.";
        BgpServiceCidrs bgp_service_cidrs: Vec<String> as Kind::List, default "",
            flags ["bgpAdvertiseServiceCIDRs"], env ["bgp_advertise_service_cidrs"], file ["bgpConfig.advertiseServiceCIDRs"],
            "Networks of cluster addresses to advertise: `auto` for the cluster's ServiceCIDRs, or networks.";
        BgpAggregates bgp_aggregates: Vec<String> as Kind::List, default "",
            flags ["bgpAggregates"], env ["bgp_aggregates"], file ["bgpConfig.aggregates"],
            "Networks to advertise while this node advertises an address in them.";
        Zebra zebra: bool as Kind::Bool, default "false",
            flags ["zebra"], env ["zebra_enable"], file ["bgpConfig.zebra.enabled"],
            "Rejected: kube-vip does not connect to zebra; use the routing-table mode.";
        ZebraUrl zebra_url: String as Kind::Text, default "unix:/var/run/frr/zserv.api",
            flags ["zebraUrl"], env ["zebra_url"], file ["bgpConfig.zebra.url"],
            "Socket of zebra; without effect.";
        ZebraVersion zebra_version: u32 as Kind::Int(0, 4294967295), default "6",
            flags ["zebraVersion"], env ["zebra_version"], file ["bgpConfig.zebra.version"],
            "Version of zebra's protocol; without effect.";
        ZebraSoftware zebra_software: String as Kind::Text, default "frr8.3",
            flags ["zebraSoftwareName"], env ["zebra_software_name"], file ["bgpConfig.zebra.softwareName"],
            "Software behind zebra; without effect.";
    }
    "Routing table" {
        TableId table_id: u32 as Kind::Int(0, 4294967295), default "198",
            flags ["tableID"], env ["vip_routingtableid"], file ["routingTableID"],
            "Routing table for the routes.";
        TableType table_type: u8 as Kind::Int(0, 255), default "1",
            flags ["tableType"], env ["vip_routingtabletype"], file ["routingTableType"],
            "Route type: 1 unicast, 2 local.";
        RoutingProtocol routing_protocol: u8 as Kind::Int(0, 255), default "248",
            flags ["routingProtocol"], env ["vip_routingprotocol"], file ["routingProtocol"],
            "Protocol number of our routes; 0 means 1.";
        RouteRealms route_realms: bool as Kind::Bool, default "false",
            flags ["routingRealms"], env ["vip_routingrealms"], file ["routingRealms"],
            "Replace the control plane's IPv4 routes after each health check interval, with another realm, for daemons that miss changes.";
        CleanRoutingTable clean_routing_table: bool as Kind::Bool, default "false",
            flags ["cleanRoutingTable"], env ["vip_cleanroutingtable"], file ["cleanRoutingTable"],
            "After the start, remove unknown routes of that table and protocol.";
    }
    "Egress" {
        EgressPodCidr egress_pod_cidr: Vec<String> as Kind::List, default "",
            flags [], env ["egress_podcidr"], file ["egressPodCidr"],
            "Pod networks that are exempt from egress.";
        EgressServiceCidr egress_service_cidr: Vec<String> as Kind::List, default "",
            flags [], env ["egress_servicecidr"], file ["egressServiceCidr"],
            "Service networks that are exempt from egress.";
        EgressInternalSnat egress_internal_snat: bool as Kind::Bool, default "false",
            flags [], env ["egress_enableinternalsnat"], file ["egressEnableInternalSNAT"],
            "Exempt these networks from egress in any case; the name, from the Go program, suggests the opposite.";
        EgressClean egress_clean: bool as Kind::Bool, default "false",
            flags [], env ["egress_clean", "EGRESS_CLEAN"], file ["egressClean"],
            "Remove our egress rules at start.";
        EgressNftables egress_nftables: bool as Kind::Bool, default "true",
            flags ["egressWithNftables"], env ["egress_withnftables"], file ["egressWithNftables"],
            "Use nftables for egress.";
        IptablesBackend iptables_backend: String as Kind::OneOf(&["", "nft", "legacy"]), default "",
            flags [], env ["iptables_backend"], file ["iptablesBackend"],
            "Variant of iptables for egress.";
    }
    "Process" {
        ConfigFile config_file: Option<String> as Kind::Text, default "",
            flags ["config-file"], env ["config_file"], file [],
            "A YAML or JSON file with any of these settings.";
        ConfigMap config_map: String as Kind::Text, default "plndr",
            flags ["configMap"], env ["vip_configmap"], file [],
            "Accepted for compatibility; without effect.";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_default_has_the_type_of_its_setting() {
        Values::read(Raw::default()).unwrap();
    }

    #[test]
    fn no_name_is_given_twice() {
        for names in
            [|s: &'static Setting| s.flags, |s: &'static Setting| s.env, |s: &'static Setting| s.file]
        {
            let mut known = HashSet::new();
            for name in SETTINGS.iter().flat_map(names) {
                assert!(known.insert(name), "{name} is given twice");
            }
        }
    }
}
