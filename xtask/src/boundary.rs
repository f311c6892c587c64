//! The boundary's tests twice: as root, and as an ordinary user who sees only what was copied for him.
//!
//! Test binaries are built once, copied to a world-readable directory and started there by `setpriv` with a home of
//! their own. Tests of the boundary live in modules called `boundary`, which is how they are picked here.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::prepare;
use crate::run::{Outcome, command, is_root, output, root, run};

const NOBODY: &str = "65534";

/// Runs them; started as an ordinary user, the root half cannot run and that is a failure.
pub(crate) fn as_root_and_as_ordinary_user() -> Outcome {
    let built = test_binaries()?;
    let place = Place::make()?;
    let copies = built.iter().map(|binary| place.copy(binary)).collect::<Outcome<Vec<_>>>()?;
    place.copy(&root().join("target/debug/postern"))?;
    if !is_root() {
        for binary in &copies {
            run(command(binary).current_dir(&place.home).args(["boundary", "--test-threads=2"]))?;
        }
        return Err("the half that runs as root was not run: start this as root".to_owned());
    }
    for binary in &copies {
        println!("-- as root: {}", binary.display());
        run(command(binary).current_dir(&place.home).args(["boundary", "--test-threads=2"]))?;
        println!("-- as uid {NOBODY}: {}", binary.display());
        run(place.as_ordinary_user(binary).args(["boundary", "--test-threads=2"]))?;
    }
    journeys_as_ordinary_user(&place)
}

fn journeys_as_ordinary_user(place: &Place) -> Outcome {
    let python = prepare::venv()?;
    place.copy_tree(&root().join("target/venv"))?;
    place.copy_tree(&root().join("tests"))?;
    let python = place.directory.join("venv/bin").join(python.file_name().expect("venv returns a file"));
    println!("-- as uid {NOBODY}: journeys through the boundary");
    run(place
        .as_ordinary_user(&python)
        .env("POSTERN_BINARY", place.directory.join("postern"))
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "boundary"])
        .arg(place.directory.join("tests")))
}

/// Test executables of the crates whose tests have a `boundary` module.
fn test_binaries() -> Outcome<Vec<PathBuf>> {
    run(command("cargo").args(["build", "--package", "postern"]))?;
    let packages = ["postern-sandbox", "postern-tools", "postern-egress", "postern-runner", "postern"];
    let mut build = command("cargo");
    build.args(["test", "--no-run", "--message-format=json"]);
    for package in packages {
        build.args(["--package", package]);
    }
    let executables = output(&mut build)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .filter(|binary| has_boundary_tests(binary))
        .collect::<Vec<_>>();
    if executables.is_empty() { Err("no test binary has a module called boundary".to_owned()) } else { Ok(executables) }
}

fn has_boundary_tests(binary: &Path) -> bool {
    output(command(binary).args(["boundary", "--list"])).is_ok_and(|list| list.contains(": test"))
}

/// A world-readable directory outside the work tree, removed at the end.
struct Place {
    directory: PathBuf,
    home: PathBuf,
}

impl Place {
    fn make() -> Outcome<Self> {
        let directory = std::env::temp_dir().join(format!("postern-boundary-{}", std::process::id()));
        let home = directory.join("home");
        std::fs::create_dir_all(&home).map_err(|cause| format!("make {}: {cause}", home.display()))?;
        allow(&directory, 0o755)?;
        allow(&home, 0o700)?;
        if is_root() {
            run(command("chown").arg(format!("{NOBODY}:{NOBODY}")).arg(&home))?;
        }
        Ok(Self { directory, home })
    }

    fn copy(&self, file: &Path) -> Outcome<PathBuf> {
        let to = self.directory.join(file.file_name().ok_or("a binary has no name")?);
        std::fs::copy(file, &to).map_err(|cause| format!("copy {}: {cause}", file.display()))?;
        allow(&to, 0o755)?;
        Ok(to)
    }

    fn copy_tree(&self, tree: &Path) -> Outcome {
        run(command("cp").args(["-a", "--no-preserve=ownership"]).arg(tree).arg(&self.directory))?;
        run(command("chmod").args(["-R", "a+rX"]).arg(&self.directory))?;
        allow(&self.home, 0o700)
    }

    fn as_ordinary_user(&self, program: &Path) -> std::process::Command {
        let mut command = command("setpriv");
        command
            .current_dir(&self.home)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("TMPDIR", &self.home)
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"])
            .arg(program);
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Left-overs in the temporary directory are not worth failing a green run for.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn allow(path: &Path, mode: u32) -> Outcome {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|cause| format!("chmod {}: {cause}", path.display()))
}
