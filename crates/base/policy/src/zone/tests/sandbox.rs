//! What a zone lends to its sandboxes, as far as names tell.

use super::*;
use crate::zone::{MountAccess, Packages, System};
use std::path::PathBuf;

/// A configuration with one zone for each text, each the body of its `sandbox` table.
fn sandboxes(texts: &[&str]) -> String {
    let zones = texts.iter().enumerate().map(|(number, text)| {
        format!("[zone.z{number}]\nenvironment = \"env_{number}\"\n[zone.z{number}.sandbox]\n{text}\n")
    });
    format!("config = 1\n{}", zones.collect::<String>())
}

#[test]
fn a_zone_that_says_nothing_has_the_hosts_system_read_only_and_nothing_lent() {
    let zone = zone(&sandboxes(&[""]));
    let sandbox = zone.sandbox();
    assert_eq!((&sandbox.system, sandbox.packages), (&System::Host { directories: Vec::new() }, Packages::None));
    assert!(sandbox.mounts.is_empty() && sandbox.devices.is_empty());
}

#[test]
fn system_packages_mounts_and_devices_are_read_as_written() {
    let said = zone(&sandboxes(&[r#"
system = { image = "/srv/images//python/" }
packages = "session"
mounts = [{ host = "/srv/wheels", at = "/data/wheels", access = "cache" }]
devices = ["/dev/kvm", "/dev/dri/renderD128"]
"#]));
    let sandbox = said.sandbox();
    assert_eq!(sandbox.system, System::Image(PathBuf::from("/srv/images/python")));
    assert_eq!((sandbox.packages, sandbox.mounts[0].access), (Packages::Session, MountAccess::Cache));
    assert_eq!(sandbox.devices, [PathBuf::from("/dev/kvm"), PathBuf::from("/dev/dri/renderD128")]);
    let said = zone(&sandboxes(&[r#"system = { directories = ["/opt/conda"] }"#]));
    assert_eq!(said.sandbox().system, System::Host { directories: vec![PathBuf::from("/opt/conda")] });
}

#[test]
fn what_is_sensitive_by_its_name_is_refused_when_the_zone_is_loaded() {
    let table = [
        (r#"mounts = [{ host = "/etc/ssl/private", at = "/data" }]"#, "passwords"),
        (r#"mounts = [{ host = "/", at = "/data" }]"#, "whole machine"),
        (r#"mounts = [{ host = "/var/run/docker.sock", at = "/data", access = "write" }]"#, "sockets of services"),
        (r#"mounts = [{ host = "/home/", at = "/data" }]"#, "everybody's files"),
        (r#"mounts = [{ host = "/dev/kvm", at = "/data" }]"#, "one by one"),
        (r#"system = { image = "/" }"#, "whole machine"),
        (r#"system = { image = "/root/images/x" }"#, "administrator"),
        (r#"system = { directories = ["/proc/self"] }"#, "processes"),
        (r#"devices = ["/dev/mem"]"#, "memory of the machine"),
        (r#"devices = ["/dev/ttyS0"]"#, "serial lines"),
        (r#"devices = ["/dev/nvme0n1"]"#, "disks"),
        (r#"devices = ["/dev//input/./event0"]"#, "keyboards"),
        (r#"devices = ["/dev"]"#, "below /dev"),
        (r#"devices = ["/sys/kernel"]"#, "below /dev"),
        (r#"devices = ["kvm"]"#, "absolute path"),
        (r#"devices = ["/dev/dri/../mem"]"#, "without .."),
    ];
    for (text, message) in table {
        let errors = load(&sandboxes(&[text])).map(|_| ()).unwrap_err();
        assert_eq!(errors.len(), 1, "{text}: {}", super::listed(&errors));
        assert!(errors[0].message.contains(message) && errors[0].line > 3, "{text}: {}", errors[0]);
    }
}

#[test]
fn keys_and_values_that_say_nothing_known_are_errors() {
    let table = [
        (r#"packages = "always""#, "packages must be"),
        (r#"packages = true"#, "packages must be a string"),
        (r#"system = "host""#, "system must be a table"),
        (r#"system = { oci = "/srv/x" }"#, "unknown key: oci"),
        (r#"system = { image = "/srv/x", directories = ["/opt/y"] }"#, "not both"),
        (r#"system = { image = "srv/x" }"#, "absolute path"),
        (r#"devices = "/dev/kvm""#, "devices must be an array"),
    ];
    for (text, message) in table {
        let errors = load(&sandboxes(&[text])).map(|_| ()).unwrap_err();
        assert!(errors.len() == 1 && errors[0].message.contains(message), "{text}: {}", super::listed(&errors));
    }
    for (key, entry, most) in
        [("mounts", r#"{ host = "/srv/x", at = "/data/N" }"#, 64), ("devices", r#""/dev/kvm""#, 32)]
    {
        let entries = |count: usize| (0..count).map(|number| entry.replace('N', &number.to_string()));
        let list = |count: usize| format!("{key} = [{}]", entries(count).collect::<Vec<_>>().join(", "));
        assert!(load(&sandboxes(&[&list(most)])).is_ok(), "{key}");
        let errors = load(&sandboxes(&[&list(most + 1)])).map(|_| ()).unwrap_err();
        assert!(errors[0].message.contains(&format!("more than {most}")), "{}", super::listed(&errors));
    }
    let many = format!("system = {{ directories = [{}] }}", vec![r#""/opt/x""#; 33].join(", "));
    assert!(load(&sandboxes(&[&many])).is_err_and(|errors| errors[0].message.contains("more than 32")));
}

#[test]
fn what_one_sandbox_writes_is_no_other_ones_cache_or_system() {
    let write = |host: &str| format!(r#"mounts = [{{ host = "{host}", at = "/data", access = "write" }}]"#);
    let shared = [
        r#"mounts = [{ host = "/srv/cache/pip", at = "/data", access = "cache" }]"#,
        r#"system = { image = "/srv/cache/pip" }"#,
        r#"system = { directories = ["/srv/cache/pip"] }"#,
    ];
    for shared in shared {
        for (host, refused) in [
            ("/srv/cache/pip", true),
            ("/srv/cache", true),
            ("/srv/cache/pip/wheels", true),
            ("/srv/cache/pipx", false),
        ] {
            for zones in [[shared, &write(host)], [&write(host), shared]] {
                let loaded = load(&sandboxes(&zones)).map(|_| ());
                let told = loaded.is_err_and(|errors| errors.len() == 1 && errors[0].message.contains("separate them"));
                assert_eq!(told, refused, "{host}: {shared}");
            }
        }
    }
    let read = r#"mounts = [{ host = "/srv/cache/pip", at = "/data", access = "read" }]"#;
    assert!(load(&sandboxes(&[read, &write("/srv/cache/pip")])).is_ok(), "what is only read may be another's to write");
}

#[test]
fn a_sandbox_has_eight_to_a_million_processes() {
    let read = |processes: u32| load(&sandboxes(&[&format!("processes = {processes}")]));
    for processes in [8, 1_000_000] {
        assert_eq!(read(processes).unwrap().named("z0").unwrap().sandbox().processes, Some(processes));
    }
    for processes in [7, 1_000_001] {
        let errors = read(processes).map(|_| ()).unwrap_err();
        assert!(errors[0].to_string().contains("processes must be from 8 to 1000000"), "{errors:?}");
    }
}

#[test]
fn a_sandbox_has_memory_and_disk_that_it_can_be_built_with() {
    let read = |key: &str, size: &str| load(&sandboxes(&[&format!("{key} = \"{size}\"")]));
    for (key, least, less) in [("memory", "32MiB", "31MiB"), ("disk", "1MiB", "1023KiB")] {
        for sound in [least, "1024TiB"] {
            assert!(read(key, sound).is_ok(), "{key} {sound}");
        }
        for unsound in ["0B", less, "1025TiB"] {
            let errors = read(key, unsound).map(|_| ()).unwrap_err();
            assert!(errors[0].message.contains(&format!("{key} must be from {least} to 1024TiB")), "{errors:?}");
        }
    }
}

#[test]
fn nothing_is_lent_where_a_sandbox_has_directories_of_its_own() {
    let mount = |at: &str| format!(r#"mounts = [{{ host = "/srv/x", at = "{at}" }}]"#);
    for at in [
        "/",
        "/proc",
        "/etc",
        "/usr/bin",
        "/lib64",
        "/workspace",
        "/workspace/x",
        "/mnt",
        "/mnt/memory/x",
        "/mnt/session",
    ] {
        let errors = load(&sandboxes(&[&mount(at)])).map(|_| ()).unwrap_err();
        assert!(errors.len() == 1 && errors[0].message.contains("own directories"), "{at}: {}", super::listed(&errors));
    }
    for at in ["/data", "/mnt/x", "/srv", "/opt/x", "/home/agent", "/procession"] {
        assert!(load(&sandboxes(&[&mount(at)])).is_ok(), "{at}");
    }
    let directory = |path: &str| format!(r#"system = {{ directories = ["{path}"] }}"#);
    assert!(load(&sandboxes(&[&directory("/opt/conda")])).is_ok());
    let errors = load(&sandboxes(&[&directory("/usr/local")])).map(|_| ()).unwrap_err();
    assert!(errors[0].message.contains("own directories"), "{}", super::listed(&errors));
}

#[test]
fn no_mount_hides_what_another_or_the_system_shows() {
    let text = |places: [&str; 2], directories: &str| {
        let mounts = places.map(|at| format!(r#"{{ host = "/srv/x", at = "{at}" }}"#)).join(", ");
        sandboxes(&[&format!("system = {{ directories = [{directories}] }}\nmounts = [{mounts}]")])
    };
    for (places, directories, refused) in [
        (["/data", "/data"], "", 1),
        (["/data", "/data/private"], "", 1),
        (["/data/private", "/data"], "", 1),
        (["/data", "/srv/tools/secret"], r#""/srv/tools""#, 1),
        (["/data", "/srv"], r#""/srv/tools""#, 1),
        (["/data", "/database"], r#""/srv/tools""#, 0),
    ] {
        let errors = load(&text(places, directories)).map_or_else(|errors| errors, |_| Vec::new());
        let told = errors.iter().filter(|error| error.message.contains("set them apart")).count();
        assert_eq!((told, errors.len()), (refused, refused), "{places:?} {directories}");
    }
}
