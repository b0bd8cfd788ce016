//! Certificates, as they go over the API.

use serde::{Deserialize, Serialize};

/// `certs`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Certs {
    /// Those that were added, the latest first.
    pub(crate) certificates: Vec<Cert>,
    /// The names that the local authority certifies while the deploy runs.
    pub(crate) local: Vec<String>,
    /// The domains that no certificate is for.
    pub(crate) without: Vec<String>,
    /// Whom they are asked of, where that is done by dozen.
    #[serde(default)]
    pub(crate) auto: Option<Automatic>,
    /// Where it answers by HTTPS, while it does.
    pub(crate) https_url: Option<String>,
}

/// One of them; `certs add` answers with it.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
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

/// An authority that certificates are ordered from.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Automatic {
    /// Its directory's URL.
    pub(crate) directory: String,
    /// Where it may write to.
    pub(crate) email: Option<String>,
    /// The last orders that came to nothing.
    pub(crate) failures: Vec<FailedOrder>,
}

/// An order that came to nothing.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct FailedOrder {
    /// Of this name.
    pub(crate) host: String,
    /// Why, for people.
    pub(crate) why: String,
    /// When the next is made; RFC 3339, UTC.
    pub(crate) again_at: String,
}

/// `certs auto`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct AutoCerts {
    /// The authority's directory; `null`: nobody is asked any more.
    pub(crate) directory: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) agree_tos: bool,
    /// PEM.
    pub(crate) root: Option<String>,
    /// `http-01`, `tls-alpn-01`.
    pub(crate) challenge: Option<String>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Automated {
    /// Whom certificates are asked of from now on; `null`: nobody.
    pub(crate) directory: Option<String>,
    /// The names that they are asked for.
    pub(crate) hosts: Vec<String>,
    /// The domains that an authority cannot certify so: wildcards, and names that the Internet does not know.
    pub(crate) others: Vec<String>,
}

/// `certs add`
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct AddCert {
    /// PEM, the server's own certificate first.
    pub(crate) chain: String,
    /// PEM.
    pub(crate) key: String,
}

/// `certs remove`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveCert {
    /// Its number, or one of its names.
    pub(crate) which: String,
}

/// `certs ca`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct LocalAuthority {
    /// The file with its certificate, PEM.
    pub(crate) certificate: String,
}
