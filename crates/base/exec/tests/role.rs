//! Starting roles for real: this test program is its own role (`exe role_under_test` runs the test of that name, with a socket as descriptor 0).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use postern_exec::ChannelError;
use postern_exec::role::{self, Roles, StartError, Starter, Supervisor};
use postern_exec::rpc::{self, CallError, Caller};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Clone)]
struct Configuration {
    text: String,
    behaviour: Behaviour,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq)]
enum Behaviour {
    Serve,
    Exit,
    Ignore,
}

/// What the role sees of itself.
#[derive(Serialize, Deserialize)]
struct Seen {
    text: String,
    environment: BTreeMap<String, String>,
    descriptors: Vec<String>,
    process_group_is_own: bool,
}

/// Not started as a role, it must say so; as a role, it does what its configuration says.
#[test]
fn role_under_test() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (configuration, descriptors, mut channel) = match role::first_message::<Configuration>() {
            Ok(first) => first,
            Err(error) => return assert!(matches!(error, StartError::NotARole), "{error}"),
        };
        if configuration.behaviour == Behaviour::Exit {
            return;
        }
        for descriptor in descriptors {
            std::fs::File::from(descriptor).write_all(&configuration.text.as_bytes()[..6]).unwrap();
        }
        channel.send(&seen(&configuration), &[]).await.unwrap();
        if configuration.behaviour == Behaviour::Ignore {
            std::future::pending::<()>().await;
        }
        rpc::serve(channel, 100, |n: u64, _| async move { (n + 1, Vec::new()) }).await.unwrap();
    });
}

fn seen(configuration: &Configuration) -> Seen {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let descriptors = links.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    #[expect(clippy::disallowed_methods, reason = "the test looks at what a role inherits")]
    let environment = std::env::vars().collect();
    Seen {
        text: configuration.text.clone(),
        environment,
        descriptors: descriptors.map(|link| link.to_string_lossy().into_owned()).collect(),
        process_group_is_own: rustix::process::getpgrp() == rustix::process::getpid(),
    }
}

fn configuration(behaviour: Behaviour) -> Configuration {
    Configuration { text: "x".repeat(1 << 20), behaviour }
}

fn itself() -> Starter {
    Starter::itself(std::env::current_exe().unwrap())
}

/// This program as the role `starter`.
fn beside() -> Starter {
    Starter::beside(std::env::current_exe().unwrap()).unwrap()
}

/// Takes its configuration and ends.
#[test]
fn role_of_once() {
    let _by_hand = role::first_message_blocking::<()>();
}

/// Takes nothing, and ends when nobody waits for that any more.
#[test]
fn role_of_patience() {
    let stdin = std::io::stdin();
    if rustix::net::sockopt::socket_type(stdin.as_fd()).is_ok() {
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        rustix::event::poll(&mut [PollFd::new(&stdin, PollFlags::empty())], Some(&patience)).unwrap();
    }
}

/// No other test may have this word in its name: the process would run that test too, which starts this one again.
/// Started by hand it ends at once; started as a role it executes the one role that it may.
#[test]
fn starter() {
    role::starter_main(Roles { once: &["role_of_once"], again: &["role_under_test"], settle: || Ok(()) });
}

#[tokio::test]
async fn a_role_gets_its_configuration_and_descriptors_and_a_closed_environment() {
    let (mut read, write) = std::io::pipe().unwrap();
    let (mut child, channel, seen): (_, _, Seen) =
        role::start_and_wait("role_under_test", &configuration(Behaviour::Serve), &itself(), &[write.as_fd()])
            .await
            .unwrap();
    drop(write);
    let mut written = String::new();
    tokio::task::spawn_blocking(move || {
        read.read_to_string(&mut written).unwrap();
        assert_eq!(written, "xxxxxx");
    })
    .await
    .unwrap();
    assert_eq!(seen.text.len(), 1 << 20);
    let names: Vec<_> = seen.environment.keys().map(String::as_str).collect();
    assert_eq!(names, ["LANG", "PATH"]);
    assert!(seen.process_group_is_own);
    assert!(
        seen.descriptors.iter().any(|link| link == "/dev/null"),
        "descriptor 0 is not left for children: {:?}",
        seen.descriptors
    );
    let caller: Caller<u64, u64> = Caller::new(channel, 100);
    assert_eq!(caller.call(41).await.unwrap(), 42);
    drop(caller);
    assert!(child.end(Duration::from_secs(20)).await.unwrap().success(), "a role ends when its descriptor 0 closes");
}

#[tokio::test]
async fn whoever_has_executed_enough_executes_nothing_more_and_still_tells_how_its_roles_end() {
    let starter = beside();
    // The channel is kept: its role ends by itself without.
    let (mut child, _channel, _): (_, _, Seen) =
        role::start_and_wait("role_under_test", &configuration(Behaviour::Serve), &starter, &[]).await.unwrap();
    starter.enough().unwrap();
    let another: Result<(_, _, Seen), _> =
        role::start_and_wait("role_under_test", &configuration(Behaviour::Serve), &starter, &[]).await;
    assert!(another.is_err(), "started after enough");
    child.kill().unwrap();
    assert!(!child.end(Duration::from_secs(20)).await.unwrap().success(), "it is told how that one ended");
}

#[tokio::test]
async fn a_role_that_is_killed_is_gone_for_its_callers() {
    let (mut child, channel, _): (_, _, Seen) =
        role::start_and_wait("role_under_test", &configuration(Behaviour::Serve), &itself(), &[]).await.unwrap();
    let caller: Caller<u64, u64> = Caller::new(channel, 100);
    child.kill().unwrap();
    caller.gone().await;
    assert!(matches!(caller.call(1).await, Err(CallError::Gone)));
    assert!(!child.wait().await.unwrap().success());
}

