//! What processes inside are, and what they can learn of others.

use std::fs;

use crate::probe::Ask;
use crate::stand::{Stand, is_root};

#[test]
fn neither_the_tool_server_nor_a_command_has_a_capability_or_can_get_one() {
    let stand = Stand::new();
    let own = stand.ask(&Ask::Read("/proc/self/status".into())).text;
    let commands = stand.bash("cat /proc/self/status").text;
    for status in [own, commands] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{set}: {status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        assert!(status.contains("Seccomp:\t2") && status.contains("Seccomp_filters:\t2"), "{status}");
        assert!(status.contains("Uid:\t1000\t1000\t1000\t1000"), "{status}");
    }
}

#[test]
fn no_other_process_of_the_machine_can_be_named() {
    let stand = Stand::new();
    let told = stand.bash("ls /proc | grep -c '^[0-9]'; cat /proc/1/comm");
    let count: u32 = told.text.lines().next().and_then(|line| line.parse().ok()).expect("a count");
    assert!(count < 8, "{}", told.text);
    let outside = std::process::id();
    assert_ne!(stand.bash(&format!("kill -0 {outside}")).code, 0);
}

#[test]
fn a_command_can_neither_read_trace_nor_signal_the_tool_server() {
    let stand = Stand::new();
    for path in ["environ", "mem", "maps", "exe", "fd/3", "root/etc/passwd", "auxv", "stack", "syscall"] {
        let told = stand.bash(&format!("cat /proc/1/{path}"));
        assert_ne!(told.code, 0, "/proc/1/{path}: {}", told.text);
    }
    assert_ne!(stand.bash("ls /proc/1/fd/").code, 0);
    assert_ne!(stand.bash("readlink /proc/1/cwd /proc/1/root /proc/1/exe").code, 0);
    for signal in [0, 15, 19, 9] {
        assert_ne!(stand.bash(&format!("kill -{signal} 1")).code, 0, "signal {signal} reaches process 1");
    }
    assert_eq!(stand.bash("echo alive").text, "alive\n");
}

#[test]
fn one_command_cannot_signal_another() {
    let stand = Stand::new();
    let pid = stand.bash("setsid sleep 1000 >/dev/null 2>&1 & echo $!").text;
    let told = stand.bash(&format!("test -d /proc/{pid} && kill -9 {pid}", pid = pid.trim()));
    assert_ne!(told.code, 0);
    assert!(told.text.contains("not permitted"), "it is there, and out of reach: {}", told.text);
}

#[test]
fn both_landlock_domains_are_in_force() {
    // The kernel takes 16 layers: the sandbox's own two leave room for 14.
    let stand = Stand::new();
    let told = stand.python(
        "import ctypes, struct\nlibc = ctypes.CDLL(None, use_errno=True)\nattr = struct.pack('QQ', 1, 0)\nn = 0\nwhile True:\n fd = libc.syscall(444, attr, 8, 0)\n if libc.syscall(446, fd, 0) != 0: break\n n += 1\nprint(n, ctypes.get_errno())",
    );
    assert_eq!(told.text, "14 7\n", "layers left, then E2BIG");
}

#[test]
fn the_tool_server_holds_four_descriptors_and_none_of_the_spawners() {
    let stand = Stand::new();
    // Once it answers, its loader has closed the libraries.
    stand.ask(&Ask::Read("/etc/hostname".into()));
    let directory = format!("/proc/{}/fd", stand.sandbox.pid);
    match fs::read_dir(directory) {
        Ok(entries) => {
            let mut numbers: Vec<u32> =
                entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, [0, 1, 2, 3]);
        }
        Err(error) => assert!(!is_root(), "root may look: {error}"),
    }
}

#[test]
fn what_the_spawner_and_its_parent_knew_is_not_in_the_tool_servers_memory() {
    let canary = format!("cnry{:032x}", std::process::id() as u128 * 0x9e37_79b9_7f4a_7c15);
    // The first specification passes through the spawner's memory; the second sandbox is cloned from that memory.
    let first = Stand::with(|spec, _| spec.environment.push(("CANARY".into(), canary.clone())));
    assert_eq!(first.bash("echo $CANARY").text.trim(), canary);
    let second = crate::stand::spec(first.directory.path(), "sesn_second");
    let sandbox = first.runtime.block_on(first.spawner.build(second)).expect("builds");
    if is_root() {
        assert!(memory_holds(first.sandbox.pid, canary.as_bytes()), "the search finds what is there");
        assert!(!memory_holds(sandbox.pid, canary.as_bytes()), "the second sandbox holds the first one's value");
    } else {
        // Nobody but root can look, not even the user it belongs to outside.
        assert!(fs::File::open(format!("/proc/{}/mem", sandbox.pid)).is_err());
        assert!(fs::read(format!("/proc/{}/environ", sandbox.pid)).is_err());
    }
}

fn memory_holds(pid: u32, needle: &[u8]) -> bool {
    use std::os::unix::fs::FileExt;
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("root may");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("root may");
    maps.lines().filter_map(|line| line.split_whitespace().next()?.split_once('-')).any(|(start, end)| {
        let at = |text: &str| u64::from_str_radix(text, 16).expect("the kernel writes hexadecimal");
        let mut bytes = vec![0; usize::try_from(at(end) - at(start)).expect("fits").min(64 << 20)];
        memory.read_at(&mut bytes, at(start)).is_ok() && bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[test]
fn two_sandboxes_know_nothing_of_each_other() {
    let first = Stand::new();
    let second = crate::stand::spec(first.directory.path(), "sesn_second");
    let other = first.runtime.block_on(first.spawner.build(second)).expect("builds");
    assert_ne!(first.sandbox.pid, other.pid);
    assert_eq!(first.bash("ls -A /workspace").text, ".home\n");
    assert_ne!(first.bash(&format!("kill -0 {}", other.pid)).code, 0);
    let uids: Vec<String> = [first.sandbox.pid, other.pid]
        .iter()
        .map(|pid| fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("reads"))
        .collect();
    assert_eq!(uids[0] == uids[1], !is_root(), "as root each has a kernel user of its own: {uids:?}");
}
