//! What goes over a server's own routes.

use serde::{Deserialize, Serialize};

/// `GET /v1/account`, `whoami`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Account {
    /// Who one is.
    pub(crate) user: String,
    /// Whether one looks after the platform.
    pub(crate) admin: bool,
    /// The server's version of dozen.
    pub(crate) server: String,
    /// Where its API answers; nowhere but here where no server runs.
    pub(crate) url: Option<String>,
    /// Where git is answered by SSH: `ssh://dozen@dozen.example.com`.
    #[serde(default)]
    pub(crate) ssh: Option<String>,
}

/// `apps`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Apps {
    /// Those that one may see.
    pub(crate) apps: Vec<App>,
}

/// An app.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct App {
    /// `shop`
    pub(crate) name: String,
    /// All of them.
    pub(crate) deploys: Vec<Deploy>,
}

/// A deploy of an app.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Deploy {
    /// `shop/production`
    pub(crate) name: String,
    /// Whether this server runs it.
    pub(crate) serving: bool,
    /// The release that serves, or would: `v12`.
    pub(crate) release: Option<String>,
    /// Where its `web` answers.
    pub(crate) url: Option<String>,
    /// And where by HTTPS.
    pub(crate) https_url: Option<String>,
    /// When it is destroyed.
    pub(crate) expires: Option<String>,
    /// The branch that it is for.
    pub(crate) branch: Option<String>,
}

/// `apps create`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApp {
    /// `shop`
    pub(crate) name: String,
}

/// `deploys create`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateDeploy {
    /// `staging`
    pub(crate) name: String,
    /// The deploy whose config and formation it begins with.
    #[serde(default)]
    pub(crate) from: Option<String>,
    /// It is destroyed after so long.
    #[serde(default)]
    pub(crate) ttl_seconds: Option<u64>,
    /// The branch that it is for.
    #[serde(default)]
    pub(crate) branch: Option<String>,
}

/// `apps destroy`, `deploys destroy`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Destroyed {
    /// `shop`, `shop/staging`
    pub(crate) destroyed: String,
}

/// `login`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Login {
    /// Where.
    pub(crate) server: String,
    /// As whom.
    pub(crate) user: String,
}

/// `logout`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct LoggedOut {
    /// Whose token is kept no longer.
    pub(crate) server: String,
}

/// `git remote`
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct GitRemotes {
    /// One for each deploy.
    pub(crate) remotes: Vec<GitRemote>,
}

/// A deploy that git pushes to.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct GitRemote {
    /// `shop/staging`
    pub(crate) deploy: String,
    /// `dozen-staging`
    pub(crate) remote: String,
    /// Where git pushes to.
    pub(crate) url: String,
}
