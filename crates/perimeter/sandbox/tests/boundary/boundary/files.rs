//! What the agent sees as files.

use std::os::unix::fs::MetadataExt;

use postern_sandbox::{Access, Mount, Trust};

use crate::probe::Ask;
use crate::stand::{Stand, is_root};

const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIBtest\n-----END CERTIFICATE-----\n";

#[test]
fn a_command_runs_as_the_agent_in_its_workspace() {
    let stand = Stand::new();
    let told = stand.bash("id -u; id -g; id -G; id -un; pwd; echo $HOME; hostname; touch x && ls");
    assert_eq!(told.text.replace(" 65534", ""), "1000\n1000\n1000\nagent\n/workspace\n/workspace/.home\nsandbox\nx\n");
    assert_eq!(told.code, 0);
}

#[test]
fn the_system_is_read_only_everywhere_outside_the_writable_places() {
    let stand = Stand::new();
    for path in [
        "/x",
        "/usr/x",
        "/usr/bin/x",
        "/etc/x",
        "/etc/ssl/x",
        "/mnt/x",
        "/mnt/session/x",
        "/run/x",
        "/dev/x",
        "/proc/x",
        "/proc/sys/kernel/hostname",
        "/bin/x",
        "/lib/x",
    ] {
        let told = stand.bash(&format!("echo x > {path}"));
        assert_ne!(told.code, 0, "{path} is writable");
    }
    for path in ["/workspace/x", "/workspace/.home/x", "/tmp/x", "/dev/shm/x", "/var/tmp/y", "/dev/null"] {
        let told = stand.bash(&format!("echo x > {path}"));
        assert_eq!(told.code, 0, "{path} is not writable: {}", told.text);
    }
    assert_ne!(stand.bash("mount -o remount,rw /usr || chmod 777 /etc/passwd || rm -f /etc/passwd").code, 0);
}

#[test]
fn what_all_sandboxes_are_shown_of_etc_none_can_change() {
    let stand = Stand::new();
    let told = stand.bash(
        "for way in 'echo x >> /etc/hosts' 'touch /etc/hosts' 'chmod 666 /etc/services' 'ln -f /etc/hosts /workspace/h' \
           'ln -sf /tmp /etc/localtime' 'mv /etc/hosts /etc/h' 'rmdir /etc/ssl' 'mkdir /etc/x' 'echo x > /.postern/x' \
           'setfattr -n user.x -v y /etc/hosts' 'truncate -s 0 /etc/ld.so.cache'; do \
           sh -c \"$way\" 2>/dev/null && echo \"$way\"; done; head -1 /etc/hosts",
    );
    assert_eq!(told.text.trim(), "127.0.0.1 localhost sandbox");
    let of_the_host = std::fs::read("/etc/services").map(|text| text.len().to_string()).unwrap_or_default();
    assert_eq!(stand.bash("cat /etc/services | wc -c").text.trim(), of_the_host);
}

#[test]
fn nothing_of_the_host_is_there_but_the_listed_places() {
    let stand = Stand::new();
    let told = stand.bash("ls -A / | tr '\\n' ' '");
    let allowed = [
        ".empty",
        ".postern",
        "bin",
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "mnt",
        "proc",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr",
        "var",
        "workspace",
    ];
    for name in told.text.split_whitespace() {
        assert!(allowed.contains(&name), "/{name} is visible");
    }
    for path in [
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/ssh",
        "/etc/sudoers",
        "/root",
        "/home",
        "/sys/kernel",
        "/etc/machine-id",
        "/run/dbus",
        "/etc/npmrc",
        "/etc/pip.conf",
    ] {
        assert_ne!(stand.bash(&format!("ls -d {path}")).code, 0, "{path} is visible");
    }
    assert_eq!(stand.bash("ls -A /tmp /run /etc/ssl/private 2>&1 | grep -v ':$' | grep .").text, "");
    let here = stand.directory.path().display();
    assert_ne!(stand.bash(&format!("ls {here}")).code, 0, "the host's scratch directory is visible");
}

