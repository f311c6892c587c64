//! What there is only so much of.

use postern_sandbox::{Control, Limit, State};

use crate::stand::{Stand, is_held, is_root};

fn state(stand: &Stand, control: Control) -> State {
    stand.sandbox.controls.iter().find(|status| status.control == control).expect("each control has a status").state
}

#[test]
fn memory_over_the_limit_kills_the_command_and_not_the_tool_server() {
    let stand = Stand::with(|spec, _| spec.memory_bytes = 128 << 20);
    let told = stand.python("x = bytearray(1 << 29)\nfor i in range(0, 1 << 29, 4096): x[i] = 1\nprint('had it')");
    assert!(!told.text.contains("had it"), "{}", told.text);
    match state(&stand, Control::MemoryHard) {
        State::Active => assert_eq!(told.code, -9, "{}", told.text),
        _ => assert!(told.text.contains("MemoryError"), "{}", told.text),
    }
    assert_eq!(stand.bash("echo alive").text, "alive\n");
}

#[test]
fn many_processes_together_do_not_pass_the_memory_limit_either() {
    let stand = Stand::with(|spec, _| spec.memory_bytes = 128 << 20);
    stand.channel.send(&crate::probe::Ask::Run(["/usr/bin/python3", "-c", "import os, time\nfor i in range(8):\n if os.fork() == 0:\n  x = bytearray(48 << 20)\n  for i in range(0, len(x), 4096): x[i] = 1\n  time.sleep(15); os._exit(0)\nfails = sum(os.waitstatus_to_exitcode(os.wait()[1]) != 0 for i in range(8))\nprint('killed', fails)"].map(str::to_owned).to_vec()), &[]).expect("sends");
    if is_held(&stand, Control::MemoryHard) {
        let (told, _) = stand.channel.receive::<crate::probe::Told>(1 << 20).expect("answers").expect("lives");
        assert!(told.code == -9 || (told.text.starts_with("killed") && told.text != "killed 0\n"), "{told:?}");
    } else {
        let mut ending = stand.sandbox.ending();
        let exit = stand
            .runtime
            .block_on(async { tokio::time::timeout(std::time::Duration::from_secs(40), ending.wait()).await });
        assert!(exit.expect("the watchdog ends it").how.contains("watchdog"));
    }
    // Not moved before: the sandbox lives until here.
    drop(stand);
}

/// Fills memory that no process shows, beside what one does, and waits.
fn fills(memory: &str) -> Stand {
    let stand = Stand::with(|spec, _| spec.memory_bytes = 256 << 20);
    let filling = format!("import ctypes, os, time\n{memory}\nprint('has it', flush=True)\ntime.sleep(60)");
    let words = ["/usr/bin/python3", "-c", &filling].map(str::to_owned).to_vec();
    stand.channel.send(&crate::probe::Ask::Run(words), &[]).expect("sends");
    stand
}

#[test]
fn memory_that_no_process_shows_does_not_pass_the_limit_either() {
    const FILES: &str = "\
        held = [os.open(f'/dev/shm/{i}', os.O_RDWR | os.O_CREAT) for i in range(2)]\n\
        for i in range(2): os.unlink(f'/dev/shm/{i}')\n\
        for i in range(110): os.write(held[i % 2], bytes(1 << 20))\n\
        mine = bytearray(160 << 20)\nfor i in range(0, len(mine), 4096): mine[i] = 1";
    const SEGMENTS: &str = "\
        libc = ctypes.CDLL(None, use_errno=True)\nlibc.shmat.restype = ctypes.c_void_p\n\
        for i in range(8):\n\
        \x20at = libc.shmat(libc.shmget(0, ctypes.c_size_t(48 << 20), 0o1600), None, 0)\n\
        \x20ctypes.memset(at, 1, 48 << 20)\n libc.shmdt(ctypes.c_void_p(at))";
    for memory in [FILES, SEGMENTS] {
        let stand = fills(memory);
        if is_held(&stand, Control::MemoryHard) {
            let (told, _) = stand.channel.receive::<crate::probe::Told>(1 << 20).expect("answers").expect("lives");
            assert_eq!((told.code, told.text.as_str()), (-9, ""), "{memory}");
            continue;
        }
        let mut ending = stand.sandbox.ending();
        let limit = std::time::Duration::from_secs(40);
        let exit = stand.runtime.block_on(async { tokio::time::timeout(limit, ending.wait()).await });
        assert_eq!(exit.unwrap_or_else(|_| panic!("the watchdog ends it: {memory}")).passed, Some(Limit::Memory));
    }
}

#[test]
fn memory_without_a_place_is_there_only_where_it_is_counted() {
    let stand = Stand::new();
    let made = "import os\ntry: os.memfd_create('x'); print(0)\nexcept OSError as error: print(error.errno)";
    let expected = if is_held(&stand, Control::MemoryHard) { "0\n" } else { "38\n" };
    assert_eq!(stand.python(made).text, expected);
}

#[test]
fn a_fork_bomb_is_stopped_and_the_sandbox_still_answers() {
    let stand = Stand::with(|spec, _| spec.processes = 64);
    let told = stand.python("import os, time\nn = 0\nwhile True:\n try:\n  if os.fork() == 0: time.sleep(30); os._exit(0)\n  n += 1\n except OSError as e: print(n, e.errno, flush=True); break\nos.killpg(0, 9)");
    let (count, errno) = told.text.trim().split_once(' ').expect("two numbers");
    assert!(count.parse::<u32>().expect("a count") < 64, "{}", told.text);
    assert_eq!(errno, "11", "EAGAIN");
    assert_eq!(state(&stand, Control::ProcessesHard), State::Active);
    assert_eq!(stand.bash("echo alive").text, "alive\n");
    let threads = stand.python("import threading, time\nn = 0\ntry:\n while True: threading.Thread(target=time.sleep, args=(5,), daemon=True).start(); n += 1\nexcept RuntimeError: print(n < 64, flush=True)\nimport os; os._exit(0)");
    assert_eq!(threads.text, "True\n", "threads count as well");
}

