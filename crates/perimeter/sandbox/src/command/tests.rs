use std::fs::File;
use std::io::Read;

use super::*;

fn output(command: &Command) -> (String, Ended) {
    let mut child = command.start().expect("starts");
    drop(std::mem::replace(&mut child.stdin, File::open("/dev/null").expect("opens").into()));
    let mut text = String::new();
    File::from(child.stdout.try_clone().expect("clones")).read_to_string(&mut text).expect("reads");
    (text, child.wait())
}

#[test]
fn a_command_writes_to_its_pipe_and_its_code_is_told() {
    let (text, ended) = output(&Command::new("/bin/bash").argument("-c").argument("echo out; echo err >&2; exit 3"));
    assert_eq!(text, "out\nerr\n");
    assert_eq!(ended, Ended::Code(3));
}

#[test]
fn a_program_that_is_not_there_is_an_error_that_names_it() {
    let error = Command::new("/nowhere/prog").start().expect_err("there is no such program");
    assert!(error.to_string().contains("/nowhere/prog"));
}

#[test]
fn killing_a_command_kills_what_it_started() {
    let child =
        Command::new("/bin/bash").argument("-c").argument("sleep 1000 & echo up; wait").start().expect("starts");
    let mut up = [0; 3];
    File::from(child.stdout.try_clone().expect("clones")).read_exact(&mut up).expect("reads");
    child.kill();
    assert_eq!(child.wait(), Ended::Signal(9));
    let mut rest = Vec::new();
    File::from(child.stdout.try_clone().expect("clones"))
        .read_to_end(&mut rest)
        .expect("ends, because no process holds the pipe any more");
}

#[test]
fn waiting_with_a_limit_gives_up_and_a_later_wait_still_hears_the_end() {
    let child = Command::new("/bin/cat").start().expect("starts");
    assert_eq!(child.wait_for(Duration::from_millis(5)), None);
    child.kill();
    assert_eq!(child.wait(), Ended::Signal(9));
    assert_eq!(child.try_wait(), Some(Ended::Signal(9)));
}

#[test]
fn a_command_can_rename_across_directories_and_cannot_signal_its_starter() {
    let directory = tempfile::tempdir().expect("makes a directory");
    let script =
        "mkdir a b && touch a/x && mv a/x b/y && ls b; kill -0 $PPID && echo signalled; kill -0 $$ && echo self";
    let (text, _) = output(&Command::new("/bin/bash").argument("-c").argument(script).directory(directory.path()));
    assert!(text.starts_with("y\n") && text.ends_with("self\n"), "{text}");
    assert!(!text.contains("signalled"), "{text}");
}
