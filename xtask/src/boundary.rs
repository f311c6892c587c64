//! The perimeter's tests once more, as an ordinary user who sees only what was copied for him.
//!
//! As root they ran with all other tests. Here the same binaries are copied to a world-readable directory and started by
//! `setpriv` with a home of their own, then the journeys through the boundary.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::prepare;
use crate::run::{BUILD, Outcome, command, is_root, output, root, run, run_quietly};

const NOBODY: &str = "65534";

/// Runs them. Started as an ordinary user, the tests before this one lacked root, and that is a failure.
pub(crate) fn as_ordinary_user() -> Outcome {
    if !is_root() {
        return Err(
            "the perimeter's tests ran as an ordinary user only: start this as root for the other half".to_owned()
        );
    }
    let built = test_binaries()?;
    let place = Place::make()?;
    for program in ["postern", PROBE] {
        place.copy(&root().join("target/debug").join(program))?;
    }
    for binary in &built {
        let copy = place.copy(binary)?;
        println!("-- as uid {NOBODY}: {}", copy.display());
        // One at a time: a child that one test forks holds for a moment the locks of another.
        run_quietly(place.as_ordinary_user(&copy).args(["--quiet", "--test-threads=1"]))?;
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

/// Crates whose tests run again here.
const PACKAGES: &[&str] = &[
    "postern-audit",
    "postern-custody",
    "postern-egress",
    "postern-exec",
    "postern-runner",
    "postern-sandbox",
    "postern-tools",
];
/// What the sandbox's tests start in place of the tool server.
const PROBE: &str = "postern-sandbox-probe";
/// Compares with the official SDK in the work tree, which an ordinary user need not see; nothing in it depends on the user.
const NOT_AGAIN: &str = "differential";

/// The very binaries that ran as root: building these packages by themselves would build most of the tree anew, with fewer
/// features.
fn test_binaries() -> Outcome<Vec<PathBuf>> {
    run(command("cargo").args(BUILD))?;
    let executables = output(command("cargo").args(["test", "--workspace", "--no-run", "--message-format=json"]))?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true && message["target"]["name"] != NOT_AGAIN)
        .filter(|message| is_of_the_perimeter(&message["package_id"]))
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect::<Vec<_>>();
    if executables.is_empty() { Err("no test binary was built".to_owned()) } else { Ok(executables) }
}

/// As cargo names a package: `path+file:///...#postern-egress@0.1.0`.
fn is_of_the_perimeter(package: &Value) -> bool {
    let package = package.as_str().and_then(|id| id.rsplit_once('#')).map_or("", |(_, name)| name);
    PACKAGES.iter().any(|name| package.split_once('@').is_some_and(|(package, _)| package == *name))
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