#[test]
fn every_mount_refuses_set_user_id_and_all_but_devices_refuse_devices() {
    let stand = Stand::new();
    let told = stand.bash("cat /proc/self/mountinfo");
    assert!(told.text.lines().count() > 10);
    for line in told.text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        assert!(fields[5].contains("nosuid"), "{line}");
        assert!(!line.contains("shared:") && !line.contains("master:"), "it hears of mounts outside: {line}");
        assert!(fields[5].contains("nodev") || fields[4].starts_with("/dev/"), "{line}");
    }
}

#[test]
fn root_tmp_and_shared_memory_are_one_file_system_and_none_of_them_leads_to_another() {
    let stand = Stand::new();
    let told = stand.bash("cat /proc/self/mountinfo").text;
    let lies = |place: &str| {
        let line = told.lines().find(|line| line.split(' ').nth(4) == Some(place)).expect("it is mounted");
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[2].to_owned(), fields[3].to_owned(), fields[5].to_owned())
    };
    let [root, tmp, shared] = ["/", "/tmp", "/dev/shm"].map(lies);
    assert!(root.0 == tmp.0 && tmp.0 == shared.0, "each more costs every control group of the machine: {told}");
    assert_eq!([root.1, tmp.1, shared.1], ["/root", "/tmp", "/shm"]);
    assert!(root.2.starts_with("ro,") && tmp.2.starts_with("rw,") && shared.2.contains("noexec"), "{told}");
    assert_eq!(stand.bash("ls -A /tmp/..").text, stand.bash("ls -A /").text);
    assert_ne!(stand.bash("echo x > /tmp/linked && ln /tmp/linked /dev/shm/linked").code, 0);
    assert_ne!(stand.bash("mkdir /tmp/moved && mv -T /tmp/moved /moved").code, 0);
    assert_eq!(stand.bash("cp /bin/true /tmp/program && /tmp/program").code, 0);
    assert_ne!(stand.bash("cp /bin/true /dev/shm/program && /dev/shm/program").code, 0);
}

#[test]
fn what_proc_says_of_the_machine_is_masked() {
    let stand = Stand::new();
    for path in [
        "/proc/cmdline",
        "/proc/kallsyms",
        "/proc/modules",
        "/proc/config.gz",
        "/proc/keys",
        "/proc/diskstats",
        "/proc/timer_list",
        "/proc/kcore",
    ] {
        assert_eq!(stand.bash(&format!("cat {path} 2>/dev/null | head -c 10")).text, "", "{path}");
    }
    assert_eq!(stand.bash("cat /proc/sys/kernel/random/boot_id").text, "");
    assert_ne!(stand.bash("echo h > /proc/sysrq-trigger").code, 0);
    assert!(
        stand.bash("cat /proc/sys/kernel/ostype /proc/meminfo /proc/self/cgroup").text.contains("MemTotal"),
        "what programs need is there"
    );
    let cgroup = stand.bash("cut -d: -f3 /proc/self/cgroup | sort -u").text;
    assert!(!cgroup.contains("postern-"), "the host's hierarchy shows: {cgroup}");
}

/// What of the machine's /proc programs need, or what tells nothing: everything else must be empty or out of reach.
const SHOWN_OF_PROC: [&str; 24] = [
    "buddyinfo",
    "cgroups",
    "consoles",
    "cpuinfo",
    "crypto",
    "devices",
    "dma",
    "execdomains",
    "fb",
    "filesystems",
    "iomem",
    "ioports",
    "loadavg",
    "locks",
    "meminfo",
    "misc",
    "pagetypeinfo",
    "schedstat",
    "softirqs",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
];

#[test]
fn nothing_else_of_proc_can_be_read_nothing_of_it_written_and_sys_is_empty() {
    let stand = Stand::new();
    let told = stand.python(
        "import os\nfor name in sorted(os.listdir('/proc')):\n if name.isdigit() or name in ('self', 'thread-self', 'net', 'mounts', 'zoneinfo', 'dynamic_debug'): continue\n path = '/proc/' + name\n if os.path.isdir(path):\n  if name not in ('sys', 'bus', 'fs', 'irq') and os.listdir(path): print('directory', name)\n  continue\n try: fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)\n except OSError: continue\n try:\n  if os.read(fd, 1): print('file', name)\n except OSError: pass",
    );
    for line in told.text.lines() {
        let name = line.strip_prefix("file ").unwrap_or(line);
        assert!(SHOWN_OF_PROC.contains(&name), "/proc shows {line}, which nobody looked at");
    }
    assert!(told.text.contains("file meminfo"), "the walk sees what is there: {}", told.text);
    let told = stand.python(
        "import os\nopened = seen = 0\nfor top in ('sys', 'bus', 'fs', 'irq', 'driver', 'acpi'):\n for directory, _, files in os.walk('/proc/' + top):\n  for name in files:\n   seen += 1\n   try: os.close(os.open(directory + '/' + name, os.O_WRONLY | os.O_NONBLOCK)); opened += 1; print(directory, name)\n   except OSError: pass\nprint(seen > 100, opened)",
    );
    assert_eq!(told.text, "True 0\n");
    assert_eq!(stand.bash("ls -A /sys").text, "");
}

