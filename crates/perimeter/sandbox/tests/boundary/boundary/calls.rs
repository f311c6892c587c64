//! Which system calls are answered, and how.

use crate::stand::Stand;

/// Python that makes calls by number and prints the error of each: `name number arguments...`.
fn errors(stand: &Stand, calls: &[(&str, &str)]) -> Vec<(String, String)> {
    let list: Vec<String> = calls.iter().map(|(name, arguments)| format!("({name:?}, [{arguments}])")).collect();
    let script = format!(
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\nfor name, a in [{}]:\n ctypes.set_errno(0)\n r = libc.syscall(*[ctypes.c_long(x) for x in a])\n print(name, ctypes.get_errno() if r < 0 else 'made', flush=True)\n",
        list.join(", ")
    );
    let told = stand.python(&script);
    assert_eq!(told.code, 0, "{}", told.text);
    told.text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, error)| (name.to_owned(), error.to_owned()))
        .collect()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn dangerous_calls_answer_eperm_and_unknown_ones_enosys() {
    let stand = Stand::new();
    let denied = [
        ("ptrace", "101, 0, 1, 0, 0"),
        ("process_vm_readv", "310, 1, 0, 0, 0, 0, 0"),
        ("process_vm_writev", "311, 1, 0, 0, 0, 0, 0"),
        ("unshare_user", "272, 0x10000000"),
        ("setns", "308, 0, 0"),
        ("mount", "165, 0, 0, 0, 0, 0"),
        ("umount2", "166, 0, 0"),
        ("pivot_root", "155, 0, 0"),
        ("chroot", "161, 0"),
        ("open_tree", "428, -100, 0, 0"),
        ("move_mount", "429, 0, 0, 0, 0, 0"),
        ("fsopen", "430, 0, 0"),
        ("mount_setattr", "442, 0, 0, 0, 0, 0"),
        ("io_uring_setup", "425, 1, 0"),
        ("io_uring_enter", "426, 0, 0, 0, 0, 0"),
        ("bpf", "321, 0, 0, 0"),
        ("perf_event_open", "298, 0, 0, 0, 0, 0"),
        ("userfaultfd", "323, 0"),
        ("keyctl", "250, 0, 0, 0, 0, 0"),
        ("add_key", "248, 0, 0, 0, 0, 0"),
        ("request_key", "249, 0, 0, 0, 0"),
        ("open_by_handle_at", "304, 0, 0, 0"),
        ("kcmp", "312, 1, 1, 0, 0, 0"),
        ("pidfd_getfd", "438, 0, 0, 0"),
        ("init_module", "175, 0, 0, 0"),
        ("kexec_load", "246, 0, 0, 0, 0"),
        ("reboot", "169, 0, 0, 0, 0"),
        ("clock_settime", "227, 0, 0"),
        ("sethostname", "170, 0, 0"),
        ("syslog", "103, 0, 0, 0"),
        ("vmsplice", "278, 0, 0, 0, 0"),
        ("memfd_secret", "447, 0"),
        ("personality", "135, 0x0040000"),
        ("clone_newuser", "56, 0x10000011, 0, 0, 0, 0"),
        ("clone_newns", "56, 0x00020011, 0, 0, 0, 0"),
        ("clone_newnet", "56, 0x40000011, 0, 0, 0, 0"),
        ("clone_newpid", "56, 0x20000011, 0, 0, 0, 0"),
        ("clone_newipc", "56, 0x08000011, 0, 0, 0, 0"),
        ("clone_newuts", "56, 0x04000011, 0, 0, 0, 0"),
        ("clone_newcgroup", "56, 0x02000011, 0, 0, 0, 0"),
        ("tiocsti", "16, 0, 0x5412, 0"),
        ("tiocsti_with_high_bits", "16, 0, 0x100005412, 0"),
        ("tioclinux", "16, 0, 0x541c, 0"),
        ("tiocsetd", "16, 0, 0x5423, 0"),
        ("vsock", "41, 40, 1, 0"),
        ("packet", "41, 17, 3, 0"),
        ("alg", "41, 38, 5, 0"),
        ("bluetooth", "41, 31, 3, 0"),
        ("netfilter", "41, 16, 3, 12"),
        ("audit", "41, 16, 3, 9"),
        ("sctp", "41, 2, 1, 132"),
        ("mptcp", "41, 2, 1, 262"),
        ("udplite6", "41, 10, 2, 136"),
        ("raw", "41, 2, 3, 255"),
        ("socketpair_inet", "53, 2, 1, 0, 0"),
    ];
    for (name, error) in errors(&stand, &denied) {
        assert_eq!(error, "1", "{name} must answer EPERM");
    }
    for (name, error) in errors(
        &stand,
        &[("clone3", "435, 0, 0"), ("unknown", "1000"), ("nfsservctl_gap", "180"), ("x32", "0x40000001, 1, 0, 0")],
    ) {
        let wanted = if name == "nfsservctl_gap" { "1" } else { "38" };
        assert_eq!(error, wanted, "{name}");
    }
}

#[test]
fn what_programs_need_is_made() {
    let stand = Stand::new();
    let told = stand.python(
        "import socket, subprocess, threading, multiprocessing, os\nsocket.socket(socket.AF_UNIX); socket.socket(socket.AF_INET); socket.socket(socket.AF_INET6); socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nt = threading.Thread(target=lambda: None); t.start(); t.join()\nprint(subprocess.check_output(['/bin/echo', 'sub']).decode().strip())\nwith multiprocessing.Pool(2) as p: print(sum(p.map(abs, [-1, -2])))\nos.memfd_create('x'); print(socket.if_nameindex())",
    );
    assert_eq!(told.text, "sub\n3\n[(1, 'lo')]\n");
    assert_eq!(told.code, 0);
}

#[test]
fn files_move_between_directories() {
    let stand = Stand::new();
    let told =
        stand.bash("mkdir a b && echo x > a/f && mv a/f b/g && ln b/g a/h && mv b /workspace/c && cat c/g && mkfifo p");
    assert_eq!((told.text.as_str(), told.code), ("x\n", 0));
}
