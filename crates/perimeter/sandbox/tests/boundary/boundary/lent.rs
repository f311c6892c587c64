//! What a zone lends of the host, and what comes along with it unnamed: mounts below it, sockets, pipes and keys in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use postern_sandbox::{Access, BuildError, Mount};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::stand::{Stand, is_root, spec};

/// Something mounted on the host until the test lets go of it. Only root can.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(from: &str, at: PathBuf) -> Self {
        place_for(Path::new(from), &at);
        rustix::mount::mount_bind(from, &at).expect("binds");
        Self(at)
    }

    fn fresh(kind: &str, at: PathBuf) -> Self {
        fs::create_dir_all(&at).expect("makes a place");
        rustix::mount::mount(kind, &at, kind, MountFlags::empty(), None).expect("mounts");
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn place_for(from: &Path, at: &Path) {
    if from.is_dir() {
        fs::create_dir_all(at).expect("makes a place");
    } else {
        fs::create_dir_all(at.parent().expect("has one")).expect("makes a directory");
        fs::write(at, "").expect("makes a place");
    }
}

fn lent(host: &Path, access: Access) -> Mount {
    Mount { host: host.to_owned(), at: "/data".into(), access }
}

/// Why a sandbox with this lent to it is not built.
fn refusal(stand: &Stand, host: &Path) -> Option<BuildError> {
    let mut spec = spec(stand.directory.path(), "sesn_lent");
    spec.mounts.push(lent(host, Access::Read));
    let built = stand.runtime.block_on(stand.spawner.build(spec));
    let _ended = stand.runtime.block_on(stand.spawner.destroy("sesn_lent"));
    built.err()
}

/// As root alone: nobody else may mount on the host.
#[test]
fn what_is_mounted_below_a_lent_directory_is_judged_by_what_lies_there() {
    if !is_root() {
        return;
    }
    let stand = Stand::new();
    let base = stand.directory.path().join("base");
    type Case = (&'static str, &'static str, fn(PathBuf) -> Mounted);
    let cases: [Case; 6] = [
        ("proc", "proc", |at| Mounted::fresh("proc", at)),
        ("sysfs", "sysfs", |at| Mounted::bind("/sys", at)),
        ("devices", "dev", |at| Mounted::bind("/dev", at)),
        ("passwords", "etc", |at| Mounted::bind("/etc", at)),
        ("passwords", "deep/etc-file", |at| Mounted::bind("/etc/passwd", at)),
        ("already there", "system", |at| Mounted::bind("/usr", at)),
    ];
    for (said, below, mount) in cases {
        let host = base.join(said.replace(' ', "-")).join("lent");
        fs::create_dir_all(&host).expect("makes");
        let mounted = mount(host.join(below));
        // From above, and by its own innocent name.
        for host in [&host, &mounted.0] {
            let error = refusal(&stand, host).unwrap_or_else(|| panic!("{} was lent", host.display()));
            // Whatever the host has there may hold a socket, which is found before.
            let told = error.cause.contains(said) || error.cause.contains("leads past the network");
            assert!(told && !error.fix.is_empty(), "{}: {error}", host.display());
        }
    }
}

/// As root alone: nobody else may mount on the host.
#[test]
fn files_mounted_below_a_lent_directory_go_along() {
    if !is_root() {
        return;
    }
    let stand = Stand::new();
    let host = stand.directory.path().join("lent");
    let _disk = Mounted::fresh("tmpfs", host.join("disk"));
    fs::write(host.join("disk/file"), "on the disk\n").expect("writes");
    let other = stand.directory.path().join("other");
    fs::create_dir(&other).expect("makes");
    fs::write(other.join("file"), "from elsewhere\n").expect("writes");
    let _bound = Mounted::bind(other.to_str().expect("text"), host.join("bound"));
    let stand = Stand::with(|spec, _| spec.mounts.push(lent(&host, Access::Read)));
    assert_eq!(stand.bash("cat /data/disk/file /data/bound/file").text, "on the disk\nfrom elsewhere\n");
    assert_ne!(stand.bash("echo x > /data/disk/file").code, 0);
}

/// As root alone: nobody else may mount on the host.
#[test]
fn what_holds_a_place_that_is_never_lent_is_not_lent_under_another_name() {
    if !is_root() {
        return;
    }
    let stand = Stand::new();
    let directory = stand.directory.path().join("disk");
    fs::create_dir_all(directory.join("state/audit")).expect("makes");
    // What postern keeps at one place is a directory of what is lent at another.
    let kept = Mounted::bind(directory.join("state").to_str().expect("text"), stand.directory.path().join("kept"));
    let mut spec = spec(stand.directory.path(), "sesn_lent");
    spec.mounts.push(lent(&directory, Access::Read));
    spec.kept.push(kept.0.clone());
    let error = stand.another(spec.clone()).err();
    assert!(error.as_ref().is_some_and(|error| error.cause.contains("postern's own")), "{error:?}");
    spec.kept.clear();
    assert!(stand.another(spec).is_ok());
}

#[test]
fn a_directory_that_holds_a_socket_or_a_pipe_is_not_lent_nor_is_one_by_itself() {
    let stand = Stand::new();
    let host = stand.directory.path().join("lent");
    fs::create_dir_all(host.join("one/two/three/four/five")).expect("makes");
    assert!(refusal(&stand, &host).is_none());
    for (name, said) in [("one/two/three/four/five/service", "socket"), ("one/pipe", "pipe")] {
        let place = host.join(name);
        if said == "socket" {
            UnixListener::bind(&place).expect("listens");
        } else {
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(rustix::fs::CWD, &place, rustix::fs::FileType::Fifo, mode, 0).expect("makes a pipe");
        }
        for host in [&host, &place] {
            let error = refusal(&stand, host).unwrap_or_else(|| panic!("{} was lent", host.display()));
            assert!(error.cause.contains(said) && error.cause.contains(name), "{error}");
        }
        fs::remove_file(&place).expect("removes");
    }
}

#[test]
fn keys_that_lie_near_below_a_lent_directory_keep_it_from_being_lent() {
    let stand = Stand::new();
    for (name, file) in [("a", ".ssh"), ("b", "ann/.aws"), ("c", "ann/.config/gcloud"), ("d", ".netrc")] {
        let host = stand.directory.path().join(name);
        fs::create_dir_all(host.join(file)).expect("makes");
        let error = refusal(&stand, &host).unwrap_or_else(|| panic!("{file} was lent"));
        assert!(error.cause.contains(file), "{error}");
    }
    // Far below lie the samples of programs.
    let host = stand.directory.path().join("e");
    fs::create_dir_all(host.join("node_modules/some/test/.ssh")).expect("makes");
    assert!(refusal(&stand, &host).is_none());
}

/// As root nobody is anybody there, and so nobody writes; an ordinary user's mounts know no such maps, and Landlock knows pipes alone.
#[test]
fn a_pipe_that_is_made_later_where_reading_is_lent_leads_nowhere_nor_as_root_does_a_socket() {
    let lends = [("data", Access::Read), ("cache", Access::Cache), ("own", Access::Write)];
    let stand = Stand::with(|spec, directory| {
        for (name, access) in lends {
            // Each its own: what Landlock allows in a directory it allows at each of its names.
            let host = directory.join(name);
            fs::create_dir(&host).expect("makes");
            spec.mounts.push(Mount { host, at: format!("/{name}").into(), access });
        }
    });
    let mut services = Vec::new();
    for (name, _) in lends {
        let host = stand.directory.path().join(name);
        fs::write(host.join("file"), "to be read\n").expect("writes");
        services.push(UnixListener::bind(host.join("service")).expect("listens"));
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, host.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).expect("makes");
        for made in ["service", "pipe", "file"] {
            fs::set_permissions(host.join(made), fs::Permissions::from_mode(0o777)).expect("sets");
        }
    }
    let attempt = |name: &str| {
        let told = stand.python(&format!(
            "import os, socket\n\
             print(open('/{name}/file').read().strip())\n\
             def tried(attempt):\n try: attempt(); print('made')\n except OSError as error: print(error.strerror)\n\
             tried(lambda: socket.socket(socket.AF_UNIX).connect('/{name}/service'))\n\
             tried(lambda: os.open('/{name}/pipe', os.O_RDWR | os.O_NONBLOCK))\n"
        ));
        told.text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let socket = if is_root() { "Permission denied" } else { "made" };
    for name in ["data", "cache"] {
        assert_eq!(attempt(name), ["to be read", socket, "Permission denied"], "{name}");
    }
    assert_eq!(attempt("own"), ["to be read", "made", "made"], "what may be written is no place for services");
}

/// As root alone: nobody else may mount on the host. overlayfs knows no maps of users.
#[test]
fn what_is_mounted_below_and_knows_no_maps_leaves_itself_alone_open_and_is_named() {
    if !is_root() {
        return;
    }
    let stand = Stand::new();
    let (host, disk) = (stand.directory.path().join("lent"), stand.directory.path().join("disk"));
    let _disk = Mounted::fresh("tmpfs", disk.clone());
    for directory in ["lower", "upper", "work"] {
        fs::create_dir(disk.join(directory)).expect("makes");
    }
    let over = host.join("over");
    fs::create_dir_all(&over).expect("makes");
    let layers = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", disk.display());
    let layers = std::ffi::CString::new(layers).expect("has no zero");
    rustix::mount::mount("overlay", &over, "overlay", MountFlags::empty(), &*layers).expect("mounts");
    let _over = Mounted(over.clone());
    let stand = Stand::with(|spec, _| spec.mounts.push(lent(&host, Access::Read)));
    assert_eq!(stand.sandbox.open, [PathBuf::from("/data")]);
    for (place, said) in [(host, "Permission denied"), (over, "made")] {
        let _service = UnixListener::bind(place.join("service")).expect("listens");
        fs::set_permissions(place.join("service"), fs::Permissions::from_mode(0o777)).expect("sets");
        let shown = if place.ends_with("over") { "/data/over/service" } else { "/data/service" };
        let told = stand.python(&format!(
            "import socket\ntry: socket.socket(socket.AF_UNIX).connect('{shown}'); print('made')\n\
             except OSError as error: print(error.strerror)"
        ));
        assert_eq!(told.text.trim(), said, "{shown}");
    }
}