#[test]
fn the_environment_is_closed_and_the_zones_variables_are_in_it() {
    let stand = Stand::new();
    let told = stand.bash("env | cut -d= -f1 | sort | tr '\\n' ' '");
    let expected = "HOME HTTPS_PROXY HTTP_PROXY LANG LOGNAME NO_PROXY PATH PLACEHOLDER PWD SHELL SHLVL TERM TMPDIR USER _ http_proxy https_proxy no_proxy";
    assert_eq!(told.text.trim(), expected);
    assert_eq!(stand.bash("echo $PATH $PLACEHOLDER").text, "/usr/local/bin:/usr/bin:/bin pstn-value\n");
}

#[test]
fn the_sessions_authority_alone_is_trusted_where_every_connection_is_inspected() {
    let stand = Stand::with(|spec, _| spec.ca_certificate_pem = CA.into());
    for bundle in ["$SSL_CERT_FILE", "$REQUESTS_CA_BUNDLE", "$NODE_EXTRA_CA_CERTS", "$GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]
    {
        assert_eq!(stand.bash(&format!("cat {bundle}")).text, CA, "{bundle}");
    }
    if std::path::Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        assert_eq!(stand.bash("cat /etc/ssl/certs/ca-certificates.crt").text, CA);
    }
}

#[test]
fn the_hosts_authorities_are_trusted_beside_it_where_connections_pass_uninspected() {
    let stand = Stand::with(|spec, _| {
        spec.ca_certificate_pem = CA.into();
        spec.trust = Trust::HostsToo;
    });
    for variable in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"] {
        assert_eq!(stand.bash(&format!("grep -c MIIBtest ${variable}")).text, "1\n", "{variable}");
        assert!(
            stand.bash(&format!("grep -c BEGIN ${variable}")).text.trim().parse::<u32>().expect("a count") > 1,
            "{variable} lacks the system's"
        );
    }
    assert_eq!(stand.bash("cat $NODE_EXTRA_CA_CERTS").text, CA);
    if std::path::Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        assert_eq!(
            stand.bash("grep -c MIIBtest /etc/ssl/certs/ca-certificates.crt").text,
            "1\n",
            "programs that read the system's bundle"
        );
    }
    assert!(
        !std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default().contains("MIIBtest"),
        "the host is untouched"
    );
}

#[test]
fn files_of_the_hosts_etc_are_shown_as_they_are_and_read_only() {
    let stand = Stand::new();
    for file in ["/etc/services", "/etc/nsswitch.conf"] {
        let Ok(here) = std::fs::read_to_string(file) else { continue };
        assert_eq!(stand.ask(&Ask::Read(file.into())).text, here);
        assert_ne!(stand.bash(&format!("echo more >> {file}")).code, 0, "{file}");
    }
}

#[test]
fn a_lent_directory_is_there_as_lent() {
    let stand = Stand::with(|spec, directory| {
        for (name, access) in [("read", Access::Read), ("write", Access::Write)] {
            let host = directory.join(name);
            std::fs::create_dir(&host).expect("makes it");
            std::fs::write(host.join("file"), name).expect("writes");
            postern_sandbox::workspace::give(&host, spec.kernel_uid.unwrap_or(rustix::process::getuid().as_raw()))
                .expect("gives");
            spec.mounts.push(Mount { host, at: format!("/data/{name}").into(), access });
        }
    });
    assert_eq!(stand.bash("cat /data/read/file /data/write/file").text, "readwrite");
    assert_ne!(stand.bash("echo x > /data/read/file").code, 0);
    assert_ne!(stand.bash("echo x > /data/x").code, 0);
    let told = stand.bash("echo changed > /data/write/file");
    assert_eq!(told.code, 0, "{}", told.text);
    assert_eq!(std::fs::read_to_string(stand.directory.path().join("write/file")).expect("reads"), "changed\n");
}

