//! Which system calls are answered, and how.

use postern_sandbox::Control;

use crate::stand::{Stand, is_held};

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

/// A call that a line of the reviewed list names, with arguments for which the line holds.
#[derive(Debug, Clone)]
struct Call {
    action: &'static str,
    name: &'static str,
    arguments: [u64; 6],
}

/// A sandbox's own list, and what is refused everywhere.
const LISTS: [&str; 2] = [include_str!("../../../data/seccomp.list"), postern_confine::seccomp::NEVER];
/// What a sandbox may besides whose memory a group holds.
const COUNTED: &str = include_str!("../../../data/counted.list");

/// Every call of every line, where this architecture has it.
fn listed() -> Vec<Call> {
    listed_in(&LISTS)
}

fn listed_in(lists: &[&'static str]) -> Vec<Call> {
    let lines = lists.iter().copied().flat_map(str::lines).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut calls = Vec::new();
    for line in lines {
        let mut words = line.split(" -- ").next().expect("a line has words").split(' ');
        let action = words.next().expect("a line has an action");
        let (conditions, names): (Vec<&str>, Vec<&str>) = words.partition(|word| word.contains('='));
        for name in names {
            let (name, arch) = name.split_once('@').unwrap_or((name, std::env::consts::ARCH));
            if arch == std::env::consts::ARCH {
                calls.push(Call { action, name, arguments: arguments(&conditions) });
            }
        }
    }
    calls
}

/// Arguments for which all of the conditions hold.
fn arguments(conditions: &[&str]) -> [u64; 6] {
    let mut arguments = [0; 6];
    let excluded = |argument: &str| -> Vec<u64> {
        conditions.iter().filter_map(|it| it.strip_prefix(argument)?.strip_prefix("!=").map(number)).collect()
    };
    for condition in conditions {
        let (left, value) = condition.split_once('=').expect("a condition");
        let index: usize = left[3..4].parse().expect("an argument's number");
        arguments[index] = match left.ends_with('!') {
            false => number(value),
            true => {
                let excluded = excluded(&left[..4]);
                [40, 12, 132].into_iter().find(|candidate| !excluded.contains(candidate)).expect("one is not excluded")
            }
        };
    }
    arguments
}

fn number(text: &str) -> u64 {
    let parsed = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
    parsed.expect("the list holds numbers")
}

/// The number of a call here, as the compiler of filters knows it.
fn number_of(name: &str) -> u32 {
    /// `BPF_JMP | BPF_JEQ | BPF_K`.
    const EQUAL: u16 = 0x15;
    let filter = serde_json::json!({"filter": {"mismatch_action": "allow", "match_action": "trap", "filter": [{"syscall": name}]}});
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with filters");
    let programs = seccompiler::compile_from_json(filter.to_string().as_bytes(), arch).expect("compiles");
    programs["filter"].iter().rfind(|step| step.code == EQUAL).expect("a comparison").k
}

/// Makes calls by number, each in a process of its own that may hang or die of it; what each was answered.
const TRY_EACH: &str = "
import ctypes, os, select, signal
libc = ctypes.CDLL(None, use_errno=True)
for name, number, arguments in calls:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.set_errno(0)
        answered = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(argument) for argument in arguments])
        os.write(writing, str(ctypes.get_errno() if answered == -1 else 0).encode())
        os._exit(0)
    os.close(writing)
    ready = select.select([reading], [], [], 2)[0]
    print(name, (os.read(reading, 8).decode() if ready else '') or 'made', flush=True)
    os.close(reading)
    os.kill(pid, signal.SIGKILL)
";

fn script(calls: &[(&str, u32, [i64; 6])]) -> String {
    let calls: Vec<String> =
        calls.iter().map(|(name, number, arguments)| format!("({name:?}, {number}, {arguments:?})")).collect();
    format!("calls = [{}]{TRY_EACH}", calls.join(", "))
}

/// Name and answer of each line that is one: a call may make its process say something of its own.
fn answers(text: &str) -> Vec<(String, String)> {
    let pairs = text.lines().filter_map(|line| line.split_once(' ')).filter(|(_, answer)| !answer.contains(' '));
    pairs.map(|(name, answer)| (name.to_owned(), answer.to_owned())).collect()
}

