//! `dozen certs`: what HTTPS is spoken with, and `certs add`, `auto`, `remove`, `ca`.

use super::target;
use crate::api::wire;
use crate::client::{Client, Told};
use crate::printer::{Column, Printer, listing};
use crate::settings::Settings;
use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use dozen_engine::port::ca::{self, Authority};
use http::Method;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Have the router show a certificate for the names that it is for
    ///
    /// It is checked first: that the key is its own, that the chain is in order, that it has not expired. One for the same names is replaced;
    /// connections that there are go on. The key is kept sealed, and the files are not needed any more.
    Add {
        /// The certificate and those of who issued it, PEM, its own first; often called fullchain.pem
        #[arg(value_name = "CHAIN.pem")]
        chain: PathBuf,
        /// Its key, PEM, not encrypted; often called privkey.pem
        #[arg(value_name = "KEY.pem")]
        key: PathBuf,
    },
    /// Have certificates for the deploy's domains ordered and renewed, from an authority that speaks ACME
    ///
    /// The authority must be able to reach the router by the domain: by HTTP on port 80 or by TLS on port 443, which something has to lead to
    /// the router's ports. Each host gets a certificate of its own, and another when a third of its life is left. What fails is tried again after
    /// a minute, then ever more rarely; `dozen certs` shows it. Wildcards are for `certs add`.
    Auto {
        /// The authority's directory
        #[arg(long, value_name = "URL", default_value = "https://acme-v02.api.letsencrypt.org/directory")]
        directory: String,
        /// Where the authority may write to
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        /// You agree to the authority's terms of service; needed for the first account there
        #[arg(long)]
        agree_tos: bool,
        /// The certificate that the authority's own server is known by, PEM, where no public one vouches for it
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// How a name is proven, http-01 or tls-alpn-01; by default one after the other is tried
        #[arg(long, value_name = "NAME")]
        challenge: Option<String>,
        /// Order and renew nothing any more; what there is stays
        #[arg(long, conflicts_with_all = ["directory", "email", "agree_tos", "ca_file", "challenge"])]
        off: bool,
    },
    /// Show a certificate no longer
    Remove {
        /// Its number, or a name that it is for
        #[arg(value_name = "ID|NAME")]
        which: String,
    },
    /// Print where the certificate of the local authority is, and how to trust it
    ///
    /// The authority is made once for all apps of this machine's dozen; its key stays in DOZEN_HOME. It certifies names that nobody has on the
    /// Internet (.localhost, .test, .local, .internal, .example, .lan, .home.arpa) and private addresses, and its own certificate says so:
    /// whoever trusts it trusts it for nothing else.
    Ca,
}

/// Lists, adds, removes or explains.
pub(crate) async fn run(args: CertsArgs, settings: &Settings, printer: &Printer) -> Result<i32> {
    match args.verb {
        None => list(&mut connect(settings).await?, printer).await,
        Some(Verb::Add { chain, key }) => {
            let body = wire::AddCert { chain: read(&chain)?, key: read(&key)? };
            let mut client = connect(settings).await?;
            let added: wire::Cert = client.call(Method::POST, "/certificates", &body).await?;
            done(&added, "Adding", printer);
            Ok(0)
        }
        Some(Verb::Auto { directory, email, agree_tos, ca_file, challenge, off }) => {
            let root = ca_file.as_deref().map(read).transpose()?;
            let body = wire::AutoCerts { directory: (!off).then_some(directory), email, agree_tos, root, challenge };
            let mut client = connect(settings).await?;
            let answer: wire::Automated = client.call(Method::POST, "/certificates/auto", &body).await?;
            automated(&answer, printer);
            Ok(0)
        }
        Some(Verb::Remove { which }) => {
            let mut client = connect(settings).await?;
            let removed: wire::Cert = client.call(Method::POST, "/certificates/remove", &wire::RemoveCert { which }).await?;
            done(&removed, "Removing", printer);
            Ok(0)
        }
        Some(Verb::Ca) => authority(settings, printer),
    }
}

async fn connect(settings: &Settings) -> Result<Client> {
    Client::connect(settings, target::find(settings).await?).await
}

fn read(file: &Path) -> Result<String> {
    let failed = |e: &dyn std::fmt::Display| anyhow!(Told::failed(format!("cannot read {}: {e}", file.display()), None));
    let bytes = std::fs::read(file).map_err(|e| failed(&e))?;
    // What is in DER is no text; how to make text of it is worth a word.
    String::from_utf8(bytes).map_err(|_| {
        let hint = format!("`openssl x509 -inform der -in {} -out chain.pem` makes PEM of DER.", file.display());
        Told::failed(format!("{} is not PEM: it is no text", file.display()), Some(hint)).into()
    })
}

