//! The planner against a naive allocator, with random changes in random order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use kube_vip::model::Family::V4;
use kube_vip::model::ServiceView;
use kube_vip::model::service::Protocol;
use proptest::prelude::*;

use crate::store::{Store, service};

/// The first and last offset of pools from 10.0.0.0; some of them cross a multiple of 256.
const POOLS: [(u32, u32); 4] = [(250, 262), (254, 258), (1, 6), (255, 256)];

#[derive(Debug, Clone)]
enum Change {
    Create(u8),
    Delete(u8),
    Touch(u8),
    Pool(usize),
    Restart,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => (0..24_u8).prop_map(Change::Create),
        4 => (0..24_u8).prop_map(Change::Delete),
        1 => (0..24_u8).prop_map(Change::Touch),
        1 => (0..POOLS.len()).prop_map(Change::Pool),
        1 => Just(Change::Restart),
    ];
    prop::collection::vec(change, 0..80)
}

fn config(pool: usize) -> String {
    let (first, last) = POOLS[pool];
    format!("{}-{}", address(first), address(last))
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

/// A list of Services, oldest first. Each gets the lowest free address.
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
    // A failing input becomes a test of its own, not an entry in a file.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn allocations_equal_those_of_a_naive_allocator(changes in changes()) {
        let mut store = Store::new(&[("range-global", &config(0))]);
        let mut naive = Naive::default();
        for change in changes {
            match change {
                Change::Create(number) => {
                    if naive.services.iter().all(|(other, _)| *other != number) {
                        naive.services.push((number, None));
                        store.put(&number.to_string(), service(&[V4]));
                    }
                }
                Change::Delete(number) => {
                    naive.services.retain(|(other, _)| *other != number);
                    store.delete(&number.to_string());
                }
                Change::Touch(number) => {
                    if naive.services.iter().any(|(other, _)| *other == number) {
                        store.edit(&number.to_string(), |view| drop(view.labels.insert("x".into(), "y".into())));
                    }
                }
                Change::Pool(pool) => {
                    naive.pool = pool;
                    store.configure(&[("range-global", &config(pool))]);
                }
                Change::Restart => store.restart(),
            }
            naive.settle();
            for (number, expected) in &naive.services {
                let expected = expected.map_or(String::new(), |number| address(number).to_string());
                prop_assert_eq!(store.addresses(&number.to_string()), expected, "Service {}", number);
            }
        }
    }

    /// With sharing, requests and changing ports, no two Services have the same address and port.
    #[test]
    fn no_port_of_an_address_is_allocated_twice(
        changes in prop::collection::vec((0..12_u8, 0..6_u8, 0..4_u16, any::<bool>()), 0..120)
    ) {
        let mut store = Store::new(&[("range-global", "10.0.0.1-10.0.0.4"), ("allow-share-global", "true")]);
        for (number, change, port, flag) in changes {
            let name = number.to_string();
            let known = store.services.contains_key(&crate::store::key(&name));
            let ports = vec![(Protocol::Tcp, 1 + port)];
            match change {
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
            let mut users: BTreeMap<(IpAddr, (Protocol, u16)), String> = BTreeMap::new();
            for (key, view) in store.services.iter().filter(|(_, view)| view.load_balancer) {
                for held in store.planner.ipam().held(key) {
                    for port in &view.ports {
                        let other = users.insert((held, *port), key.to_string());
                        prop_assert_eq!(other, None, "{} has {} and port {:?}, too", key, held, port);
                    }
                }
            }
        }
    }
}
