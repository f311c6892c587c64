use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Barrier, Notify};

use super::*;
use crate::ChannelError;
use crate::asynchronous::Channel;

#[derive(Serialize, Deserialize)]
enum Ask {
    Double(u64),
    Never,
    Together,
    Panic,
}

fn channels() -> (Channel, Channel) {
    let (ours, theirs) = Channel::pair().unwrap();
    (ours, Channel::new(theirs).unwrap())
}

fn connected() -> (Caller<Ask, u64>, tokio::task::JoinHandle<Result<(), ServeError>>) {
    let (ours, theirs) = channels();
    let together = Arc::new(Barrier::new(20));
    let server = tokio::spawn(serve(theirs, 1000, move |ask, descriptors: Vec<OwnedFd>| {
        let together = Arc::clone(&together);
        async move {
            let answer = match ask {
                Ask::Double(n) => 2 * n,
                Ask::Never => std::future::pending().await,
                Ask::Together => u64::from(together.wait().await.is_leader()),
                Ask::Panic => panic!("asked to"),
            };
            (answer, descriptors)
        }
    }));
    (Caller::new(ours, 1000), server)
}

#[tokio::test]
async fn answers_find_their_questions_among_many() {
    let (caller, _server) = connected();
    let calls: Vec<_> = (0..1000u64)
        .map(|n| {
            let caller = caller.clone();
            tokio::spawn(async move { (n, caller.call(Ask::Double(n)).await.unwrap()) })
        })
        .collect();
    for call in calls {
        let (n, answer) = call.await.unwrap();
        assert_eq!(answer, 2 * n);
    }
}

#[tokio::test]
async fn questions_are_handled_at_the_same_time() {
    let (caller, _server) = connected();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.call(Ask::Together).await.unwrap() })
        })
        .collect();
    let mut leaders = 0;
    for call in calls {
        leaders += call.await.unwrap();
    }
    assert_eq!(leaders, 1);
}

#[tokio::test]
async fn descriptors_cross_both_ways() {
    let (caller, _server) = connected();
    let (read, _write) = rustix::pipe::pipe().unwrap();
    let (answer, back) = caller.call_with_fds(Ask::Double(4), vec![read]).await.unwrap();
    assert_eq!((answer, back.len()), (8, 1));
    assert!(rustix::fs::fstat(back[0].as_fd()).is_ok());
}

#[tokio::test]
async fn a_server_that_dies_is_gone_for_everyone_who_waits_and_asks_later() {
    let (caller, server) = connected();
    let waiting = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call(Ask::Never).await }
    });
    assert_eq!(caller.call(Ask::Double(1)).await.unwrap(), 2);
    server.abort();
    assert!(matches!(waiting.await.unwrap(), Err(CallError::Gone)));
    caller.gone().await;
    assert!(matches!(caller.call(Ask::Double(1)).await, Err(CallError::Gone)));
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_not_the_connection() {
    let (caller, _server) = connected();
    let hasty = caller.clone().with_deadline(Duration::from_millis(20));
    assert!(matches!(hasty.call(Ask::Never).await, Err(CallError::Late(_))));
    assert_eq!(caller.call(Ask::Double(3)).await.unwrap(), 6);
}

#[tokio::test]
async fn a_handler_that_panics_ends_the_connection_instead_of_leaving_its_caller_waiting() {
    let (caller, server) = connected();
    assert!(matches!(caller.call(Ask::Panic).await, Err(CallError::Gone)));
    assert!(matches!(server.await.unwrap(), Err(ServeError::Panicked)));
}

