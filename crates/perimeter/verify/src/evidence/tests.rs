//! What is taken for which outcome, without a perimeter.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_tools::Block;

use super::*;

fn told(is_error: bool, text: &str) -> Told {
    Told { is_error, content: vec![Block::text(text)] }
}

#[test]
fn a_tool_is_refused_for_what_it_says_and_neither_a_dead_sandbox_nor_a_deadline_is_a_refusal() {
    let word = |name: &str, text: &str| of_tool(name, &told(true, text)).to_string();
    assert_eq!(word("read", "read: path '/x' is outside the session's working directory"), "outside");
    assert_eq!(word("read", "read: pipe: not a regular file"), "not regular");
    assert_eq!(word("shell", "shell: not a tool of this sandbox"), "no such tool");
    assert_eq!(word("read", "the sandbox ended during the call (signal 9)."), "ended");
    assert_eq!(word("read", "tool 'read' timed out"), "timed out");
    assert_eq!(word("read", "anything else"), "error");
}

#[test]
fn output_is_bounded_where_it_says_that_it_was_cut_and_is_not_long() {
    let word = |text: &str| of_tool("bash", &told(false, text)).to_string();
    assert_eq!(word(&format!("{CUT}xxx")), "bounded");
    assert_eq!(word("xxx"), "short");
    assert_eq!(word(""), "short");
    assert_eq!(word(&"x".repeat(LONG + 1)), "made");
    assert_eq!(word(&format!("{CUT}{}", "x".repeat(LONG))), "made");
}

#[test]
fn a_file_of_the_perimeters_is_looked_at_wherever_the_perimeter_lies() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    for place in ["perimeter", "shared/workspace/perimeter"] {
        let perimeter = directory.path().join(place);
        fs::create_dir_all(perimeter.join("work/a/workspace")).unwrap();
        let put = |name: &str, mode| {
            let path = perimeter.join(name);
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        put("work/a/workspace/shown", 0o644);
        put("private", 0o600);
        assert!(!shows_a_file(&perimeter), "{place}");
        put("open", 0o644);
        assert!(shows_a_file(&perimeter), "{place}");
    }
}

#[test]
fn a_payload_in_a_log_is_found_in_any_rendering() {
    let directory = tempfile::tempdir().unwrap();
    let payload = "payload-0123456789abcdef";
    let put = |text: &str| fs::write(directory.path().join("log.jsonl"), text).unwrap();
    put(r#"{"kind":"tool_use"}"#);
    assert!(!holds(directory.path(), payload.as_bytes()));
    for text in [payload.to_owned(), STANDARD.encode(format!("echo {payload}"))] {
        put(&format!(r#"{{"command":"{text}"}}"#));
        assert!(holds(directory.path(), payload.as_bytes()), "{text}");
    }
}

#[test]
fn what_a_process_holds_open_is_known_or_said_not_to_be() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = std::process::id();
    assert_eq!(has_socket(own, &listening_inodes()), Some(true));
    drop(listener);
    assert_eq!(has_socket(own, &[]), Some(false));
    assert_eq!(has_socket(u32::MAX, &listening_inodes()), None);
}
