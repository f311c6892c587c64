//! How sandboxes begin and end, and what is left.

use std::fs;
use std::task::Poll;
use std::time::Duration;

use postern_sandbox::{Access, Control, Mount, State};

use crate::probe::Ask;
use crate::stand::{Stand, is_root, spec};

fn wait_ending(stand: &Stand) -> postern_sandbox::Exit {
    let mut ending = stand.sandbox.ending();
    stand
        .runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), ending.wait()).await })
        .expect("it ends")
}

/// Whether a process with this word in its command line is anywhere on the machine.
fn runs(word: &str) -> bool {
    let lines =
        fs::read_dir("/proc").expect("reads").flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.into_iter().any(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()))
}

/// A duration that no other test sleeps.
fn unique() -> String {
    format!("86400.{}", std::process::id())
}

#[test]
fn destroying_ends_everything_inside_before_it_returns() {
    let stand = Stand::new();
    let word = unique();
    stand.bash(&format!("setsid nohup sleep {word} >/dev/null 2>&1 & disown; true"));
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !runs(&word) {
        assert!(std::time::Instant::now() < deadline, "the process never started");
        std::thread::yield_now();
    }
    stand.runtime.block_on(stand.spawner.destroy("sesn_test")).expect("destroys");
    assert!(!runs(&word), "a process outlived its sandbox");
    assert_eq!(wait_ending(&stand).how, "killed by signal 9");
    stand.runtime.block_on(stand.spawner.destroy("sesn_test")).expect("destroying again is as wanted");
}

#[test]
fn a_sandbox_dies_with_its_spawner() {
    let stand = Stand::new();
    let spawner = rustix::process::Pid::from_raw(stand.spawner.id().try_into().expect("fits")).expect("not zero");
    rustix::process::kill_process(spawner, rustix::process::Signal::KILL).expect("kills");
    stand
        .runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), stand.spawner.gone()).await })
        .expect("is noticed");
    assert_eq!(wait_ending(&stand).how, "the spawner ended");
    let mut end = [rustix::event::PollFd::new(&stand.channel, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    let ended = rustix::io::retry_on_intr(|| rustix::event::poll(&mut end, Some(&limit)));
    assert_eq!(ended, Ok(1), "the tool server outlived its spawner");
    assert!(
        stand.channel.receive::<String>(100).is_ok_and(|end| end.is_none()),
        "the tool channel closed with its process"
    );
    let again = stand.runtime.block_on(stand.spawner.build(spec(stand.directory.path(), "sesn_after")));
    assert_eq!(again.expect_err("there is no spawner").step, "reach the spawner");
}

#[test]
fn a_message_has_a_longest_length_and_a_longer_one_ends_the_spawner() {
    let stand = Stand::new();
    let envelope = r#"{"id":1,"ask":{"pause":{"session":""}}}"#.len();
    let pause = |bytes: usize| stand.runtime.block_on(stand.spawner.pause(&"x".repeat(bytes - envelope)));
    assert!(!pause(4 << 20).expect("it is read"), "nobody has that name");
    assert!(pause((4 << 20) + 1).is_err());
    assert_eq!(wait_ending(&stand).how, "the spawner ended");
}

#[test]
fn the_end_of_the_tool_server_is_told_with_its_last_words() {
    let stand = Stand::new();
    stand.channel.send(&Ask::Exit(7, "it went wrong\n".into()), &[]).expect("sends");
    let exit = wait_ending(&stand);
    assert_eq!((exit.how.as_str(), exit.last_words.as_str()), ("exited with code 7", "it went wrong\n"));
    let again = stand.runtime.block_on(stand.spawner.build(spec(stand.directory.path(), "sesn_test")));
    assert!(again.is_ok(), "the session's name is free again: {again:?}");
}

#[test]
fn of_the_last_words_the_last_are_kept() {
    let stand = Stand::new();
    let words = format!("{}the end", "x".repeat(10_000));
    stand.channel.send(&Ask::Exit(7, words), &[]).expect("sends");
    let exit = wait_ending(&stand);
    assert_eq!(exit.last_words.len(), 4096);
    assert!(exit.last_words.ends_with("xthe end"));
}

#[test]
fn a_refused_build_leaves_nothing_and_says_what_to_do() {
    let error = Stand::try_with(|spec, _| {
        spec.mounts.push(Mount { host: "/etc".into(), at: "/data".into(), access: Access::Read })
    })
    .err()
    .expect("is refused");
    assert_eq!(error.step, "check the request");
    assert!(error.cause.contains("/etc") && !error.fix.is_empty());
    let stand = Stand::new();
    let twice = stand.runtime.block_on(stand.spawner.build(spec(stand.directory.path(), "sesn_test")));
    assert!(twice.expect_err("one sandbox per session").cause.contains("already"));
    assert_eq!(stand.bash("echo alive").text, "alive\n");
}

#[test]
fn a_required_control_that_is_not_whole_stops_the_build() {
    let error = Stand::try_with(|spec, _| spec.require = vec![Control::Seccomp, Control::DiskHard])
        .err()
        .expect("no quota here");
    assert_eq!(error.step, "check required controls");
    assert!(error.cause.contains("disk-hard") && error.cause.contains("degraded") && !error.fix.is_empty(), "{error}");
    let always = [
        Control::Userns,
        Control::Mountns,
        Control::Pidns,
        Control::Netns,
        Control::Ipcns,
        Control::Utsns,
        Control::Cgroupns,
        Control::Timens,
        Control::Seccomp,
        Control::Landlock,
        Control::NoCaps,
        Control::ProcessesHard,
    ];
    let stand = Stand::with(|spec, _| spec.require = always.to_vec());
    for control in always {
        let status = stand.sandbox.controls.iter().find(|status| status.control == control).expect("each has one");
        // Before Linux 6.12 there is less of it, and that is said.
        let is_older = control == Control::Landlock && status.cause.starts_with("the kernel's Landlock is version");
        assert!(status.state == State::Active || is_older, "{status:?}");
    }
    let distinct =
        stand.sandbox.controls.iter().find(|status| status.control == Control::DistinctUid).expect("has a status");
    assert_eq!(distinct.state, if is_root() { State::Active } else { State::Missing });
}

#[test]
fn namespaces_are_all_the_sandboxs_own() {
    let stand = Stand::new();
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
        let inside = stand.bash(&format!("readlink /proc/self/ns/{name}")).text;
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).expect("reads");
        assert!(inside.starts_with(name) && inside.trim() != outside.to_string_lossy(), "{name}: {inside}");
    }
}

