//! What is installed during a session.

use std::path::{Path, PathBuf};

use postern_exec::Channel;
use postern_sandbox::{Limit, Spec};

use crate::stand::{Stand, ask_of, is_root, script, spec};

/// A layer below `directory`, for the user of `spec`.
fn layer(spec: &mut Spec, directory: &Path, name: &str) -> PathBuf {
    let layer = directory.join(name);
    postern_sandbox::workspace::prepare_packages(&layer, spec.kernel_uid).expect("prepares a layer");
    spec.packages = Some(layer.clone());
    layer
}

fn stand() -> Stand {
    Stand::with(|spec, directory| drop(layer(spec, directory, "layer")))
}

fn bash(channel: &Channel, text: &str) -> String {
    ask_of(channel, &script(text)).text
}

#[test]
fn a_program_and_a_module_are_installed_over_the_system_and_the_system_is_untouched() {
    let stand = stand();
    let told = stand.bash("printf '#!/bin/sh\\necho installed' > /usr/local/bin/tool && chmod +x /usr/local/bin/tool && tool && touch /usr/bin/x /usr/share/doc/x && echo all");
    assert_eq!((told.text.as_str(), told.code), ("installed\nall\n", 0));
    let told = stand.python(
        "import os, sys, sysconfig\nplace = sysconfig.get_path('purelib')\nos.makedirs(place, exist_ok=True)\nopen(place + '/installed_by_test.py', 'w').write('word = 7')\nsys.path.append(place)\nimport installed_by_test; print(installed_by_test.word, os.environ['PIP_BREAK_SYSTEM_PACKAGES'])",
    );
    assert_eq!(told.text, "7 1\n");
    for path in ["/usr/local/bin/tool", "/usr/bin/x", "/usr/share/doc/x"] {
        assert!(!Path::new(path).exists(), "{path} is on the host");
    }
}

#[test]
fn what_was_installed_is_there_in_the_sessions_next_sandbox_and_in_no_other_session() {
    let stand = stand();
    let mut again = spec(stand.directory.path(), "sesn_again");
    again.kernel_uid = stand_uid(&stand);
    give(&again);
    again.packages = Some(stand.directory.path().join("layer"));
    assert_eq!(stand.bash("echo 1 > /usr/local/installed; rm -f /usr/bin/yes; echo done").text, "done\n");
    stand.runtime.block_on(stand.spawner.destroy("sesn_test")).expect("destroys");
    let next = stand.another(again).expect("builds");
    assert_eq!(bash(&next, "cat /usr/local/installed; test -e /usr/bin/yes || echo gone"), "1\ngone\n");
    let mut other = spec(stand.directory.path(), "sesn_other");
    layer(&mut other, stand.directory.path(), "other");
    let other = stand.another(other).expect("builds");
    assert_eq!(
        bash(&other, "test -e /usr/local/installed || echo none; test -e /usr/bin/yes && echo there"),
        "none\nthere\n"
    );
}

/// The kernel user of the first sandbox, whose layer the next one gets.
fn stand_uid(stand: &Stand) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(stand.directory.path().join("layer/upper")).expect("is there").uid();
    is_root().then_some(owner)
}

fn give(spec: &Spec) {
    if let Some(uid) = spec.kernel_uid {
        postern_sandbox::workspace::give(&spec.workspace, uid).expect("gives");
    }
}

#[test]
fn the_layer_shows_neither_set_user_id_nor_devices_and_cannot_be_reached_beside_usr() {
    let stand = stand();
    let told = stand.bash("grep ' /usr ' /proc/self/mountinfo | tail -n 1");
    assert!(
        told.text.contains(" overlay ") && told.text.contains("nosuid") && told.text.contains("nodev"),
        "{}",
        told.text
    );
    assert_eq!(stand.bash("ls -d /.packages 2>/dev/null; ls -A / | grep -c packages").text, "0\n");
    let told = stand.bash("cp /usr/bin/id /usr/local/bin/me && chmod 6755 /usr/local/bin/me && /usr/local/bin/me -u; mknod /usr/local/null c 1 3 || echo refused; rm -f /usr/bin/yes; ls /usr/bin/yes || echo gone");
    assert!(
        told.text.starts_with("1000\n") && told.text.contains("refused\n") && told.text.ends_with("gone\n"),
        "{}",
        told.text
    );
    // The notes that the file system keeps in attributes are not the agent's to write: they could lead elsewhere.
    let told = stand.python("import os\nopen('/usr/local/f', 'w').close()\nfor name in ('user.overlay.redirect', 'user.overlay.opaque', 'trusted.overlay.redirect'):\n try: os.setxattr('/usr/local/f', name, b'/etc'); print('set', name, os.listxattr('/usr/local/f'))\n except OSError as e: print(e.errno > 0)");
    assert!(!told.text.contains("set trusted"), "{}", told.text);
    let upper = stand.directory.path().join("layer/upper/local/f");
    let noted = rustix::fs::getxattr(&upper, "user.overlay.redirect", &mut [0_u8; 64][..]);
    assert!(noted.is_err(), "a note of the agent's stands in the layer");
}

