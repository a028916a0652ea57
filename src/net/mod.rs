//! System interfaces: clock, netlink, nf_tables, sockets. The only folder with `unsafe`.

pub mod clock;
pub mod https;
mod kernel_socket;
pub mod machine;
pub mod netlink;
pub mod nft;
pub mod packet_socket;
mod sys;
pub mod sysctl;
pub mod tcp;
pub mod thread;
pub mod udp;

pub use sys::raise_descriptor_limit;
