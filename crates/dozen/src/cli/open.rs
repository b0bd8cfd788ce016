//! `dozen open [PATH]`: the app in the browser.

use super::target;
use crate::api::wire;
use crate::client::Client;
use crate::printer::Printer;
use crate::programs;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use clap::Args;
use dozen_engine::deploy::DeployError;

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct OpenArgs {
    /// A page of the app: /admin/
    path: Option<String>,
}

/// Prints the URL and opens it, where there is a browser to open it in.
pub(crate) async fn run(args: OpenArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    let deploy = target::find(settings).await?;
    let mut client = Client::connect(settings, deploy.clone()).await?;
    let answer: wire::Info = client.get("").await?;
    let Some(base) = answer.url.filter(|_| answer.serving) else {
        bail!(DeployError::NotServing(deploy));
    };
    let url = page(&base, args.path.as_deref().unwrap_or_default()).with_context(|| format!("{base} is no URL"))?;
    let opened = programs::browse(&url);
    if printer.is_json() {
        printer.json(&wire::Opened { url, opened });
    } else {
        printer.line(&url);
    }
    Ok(0)
}

/// A page below the app's URL, whatever the path looks like: it never leads to another host.
fn page(base: &str, path: &str) -> Result<String, url::ParseError> {
    let mut url = url::Url::parse(base)?;
    let (path, fragment) = path.split_once('#').map_or((path, None), |(path, fragment)| (path, Some(fragment)));
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    url.set_path(path);
    url.set_query(query);
    url.set_fragment(fragment);
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn a_path_stays_on_the_apps_host() {
        for (path, want) in [
            ("", "http://shop.localhost:8000/"),
            ("/admin/", "http://shop.localhost:8000/admin/"),
            ("admin?q=a b#x", "http://shop.localhost:8000/admin?q=a%20b#x"),
            ("//evil.example/x", "http://shop.localhost:8000//evil.example/x"),
            ("http://evil.example", "http://shop.localhost:8000/http://evil.example"),
        ] {
            assert_eq!(page("http://shop.localhost:8000", path).as_deref(), Ok(want));
        }
    }
}
