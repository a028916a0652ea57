//! Which addresses a Service may have.

use std::net::IpAddr;

use super::super::plan::values::ClusterState;
use super::super::reserved::Refusal;
use crate::config::Policy;
use crate::model::service::Protocol;
use crate::model::{HostUse, ServiceKey, ServiceView};

/// Fails with the reason if the Service may not have the address.
pub fn check(
    policy: &Policy,
    state: &ClusterState,
    (key, view): (&ServiceKey, &ServiceView),
    address: IpAddr,
) -> Result<(), Refusal> {
    if state.vips.contains(&address) {
        let taken = view
            .ports
            .iter()
            .find(|(protocol, port)| *protocol == Protocol::Tcp && policy.api_ports.contains(port));
        return match taken {
            Some((_, port)) => Err(Refusal::ApiServer { address, port: *port }),
            None if policy.share_control_plane => Ok(()),
            None => Err(Refusal::ControlPlane(address)),
        };
    }
    state.reserved.check(address)?;
    match state.reserved.host_use(address) {
        None => {}
        // A name server of the cluster may serve the nodes, too.
        Some(HostUse::Resolver) if policy.infrastructure.contain(&key.namespace) => {}
        Some(usage) => return Err(Refusal::Host { address, usage }),
    }
    if policy.networks.is_empty() || policy.networks.iter().any(|network| network.contains(address)) {
        Ok(())
    } else {
        Err(Refusal::Outside(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Namespaces;
    use crate::planner::reserved::Reserved;

    const VIP: &str = "192.0.2.1";

    fn state() -> ClusterState {
        let reserved = Reserved {
            cluster: ["10.96.0.1".parse().unwrap()].into(),
            service_cidrs: ["10.97.0.0/16".parse().unwrap()].into(),
            ..Reserved::default()
        };
        ClusterState { vips: [VIP.parse().unwrap()].into(), reserved, ..ClusterState::default() }
    }

    fn on(ports: &[(Protocol, u16)]) -> ServiceView {
        ServiceView { ports: ports.to_vec(), ..ServiceView::default() }
    }

    fn check(
        policy: &Policy,
        state: &ClusterState,
        view: &ServiceView,
        address: IpAddr,
    ) -> Result<(), Refusal> {
        let key = ServiceKey { namespace: "shop".into(), name: "web".into() };
        super::check(policy, state, (&key, view), address)
    }

    #[test]
    fn what_the_hosts_need_is_not_for_services() {
        use HostUse::{ApiServer, BgpPeer, Gateway, Own, Resolver};
        let infrastructure =
            Policy { infrastructure: Namespaces::Named(["shop".into()].into()), ..Policy::default() };
        // Whether a Service has the address: by default; in an infrastructure namespace; if kube-vip announces it.
        for (usage, by_default, privileged, announced) in [
            (Own, false, false, true),
            (Gateway, false, false, false),
            (Resolver, false, true, true),
            (BgpPeer, false, false, false),
            (ApiServer, false, false, false),
        ] {
            let address = "192.0.2.9".parse().unwrap();
            let mut state = state();
            state.reserved.host_uses.insert(address, usage);
            let allowed =
                |policy: &Policy, state: &ClusterState| check(policy, state, &on(&[]), address).is_ok();
            assert_eq!(allowed(&Policy::default(), &state), by_default, "{usage}");
            assert_eq!(allowed(&infrastructure, &state), privileged, "{usage}");
            state.reserved.announced.insert(address);
            assert_eq!(allowed(&Policy::default(), &state), announced, "{usage}");
        }
    }

    #[test]
    fn the_control_planes_vip_is_shared_by_setting_and_never_its_port() {
        let vip: IpAddr = VIP.parse().unwrap();
        let default = Policy { api_ports: [6443].into(), ..Policy::default() };
        let sharing = Policy { share_control_plane: true, ..default.clone() };
        let web = on(&[(Protocol::Tcp, 80), (Protocol::Udp, 6443)]);
        assert_eq!(check(&default, &state(), &web, vip), Err(Refusal::ControlPlane(vip)));
        assert_eq!(check(&sharing, &state(), &web, vip), Ok(()));
        for policy in [default, sharing] {
            let api = on(&[(Protocol::Tcp, 80), (Protocol::Tcp, 6443)]);
            let refusal = Refusal::ApiServer { address: vip, port: 6443 };
            assert_eq!(check(&policy, &state(), &api, vip), Err(refusal));
        }
    }

    #[test]
    fn addresses_are_those_of_the_allowed_networks_and_of_no_service_inside() {
        let policy = Policy { networks: vec!["192.0.2.0/24".parse().unwrap()], ..Policy::default() };
        let check = |policy: &Policy, text: &str| check(policy, &state(), &on(&[]), text.parse().unwrap());
        assert_eq!(check(&policy, "192.0.2.9"), Ok(()));
        assert!(matches!(check(&policy, "198.51.100.9"), Err(Refusal::Outside(_))));
        assert_eq!(check(&Policy::default(), "198.51.100.9"), Ok(()));
        assert!(matches!(check(&Policy::default(), "10.96.0.1"), Err(Refusal::ClusterIp(_))));
        assert!(matches!(check(&Policy::default(), "10.97.0.1"), Err(Refusal::ServiceCidr { .. })));
    }
}