#[test]
fn files_of_the_agent_belong_outside_to_the_sandboxs_kernel_user() {
    let stand = Stand::new();
    assert_eq!(stand.bash("echo x > made; ln -s /etc/shadow link").code, 0);
    let owner = std::fs::metadata(stand.directory.path().join("sesn_test/made")).expect("is there").uid();
    if is_root() {
        assert!(owner >= postern_sandbox::LOWEST_KERNEL_UID);
    } else {
        assert_eq!(owner, rustix::process::getuid().as_raw());
    }
    assert_ne!(stand.bash("cat link").code, 0, "a link leads nowhere outside");
}

#[test]
fn the_tool_server_can_read_the_workspace_as_the_agent() {
    let stand = Stand::new();
    stand.bash("umask 077; echo mine > private");
    assert_eq!(stand.ask(&Ask::Read("/workspace/private".into())).text, "mine\n");
}

/// The first processes of sandboxes and stubs, once there are so many.
fn first_processes(stand: &Stand, count: usize) -> Vec<u32> {
    let spawner = stand.spawner.id();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let children = std::fs::read_to_string(format!("/proc/{spawner}/task/{spawner}/children")).expect("reads");
        let children: Vec<u32> = children.split_whitespace().map(|child| child.parse().expect("a number")).collect();
        if children.len() >= count {
            return children;
        }
        assert!(std::time::Instant::now() < deadline, "no stub was prepared");
        std::thread::yield_now();
    }
}

/// As root alone: nobody else may mount on the host.
#[test]
fn a_mount_that_came_and_went_costs_no_stub_where_the_kernel_numbers_mounts() {
    use rustix::mount::{MountFlags, UnmountFlags};
    let stand = Stand::new();
    let prepared = first_processes(&stand, 3);
    if is_root() {
        rustix::mount::mount("tmpfs", stand.directory.path(), "tmpfs", MountFlags::empty(), None).expect("mounts");
        rustix::mount::unmount(stand.directory.path(), UnmountFlags::DETACH).expect("unmounts");
    }
    let second = crate::stand::spec(stand.directory.path(), "sesn_second");
    let second = stand.runtime.block_on(stand.spawner.build(second)).expect("builds");
    let from_stub = prepared.contains(&second.pid);
    assert_eq!(from_stub, !is_root() || kernel_numbers_mounts(), "{} of {prepared:?}", second.pid);
}

/// From Linux 6.8 on.
fn kernel_numbers_mounts() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(8))
}

/// As root alone: nobody else may mount on the host.
#[test]
fn what_the_host_mounted_after_stubs_were_prepared_is_lent_as_it_is_now() {
    use rustix::mount::{MountFlags, UnmountFlags};
    let stand = Stand::new();
    if !is_root() {
        let lent = crate::stand::spec(stand.directory.path(), "sesn_second");
        assert!(stand.runtime.block_on(stand.spawner.build(lent)).is_ok(), "an ordinary user's stubs serve as well");
        return;
    }
    first_processes(&stand, 2);
    let place = stand.directory.path().join("mounted");
    std::fs::create_dir(&place).expect("makes");
    rustix::mount::mount("tmpfs", &place, "tmpfs", MountFlags::empty(), c"mode=0755").expect("mounts");
    std::fs::write(place.join("seen"), "now\n").expect("writes");
    let mut lent = crate::stand::spec(stand.directory.path(), "sesn_second");
    lent.mounts.push(Mount { host: place.clone(), at: "/data".into(), access: Access::Read });
    let sandbox = stand.runtime.block_on(stand.spawner.build(lent));
    rustix::mount::unmount(&place, UnmountFlags::DETACH).expect("unmounts");
    let channel = postern_exec::Channel::new(sandbox.expect("builds").tools);
    channel.send(&Ask::Read("/data/seen".into()), &[]).expect("sends");
    let (told, _) = channel.receive::<crate::probe::Told>(4096).expect("answers").expect("lives");
    assert_eq!(told.text, "now\n");
}
