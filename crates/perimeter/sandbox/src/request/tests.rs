use std::os::unix::fs::symlink;

use super::*;
use crate::spec::{Access, Trust};

fn builder() -> Builder {
    Builder::ourselves()
}

fn kernel_uid() -> Option<u32> {
    builder().is_root().then_some(LOWEST_KERNEL_UID + 7)
}

fn spec(workspace: &Path) -> Spec {
    crate::workspace::prepare(workspace, kernel_uid()).expect("prepares");
    Spec {
        session: "sesn_1".into(),
        workspace: workspace.to_owned(),
        kernel_uid: kernel_uid(),
        memory_bytes: 64 << 20,
        cpus: 1.0,
        processes: 64,
        disk_bytes: 1 << 30,
        system: Root::default(),
        packages: None,
        given: None,
        outputs: None,
        memories: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        kept: Vec::new(),
        environment: Vec::new(),
        ca_certificate_pem: String::new(),
        trust: Trust::default(),
        require: Vec::new(),
    }
}

fn refusal(change: impl FnOnce(&mut Spec)) -> String {
    let directory = tempfile::tempdir().expect("makes a directory");
    let mut spec = spec(&directory.path().join("workspace"));
    change(&mut spec);
    Request::check(spec, builder(), &[]).err().map(|error| error.cause).unwrap_or_default()
}

#[test]
fn a_plain_request_is_taken() {
    assert_eq!(refusal(|_| {}), "");
}

