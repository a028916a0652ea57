//! The commands `pools` and `check`: pools and their usage, waiting Services, and problems of the ConfigMap.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Service};
use kube::api::ListParams;
use kube_vip::model::node::{self, NodeView};
use kube_vip::model::{Family, service};
use kube_vip::planner::reserved::Reserved;
use serde::Serialize;
use tokio::time::timeout;

use crate::cli::Options;
use crate::controller::api;
use crate::plan::{Action, Planner, ServiceState};
use crate::pools::{Pools, Problem};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Access(#[from] kube_vip::cluster::SourceError),
    #[error("{0} did not respond in time")]
    Timeout(String),
    #[error("{what}: {source}")]
    Api { what: String, source: kube::Error },
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is no ConfigMap: {why}")]
    Parse { path: String, why: String },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    pub pools: Vec<PoolUsage>,
    /// Services without an address.
    pub waiting: Vec<Waiting>,
    /// Problems of the ConfigMap.
    pub problems: Vec<String>,
}

/// One family of a pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolUsage {
    /// The namespace, or `global`.
    pub pool: String,
    pub keys: Vec<String>,
    /// IPv4 or IPv6.
    pub family: String,
    /// Addresses that are allocated without a request; None with addresses from a DHCP server.
    pub size: Option<u128>,
    pub used: u128,
    /// Services that wait for an address.
    pub waiting: usize,
}

/// A Service without an address.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waiting {
    /// Namespace and name.
    pub service: String,
    pub pool: Option<String>,
    /// The family of the missing address, if it is a single one.
    pub family: Option<String>,
    pub reason: String,
}

impl Overview {
    /// Plans without writing.
    pub fn of(mut planner: Planner, problems: &[Problem]) -> Self {
        // The usage before the planner allocates anything.
        let pools = pool_usage(&planner);
        let mut unallocated = BTreeSet::new();
        loop {
            let actions = planner.next_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                if let Action::Write { key, patch } = action
                    && patch
                        .annotations
                        .keys()
                        .any(|name| *name == kube_vip::model::annotation::LOAD_BALANCER_IPS)
                {
                    unallocated.insert(key);
                }
            }
        }
        let mut waiting = Vec::new();
        for (key, state) in planner.states() {
            let (reason, family) = match state {
                ServiceState::Waiting(reason) => (reason.to_string(), reason.family()),
                ServiceState::Allocated(_) if unallocated.contains(key) => {
                    let reason = "an address is available: is a kube-vip-cloud-provider running, and does it hold its \
                                  Lease?";
                    (reason.to_owned(), None)
                }
                _ => continue,
            };
            let pool = planner.pools().of(&key.namespace).ok().map(|(_, pool)| pool.name.clone());
            let family = family.map(|family| family.to_string());
            waiting.push(Waiting { service: key.to_string(), pool, family, reason });
        }
        let pools = pools.into_iter().map(|mut pool| {
            let here = |wait: &&Waiting| {
                wait.pool.as_ref() == Some(&pool.pool)
                    && wait.family.as_ref().is_none_or(|family| *family == pool.family)
            };
            pool.waiting = waiting.iter().filter(here).count();
            pool
        });
        Self { pools: pools.collect(), waiting, problems: problems.iter().map(ToString::to_string).collect() }
    }

    /// As a table.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut rows = vec![["POOL", "FAMILY", "SIZE", "USED", "FREE", "WAITING", "KEYS"].map(str::to_owned)];
        for pool in &self.pools {
            let size = pool.size.map_or_else(|| "DHCP".to_owned(), |size| size.to_string());
            let free =
                pool.size.map_or_else(|| "-".to_owned(), |size| size.saturating_sub(pool.used).to_string());
            rows.push([
                pool.pool.clone(),
                pool.family.clone(),
                size,
                pool.used.to_string(),
                free,
                pool.waiting.to_string(),
                pool.keys.join(", "),
            ]);
        }
        table(&mut text, &rows);
        if !self.waiting.is_empty() {
            text.push_str("\nWaiting:\n");
            let rows: Vec<_> =
                self.waiting.iter().map(|wait| [wait.service.clone(), wait.reason.clone()]).collect();
            table(&mut text, &rows);
        }
        if !self.problems.is_empty() {
            text.push_str("\nThe ConfigMap:\n");
            let rows: Vec<_> = self.problems.iter().map(|problem| [problem.clone()]).collect();
            table(&mut text, &rows);
        }
        text
    }
}

/// Appends rows with columns as wide as their widest cell.
fn table<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let _infallible = write!(line, "{cell:<width$}  ", width = width(column));
        }
        let _infallible = writeln!(text, "{}", line.trim_end());
    }
}

fn pool_usage(planner: &Planner) -> Vec<PoolUsage> {
    let mut usage = Vec::new();
    for (id, pool) in planner.pools().pools.iter().enumerate() {
        for family in Family::BOTH.into_iter().filter(|family| pool.addresses.serves(*family)) {
            let (size, used) = planner.ipam().usage(id, family);
            usage.push(PoolUsage {
                pool: pool.name.clone(),
                keys: pool.keys.clone(),
                family: family.to_string(),
                size: (!pool.addresses.by_dhcp(family)).then_some(size),
                used,
                waiting: 0,
            });
        }
    }
    usage
}

