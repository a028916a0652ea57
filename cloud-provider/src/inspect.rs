//! `pools` and `check`: what the pools are, how full, who waits, and what is wrong with the ConfigMap.

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
use crate::plan::{Planner, State, Step};
use crate::pools::{Pools, Problem};

const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no access to a cluster.
    #[error(transparent)]
    Access(#[from] kube_vip::cluster::SourceError),
    /// The API server does not answer.
    #[error("{0} does not answer in time")]
    Silence(String),
    /// It answers something else.
    #[error("{what}: {source}")]
    Api {
        /// What was asked for.
        what: String,
        /// What it says.
        source: kube::Error,
    },
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It holds no ConfigMap.
    #[error("{path} is no ConfigMap: {why}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// Pools, and who waits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// The pools.
    pub pools: Vec<PoolUse>,
    /// Services without an address.
    pub waiting: Vec<Waiting>,
    /// What is wrong with the ConfigMap.
    pub problems: Vec<String>,
}

/// One family of a pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolUse {
    /// The namespace it is for, or `global`.
    pub pool: String,
    /// The keys that make it.
    pub keys: Vec<String>,
    /// IPv4 or IPv6.
    pub family: String,
    /// Addresses that can be given without being asked for; none where a DHCP server gives them.
    pub size: Option<u128>,
    /// Addresses in use.
    pub used: u128,
    /// Services that wait for one.
    pub waiting: usize,
}

/// A Service without an address.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waiting {
    /// Namespace and name.
    pub service: String,
    /// Its pool, if it has one.
    pub pool: Option<String>,
    /// The family it misses, if it is one.
    pub family: Option<String>,
    /// Why it waits.
    pub reason: String,
}

impl Overview {
    /// What a planner makes of the cluster. Nothing is written.
    pub fn of(mut planner: Planner, problems: &[Problem]) -> Self {
        // How full the pools are, before the planner decides what is to be given next.
        let uses = pool_uses(&planner);
        let mut unserved = BTreeSet::new();
        loop {
            let steps = planner.next_steps();
            if steps.is_empty() {
                break;
            }
            for step in steps {
                if let Step::Write { key, patch } = step
                    && patch
                        .annotations
                        .keys()
                        .any(|name| *name == kube_vip::model::annotation::LOAD_BALANCER_IPS)
                {
                    unserved.insert(key);
                }
            }
        }
        let mut waiting = Vec::new();
        for (key, state) in planner.states() {
            let (reason, family) = match state {
                State::Waiting(reason) => (reason.to_string(), reason.family()),
                State::Served(_) if unserved.contains(key) => {
                    let reason = "there is an address for it: is a kube-vip-cloud-provider running, and does it hold \
                                  its Lease?";
                    (reason.to_owned(), None)
                }
                _ => continue,
            };
            let pool = planner.pools().of(&key.namespace).ok().map(|(_, pool)| pool.name.clone());
            let family = family.map(|family| family.to_string());
            waiting.push(Waiting { service: key.to_string(), pool, family, reason });
        }
        let pools = uses.into_iter().map(|mut pool| {
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

/// Columns as wide as their widest cell, the last as it is.
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

fn pool_uses(planner: &Planner) -> Vec<PoolUse> {
    let mut uses = Vec::new();
    for (id, pool) in planner.pools().pools.iter().enumerate() {
        for family in Family::BOTH.into_iter().filter(|family| pool.addresses.serves(*family)) {
            let (size, used) = planner.ipam().fill(id, family);
            uses.push(PoolUse {
                pool: pool.name.clone(),
                keys: pool.keys.clone(),
                family: family.to_string(),
                size: (!pool.addresses.by_dhcp(family)).then_some(size),
                used,
                waiting: 0,
            });
        }
    }
    uses
}

/// Look at the cluster.
///
/// # Errors
/// If it cannot be asked.
pub async fn cluster(options: &Options) -> Result<Overview, InspectError> {
    let chosen = api(options).client().await?;
    let asked = timeout(PATIENCE, look(chosen.client, options));
    asked.await.map_err(|_| InspectError::Silence(chosen.server))?
}

async fn look(client: kube::Client, options: &Options) -> Result<Overview, InspectError> {
    let wrong = |what: &str| {
        let what = what.to_owned();
        move |source| InspectError::Api { what, source }
    };
    let all = ListParams::default();
    let (namespace, name) = &options.config_map;
    let maps = kube::Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let map = maps.get_opt(name).await.map_err(wrong(&format!("ConfigMap {namespace}/{name}")))?;
    let nodes = kube::Api::<Node>::all(client.clone()).list(&all).await.map_err(wrong("nodes"))?;
    let services = kube::Api::<Service>::all(client.clone()).list(&all).await.map_err(wrong("services"))?;
    let namespaces = kube::Api::<Namespace>::all(client).list(&all).await.map_err(wrong("namespaces"))?;

    let missing = map.is_none();
    let data = map.and_then(|map| map.data).unwrap_or_default();
    let (pools, mut problems) = Pools::parse(&data, &Pools::default());
    if missing {
        let text = "there is no such ConfigMap".to_owned();
        problems.push(Problem { key: format!("{namespace}/{name}"), text, fatal: true });
    }
    let existing = namespaces.items.into_iter().filter_map(|namespace| namespace.metadata.name).collect();
    problems.extend(pools.without_namespace(&existing));
    let mut planner = Planner::new(options.class.clone());
    planner.set_pools(pools);
    let nodes: Vec<NodeView> = nodes.items.into_iter().filter_map(node::view).collect();
    planner.set_reserved(Reserved::new(&nodes, None));
    planner.reset(services.items.into_iter().filter_map(service::view));
    Ok(Overview::of(planner, &problems))
}

/// What a ConfigMap in a file amounts to, and whether a pool in it cannot be used.
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
    let (pools, problems) = Pools::parse(&data, &Pools::default());
    let fatal = problems.iter().any(|problem| problem.fatal);
    let mut planner = Planner::default();
    planner.set_pools(pools);
    Ok((Overview::of(planner, &problems), fatal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_is_shown_as_a_table() {
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
    fn what_is_wrong_is_told_and_a_broken_pool_fails() {
        let (overview, fatal) =
            check("data:\n  cidr-lab: 192.0.2.0/33\n  cird-global: 192.0.2.0/24\n").unwrap();
        assert!(fatal);
        assert!(overview.problems[0].contains("cidr-lab: `192.0.2.0/33`"), "{overview:?}");
        assert!(overview.problems[1].contains("did you mean"), "{overview:?}");
        assert!(check("data: 5").is_err() && check("kind: ConfigMap").is_err());
    }
}
