//! Devices of the host that a zone lends.

use std::fs;
use std::os::unix::fs::symlink;

use crate::stand::{Stand, spec};

/// A device that this machine has and that may be lent.
fn lendable() -> Option<&'static str> {
    ["/dev/fuse", "/dev/kvm", "/dev/hwrng", "/dev/cpu_dma_latency"].into_iter().find(|path| fs::metadata(path).is_ok())
}

#[test]
fn a_lent_device_is_there_and_no_other() {
    let Some(device) = lendable() else { return };
    let stand = Stand::with(|spec, _| spec.devices = vec![device.into()]);
    let told = stand.bash(&format!("test -c {device} && stat -c '%t:%T' {device}; ls /dev | tr '\\n' ' '"));
    let outside = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(device).expect("is there"));
    let number = format!("{:x}:{:x}\n", rustix::fs::major(outside), rustix::fs::minor(outside));
    assert!(told.text.starts_with(&number), "{}", told.text);
    let name = device.trim_start_matches("/dev/");
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
        name,
    ];
    for shown in told.text.lines().nth(1).unwrap_or_default().split_whitespace() {
        assert!(expected.contains(&shown), "/dev/{shown} shows");
    }
    assert_ne!(Stand::new().bash(&format!("ls {device}")).code, 0, "it is there where nobody lends it");
}

#[test]
fn devices_that_reach_past_the_boundary_are_refused_by_what_they_are() {
    let stand = Stand::new();
    let link = stand.directory.path().join("link");
    symlink("/dev/kmsg", &link).expect("links");
    let refused = [
        "/dev/kmsg",
        "/dev/null",
        "/dev/tty",
        "/dev/ptmx",
        "/dev/stdin",
        "/dev/shm",
        "/dev/loop0",
        "/dev/vda",
        "/dev",
        "/dev/../dev/kmsg",
        "/etc/hostname",
        "/dev/nowhere",
    ];
    for device in refused.into_iter().map(Into::into).chain([link]) {
        let mut spec = spec(stand.directory.path(), "sesn_refused");
        spec.devices = vec![device];
        let error = stand.another(spec.clone()).err();
        assert!(error.is_some_and(|error| error.step == "check the request"), "{:?}", spec.devices);
    }
}

/// As root alone: nobody else may make a device.
#[test]
fn a_sensitive_device_under_another_name_is_refused_by_its_number() {
    use rustix::fs::{CWD, FileType, Mode};
    let stand = Stand::new();
    let name = format!("/dev/postern-test-{}", std::process::id());
    let made = rustix::fs::mknodat(
        CWD,
        &name,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 11),
    );
    assert_eq!(made.is_ok(), crate::stand::is_root());
    if made.is_ok() {
        let mut spec = spec(stand.directory.path(), "sesn_refused");
        spec.devices = vec![name.clone().into()];
        let error = stand.another(spec).err();
        fs::remove_file(&name).expect("removes");
        assert!(error.is_some_and(|error| error.cause.contains("the kernel's log")), "it was lent");
    }
}
