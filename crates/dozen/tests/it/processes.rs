//! End to end: processes.

use dozen_core::processes::Exit;
use dozen_core::processes::jail::{JailLog, JailSpec, Mount, PROTOCOL, View};
use dozen_engine::processes::{Jail, JailEvent, spawn};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const DOZEN: &str = env!("CARGO_BIN_EXE_dozen");
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// An app's folder, a log folder and the spec of a jail for them.
pub(crate) struct Bed {
    pub(crate) home: TempDir,
    pub(crate) spec: JailSpec,
}

impl Bed {
    pub(crate) fn new(argv: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let app = home.path().join("app");
        std::fs::create_dir(&app).expect("made");
        let spec = JailSpec {
            protocol: PROTOCOL,
            instance: "web.1".into(),
            hostname: "shop-web-1".into(),
            argv: argv.iter().map(|&a| a.into()).collect(),
            env: vec![("PATH".into(), PATH.into()), ("GREETING".into(), "hello".into())],
            cwd: "/app".into(),
            mounts: vec![Mount { source: app, target: "/app".into(), writable: false }],
            view: View::Minimal,
            user: rustix::process::geteuid().is_root().then_some((61_234, 61_234)),
            port: None,
            log: Some(JailLog { folder: home.path().join("logs"), release: "v1".into(), segment_bytes: 64 << 20, segments: 2 }),
            lost_grace_ms: 1000,
        };
        Self { home, spec }
    }

    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub(crate) async fn start(&self) -> Jail {
        spawn(Path::new(DOZEN), self.spec.clone(), None).await.expect("a jail")
    }

    /// All messages in the log, in order.
    pub(crate) fn messages(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(self.home.path().join("logs")).expect("logs").map(|e| e.expect("entry").path()).collect();
        files.sort();
        let bytes: Vec<u8> = files.iter().flat_map(|f| std::fs::read(f).expect("read")).collect();
        let lines = bytes.split_inclusive(|b| *b == b'\n');
        lines.map(|l| dozen_core::logs::LogLine::decode(l).expect("a whole line").text().into_owned()).collect()
    }

    /// Runs to the end; the exit and what was said.
    async fn run(&self) -> (Exit, Vec<String>) {
        let mut jail = self.start().await;
        let exit = end(&mut jail).await;
        (exit, self.messages())
    }
}

/// Takes events until the jail's last.
pub(crate) async fn end(jail: &mut Jail) -> Exit {
    loop {
        match next(jail).await {
            JailEvent::Exited(exit) => return exit,
            JailEvent::Lost => return Exit::Lost,
            JailEvent::Failed { attempt, error, code } => panic!("{attempt}: {error} ({code})"),
            _ => {}
        }
    }
}

async fn next(jail: &mut Jail) -> JailEvent {
    tokio::time::timeout(Duration::from_secs(20), jail.next()).await.expect("an event in time")
}

#[tokio::test]
async fn the_exit_code_is_the_programs() {
    for (script, exit) in [("exit 0", Exit::Code(0)), ("exit 3", Exit::Code(3)), ("kill -9 $$", Exit::Signal(9))] {
        assert_eq!(Bed::shell(script).run().await.0, exit, "{script}");
    }
}

#[tokio::test]
async fn output_is_logged() {
    let (exit, said) = Bed::shell("echo one; echo two >&2; printf three").run().await;
    assert_eq!(exit, Exit::Code(0));
    assert!(said.contains(&"one".to_owned()) && said.contains(&"two".to_owned()) && said.contains(&"three".to_owned()), "{said:?}");
}
