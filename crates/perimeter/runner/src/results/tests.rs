use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::place::Places;

struct Stand {
    directory: tempfile::TempDir,
    place: Place,
}

fn stand() -> Stand {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Places::new(directory.path()).of("sesn_1").expect("made");
    place.make_workspace().expect("made");
    Stand { directory, place }
}

fn put(name: &str, bytes: &[u8]) -> Put {
    Put::check(&format!("{RESULTS_DIRECTORY}/{name}"), bytes.to_vec(), 0o644).expect("allowed")
}

fn code(result: Result<(), CommandRefusal>) -> String {
    result.expect_err("refused").code
}

#[test]
fn nothing_but_a_plain_name_in_the_one_directory_is_written() {
    for path in [
        "",
        "/etc/passwd",
        "/workspace/x",
        "/workspace/.results",
        "/workspace/.results/",
        "/workspace/.results/..",
        "/workspace/.results/../x",
        "/workspace/.results/a/b",
        "/workspace/.results//a",
        "/workspace/.results/.hidden",
        "/workspace/.results/a\0b",
        "/workspace/.results/ä",
        "/workspace/.resultsx/a",
        "workspace/.results/a",
        &format!("/workspace/.results/{}", "x".repeat(129)),
    ] {
        assert_eq!(Put::check(path, Vec::new(), 0o644).expect_err(path).code, "path_not_allowed", "{path:?}");
    }
    let allowed = "/workspace/.results/sevt_1.txt";
    assert_eq!(Put::check(allowed, vec![0; PUT_FILE_BYTES + 1], 0o644).expect_err("large").code, "file_too_large");
    for mode in [0o755, 0o664, 0o4644, u32::MAX] {
        assert_eq!(Put::check(allowed, Vec::new(), mode).expect_err("mode").code, "mode_not_allowed", "{mode:o}");
    }
}

#[test]
fn a_result_is_there_whole_and_a_second_one_replaces_it() {
    let Stand { place, directory: _directory } = stand();
    put("a.txt", b"first").write(&place, None).expect("written");
    put("a.txt", b"second").write(&place, None).expect("written");
    let file = place.workspace.join(".results/a.txt");
    assert_eq!(fs::read(&file).expect("there"), b"second");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o7777, 0o644);
    let left = fs::read_dir(place.workspace.join(".results")).expect("there").count();
    assert_eq!(left, 1, "nothing partial stays");
}

#[test]
fn links_in_the_way_are_never_followed() {
    let Stand { directory, place } = stand();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).expect("made");
    let results = place.workspace.join(".results");
    symlink(&outside, &results).expect("linked");
    assert_eq!(code(put("a", b"x").write(&place, None)), "results_obstructed");
    symlink("/nowhere", place.workspace.join("b")).expect("linked");
    fs::remove_file(&results).expect("removed");
    fs::write(&results, "a file").expect("written");
    assert_eq!(code(put("a", b"x").write(&place, None)), "results_obstructed");
    fs::remove_file(&results).expect("removed");
    fs::create_dir(&results).expect("made");
    // The name itself is a link out: it is replaced, what it named is not touched.
    let victim = outside.join("victim");
    fs::write(&victim, "untouched").expect("written");
    symlink(&victim, results.join("a")).expect("linked");
    symlink(&victim, results.join(".a.part")).expect("linked");
    put("a", b"new").write(&place, None).expect("written");
    assert_eq!(fs::read_to_string(&victim).expect("there"), "untouched");
    assert_eq!(fs::read(results.join("a")).expect("there"), b"new");
    assert!(fs::symlink_metadata(results.join("a")).expect("there").is_file());
    assert_eq!(fs::read_dir(&outside).expect("there").count(), 1, "nothing else was made outside");
}

#[test]
fn a_directory_or_a_pipe_under_the_name_is_refused_and_holds_up_nobody() {
    let Stand { place, directory: _directory } = stand();
    let results = place.workspace.join(".results");
    fs::create_dir_all(results.join("a/inner")).expect("made");
    fs::create_dir(results.join(".b.part")).expect("made");
    assert_eq!(code(put("a", b"x").write(&place, None)), "results_obstructed");
    assert_eq!(code(put("b", b"x").write(&place, None)), "results_obstructed");
    rustix::fs::mknodat(rustix::fs::CWD, results.join("c"), rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .expect("a pipe");
    put("c", b"x").write(&place, None).expect("the pipe is replaced");
    assert!(fs::symlink_metadata(results.join("c")).expect("there").is_file());
}

#[test]
fn a_session_is_sent_so_much_and_no_more_whoever_restarts() {
    let Stand { directory, place } = stand();
    let large = vec![b'x'; PUT_FILE_BYTES];
    for number in 0..SESSION_BYTES / PUT_FILE_BYTES as u64 {
        put(&format!("f{number}"), &large).write(&place, None).expect("room");
    }
    assert_eq!(code(put("more", b"").write(&place, None)), "limit_result_bytes");
    let after_restart = Places::new(directory.path()).of("sesn_1").expect("there");
    assert_eq!(code(put("more", b"x").write(&after_restart, None)), "limit_result_bytes");
    put("f3", &large).write(&after_restart, None).expect("the same file again counts once");
}

#[test]
fn a_torn_line_of_the_journal_is_cut_and_a_garbled_one_stops_everything() {
    let Stand { place, directory: _directory } = stand();
    put("a", b"x").write(&place, None).expect("written");
    let whole = fs::read(&place.results).expect("there");
    fs::write(&place.results, [&whole[..], b"{\"name\":\"b"].concat()).expect("written");
    put("c", b"y").write(&place, None).expect("written");
    let lines = fs::read_to_string(&place.results).expect("there");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    fs::write(&place.results, "garbage\n").expect("written");
    assert_eq!(code(put("d", b"z").write(&place, None)), "worker_storage");
}

#[test]
fn without_a_workspace_nothing_is_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Places::new(directory.path()).of("sesn_1").expect("made");
    assert_eq!(code(put("a", b"x").write(&place, None)), "worker_storage");
    assert!(!place.workspace.exists());
}