#[tokio::test]
async fn a_role_that_ends_without_a_word_is_an_error_at_its_start() {
    let started =
        role::start_and_wait::<_, Seen>("role_under_test", &configuration(Behaviour::Exit), &itself(), &[]).await;
    assert!(matches!(started, Err(StartError::Configure(_))));
}

/// What a role said first, and what it wrote, that got a message of this many bytes.
async fn first_message_of(bytes: usize) -> (StartError, String) {
    let frame = serde_json::to_vec(&Configuration { text: String::new(), behaviour: Behaviour::Serve }).unwrap().len();
    let configuration = Configuration { text: "x".repeat(bytes - frame), behaviour: Behaviour::Serve };
    let (mut read, write) = std::io::pipe().unwrap();
    // What it sees of itself is longer than what it was told.
    let started = role::start_and_wait::<_, Seen>("role_under_test", &configuration, &itself(), &[write.as_fd()]).await;
    drop(write);
    let mut written = String::new();
    read.read_to_string(&mut written).unwrap();
    (started.err().unwrap(), written)
}

#[tokio::test]
async fn a_first_message_has_a_longest_length_both_ways() {
    let limit = 8 << 20;
    let (error, written) = first_message_of(limit).await;
    assert!(matches!(error, StartError::Configure(ChannelError::TooLong { limit: l, .. }) if l == limit), "{error:?}");
    assert_eq!(written, "xxxxxx", "what is not longer is taken");
    let (error, written) = first_message_of(limit + 1).await;
    assert!(matches!(error, StartError::Configure(ChannelError::Io(_))), "{error:?}");
    assert_eq!(written, "");
}

#[tokio::test]
async fn whoever_does_not_take_its_first_message_is_waited_for_ten_seconds() {
    let before = Instant::now();
    let started = role::start("role_of_patience", &configuration(Behaviour::Serve), &itself(), &[]);
    let waited = before.elapsed().as_secs();
    let error = started.err().unwrap();
    let StartError::Configure(ChannelError::Io(source)) = &error else { panic!("{error:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::WouldBlock, "{source}");
    assert!((9..20).contains(&waited), "{waited}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let error =
        role::start("role_under_test", &(), &Starter::itself("/nonexistent/postern".into()), &[]).err().unwrap();
    assert_eq!(error.to_string(), "execute /nonexistent/postern as role role_under_test");
}

#[tokio::test]
async fn a_role_that_does_not_end_in_time_is_killed() {
    let mut supervisor = Supervisor::new("role_under_test", itself(), configuration(Behaviour::Ignore), Vec::new());
    let (running, _): (_, Seen) = supervisor.start().await.unwrap();
    let before = Instant::now();
    let status = running.stop(Duration::from_millis(100)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert!(before.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_supervised_role_is_started_again_with_the_same_descriptors() {
    let (mut read, write) = std::io::pipe().unwrap();
    let mut supervisor =
        Supervisor::new("role_under_test", itself(), configuration(Behaviour::Serve), vec![write.into()]);
    supervisor.configuration().text = "again ".to_owned();
    for _ in 0..2 {
        let (mut running, _): (_, Seen) = supervisor.start().await.unwrap();
        running.child.kill().unwrap();
        running.child.wait().await.unwrap();
    }
    drop(supervisor);
    let mut written = String::new();
    read.read_to_string(&mut written).unwrap();
    assert_eq!(written, "again again ");
}

#[tokio::test]
async fn roles_that_another_process_executes_are_watched_and_killed_like_ones_own() {
    let starter = beside();
    let (mut read, write) = std::io::pipe().unwrap();
    let serve = configuration(Behaviour::Serve);
    let (mut first, channel, seen): (_, _, Seen) =
        role::start_and_wait("role_under_test", &serve, &starter, &[write.as_fd()]).await.unwrap();
    drop(write);
    assert_eq!(seen.environment.keys().map(String::as_str).collect::<Vec<_>>(), ["LANG", "PATH"]);
    assert!(seen.process_group_is_own);
    let mut written = String::new();
    read.read_to_string(&mut written).unwrap();
    assert_eq!(written, "xxxxxx");
    drop(channel);
    assert!(first.end(Duration::from_secs(20)).await.unwrap().success());
    assert!(first.wait().await.unwrap().success(), "asked twice it is still known");

    let mut supervisor = Supervisor::new("role_under_test", starter, configuration(Behaviour::Ignore), Vec::new());
    let (running, _): (_, Seen) = supervisor.start().await.unwrap();
    let status = running.stop(Duration::from_millis(100)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[tokio::test]
async fn nothing_off_the_list_is_executed_and_what_is_for_once_is_so_once() {
    let starter = beside();
    assert!(role::start("role_of_once", &(), &starter, &[]).is_ok());
    let error = role::start("role_of_once", &(), &starter, &[]).err().unwrap();
    assert!(matches!(error, StartError::Execute { .. }), "{error}");
    for role in ["starter", "another", "role_under_test --nocapture"] {
        let error = role::start(role, &(), &starter, &[]).err().unwrap();
        assert!(matches!(error, StartError::Execute { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_question_that_is_too_long_ends_whoever_executes_roles() {
    let starter = beside();
    let asked = |role| role::start(role, &(), &starter, &[]).err().unwrap();
    let envelope = r#"{"start":{"role":""}}"#.len();
    let error = asked("x".repeat(4096 - envelope).leak());
    assert!(matches!(error, StartError::Execute { .. }), "read, and refused: {error:?}");
    for role in ["x".repeat(4097 - envelope).leak(), "role_of_once"] {
        let error = asked(role);
        assert!(matches!(error, StartError::StarterGone(_)), "{error:?}");
    }
}
