//! What is run inside to clone a repository, and what its last line says. Every word of it that came from outside stands in single quotes.

use std::time::Duration;

use postern_model::resource::{Checkout, WORKSPACE};

use super::Wanted;

/// How a call that waited for a clone ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Still,
    Cloned,
    /// With this code of [`clone`]'s; none where the call itself failed.
    Failed(Option<u32>),
}

/// There is no git.
pub(super) const NO_GIT: u32 = 127;
/// Something else lies at its place.
pub(super) const TAKEN: u32 = 73;
/// It was cloned and has not what was to be checked out.
pub(super) const NO_CHECKOUT: u32 = 11;

/// Begins the clone unless it was begun, and waits for it. Git runs beside the shell, so that a call that ends does not end it.
pub(super) fn begin_and_wait(wanted: &Wanted, wait: Duration) -> String {
    let (at, script, tenths) = (notes(wanted), quoted(&clone(wanted)), wait.as_millis() / 100);
    format!(
        "at={at}; mkdir -p /tmp/.postern-clones; \
         if mkdir \"$at\" 2>/dev/null; then \
           (setsid sh -c {script} >\"$at/log\" 2>&1 </dev/null & echo $! >\"$at/pid\"; wait $!; echo $? >\"$at/code.new\"; mv \"$at/code.new\" \"$at/code\") >/dev/null 2>&1 & \
         fi; \
         n=0; while [ ! -e \"$at/code\" ] && [ $n -lt {tenths} ]; do sleep 0.1; n=$((n+1)); done; \
         if [ -e \"$at/code\" ]; then tail -c 4000 \"$at/log\"; echo; echo \"{MARK}$(cat \"$at/code\")\"; rm -rf \"$at\"; else echo '{MARK}still'; fi"
    )
}

/// Ends a clone that took too long.
pub(super) fn give_up(wanted: &Wanted) -> String {
    let (at, aside) = (notes(wanted), aside(wanted));
    format!("at={at}; kill -9 -- -\"$(cat \"$at/pid\")\"; sleep 0.2; rm -rf \"$at\" {aside}")
}

/// What the last marked line of an outcome says: refusals of the exit may follow it.
pub(super) fn ended(outcome: &str) -> Ended {
    match outcome.lines().rev().find_map(|line| line.strip_prefix(MARK)) {
        Some("still") => Ended::Still,
        Some("0") => Ended::Cloned,
        word => Ended::Failed(word.and_then(|code| code.trim().parse().ok())),
    }
}

/// Clones beside the place and moves it there whole: what lies at the place is the repository, or is not ours to touch.
fn clone(wanted: &Wanted) -> String {
    let Wanted { url, path, checkout, .. } = wanted;
    let (url, to, aside) = (quoted(&url.to_string()), quoted(path.as_str()), aside(wanted));
    let (option, checkout) = match checkout {
        None => ("", String::new()),
        Some(checkout) => ("--no-checkout ", format!("{} || fail {NO_CHECKOUT}; ", checked_out(checkout, &aside))),
    };
    format!(
        "export LC_ALL=C GIT_TERMINAL_PROMPT=0; \
         fail() {{ rm -rf {aside}; exit $1; }}; \
         command -v git >/dev/null || exit {NO_GIT}; \
         if [ -e {to} ] || [ -L {to} ]; then [ \"$(git -C {to} config --get remote.origin.url)\" = {url} ] && exit 0; exit {TAKEN}; fi; \
         rm -rf {aside}; \
         git clone --quiet {option}-- {url} {aside} || fail 10; \
         {checkout}\
         mkdir -p \"$(dirname {to})\" && mv -T -- {aside} {to} || fail {TAKEN}"
    )
}

fn checked_out(checkout: &Checkout, aside: &str) -> String {
    match checkout {
        Checkout::Branch { name } => {
            let (branch, from) = (quoted(name), quoted(&format!("refs/remotes/origin/{name}")));
            format!("git -C {aside} checkout --quiet --track -B {branch} {from}")
        }
        // One that no branch has may be there all the same.
        Checkout::Commit { sha } => {
            let detach = format!("git -C {aside} checkout --quiet --detach {sha}");
            format!("{{ {detach} 2>/dev/null || {{ git -C {aside} fetch --quiet origin {sha} && {detach}; }}; }}")
        }
    }
}

/// Where it is cloned to before it is moved.
fn aside(wanted: &Wanted) -> String {
    quoted(&format!("{WORKSPACE}.clone-{}", wanted.resource))
}

/// What is noted of a clone that runs.
fn notes(wanted: &Wanted) -> String {
    quoted(&format!("/tmp/.postern-clones/{}", wanted.resource))
}

/// One word of a shell's, whatever it holds.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

const MARK: &str = "[postern] clone: ";
