//! Every setting: its names as flag, environment variable and file key, its type, default and meaning.
//!
//! This table is the one place that knows them. The command line, the environment, the file, the documentation
//! and `kube-vip config` are derived from it. Names and defaults are those of the Go program, v1.2.3; names that
//! its documentation uses and its code does not are accepted beside them.

/// What a setting accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `1 t T TRUE true True` and `0 f F FALSE false False`, as Go reads them.
    Bool,
    /// Any text.
    Text,
    /// Any text, and the empty one means something.
    TextOrNothing,
    /// Text that is never shown.
    Secret,
    /// A list whose entries may hold secrets, separated by commas.
    SecretList,
    /// A whole number from the first to the second.
    Int(i64, i64),
    /// One of these words, in any case.
    OneOf(&'static [&'static str]),
    /// Texts separated by commas.
    List,
    /// A duration as Go writes it: `300ms`, `1m30s`.
    Duration,
    /// An http or https URL.
    Url,
    /// A JSON object of strings.
    JsonMap,
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Which one.
    pub key: Key,
    /// Flags without dashes, ours first. A leading `!` marks one with the opposite sense.
    pub flags: &'static [&'static str],
    /// Environment variables, ours first.
    pub env: &'static [&'static str],
    /// Keys in the configuration file, ours first; a dot descends into a map.
    pub file: &'static [&'static str],
    /// What it accepts.
    pub kind: Kind,
    /// The default, as it would be typed.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// The part of the documentation it belongs to.
    pub section: &'static str,
}

/// Writes the enum and the table from one list, so that they cannot disagree.
macro_rules! settings {
    ($($section:literal { $(
        $key:ident: $kind:expr, default $default:literal,
        flags $flags:tt, env $env:tt, file $file:tt,
        $help:literal;
    )* })*) => {
        /// Names a setting in code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key {
            $($(#[doc = $help] $key,)*)*
        }

        /// All of them, in the order of [`Key`].
        pub static SETTINGS: &[Setting] = &[
            $($(Setting {
                key: Key::$key, flags: &$flags, env: &$env, file: &$file,
                kind: $kind, default: $default, help: $help, section: $section,
            },)*)*
        ];
    };
}

impl Key {
    /// The setting of this name.
    #[expect(clippy::indexing_slicing, reason = "one macro writes both the enum and the table")]
    pub fn setting(self) -> &'static Setting {
        &SETTINGS[self as usize]
    }

    /// The environment variable, where there is one; else the flag.
    pub fn name(self) -> &'static str {
        let setting = self.setting();
        setting.env.first().or(setting.flags.first()).copied().unwrap_or_default()
    }
}

