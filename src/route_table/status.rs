//! The routing table's part of `kube-vip status`.

use serde::{Deserialize, Serialize};

/// The routes of this process. Other agents on the host leave them alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// The number of the table.
    pub table: u32,
    /// Prefixes.
    pub routes: Vec<String>,
    /// There are no others: Services are listed, and the elections decided.
    pub complete: bool,
}