#[tokio::test]
async fn the_server_ends_when_the_last_caller_is_dropped() {
    let (caller, server) = connected();
    let second = caller.clone();
    drop(caller);
    assert_eq!(second.call(Ask::Double(1)).await.unwrap(), 2);
    drop(second);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_unreadable_question_gets_an_answer_and_the_connection_lives() {
    let (ours, theirs) = channels();
    let _server = tokio::spawn(serve(theirs, 1000, |n: u64, _| async move { (n, Vec::new()) }));
    let caller: Caller<serde_json::Value, u64> = Caller::new(ours, 1000);
    let misread = caller.call("not a number, and secret".into()).await.unwrap_err();
    assert!(matches!(&misread, CallError::Misread(why) if !why.contains("secret")), "{misread}");
    assert_eq!(caller.call(7.into()).await.unwrap(), 7);
}

#[tokio::test]
async fn an_answer_of_another_type_is_an_error_for_its_caller_alone() {
    let (ours, theirs) = channels();
    let _server = tokio::spawn(serve(theirs, 1000, |text: String, _| async move { (text, Vec::new()) }));
    let caller: Caller<String, u64> = Caller::new(ours, 1000);
    assert!(matches!(caller.call("12".to_owned()).await, Err(CallError::Channel(ChannelError::Garbled { .. }))));
    assert!(matches!(caller.call("13".to_owned()).await, Err(CallError::Channel(ChannelError::Garbled { .. }))));
}

#[tokio::test]
async fn a_question_over_the_limit_ends_the_connection() {
    let (ours, theirs) = channels();
    let server = tokio::spawn(serve(theirs, 100, |text: String, _| async move { (text.len(), Vec::new()) }));
    let caller: Caller<String, usize> = Caller::new(ours, 100);
    assert!(matches!(caller.call("x".repeat(200)).await, Err(CallError::Gone)));
    assert!(matches!(server.await.unwrap(), Err(ServeError::Channel(ChannelError::TooLong { .. }))));
}

#[tokio::test]
async fn the_server_reads_no_more_questions_than_it_handles() {
    let (ours, theirs) = channels();
    let (started, release) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, gate) = (Arc::clone(&started), Arc::clone(&release));
    let _server = tokio::spawn(serve(theirs, 1000, move |n: u64, _| {
        let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
        async move {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            gate.notified().await;
            (n, Vec::new())
        }
    }));
    // A client of another make that sends without waiting.
    let (mut sender, mut receiver) = ours.split();
    let flood = tokio::spawn(async move {
        for id in 0..2 * IN_FLIGHT as u64 {
            sender.send(&Asked { id, ask: &id }, &[]).await.unwrap();
        }
        sender
    });
    let _sender = flood.await.unwrap();
    while started.load(std::sync::atomic::Ordering::SeqCst) < IN_FLIGHT {
        tokio::task::yield_now().await;
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), receiver.receive_frame(1000)).await.is_err());
    assert_eq!(started.load(std::sync::atomic::Ordering::SeqCst), IN_FLIGHT);
    release.notify_one();
    assert!(receiver.receive_frame(1000).await.unwrap().is_some());
}

#[test]
fn wire_bytes_cross_as_base64_and_show_nothing() {
    let bytes = crate::WireBytes::new(b"\x00\xff secret".to_vec());
    let text = serde_json::to_string(&bytes).unwrap();
    let back: crate::WireBytes = serde_json::from_str(&text).unwrap();
    assert!(!format!("{bytes:?}").contains("secret") && !text.contains("secret"));
    assert_eq!(back.into_bytes(), b"\x00\xff secret");
    assert!(serde_json::from_str::<crate::WireBytes>("\"***\"").is_err());
}

#[tokio::test]
async fn descriptors_stay_with_their_question_among_many_sent_at_once() {
    let (ours, theirs) = channels();
    let (mut sender, mut receiver) = ours.split();
    // All of it lies in the socket before anything is read.
    for id in 0..60u64 {
        let pipes: Vec<_> = (0..id % 4).map(|_| rustix::pipe::pipe().unwrap().0).collect();
        let borrowed: Vec<_> = pipes.iter().map(AsFd::as_fd).collect();
        sender.send(&Asked { id, ask: &id }, &borrowed).await.unwrap();
    }
    let _server = tokio::spawn(serve(theirs, 1000, |_: u64, descriptors: Vec<OwnedFd>| async move {
        (descriptors.len(), Vec::new())
    }));
    for _ in 0..60 {
        let frame = receiver.receive_frame(1000).await.unwrap().unwrap();
        let Told { id, answer } = frame.read::<Told<u64>>().unwrap();
        assert_eq!(answer, id % 4, "question {id}");
    }
}

