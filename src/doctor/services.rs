//! Queries DHCP servers, gateways and DNS servers that the settings need.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use super::{Check, HostReadings, Severity};
use crate::config::{Config, UpnpPolicy, VipTarget};
use crate::dhcp::discover;
use crate::dhcp::fsm::Server;
use crate::model::{Family, Interface, PerFamily};
use crate::upnp::gateway;

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn checks(config: &Config, host: &HostReadings) -> Vec<Check> {
    let interface = host.interface.as_ref().and_then(|name| host.state.interface(name)).filter(|it| it.up);
    let mut checks = names(config).await;
    if let Some(interface) = interface {
        let leased = config.dhcp.control_plane.iter().flat_map(|dhcp| &dhcp.families);
        for family in leased.filter(|_| !host.running) {
            let found = discover::servers(&host.state, interface, *family).await;
            checks.push(dhcp(&interface.name, *family, found));
        }
        checks.extend(port_mappings(config, host, interface).await);
    }
    checks
}

fn dhcp(
    interface: &str,
    family: Family,
    found: std::io::Result<BTreeSet<(Server, Option<String>)>>,
) -> Check {
    let check = |severity, text| Check::new("dhcp", severity, text);
    let protocol = match family {
        Family::V4 => "DHCP",
        Family::V6 => "DHCPv6",
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            return check(Severity::Skipped, format!("cannot query {protocol} servers: {error}"));
        }
    };
    if let Some((server, _)) = found.iter().find(|(_, why)| why.is_none()) {
        return check(Severity::Ok, format!("the {protocol} server {server} offers an address"));
    }
    let text = match found.iter().next() {
        Some((server, why)) => format!(
            "the {protocol} server {server} offers no address on {interface} ({}): enlarge its pool, or set the VIP in `address`",
            why.as_deref().unwrap_or_default()
        ),
        None => format!(
            "no {protocol} server on {interface} offers an address to a client that it does not know: check that there is one, that \
             switches pass its replies, and that its pool has free addresses or a reservation for kube-vip"
        ),
    };
    check(Severity::Warning, text)
}

/// Services open ports with the policy for all of them; the provider's permissions are in annotations.
async fn port_mappings(config: &Config, host: &HostReadings, interface: &Interface) -> Option<Check> {
    if config.services.is_none() || config.upnp.policy != UpnpPolicy::Always {
        return None;
    }
    let [v4, v6] = Family::BOTH.map(|family| host.state.routable_address(interface.index, family));
    let own = PerFamily { v4, v6 };
    let found = gateway::search(own, interface.index).await;
    let check = |severity, text| Some(Check::new("port-mappings", severity, text));
    let addresses: BTreeSet<String> = found.iter().map(|gateway| gateway.address().to_string()).collect();
    if addresses.is_empty() {
        let text = format!(
            "no gateway replies to a search by UPnP on {}: enable UPnP on the router, or set enable_upnp=false",
            interface.name
        );
        return check(Severity::Warning, text);
    }
    check(
        Severity::Ok,
        format!("the gateway {} offers port mappings", addresses.into_iter().collect::<Vec<_>>().join(", ")),
    )
}

/// The DHCP server registers its name with the lease; before that it does not resolve.
async fn names(config: &Config) -> Vec<Check> {
    let published = config.dhcp.control_plane.as_ref().and_then(|dhcp| dhcp.name.as_ref());
    let names = config.targets.iter().filter_map(|target| match target {
        VipTarget::Name(name) => Some(name).filter(|name| Some(*name) != published),
        VipTarget::Ip(_) => None,
    });
    let resolve = async |name: &String| {
        let check = |severity, text| Check::new("name", severity, text);
        let found = timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name.as_str(), 0))).await;
        let found = found.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match found.map(|mut found| found.next()) {
            Ok(Some(_)) => check(Severity::Ok, format!("{name} has an address")),
            Ok(None) => check(
                Severity::Error,
                format!("{name} has no address: create a record in the DNS or in /etc/hosts"),
            ),
            Err(error) => check(
                Severity::Error,
                format!(
                    "{name} does not resolve ({error}): check that the DNS server answers, and that it or /etc/hosts has the name"
                ),
            ),
        }
    };
    join_all(names.map(resolve)).await
}