fn done(cert: &wire::Cert, what: &str, printer: &Printer) {
    if printer.is_json() {
        printer.json(cert);
        return;
    }
    printer.confirm(&format!("{what} certificate {} for {}... done", cert.id, cert.names.join(", ")));
    if what == "Adding" && cert.domains.is_empty() {
        printer.aside("None of the deploy's domains has one of these names; `dozen domains` lists them.");
    }
}

fn automated(answer: &wire::Automated, printer: &Printer) {
    if printer.is_json() {
        printer.json(answer);
        return;
    }
    let Some(directory) = &answer.directory else {
        printer.confirm("Ordering certificates... off");
        return;
    };
    printer.confirm(&format!("Ordering certificates from {directory}... on"));
    if !answer.hosts.is_empty() {
        printer
            .aside(&format!("For {}, while the deploy runs with --https-port; `dozen certs` shows how it goes.", answer.hosts.join(", ")));
    }
    if !answer.others.is_empty() {
        printer.aside(&format!("Not for {}: no authority can be asked for these in this way.", answer.others.join(", ")));
    }
}

async fn list(client: &mut Client, printer: &Printer) -> Result<i32> {
    let answer: wire::Certs = client.get("/certificates").await?;
    if printer.is_json() {
        printer.json(&answer);
        return Ok(0);
    }
    printer.line(&format!("=== {} certificates", client.deploy));
    if answer.certificates.is_empty() {
        printer.line("None. `dozen certs add CHAIN.pem KEY.pem` adds one.");
    } else {
        printer.line(&listing(&COLUMNS, &answer.certificates, printer.terminal().map(|(columns, _)| columns), true));
    }
    printer.line("");
    printer.line(&format!("By the local authority (`dozen certs ca`): {}", answer.local.join(", ")));
    if !answer.without.is_empty() {
        printer.line(&format!("Without a certificate: {}", answer.without.join(", ")));
    }
    if let Some(auto) = &answer.auto {
        printer.line(&format!("Ordered from {}", auto.directory));
        for f in &auto.failures {
            printer.line(&format!("Not obtained: {}; again at {} (UTC)", f.why, super::releases::when(&f.again_at)));
        }
    }
    if answer.https_url.is_none() {
        printer.aside("HTTPS is not spoken; `dozen up --https-port N` has the router listen for it.");
    }
    Ok(0)
}

const COLUMNS: [Column<wire::Cert>; 6] = [
    Column { title: "ID", rank: 0, cell: |c| c.id.to_string() },
    Column { title: "NAMES", rank: 0, cell: |c| c.names.join(", ") },
    Column { title: "SOURCE", rank: 2, cell: |c| c.source.clone() },
    Column { title: "ISSUER", rank: 3, cell: |c| harmless(&c.issuer) },
    Column { title: "ENDS", rank: 0, cell: ends },
    Column { title: "DOMAINS", rank: 1, cell: |c| if c.domains.is_empty() { "-".to_owned() } else { c.domains.join(", ") } },
];

/// `in 61 days`
fn ends(cert: &wire::Cert) -> String {
    match cert.days_left {
        ..0 => "expired".to_owned(),
        0 => "today".to_owned(),
        1 => "in 1 day".to_owned(),
        days => format!("in {days} days"),
    }
}

/// A name may hold whatever its authority lets it.
pub(super) fn harmless(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn authority(settings: &Settings, printer: &Printer) -> Result<i32> {
    settings.home.make().map_err(|(path, e)| anyhow!(e).context(format!("cannot use {}", path.display())))?;
    Authority::open(&settings.home)?;
    let file = ca::certificate_file(&settings.home);
    let path = file.display().to_string();
    if printer.is_json() {
        printer.json(&wire::LocalAuthority { certificate: path });
        return Ok(0);
    }
    printer.line(&path);
    for line in [
        "",
        "curl:               curl --cacert FILE https://…",
        "Node, npm:          NODE_EXTRA_CA_CERTS=FILE node …",
        "Python requests:    REQUESTS_CA_BUNDLE=FILE python3 …",
        "Chrome, Chromium:   certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n dozen -i FILE   (Debian: libnss3-tools)",
        "Firefox:            Settings, Certificates, View Certificates, Authorities, Import",
        "all of Debian:      cp FILE /usr/local/share/ca-certificates/dozen.crt && update-ca-certificates",
    ] {
        printer.aside(&line.replace("FILE", &path));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_days() {
        let cert = |days_left| wire::Cert {
            id: 1,
            names: vec![],
            source: String::new(),
            issuer: String::new(),
            not_before: String::new(),
            not_after: String::new(),
            days_left,
            domains: vec![],
            created_by: String::new(),
        };
        assert_eq!([-1, 0, 1, 89].map(|days| ends(&cert(days))), ["expired", "today", "in 1 day", "in 89 days"]);
    }
}
