//! End to end: logs.

use crate::machines::{is_apart, on_a_small_disk};
use crate::processes::{Bed, end};
use dozen_core::logs::{Filter, LogLine, MAX_LINE, Source};
use dozen_core::processes::Exit;
use dozen_engine::logs::{Follower, Limits, Segment, Store};
use jiff::Timestamp;
use std::time::{Duration, Instant};

fn line(micros: i64, ps: &str, message: &str) -> LogLine {
    let time = Timestamp::from_microsecond(micros).expect("a time");
    LogLine { time, source: Source::App, ps: ps.into(), message: message.into() }
}

/// Appends lines to a file of the store's folder as a writer would.
fn append(store: &Store, file: &str, lines: &[LogLine]) {
    use std::io::Write;
    let bytes: Vec<u8> = lines.iter().flat_map(LogLine::encode).collect();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(store.folder().join(file)).expect("opened");
    file.write_all(&bytes).expect("written");
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(|l| l.text().into_owned()).collect()
}

async fn next(follower: &mut Follower) -> Vec<LogLine> {
    tokio::time::timeout(Duration::from_secs(20), follower.next()).await.expect("lines in time")
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path().join("logs")).expect("a store");
    (folder, store)
}

#[tokio::test]
async fn long_lines_are_split_and_bytes_are_kept() {
    let script =
        "head -c 30000 /dev/zero | tr '\\0' x; echo; head -c 10000 /dev/zero | tr '\\0' y; echo; printf 'a\\377\\000b\\r\\n\\nlast'";
    let bed = Bed::shell(script);
    assert_eq!(bed.run().await.0, Exit::Code(0));
    let store = Store::open(bed.logs()).expect("a store");
    let lines = store.read_last(None, &Filter::default()).expect("read");
    let messages: Vec<&[u8]> = lines.iter().map(|l| &l.message[..]).collect();
    let (x, y) = ([b'x'; MAX_LINE], [b'y'; MAX_LINE]);
    let wanted: [&[u8]; 7] = [&x, &x, &x, &y, b"a\xff\x00b\r", b"", b"last"];
    assert_eq!(messages, wanted);
    assert!(lines.iter().all(|l| l.ps == "web.1" && l.source == Source::App));
}

#[tokio::test]
async fn a_hundred_thousand_lines_arrive_in_order() {
    let bed = Bed::shell("seq 1 100000");
    let mut jail = bed.start().await;
    let store = Store::open(bed.logs()).expect("a store");
    let mut follower = store.follow(&Filter::default()).expect("followed");
    assert_eq!(end(&mut jail).await, Exit::Code(0));
    let wanted: Vec<String> = (1..=100_000).map(|n| n.to_string()).collect();
    let all = store.read_last(None, &Filter::default()).expect("read");
    assert!(texts(&all) == wanted, "{} lines", all.len());
    // Whatever was there when it began to follow is not its business; from there on nothing is missing.
    let mut followed = Vec::new();
    while followed.last() != wanted.last() {
        followed.extend(texts(&next(&mut follower).await));
    }
    assert!(wanted.ends_with(&followed), "{} lines", followed.len());
}

#[tokio::test]
async fn segments_rotate_and_the_oldest_go() {
    let mut bed = Bed::shell("seq 1 20000");
    if let Some(log) = &mut bed.spec.log {
        (log.segment_bytes, log.segments) = (100_000, 2);
    }
    let mut jail = bed.start().await;
    assert_eq!(end(&mut jail).await, Exit::Code(0));
    let sizes: Vec<u64> =
        std::fs::read_dir(bed.logs()).expect("logs").map(|e| e.expect("entry").metadata().expect("there").len()).collect();
    assert!((2..=3).contains(&sizes.len()), "{sizes:?}");
    let said = bed.messages();
    let first: u32 = said[0].parse().expect("a number");
    let wanted: Vec<String> = (first..=20_000).map(|n| n.to_string()).collect();
    assert_eq!(said, wanted, "the end is whole");
}

