//! Address conflict detection (RFC 5227, RFC 4862 §5.4).

pub mod detector;
pub mod probe;
