//! Commands that a jail runs beside its program, by which an app says how it is.

use super::{Bed, end, next, sleepers, token};
use crate::machines::host_view;
use dozen_core::processes::Exit;
use dozen_engine::processes::{Jail, JailEvent};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

/// A program that has said `ready`, in a jail that runs commands.
async fn running(script: &str) -> (Bed, Jail) {
    let mut bed = Bed::shell(script);
    bed.spec.probes = true;
    let mut jail = bed.start().await;
    bed.said(&mut jail, "ready").await;
    (bed, jail)
}

async fn probe(jail: &Jail, script: &str, timeout: Duration) -> Result<(), String> {
    jail.handle().probe(&["sh", "-c", script].map(str::to_owned), timeout).await
}

async fn stop(mut jail: Jail) {
    jail.handle().kill();
    assert_eq!(end(&mut jail).await, Exit::Signal(9));
}

#[tokio::test]
async fn a_command_finds_what_the_program_has() {
    let (_bed, jail) = running("cd ${TMPDIR:-/tmp}; id -u > uid; echo $$ > pid; echo ready; exec sleep 1000").await;
    let same = "[ $GREETING = hello ] && cd ${TMPDIR:-/tmp} && [ $(id -u) = $(cat uid) ]";
    assert_eq!(probe(&jail, same, LONG).await, Ok(()));
    assert_eq!(probe(&jail, "[ $PWD = /app ] || [ -d ../logs ]", LONG).await, Ok(()));
    // Without a PID namespace of their own Landlock keeps one from the other.
    let signal = probe(&jail, "kill -0 $(cat ${TMPDIR:-/tmp}/pid)", LONG).await;
    assert!(signal.is_ok() || host_view(), "{signal:?}");
    stop(jail).await;
}

#[tokio::test]
async fn a_command_is_held_like_the_program() {
    let (_bed, jail) = running("echo ready; exec sleep 1000").await;
    for allowed in ["touch here", "unshare --user true", "cat /etc/shadow"] {
        assert!(probe(&jail, allowed, LONG).await.is_err(), "{allowed}");
    }
    let status = "[ \"$(grep -c 'CapEff:.0000000000000000\\|NoNewPrivs:.1\\|Seccomp:.2' /proc/self/status)\" = 3 ] && [ \"$(ls /proc/self/fd | wc -l)\" -le 4 ]";
    assert_eq!(probe(&jail, status, LONG).await, Ok(()));
    stop(jail).await;
}

#[tokio::test]
async fn why_a_command_failed_is_told() {
    let (_bed, jail) = running("echo ready; exec sleep 1000").await;
    let why = |script: &'static str, timeout| probe(&jail, script, timeout);
    assert_eq!(why("echo first; echo no queue; exit 3", LONG).await, Err("exited with status 3: no queue".to_owned()));
    assert_eq!(why("echo why >&2; kill -9 $$", LONG).await, Err("was ended by signal 9: why".to_owned()));
    assert_eq!(why("exec sleep 1000", Duration::from_millis(200)).await, Err("did not end within 0.2 s".to_owned()));
    assert_eq!(why("yes | head -c 1000000; exit 1", LONG).await, Err("exited with status 1: y".to_owned()));
    let missing = jail.handle().probe(&["./nothing".to_owned()], LONG).await;
    assert_eq!(missing, Err("exec: ./nothing: no such file".to_owned()));
    stop(jail).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_command() {
    let (_bed, jail) = running("echo ready; exec sleep 1000").await;
    let token = token();
    let leave = format!("(setsid sleep {token} &) ; (setsid sh -c 'sleep {token} & sleep {token}' &); sleep {token} &");
    assert_eq!(probe(&jail, &format!("{leave} true"), LONG).await, Ok(()));
    assert_eq!(sleepers(&token), 0);
    let late = probe(&jail, &format!("trap '' TERM; {leave} sleep {token}"), Duration::from_millis(300)).await;
    assert_eq!((late, sleepers(&token)), (Err("did not end within 0.3 s".to_owned()), 0));
    stop(jail).await;
}

#[tokio::test]
async fn commands_end_with_the_instance_and_hold_nothing_up() {
    let (_bed, mut jail) = running("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done").await;
    let token = token();
    let handle = jail.handle();
    let asked = handle.probe(&["sh", "-c", &format!("trap '' TERM; sleep {token}")].map(str::to_owned), LONG);
    while sleepers(&token) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.stop(LONG);
    assert_eq!(end(&mut jail).await, Exit::Code(7));
    assert!(asked.await.is_err());
    assert_eq!(sleepers(&token), 0);
    assert_eq!(handle.probe(&["true".to_owned()], LONG).await, Err("the instance has ended".to_owned()));
}

#[tokio::test]
async fn many_commands_at_once_are_told_apart() {
    let (_bed, mut jail) = running("echo ready; exec sleep 1000").await;
    let handle = jail.handle();
    let asked: Vec<_> = (0..8).map(|n| handle.probe(&["sh", "-c", &format!("exit {n}")].map(str::to_owned), LONG)).collect();
    for (n, asked) in asked.into_iter().enumerate() {
        let wanted = if n == 0 { Ok(()) } else { Err(format!("exited with status {n}")) };
        assert_eq!(asked.await, wanted);
    }
    handle.kill();
    while !matches!(next(&mut jail).await, JailEvent::Exited(_)) {}
}