/// Reads pools and Services from the cluster.
pub async fn cluster(options: &Options) -> Result<Overview, InspectError> {
    let api = api(options).client().await?;
    let fetched = timeout(REQUEST_TIMEOUT, fetch(api.client, options));
    fetched.await.map_err(|_elapsed| InspectError::Timeout(api.server))?
}

async fn fetch(client: kube::Client, options: &Options) -> Result<Overview, InspectError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| InspectError::Api { what, source }
    };
    let all = ListParams::default();
    let (namespace, name) = &options.config_map;
    let maps = kube::Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let map = maps.get_opt(name).await.map_err(failed(&format!("ConfigMap {namespace}/{name}")))?;
    let nodes = kube::Api::<Node>::all(client.clone()).list(&all).await.map_err(failed("nodes"))?;
    let services = kube::Api::<Service>::all(client.clone()).list(&all).await.map_err(failed("services"))?;
    let namespaces = kube::Api::<Namespace>::all(client).list(&all).await.map_err(failed("namespaces"))?;

    let missing = map.is_none();
    let data = map.and_then(|map| map.data).unwrap_or_default();
    let (pools, mut problems) = Pools::parse(&data, &Pools::default());
    if missing {
        let text = "the ConfigMap does not exist".to_owned();
        problems.push(Problem { key: format!("{namespace}/{name}"), text, fatal: true });
    }
    let existing = namespaces.items.into_iter().filter_map(|namespace| namespace.metadata.name).collect();
    problems.extend(pools.without_namespace(Some(&existing)));
    let mut planner = Planner::new(options.class.clone());
    planner.set_pools(pools);
    let nodes: Vec<NodeView> = nodes.items.into_iter().filter_map(node::view).collect();
    let services: Vec<_> = services.items.into_iter().filter_map(service::view).collect();
    let announced = services.iter().flat_map(|(_, view)| view.announced_in_status());
    planner.set_reserved(Reserved::new(&nodes, None).announcing(announced));
    planner.reset(services);
    Ok(Overview::of(planner, &problems))
}

/// Reads pools from a ConfigMap in a file. The flag is true if a pool is invalid.
///
/// # Errors
/// If the file cannot be read, or is no ConfigMap.
pub fn file(path: &str) -> Result<(Overview, bool), InspectError> {
    let read = match path {
        "-" => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(path),
    };
    let text = read.map_err(|source| InspectError::Read { path: path.to_owned(), source })?;
    check(&text).map_err(|why| InspectError::Parse { path: path.to_owned(), why })
}

fn check(text: &str) -> Result<(Overview, bool), String> {
    let map: ConfigMap = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let data = map.data.ok_or("it has no `data`")?;
    let (pools, mut problems) = Pools::parse(&data, &Pools::default());
    problems.extend(pools.without_namespace(None));
    let fatal = problems.iter().any(|problem| problem.fatal);
    let mut planner = Planner::default();
    planner.set_pools(pools);
    Ok((Overview::of(planner, &problems), fatal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_file_is_printed_as_a_table() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: kubevip }\ndata:\n  cidr-global: 192.0.2.0/29,fd00::/64\n  range-lab: dhcp\n";
        let (overview, fatal) = check(text).unwrap();
        assert!(!fatal);
        assert_eq!(
            overview.to_text(),
            "POOL    FAMILY  SIZE                  USED  FREE                  WAITING  KEYS\n\
             lab     IPv4    DHCP                  0     -                     0        range-lab\n\
             lab     IPv6    DHCP                  0     -                     0        range-lab\n\
             global  IPv4    7                     0     7                     0        cidr-global\n\
             global  IPv6    18446744073709551616  0     18446744073709551616  0        cidr-global\n"
        );
    }

    #[test]
    fn suspicious_values_and_namespaces_are_warnings() {
        let text = "data:\n  cidr-global: 192.0.2.17/28\n  range-global: 192.0.2.20-192.0.2.40\n  range-globl: 127.0.0.1\n  \
                    allow-share-golbal: \"true\"\n  range-local: 10.0.0.1\n";
        let (overview, fatal) = check(text).unwrap();
        let expected = [
            "cidr-global: `192.0.2.17/28` stands for the whole network, 192.0.2.16-192.0.2.31",
            "range-global: has 192.0.2.20-192.0.2.31 in common with cidr-global",
            "range-globl: `127.0.0.1` has loopback addresses",
            "range-globl: concerns a namespace globl alone; did you mean `global`?",
            "allow-share-golbal: concerns a namespace golbal alone; did you mean `global`?",
        ];
        assert!(!fatal);
        assert_eq!(overview.problems.len(), expected.len(), "{overview:?}");
        for part in expected {
            assert!(
                overview.problems.iter().any(|problem| problem.starts_with(part)),
                "{part}: {overview:?}"
            );
        }
    }

    #[test]
    fn problems_are_reported_and_an_invalid_pool_is_fatal() {
        let (overview, fatal) =
            check("data:\n  cidr-lab: 192.0.2.0/33\n  cird-global: 192.0.2.0/24\n").unwrap();
        assert!(fatal);
        assert!(overview.problems[0].contains("cidr-lab: `192.0.2.0/33`"), "{overview:?}");
        assert!(overview.problems[1].contains("did you mean"), "{overview:?}");
        assert!(check("data: 5").is_err() && check("kind: ConfigMap").is_err());
    }
}
