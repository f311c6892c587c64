//! What the check says on machines that stand in the way: each is made for it, in namespaces and filters of the test's own.

use std::process::Command;

use crate::stand::probe_program;

/// The lines of a check that another program starts: name, state, cause and fix, as `probe check` prints them.
fn checked(words: &[&str]) -> Vec<[String; 4]> {
    let probe = probe_program();
    let words = words.iter().map(|word| word.replace("PROBE", &probe.display().to_string()));
    let words: Vec<String> = words.collect();
    #[expect(clippy::disallowed_methods, reason = "the machine that stands in the way is made by its own tools")]
    let output = Command::new(&words[0]).args(&words[1..]).output().expect("starts");
    let text = String::from_utf8(output.stdout).expect("is text");
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).expect("is the list")
}

fn line<'a>(lines: &'a [[String; 4]], control: &str) -> &'a [String; 4] {
    lines.iter().find(|line| line[0] == control).expect("each control has a line")
}

fn expect_missing(lines: &[[String; 4]], control: &str, cause: &str, fix: &str) {
    let line = line(lines, control);
    assert_eq!(line[1], "missing", "{line:?}");
    assert!(line[2].contains(cause) && line[3].contains(fix), "{line:?}");
}

#[test]
fn where_nothing_stands_in_the_way_every_namespace_is_active() {
    let lines = checked(&["PROBE", "check"]);
    for control in ["userns", "mountns", "pidns", "netns", "ipcns", "utsns", "cgroupns", "timens", "seccomp"] {
        assert_eq!(line(&lines, control)[1], "active", "{:?}", line(&lines, control));
    }
    for line in lines {
        assert_eq!(line[1] == "active", line[2].is_empty() && line[3].is_empty(), "{line:?}");
    }
}

#[test]
fn a_covered_proc_is_named_with_the_place_that_covers_it() {
    let shell = "mount --bind /dev/null /proc/keys && exec PROBE check";
    let lines = checked(&["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell]);
    expect_missing(&lines, "pidns", "/proc/keys", "systempaths=unconfined");
    assert_eq!(line(&lines, "mountns")[1], "active", "everything else may be mounted");
    let shell = "mount -t tmpfs none /proc/sys && exec PROBE check";
    let lines = checked(&["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell]);
    expect_missing(&lines, "pidns", "/proc/sys", "ProtectKernelTunables");
}

#[test]
fn a_filter_that_forbids_namespaces_is_named_for_each_of_them() {
    let lines = checked(&["PROBE", "check-without", "unshare", "clone-namespaces"]);
    for control in ["userns", "mountns", "pidns", "netns", "ipcns", "utsns", "cgroupns", "timens"] {
        expect_missing(&lines, control, "seccomp filter", "seccomp=unconfined");
    }
    assert_eq!(line(&lines, "seccomp")[1], "active", "a filter does not forbid another");
}

#[test]
fn a_filter_that_forbids_mounts_is_named_where_mounts_are_needed() {
    let lines = checked(&["PROBE", "check-without", "mount", "fsopen"]);
    expect_missing(&lines, "mountns", "seccomp filter", "RuntimeDefault");
    expect_missing(&lines, "pidns", "seccomp filter", "RuntimeDefault");
    assert_eq!(line(&lines, "userns")[1], "active");
}

#[test]
fn a_machine_without_packet_rules_is_named() {
    let lines = checked(&["PROBE", "check-without", "netfilter"]);
    assert_eq!(line(&lines, "netns")[1], "missing", "{:?}", line(&lines, "netns"));
    assert!(line(&lines, "netns")[3].contains("CONFIG_NF_TABLES"), "{:?}", line(&lines, "netns"));
}

#[test]
fn a_limit_of_no_namespaces_is_named_with_its_setting() {
    let shell = "echo 0 > /proc/sys/user/max_user_namespaces && exec PROBE check";
    let lines = checked(&["unshare", "--user", "--map-root-user", "sh", "-c", shell]);
    for control in ["userns", "pidns", "netns"] {
        expect_missing(&lines, control, "limited to none", "max_user_namespaces");
    }
}