#[test]
fn every_denied_call_of_the_list_is_answered_eperm_in_a_sandbox() {
    assert_eq!(i64::from(number_of("unshare")), libc::SYS_unshare, "numbers are read from where they stand");
    let stand = Stand::new();
    let denied: Vec<Call> = listed().into_iter().filter(|call| call.action == "deny").collect();
    let calls: Vec<_> =
        denied.iter().map(|call| (call.name, number_of(call.name), call.arguments.map(u64::cast_signed))).collect();
    for chunk in calls.chunks(40) {
        let told = stand.python(&script(chunk));
        assert_eq!(answers(&told.text).len(), chunk.len(), "{}", told.text);
        for (name, answer) in answers(&told.text) {
            assert_eq!(answer, "1", "{name} must be answered with EPERM");
        }
    }
    assert!(calls.len() > 80, "the list is read: {}", calls.len());
}

#[test]
fn every_allowed_call_of_the_list_is_made_where_the_kernel_has_it() {
    let stand = Stand::new();
    let counted = if is_held(&stand, Control::MemoryHard) { listed_in(&[COUNTED]) } else { Vec::new() };
    let allowed = listed().into_iter().chain(counted).filter(|call| call.action == "allow");
    // Arguments that no call can do anything with.
    let calls: Vec<_> = allowed.map(|call| (call.name, number_of(call.name), [-1; 6])).collect();
    let mut unknown = Vec::new();
    for chunk in calls.chunks(40) {
        let told = stand.python(&script(chunk));
        let answers = answers(&told.text);
        assert_eq!(answers.len(), chunk.len(), "{}", told.text);
        unknown.extend(answers.into_iter().filter(|(_, answer)| answer == "38").map(|(name, _)| name));
    }
    assert!(calls.len() > 200 && unknown.len() < 20, "{unknown:?}");
    // A kernel that does not have a call says so without a filter too.
    let outside: Vec<_> = calls.into_iter().filter(|(name, ..)| unknown.iter().any(|it| it == name)).collect();
    #[expect(clippy::disallowed_methods, reason = "the same attempt outside of any sandbox")]
    let output =
        std::process::Command::new("/usr/bin/python3").args(["-c", &script(&outside)]).output().expect("starts");
    for (name, answer) in answers(&String::from_utf8_lossy(&output.stdout)) {
        assert_eq!(answer, "38", "{name} is allowed by the list and not made in a sandbox");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn dangerous_calls_answer_eperm_and_unknown_ones_enosys() {
    let stand = Stand::new();
    // Those that the list has no exact example of.
    let denied = [
        ("tiocsti_with_high_bits", "16, 0, 0x100005412, 0"),
        ("packet", "41, 17, 3, 0"),
        ("alg", "41, 38, 5, 0"),
        ("bluetooth", "41, 31, 3, 0"),
        ("audit", "41, 16, 3, 9"),
        ("sctp", "41, 2, 1, 132"),
        ("mptcp", "41, 2, 1, 262"),
        ("udplite6", "41, 10, 2, 136"),
        ("raw", "41, 2, 3, 255"),
        ("raw6", "41, 10, 3, 255"),
        ("socketpair_inet", "53, 2, 1, 0, 0"),
        ("address_randomisation_off", "135, 0x0040000"),
    ];
    for (name, error) in errors(&stand, &denied) {
        assert_eq!(error, "1", "{name} must answer EPERM");
    }
    if !is_held(&stand, Control::MemoryHard) {
        let memory = errors(&stand, &[("memfd_create", "319, 0, 0")]);
        assert_eq!(memory, [("memfd_create".to_owned(), "38".to_owned())], "nobody counts its memory here");
    }
    for (name, error) in errors(&stand, &[("clone3", "435, 0, 0"), ("unknown", "1000"), ("x32", "0x40000001, 1, 0, 0")])
    {
        assert_eq!(error, "38", "{name}");
    }
}

#[test]
fn what_programs_need_is_made() {
    let stand = Stand::new();
    let told = stand.python(
        "import socket, subprocess, threading, multiprocessing, os\nsocket.socket(socket.AF_UNIX); socket.socket(socket.AF_INET); socket.socket(socket.AF_INET6); socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nt = threading.Thread(target=lambda: None); t.start(); t.join()\nprint(subprocess.check_output(['/bin/echo', 'sub']).decode().strip())\nwith multiprocessing.Pool(2) as p: print(sum(p.map(abs, [-1, -2])))\nprint(socket.if_nameindex())",
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
