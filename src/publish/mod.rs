//! What this node writes to the cluster: the status of Services and the labels of its Node.

pub mod node_labels;
pub mod reporter;
pub mod status;
