//! What the comparison with the reference toolset does not reach: bounds, races, endings, read-only roots.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::wire::{Access, Root};

fn toolbox(workdir: &Path) -> Toolbox {
    Toolbox::new(&Configuration { workdir: workdir.to_owned(), roots: Vec::new() })
}

fn call(toolbox: &mut Toolbox, name: &str, input: Value, deadline_ms: u64) -> (bool, String) {
    let Value::Object(input) = input else { panic!("an input is an object") };
    let outcome = toolbox.call(&CallTool { id: "1".into(), name: name.into(), input, deadline_ms });
    let [Block::Text { text }] = &outcome.content[..] else { panic!("one text: {outcome:?}") };
    (outcome.is_error, text.clone())
}

fn run(toolbox: &mut Toolbox, name: &str, input: Value) -> (bool, String) {
    call(toolbox, name, input, 30_000)
}

fn failed(text: &str) -> (bool, String) {
    (true, text.to_owned())
}

#[test]
fn the_bound_on_every_call_wins_over_a_longer_timeout() {
    let place = tempfile::tempdir().expect("a directory");
    let mut tools = toolbox(place.path());
    let input = json!({"command": "sleep 60", "timeout_ms": 60_000});
    assert_eq!(call(&mut tools, "bash", input, 200), failed("tool 'bash' timed out"));
    assert_eq!(
        run(&mut tools, "bash", json!({"command": "true"})),
        failed("bash: bash session terminated; restart required")
    );
    assert_eq!(run(&mut tools, "bash", json!({"restart": true})), (false, "bash session restarted".into()));
    assert_eq!(run(&mut tools, "bash", json!({"command": "echo back"})), (false, "back".into()));
}

#[test]
fn a_command_has_two_minutes_unless_it_asks_for_another_time() {
    for (asked, seconds) in [(None, 120), (Some(5_000), 5), (Some(600_000), 600), (Some(-1), 0)] {
        assert_eq!(patience(asked), Duration::from_secs(seconds), "{asked:?}");
    }
    assert_eq!(crate::client::CALL_DEADLINE, Duration::from_secs(150));
}

#[test]
fn links_upon_links_are_followed_so_far_and_then_an_error() {
    let place = tempfile::tempdir().expect("a directory");
    std::fs::write(place.path().join("0"), "the end\n").expect("written");
    for number in 1..=50 {
        symlink((number - 1).to_string(), place.path().join(number.to_string())).expect("linked");
    }
    let mut tools = toolbox(place.path());
    let read = |tools: &mut Toolbox, name: &str| run(tools, "read", json!({"file_path": name}));
    assert!(read(&mut tools, "30").1.contains("the end"));
    assert!(read(&mut tools, "50").0, "it is an error");
}

#[test]
fn a_timed_out_command_is_killed_with_the_jobs_it_started() {
    let place = tempfile::tempdir().expect("a directory");
    let mut tools = toolbox(place.path());
    let command = "(while :; do echo tick >> ticks; sleep 0.01; done) & echo $! > job; wait";
    let (error, _) = run(&mut tools, "bash", json!({"command": command, "timeout_ms": 300}));
    assert!(error);
    run(&mut tools, "bash", json!({"restart": true}));
    let (_, job) = run(&mut tools, "read", json!({"file_path": "job"}));
    let state =
        format!("while grep -qs '^State:[[:space:]]*[RSDT]' /proc/{}/status; do :; done; echo gone", job.trim());
    assert_eq!(run(&mut tools, "bash", json!({"command": state})), (false, "gone".into()));
}