#[tokio::test]
async fn a_small_disk_that_fills_stops_no_app() {
    if !is_apart() {
        return on_a_small_disk("logs::a_small_disk_that_fills_stops_no_app");
    }
    let mut bed = Bed::shell("trap 'echo late; exit 7' TERM; seq 1 100000; echo done > \"$DONE\"; while :; do sleep 0.02; done");
    let done = bed.home.path().join("done");
    std::fs::write(&done, "").expect("written");
    bed.spec.env.push(("DONE".into(), done.display().to_string()));
    if let Some(log) = &mut bed.spec.log {
        (log.segment_bytes, log.segments) = (100_000, 1000);
    }
    let mut jail = bed.start().await;
    // The app gets through although its lines do not; its own file may fail like any other.
    let filled =
        || std::fs::read_dir(bed.logs()).map_or(0, |d| d.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum::<u64>());
    while filled() < 700_000 {
        assert!(!jail.next().await.is_last());
    }
    // Until lines were dropped: a whole second without one more in the files. No event tells of it.
    let mut since = (filled(), Instant::now());
    while since.1.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if filled() != since.0 {
            since = (filled(), Instant::now());
        }
    }
    assert!(Store::open(bed.logs()).expect("a store").prune(0).expect("pruned") > 0);
    jail.handle().stop(Duration::from_secs(10));
    assert_eq!(end(&mut jail).await, Exit::Code(7));
    let said = bed.messages();
    assert!(said.contains(&"late".to_owned()), "{:?}", said.last());
    let told = said.iter().find(|m| m.starts_with("Error L10 (output buffer overflow): ")).expect("the loss is told");
    assert!(told.contains(" messages dropped since 20"), "{told}");
}

#[test]
fn dropped_lines_are_counted_and_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let logs = folder.path().join("logs");
    let mut segment = Segment::open(&logs, "web.1", "v1", Limits { bytes: 1 << 20, segments: 1 }).expect("a segment");
    let allow = |mode| std::fs::set_permissions(&logs, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("set");
    // Root may write anywhere: this is seen when the tests run as an ordinary user.
    if rustix::process::geteuid().is_root() {
        return;
    }
    let at = Timestamp::from_microsecond(1_700_000_000_000_000).expect("a time");
    allow(0o500);
    assert!(!segment.append(&line(1, "web.1", "x").encode(), 1, at));
    assert!(!segment.append(b"y\nz\n", 2, at));
    assert!(segment.owes() && !segment.settle(at));
    allow(0o700);
    assert!(segment.append(&line(1, "web.1", "w").encode(), 1, at) && !segment.owes());
    let store = Store::open(&logs).expect("a store");
    let said = texts(&store.read_last(None, &Filter::default()).expect("read"));
    assert_eq!(said, ["Error L10 (output buffer overflow): 3 messages dropped since 2023-11-14T22:13:20.000000Z.", "w"]);
}

#[test]
fn files_are_merged_by_time_and_read_from_the_end() {
    let (_folder, store) = store();
    append(&store, "0000000000000001-web.1-v1.log", &[line(10, "web.1", "a"), line(30, "web.1", "c"), line(50, "web.1", "e")]);
    append(&store, "0000000000000002-worker.1-v1.log", &[line(20, "worker.1", "b"), line(30, "worker.1", "d"), line(60, "worker.1", "f")]);
    let read = |n, filter: &Filter| texts(&store.read_last(n, filter).expect("read")).concat();
    let all = Filter::default();
    assert_eq!(read(None, &all), "abcdef");
    assert_eq!(read(Some(4), &all), "cdef");
    assert_eq!(read(Some(0), &all), "");
    assert_eq!(read(Some(2), &Filter { ps: Some("web".into()), source: None }), "ce");
    assert_eq!(read(None, &Filter { ps: None, source: Some(Source::Dozen) }), "");
}

#[test]
fn torn_and_foreign_lines_are_passed_over() {
    let (_folder, store) = store();
    append(&store, "0000000000000001-web.1-v1.log", &[line(10, "web.1", "a")]);
    let path = store.folder().join("0000000000000001-web.1-v1.log");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes.extend_from_slice(b"rubbish\n\n");
    bytes.extend_from_slice(&vec![b'z'; 300_000]);
    bytes.push(b'\n');
    bytes.extend_from_slice(&line(20, "web.1", "b").encode());
    bytes.extend_from_slice(b"2026-09-16T15:13:46.677020+00:00 app[web.1]: to");
    std::fs::write(&path, bytes).expect("written");
    std::fs::write(store.folder().join("notes.txt"), "not a segment").expect("written");
    assert_eq!(texts(&store.read_last(None, &Filter::default()).expect("read")), ["a", "b"]);
}

