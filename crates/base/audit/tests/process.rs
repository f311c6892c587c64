//! The writer process for real: this test program is its own role (`exe audit` runs the test of that name, with a socket as descriptor 0).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::ExitCode;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use postern_audit::{
    AuditError, Client, Decision, Kind, Record, Recorder, Started, entries, process_main, start, verify,
};
use postern_exec::asynchronous::Channel;
use postern_exec::role::{First, Starter};

/// Started by hand it fails; started as a role it serves until descriptor 0 closes.
#[test]
fn audit() {
    let by_hand =
        std::fs::read_link("/proc/self/fd/0").is_ok_and(|link| !link.to_string_lossy().starts_with("socket:"));
    let Ok(first) = First::receive() else { return assert!(by_hand) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let code = runtime.block_on(process_main(first));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
}

fn record(text: String) -> Record {
    let mut record = Record::new(Kind::ToolUse, Decision::Allow);
    record.outcome = Some(text);
    record
}

async fn started(directory: &std::path::Path) -> (postern_exec::role::Child, Client) {
    let (child, client, started) = start(&Starter::itself(std::env::current_exe().unwrap()), directory).await.unwrap();
    assert!(matches!(started, Started::Ready { .. }), "{started:?}");
    (child, client)
}

#[tokio::test]
async fn records_that_belong_together_have_a_bounded_length_on_the_wire() {
    let directory = tempfile::tempdir().unwrap();
    let (_child, client) = started(directory.path()).await;
    let together = |count: usize| client.record_all((0..count).map(|_| record("x".repeat(500))).collect());
    assert!(together(100).await.is_ok());
    assert!(together(1000).await.is_err(), "it is beyond 256 KiB");
    let kept =
        entries(directory.path()).unwrap().filter(|entry| entry.as_ref().is_ok_and(|one| one.record.outcome.is_some()));
    assert_eq!(kept.count(), 100);
}

#[tokio::test]
async fn many_appenders_at_once_get_one_number_each_and_a_whole_log() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, client) = started(directory.path()).await;
    let tasks: Vec<_> = (0..20)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut numbers = Vec::new();
                for n in 0..100 {
                    numbers.push(client.append(&record(format!("{task}/{n}"))).await.unwrap());
                }
                numbers
            })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.extend(task.await.unwrap());
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 2000);
    drop(client);
    assert!(child.end(Duration::from_secs(20)).await.unwrap().success());
    let report = verify(directory.path()).unwrap();
    assert_eq!(report.unsigned, 1, "the drain signs everything but its own signature");
}

#[tokio::test]
async fn a_writer_killed_during_appends_loses_no_acknowledged_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..5u64 {
        let (mut child, client) = started(directory.path()).await;
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mut texts = Vec::new();
                    for n in 0.. {
                        let text = format!("{round}/{task}/{n}");
                        match client.append(&record(text.clone())).await {
                            Ok(seq) => texts.push((seq, text)),
                            Err(error) => {
                                assert_eq!(error, AuditError::Gone);
                                return texts;
                            }
                        }
                    }
                    texts
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20 + 13 * round)).await;
        child.kill().unwrap();
        for task in tasks {
            acknowledged.extend(task.await.unwrap());
        }
        child.wait().await.unwrap();
    }
    let (mut child, client) = started(directory.path()).await;
    drop(client);
    child.end(Duration::from_secs(20)).await.unwrap();
    verify(directory.path()).unwrap();
    let written: std::collections::HashMap<u64, Option<String>> = entries(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.seq, entry.record.outcome))
        .collect();
    assert!(acknowledged.len() > 100, "{} appends are too few to say anything", acknowledged.len());
    for (seq, text) in acknowledged {
        assert_eq!(written.get(&seq), Some(&Some(text)));
    }
}

#[tokio::test]
async fn an_attached_connection_appends_and_does_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (_child, client) = started(directory.path()).await;
    let (ours, theirs) = Channel::pair().unwrap();
    client.attach("custody", theirs).await.unwrap();
    let attached = Client::new(ours);
    let first = attached.append(&record("from custody".to_owned())).await.unwrap();
    assert_eq!(client.append(&record("from the worker".to_owned())).await.unwrap(), first + 1);
    let (_ours, theirs) = Channel::pair().unwrap();
    assert_eq!(attached.attach("another", theirs).await, Err(AuditError::Misused));
    assert_eq!(attached.checkpoint().await, Err(AuditError::Misused));
}

#[tokio::test]
async fn a_log_in_use_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let (_child, _client) = started(directory.path()).await;
    let (_second, _, started) =
        start(&Starter::itself(std::env::current_exe().unwrap()), directory.path()).await.unwrap();
    assert!(matches!(started, Started::Refused { reason } if reason.contains("another audit process")));
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let (child, client) = started(directory.path()).await;
    let mut appended = 0;
    client.append(&record("before".to_owned())).await.unwrap();
    // A file size limit on the writer is the full disk that an ordinary user can make: the write that crosses it is cut short.
    limit_file_size(child.id(), 6000);
    let refused = loop {
        match client.append(&record("x".repeat(200))).await {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
        assert!(appended < 1000, "the limit does not hold");
    };
    assert!(matches!(&refused, AuditError::Unwritable { reason } if reason.contains("fitted")), "{refused}");
    limit_file_size(child.id(), u64::MAX);
    client.append(&record("after".to_owned())).await.unwrap();
    let found = entries(directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.record.kind == Kind::ToolUse))
        .count();
    assert_eq!(found, appended + 2);
    verify(directory.path()).unwrap();
}

fn limit_file_size(process: u32, bytes: u64) {
    let pid = rustix::process::Pid::from_raw(process.cast_signed());
    let maximum = rustix::process::prlimit(
        pid,
        rustix::process::Resource::Fsize,
        rustix::process::Rlimit { current: (bytes != u64::MAX).then_some(bytes), maximum: None },
    );
    maximum.unwrap();
}

#[tokio::test]
async fn appending_is_fast_enough_for_every_decision() {
    let directory = tempfile::tempdir().unwrap();
    let (_child, client) = started(directory.path()).await;
    let mut times = Vec::new();
    for n in 0..2000 {
        let before = Instant::now();
        client.append(&record(n.to_string())).await.unwrap();
        times.push(before.elapsed());
    }
    times.sort_unstable();
    eprintln!("append over the socket: median {:?}, p99 {:?}, worst {:?}", times[1000], times[1980], times[1999]);
    assert!(times[1000] < Duration::from_millis(5), "median {:?}", times[1000]);
}

#[tokio::test]
async fn what_one_connection_hands_over_first_is_written_first_whoever_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, client) = started(directory.path()).await;
    let (mut unheard, mut expected) = (Vec::new(), Vec::new());
    for n in 0..50 {
        let [first, second] = [format!("{n}: first"), format!("{n}: second")];
        // Begun, and not waited for: the answer is nobody's.
        let mut begun = client.record_all(vec![record(first.clone()), record(second.clone())]);
        let polled = begun.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        unheard.push(begun);
        let third = format!("{n}: awaited");
        let seq = client.append(&record(third.clone())).await.unwrap();
        expected.extend([(seq - 2, first), (seq - 1, second), (seq, third)]);
    }
    drop(unheard);
    drop(client);
    assert!(child.end(Duration::from_secs(20)).await.unwrap().success());
    let written = entries(directory.path()).unwrap().map(|entry| entry.unwrap());
    let written: Vec<_> = written
        .filter(|entry| entry.record.kind == Kind::ToolUse)
        .map(|entry| (entry.seq, entry.record.outcome.unwrap()))
        .collect();
    assert_eq!(written, expected);
}
