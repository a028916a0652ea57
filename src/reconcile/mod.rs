//! Makes the host as desired, and keeps it so.

pub mod diff;
