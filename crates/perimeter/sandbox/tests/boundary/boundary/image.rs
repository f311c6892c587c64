//! A system that is an unpacked image, written by a stranger.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use postern_sandbox::{Access, Mount, Root};

use crate::probe::Ask;
use crate::stand::{Stand, is_root, spec};

const CA: &str = "-----BEGIN CERTIFICATE-----\nMIIBtest\n-----END CERTIFICATE-----\n";
const PROGRAMS: [&str; 9] = ["bash", "cat", "ls", "id", "head", "stat", "touch", "grep", "readlink"];
const LIBRARIES: [&str; 6] =
    ["libc.so.6", "libgcc_s.so.1", "libtinfo.so.6", "libselinux.so.1", "libpcre2-8.so.0", "libm.so.6"];

/// A small image below `directory`: programs of the host, and what a stranger would put beside them.
fn image(directory: &Path) -> PathBuf {
    let root = directory.join("image");
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    for place in ["usr/bin", "usr/lib64", "etc/conf.d", "etc/ssl/certs", "opt/tool", "home/someone", "var/lib", "tmp"] {
        fs::create_dir_all(root.join(place)).expect("makes");
    }
    fs::create_dir_all(root.join("usr/lib").join(&multiarch)).expect("makes");
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        symlink(target, root.join(link)).expect("links");
    }
    for program in PROGRAMS {
        fs::copy(Path::new("/usr/bin").join(program), root.join("usr/bin").join(program)).expect("copies a program");
    }
    for library in LIBRARIES {
        let below = Path::new("lib").join(&multiarch).join(library);
        // Not every system links every program alike.
        let _not_there = fs::copy(Path::new("/usr").join(&below), root.join("usr").join(&below));
    }
    for loader in ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"] {
        if Path::new("/").join(loader).exists() {
            fs::copy(Path::new("/").join(loader), root.join("usr").join(loader)).expect("copies the loader");
        }
    }
    fs::write(root.join("etc/os-release"), "ID=stranger\n").expect("writes");
    fs::write(root.join("etc/passwd"), "agent:x:0:0::/root:/bin/bash\n").expect("writes");
    fs::write(root.join("etc/conf.d/setting"), "1\n").expect("writes");
    fs::write(root.join("opt/tool/data"), "of the image\n").expect("writes");
    root
}

fn stand(change: impl FnOnce(&Path)) -> Stand {
    Stand::with(|spec, directory| {
        let root = image(directory);
        change(&root);
        spec.system = Root::Image(root);
        spec.ca_certificate_pem = CA.into();
    })
}

#[test]
fn the_images_programs_run_on_its_system_and_the_hosts_is_gone() {
    let stand = stand(|_| {});
    let told = stand.bash("cat /etc/os-release /etc/conf.d/setting /opt/tool/data; id -u; pwd; touch made && ls");
    assert_eq!(told.text, "ID=stranger\n1\nof the image\n1000\n/workspace\nmade\n");
    for path in ["/usr/share", "/usr/bin/python3", "/usr/lib/python3", "/etc/debian_version", "/etc/alternatives"] {
        assert_ne!(stand.bash(&format!("ls -d {path}")).code, 0, "{path} of the host shows");
    }
    assert_eq!(stand.bash("grep -c MIIBtest $SSL_CERT_FILE").text, "1\n");
}

#[test]
fn the_tool_server_runs_on_the_hosts_libraries_and_needs_none_of_the_image() {
    let stand = stand(|root| {
        fs::remove_dir_all(root.join("usr")).expect("removes");
        fs::create_dir(root.join("usr")).expect("makes");
    });
    assert_eq!(stand.ask(&Ask::Read("/etc/os-release".into())).text, "ID=stranger\n");
    assert_eq!(stand.ask(&Ask::Run(vec!["/bin/bash".into()])).code, -1, "there is no program in the image");
}

#[test]
fn names_users_and_resolver_stay_the_sandboxs_own() {
    let stand = stand(|root| {
        fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.1\n").expect("writes");
        fs::write(root.join("etc/hosts"), "192.0.2.1 localhost\n").expect("writes");
        symlink("/workspace/mine", root.join("etc/mtab")).expect("links");
    });
    let told = stand
        .bash("id -un; cat /etc/resolv.conf /etc/hosts | grep -c 192.0.2.1; readlink /etc/mtab; ls -A /tmp /var/lib");
    assert!(told.text.starts_with("agent\n0\n/proc/self/mounts\n"), "{}", told.text);
    assert!(!told.text.contains("data"), "{}", told.text);
}

