//! VII. Export services via port binding.
//! A route leads a host name, or a path below it, to the instances of a deploy's `web`. The table is immutable and swapped whole; the lookup is there, pure.

mod domain;
pub mod framing;
mod manners;
mod network;
pub mod site;
mod table;
pub mod tally;
pub mod trial;

use crate::ids::{DeployRef, Version};

pub use domain::{Domain, InvalidDomain};
pub use manners::{ERROR_PAGE, Front, InvalidSticky, MAINTENANCE_PAGE, Manners, Sticky, bad_pages};
pub use network::{InvalidNetwork, Network};
pub use table::{RouteTable, lower};

/// The ports that instances get, one each. Linux hands out ephemeral ports from 32768.
pub const INSTANCES: std::ops::Range<u16> = 20_000..32_000;

/// One deploy's place in the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whose.
    pub deploy: DeployRef,
    /// What is there to send requests to.
    pub web: Web,
    /// How its requests are treated.
    pub manners: Manners,
}

/// The `web` of a deploy, as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Web {
    /// These instances take requests.
    Ready(Vec<Backend>),
    /// Instances were started and none listens yet: requests wait, then H20.
    Starting,
    /// A change stopped the instances and their successors are not there yet: requests wait, then H80.
    Held,
    /// All have crashed: H10.
    Crashed,
    /// The formation has no `web`: H14.
    None,
}

/// One instance that takes requests, on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `web.1`, for log lines.
    pub instance: String,
    /// Where it listens.
    pub port: u16,
    /// What it runs.
    pub release: Version,
    /// The part of the requests that its release gets, relative to the other releases.
    pub weight: u32,
}
