//! Certificates, as they go over the API.

use serde::{Deserialize, Serialize};

/// `certs`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Certs {
    /// Those that were added, the latest first.
    pub(crate) certificates: Vec<Cert>,
    /// The names that the local authority certifies while the deploy runs.
    pub(crate) local: Vec<String>,
    /// The domains that no certificate is for.
    pub(crate) without: Vec<String>,
    /// Where it answers by HTTPS, while it does.
    pub(crate) https_url: Option<String>,
}

/// One of them; `certs add` answers with it.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Cert {
    /// Its number.
    pub(crate) id: i64,
    /// The host names that it is for: `shop.example.com`, `*.example.com`.
    pub(crate) names: Vec<String>,
    /// `file` or `acme`.
    pub(crate) source: String,
    /// Who issued it, for people.
    pub(crate) issuer: String,
    /// RFC 3339, UTC.
    pub(crate) not_before: String,
    /// RFC 3339, UTC.
    pub(crate) not_after: String,
    /// Whole days until then; below 0 it has expired.
    pub(crate) days_left: i64,
    /// The deploy's domains that it is for.
    pub(crate) domains: Vec<String>,
    /// Who added it.
    pub(crate) created_by: String,
}

/// `certs add`
#[derive(Serialize, Deserialize)]
pub(crate) struct AddCert {
    /// PEM, the server's own certificate first.
    pub(crate) chain: String,
    /// PEM.
    pub(crate) key: String,
}

/// `certs remove`
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RemoveCert {
    /// Its number, or one of its names.
    pub(crate) which: String,
}

/// `certs ca`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LocalAuthority {
    /// The file with its certificate, PEM.
    pub(crate) certificate: String,
}
