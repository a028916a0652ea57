//! What a Service may ask for, whatever the source of a request (annotation, spec, status, DHCP, DNS). Pure.
//!
//! `annotations` takes requests for infrastructure out of a Service before anything else reads them, `addresses` decides on
//! each address, `owners` on addresses that several Services ask for, `limits` on how many there may be. `admission` has the
//! rules on annotations for the API server.

pub mod addresses;
pub mod admission;
pub mod annotations;
pub mod limits;
pub mod owners;