#[test]
fn processor_time_is_shared_as_told() {
    let stand = Stand::with(|spec, _| spec.cpus = 0.2);
    if !is_held(&stand, Control::CpuHard) {
        let is_there = |path: &str| std::path::Path::new(path).exists();
        // Of version 2 one must be delegated, to root too.
        let may_lack = is_there("/sys/fs/cgroup/cgroup.controllers") || !is_there("/sys/fs/cgroup");
        assert!(!is_root() || may_lack, "root with control groups of version 1 must hold it");
        return;
    }
    let told = stand.python("import time\nstart = time.monotonic()\nwhile time.monotonic() - start < 1.5: pass\nprint(time.process_time() / 1.5 < 0.35)");
    assert_eq!(told.text, "True\n");
}

#[test]
fn a_file_cannot_pass_the_disk_limit_and_scratch_space_ends() {
    let stand = Stand::with(|spec, _| spec.disk_bytes = 8 << 20);
    // Empty space takes no disk, so that only the limit of one file is met here.
    let told = stand.bash("truncate -s 8388608 big && ! truncate -s 8388609 big && stat -c %s big");
    assert_eq!(told.text.lines().last(), Some("8388608"), "{}", told.text);
    assert_eq!(state(&stand, Control::DiskHard), State::Degraded, "and it says that this is not a quota");
    let told = Stand::with(|spec, _| spec.memory_bytes = 64 << 20)
        .bash("for i in 1 2 3 4 5 6; do head -c 10000000 /dev/zero > /tmp/$i || exit 9; done");
    assert_eq!(told.code, 9, "{}", told.text);
    assert!(told.text.contains("No space"), "{}", told.text);
}

#[test]
fn many_files_together_do_not_pass_the_disk_limit_for_long() {
    let stand = Stand::with(|spec, _| spec.disk_bytes = 8 << 20);
    let told =
        stand.bash("mkdir -p deep/er && for i in 1 2 3; do head -c 4000000 /dev/zero > deep/er/$i; done; echo written");
    assert_eq!(told.text, "written\n");
    let mut ending = stand.sandbox.ending();
    let limit = std::time::Duration::from_secs(20);
    let exit = stand.runtime.block_on(async { tokio::time::timeout(limit, ending.wait()).await });
    let exit = exit.expect("the watchdog ends it");
    assert_eq!(exit.passed, Some(Limit::Disk), "{exit:?}");
    assert!(exit.how.contains("disk"), "{exit:?}");
    assert!(stand.directory.path().join("sesn_test/deep/er/3").exists(), "the files stay for whoever looks");
}

#[test]
fn a_flood_of_questions_does_not_keep_the_watchdog_from_looking() {
    const ASKING: usize = 16;
    let stand = Stand::with(|spec, _| spec.disk_bytes = 8 << 20);
    let written = stand.bash("for i in 1 2 3; do head -c 4000000 /dev/zero > $i; done; echo written");
    assert_eq!(written.text, "written\n");
    let mut ending = stand.sandbox.ending();
    let exit = stand.runtime.block_on(async {
        let flood = (0..ASKING).map(|_| {
            let spawner = stand.spawner.clone();
            tokio::spawn(async move { while spawner.controls().await.is_ok() {} })
        });
        let flood: Vec<_> = flood.collect();
        let exit = tokio::time::timeout(std::time::Duration::from_secs(20), ending.wait()).await;
        flood.iter().for_each(tokio::task::JoinHandle::abort);
        exit
    });
    assert_eq!(exit.expect("the watchdog ends it").passed, Some(Limit::Disk));
}

#[test]
fn there_are_no_core_files_and_open_files_end() {
    let stand = Stand::new();
    assert_eq!(
        stand.bash("ulimit -c; ulimit -Hc; ulimit -r; ulimit -n").text.lines().take(3).collect::<Vec<_>>(),
        ["0", "0", "0"]
    );
    assert!(stand.bash("ulimit -Hn").text.trim().parse::<u32>().expect("a limit") <= 16_384);
    assert_ne!(stand.bash("ulimit -Hc 1").code, 0, "limits only sink");
    // Not zero: that would let the kernel pipe a dump to a helper of the host.
    assert!(stand.bash("grep 'Max core file size' /proc/self/limits").text.contains("1                    1 "));
}

#[test]
fn memory_that_is_locked_and_message_queues_have_an_end() {
    let told = Stand::new().python(
        "import ctypes, mmap, resource\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         def lock(size):\n space = mmap.mmap(-1, size)\n at = ctypes.addressof(ctypes.c_char.from_buffer(space))\n return libc.mlock(ctypes.c_void_p(at), ctypes.c_size_t(size))\n\
         print(lock(4096), lock(16 << 20), resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] <= 8 << 20)\n\
         queues = [int(line.split()[4]) for line in open('/proc/self/limits') if line.startswith('Max msgqueue')]\n\
         print(queues[0] <= 1 << 20)",
    );
    assert_eq!(told.text, "0 -1 True\nTrue\n");
}

#[test]
fn a_program_that_crashes_leaves_no_core() {
    let stand = Stand::new();
    let told = stand.python(
        "import os\npid = os.fork()\nif pid == 0: os.abort()\nstatus = os.waitpid(pid, 0)[1]\nprint(os.WTERMSIG(status), os.WCOREDUMP(status), [name for name in os.listdir('.') if 'core' in name])",
    );
    assert_eq!(told.text, "6 False []\n");
}
