//! Which step of a build a test may switch off, by the control it makes. In every build that ships the answer is none.

use postern_danger::off;

/// Whether the step is left out.
pub(crate) fn skips(step: &str) -> bool {
    match step {
        "filter system calls" => off!("seccomp"),
        "enter the Landlock domain" => off!("landlock"),
        "drop capabilities" | "leave programs no capability" => off!("no-caps"),
        "mask /proc" => off!("proc-masks"),
        "make the root read-only" => off!("read-only-root"),
        "limit resources" => off!("resource-limits"),
        "set packet rules" => off!("packet-rules"),
        "own the clocks" => off!("timens"),
        "name the host" => off!("utsns"),
        "keep mounts private" => off!("mounts-private"),
        _ => false,
    }
}