#[test]
fn links_of_the_image_lead_nowhere_on_the_host_however_they_are_written() {
    let secret = tempfile::tempdir().expect("makes");
    fs::write(secret.path().join("secret"), "of the host").expect("writes");
    fs::set_permissions(secret.path(), fs::Permissions::from_mode(0o755)).expect("sets");
    let out = secret.path().to_owned();
    let stand = Stand::with(|spec, directory| {
        let root = image(directory);
        let up = format!("..{}", "/..".repeat(40));
        symlink(&out, root.join("out")).expect("links");
        symlink(format!("{up}{}", out.display()), root.join("up")).expect("links");
        symlink("/mnt", root.join("srv")).expect("links");
        symlink(out.join("secret"), root.join("etc/secret")).expect("links");
        symlink(out.join("secret"), root.join("etc/ssl/certs/ca-certificates.crt")).expect("links");
        symlink(format!("{up}{}", out.display()), root.join("usr/out")).expect("links");
        symlink("/proc/1/root", root.join("proc-root")).expect("links");
        spec.system = Root::Image(root);
        spec.ca_certificate_pem = CA.into();
        // A mount point behind a link of the image is one inside.
        spec.mounts.push(Mount { host: out.clone(), at: "/srv/lent".into(), access: Access::Read });
    });
    for path in ["/out/secret", "/up/secret", "/etc/secret", "/usr/out/secret", "/proc-root/etc/shadow"] {
        assert_ne!(stand.bash(&format!("cat {path}")).code, 0, "{path} leads out");
    }
    assert_eq!(
        stand.bash("cat /srv/lent/secret").text,
        "of the host",
        "what is lent is there, through the image's link"
    );
    assert!(!Path::new("/mnt/lent").exists(), "a mount point was made on the host");
    // One that leads out is a link to nothing inside, and nothing is mounted there.
    let mut through = spec(stand.directory.path(), "sesn_through");
    let root = stand.directory.path().join("image");
    symlink(&out, root.join("data")).expect("links");
    through.system = Root::Image(root);
    through.mounts.push(Mount { host: out.clone(), at: "/data/lent".into(), access: Access::Read });
    let error = stand.another(through).err().expect("is refused");
    assert_eq!(error.step, "mount what the zone lends");
    assert!(!out.join("lent").exists(), "a mount point was made on the host");
}

#[test]
fn files_of_its_etc_that_not_everybody_may_read_are_not_shown() {
    let stand = stand(|root| {
        for (name, mode) in [("open", 0o644), ("closed", 0o600), ("shadow", 0o644)] {
            fs::write(root.join("etc").join(name), "x").expect("writes");
            fs::set_permissions(root.join("etc").join(name), fs::Permissions::from_mode(mode)).expect("sets");
        }
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("etc/pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o666),
            0,
        )
        .expect("makes a pipe");
    });
    assert_eq!(stand.bash("cat /etc/open; ls /etc/closed /etc/shadow /etc/pipe 2>/dev/null").text, "x");
}

#[test]
fn the_image_is_read_only_without_set_user_id_and_without_devices() {
    let stand = stand(|root| {
        fs::copy("/usr/bin/id", root.join("usr/bin/me")).expect("copies");
        fs::set_permissions(root.join("usr/bin/me"), fs::Permissions::from_mode(0o6755)).expect("sets");
        fs::set_permissions(root.join("opt/tool"), fs::Permissions::from_mode(0o777)).expect("sets");
        if is_root() {
            let device = rustix::fs::makedev(1, 5);
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            let place = root.join("opt/tool/zero");
            rustix::fs::mknodat(rustix::fs::CWD, &place, rustix::fs::FileType::CharacterDevice, mode, device)
                .expect("makes");
            fs::set_permissions(&place, fs::Permissions::from_mode(0o666)).expect("sets");
        }
    });
    assert_eq!(stand.bash("/usr/bin/me -u").text, "1000\n");
    assert_ne!(stand.bash("touch /opt/tool/x || touch /usr/x || touch /etc/x || touch /x").code, 0);
    assert_ne!(stand.bash("head -c 1 /opt/tool/zero").code, 0, "a device of the image opens");
    for line in stand.bash("cat /proc/self/mountinfo").text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        assert!(fields[5].contains("nosuid"), "{line}");
        assert!(fields[5].contains("nodev") || fields[4].starts_with("/dev/"), "{line}");
        if ["/usr", "/opt", "/home", "/etc/ssl"].contains(&fields[4]) {
            assert!(fields[5].starts_with("ro"), "{line}");
        }
    }
}