#[test]
fn the_clocks_of_a_sandbox_begin_with_it() {
    let stand = Stand::new();
    let uptime = |text: &str| text.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok()).expect("a number");
    let machine = uptime(&fs::read_to_string("/proc/uptime").expect("reads"));
    for clock in ["CLOCK_MONOTONIC", "CLOCK_BOOTTIME"] {
        let told = stand.python(&format!("import time; print(time.clock_gettime(time.{clock}))"));
        // A stub may have waited for as long as this test took to ask.
        assert!(uptime(&told.text) < 120 && machine > 120, "{clock}: {} of {machine}", told.text);
    }
    assert!(uptime(&stand.bash("cat /proc/uptime").text) < 120);
    let now = stand.python("import time; print(time.time())").text;
    let outside = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(uptime(&now).abs_diff(outside) < 60, "the time of day is the machine's");
}

#[test]
fn control_groups_are_removed_with_their_sandbox() {
    let stand = Stand::new();
    let path = fs::read_to_string(format!("/proc/{}/cgroup", stand.sandbox.pid)).expect("reads");
    let held = stand
        .sandbox
        .controls
        .iter()
        .any(|status| status.control == Control::MemoryHard && status.state == State::Active);
    assert_eq!(path.contains("postern-"), held, "{path}");
    stand.runtime.block_on(stand.spawner.destroy("sesn_test")).expect("destroys");
    for line in path.lines().filter(|line| line.contains("postern-")) {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controller, group) = (fields.next().expect("a controller"), fields.next().expect("a path"));
        let directory = format!("/sys/fs/cgroup/{controller}{group}");
        assert!(!std::path::Path::new(&directory).exists(), "{directory}");
    }
}

#[test]
fn fifty_sandboxes_in_a_row_leave_no_process_descriptor_or_group() {
    let stand = Stand::new();
    let descriptors = || {
        // Its answer comes after it closed what it had handed over before.
        stand.runtime.block_on(stand.spawner.controls()).expect("it lives");
        fs::read_dir(format!("/proc/{}/fd", stand.spawner.id())).map(Iterator::count).ok()
    };
    let before = descriptors().expect("is readable: same user");
    for round in 0..50 {
        let session = format!("sesn_{round}");
        let sandbox =
            stand.runtime.block_on(stand.spawner.build(spec(stand.directory.path(), &session))).expect("builds");
        stand.runtime.block_on(stand.spawner.destroy(&session)).expect("destroys");
        drop(sandbox);
    }
    let after = descriptors().expect("is readable: same user");
    // What is prepared ahead comes and goes; one that leaks in each round would be fifty.
    assert!(after.abs_diff(before) < 25, "{before} before, {after} after");
}

#[test]
fn a_caller_that_gives_up_leaves_no_sandbox_behind() {
    let stand = Stand::new();
    let spec = spec(stand.directory.path(), "sesn_given_up");
    let again = spec.clone();
    stand.runtime.block_on(async {
        let mut asked = Box::pin(stand.spawner.build(spec));
        let waits = std::future::poll_fn(|context| Poll::Ready(asked.as_mut().poll(context).is_pending())).await;
        assert!(waits, "the question is out, and its answer is not there yet");
        drop(asked);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            match stand.spawner.build(again.clone()).await {
                Ok(_) => break,
                Err(error) => {
                    assert!(error.cause.contains("already") && std::time::Instant::now() < deadline, "{error}")
                }
            }
            tokio::task::yield_now().await;
        }
    });
}
