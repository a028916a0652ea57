//! The edge of the machine: the kernel's clock, netlink, packet sockets. The only place with `unsafe`.

pub mod clock;
pub mod https;
pub mod netlink;
pub mod nft;
pub mod packet_socket;
mod sys;
pub mod sysctl;
pub mod tcp;
pub mod udp;
