//! End to end: git pushes to a deploy whose hook is the real binary, and the commit runs.

use crate::deployed::{DOZEN, Place, Said, WEB, finish};
use dozen_core::concurrency::formation::First;
use dozen_core::disposability::Policy;
use dozen_core::ids::DeployRef;
use dozen_engine::codebase::hook::{Deploys, Door, Push};
use dozen_engine::codebase::repository::Repository;
use dozen_engine::codebase::smart::{Dialogue, Limits, Service, serve};
use dozen_engine::concurrency::Site;
use dozen_engine::deploy::{Build, BuildOptions, DeployError, Floor};
use dozen_engine::home::Home;
use dozen_engine::ledger::{Intent, Ledger, Principal};
use dozen_engine::logs::Store;
use dozen_engine::output::Output;
use dozen_engine::parity::{Local, Observed};
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

/// One deploy that takes pushes.
struct Production(Floor);

impl Deploys<Principal> for Production {
    fn turn(&self, _who: &Principal) -> Arc<tokio::sync::Mutex<()>> {
        self.0.pushes.clone()
    }

    async fn ask(&self, who: &Principal, _commit: &str) -> Result<Build, DeployError> {
        self.0.ask_build(who, "push", None).await
    }

    async fn push(&self, who: Arc<Principal>, push: Push, build: &Build, output: Arc<dyn Output>) -> Result<(), DeployError> {
        let (release, new) = self.0.push(&who, &push, build, &BuildOptions::default(), output.clone()).await?;
        self.0.launch(&who, release, new, Some("http://shop.test"), &*output).await
    }
}

async fn production(home: &Home, deploy: &DeployRef) -> Production {
    let ledger = Ledger::open(home).expect("opened");
    ledger.commit(&Principal::me(), Intent::Adopt { deploy: deploy.clone(), folder: None }).await.expect("committed");
    let store = Arc::new(Store::open(home.logs(deploy)).expect("opened"));
    let observed = Observed::new(store.clone());
    let (uid, _) = ledger.deploy(deploy).await.expect("read").expect("adopted");
    let exe = Path::new(DOZEN).to_owned();
    let isolation = dozen_engine::processes::isolation(&exe).await.isolation;
    let driver = Local::start(Site {
        counts: observed.counts().clone(),
        exe: exe.clone(),
        home: home.clone(),
        store,
        isolation,
        uid,
        policy: Policy::UP,
        router: None,
        lasting: None,
        any_host: true,
        names: Vec::new(),
        report: observed.clone(),
    });
    let mut floor = Floor::new(ledger, deploy.clone(), exe, driver, observed, true);
    floor.first = First::WebOnly;
    Production(floor)
}

/// Answers clients of git's own protocol, as a forced command of SSH would be connected.
async fn answer(stream: TcpStream, door: Arc<Door<Principal>>, repository: Repository) {
    let (mut read, mut write) = stream.into_split();
    let mut length = [0; 4];
    read.read_exact(&mut length).await.expect("a line");
    let length = usize::from_str_radix(std::str::from_utf8(&length).expect("digits"), 16).expect("digits");
    read.read_exact(&mut vec![0; length - 4]).await.expect("a line");
    let pass = door.admit(&repository, Principal::me());
    let (service, limits) = (Service::Receive, Limits::of(Service::Receive));
    let git = serve(&repository, service, Dialogue::Session, None, read, Some(pass), limits).await;
    let _ = tokio::io::copy(&mut git.expect("git runs"), &mut write).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_runs_and_what_does_not_come_up_is_refused() {
    let place = Place::new(&[("Procfile", "web: python3 web.py\nworker: sleep 1000\n"), ("web.py", WEB)]);
    let (home, deploy): (Home, DeployRef) = (Home::at(place.home()), "shop/production".parse().expect("valid"));
    home.make().expect("made");
    let production = Arc::new(production(&home, &deploy).await);
    let repository = Repository::make(&home, &deploy).expect("made");
    let (door, listener) = Door::bind(&home, Path::new(DOZEN)).expect("bound");
    let serving = tokio::spawn(door.clone().serve(listener, production.clone()));
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("git://{}/shop", tcp.local_addr().expect("bound"));
    let known = repository.clone();
    let clients = tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            tokio::spawn(answer(stream, door.clone(), known.clone()));
        }
    });

    let place = Arc::new(place);
    let git = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let place = place.clone();
        async move {
            let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"];
            let run = move || -> Said { finish(place.program("git").args(identity).args(words)) };
            tokio::task::spawn_blocking(run).await.expect("ends")
        }
    };
    git(&["init", "-q"]).await.ok();
    git(&["add", "-A"]).await.ok();
    git(&["commit", "-qm", "one"]).await.ok();
    let pushed = git(&["push", &url, "main"]).await.ok();
    for line in ["-----> Procfile app detected", "-----> Launching...", "       Released v1", "       http://shop.test deployed"] {
        assert!(pushed.err.contains(line), "{line} is not in {}", pushed.err);
    }
    let release = production.0.current().await.expect("one");
    assert_eq!(production.0.formation(&release.slug).await.expect("known").to_string(), "web=1 worker=0");
    let commit = git(&["rev-parse", "HEAD"]).await.ok().out.trim().to_owned();
    assert_eq!(release.slug.commit.clone().map(|c| (c.hash, c.dirty)), Some((commit.clone(), false)));

    // Another commit is another release beside the running one, though its files are the same.
    git(&["commit", "-q", "--allow-empty", "-m", "two"]).await.ok();
    let pushed = git(&["push", &url, "main"]).await.ok();
    assert!(pushed.err.contains("       Released v2"), "{}", pushed.err);
    let two = production.0.current().await.expect("one");
    assert_eq!(two.slug.id, release.slug.id);

    let tip = repository.tip("main").expect("git answers");
    for (file, text, told) in [
        ("web.py", "import sys\nsys.exit('no database')\n", "v3 did not come up: web.1"),
        ("Procfile", "web: python3 web.py\nweb: again\n\u{0}", "Procfile"),
    ] {
        place.write(file, text);
        git(&["commit", "-qam", "bad"]).await.ok();
        let refused = git(&["push", &url, "main"]).await;
        assert!(refused.err.contains(told) && refused.err.contains("The push is refused: main stays as it was"), "{}", refused.err);
        assert_eq!(repository.tip("main").expect("git answers"), tip);
        assert_eq!(production.0.current().await.expect("one").version, two.version);
    }

    serving.abort();
    clients.abort();
    production.0.stop(&Principal::me(), std::future::pending()).await.expect("stopped");
}