settings! {
    "Address" {
        Interface: Kind::Text, default "",
            flags ["interface"], env ["vip_interface"], file ["interface"],
            "Interface that carries the VIP. Empty: the interface of the default route.";
        ServicesInterface: Kind::Text, default "",
            flags ["serviceInterface", "servicesInterface"], env ["vip_servicesinterface"], file ["servicesInterface"],
            "Interface for the addresses of Services; `auto` picks the interface whose subnet contains the address.";
        AllowInterfaceNotUp: Kind::Bool, default "false",
            flags ["allowInterfaceNotUp"], env ["vip_allow_interface_not_up"], file ["allowInterfaceNotUp"],
            "Start although an interface is down, and hold on to the VIP while it is.";
        Address: Kind::Text, default "",
            flags ["address"], env ["address"], file ["address"],
            "The VIP: an IP address, a DNS name, or several separated by commas.";
        VipAddress: Kind::Text, default "",
            flags ["vip"], env ["vip_address"], file ["vip", "vipAddress"],
            "Deprecated name of `address`.";
        VipSubnet: Kind::Text, default "",
            flags ["vipSubnet"], env ["vip_subnet"], file ["vipSubnet"],
            "Prefix length of the VIP without a slash: `32`, `128`, or `32,128` for IPv4 and IPv6. Empty: a host route.";
        NodeName: Kind::Text, default "",
            flags ["nodeName"], env ["vip_nodename"], file ["nodeName", "leaseNodeName"],
            "This node's name in Leases, labels and Events. Empty: the hostname. Always in lower case.";
        Port: Kind::Int(1, 65535), default "6443",
            flags ["port"], env ["port"], file ["port"],
            "Port of the API server.";
        DnsMode: Kind::OneOf(&["first", "ipv4", "ipv6", "dual"]), default "first",
            flags ["dnsMode"], env ["dns_mode"], file ["dnsMode", "dnsDualStackMode"],
            "Which addresses of a DNS name are used: the first, the first of a family, or the first of each.";
        Ddns: Kind::Bool, default "false",
            flags ["ddns"], env ["vip_ddns"], file ["ddns"],
            "Get the address for the name in `address` by DHCP.";
        DhcpMode: Kind::OneOf(&["", "ipv4", "ipv6", "dual"]), default "",
            flags ["dhcpMode"], env ["dhcp_mode"], file ["dhcpMode", "dhcpDualStackMode"],
            "Families to ask DHCP for. Empty: follows `dns_mode`.";
        DhcpBackoffAttempts: Kind::Int(0, 4294967295), default "3",
            flags ["dhcpBackoffAttempts"], env ["dhcp_backoff_attempts"], file ["dhcpBackoffAttempts"],
            "Rounds of questions after which a DHCP server that never answers is asked every five minutes; 0 asks every minute for ever.";
        Mdns: Kind::Text, default "",
            flags ["mdns"], env ["vip_mdns"], file ["mdns"],
            "Name of the control plane in the local network (mDNS), such as `k8s.local`.";
        LoGlobalScope: Kind::Bool, default "false",
            flags ["loInterfaceGlobalScope"], env ["vip_interfaceloglobal"], file ["loInterfaceGlobalScope"],
            "On `lo`, give the VIP global instead of host scope.";
        SkipDad: Kind::Bool, default "false",
            flags ["skipDAD"], env ["vip_skipdad"], file ["skipDAD"],
            "Do not probe for a free IPv6 address before it is used for the first time.";
        ArpRate: Kind::Int(0, 3600000), default "0",
            flags ["arpRate"], env ["vip_arpRate"], file ["arpBroadcastRate"],
            "Milliseconds between announcements of a VIP that is held; 0 announces in a burst and then every 60 s.";
        PreserveVip: Kind::Bool, default "false",
            flags ["preserveVipOnLeadershipLoss"], env ["vip_preserve_on_leadership_loss"], file ["preserveVIPOnLeadershipLoss"],
            "After a lost claim, leave the IPv4 VIP on the interface, silently, until the kernel's lifetime for it ends.";
        LoseLeadership: Kind::Bool, default "false",
            flags ["loseLeadership"], env ["vip_loseleadership"], file ["loseLeadership"],
            "Give up the VIP when its interface has been down for a while, whoever else may be better.";
        LoseLeadershipTimeout: Kind::Int(0, 86400), default "30",
            flags ["loseLeadershiptTimeoutSeconds", "loseLeadershipTimeoutSeconds"], env ["vip_loseleadership_timeout_seconds"], file ["loseLeadershipTimeoutSeconds"],
            "Seconds an interface may be down before `vip_loseleadership` acts.";
    }
    "Mode" {
        Arp: Kind::Bool, default "false",
            flags ["arp", "enableARP"], env ["vip_arp"], file ["enableARP"],
            "Announce by ARP and NDP.";
        Bgp: Kind::Bool, default "false",
            flags ["bgp", "enableBGP"], env ["bgp_enable"], file ["enableBGP"],
            "Announce by BGP.";
        RoutingTable: Kind::Bool, default "false",
            flags ["table"], env ["vip_routingtable"], file ["enableRoutingTable"],
            "Announce by the routing table.";
        Wireguard: Kind::Bool, default "false",
            flags ["wireguard"], env ["vip_wireguard"], file ["enableWireguard"],
            "Announce through WireGuard tunnels.";
        ControlPlane: Kind::Bool, default "false",
            flags ["controlplane"], env ["cp_enable"], file ["enableControlPlane"],
            "Hold a VIP for the control plane.";
        Services: Kind::Bool, default "false",
            flags ["services"], env ["svc_enable"], file ["enableServices"],
            "Announce Services of type LoadBalancer.";
        Namespace: Kind::Text, default "kube-system",
            flags ["namespace"], env ["cp_namespace"], file ["namespace"],
            "Namespace of the Leases, unless their names say otherwise or a service account has one.";
        InstanceName: Kind::Text, default "",
            flags ["instanceName"], env ["instance_name", "INSTANCE_NAME"], file ["instanceName"],
            "Tells several instances on one host apart.";
    }
    "Election" {
        LeaderElection: Kind::Bool, default "false",
            flags ["leaderElection"], env ["vip_leaderelection"], file ["enableLeaderElection"],
            "Elect also where the mode does without: the control plane by BGP, Services by routing table.";
        LeaderElectionType: Kind::OneOf(&["kubernetes", "etcd"]), default "kubernetes",
            flags ["leaderElectionType"], env ["vip_leaderelectiontype"], file ["leaderElectionType"],
            "Where the election is held.";
        LeaseName: Kind::Text, default "plndr-cp-lock",
            flags ["leaseName"], env ["vip_leasename"], file ["leaseName"],
            "Lease of the control plane; may be `namespace/name`.";
        LeaseDuration: Kind::Int(1, 3600), default "15",
            flags ["leaseDuration"], env ["vip_leaseduration"], file ["leaseDuration"],
            "Seconds that others stay away after the holder's last renewal.";
        RenewDeadline: Kind::Int(1, 3600), default "10",
            flags ["leaseRenewDuration"], env ["vip_renewdeadline"], file ["renewDeadline"],
            "Seconds that the holder acts on its last renewal.";
        RetryPeriod: Kind::Int(1, 3600), default "2",
            flags ["leaseRetry"], env ["vip_retryperiod"], file ["retryPeriod"],
            "Seconds from one renewal to the next.";
        LeaseAnnotations: Kind::JsonMap, default "",
            flags ["leaseAnnotations"], env ["vip_leaseannotations"], file ["leaseAnnotations"],
            "Annotations for the control plane's Lease, as a JSON object of strings.";
        EtcdCaCert: Kind::Text, default "",
            flags ["etcdCACert"], env ["etcd_ca_cert"], file ["etcd.caFile"],
            "CA of the etcd servers, for an election in etcd.";
        EtcdCert: Kind::Text, default "",
            flags ["etcdCert"], env ["etcd_cert"], file ["etcd.clientCertFile"],
            "Client certificate for etcd.";
        EtcdKey: Kind::Text, default "",
            flags ["etcdKey"], env ["etcd_key"], file ["etcd.clientKeyFile"],
            "Client key for etcd.";
        EtcdEndpoints: Kind::List, default "",
            flags ["etcdEndpoints"], env ["etcd_endpoints"], file ["etcd.endpoints"],
            "Addresses of the etcd servers.";
        SingleNode: Kind::Bool, default "false",
            flags [], env ["vip_singlenode"], file ["singleNode"],
            "Accepted for compatibility; without effect.";
        StartLeader: Kind::Bool, default "false",
            flags [], env ["vip_startleader"], file ["startAsLeader"],
            "Accepted for compatibility; without effect.";
    }
    "API server" {
        Kubeconfig: Kind::Text, default "/etc/kubernetes/admin.conf",
            flags ["k8sConfigPath"], env ["k8s_config_file"], file ["k8sConfigFile"],
            "Kubeconfig to use, and the host's file that a generated manifest mounts.";
        KubernetesAddr: Kind::Text, default "",
            flags [], env ["kubernetes_addr"], file ["kubernetesAddr"],
            "Address or URL of the API server, instead of the one in the kubeconfig.";
        DetectControlPlane: Kind::Bool, default "false",
            flags ["autodetectcp"], env ["cp_detect"], file ["detectControlPlane"],
            "Reach the local API server by the first of this host's addresses that answers and stands in its certificate.";
        HealthAddress: Kind::Url, default "",
            flags ["controlPlaneHealthCheckAddress"], env ["control_plane_health_check_address"], file ["controlPlaneHealthCheck.address"],
            "URL to judge the local API server by. Empty: its own /livez.";
        HealthPeriod: Kind::Int(0, 86400), default "5",
            flags ["controlPlaneHealthCheckPeriodSeconds"], env ["control_plane_health_check_period_seconds"], file ["controlPlaneHealthCheck.periodSeconds"],
            "Seconds between checks, where a URL is given; without one it is every 250 ms.";
        HealthTimeout: Kind::Int(1, 3600), default "3",
            flags ["controlPlaneHealthCheckTimeoutSeconds"], env ["control_plane_health_check_timeout_seconds"], file ["controlPlaneHealthCheck.timeoutSeconds"],
            "Seconds a check may take, where a URL is given.";
        HealthThreshold: Kind::Int(1, 1000), default "3",
            flags ["controlPlaneHealthCheckFailureThreshold"], env ["control_plane_health_check_failure_threshold"], file ["controlPlaneHealthCheck.failureThreshold"],
            "Failed checks in a row that count as down, where a URL is given.";
        HealthCa: Kind::Text, default "",
            flags ["controlPlaneHealthCheckCAPath"], env ["control_plane_health_check_ca_path"], file ["controlPlaneHealthCheck.caPath"],
            "File with a further CA for the URL.";
        BackendHealthInterval: Kind::Int(1, 3600), default "5",
            flags [], env ["backend_health_check_interval"], file ["backendHealthCheckInterval"],
            "Seconds between checks of IPVS backends, and of the API server in routing-table mode.";
        NodeLabeling: Kind::Bool, default "false",
            flags ["enableNodeLabeling"], env ["enable_node_labeling"], file ["enableNodeLabeling"],
            "Label the node that holds an address.";
    }
    "Telemetry" {
        LogLevel: Kind::Int(-8, 8), default "0",
            flags ["log"], env ["vip_loglevel"], file ["logging"],
            "-4 debug, 0 info, 4 warnings, 8 errors.";
        LogFormat: Kind::OneOf(&["text", "json"]), default "text",
            flags ["logFormat"], env ["vip_logformat"], file ["logFormat"],
            "How log lines are written.";
        MetricsAddress: Kind::TextOrNothing, default ":2112",
            flags ["prometheusHTTPServer"], env ["prometheus_server"], file ["prometheusHTTPServer"],
            "Where metrics are served; empty turns them off.";
        HealthPort: Kind::Int(0, 65535), default "0",
            flags ["healthCheckPort"], env ["health_check_port"], file ["healthCheckPort"],
            "Port of /healthz and /readyz, 1024 or above; 0 turns it off.";
    }
    "Services" {
        ServicesElection: Kind::Bool, default "false",
            flags ["servicesElection"], env ["svc_election"], file ["enableServicesElection"],
            "One election per Service.";
        ServicesElectionGroups: Kind::Int(0, 1024), default "0",
            flags ["servicesElectionGroups"], env ["svc_election_groups"], file ["servicesElectionGroups"],
            "Spread Services over this many elections, by their addresses; 0 holds one for all of them.";
        ServicesLeaseName: Kind::Text, default "plndr-svcs-lock",
            flags ["servicesLeaseName"], env ["svc_leasename"], file ["servicesLeaseName"],
            "Lease of the election for all Services; may be `namespace/name`.";
        ServiceNamespace: Kind::Text, default "",
            flags ["serviceNamespace"], env ["svc_namespace"], file ["serviceNamespace"],
            "Only Services of this namespace; also the namespace of generated manifests.";
        ClassOnly: Kind::Bool, default "false",
            flags ["lbClassOnly"], env ["lb_class_only"], file ["lbClassOnly"],
            "Ignore Services without a load balancer class.";
        ClassName: Kind::TextOrNothing, default "kube-vip.io/kube-vip-class",
            flags ["lbClassName"], env ["lb_class_name"], file ["loadBalancerClassName", "lbClassName"],
            "The load balancer class to serve.";
        ClassLegacy: Kind::Bool, default "true",
            flags ["lbClassNameLegacyHandling"], env ["lb_class_legacy_handling"], file ["lbClassLegacyHandling"],
            "Serve Services without a class, too.";
        ServiceSecurity: Kind::Bool, default "false",
            flags ["onlyAllowTrafficServicePorts"], env ["enable_service_security"], file ["enableServiceSecurity"],
            "Drop traffic to a Service's address on other ports than its own.";
        OnDemandElection: Kind::Bool, default "false",
            flags ["perServiceElectionOnDemand"], env ["per_service_election_on_demand"], file ["perServiceElectionOnDemand"],
            "One election for each Service that asks for it by annotation.";
        DisableServiceUpdates: Kind::Bool, default "false",
            flags ["disableServiceUpdates"], env ["disable_service_updates"], file ["disableServiceUpdates"],
            "Do not write the status and annotations of Services.";
        EnableEndpoints: Kind::Bool, default "false",
            flags ["enableEndpoints", "!enableEndpointSlices"], env ["enable_endpoints"], file ["enableEndpoints"],
            "Follow Endpoints instead of EndpointSlices.";
        DebounceTime: Kind::Duration, default "0s",
            flags ["debounceTime"], env ["debounce_time"], file ["debounceTime"],
            "How long changes of Services are collected before they are acted on.";
        Upnp: Kind::Bool, default "false",
            flags [], env ["enable_upnp", "enableUPNP"], file ["enableUPNP"],
            "Open ports of the network's gateway by UPnP for Services that ask for it; said to be `false`, not even for \
             those that the cloud provider lets.";
        UpnpStatus: Kind::Bool, default "true",
            flags [], env ["upnp_status"], file ["upnpStatus"],
            "Show the gateway's outer address in the status of a Service to which it leads.";
        ServicesMdns: Kind::Bool, default "false",
            flags ["servicesMdns"], env ["svc_mdns"], file ["servicesMdns"],
            "Give every Service a name in the local network (mDNS), `<service>-<namespace>.local`.";
        MirrorInterface: Kind::Text, default "",
            flags ["mirrorDestInterface"], env ["mirror_dest_interface"], file ["mirrorDestInterface"],
            "Mirror the traffic of the Service interface to this one.";
    }
    "Load balancer" {
        LoadBalancer: Kind::Bool, default "false",
            flags ["enableLoadBalancer"], env ["lb_enable"], file ["enableLoadBalancer"],
            "Spread control-plane connections over the API servers.";
        LoadBalancerPort: Kind::Int(1, 65535), default "6443",
            flags ["lbPort"], env ["lb_port"], file ["loadBalancerPort", "lbPort"],
            "Port on the VIP for it.";
        LoadBalancerForwarding: Kind::OneOf(&["local", "masquerade", "tunnel", "directroute", "bypass"]), default "local",
            flags ["lbForwardingMethod"], env ["lb_fwdmethod"], file ["loadBalancerForwardingMethod", "lbForwardingMethod"],
            "How its packets are forwarded.";
    }
    "BGP" {
        BgpAttach: Kind::Bool, default "false",
            flags ["bgpAttachIPToInterface"], env ["bgp_attach_ip_to_interface"], file ["bgpAttachIPToInterface"],
            "Put the addresses of Services on the interface, too.";
        BgpRouterId: Kind::Text, default "",
            flags ["bgpRouterID"], env ["bgp_routerid"], file ["bgpConfig.routerID"],
            "Router ID.";
        BgpRouterInterface: Kind::Text, default "",
            flags [], env ["bgp_routerinterface"], file ["bgpConfig.routerInterface"],
            "Take the router ID from this interface's first address.";
        BgpSourceIf: Kind::Text, default "",
            flags ["sourceIF", "sourceif"], env ["bgp_sourceif"], file ["bgpConfig.sourceIF"],
            "Interface to bind sessions to; not together with a source address.";
        BgpSourceIp: Kind::Text, default "",
            flags ["sourceIP", "sourceip"], env ["bgp_sourceip"], file ["bgpConfig.sourceIP"],
            "Local address of sessions.";
        BgpAs: Kind::Int(1, 4294967295), default "65000",
            flags ["localAS"], env ["bgp_as"], file ["bgpConfig.as"],
            "Local AS number.";
        BgpHoldTime: Kind::Int(0, 65535), default "30",
            flags ["bgpHoldTimer"], env ["bgp_hold_time"], file ["bgpConfig.holdTime"],
            "Hold time in seconds.";
        BgpKeepalive: Kind::Int(0, 65535), default "10",
            flags ["bgpKeepAliveInterval"], env ["bgp_keepalive_interval"], file ["bgpConfig.keepaliveInterval"],
            "Keepalive interval in seconds.";
        BgpPeerAddress: Kind::Text, default "",
            flags ["peerAddress"], env ["bgp_peeraddress"], file ["bgpConfig.peerAddress"],
            "Address of a single peer.";
        BgpPeerAs: Kind::Int(0, 4294967295), default "65000",
            flags ["peerAS"], env ["bgp_peeras"], file ["bgpConfig.peerAS"],
            "AS number of the single peer.";
        BgpPeerPass: Kind::Secret, default "",
            flags ["peerPass"], env ["bgp_peerpass"], file ["bgpConfig.peerPass"],
            "MD5 password of the single peer.";
        BgpMultihop: Kind::Bool, default "false",
            flags ["multihop", "multiHop"], env ["bgp_multihop"], file ["bgpConfig.multihop"],
            "The single peer is more than one hop away.";
        BgpPeers: Kind::SecretList, default "",
            flags ["bgppeers"], env ["bgp_peers"], file ["bgpConfig.peers"],
            "Peers: `address:AS:password:multihop:port:mpbgp:bfd`, separated by commas.";
        BgpAnnotations: Kind::Text, default "",
            flags ["annotations"], env ["annotation", "annotations"], file ["annotations"],
            "Prefix of the node annotations that hold the BGP configuration.";
        BgpProviderUrl: Kind::Url, default "",
            flags ["bgpProviderURL"], env ["bgp_provider_url"], file ["bgpConfig.provider.url"],
            "HTTPS URL that tells our AS and further peers, as JSON.";
        BgpProviderToken: Kind::Secret, default "",
            flags ["bgpProviderToken"], env ["bgp_provider_token"], file ["bgpConfig.provider.token"],
            "Token for it.";
        BgpProviderTokenFile: Kind::Text, default "",
            flags ["bgpProviderTokenFile"], env ["bgp_provider_token_file"], file ["bgpConfig.provider.tokenFile"],
            "File with the token, read each time.";
        BgpProviderTokenHeader: Kind::Text, default "Authorization",
            flags ["bgpProviderTokenHeader"], env ["bgp_provider_token_header"], file ["bgpConfig.provider.tokenHeader"],
            "Header that the token goes into; in `Authorization`, `Bearer` stands before it.";
        BgpProviderCa: Kind::Text, default "",
            flags ["bgpProviderCAPath"], env ["bgp_provider_ca_path"], file ["bgpConfig.provider.caPath"],
            "File with a further CA for it.";
        BgpProviderShape: Kind::List, default "equinix",
            flags ["bgpProviderShape"], env ["bgp_provider_shape"], file ["bgpConfig.provider.shape"],
            "Where things stand in its answer: `equinix`, or `field=JSON pointer` for what stands elsewhere.";
        MpBgpNexthop: Kind::OneOf(&["", "fixed", "auto_sourceip", "auto_sourceif"]), default "",
            flags [], env ["mpbgp_nexthop"], file ["bgpConfig.mpbgpNexthop"],
            "Where the next hop of the other family comes from.";
        MpBgpIpv4: Kind::Text, default "",
            flags [], env ["mpbgp_ipv4"], file ["bgpConfig.mpbgpIPv4"],
            "Fixed IPv4 next hop.";
        MpBgpIpv6: Kind::Text, default "",
            flags [], env ["mpbgp_ipv6"], file ["bgpConfig.mpbgpIPv6"],
            "Fixed IPv6 next hop.";
        BgpRestartTime: Kind::Int(0, 4095), default "30",
            flags ["bgpGracefulRestartTime"], env ["bgp_graceful_restart_time"], file ["bgpConfig.gracefulRestartTime"],
            "Seconds for which peers keep our routes while kube-vip restarts, where nothing is elected; 0 turns it off.";
        BgpListenPort: Kind::Int(1, 65535), default "179",
            flags ["bgpListenPort"], env ["bgp_listen_port"], file ["bgpConfig.listenPort"],
            "Port for peers that connect to us (`passive: true`).";
        BgpExternalIps: Kind::Bool, default "false",
            flags ["bgpAdvertiseExternalIPs"], env ["bgp_advertise_external_ips"], file ["bgpConfig.advertiseExternalIPs"],
            "Announce the externalIPs of Services, too.";
        BgpServiceCidrs: Kind::List, default "",
            flags ["bgpAdvertiseServiceCIDRs"], env ["bgp_advertise_service_cidrs"], file ["bgpConfig.advertiseServiceCIDRs"],
            "Announce the networks of cluster addresses: `auto` for the cluster's ServiceCIDRs, or networks.";
        BgpAggregates: Kind::List, default "",
            flags ["bgpAggregates"], env ["bgp_aggregates"], file ["bgpConfig.aggregates"],
            "Networks that are announced while this node announces an address in them.";
        Zebra: Kind::Bool, default "false",
            flags ["zebra"], env ["zebra_enable"], file ["bgpConfig.zebra.enabled"],
            "Hand routes to FRR's zebra.";
        ZebraUrl: Kind::Text, default "unix:/var/run/frr/zserv.api",
            flags ["zebraUrl"], env ["zebra_url"], file ["bgpConfig.zebra.url"],
            "Where zebra listens.";
        ZebraVersion: Kind::Int(0, 4294967295), default "6",
            flags ["zebraVersion"], env ["zebra_version"], file ["bgpConfig.zebra.version"],
            "Version of zebra's protocol.";
        ZebraSoftware: Kind::Text, default "frr8.3",
            flags ["zebraSoftwareName"], env ["zebra_software_name"], file ["bgpConfig.zebra.softwareName"],
            "Name of the software behind it.";
    }
    "Routing table" {
        TableId: Kind::Int(0, 4294967295), default "198",
            flags ["tableID"], env ["vip_routingtableid"], file ["routingTableID"],
            "Routing table for the routes.";
        TableType: Kind::Int(0, 255), default "1",
            flags ["tableType"], env ["vip_routingtabletype"], file ["routingTableType"],
            "Route type; 1 is unicast, 2 local.";
        RoutingProtocol: Kind::Int(0, 255), default "248",
            flags ["routingProtocol"], env ["vip_routingprotocol"], file ["routingProtocol"],
            "Protocol number that marks our routes; 0 means 1.";
        RouteRealms: Kind::Bool, default "false",
            flags ["routingRealms"], env ["vip_routingrealms"], file ["routingRealms"],
            "Put the control plane's IPv4 routes there again after each health check interval, with another realm, for daemons that miss changes.";
        CleanRoutingTable: Kind::Bool, default "false",
            flags ["cleanRoutingTable"], env ["vip_cleanroutingtable"], file ["cleanRoutingTable"],
            "Remove unknown routes of that table and protocol after the start.";
    }
    "Egress" {
        EgressPodCidr: Kind::List, default "",
            flags [], env ["egress_podcidr"], file ["egressPodCidr"],
            "Pod networks that egress leaves alone.";
        EgressServiceCidr: Kind::List, default "",
            flags [], env ["egress_servicecidr"], file ["egressServiceCidr"],
            "Service networks that egress leaves alone.";
        EgressInternalSnat: Kind::Bool, default "false",
            flags [], env ["egress_enableinternalsnat"], file ["egressEnableInternalSNAT"],
            "See the egress documentation of the Go program.";
        EgressClean: Kind::Bool, default "false",
            flags [], env ["egress_clean", "EGRESS_CLEAN"], file ["egressClean"],
            "Remove our egress rules at the start.";
        EgressNftables: Kind::Bool, default "true",
            flags ["egressWithNftables"], env ["egress_withnftables"], file ["egressWithNftables"],
            "Use nftables.";
        IptablesBackend: Kind::OneOf(&["", "nft", "legacy"]), default "",
            flags [], env ["iptables_backend"], file ["iptablesBackend"],
            "Which iptables to use.";
    }
    "Process" {
        ConfigFile: Kind::Text, default "",
            flags ["config-file"], env ["config_file"], file [],
            "A YAML or JSON file with any of these settings.";
        ConfigMap: Kind::Text, default "plndr",
            flags ["configMap"], env ["vip_configmap"], file [],
            "Accepted for compatibility; without effect.";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

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
