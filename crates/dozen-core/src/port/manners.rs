//! How a deploy's requests are treated, besides being led to an instance.

use std::time::Duration;

/// One deploy's settings of the router; by default it does nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manners {
    /// Every request is answered with a page that says so: H80.
    pub maintenance: bool,
    /// Requests wait, as while a change is under way.
    pub paused: bool,
    /// What comes by plain HTTP is sent on to the router's HTTPS port.
    pub https_only: bool,
    /// How long browsers are told to come by HTTPS only (RFC 6797); `None` tells them nothing.
    pub hsts: Option<Duration>,
    /// The address of what is shown where the app cannot answer: config var `ERROR_PAGE_URL`, as on Heroku.
    pub error_page: Option<String>,
    /// The same during maintenance: `MAINTENANCE_PAGE_URL`.
    pub maintenance_page: Option<String>,
    /// So many requests at a time are sent to one instance; `None`: as many as come.
    pub concurrency: Option<u32>,
    /// So many more wait for their turn; beyond that H11.
    pub queue: u32,
    /// Who comes to the same release again while there are several.
    pub sticky: Sticky,
}

/// By what a client is known again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sticky {
    /// It is not: each request is led by the weights alone.
    #[default]
    No,
    /// A cookie of the router's, which names the release.
    Cookie,
    /// The value of this header: equal values lead to one release.
    Header(String),
}