#[test]
fn an_unpackers_directory_is_taken_by_its_rootfs_and_what_is_no_image_is_refused_by_name() {
    let stand = Stand::with(|spec, directory| {
        let root = image(directory);
        let bundle = directory.join("bundle");
        fs::create_dir(&bundle).expect("makes");
        fs::rename(root, bundle.join("rootfs")).expect("moves");
        spec.system = Root::Image(bundle);
    });
    assert!(stand.bash("cat /etc/os-release").text.contains("stranger"));
    type Case = (&'static str, fn(&Path));
    let table: [Case; 3] = [
        ("`umoci raw unpack --image ", |root| fs::write(root.join("oci-layout"), "{}").expect("writes")),
        ("no directory usr", |root| fs::remove_dir_all(root.join("usr")).expect("removes")),
        ("no directory usr", |root| {
            fs::rename(root.join("usr"), root.join("elsewhere")).expect("moves");
            symlink("/usr", root.join("usr")).expect("links");
        }),
    ];
    for (said, change) in table {
        let directory = tempfile::tempdir().expect("makes");
        let root = image(directory.path());
        change(&root);
        let mut spec = spec(stand.directory.path(), "sesn_refused");
        spec.system = Root::Image(root);
        let error = stand.another(spec).err().expect("is refused");
        assert!(error.step == "take what the request names" && error.cause.contains(said), "{error}");
    }
}

#[test]
fn an_image_with_a_root_or_an_etc_without_end_is_refused() {
    let stand = Stand::new();
    type Change = fn(&Path);
    let table: [(&str, Change); 3] = [
        ("entries", |root| (0..600).for_each(|number| symlink("tmp", root.join(format!("l{number}"))).expect("links"))),
        ("entries", |root| {
            (0..600).for_each(|number| fs::write(root.join(format!("etc/f{number}")), "").expect("writes"))
        }),
        ("bytes", |root| fs::write(root.join("etc/large"), vec![b'x'; 2 << 20]).expect("writes")),
    ];
    for (said, change) in table {
        let directory = tempfile::tempdir_in(stand.directory.path()).expect("makes");
        let root = image(directory.path());
        let mut spec = spec(stand.directory.path(), "sesn_image");
        spec.system = Root::Image(root.clone());
        assert!(stand.another(spec.clone()).is_ok(), "it is taken as it is");
        stand.runtime.block_on(stand.spawner.destroy("sesn_image")).expect("ends");
        change(&root);
        let error = stand.another(spec).err();
        assert!(error.as_ref().is_some_and(|error| error.cause.contains(said)), "{error:?}");
    }
}

#[test]
fn a_further_directory_of_the_host_is_there_at_its_own_place_read_only() {
    let Some(further) = ["/media", "/boot/grub", "/opt/skills"].into_iter().find(|path| fs::read_dir(path).is_ok())
    else {
        return;
    };
    let stand = Stand::with(|spec, _| spec.system = Root::Host(vec![further.into()]));
    let told = stand.bash(&format!("grep ' {further} ' /proc/self/mountinfo; test -d /usr/share && echo system"));
    assert!(told.text.contains(" ro,nosuid,nodev") && told.text.ends_with("system\n"), "{}", told.text);
    for refused in ["/etc", "/usr/share", "/var/lib/x", "/nowhere"] {
        let mut spec = spec(stand.directory.path(), "sesn_refused");
        spec.system = Root::Host(vec![refused.into()]);
        assert!(stand.another(spec).is_err(), "{refused}");
    }
}