#[tokio::test]
async fn between_tail_and_follow_nothing_is_missed_or_doubled() {
    let (_folder, store) = store();
    let file = "0000000000000001-web.1-v1.log";
    let torn = line(20, "web.1", "b").encode();
    append(&store, file, &[line(10, "web.1", "a")]);
    let path = store.folder().join(file);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes.extend_from_slice(&torn[..40]);
    std::fs::write(&path, &bytes).expect("written");

    let (lines, mut follower) = store.tail(Some(100), &Filter::default()).expect("read");
    assert_eq!(texts(&lines), ["a"]);
    bytes.extend_from_slice(&torn[40..]);
    std::fs::write(&path, &bytes).expect("written");
    // A file that is new, and one that the writer removes as soon as it has a newer one.
    append(&store, "0000000000000002-web.2-v1.log", &[line(15, "web.2", "n")]);
    store.poke();
    assert_eq!(texts(&next(&mut follower).await), ["n", "b"]);
    append(&store, file, &[line(30, "web.1", "c")]);
    std::fs::remove_file(&path).expect("removed");
    append(&store, "0000000000000003-web.1-v1.log", &[line(40, "web.1", "d")]);
    store.poke();
    assert_eq!(texts(&next(&mut follower).await), ["c", "d"]);
    store.write("web.1", "State changed from starting to up\nand more");
    assert_eq!(texts(&next(&mut follower).await), ["State changed from starting to up", "and more"]);
}

#[tokio::test]
async fn a_follower_wakes_when_nobody_pokes() {
    let (_folder, store) = store();
    let mut follower = store.follow(&Filter { ps: Some("web".into()), source: None }).expect("followed");
    append(&store, "0000000000000001-worker.1-v1.log", &[line(10, "worker.1", "unwanted")]);
    append(&store, "0000000000000001-web.1-v1.log", &[line(10, "web.1", "wanted")]);
    assert_eq!(texts(&next(&mut follower).await), ["wanted"]);
}

#[test]
fn the_end_of_a_large_store_is_read_alone() {
    let (_folder, store) = store();
    let message = "x".repeat(150);
    let lines: Vec<LogLine> = (0..100_000).map(|n| line(n, "web.1", &message)).collect();
    append(&store, "0000000000000001-web.1-v1.log", &lines);
    let before = read_bytes();
    assert_eq!(store.read_last(Some(100), &Filter::default()).expect("read").len(), 100);
    let read = read_bytes() - before;
    assert!(read < 200_000, "{read} bytes were read");
}

/// What this thread has read so far.
fn read_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").expect("counters");
    io.lines().find_map(|l| l.strip_prefix("rchar: ")).and_then(|n| n.parse().ok()).expect("a count")
}

#[test]
fn pruning_takes_the_oldest_that_nobody_writes() {
    let (_folder, store) = store();
    let old = "0000000000000001-web.1-v1.log";
    append(&store, old, &[line(1, "web.1", &"x".repeat(5000))]);
    let mut segment = Segment::open(store.folder(), "web.2", "v1", Limits { bytes: 1 << 20, segments: 1 }).expect("a segment");
    let early = Timestamp::from_microsecond(2).expect("a time");
    assert!(segment.append(&line(2, "web.2", &"y".repeat(5000)).encode(), 1, early));
    append(&store, "0000000000000003-web.3-v1.log", &[line(3, "web.3", &"z".repeat(5000))]);
    assert_eq!(store.prune(1 << 20).expect("pruned"), 0);
    assert!(store.prune(11_000).expect("pruned") > 5000);
    assert!(!store.folder().join(old).exists());
    assert!(store.prune(0).expect("pruned") > 5000);
    let left = texts(&store.read_last(None, &Filter::default()).expect("read"));
    assert_eq!(left, ["y".repeat(5000)], "the file that is being written stays");
    drop(segment);
    store.prune(0).expect("pruned");
    assert!(store.read_last(None, &Filter::default()).expect("read").is_empty());
}