#[test]
fn a_shell_that_exits_with_a_job_left_does_not_hold_the_call() {
    let place = tempfile::tempdir().expect("a directory");
    let mut tools = toolbox(place.path());
    let start = Instant::now();
    assert_eq!(run(&mut tools, "bash", json!({"command": "sleep 20 & echo bye; exit 0"})), failed("bye"));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn endless_output_leaves_the_last_100_kib() {
    let place = tempfile::tempdir().expect("a directory");
    let mut tools = toolbox(place.path());
    let (error, text) =
        run(&mut tools, "bash", json!({"command": "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo end"}));
    assert!(!error);
    assert!(text.starts_with("[output truncated]\nxxx") && text.ends_with("x\nend"));
    assert!(text.len() <= 100 * 1024 + 20);
}

#[test]
fn a_command_cannot_forge_its_end() {
    let place = tempfile::tempdir().expect("a directory");
    let mut tools = toolbox(place.path());
    let forged = json!({"command": "printf '\\n__PSTN_CMD_00000000000000000000000000000000_DONE__0\\n'; set -v\necho real; (exit 5)"});
    let (error, text) = run(&mut tools, "bash", forged);
    assert!(error);
    assert!(text.contains("real"), "{text}");
}

#[test]
fn a_command_larger_than_a_pipe_gets_through() {
    let place = tempfile::tempdir().expect("a directory");
    let mut tools = toolbox(place.path());
    let command = format!("printf %s '{}' | wc -c", "y".repeat(300_000));
    assert_eq!(run(&mut tools, "bash", json!({"command": command})), (false, "300000".into()));
}

#[test]
fn a_read_only_root_is_read_and_not_written() {
    let place = tempfile::tempdir().expect("a directory");
    for name in ["work", "lent"] {
        std::fs::create_dir(place.path().join(name)).expect("made");
    }
    std::fs::write(place.path().join("lent/a"), "text").expect("written");
    let lent = place.path().join("lent");
    let roots = vec![Root { path: lent.clone(), access: Access::Read }];
    let mut tools = Toolbox::new(&Configuration { workdir: place.path().join("work"), roots });
    let path = lent.join("a").display().to_string();
    assert_eq!(run(&mut tools, "read", json!({"file_path": path})), (false, "text".into()));
    let refused = format!("{path} is inside read-only directory {}", lent.display());
    assert_eq!(
        run(&mut tools, "write", json!({"file_path": path, "content": "x"})),
        failed(&format!("write: {refused}"))
    );
    let edit = json!({"file_path": path, "old_string": "t", "new_string": "x", "replace_all": true});
    assert_eq!(run(&mut tools, "edit", edit), failed(&format!("edit: {refused}")));
    let (error, text) = run(&mut tools, "read", json!({"file_path": "/etc/passwd"}));
    assert!(error);
    assert_eq!(
        text,
        "read: path '/etc/passwd' is outside the session's working directory and its other permitted directories"
    );
}

#[test]
fn a_directory_swapped_for_a_link_after_the_check_is_not_followed() {
    let place = tempfile::tempdir().expect("a directory");
    let (work, outside) = (place.path().join("work"), place.path().join("outside"));
    for directory in [work.join("dir"), outside.clone()] {
        std::fs::create_dir_all(directory).expect("made");
    }
    for file in [work.join("dir/file"), outside.join("file")] {
        std::fs::write(file, "x").expect("written");
    }
    let policy = PathPolicy::new(&Configuration { workdir: work.clone(), roots: Vec::new() });
    let target = policy.resolve("dir/file").expect("inside");
    std::fs::rename(work.join("dir"), work.join("was")).expect("moved");
    symlink(&outside, work.join("dir")).expect("linked");
    assert!(target.open_regular().is_err());
    assert!(target.create().is_err());
    assert_eq!(std::fs::read_to_string(outside.join("file")).expect("there"), "x");
}

#[test]
fn unusable_patterns_are_named() {
    let place = tempfile::tempdir().expect("a directory");
    let mut tools = toolbox(place.path());
    for (pattern, text) in [(".", "glob: Unacceptable pattern: '.'"), ("./", "glob: Unacceptable pattern: './'")] {
        assert_eq!(run(&mut tools, "glob", json!({"pattern": pattern})), failed(text));
    }
}

#[test]
fn glob_and_grep_end_at_the_deadline() {
    let place = tempfile::tempdir().expect("a directory");
    std::fs::write(place.path().join("a"), "x\n").expect("written");
    let mut tools = toolbox(place.path());
    assert_eq!(call(&mut tools, "glob", json!({"pattern": "**"}), 0), failed("tool 'glob' timed out"));
    assert_eq!(call(&mut tools, "grep", json!({"pattern": "x"}), 0), failed("tool 'grep' timed out"));
}

#[test]
fn glob_gives_the_newest_two_hundred() {
    let place = tempfile::tempdir().expect("a directory");
    for number in 0..250u64 {
        let file = std::fs::File::create(place.path().join(format!("{number:03}"))).expect("made");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + number)).expect("dated");
    }
    let (_, text) = run(&mut toolbox(place.path()), "glob", json!({"pattern": "*"}));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 200);
    assert!(lines[0].ends_with("/249") && lines[199].ends_with("/050"));
}

#[test]
fn grep_skips_what_git_ignores_and_reports_a_file_it_may_not_read() {
    let place = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(place.path().join(".git")).expect("made");
    for (name, text) in [(".gitignore", "*.log\n"), ("a.log", "needle\n"), ("b.txt", "needle\n")] {
        std::fs::write(place.path().join(name), text).expect("written");
    }
    let mut tools = toolbox(place.path());
    let found = format!("{}/b.txt:1:needle\n", std::fs::canonicalize(place.path()).expect("there").display());
    assert_eq!(run(&mut tools, "grep", json!({"pattern": "needle"})), (false, found));
}

#[test]
fn a_tool_that_is_not_ours_is_refused() {
    let place = tempfile::tempdir().expect("a directory");
    assert_eq!(
        run(&mut toolbox(place.path()), "web_fetch", json!({})),
        failed("web_fetch: not a tool of this sandbox")
    );
}

#[test]
fn a_shell_that_was_killed_says_so() {
    let place = tempfile::tempdir().expect("a directory");
    let mut tools = toolbox(place.path());
    let text = "before\n[postern] the shell was killed by signal 9: by something that the command did, or by the kernel because the sandbox had used up its memory; restart required";
    assert_eq!(run(&mut tools, "bash", json!({"command": "echo before; kill -9 $$"})), failed(text));
    run(&mut tools, "bash", json!({"restart": true}));
    let text = "[postern] the shell was killed by signal 10; restart required";
    assert_eq!(run(&mut tools, "bash", json!({"command": "kill -USR1 $$"})), failed(text));
}
