//! Which step of a build a test may switch off, by the control it makes, and what the steps beside it must do then so that a sandbox still stands. In every
//! build that ships nothing is switched off.

use postern_danger::off;

use crate::builder::NAMESPACES;

/// Whether the step is left out.
pub(crate) fn skips(step: &str) -> bool {
    match step {
        "filter system calls" => off!("seccomp"),
        "enter the Landlock domain" => off!("landlock"),
        "drop capabilities" | "leave programs no capability" => off!("no-caps"),
        "mask /proc" => off!("proc-masks"),
        "bring loopback up" | "route everything to loopback" => off!("netns"),
        "make the root read-only" => off!("read-only-root"),
        "limit resources" => off!("resource-limits"),
        "set packet rules" => [off!("packet-rules"), off!("netns")].contains(&true),
        "own the clocks" => off!("timens"),
        "name the host" => off!("utsns"),
        "keep mounts private" => off!("mounts-private"),
        _ => false,
    }
}

/// The namespaces that a stub is cloned into: without the one that is switched off.
pub(crate) fn namespaces() -> libc::c_int {
    let switches = [
        (off!("userns"), libc::CLONE_NEWUSER),
        (off!("mountns-flag"), libc::CLONE_NEWNS),
        (off!("pidns"), libc::CLONE_NEWPID),
        (off!("netns"), libc::CLONE_NEWNET),
        (off!("ipcns"), libc::CLONE_NEWIPC),
    ];
    switches.into_iter().filter(|(off, _)| *off).fold(NAMESPACES, |left, (_, namespace)| left & !namespace)
}

/// Directories of the host that a sandbox sees besides what is listed.
pub(crate) fn shown_besides() -> &'static [&'static str] {
    if off!("mountns") { &["/boot", "/home", "/root"] } else { &[] }
}

/// Devices that a sandbox sees besides those that all have and its zone's, by their names there.
pub(crate) fn devices_besides() -> &'static [(&'static str, &'static str)] {
    if off!("lent-devices") { &[("besides", "/dev/null")] } else { &[] }
}

/// The port of a socket that is answered outside. The machine's own network has them taken, and is not ours to arrange.
pub(crate) fn port(port: u16) -> u16 {
    if off!("netns") { 0 } else { port }
}
