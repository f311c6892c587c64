//! The door: a specification is checked here once and becomes a [`Request`], which the builder takes. Pure but for looking at the paths it names.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::contents::{self, Found};
use crate::error::BuildError;
use crate::sensitive;
use crate::spec::{Access, GIVEN, LOWEST_KERNEL_UID, MemoryDirectory, Mount, Root, Spec};
use crate::system::DEVICES;

/// The name of this step in errors.
const STEP: &str = "check the request";

/// Where no mount may appear, nor above or below it: the sandbox's own directories.
const OURS: [&str; 16] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/proc",
    "/dev",
    "/sys",
    "/tmp",
    "/run",
    "/var",
    "/workspace",
    "/mnt/session",
];

/// A specification that was checked. Serialised only on its way from the spawner to the process that serves it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) spec: Spec,
    /// The user and group outside.
    pub(crate) kernel_uid: u32,
    pub(crate) kernel_gid: u32,
    /// What of ours nothing lent may show, by its real paths.
    pub(crate) forbidden: Vec<PathBuf>,
}

/// Who builds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Builder {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Builder {
    /// This process.
    pub(crate) fn ourselves() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// Whether it may give sandboxes kernel users of their own.
    pub(crate) fn is_root(self) -> bool {
        self.uid == 0
    }
}

impl Request {
    /// Checks a specification.
    pub(crate) fn check(spec: Spec, builder: Builder, forbidden: &[PathBuf]) -> Result<Self, BuildError> {
        check_name(&spec.session)?;
        check_limits(&spec)?;
        spec.environment.iter().try_for_each(|(name, value)| check_variable(name, value))?;
        let forbidden: Vec<PathBuf> = forbidden.iter().chain(&spec.kept).flat_map(|tree| names_of(tree)).collect();
        check_root(&spec.system, &forbidden)?;
        spec.mounts.iter().try_for_each(|mount| check_mount(mount, builder, &forbidden))?;
        spec.devices.iter().try_for_each(|device| check_device(device))?;
        let (kernel_uid, kernel_gid) = kernel_user(&spec, builder)?;
        check_own("workspace", &spec.workspace, kernel_uid)?;
        if let Some(layer) = &spec.packages {
            for directory in ["upper", "work"] {
                check_own("layer of packages", &layer.join(directory), kernel_uid)?;
            }
        }
        if let Some(outputs) = &spec.outputs {
            check_own("directory for outputs", outputs, kernel_uid)?;
        }
        spec.memories.iter().try_for_each(|memories| check_memories(memories, builder, kernel_uid))?;
        if let Some(given) = &spec.given {
            GIVEN.iter().try_for_each(|(name, _)| check_given(&given.join(name), builder))?;
        }
        Ok(Self { spec, kernel_uid, kernel_gid, forbidden })
    }
}

fn refused(cause: impl Into<String>, fix: &str) -> BuildError {
    BuildError::refused(STEP, cause, fix)
}

fn check_name(session: &str) -> Result<(), BuildError> {
    let good = (1..=128).contains(&session.len())
        && session.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if good {
        Ok(())
    } else {
        Err(refused("the session's name is not one to 128 letters, digits, _ or -", "use the session's id"))
    }
}

fn check_limits(spec: &Spec) -> Result<(), BuildError> {
    let fix = "correct [zone.NAME.sandbox]";
    if spec.memory_bytes < 32 << 20 {
        return Err(refused("memory is under 32 MiB, with which no shell starts", fix));
    }
    if !(spec.cpus.is_finite() && spec.cpus > 0.0 && spec.cpus <= 1024.0) {
        return Err(refused("cpus is not a number over 0 and up to 1024", fix));
    }
    if spec.processes < 8 {
        return Err(refused("processes is under 8, of which the tool server needs some", fix));
    }
    if spec.disk_bytes < 1 << 20 {
        return Err(refused("disk is under 1 MiB", fix));
    }
    Ok(())
}

/// Variables reach process 1 too, so none may make its loader load code.
fn check_variable(name: &str, value: &str) -> Result<(), BuildError> {
    let named = name
        .bytes()
        .enumerate()
        .all(|(at, byte)| byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()));
    if name.is_empty() || !named || name.starts_with("LD_") || name == "GLIBC_TUNABLES" || value.contains('\0') {
        return Err(refused(
            format!("the variable {name:?} is not letters, digits and _, or speaks to the loader"),
            "choose another `env` in the zone",
        ));
    }
    Ok(())
}

/// A directory or file of the host that may be lent: by its real path, and not sensitive. `key` is the zone's.
fn check_lent(key: &str, path: &Path, forbidden: &[PathBuf]) -> Result<(), BuildError> {
    let shown = path.display();
    let canonical = fs::canonicalize(path).map_err(|error| {
        refused(format!("{shown} in `{key}` cannot be looked at: {error}"), "create it, or correct the zone")
    })?;
    if canonical != path {
        return Err(refused(
            format!("{shown} in `{key}` is really {}", canonical.display()),
            "name the real path in the zone",
        ));
    }
    match sensitive::path(&canonical, forbidden) {
        Some(reason) => Err(refused(
            format!("{shown} in `{key}` would show {reason}"),
            "lend a directory that holds only what the agent may see",
        )),
        None => Ok(()),
    }
}

/// A path as it is written and as it really is: a link that is ours to follow is ours to keep.
fn names_of(path: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(path).ok().filter(|real| real != path);
    real.into_iter().chain([path.to_owned()]).collect()
}