#[test]
fn names_limits_and_variables_outside_their_bounds_are_refused() {
    type Case = (&'static str, fn(&mut Spec));
    let cases: [Case; 12] = [
        ("name", |spec| spec.session = "../x".into()),
        ("name", |spec| spec.session = String::new()),
        ("memory", |spec| spec.memory_bytes = 1 << 20),
        ("cpus", |spec| spec.cpus = 0.0),
        ("cpus", |spec| spec.cpus = f64::NAN),
        ("processes", |spec| spec.processes = 1),
        ("disk", |spec| spec.disk_bytes = 0),
        ("LD_PRELOAD", |spec| spec.environment.push(("LD_PRELOAD".into(), "/workspace/x.so".into()))),
        ("A=B", |spec| spec.environment.push(("A=B".into(), "x".into()))),
        ("1A", |spec| spec.environment.push(("1A".into(), "x".into()))),
        ("NUL", |spec| spec.environment.push(("NUL".into(), "a\0b".into()))),
        ("workspace", |spec| spec.workspace = "/nowhere/at/all".into()),
    ];
    for (wanted, change) in cases {
        let cause = refusal(change);
        assert!(cause.contains(wanted), "{wanted}: {cause}");
    }
}

#[test]
fn sensitive_places_are_never_lent_nor_what_holds_or_hides_them() {
    for (host, said) in [
        ("/", "whole machine"),
        ("/etc", "passwords"),
        ("/etc/ssl", "passwords"),
        ("/proc/self", "really"),
        ("/proc/sys", "processes"),
        ("/var", "service"),
        ("/root", "administrator"),
        ("/dev/shm", "devices"),
        ("/nowhere", "looked at"),
        ("relative", "looked at"),
    ] {
        let cause =
            refusal(|spec| spec.mounts.push(Mount { host: host.into(), at: "/data".into(), access: Access::Read }));
        let unreadable_here = host == "/root" && !builder().is_root();
        assert!(cause.contains(said) || unreadable_here, "{host}: {cause}");
    }
}

#[test]
fn a_link_to_a_directory_is_not_the_directory() {
    let directory = tempfile::tempdir().expect("makes a directory");
    let link = directory.path().join("link");
    symlink("/usr/share", &link).expect("links");
    let cause =
        refusal(|spec| spec.mounts.push(Mount { host: link.clone(), at: "/data".into(), access: Access::Read }));
    assert!(cause.contains("really /usr/share"), "{cause}");
}

#[test]
fn our_own_data_is_never_lent_from_above_or_below() {
    let data = tempfile::tempdir().expect("makes a directory");
    let inner = data.path().join("perimeter");
    fs::create_dir(&inner).expect("makes it");
    for host in [data.path(), &inner] {
        assert!(sensitive::path(host, &[data.path().to_owned()]).is_some());
        assert!(sensitive::path(host, std::slice::from_ref(&inner)).is_some());
    }
    assert_eq!(sensitive::path(Path::new("/usr/share/doc"), &[data.path().to_owned()]), None);
}

#[test]
fn a_mount_never_covers_the_sandboxs_own_directories() {
    for at in [
        "/",
        "/usr/lib",
        "/etc",
        "/proc/x",
        "/workspace/x",
        "/mnt",
        "/mnt/session",
        "/mnt/memory/x",
        "/data/../etc",
        "data",
    ] {
        let cause =
            refusal(|spec| spec.mounts.push(Mount { host: "/usr/share".into(), at: at.into(), access: Access::Read }));
        assert!(cause.contains("cover"), "{at}: {cause}");
    }
    assert_eq!(
        refusal(|spec| spec.mounts.push(Mount { host: "/usr/share".into(), at: "/data".into(), access: Access::Read })),
        ""
    );
}

#[test]
fn the_kernel_user_is_roots_to_give_and_never_a_low_one() {
    let someone = Builder { uid: 1000, gid: 1000 };
    let root = Builder { uid: 0, gid: 0 };
    let directory = tempfile::tempdir().expect("makes a directory");
    let mut spec = spec(&directory.path().join("workspace"));
    for (builder, uid, given) in [
        (root, Some(LOWEST_KERNEL_UID), Some(LOWEST_KERNEL_UID)),
        (root, Some(0), None),
        (root, Some(LOWEST_KERNEL_UID - 1), None),
        (root, Some(u32::MAX), None),
        (root, None, None),
        (someone, None, Some(1000)),
        (someone, Some(LOWEST_KERNEL_UID), None),
    ] {
        spec.kernel_uid = uid;
        assert_eq!(kernel_user(&spec, builder).ok().map(|(uid, _)| uid), given, "{builder:?} {uid:?}");
    }
}

#[test]
fn a_workspace_of_another_user_is_refused() {
    let cause = refusal(|spec| spec.workspace = "/usr".into());
    let expected = if builder().uid == 0 { "belongs to user 0" } else { "belongs to user" };
    assert!(cause.contains(expected), "{cause}");
}

#[test]
fn what_postern_keeps_is_not_lent_however_its_place_is_written() {
    let directory = tempfile::tempdir().expect("makes a directory");
    let own = std::fs::canonicalize(directory.path()).expect("exists").join("data");
    std::fs::create_dir_all(own.join("perimeter")).expect("makes");
    let link = own.with_file_name("link");
    std::os::unix::fs::symlink(&own, &link).expect("links");
    for forbidden in [own.clone(), link, own.join("perimeter/..")] {
        for lent in [own.clone(), own.join("perimeter"), own.parent().expect("has one").to_owned()] {
            let mut spec = spec(&directory.path().join("workspace"));
            spec.mounts.push(Mount { host: lent.clone(), at: "/data".into(), access: Access::Read });
            let cause =
                Request::check(spec, builder(), std::slice::from_ref(&forbidden)).err().map(|error| error.cause);
            assert!(cause.is_some_and(|cause| cause.contains("postern's own data")), "{}", lent.display());
        }
    }
}

#[test]
fn what_was_given_must_be_ours_alone_to_write() {
    use std::os::unix::fs::PermissionsExt;

    let given = tempfile::tempdir().expect("makes a directory");
    let part = |name: &str| given.path().join(name);
    let refused = || refusal(|spec| spec.given = Some(given.path().to_owned()));
    assert!(refused().contains("cannot be looked at"), "nothing is there yet");
    for (name, _) in GIVEN {
        std::fs::create_dir(part(name)).expect("makes a directory");
        std::fs::set_permissions(part(name), std::fs::Permissions::from_mode(0o755)).expect("ours");
    }
    assert_eq!(refused(), "");
    for mode in [0o775, 0o757] {
        std::fs::set_permissions(part("uploads"), std::fs::Permissions::from_mode(mode)).expect("ours");
        assert!(refused().contains("others may write"), "{mode:o}");
    }
    std::fs::remove_dir(part("uploads")).expect("ours");
    symlink("/usr", part("uploads")).expect("links");
    assert!(refused().contains("is not a directory"), "a link");
}