#[test]
fn a_directory_of_the_system_cannot_be_renamed_and_what_is_not_the_agents_stays_so() {
    let stand = stand();
    let told = stand.python("import os\ntry: os.rename('/usr/share/doc', '/usr/share/docs')\nexcept OSError as e: print(e.errno)\ntry: open('/usr/bin/env', 'a')\nexcept OSError as e: print(e.errno)\nfor path in ('/etc/x', '/x', '/bin/../../x'):\n try: open(path, 'w'); print(path)\n except OSError: pass");
    assert_eq!(told.text, "18\n13\n", "EXDEV, then EACCES");
}

/// Tries everything that would put a file of the agent's where the loader looks, and prints what worked.
const REPLACE_LIBRARIES: &str = "
import os
libc = next(word for line in open('/proc/self/maps') for word in line.split() if '/libc.so' in word or '/libc-' in word)
found = {os.path.dirname(os.path.realpath(libc)), os.path.dirname(os.path.realpath('/lib64/ld-linux-x86-64.so.2')), '/usr/lib64'}
places = [place for place in found if os.path.isdir(place)]
attempts = [(os.rename, ('/usr/lib', '/usr/lib-mine')), (os.chmod, ('/usr/lib64', 0o777))]
for place in places:
    attempts += [(os.rename, (place, place + '-mine')), (os.mkdir, (place + '/glibc-hwcaps',)), (os.rmdir, (place,)), (os.chmod, (place, 0o777))]
    attempts += [(open, (place + '/libmine.so', 'w')), (os.symlink, ('/workspace', place + '/mine'))]
    attempts += [(os.unlink, (place + '/' + name,)) for name in os.listdir(place) if name.startswith(('ld-', 'libc.so', 'libgcc_s'))]
worked = 0
for attempt, arguments in attempts:
    try: attempt(*arguments); worked += 1; print(attempt.__name__, arguments)
    except OSError: pass
print(len(places) > 0, len(attempts) > 8, worked)
";

#[test]
fn the_libraries_of_process_1_are_not_the_agents_to_replace() {
    let stand = stand();
    assert_eq!(stand.python(REPLACE_LIBRARIES).text, "True True 0\n");
}

#[test]
fn without_a_layer_the_system_is_read_only_and_a_layer_of_another_user_is_refused() {
    let stand = Stand::new();
    assert_ne!(stand.bash("touch /usr/local/x || touch /usr/x").code, 0);
    let mut refused = spec(stand.directory.path(), "sesn_refused");
    refused.packages = Some("/usr".into());
    let error = stand.another(refused).err().expect("is refused");
    assert!(error.cause.contains("layer of packages"), "{error}");
}

#[test]
fn what_is_installed_counts_as_disk() {
    let stand = Stand::with(|spec, directory| {
        spec.disk_bytes = 8 << 20;
        layer(spec, directory, "layer");
    });
    let told = stand.bash("for i in 1 2 3; do head -c 4000000 /dev/zero > /usr/local/$i; done; echo written");
    assert_eq!(told.text, "written\n");
    let mut ending = stand.sandbox.ending();
    let limit = std::time::Duration::from_secs(20);
    let exit = stand.runtime.block_on(async { tokio::time::timeout(limit, ending.wait()).await });
    assert_eq!(exit.expect("the watchdog ends it").passed, Some(Limit::Disk));
}
