//! A router of dozen with this program as its control plane: how benches and soaks lead it.

mod apps;
mod clients;
pub(crate) mod soak;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dozen_core::ids::{Generation, Version};
use dozen_core::port::{Backend, Domain, Manners, Route, RouteTable, Web};
use dozen_engine::home::Home;
use dozen_engine::port::{Certificate, Router, RouterEvent, RouterSpec, Supply, bind};

/// No router takes longer to do as it is told.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is in flight when it is told to stop may last so long.
const GRACE: Duration = Duration::from_secs(5);

/// The router, and what it takes to speak with it.
pub(crate) struct Led {
    runtime: tokio::runtime::Runtime,
    router: Router,
    generation: u64,
}

impl Led {
    /// Starts one with so many workers, which keep so many full files of a log each. Its log folders are in `home`.
    pub(crate) fn start(dozen: &Path, home: &Path, workers: usize, segments: u32) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let within = runtime.enter();
        let spec = RouterSpec { workers, segments, ..RouterSpec::new(dozen, Home::at(home)) };
        let router = Router::spawn(spec, bind(Some(0))?.with_https(0)?)?;
        drop(within);
        Ok(Self { runtime, router, generation: 0 })
    }

    /// Leads requests by this from now on; returns when it does.
    pub(crate) fn lead(&mut self, domains: &[(Domain, Arc<Route>)]) -> Result<()> {
        self.generation += 1;
        let generation = Generation(self.generation);
        self.router.set(&RouteTable::led(domains.iter().cloned(), generation, None));
        self.until(PATIENCE, |event| *event == RouterEvent::Applied { generation })
    }

    /// Shows this to who comes by TLS; returns when it does.
    pub(crate) fn certify(&mut self, certificate: Certificate) -> Result<()> {
        let serial = self.router.certify(Arc::new(Supply { certificates: vec![certificate], proofs: Vec::new() }));
        let done = RouterEvent::Certified { serial, wrong: Vec::new() };
        self.until(PATIENCE, |event| *event == done)
    }

    /// Returns when nothing is in flight any more at what listens there and is in no table.
    pub(crate) fn drained(&mut self, port: u16, patience: Duration) -> Result<()> {
        self.router.drain(port);
        self.until(patience, |event| *event == RouterEvent::Drained { port })
    }

    /// Has a successor take over, while what is in flight ends where it is.
    pub(crate) fn replace(&mut self, grace: Duration) -> Result<()> {
        Ok(self.runtime.block_on(self.router.replace(grace))?)
    }

    /// Kills the process, and starts another one.
    pub(crate) fn kill(&mut self) -> Result<()> {
        rustix::process::kill_process(self.pid()?, rustix::process::Signal::KILL)?;
        self.runtime.block_on(async {
            while self.router.next().await != RouterEvent::Lost {}
            self.router.revive().await
        })?;
        Ok(())
    }

    /// Takes events until this one comes.
    fn until(&mut self, patience: Duration, found: impl Fn(&RouterEvent) -> bool) -> Result<()> {
        let (runtime, router) = (&self.runtime, &mut self.router);
        let come = async {
            loop {
                match router.next().await {
                    RouterEvent::Lost => bail!("the router ended"),
                    event if found(&event) => return Ok(()),
                    _ => {}
                }
            }
        };
        runtime.block_on(async { tokio::time::timeout(patience, come).await }).context("the router does not do as it is told")?
    }

    pub(crate) fn pid(&self) -> Result<rustix::process::Pid> {
        let pid = self.router.pid().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        pid.context("the router has ended")
    }

    pub(crate) fn port(&self) -> u16 {
        self.router.port()
    }

    pub(crate) fn https_port(&self) -> Option<u16> {
        self.router.https_port()
    }

    /// Has it finish what is in flight and write its last lines.
    pub(crate) fn stop(self) {
        self.runtime.block_on(self.router.stop(GRACE));
    }
}

/// A deploy's route to these ports.
pub(crate) fn route(deploy: &str, ports: &[u16]) -> Result<Arc<Route>> {
    let backend = |(port, n): (&u16, u32)| Backend { instance: format!("web.{n}"), port: *port, release: Version(1), weight: 1 };
    let web = Web::Ready(ports.iter().zip(1..).map(backend).collect());
    Ok(Arc::new(Route { deploy: deploy.parse()?, web, manners: Manners::default() }))
}

/// Hundreds of connections have two ends here.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it may not be raised, what needs more says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