#[tokio::test]
async fn what_came_together_is_handled_together_and_answered_in_order() {
    const ASKED: u64 = 150;
    let (ours, theirs) = channels();
    let (mut sender, mut receiver) = ours.split();
    // As many as the socket holds unread.
    for id in 0..ASKED {
        // Every seventh cannot be read: it has its answer all the same, and is no part of any group.
        let ask = if id % 7 == 0 { "no number".into() } else { serde_json::Value::from(id) };
        sender.send(&Asked { id, ask: &ask }, &[]).await.unwrap();
    }
    let groups = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&groups);
    let _server = tokio::spawn(serve_together(theirs, 1000, move |questions: Vec<(u64, Vec<OwnedFd>)>| {
        seen.lock().unwrap().push(questions.len());
        questions.into_iter().map(|(n, _)| async move { (n, Vec::new()) }).collect()
    }));
    let mut answered = Vec::new();
    for _ in 0..ASKED {
        let frame = receiver.receive_frame(1000).await.unwrap().unwrap();
        match frame.read::<Told<u64>>() {
            Ok(Told { id, answer }) => answered.push((id, answer)),
            Err(_) => assert_eq!(frame.read::<AnsweredText<'_>>().unwrap().id % 7, 0),
        }
    }
    let wanted: Vec<_> = (0..ASKED).filter(|id| id % 7 != 0).map(|id| (id, id)).collect();
    assert_eq!(answered, wanted);
    let groups = groups.lock().unwrap();
    assert_eq!(groups.iter().sum::<usize>(), wanted.len());
    assert!(groups.len() * 5 < wanted.len(), "{groups:?}");
    assert!(groups.iter().all(|group| *group <= IN_FLIGHT), "{groups:?}");
}

/// The ids of the questions that lie in a socket by now.
fn asked_so_far(socket: &std::os::unix::net::UnixStream) -> Vec<u64> {
    use std::io::Read;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count) = (&*socket).read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    let (mut ids, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (text, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        ids.push(serde_json::from_slice::<Heard<u64>>(text).unwrap().id);
        rest = after;
    }
    ids
}

#[tokio::test]
async fn questions_that_may_leave_with_others_wait_until_all_have_asked_or_one_leaves_at_once() {
    let (ours, theirs) = Channel::pair().unwrap();
    let theirs = std::os::unix::net::UnixStream::from(theirs);
    theirs.set_nonblocking(true).unwrap();
    let caller: Caller<u64, u64> = Caller::new(ours, 1000);
    let mut asking: Vec<_> = (0..10).map(|n| Box::pin(caller.call_with_others(n))).collect();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut poll = |which: std::ops::Range<usize>| {
        asking[which].iter_mut().for_each(|one| assert!(one.as_mut().poll(&mut context).is_pending()));
    };
    poll(0..1);
    // That the socket takes anything is known once the runtime has looked.
    while asked_so_far(&theirs).is_empty() {
        tokio::task::yield_now().await;
    }
    poll(1..6);
    assert_eq!(asked_so_far(&theirs), [2, 3], "few leave at once, and many wait for each other");
    let mut at_once = Box::pin(caller.call(7));
    assert!(at_once.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    assert_eq!(asked_so_far(&theirs), [4, 5, 6, 7], "in the order in which they were asked");
    poll(6..10);
    assert!(asked_so_far(&theirs).is_empty());
    let mut seen = Vec::new();
    while seen.len() < 4 {
        tokio::task::yield_now().await;
        seen.extend(asked_so_far(&theirs));
    }
    assert_eq!(seen, [8, 9, 10, 11]);
}