/// What lies in a directory that is lent: nothing that leads out, and nobody's keys.
fn check_contents(key: &str, path: &Path) -> Result<(), BuildError> {
    match contents::found_in(path) {
        Some(Found { at, what, fix }) => {
            Err(refused(format!("{} in `{key}` would show {}: {what}", path.display(), at.display()), fix))
        }
        None => Ok(()),
    }
}

fn check_root(root: &Root, forbidden: &[PathBuf]) -> Result<(), BuildError> {
    match root {
        Root::Host(directories) => directories.iter().try_for_each(|directory| {
            check_lent("system", directory, forbidden)?;
            check_place(directory)?;
            check_contents("system", directory)
        }),
        Root::Image(image) => check_lent("system", image, forbidden),
    }
}

fn check_mount(mount: &Mount, builder: Builder, forbidden: &[PathBuf]) -> Result<(), BuildError> {
    check_lent("mounts", &mount.host, forbidden)?;
    check_place(&mount.at)?;
    let owner = fs::metadata(&mount.host).map(|about| about.uid());
    if mount.access == Access::Cache && builder.is_root() && owner.is_ok_and(|owner| owner >= LOWEST_KERNEL_UID) {
        return Err(refused(
            format!(
                "the cache {} belongs to the kernel user of a sandbox, which could change it",
                mount.host.display()
            ),
            "give it to root",
        ));
    }
    check_contents("mounts", &mount.host)
}

/// A place inside where something may be mounted.
fn check_place(at: &Path) -> Result<(), BuildError> {
    let plain =
        at.is_absolute() && at.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let ours =
        OURS.iter().any(|own| at.starts_with(own) || Path::new(own).starts_with(at)) || at.starts_with("/mnt/memory");
    if !plain || ours {
        return Err(refused(
            format!("a mount at {} would cover the sandbox's own directories", at.display()),
            "mount it at /data or below /srv or /mnt",
        ));
    }
    Ok(())
}

/// A character device that may be lent, and by which name.
fn check_device(path: &Path) -> Result<(), BuildError> {
    let shown = path.display();
    let fix = "name in `devices` the real path of a character device that the agent may use";
    let name = path.strip_prefix("/dev").ok().and_then(Path::to_str).unwrap_or_default();
    let plain = !name.is_empty() && path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    if !plain || DEVICES.contains(&name) {
        return Err(refused(format!("the device {shown} is not one below /dev, or is there already"), fix));
    }
    let about = fs::symlink_metadata(path)
        .map_err(|error| refused(format!("the device {shown} cannot be looked at: {error}"), fix))?;
    if !about.file_type().is_char_device() || fs::canonicalize(path).is_ok_and(|real| real != path) {
        return Err(refused(format!("{shown} is not a character device by its real path"), fix));
    }
    match sensitive::device(about.rdev()) {
        Some(reason) => Err(refused(format!("the device {shown} is never lent: {reason}"), fix)),
        None => Ok(()),
    }
}

fn kernel_user(spec: &Spec, builder: Builder) -> Result<(u32, u32), BuildError> {
    match spec.kernel_uid {
        Some(uid) if builder.is_root() && uid >= LOWEST_KERNEL_UID && uid != u32::MAX => Ok((uid, uid)),
        Some(uid) if builder.is_root() => {
            Err(refused(format!("the kernel user {uid} is under {LOWEST_KERNEL_UID}"), "report this as a defect"))
        }
        Some(_) => Err(refused("only root can give a sandbox a kernel user of its own", "leave it out")),
        None if builder.is_root() => {
            Err(refused("as root each sandbox needs a kernel user of its own", "report this as a defect"))
        }
        None => Ok((builder.uid, builder.gid)),
    }
}

/// A directory that the runner made for this session's kernel user.
fn check_own(what: &str, directory: &Path, kernel_uid: u32) -> Result<(), BuildError> {
    let shown = directory.display();
    let about = fs::symlink_metadata(directory)
        .map_err(|error| refused(format!("the {what} {shown} cannot be looked at: {error}"), "prepare it first"))?;
    if !directory.is_absolute() || !about.is_dir() {
        return Err(refused(
            format!("the {what} {shown} is not a directory by an absolute path"),
            "report this as a defect",
        ));
    }
    if about.uid() != kernel_uid {
        return Err(refused(
            format!("the {what} {shown} belongs to user {}, the sandbox is user {kernel_uid}", about.uid()),
            "prepare it for that user first",
        ));
    }
    Ok(())
}

/// A store that may be written is the sandbox's, one that may be read is ours.
fn check_memories(memories: &MemoryDirectory, builder: Builder, kernel_uid: u32) -> Result<(), BuildError> {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if !(1..=255).contains(&memories.name.len()) || !memories.name.bytes().all(plain) {
        return Err(refused(
            "a memory store's name is not lower-case letters, digits and -",
            "report this as a defect",
        ));
    }
    match memories.access {
        Access::Write => check_own("directory of a memory store", &memories.directory, kernel_uid),
        Access::Read | Access::Cache => check_given(&memories.directory, builder),
    }
}

/// What is given to a session is ours: the agent could change what others of its user may write.
fn check_given(directory: &Path, builder: Builder) -> Result<(), BuildError> {
    check_own("directory of what the session was given", directory, builder.uid)?;
    let shown = directory.display();
    let mode = fs::symlink_metadata(directory).map_or(0o777, |about| about.mode());
    if mode & 0o022 == 0 {
        return Ok(());
    }
    Err(refused(format!("others may write in {shown}, which the session was given"), "take that right away"))
}

#[cfg(test)]
mod tests;
