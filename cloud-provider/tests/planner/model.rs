//! Against a naive allocator, with everything happening in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use kube_vip::model::Family::V4;
use kube_vip::model::ServiceView;
use kube_vip::model::service::Protocol;
use proptest::prelude::*;

use crate::store::{Store, service};

/// Pools by their first and last number behind 10.0.0.0, so that some cross the end of a 256.
const POOLS: [(u32, u32); 4] = [(250, 262), (254, 258), (1, 6), (255, 256)];

#[derive(Debug, Clone)]
enum Act {
    Create(u8),
    Delete(u8),
    Touch(u8),
    Pool(usize),
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..24_u8).prop_map(Act::Create),
        4 => (0..24_u8).prop_map(Act::Delete),
        1 => (0..24_u8).prop_map(Act::Touch),
        1 => (0..POOLS.len()).prop_map(Act::Pool),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 0..80)
}

fn config(pool: usize) -> String {
    let (first, last) = POOLS[pool];
    format!("{}-{}", address(first), address(last))
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

/// Everybody in a list, oldest first; each gets the lowest address that nobody has.
#[derive(Default)]
struct Naive {
    services: Vec<(u8, Option<u32>)>,
    pool: usize,
}

impl Naive {
    fn settle(&mut self) {
        for index in 0..self.services.len() {
            if self.services[index].1.is_none() {
                let taken: BTreeSet<u32> = self.services.iter().filter_map(|(_, number)| *number).collect();
                let (first, last) = POOLS[self.pool];
                let usable = |number: &u32| !matches!(number & 0xff, 0 | 0xff) && !taken.contains(number);
                self.services[index].1 = (first..=last).find(usable);
            }
        }
    }
}

proptest! {
    // A failure prints its input; it is kept as a test of its own, not in a file.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_answers_as_a_naive_allocator(acts in acts()) {
        let mut store = Store::new(&[("range-global", &config(0))]);
        let mut naive = Naive::default();
        for act in acts {
            match act {
                Act::Create(number) => {
                    if naive.services.iter().all(|(other, _)| *other != number) {
                        naive.services.push((number, None));
                        store.put(&number.to_string(), service(&[V4]));
                    }
                }
                Act::Delete(number) => {
                    naive.services.retain(|(other, _)| *other != number);
                    store.delete(&number.to_string());
                }
                Act::Touch(number) => {
                    if naive.services.iter().any(|(other, _)| *other == number) {
                        store.edit(&number.to_string(), |view| drop(view.labels.insert("x".into(), "y".into())));
                    }
                }
                Act::Pool(pool) => {
                    naive.pool = pool;
                    store.configure(&[("range-global", &config(pool))]);
                }
                Act::Restart => store.restart(),
            }
            naive.settle();
            for (number, expected) in &naive.services {
                let expected = expected.map_or(String::new(), |number| address(number).to_string());
                prop_assert_eq!(store.addresses(&number.to_string()), expected, "Service {}", number);
            }
        }
    }

    /// With sharing, requests and ports that change: no two Services ever have one address and one port.
    #[test]
    fn no_port_of_an_address_is_given_twice(
        acts in prop::collection::vec((0..12_u8, 0..6_u8, 0..4_u16, any::<bool>()), 0..120)
    ) {
        let mut store = Store::new(&[("range-global", "10.0.0.1-10.0.0.4"), ("allow-share-global", "true")]);
        for (number, act, port, flag) in acts {
            let name = number.to_string();
            let known = store.services.contains_key(&crate::store::key(&name));
            let ports = vec![(Protocol::Tcp, 1 + port)];
            match act {
                0 => store.delete(&name),
                1 if known => store.edit(&name, |view| view.ports = ports),
                2 if known => store.edit(&name, |view| {
                    view.load_balancer_ip = flag.then(|| format!("10.0.0.{}", 1 + port));
                }),
                3 if known => store.edit(&name, |view| view.load_balancer = flag),
                4 => store.restart(),
                _ if known => {}
                _ => store.put(&name, ServiceView { ports, ..service(&[V4]) }),
            }
            let mut seen: BTreeMap<(IpAddr, (Protocol, u16)), String> = BTreeMap::new();
            for (key, view) in store.services.iter().filter(|(_, view)| view.load_balancer) {
                for held in store.planner.ipam().held(key) {
                    for port in &view.ports {
                        let other = seen.insert((held, *port), key.to_string());
                        prop_assert_eq!(other, None, "{} has {} and port {:?}, too", key, held, port);
                    }
                }
            }
        }
    }
}
