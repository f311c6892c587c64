//! Running a program and saying what went wrong when it fails.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// What a step of ours ends with: nothing, or a sentence for the terminal.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// What builds the binaries that tests start, from what the tests themselves were built from: nothing is compiled twice.
pub(crate) const BUILD: &[&str] = &["build", "--workspace", "--all-targets"];

/// The workspace's root directory.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace root").to_path_buf()
}

/// A command that starts in the workspace root.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    // What is compiled of the journeys stays out of the tree.
    command.current_dir(root()).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs it with this terminal; a failure names the command line.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let status = status(command)?;
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", line(command))) }
}

/// Runs it with this terminal, and gives how it ended.
pub(crate) fn status(command: &mut Command) -> Outcome<ExitStatus> {
    command.stdin(Stdio::null()).status().map_err(|cause| format!("start {}: {cause}", line(command)))
}

/// Runs it and shows what it printed only when it fails; otherwise its last line that is not blank.
pub(crate) fn run_quietly(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().map_err(|cause| format!("start {}: {cause}", line(command)))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        println!("{}", printed.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default());
        return Ok(());
    }
    println!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    Err(format!("{} ended with {}", line(command), output.status))
}

/// Runs it and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|cause| format!("start {}: {cause}", line(command)))?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", line(command), output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{} printed something other than UTF-8", line(command)))
}

/// Whether `program` can be found on PATH.
pub(crate) fn found(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    output(command("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}

fn line(command: &Command) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
